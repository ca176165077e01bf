"""The command that measures: bench."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from graphfuse.cli.options import FeedOptions, JsonOption, can_isolate, is_gated, takes_feeds
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
from graphfuse.errors import UsageError
from graphfuse.files.limits import Limits

if TYPE_CHECKING:
    from graphfuse.bench.measurements import BenchReport
    from graphfuse.running.random_feeds import Sizes

ALONE = ("input_shapes", "symbols")
"""What says something of sites that are timed alone."""
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


@can_isolate
@is_gated
@takes_feeds
def bench(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    feeds: FeedOptions,
    limits: Limits,
    fused: Annotated[str | None, typer.Argument(metavar="FUSED")] = None,
    ep: Annotated[
        str, typer.Option(help="Execution providers, such as cpu,cuda, or auto.")
    ] = "cpu",
    threads: Annotated[
        str | None,
        typer.Option(help="Numbers of threads, such as 1,2; all processors if not given."),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Unknown extents, batch and others, such as 1x128,8x128."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds for each model, and each thread count and size.")
    ] = 5.0,
    require_speedup: Annotated[
        float | None, typer.Option(min=0, help="Exit with 6 when a speed-up is below this.")
    ] = None,
    sites: Annotated[
        bool, typer.Option("--sites", help="Time each distinct site of ORIGINAL alone.")
    ] = False,
    no_kernels: Annotated[
        bool, typer.Option("--no-kernels", help="Run FUSED as those do who lack graphfuse.")
    ] = False,
    no_profile: Annotated[
        bool, typer.Option("--no-profile", help="Do not look where the time goes.")
    ] = False,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Do not measure load time and memory.")
    ] = False,
    clock: Annotated[
        str, typer.Option(help="wall, or processor: the work of this process, on a busy machine.")
    ] = "wall",
    as_json: JsonOption = False,
) -> None:
    """Time two models against each other in paired runs, or each site of one alone."""
    from graphfuse import pipeline
    from graphfuse.bench.contests import BenchOptions, check_speedup
    from graphfuse.bench.timing import CLOCKS

    if (fused is None) != sites:
        raise UsageError("name two models, or one with --sites", "graphfuse bench ORIGINAL FUSED")
    if clock not in CLOCKS:
        raise UsageError(f"unknown clock {clock!r}", f"choose one of {', '.join(CLOCKS)}")
    if sites:
        _check_alone(feeds, require_speedup is not None, no_kernels)
    wanted = (not no_kernels, not no_profile, not no_memory)
    options = BenchOptions(seconds, _counts(threads), _sizes(sizes), *wanted, clock)
    with progress() as shown:
        report = pipeline.bench(
            original,
            fused,
            ep.split(","),
            options=options,
            limits=limits,
            progress=shown,
            **feeds.arguments,
        )
    _show(original, fused, report, as_json)
    if require_speedup is not None:
        check_speedup(report, require_speedup)


def _show(original: str, fused: str | None, report: BenchReport, as_json: bool) -> None:
    from graphfuse.report.timings import bench_document, print_bench

    with reporting():
        if as_json:
            print_json(bench_document(original, fused, report))
        else:
            print_bench(console(), report)


def _check_alone(feeds: FeedOptions, gated: bool, no_kernels: bool) -> None:
    """Raise UsageError for options that say nothing of sites alone: nobody should rely on them."""
    data = any(value for name, value in feeds.arguments.items() if name not in ALONE)
    named = {
        "--require-speedup": gated,
        "--no-kernels": no_kernels,
        "an option for feeds other than --input-shapes and --symbol": data,
    }
    wrong = next((name for name, given in named.items() if given), None)
    if wrong is not None:
        raise UsageError(
            f"--sites goes without {wrong}: each site is timed alone, on drawn rows, in every form",
            "leave it out, or name two models",
        )


def _counts(text: str | None) -> tuple[int, ...]:
    if text is None:
        return (os.cpu_count() or 1,)
    words = text.split(",")
    if not all(word.isdecimal() and 0 < int(word) < 1024 for word in words):
        raise UsageError(f"cannot read the numbers of threads {text!r}", "write them as 1,2")
    return tuple(map(int, words))


def _sizes(text: str | None) -> tuple[Sizes, ...]:
    from graphfuse.running.random_feeds import Sizes

    found: list[Sizes] = []
    for word in text.split(",") if text else ():
        match = SIZE.fullmatch(word)
        if match is None:
            raise UsageError(f"cannot read the size {word!r}", "write sizes as 1x128,8x128")
        found.append(Sizes(int(match[1]), int(match[2])))
    return tuple(found)

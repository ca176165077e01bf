"""graphfuse bench."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from graphfuse.cli.options import can_isolate, ends, takes_feeds, takes_limits
from graphfuse.cli.saying import Saying
from graphfuse.cli.show import progress
from graphfuse.errors import UsageError
from graphfuse.files.limits import Limits
from graphfuse.records.requests import Clock, Feeds

if TYPE_CHECKING:
    from graphfuse.running.random_feeds import Sizes

SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


@can_isolate
@takes_limits
@takes_feeds
@ends
def bench(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    feeds: Feeds,
    limits: Limits,
    says: Saying,
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
        Clock, typer.Option(help="Time that passes, or the work of this process on a busy machine.")
    ] = Clock.WALL,
) -> None:
    """Time two models against each other in paired runs, or each site of one alone."""
    from graphfuse.api import verdicts
    from graphfuse.report import timings
    from graphfuse.speed.contests import missed_speedup
    from graphfuse.speed.measurements import BenchOptions

    says.check_apart(original, fused)
    _check_models(fused, sites)
    if sites:
        _check_alone(feeds, require_speedup is not None, no_kernels)
    options = BenchOptions(
        seconds=seconds,
        threads=_counts(threads),
        sizes=_sizes(sizes),
        kernels=not no_kernels,
        look_inside=not no_profile,
        memory=not no_memory,
        clock=clock,
    )
    time = partial(verdicts.bench, original, fused, ep)
    with progress() as shown:
        report = time(options=options, feeds=feeds, limits=limits, progress=shown)
    missed = None if require_speedup is None else missed_speedup(report, require_speedup)
    says.say(
        lambda: timings.bench_document(original, fused, report),
        lambda console: timings.print_bench(console, report),
        error=missed,
    )
    if missed is not None:
        raise missed


def _check_models(fused: str | None, sites: bool) -> None:
    if (fused is None) != sites:
        raise UsageError("name two models, or one with --sites", "graphfuse bench ORIGINAL FUSED")


def _check_alone(feeds: Feeds, gated: bool, no_kernels: bool) -> None:
    """Raise UsageError for options that say nothing of sites alone: nobody should rely on them."""
    data = replace(feeds, input_shapes={}, symbols={}).given
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

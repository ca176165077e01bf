"""Export every architecture of the zoo, fuse, validate: python -m tests.zoo.

    python -m tests.zoo --names bert,llama --exporter dynamo --opset 18 --json zoo.jsonl

One line per export: name, exporter, opset, sites counted in eager PyTorch, fused, what is left and
why, and whether it validates. The exit code is 1 when anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.zoo.architectures import ZOO
from tests.zoo.trial import Outcome, Trial, run

EXPORTS = (("dynamo", 18), ("dynamo", 23), ("torchscript", 17))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--names", help="architectures, separated by commas; all without it")
    parser.add_argument("--exporter", choices=["dynamo", "torchscript"])
    parser.add_argument("--opset", type=int, help="only exports of this opset")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write a line of JSON per export")
    parser.add_argument("--keep", type=Path, help="leave the exports in this folder")
    options = parser.parse_args(arguments)
    names = options.names.split(",") if options.names else list(ZOO)
    unknown = set(names) - ZOO.keys()
    if unknown:
        parser.error(f"no such architecture: {', '.join(sorted(unknown))}")
    trials = [
        Trial(name, exporter, opset, options.dtype)
        for exporter, opset in EXPORTS
        for name in names
        if options.exporter in (None, exporter) and options.opset in (None, opset)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = list(_told(_runs(trials, folder, options.jobs), options.json))
    return _totals(outcomes)


def _runs(trials: Sequence[Trial], folder: Path, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from (run(trial, folder) for trial in trials)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(run, trials, [folder] * len(trials))


def _told(outcomes: Iterator[Outcome], target: Path | None) -> Iterator[Outcome]:
    """Print each outcome, and add it to a file, as soon as it is there."""
    if target:
        target.write_text("")
    for outcome in outcomes:
        print(_line(outcome), flush=True)
        if target:
            with target.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        yield outcome


def _line(outcome: Outcome) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in outcome.left.items())
    parts = [
        f"{outcome.name:22} {outcome.exporter:11} {outcome.opset} {outcome.dtype}",
        f"sites {outcome.sites:2} fused {outcome.fused:2}",
        f"left {left or 'none'}",
        f"{outcome.status}{' on the given feeds' if outcome.feeds.startswith('given') else ''}",
    ]
    if outcome.message:
        parts.append(outcome.message)
    return ("!! " if outcome.difference else "   ") + "; ".join(parts)


def _totals(outcomes: Sequence[Outcome]) -> int:
    print()
    for exporter, opset in EXPORTS:
        mine = [o for o in outcomes if (o.exporter, o.opset) == (exporter, opset)]
        exported = [o for o in mine if o.status != "not exported"]
        if mine:
            print(
                f"{exporter} {opset}: {len(exported)} of {len(mine)} exported, "
                f"{sum(o.status == 'validated' for o in exported)} validated, "
                f"{sum(o.fused for o in exported)} of {sum(o.sites for o in exported)} sites fused"
            )
    different = [outcome for outcome in outcomes if outcome.difference]
    for outcome in different:
        where = f"{outcome.name} {outcome.exporter} {outcome.opset}"
        print(f"not as it should be: {where}: {outcome.difference}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

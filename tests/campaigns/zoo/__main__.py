"""Export every architecture of the zoo, fuse, validate: python -m tests.campaigns.zoo.

    python -m tests.campaigns.zoo --names bert,llama --exporter dynamo --opset 18 --json zoo.jsonl

One line per export: name, exporter, opset, sites counted in eager PyTorch, fused, what is left and
why, and whether it validates, with as many seeds as asked for. At the end, which share
of what rule G2 allows these runs took. The exit code is 1 when anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tests.campaigns.zoo.architectures import ZOO
from tests.campaigns.zoo.trial import Outcome, Trial, run

TYPES = ("float32", "float16", "bfloat16")
EXPORTS = (("dynamo", 18), ("dynamo", 23), ("torchscript", 17))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.zoo", description=__doc__)
    parser.add_argument("--names", help="architectures, separated by commas; all without it")
    parser.add_argument("--exporter", choices=["dynamo", "torchscript"])
    parser.add_argument("--opset", type=int, help="only exports of this opset")
    parser.add_argument("--dtype", choices=list(TYPES), default="float32")
    parser.add_argument("--seeds", type=int, default=1, help="validate with this many seeds each")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write a line of JSON per export")
    parser.add_argument("--keep", type=Path, help="leave the exports in this folder")
    options = parser.parse_args(arguments)
    names = options.names.split(",") if options.names else list(ZOO)
    unknown = set(names) - ZOO.keys()
    if unknown:
        parser.error(f"no such architecture: {', '.join(sorted(unknown))}")
    trials = [
        Trial(name, exporter, opset, options.dtype, options.seeds)
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
        exported = [o for o in mine if not o.status.startswith("not ") or o.status == "not judged"]
        if mine:
            print(
                f"{exporter} {opset}: {len(exported)} of {len(mine)} exported, "
                f"{sum(o.status == 'validated' for o in exported)} validated, "
                f"{sum(o.fused for o in exported)} of {sum(o.sites for o in exported)} sites fused"
            )
    _histogram([ratio for outcome in outcomes for ratio in outcome.ratios])
    different = [outcome for outcome in outcomes if outcome.difference]
    for outcome in different:
        where = f"{outcome.name} {outcome.exporter} {outcome.opset}"
        print(f"not as it should be: {where}: {outcome.difference}")
    return 1 if different else 0


def _histogram(ratios: Sequence[float]) -> None:
    """How much of what G2 allows fused models took: counts by share, and quantiles."""
    if not ratios:
        return
    print(f"G2: (distance - u) / (bound - u), {len(ratios)} outputs")
    edges = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, math.inf]
    counts, _ = np.histogram(ratios, edges)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        print(f"  {low:4.2f} to {high:4.2f} {count:7} {count / len(ratios):7.2%}")
    shown = (f"{q:g} %: {np.percentile(ratios, q):.4f}" for q in (50, 90, 99, 99.9, 100))
    print(f"  quantiles {', '.join(shown)}")


if __name__ == "__main__":
    sys.exit(main())

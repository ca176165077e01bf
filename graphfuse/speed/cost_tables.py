"""Measuring the table of costs that plans are made by.

    python -m graphfuse.speed.cost_tables -o graphfuse/planning/costs.json
    python -m graphfuse.speed.cost_tables --type float32 --threads 2 -o mine.json

Each point is the median of paired runs of a chain of nodes (kernel_timing): Add followed
by the norm, in onnxruntime's own kernels, graphfuse's fused node, an Add of a vector, and the fused
node that adds the vector as well. Where a default session turns Add and norm into onnxruntime's
fused operator (LayerNorm in float32 whose sum nobody else reads), the faster of the two stands for
the original. A file that is there keeps the tables of other onnxruntimes. It takes some minutes;
use a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphfuse.kernels import why_not
from graphfuse.planning.costs import SCHEMA, case
from graphfuse.planning.runtimes import parse_version
from graphfuse.records import NormKind
from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.speed.bound_runs import environment
from graphfuse.speed.kernel_timing import (
    NORMS,
    Case,
    Contestant,
    caller,
)
from graphfuse.speed.timing import SETTLE_SECONDS, Threads, paired, pinned
from graphfuse.system import libraries

ROWS = (1, 32, 512, 4096)
HIDDEN = (8, 16, 32, 64, 512, 4096)
ROUNDS = 7
ATTEMPTS = 2
CERTAIN = 1.2
"""A point is measured again while the ends of its interval differ by more than this factor."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m graphfuse.speed.cost_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--type", choices=FLOATS_BY_NAME, action="append")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--hidden", type=int, nargs="+", default=HIDDEN)
    given = parser.parse_args(arguments)
    if why_not():
        parser.error(why_not())
    # Between the points of the grid is interpolated, so they must increase.
    rows, hidden = sorted(set(given.rows)), sorted(set(given.hidden))
    if min(*rows, *hidden, *(given.threads or (1,))) < 1:
        parser.error("rows, hidden sizes and threads are at least 1")
    counts = given.threads or sorted({1, os.cpu_count() or 1})
    curves: list[dict[str, Any]] = []
    for count in counts:
        with pinned(count) as threads:
            for type_ in given.type or FLOATS_BY_NAME:
                for norm in NORMS:
                    for read in (True, False):
                        curve = _curve(norm, type_, read, threads, rows, hidden)
                        curves.append(curve)
                        print(_line(curve), file=sys.stderr, flush=True)
    family = {
        "onnxruntime": libraries.onnxruntime().__version__,
        "environment": environment(),
        "rows": rows,
        "hidden": hidden,
        "curves": curves,
    }
    given.output.write_text(_text([*_others(given.output, family), family]), encoding="utf-8")
    return 0


def _others(path: Path, family: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables that a file has of older minor versions of onnxruntime, and newer ones."""
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["schema"] != SCHEMA:
        return []
    version = parse_version(family["onnxruntime"])
    return [e for e in document["families"] if parse_version(e["onnxruntime"]) != version]


def _curve(
    norm: str, type_: str, read: bool, threads: Threads, rows: Sequence[int], hidden: Sequence[int]
) -> dict[str, Any]:
    grids: dict[str, list[list[float]]] = {name: [] for name in ("pair", "fused", "bias", "folded")}
    for count in rows:
        points = [
            _point(Case(norm, type_, (1, count, width), read, threads.count), threads)
            for width in hidden
        ]
        for name, grid in grids.items():
            grid.append([round(point[name], 3) for point in points])
    return {
        "target": "cpu",
        "case": case(NORMS[norm], FLOATS_BY_NAME[type_], read),
        "threads": threads.count,
        **grids,
    }


def _point(one: Case, threads: Threads) -> dict[str, float]:
    """Microseconds of each form, of the attempt with the least noise."""
    contenders = [Contestant.PAIR, Contestant.OWN, Contestant.BIAS, Contestant.FOLDED]
    if NORMS[one.norm] == NormKind.LAYER_NORM and one.type == "float32" and not one.sum_is_read:
        contenders.append(Contestant.CONTRIB)
    calls: dict[str, Callable[[], object]] = {
        name: caller(one, name, threads) for name in contenders
    }
    # One thread leaves nothing spinning, and its own clock hardly knows of other processes.
    alone = threads.count == 1
    found: list[tuple[float, dict[str, float]]] = []
    for attempt in range(ATTEMPTS):
        rounds, clock = ROUNDS * (attempt + 1), "processor" if alone else "wall"
        timings = paired(calls, 0.0, rounds, clock, 0.0 if alone else SETTLE_SECONDS)
        own = timings[Contestant.OWN].median / one.length * 1e6
        # The ratio of the pairs, not of the medians: noise falls on both of a pair.
        speedups = {
            name: timings[Contestant.OWN].speedup(timing) for name, timing in timings.items()
        }
        spread = max(speedup.high / speedup.low for speedup in speedups.values())
        times = {name: own * speedup.median for name, speedup in speedups.items()}
        original = min(
            times[Contestant.PAIR], times.get(Contestant.CONTRIB, times[Contestant.PAIR])
        )
        point = {
            "pair": original,
            "fused": own,
            "bias": times[Contestant.BIAS],
            "folded": times[Contestant.FOLDED],
        }
        found.append((spread, point))
        if spread < CERTAIN:
            break
    return min(found, key=lambda one: one[0])[1]


def _line(curve: dict[str, Any]) -> str:
    ratios = [
        [p / f for p, f in zip(*line, strict=True)]
        for line in zip(curve["pair"], curve["fused"], strict=True)
    ]
    least = min(map(min, ratios))
    return (
        f"{curve['case']}, {curve['threads']} threads: {least:.2f} to {max(map(max, ratios)):.2f}"
    )


def _text(families: list[dict[str, Any]]) -> str:
    """One line per curve: a table that is measured again gives a diff that can be read."""
    families.sort(key=lambda family: parse_version(family["onnxruntime"]))
    blocks: list[str] = []
    for family in families:
        head = {name: value for name, value in family.items() if name != "curves"}
        lines = [f"      {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        curves = ",\n".join(f"        {json.dumps(curve)}" for curve in family["curves"])
        lines.append(f'      "curves": [\n{curves}\n      ]')
        blocks.append("    {\n" + ",\n".join(lines) + "\n    }")
    body = ",\n".join(blocks)
    return f'{{\n  "schema": {SCHEMA},\n  "families": [\n{body}\n  ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())

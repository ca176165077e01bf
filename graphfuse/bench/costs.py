"""Measuring the table of costs that plans are made by.

    python -m graphfuse.bench.costs -o graphfuse/costs.json
    python -m graphfuse.bench.costs --type float32 --threads 2 -o mine.json

Each point is the median of paired runs of a chain of nodes (graphfuse.bench.kernels): Add followed
by the norm, in onnxruntime's own kernels, and graphfuse's fused node. It takes some ten minutes;
use a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphfuse.bench.kernels import NORMS, OWN, PAIR, TYPES, Case, caller
from graphfuse.bench.sessions import environment
from graphfuse.bench.timing import Threads, paired, pinned
from graphfuse.costs import SCHEMA, case
from graphfuse.kernels import why_not

ROWS = (1, 32, 512, 4096)
HIDDEN = (8, 16, 32, 64, 512, 4096)
ROUNDS = 9
ATTEMPTS = 2
CERTAIN = 1.2
"""A point is measured again while the ends of its interval differ by more than this factor."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m graphfuse.bench.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--type", choices=TYPES, action="append")
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
            for type_ in given.type or TYPES:
                for norm in NORMS:
                    for read in (True, False):
                        curve = _curve(norm, type_, read, threads, rows, hidden)
                        curves.append(curve)
                        print(_line(curve), file=sys.stderr, flush=True)
    document = {
        "schema": SCHEMA,
        "environment": environment(),
        "rows": rows,
        "hidden": hidden,
        "curves": curves,
    }
    given.output.write_text(_text(document), encoding="utf-8")
    return 0


def _curve(
    norm: str, type_: str, read: bool, threads: Threads, rows: Sequence[int], hidden: Sequence[int]
) -> dict[str, Any]:
    pair: list[list[float]] = []
    fused: list[list[float]] = []
    for count in rows:
        pair.append([])
        fused.append([])
        for width in hidden:
            one = Case(norm, type_, (1, count, width), read, threads.count)
            own, speedup = _point(one, threads)
            fused[-1].append(round(own, 3))
            pair[-1].append(round(own * speedup, 3))
    return {
        "target": "cpu",
        "case": case(NORMS[norm], TYPES[type_], read),
        "threads": threads.count,
        "pair": pair,
        "fused": fused,
    }


def _point(one: Case, threads: Threads) -> tuple[float, float]:
    """Microseconds of the fused node and its speed-up, of the attempt with the least noise."""
    calls = {name: caller(one, name, threads) for name in (PAIR, OWN)}
    found: list[tuple[float, float, float]] = []
    for attempt in range(ATTEMPTS):
        timings = paired(calls, 0.0, ROUNDS * (attempt + 1))
        # The ratio of the pairs, not of the medians: noise falls on both of a pair.
        speedup = timings[OWN].speedup(timings[PAIR])
        own = timings[OWN].median / one.length * 1e6
        found.append((speedup.high / speedup.low, own, speedup.median))
        if found[-1][0] < CERTAIN:
            break
    _, own, ratio = min(found)
    return own, ratio


def _line(curve: dict[str, Any]) -> str:
    ratios = [
        [p / f for p, f in zip(*line, strict=True)]
        for line in zip(curve["pair"], curve["fused"], strict=True)
    ]
    least = min(map(min, ratios))
    return (
        f"{curve['case']}, {curve['threads']} threads: {least:.2f} to {max(map(max, ratios)):.2f}"
    )


def _text(document: dict[str, Any]) -> str:
    """One line per curve: a table that is measured again gives a diff that can be read."""
    curves = ",\n".join("    " + json.dumps(curve) for curve in document.pop("curves"))
    head = json.dumps(document, indent=2).removesuffix("\n}")
    return f'{head},\n  "curves": [\n{curves}\n  ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())

"""What a fused node costs against the nodes that it replaces, from a table that was measured.

    python -m graphfuse.bench.costs -o graphfuse/costs.json

measures it: microseconds of Add followed by the norm, and of the fused node, over a grid of rows
and hidden sizes, for each norm, type, number of threads, and with and without the sum. Between the
points of the grid times are interpolated in logarithms; beyond it the last point holds. A site
whose number of rows is not known is judged by the worst number of rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from graphfuse.errors import GraphfuseError, in_one_line
from graphfuse.graph.tensors import type_name
from graphfuse.records import Cost, Site
from graphfuse.targets import Target

FILE = "costs.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Curve:
    """Times of one case over the grid: `pair` and `fused`, microseconds by row and by hidden."""

    rows: Sequence[float]
    hidden: Sequence[float]
    pair: Sequence[Sequence[float]]
    fused: Sequence[Sequence[float]]

    def speedup(self, rows: float, hidden: float) -> float:
        """How many times faster the fused node is."""
        ratios = [
            [math.log(pair / fused) for pair, fused in zip(*line, strict=True)]
            for line in zip(self.pair, self.fused, strict=True)
        ]
        across = [_interpolate(self.hidden, line, hidden) for line in ratios]
        return math.exp(_interpolate(self.rows, across, rows))

    def worst(self, hidden: float) -> float:
        """The least speed-up over all numbers of rows."""
        return min(self.speedup(rows, hidden) for rows in self.rows)


def _interpolate(points: Sequence[float], values: Sequence[float], at: float) -> float:
    """Linear in the logarithm of `at`, between the two points around it."""
    if at <= points[0]:
        return values[0]
    for (low, left), (high, right) in zip(
        zip(points, values, strict=True), list(zip(points, values, strict=True))[1:], strict=False
    ):
        if at <= high:
            share = math.log(at / low) / math.log(high / low)
            return left + share * (right - left)
    return values[-1]


@cache
def table() -> Mapping[str, Mapping[str, Sequence[Curve]]]:
    """The curves that the package ships: by target, by case, one for each number of threads.

    Raises GraphfuseError when the file, which anyone may measure again, is not such a table.
    """
    path = files("graphfuse") / FILE
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GraphfuseError(
            f"{path} cannot be read as a table of costs ({type(error).__name__}: "
            f"{in_one_line(error)})",
            f"measure it again with `python -m graphfuse.bench.costs -o {path}`, "
            "install graphfuse again, or pass --no-costs",
        ) from error


def parse(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Sequence[Curve]]]:
    """The curves of a document that `graphfuse.bench.costs` wrote.

    Raises ValueError, KeyError or TypeError when it is none.
    """
    if document["schema"] != SCHEMA:
        raise ValueError(f"a cost table of schema {document['schema']}, not {SCHEMA}")
    rows, hidden = document["rows"], document["hidden"]
    for points in (rows, hidden):
        if not points or points[0] <= 0 or any(a >= b for a, b in pairwise(points)):
            raise ValueError(f"the points {points} of its grid do not increase from above 0")
    found: dict[str, dict[str, list[Curve]]] = {}
    for entry in document["curves"]:
        curves = found.setdefault(entry["target"], {}).setdefault(entry["case"], [])
        for times in (entry["pair"], entry["fused"]):
            whole = len(times) == len(rows) and all(len(line) == len(hidden) for line in times)
            if not whole or not all(0 < time < math.inf for line in times for time in line):
                raise ValueError(f"{entry['case']!r} has no time for each point of its grid")
        curves.append(Curve(rows, hidden, entry["pair"], entry["fused"]))
    return found


def case(kind: str, elem_type: int, total_is_read: bool) -> str:
    """The name of a case in the table."""
    return f"{kind} {type_name(elem_type)} {'sum' if total_is_read else 'no sum'}"


def predict(target: Target, site: Site) -> Cost | None:
    """What the table says of a site on a target; None where it has nothing measured.

    A file for several targets must win on each that was measured.
    """
    found = [cost for name in target.name.split(",") if (cost := _predict(name, site)) is not None]
    return min(found, key=lambda cost: cost.speedup, default=None)


def _predict(name: str, site: Site) -> Cost | None:
    by_case = table().get(name, {})
    curves = by_case.get(case(site.kind, site.elem_type, site.total_is_read))
    if curves is None:
        return None
    extents = [dim for dim in site.shape[: site.axis] if isinstance(dim, int)]
    if len(extents) == len(site.shape) + site.axis:
        rows = math.prod(extents)
        speedup = min(curve.speedup(rows, site.hidden) for curve in curves)
        return Cost(site.id, "table", speedup, f"{rows} rows of {site.hidden}", speedup >= 1)
    speedup = min(curve.worst(site.hidden) for curve in curves)
    return Cost(site.id, "table", speedup, f"any rows of {site.hidden}", speedup >= 1)

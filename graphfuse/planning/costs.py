"""What a fused node costs against the nodes that it replaces, from tables that were measured.

    python -m graphfuse.speed.cost_tables -o graphfuse/planning/costs.json

measures the installed onnxruntime: microseconds of the nodes that a default session has at a site,
the faster ones of Add and norm and of what its own fusion makes of them, and of the fused node,
over a grid of rows and hidden sizes, for each norm, type, number of threads, and with and without
the sum; and of adding a bias vector before, alone and in the fused node. Between the points of
the grid times are interpolated in logarithms; beyond it the last point holds. A site whose number
of rows is not known is judged by the worst number of rows.

The file has one table for each family of onnxruntimes. A version that has none is judged by that of
the version whose nodes cost most nearly the same (runtimes.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from graphfuse.errors import GraphfuseError, in_one_line
from graphfuse.planning import runtimes
from graphfuse.planning.runtimes import Runtime
from graphfuse.planning.targets import Target
from graphfuse.records import Cost, NormKind, Site
from graphfuse.records.element_types import ElementType

FILE = "costs.json"
SCHEMA = 2
NEGLIGIBLE = 0.25
"""Microseconds that a node may lose: a fraction of what onnxruntime takes to start one."""


Ratio = Callable[[float, float, float, float], float]
Grid = Sequence[Sequence[float]]
Curves = Mapping[str, Mapping[str, Sequence["Curve"]]]
"""By target, by case: one curve for each number of threads."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Times of one case over the grid, in microseconds by row and by hidden.

    `pair` are the original's nodes, `fused` the fused one, `bias` is an Add of a vector, `folded`
    the fused node that adds the vector itself.
    """

    rows: Sequence[float]
    hidden: Sequence[float]
    pair: Grid
    fused: Grid
    bias: Grid
    folded: Grid

    def speedup(self, rows: float, hidden: float) -> float:
        """How many times faster the fused node is."""

        def ratio(pair: float, fused: float, bias: float, folded: float) -> float:
            return math.log(pair / fused)

        return math.exp(self._at(rows, hidden, ratio))

    def wins(self, rows: float, hidden: float) -> bool:
        """Whether the fused node is as fast, or slower by less than any model shows.

        Of one row of a few elements there is little to win, and a library's node starts later.
        """

        def fused_time(pair: float, fused: float, bias: float, folded: float) -> float:
            return math.log(fused)

        speedup = self.speedup(rows, hidden)
        loss = math.exp(self._at(rows, hidden, fused_time)) * (1 - speedup)
        return loss <= NEGLIGIBLE

    def folding(self, rows: float, hidden: float) -> float:
        """How many times faster the fused node is that adds the bias than it and an Add."""

        def ratio(pair: float, fused: float, bias: float, folded: float) -> float:
            return math.log((bias + fused) / folded)

        return math.exp(self._at(rows, hidden, ratio))

    def _at(self, rows: float, hidden: float, ratio: Ratio) -> float:
        grids = (self.pair, self.fused, self.bias, self.folded)
        ratios = [
            [ratio(*point) for point in zip(*line, strict=True)]
            for line in zip(*grids, strict=True)
        ]
        across = [_interpolate(self.hidden, line, hidden) for line in ratios]
        return _interpolate(self.rows, across, rows)


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
def tables() -> Mapping[str, Curves]:
    """The tables that the package ships, by the onnxruntime that they were measured with.

    Raises GraphfuseError when the file, which anyone may measure again, has no such tables.
    """
    path = files("graphfuse.planning") / FILE
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GraphfuseError(
            f"{path} cannot be read as a table of costs ({type(error).__name__}: "
            f"{in_one_line(error)})",
            f"measure it again with `python -m graphfuse.speed.cost_tables -o {path}`, "
            "install graphfuse again, or pass --no-costs",
        ) from error


def parse(document: Mapping[str, Any]) -> Mapping[str, Curves]:
    """The tables of a document that `graphfuse.speed.cost_tables` wrote.

    Raises ValueError, KeyError or TypeError when it is none.
    """
    if document["schema"] != SCHEMA:
        raise ValueError(f"a cost table of schema {document['schema']}, not {SCHEMA}")
    if not document["families"]:
        raise ValueError("it has no family")
    return {family["onnxruntime"]: _curves(family) for family in document["families"]}


def _curves(family: Mapping[str, Any]) -> Curves:
    rows, hidden = family["rows"], family["hidden"]
    for points in (rows, hidden):
        if not points or points[0] <= 0 or any(a >= b for a, b in pairwise(points)):
            raise ValueError(f"the points {points} of its grid do not increase from above 0")
    found: dict[str, dict[str, list[Curve]]] = {}
    for entry in family["curves"]:
        curves = found.setdefault(entry["target"], {}).setdefault(entry["case"], [])
        grids = [entry[name] for name in ("pair", "fused", "bias", "folded")]
        for times in grids:
            whole = len(times) == len(rows) and all(len(line) == len(hidden) for line in times)
            if not whole or not all(0 < time < math.inf for line in times for time in line):
                raise ValueError(f"{entry['case']!r} has no time for each point of its grid")
        curves.append(Curve(rows, hidden, *grids))
    return found


def family(runtime: Runtime) -> str:
    """The table of a version: that of the one whose nodes cost most nearly the same."""
    known = tables()
    return min(known, key=lambda name: _unlike(runtime, runtimes.runtime(name)))


def _unlike(one: Runtime, other: Runtime) -> float:
    """How far apart two versions are: over all cases, in what the original's nodes cost."""
    return sum(
        abs(math.log(_relative(times) / _relative(other.nodes[name])))
        for name, times in one.nodes.items()
        if name in other.nodes
    )


def _relative(times: Mapping[str, float]) -> float:
    """Add and norm in units of graphfuse's kernel, which is the same everywhere."""
    return times[runtimes.NodeForm.PAIR] / times[runtimes.NodeForm.GRAPHFUSE]


def case(kind: NormKind, elem_type: ElementType, sum_is_read: bool) -> str:
    """The name of a case in the table."""
    return f"{kind} {elem_type.text} {'sum' if sum_is_read else 'no sum'}"


def predict(target: Target, site: Site, runtime: Runtime | None = None) -> Cost | None:
    """What the table of a runtime says of a site on a target; None where nothing was measured.

    A file for several targets must win on each that was measured.
    """
    name = family(runtime or runtimes.runtime())
    known = tables()[name]
    found = [
        cost
        for each in target.name.split(",")
        if (cost := _predict(known.get(each, {}), site, name)) is not None
    ]
    return min(found, key=lambda cost: cost.speedup, default=None)


def _predict(known: Mapping[str, Sequence[Curve]], site: Site, name: str) -> Cost | None:
    curves = known.get(case(site.kind, site.elem_type, site.sum_is_read))
    if curves is None:
        return None
    extents = [dim for dim in site.shape[: site.axis] if isinstance(dim, int)]
    whole = len(extents) == len(site.shape) + site.axis
    numbers = [math.prod(extents)] if whole else curves[0].rows
    places = [(curve, rows) for curve in curves for rows in numbers]
    speedup = min(curve.speedup(rows, site.hidden) for curve, rows in places)
    folding = min(curve.folding(rows, site.hidden) for curve, rows in places)
    where = f"{numbers[0] if whole else 'any'} rows of {site.hidden}"
    folds = folding > 1 and _is_left_alone(site)
    wins = all(curve.wins(rows, site.hidden) for curve, rows in places)
    return Cost(site.id, "table", speedup, where, wins, folds, name)


def _is_left_alone(site: Site) -> bool:
    """Whether the Add of a site's bias would run by itself.

    onnxruntime's MatMulAddFusion makes a Gemm of a MatMul and a bias where it has two dimensions,
    or knows every extent; in quantized models the bias goes into the product as well.
    """
    if site.bias_add is None or not site.bias_add.from_matmul or site.axis != -1:
        return False
    return len(site.shape) > 2 and not all(isinstance(dim, int) for dim in site.shape)

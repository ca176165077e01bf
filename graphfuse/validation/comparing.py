"""What a node computes, in float64, against the model that it was made from.

Both models are cut at tensors that both compute, and what is between is evaluated on the same
numbers. Where it agrees, and is no other constant, it agrees whatever the two compute before.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.graph.tensors import subgraphs
from graphfuse.records import Check
from graphfuse.records.element_types import ElementType
from graphfuse.validation.drawing import Drawing
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.lifting import added_to
from graphfuse.validation.reference import Twin
from graphfuse.validation.tolerance import MEANING_BOUND, compare, distances
from graphfuse.validation.unexposed import (
    Alike,
    casts,
    operators,
    other_settings,
    unexposed,
)
from graphfuse.views.cutting import Part, Parts
from graphfuse.views.fused_nodes import is_fused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_WEIGHTS = 2**22
"""Elements of the weights that a part may have to be evaluated alone."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What comparing a node alone gave: a check, or why there is none.

    `nodes` are those of the second model that were evaluated, `names` what was compared of them.
    `is_seen`: whether a run of the whole model would show what the comparison does not.
    """

    check: Check | None = None
    nodes: tuple[onnx.NodeProto, ...] = ()
    names: tuple[str, ...] = ()
    why: str = ""
    is_seen: bool = True


class Shared(Container[str]):
    """The tensors that both models compute, and that are no constants: where both can be cut."""

    def __init__(self, before: Parts, after: Parts) -> None:
        self._before, self._after = before, after
        self._known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, str)
        if name not in self._known:
            both = self._before.computes(name) and self._after.computes(name)
            constant = both and any(
                graph.between([name], ()) is not None for graph in (self._before, self._after)
            )
            self._known[name] = both and not constant
        return self._known[name]


def compared(
    before: Parts,
    after: Parts,
    node: onnx.NodeProto,
    how: str,
    seed: int,
    cuts: Container[str] | None = None,
    alike: Alike | None = None,
) -> Compared:
    """What a node of the second model computes, in float64, against the first model.

    `cuts` are where both can be cut, `alike` knows which weights are the same.
    """
    if how == "interface":
        return Compared(why="what it is given and yields is no node")
    names = [name for name in node.output if name and (before.node(name) or before.holds(name))]
    if not names:
        return Compared(why="the original computes nothing of that name")
    alike = alike or Alike(before, after, False)
    pair = _pair(before, after, cuts or Shared(before, after), names)
    if pair is None:
        twin = before.node(names[0])
        unseen = "" if twin is None else other_settings(before, after, twin, node, alike)
        why = "it cannot be cut out"
        if any(subgraphs(node)):
            why = f"what has a body, as {node.op_type} has, is not compared alone, but in a run"
        return Compared(why=unseen or why, is_seen=not unseen)
    mine, other = pair
    unseen = unexposed(other, mine, alike)
    found = _checked(before, after, pair, node, how, seed, names)
    if found.check is None:
        # What is another constant may show in a run, and then it has failed; else it has not.
        return Compared(why=unseen, is_seen=False) if unseen else found
    if not found.check.passed:
        return found
    if unseen:
        return Compared(why=unseen, is_seen=False)
    is_site = any(map(is_fused, (*mine.model.proto.graph.node, *other.model.proto.graph.node)))
    narrowest = after.type(names[0]).elem_type if is_site else ElementType.UNDEFINED
    lost = other_casts(before, after, pair, narrowest)
    return Compared(why=lost) if lost else found


def other_casts(
    before: Parts, after: Parts, pair: tuple[Part, Part], elem_type: ElementType
) -> str:
    """Why float64 does not show what one of two parts rounds, or computes wider; else ''.

    A fused node computes in one what casts around a norm say: up from `elem_type`, and down to it.
    """
    mine, other = pair
    one, its = casts(mine, after, elem_type), casts(other, before, elem_type)
    for more, whose in ((one - its, "it has"), (its - one, "the original has")):
        for what in more:
            return f"{whose} a {what}, and a comparison in float64 does not see what that rounds"
    return ""


def _checked(
    before: Parts,
    after: Parts,
    pair: tuple[Part, Part],
    node: onnx.NodeProto,
    how: str,
    seed: int,
    names: list[str],
) -> Compared:
    """Evaluate two parts on numbers of their own."""
    mine, other = pair
    weights = [t for part in pair for t in part.model.proto.graph.initializer]
    if sum(math.prod(tensor.dims) for tensor in weights) > 2 * MOST_WEIGHTS:
        return Compared(why="its weights are large")
    graphs = [part.model.proto.graph for part in pair]
    drawing = Drawing(before, after, mine.reads | other.reads, graphs)
    if drawing.why:
        return Compared(why=drawing.why)
    nodes = tuple(mine.model.proto.graph.node)
    values: list[float] = []
    failures: list[str] = []
    original = Twin(other.model, added=added_to(before.model, after.model))
    fused = Twin(mine.model, added=added_to(after.model, before.model))
    for feeds in drawing.feeds([*nodes, *other.model.proto.graph.node], seed):
        try:
            wanted = original.run(feeds)
        except UnsupportedModelError as error:
            failures.append(error.message[:120])
            continue
        try:
            found = fused.run(feeds)
        except UnsupportedModelError as error:
            if operators(mine) <= operators(other) and drawing.is_free(before):
                where = f"float64, only the original runs on other sizes: {error.message[:120]}"
                return Compared(
                    Check("G0", names[0], float("inf"), MEANING_BOUND, where, False), nodes
                )
            return Compared(why=f"it does not run alone ({error.message[:120]})")
        values.append(_distance(found, wanted, names, is_fused(node)))
    if not values:
        return Compared(why=f"it does not run alone ({failures[0]})")
    if original.narrow_runs or fused.narrow_runs:
        return Compared(why="it has no meaning in float64")
    value = max(values)
    if value > MEANING_BOUND and mine.reads != other.reads:
        # Two names may stand for one value; only a run can tell.
        why = f"it reads {_names(mine.reads)}, and the original's {_names(other.reads)}"
        defaults = [n for n in mine.reads ^ other.reads if before.default(n) or after.default(n)]
        return Compared(why=why, is_seen=not defaults)
    if value > MEANING_BOUND and _computed(before, drawing.integers):
        # A number of rows, say, that goes with the extents of another tensor.
        return Compared(why="it differs on integers that the model may not compute")
    where = f"float64, {node.op_type} that is {how}, rows around epsilon, seed {seed}"
    check = Check("G0", names[0], value, MEANING_BOUND, where, value <= MEANING_BOUND)
    return Compared(check, nodes, tuple(names))


def _computed(parts: Parts, names: Iterable[str]) -> bool:
    """Whether one of some tensors is no input of a graph."""
    return any(parts.node(name) is not None for name in names)


def _pair(
    before: Parts, after: Parts, cuts: Container[str], outputs: list[str]
) -> tuple[Part, Part] | None:
    """The parts that compute the outputs in the second model and in the first, if any.

    Where they read other tensors, one may be computed from what the other reads.
    """
    mine, other = after.between(outputs, cuts), before.between(outputs, cuts)
    if mine is None or other is None:
        return None
    if mine.reads != other.reads:
        wider = before.between(outputs, mine.reads)
        if wider is not None and wider.reads <= mine.reads:
            other = wider
        else:
            wider = after.between(outputs, other.reads)
            mine = wider if wider is not None and wider.reads <= other.reads else mine
    return mine, other


def _names(reads: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(reads)[:3]) or "no activation"


def _distance(
    found: Mapping[str, Array], wanted: Mapping[str, Array], names: Iterable[str], columns: bool
) -> float:
    """How far apart some tensors are; of a fused node column by column as well.

    In one norm over a row, a small entry of a scale would be hidden by the others.
    """
    values: list[float] = []
    for name in names:
        result, right = found[name], wanted[name]
        values.append(compare(result, right))
        if (
            columns
            and right.size
            and right.ndim
            and result.shape == right.shape
            and right.dtype.kind == "f"
        ):
            rows = (np.reshape(each, (-1, right.shape[-1])) for each in (result, right))
            values.append(float(distances(*(each.T for each in rows)).max()))
    return max(values)

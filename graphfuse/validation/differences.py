"""The nodes outside of the fused ones that differ between two models, each checked alone.

Nothing but the sites should differ, and what does is named. A node that differs is compared like a
fused one: both models are cut at tensors that both compute, and evaluated in float64 on the same
numbers, among them rows around epsilon, where a norm's epsilon shows. What is written otherwise and
agrees so, agrees whatever the two compute before; what cannot be cut out is left to runs of the
whole model, and what such numbers do not expose (unexposed.py) is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.records import Change, Check
from graphfuse.validation.drawing import Drawing
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.extract import Part, Parts, Place
from graphfuse.validation.fused_nodes import ScopeKey, is_fused, scope_text
from graphfuse.validation.lifting import FUSED_DOMAINS
from graphfuse.validation.reference import Twin
from graphfuse.validation.tolerance import MEANING_BOUND, compare
from graphfuse.validation.unexposed import Alike, casts, operators, same_node, unexposed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Scopes = Mapping[ScopeKey, Parts]

MOST_WEIGHTS = 2**22
"""Elements of the weights that a part may have to be evaluated alone."""

INPUT, OUTPUT, GRAPH = "input", "output", "graph"
"""What stands for an operator where it is no node that differs."""

ONLY_BODIES = frozenset(("If", "Loop"))
"""Operators that mean the same in every version: what their bodies do is compared there."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A node of the second model that the first has not, or has otherwise; or a whole graph."""

    scope: ScopeKey
    node: onnx.NodeProto
    how: str

    @property
    def place(self) -> Place:
        """Where it is: its graph, and the first tensor that it computes."""
        return self.scope, next(name for name in self.node.output if name)

    def change(self, judged: str) -> Change:
        """What the report says of it."""
        domain = f"{self.node.domain}::" if self.node.domain else ""
        scope, output = self.place
        return Change(output, domain + self.node.op_type, self.how, scope_text(scope), judged)


@dataclass
class Differing:
    """What checking the differences alone showed.

    `shown` are the nodes that took part in a comparison that passed, `left` the differences that no
    comparison reached, and why; `unseen` those that neither comparisons nor runs expose.
    """

    checks: list[Check] = field(default_factory=list[Check])
    wrong: list[str] = field(default_factory=list[str])
    changes: list[Change] = field(default_factory=list[Change])
    shown: set[Place] = field(default_factory=set[Place])
    left: list[tuple[Difference, str]] = field(default_factory=list[tuple[Difference, str]])
    unseen: list[tuple[Difference, str]] = field(default_factory=list[tuple[Difference, str]])


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


def differences(before: Scopes, after: Scopes, all_weights: bool) -> Iterator[Difference]:
    """Every node outside of the fused ones that differs, and every graph with other outputs.

    A fused node that both models have differs where its weights do. Of weights all values are
    compared, or those of small ones. A graph that the original lacks is part of a node or function
    that differs where it is used.
    """
    for key, there in after.items():
        here = before.get(key)
        if here is None:
            continue
        alike = Alike(here, there, all_weights)
        models, versions = (here.model, there.model), _versions(key, here, there)
        for node in there.nodes:
            if not any(node.output):
                continue
            twin = next((here.node(name) for name in node.output if name and here.node(name)), None)
            if is_fused(node):
                # Every other one is a site, and checked as such.
                if twin == node and not alike.weights(node):
                    yield Difference(key, node, "changed")
            elif twin is None:
                yield Difference(key, node, "added")
            elif (
                not same_node(*models, twin, node)
                or not alike.weights(node)
                or _means_other(node, *versions)
            ):
                yield Difference(key, node, "changed")
        yield from _outputs(key, here, there, alike)
        yield from _interface(key, here, there)


def _outputs(key: ScopeKey, here: Parts, there: Parts, alike: Alike) -> Iterator[Difference]:
    """The outputs of a graph that no node of it computes: initializers, and what is around it."""
    for name in dict.fromkeys(there.outputs):
        if there.node(name) is None and (here.node(name) is not None or not alike.same(name)):
            yield Difference(key, onnx.NodeProto(op_type=OUTPUT, output=[name]), "changed")


def _interface(key: ScopeKey, here: Parts, there: Parts) -> Iterator[Difference]:
    """A graph with other inputs and outputs; in the main graph, inputs with other defaults.

    Names of the main graph are the models' signature, which is compared before.
    """
    if key != ("main",):
        if not here.same_interface(there):
            stands_for = onnx.NodeProto(op_type=GRAPH, output=[scope_text(key)])
            yield Difference(key, stands_for, "interface")
        return
    for name in sorted(here.defaults.keys() | there.defaults.keys()):
        mine, other = here.defaults.get(name), there.defaults.get(name)
        alike = Alike(here, there, True)
        if mine is None or other is None or not alike.same_values(mine, other):
            yield Difference(key, onnx.NodeProto(op_type=INPUT, output=[name]), "interface")


Versions = Mapping[str, int]


def _versions(key: ScopeKey, here: Parts, there: Parts) -> tuple[Versions, Versions]:
    """The operator sets that both models import; those of a function are its interface."""
    if key[0] == "function":
        return {}, {}
    one, other = (
        {"" if e.domain in DEFAULT_DOMAINS else e.domain: e.version for e in entries}
        for entries in (here.model.proto.opset_import, there.model.proto.opset_import)
    )
    return one, other


def _means_other(node: onnx.NodeProto, one: Versions, other: Versions) -> bool:
    """Whether two versions of an operator set have another operator under the name of a node's."""
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    versions = [each.get(domain) for each in (one, other)]
    if None in versions or versions[0] == versions[1] or domain in FUSED_DOMAINS:
        return False
    return node.op_type not in ONLY_BODIES and _since(node, one) != _since(node, other)


def _since(node: onnx.NodeProto, versions: Versions) -> int:
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    try:
        return onnx.defs.get_schema(node.op_type, versions[domain], domain).since_version
    except onnx.defs.SchemaError:
        return versions[domain]


class _Shared(Container[str]):
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


def check_differences(
    found: Iterable[Difference],
    before: Scopes,
    after: Scopes,
    shown: set[Place],
    seed: int,
    all_weights: bool = False,
) -> Differing:
    """Check each difference alone; `shown` are the nodes that comparisons of sites have reached."""
    result = Differing(shown=set(shown))
    known: dict[ScopeKey, tuple[_Shared, Alike]] = {}
    unreached: list[tuple[Difference, str]] = []
    of_sites = set(shown)
    for each in found:
        if each.place in shown:
            # What a fused node needs beside it, such as a scale computed from weights.
            continue
        here, there = before[each.scope], after[each.scope]
        if each.scope not in known:
            known[each.scope] = (_Shared(here, there), Alike(here, there, all_weights))
        outcome = compared(here, there, each.node, each.how, seed, *known[each.scope])
        if outcome.check is None:
            listed = unreached if outcome.is_seen else result.unseen
            listed.append((each, outcome.why))
            continue
        fused = [node.output[0] for node in outcome.nodes if is_fused(node)]
        result.checks.append(outcome.check)
        if not outcome.check.passed:
            result.wrong += fused
        else:
            places = there.places(outcome.nodes, here, outcome.names)
            result.shown |= places
            of_sites |= places if fused else set()
        if not fused:
            result.changes.append(each.change("alone"))
    for each, why in unreached:
        if each.place not in result.shown:
            result.left.append((each, why))
        elif each.place not in of_sites:
            result.changes.append(each.change("alone"))
    return result


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
    pair = _pair(before, after, cuts or _Shared(before, after), names)
    if isinstance(pair, str):
        return Compared(why=pair)
    mine, other = pair
    unseen = unexposed(other, mine, alike or Alike(before, after, False))
    found = _checked(before, after, pair, node, how, seed, names)
    if found.check is None:
        # What is another constant may show in a run, and then it has failed; else it has not.
        return Compared(why=unseen, is_seen=False) if unseen else found
    if not found.check.passed:
        return found
    if unseen:
        return Compared(why=unseen, is_seen=False)
    is_site = any(map(is_fused, (*mine.model.proto.graph.node, *other.model.proto.graph.node)))
    lost = other_casts(before, after, pair, after.type(names[0]).elem_type if is_site else 0)
    return Compared(why=lost) if lost else found


def other_casts(before: Parts, after: Parts, pair: tuple[Part, Part], elem_type: int) -> str:
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
    drawing = Drawing(before, after, mine.reads | other.reads)
    if drawing.why:
        return Compared(why=drawing.why)
    nodes = tuple(mine.model.proto.graph.node)
    values: list[float] = []
    failures: list[str] = []
    original, fused = Twin(other.model), Twin(mine.model)
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
) -> tuple[Part, Part] | str:
    """The parts that compute the outputs in the second model and in the first.

    Where they read other tensors, one may be computed from what the other reads.
    """
    mine, other = after.between(outputs, cuts), before.between(outputs, cuts)
    if mine is None or other is None:
        return "it cannot be cut out"
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
            pairs = (np.reshape(each, (-1, right.shape[-1])).T for each in (result, right))
            values += [compare(*pair) for pair in zip(*pairs, strict=True)]
    return max(values)

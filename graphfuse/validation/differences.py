"""The nodes outside of the fused ones that differ between two models, each checked alone.

Nothing but the sites should differ, and what does is named. A node that differs is compared like a
fused one: both models are cut at tensors that both compute, and evaluated in float64 on the same
numbers, among them rows around epsilon, where a norm's epsilon shows. What agrees so, agrees
whatever the two compute before; what cannot be cut out is left to runs of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.graph.tensors import DEFAULT_DOMAINS, FLOAT_TYPES
from graphfuse.records import Change, Check
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.extract import Part, Parts, Place
from graphfuse.validation.fused_nodes import ScopeKey, is_fused, scope_text
from graphfuse.validation.lockstep import same_tensor
from graphfuse.validation.reference import Twin
from graphfuse.validation.tolerance import MEANING_BOUND, compare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Scopes = Mapping[ScopeKey, Parts]

MOST_WEIGHTS = 2**22
"""Elements of the weights that a part may have to be evaluated alone."""
MOST_ELEMENTS = 2**20
"""Elements of a tensor that is drawn."""
SMALL = 2**16
"""Elements of a weight whose values are compared where all weights are not."""
SIGMAS = (1e-12, 1e-9, 1e-6, 1e-3, 1.0)
"""Sizes of what is drawn: what is around an epsilon, wherever it is added."""
UNKNOWN_EXTENTS = (3, 2, 5, 7, 4, 6)
"""Extents that a model leaves open, in the order in which its symbols are met."""


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
    comparison reached, and why.
    """

    checks: list[Check] = field(default_factory=list[Check])
    wrong: list[str] = field(default_factory=list[str])
    changes: list[Change] = field(default_factory=list[Change])
    shown: set[Place] = field(default_factory=set[Place])
    left: list[tuple[Difference, str]] = field(default_factory=list[tuple[Difference, str]])


def differences(before: Scopes, after: Scopes, all_weights: bool) -> Iterator[Difference]:
    """Every node outside of the fused ones that differs, and every graph with other outputs.

    Of weights all values are compared, or those of small ones. A graph that the original lacks is
    part of a node or function that differs where it is used.
    """
    for key, there in after.items():
        here = before.get(key)
        if here is None:
            continue
        alike = _Alike(here, there, all_weights)
        for node in there.nodes:
            if is_fused(node) or not any(node.output):
                continue
            twin = next((here.node(name) for name in node.output if name and here.node(name)), None)
            if twin is None:
                yield Difference(key, node, "added")
            elif not _same_node(twin, node) or not alike.weights(node):
                yield Difference(key, node, "changed")
        if not here.same_interface(there) and key != ("main",):
            # Names of the main graph are the models' signature, which is compared before.
            stands_for = onnx.NodeProto(op_type="graph", output=[scope_text(key)])
            yield Difference(key, stands_for, "interface")


def _same_node(one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Whether two nodes say the same, but for names of nodes, documentation and bodies."""
    same = one.op_type == other.op_type and one.overload == other.overload
    same = same and _domain(one) == _domain(other)
    same = same and one.input == other.input and one.output == other.output
    return same and _attributes(one) == _attributes(other)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain in DEFAULT_DOMAINS else node.domain


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Bodies are graphs of their own: here it counts how many there are."""
    return {
        a.name: (a.type, len(a.graphs)) if a.HasField("g") or a.graphs else a
        for a in node.attribute
    }


class _Alike:
    """Whether the weights that nodes read are the same in both models."""

    def __init__(self, before: Parts, after: Parts, all_weights: bool) -> None:
        self._before, self._after, self._all = before, after, all_weights
        self._known: dict[str, bool] = {}

    def weights(self, node: onnx.NodeProto) -> bool:
        """The weights that a node reads itself; those in its bodies are read there."""
        return all(self._same(name) for name in node.input if name)

    def _same(self, name: str) -> bool:
        if name not in self._known:
            mine, other = self._before.weight(name), self._after.weight(name)
            if mine is None or other is None:
                self._known[name] = mine is other
            else:
                models = self._before.model, self._after.model
                small = self._all or math.prod(mine.dims) <= SMALL
                same_kind = mine.data_type == other.data_type and mine.dims == other.dims
                self._known[name] = same_kind and (not small or same_tensor(*models, mine, other))
        return self._known[name]


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
    found: Iterable[Difference], before: Scopes, after: Scopes, shown: set[Place], seed: int
) -> Differing:
    """Check each difference alone; `shown` are the nodes that comparisons of sites have reached."""
    result = Differing(shown=set(shown))
    shared: dict[ScopeKey, _Shared] = {}
    unreached: list[tuple[Difference, str]] = []
    of_sites = set(shown)
    for each in found:
        if each.place in shown:
            # What a fused node needs beside it, such as a scale computed from weights.
            continue
        here, there = before[each.scope], after[each.scope]
        cuts = shared.setdefault(each.scope, _Shared(here, there))
        outcome = compared(here, there, each.node, each.how, seed, cuts)
        if isinstance(outcome, str):
            unreached.append((each, outcome))
            continue
        check, nodes = outcome
        fused = [node.output[0] for node in nodes if is_fused(node)]
        result.checks.append(check)
        if not check.passed:
            result.wrong += fused
        else:
            result.shown |= there.places(nodes)
            of_sites |= there.places(nodes) if fused else set()
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
) -> tuple[Check, list[onnx.NodeProto]] | str:
    """What a node of the second model computes, in float64, against the first model.

    Also gives the nodes of the second model that were evaluated; a sentence where the two cannot be
    compared alone. `cuts` are where both can be cut.
    """
    outputs = [name for name in node.output if name and before.node(name) is not None]
    if not outputs:
        return "the original computes nothing of that name"
    pair = _pair(before, after, cuts or _Shared(before, after), outputs)
    if isinstance(pair, str):
        return pair
    mine, other = pair
    nodes = list(mine.model.proto.graph.node)
    sigmas = _sigmas([*nodes, *other.model.proto.graph.node])
    try:
        original, fused = Twin(other.model), Twin(mine.model)
        figures = [
            _distance(original, fused, feeds, outputs)
            for feeds in _feeds(before, mine.reads | other.reads, sigmas, seed)
        ]
    except UnsupportedModelError as error:
        return f"it does not run alone ({error.message[:120]})"
    if not figures:
        return "the types of what it reads are not known"
    if original.narrow_runs or fused.narrow_runs:
        return "it has no meaning in float64"
    value = max(figures)
    if value > MEANING_BOUND and mine.reads != other.reads:
        # Two names may stand for one value; only a run can tell.
        return f"it reads {_names(mine.reads)}, and the original's {_names(other.reads)}"
    where = f"float64, {node.op_type} that is {how}, rows around epsilon, seed {seed}"
    return Check("G0", outputs[0], value, MEANING_BOUND, where, value <= MEANING_BOUND), nodes


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
    weights = [t for part in (mine, other) for t in part.model.proto.graph.initializer]
    if sum(math.prod(tensor.dims) for tensor in weights) > 2 * MOST_WEIGHTS:
        return "its weights are large"
    return mine, other


def _names(reads: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(reads)[:3]) or "no activation"


def _distance(
    original: Twin, fused: Twin, feeds: Mapping[str, Array], outputs: Iterable[str]
) -> float:
    wanted, found = original.run(feeds), fused.run(feeds)
    return max(compare(found[name], wanted[name]) for name in outputs)


def _sigmas(nodes: Iterable[onnx.NodeProto]) -> tuple[float, ...]:
    """How large the rows are that are drawn: around each epsilon, and a few sizes more."""
    epsilons = {a.f for node in nodes for a in node.attribute if a.name == "epsilon" and a.f > 0}
    roots = {math.sqrt(epsilon) * factor for epsilon in epsilons for factor in (0.1, 1.0, 10.0)}
    return (*sorted(roots), *SIGMAS)


def _feeds(
    parts: Parts, names: Iterable[str], sigmas: Iterable[float], seed: int
) -> Iterator[dict[str, Array]]:
    """Numbers for the tensors at which the models are cut; nothing where a type is not known."""
    rng = np.random.default_rng(seed)
    extents: dict[object, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(names):
        known = parts.type(name)
        if known.elem_type not in FLOAT_TYPES or known.shape is None:
            return
        for dim in known.shape:
            if not isinstance(dim, int):
                extents.setdefault(dim, UNKNOWN_EXTENTS[len(extents) % len(UNKNOWN_EXTENTS)])
        shapes[name] = tuple(dim if isinstance(dim, int) else extents[dim] for dim in known.shape)
        if math.prod(shapes[name]) > MOST_ELEMENTS:
            return
    for sigma in sigmas if shapes else (1.0,):
        yield {name: rng.standard_normal(shape) * sigma for name, shape in shapes.items()}

"""The nodes outside of the fused ones that differ between two models, each checked alone.

Nothing but the sites should differ, and what does is named. A node that differs is compared like a
fused one: both models are cut at tensors that both compute, and evaluated in float64 on the same
numbers, among them rows around epsilon, where a norm's epsilon shows. What is written otherwise and
agrees so, agrees whatever the two compute before; what cannot be cut out is left to runs of the
whole model, and what such numbers do not expose (unexposed.py) is not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.records import Change, Check
from graphfuse.validation.comparing import Shared, compared
from graphfuse.validation.unexposed import Alike, same_node
from graphfuse.views.cutting import NodePlace, Parts
from graphfuse.views.fused_nodes import FUSED_DOMAINS, is_fused
from graphfuse.views.keys import ScopeKey, scope_text

Scopes = Mapping[ScopeKey, Parts]

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
    def place(self) -> NodePlace:
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
    shown: set[NodePlace] = field(default_factory=set[NodePlace])
    left: list[tuple[Difference, str]] = field(default_factory=list[tuple[Difference, str]])
    unseen: list[tuple[Difference, str]] = field(default_factory=list[tuple[Difference, str]])


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


def check_differences(
    found: Iterable[Difference],
    before: Scopes,
    after: Scopes,
    shown: set[NodePlace],
    seed: int,
    all_weights: bool = False,
) -> Differing:
    """Check each difference alone; `shown` are the nodes that comparisons of sites have reached."""
    result = Differing(shown=set(shown))
    known: dict[ScopeKey, tuple[Shared, Alike]] = {}
    unreached: list[tuple[Difference, str]] = []
    of_sites = set(shown)
    for each in found:
        if each.place in shown:
            # What a fused node needs beside it, such as a scale computed from weights.
            continue
        here, there = before[each.scope], after[each.scope]
        if each.scope not in known:
            known[each.scope] = (Shared(here, there), Alike(here, there, all_weights))
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
    _add_read_by_shown(unreached, before, after, result.shown)
    for each, why in unreached:
        if each.place not in result.shown:
            result.left.append((each, why))
        elif each.place not in of_sites:
            result.changes.append(each.change("alone"))
    return result


def _add_read_by_shown(
    unreached: Iterable[tuple[Difference, str]],
    before: Scopes,
    after: Scopes,
    shown: set[NodePlace],
) -> None:
    """Add the nodes that only nodes read of which it is shown that they are right.

    Such as what computes the shape of a Reshape that changes none.
    """
    pending = [each for each, _ in unreached if each.how == "added"]
    while pending:
        found = [
            each
            for each in pending
            if all(
                not before[each.scope].knows(name) and after[each.scope].readers(name) <= shown
                for name in each.node.output
                if name
            )
        ]
        if not found:
            return
        shown.update(each.place for each in found)
        pending = [each for each in pending if each not in found]

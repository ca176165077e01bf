"""The graphs of a model: the main graph, the bodies of If, Loop and Scan, and functions.

A call of a model-local function is seen as the nodes of its body, so that a norm which is a
function is the arithmetic that it does. Those nodes carry names that no model has, and know the
call that they stand for: the call is what an edit removes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, helper

from graphfuse.graph.tensors import DEFAULT_DOMAINS, AnyGraph, subgraphs, value_names
from graphfuse.ops import is_operator
from graphfuse.records import MAIN, ScopeRef

MAX_CALL = 256
"""Nodes of a function body, the functions that it calls included, that a call is seen through."""
MAX_EXPANDED = 100_000
"""Nodes that the calls of one graph expand to at most; further calls stay opaque."""

PREFIX = re.compile(r"(?<![\w/.])(?:#+(?:\d+:)?\d+/)+")
"""What the names of an expanded call begin with (`_unused_mark`)."""

BodyPlace = tuple[int, str, int]
"""A node's position among a scope's nodes, the attribute that holds a graph, and which of it."""
FunctionKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was expanded: its node, the function, where its nodes start, and their prefix."""

    owner: int
    function: int
    start: int
    prefix: str


@dataclass(eq=False, slots=True)
class Scope:
    """One graph as the patterns see it: calls expanded, every node with the index it stands for.

    `owners` gives, for each of `nodes`, the index of the node in `graph`. Where no call is expanded
    `nodes` are the graph's own.
    """

    ref: ScopeRef
    graph: AnyGraph
    parent: Scope | None
    functions: Sequence[FunctionProto]
    nodes: Sequence[NodeProto]
    owners: Sequence[int]
    calls: list[Call]
    children: dict[BodyPlace, Scope] = field(default_factory=dict[BodyPlace, "Scope"])

    @property
    def inputs(self) -> list[str]:
        """The names of the graph's inputs."""
        return value_names(self.graph.input)

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return value_names(self.graph.output)

    @property
    def initializers(self) -> Sequence[onnx.TensorProto]:
        """The dense weights that the graph holds; a function holds none."""
        return () if isinstance(self.graph, FunctionProto) else self.graph.initializer

    def tree(self) -> Iterator[Scope]:
        """This scope and those inside it."""
        yield self
        for child in self.children.values():
            yield from child.tree()


def scopes(model: onnx.ModelProto) -> list[Scope]:
    """Every graph of a model, outer ones before inner ones, callers before what they call."""
    expander = _Expander(model)
    found = list(_scope(model.graph, MAIN, None, expander).tree())
    for index in expander.callers_first():
        function = model.functions[index]
        if not is_operator(function):
            ref = ScopeRef(index, (), f"function {function.domain}::{function.name}")
            found.extend(_scope(function, ref, None, expander).tree())
    return found


def fully_seen(found: list[Scope]) -> set[int]:
    """The functions of which every call is seen through, so that what calls agree on holds.

    A call in a body inside a function, and one too many to expand, are not.
    """
    if not found[0].functions:
        return set()
    called: dict[int, list[Scope]] = {}
    unseen: set[int] = set()
    index = {function_key(f): n for n, f in enumerate(found[0].functions)}
    for scope in found:
        expanded = {call.owner for call in scope.calls}
        for owner, node in enumerate(scope.graph.node):
            function = index.get(function_key(node))
            if function is None:
                continue
            called.setdefault(function, []).append(scope)
            if owner not in expanded or (scope.ref.function is not None and scope.ref.steps):
                unseen.add(function)
    seen: set[int] = set()
    for scope in found:
        function = scope.ref.function
        if function is None or scope.ref.steps or function in unseen:
            continue
        # Callers come first, so what is known of them is there.
        holders = [caller.ref.function for caller in called.get(function, [])]
        if all(holder is None or holder in seen for holder in holders):
            seen.add(function)
    return seen


def _scope(graph: AnyGraph, ref: ScopeRef, parent: Scope | None, expander: _Expander) -> Scope:
    nodes, owners, calls = expander.expand(graph.node, parent is not None)
    scope = Scope(ref, graph, parent, expander.functions, nodes, owners, calls)
    called = {call.owner for call in calls}
    for position, (node, owner) in enumerate(zip(nodes, owners, strict=True)):
        if owner in called:
            continue
        for name, number, body in bodies(node):
            named = f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} #{owner}"
            text = f"{named}/{name}" if not ref.text else f"{ref.text}/{named}/{name}"
            step = ScopeRef(ref.function, (*ref.steps, (owner, name, number)), text)
            scope.children[position, name, number] = _scope(body, step, scope, expander)
    return scope


def bodies(node: NodeProto) -> Iterator[tuple[str, int, GraphProto]]:
    """The graphs in a node's attributes, with the attribute's name and the number in it."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, 0, attribute.g
        for number, graph in enumerate(attribute.graphs):
            yield attribute.name, number, graph


def all_bodies(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """The graphs in the attributes of nodes, in order."""
    for node in nodes:
        yield from subgraphs(node)


def find(model: onnx.ModelProto, ref: ScopeRef) -> AnyGraph:
    """The graph that a reference means."""
    graph: AnyGraph
    graph = model.graph if ref.function is None else model.functions[ref.function]
    for index, name, number in ref.steps:
        found = {(n, k): g for n, k, g in bodies(graph.node[index])}
        graph = found[name, number]
    return graph


def function_key(item: NodeProto | FunctionProto) -> FunctionKey:
    """What binds a call to a function: domain, name and overload."""
    domain = "" if item.domain in DEFAULT_DOMAINS else item.domain
    name = item.op_type if isinstance(item, NodeProto) else item.name
    return (domain, name, item.overload)


def callees_first(calls: Sequence[Iterable[int]]) -> list[int]:
    """An order in which each function comes after what it calls; those in circles are left out.

    Without recursion: a chain of functions may be longer than Python's stack.
    """
    callees = [set(called) for called in calls]
    callers: list[list[int]] = [[] for _ in callees]
    for caller, called in enumerate(callees):
        for callee in called:
            callers[callee].append(caller)
    waiting = [len(called) for called in callees]
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        order.append(ready.pop())
        for caller in callers[order[-1]]:
            waiting[caller] -= 1
            if waiting[caller] == 0:
                ready.append(caller)
    return order


class _Expander:
    """Replaces calls of functions by their bodies, within bounds."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.functions = model.functions
        self._index: Mapping[FunctionKey, int] = {
            function_key(function): index for index, function in enumerate(model.functions)
        }
        self._order = callees_first([self._called(each.node) for each in self.functions])
        self._sizes = self._expanded_sizes()
        self._mark = _unused_mark(model) if model.functions else ""
        self._bodies = 0

    def callers_first(self) -> list[int]:
        """The functions in an order in which each comes before what it calls."""
        cyclic = set(range(len(self.functions))) - set(self._order)
        return [*self._order[::-1], *sorted(cyclic)]

    def _called(self, nodes: Iterable[NodeProto]) -> Iterator[int]:
        for node in nodes:
            if (index := self._index.get(function_key(node))) is not None:
                yield index
            for graph in subgraphs(node):
                yield from self._called(graph.node)

    def _expanded_sizes(self) -> dict[int, int]:
        """How many nodes each function becomes; those too large or odd are left out."""
        sizes: dict[int, int] = {}
        for index in self._order:
            function = self.functions[index]
            outputs = list(function.output)
            standard = function.domain in DEFAULT_DOMAINS
            if standard or is_operator(function) or len(set(outputs)) < len(outputs):
                # A function under the name of a standard operator: which one runs is not certain.
                continue
            inner = [self._index.get(function_key(node)) for node in function.node]
            size = sum(1 if i is None else sizes.get(i, 1) for i in inner) + len(outputs)
            if size <= MAX_CALL:
                sizes[index] = size
        return sizes

    def expand(
        self, nodes: Sequence[NodeProto], within: bool
    ) -> tuple[Sequence[NodeProto], Sequence[int], list[Call]]:
        """The nodes with calls replaced, what each stands for, and the calls.

        A body `within` a graph sees that graph's names: its calls have names of their own.
        """
        if not self._sizes:
            return nodes, range(len(nodes)), []
        found: list[NodeProto] = []
        owners: list[int] = []
        calls: list[Call] = []
        left = MAX_EXPANDED
        self._bodies += within
        mark = f"{self._mark}{self._bodies}:" if within else self._mark
        for owner, node in enumerate(nodes):
            function = self._index.get(function_key(node), -1)
            if function not in self._sizes or self._sizes[function] > left or not any(node.output):
                found.append(node)
                owners.append(owner)
                continue
            prefix = f"{mark}{owner}/"
            body = [*self._handed_through(node, function)]
            calls.append(Call(owner, function, len(found) + len(body), prefix))
            body.extend(self._body(node, function, prefix))
            left -= len(body)
            found.extend(body)
            owners.extend([owner] * len(body))
        return found, owners, calls

    def _handed_through(self, call: NodeProto, function: int) -> Iterator[NodeProto]:
        """The outputs that a function takes from its inputs as they are."""
        definition = self.functions[function]
        given = dict(zip(definition.input, call.input, strict=False))
        for formal, actual in zip(definition.output, call.output, strict=False):
            if formal in given and actual:
                yield helper.make_node("Identity", [given[formal]], [actual])

    def _body(self, call: NodeProto, function: int, prefix: str) -> Iterator[NodeProto]:
        """The nodes of a function as this call means them."""
        definition = self.functions[function]
        actual = zip(definition.output, call.output, strict=False)
        names = {formal: name for formal, name in actual if name}
        names |= dict.fromkeys(definition.input, "")
        names |= dict(zip(definition.input, call.input, strict=False))
        names[""] = ""
        attributes = {attribute.name: attribute for attribute in definition.attribute_proto}
        attributes |= {attribute.name: attribute for attribute in call.attribute}
        for index, node in enumerate(definition.node):
            copy = NodeProto()
            copy.CopyFrom(node)
            _rename(copy, names, prefix)
            bind(copy, attributes)
            inner = self._index.get(function_key(node), -1)
            if inner in self._sizes and any(node.output):
                yield from self._handed_through(copy, inner)
                yield from self._body(copy, inner, f"{prefix}{self._mark}{index}/")
            else:
                yield copy


def _unused_mark(model: onnx.ModelProto) -> str:
    """What no name of the model begins with."""
    names = {name for graph in (model.graph, *model.functions) for name in _all_names(graph.node)}
    mark = "#"
    while any(name.startswith(mark) for name in names):
        mark += "#"
    return mark


def as_written(text: str) -> str:
    """A text with the names that tensors of functions have there, without the prefix of a call."""
    return PREFIX.sub("", text) if "#" in text else text


def _all_names(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (*node.input, *node.output)
        for graph in subgraphs(node):
            yield from _all_names(graph.node)


def _rename(node: NodeProto, names: Mapping[str, str], prefix: str) -> None:
    """Give a node of a function body the names that its call means, its bodies included."""
    for field_ in (node.input, node.output):
        for position, name in enumerate(field_):
            field_[position] = names.get(name, prefix + name)
    for graph in subgraphs(node):
        _rename_graph(graph, names, prefix)


def _rename_graph(graph: GraphProto, names: Mapping[str, str], prefix: str) -> None:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own.update(name for node in graph.node for name in node.output)
    inside = {old: new for old, new in names.items() if old not in own or not old}
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = inside.get(value.name, prefix + value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = inside.get(sparse.values.name, prefix + sparse.values.name)
    for node in graph.node:
        _rename(node, inside, prefix)


def bind(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> None:
    """Replace references to the function's attributes by the values of the call."""
    bound: list[AttributeProto] = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            bound.append(attribute)
        elif attribute.ref_attr_name in attributes:
            value = AttributeProto()
            value.CopyFrom(attributes[attribute.ref_attr_name])
            value.name = attribute.name
            bound.append(value)
    copies = NodeProto(attribute=bound).attribute
    del node.attribute[:]
    node.attribute.extend(copies)
    for graph in subgraphs(node):
        for inner in graph.node:
            bind(inner, attributes)

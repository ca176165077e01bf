"""The types of the tensors of every graph of a model, functions included.

Inference runs once, on the model without weights and with calls replaced by their bodies. What it
finds for the tensors of a call is what the function's own tensors are, where all calls agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from graphfuse.graph.scopes import (
    BodyPlace,
    Call,
    FunctionKey,
    Scope,
    bodies,
    fully_seen,
    function_key,
)
from graphfuse.graph.tensors import replace_nodes, subgraphs
from graphfuse.records import Dim, ScopeRef, TensorType
from graphfuse.records.element_types import ElementType
from graphfuse.types.inference import inferred
from graphfuse.types.shapes import (
    UNKNOWN,
    GraphTypes,
    Nested,
    give_constants,
    strip_bodies,
    weightless,
)

TypesByScope = dict[ScopeRef, Mapping[str, TensorType]]


def infer_scopes(model: onnx.ModelProto, scopes: list[Scope]) -> TypesByScope:
    """The inferred types of each scope's tensors, by name."""
    main = scopes[0]
    skeleton = weightless(model)
    _replace_calls(skeleton.graph, main)
    _drop_uncalled(skeleton)
    if any(scope.calls for scope in main.tree()):
        strip_bodies(skeleton.graph.node)
        give_constants(skeleton.graph, {})
    collected: TypesByScope = {}
    instances: dict[int, list[_Instance]] = {}
    _collect(main, inferred(skeleton).graph, {}, collected, instances)
    seen = fully_seen(scopes)
    for scope in scopes:
        function = scope.ref.function
        if scope.parent is None and function is not None and function in seen:
            _merge(scope, instances.get(function, []), collected, instances)
    return {scope.ref: collected.get(scope.ref, {}) for scope in scopes}


def _replace_calls(graph: onnx.GraphProto, scope: Scope) -> None:
    if not any(inner.calls for inner in scope.tree()):
        return
    replace_nodes(graph, scope.nodes)
    for place, child in scope.children.items():
        position, name, number = place
        found = {(n, k): body for n, k, body in bodies(graph.node[position])}
        _replace_calls(found[name, number], child)


def _drop_uncalled(skeleton: onnx.ModelProto) -> None:
    """Inference looks into every function, called or not."""
    if not skeleton.functions:
        return
    by_key = {function_key(function): function for function in skeleton.functions}
    pending = [list(skeleton.graph.node)]
    needed: set[FunctionKey] = set()
    while pending and by_key:
        for node in pending.pop():
            key = function_key(node)
            if key in by_key and key not in needed:
                needed.add(key)
                pending.append(list(by_key[key].node))
            pending.extend(list(graph.node) for graph in subgraphs(node))
    kept = [function for key, function in by_key.items() if key in needed]
    copies = onnx.ModelProto(functions=kept).functions
    del skeleton.functions[:]
    skeleton.functions.extend(copies)


@dataclass(frozen=True, slots=True)
class _Instance:
    """A call of a function, as the graph that holds it was inferred."""

    types: Mapping[str, TensorType]
    names: Mapping[str, str]
    """The tensors that the call hands in and out, by the function's names for them."""
    prefix: str
    start: int
    bodies: Mapping[BodyPlace, onnx.GraphProto]

    def name(self, formal: str) -> str:
        return self.names.get(formal, self.prefix + formal)


def _collect(
    scope: Scope,
    graph: onnx.GraphProto,
    outer: Mapping[str, TensorType],
    collected: TypesByScope,
    instances: dict[int, list[_Instance]],
) -> None:
    """The types of a scope of the main graph, and the calls that it holds."""
    own = GraphTypes(graph)
    collected[scope.ref] = own
    types = Nested(own, outer) if outer else own
    places = _places(scope, graph) if scope.calls or scope.children else {}
    for call in scope.calls:
        names = _names(call, scope.graph.node[call.owner], scope)
        instance = _Instance(types, names, call.prefix, call.start, places)
        instances.setdefault(call.function, []).append(instance)
    for place, child in scope.children.items():
        _collect(child, places[place], types, collected, instances)


def _places(scope: Scope, graph: onnx.GraphProto) -> dict[BodyPlace, onnx.GraphProto]:
    """Inference may have added nodes, but bodies stand in the same order."""
    there = [(i, name, number) for i, n in enumerate(scope.nodes) for name, number, _ in bodies(n)]
    found = [body for node in graph.node for _, _, body in bodies(node)]
    return dict(zip(there, found, strict=True))


def _names(call: Call, node: onnx.NodeProto, scope: Scope) -> dict[str, str]:
    function = scope.functions[call.function]
    names = dict(zip(function.output, node.output, strict=False))
    names |= dict(zip(function.input, node.input, strict=False))
    return {formal: actual for formal, actual in names.items() if actual}


def _merge(
    scope: Scope,
    found: list[_Instance],
    collected: TypesByScope,
    instances: dict[int, list[_Instance]],
) -> None:
    """The types of a function, and the calls that it holds, once for each call of itself."""
    named = {name for node in scope.nodes for name in (*node.input, *node.output) if name}
    collected[scope.ref] = {
        name: _agreed([one.types.get(one.name(name), UNKNOWN) for one in found]) for name in named
    }
    for call in scope.calls:
        inner = _names(call, scope.graph.node[call.owner], scope)
        for one in found:
            names = {formal: one.name(actual) for formal, actual in inner.items()}
            nested = _Instance(
                one.types, names, one.prefix + call.prefix, one.start + call.start, one.bodies
            )
            instances.setdefault(call.function, []).append(nested)
    for (position, name, number), child in scope.children.items():
        parts = [
            (one, one.bodies[one.start + position, name, number])
            for one in found
            if (one.start + position, name, number) in one.bodies
        ]
        _merge_bodies(child, parts, collected)


def _merge_bodies(
    scope: Scope, parts: list[tuple[_Instance, onnx.GraphProto]], collected: TypesByScope
) -> None:
    """The types of a body inside a function: its own names all have the call's prefix."""
    typed = [(one.prefix, GraphTypes(body)) for one, body in parts]
    named = {name for node in scope.nodes for name in (*node.input, *node.output) if name}
    merged: dict[str, TensorType] = {}
    for name in named:
        found = [types[prefix + name] for prefix, types in typed if prefix + name in types]
        if len(found) == len(typed):
            merged[name] = _agreed(found)
    collected[scope.ref] = merged
    if scope.calls:
        return
    for place, child in scope.children.items():
        inside = [(one, _places(scope, body)[place]) for one, body in parts]
        _merge_bodies(child, inside, collected)


def _agreed(types: list[TensorType]) -> TensorType:
    """What several types have in common: a symbol of its own for extents that differ by call.

    Two extents that get the same symbol are equal in each call.
    """
    first = types[0] if types else UNKNOWN
    if all(other == first for other in types):
        return first
    elem_types = {other.elem_type for other in types}
    elem_type = first.elem_type if len(elem_types) == 1 else ElementType.UNDEFINED
    shapes = [other.shape for other in types if other.shape is not None]
    if len(shapes) < len(types) or len({len(shape) for shape in shapes}) != 1:
        return TensorType(elem_type, None)
    return TensorType(elem_type, tuple(_extent(dims) for dims in zip(*shapes, strict=True)))


def _extent(dims: tuple[Dim, ...]) -> Dim:
    if None in dims:
        return None
    return dims[0] if len(set(dims)) == 1 else "|".join(map(str, dims))

"""Types and shapes without weights.

Shape inference runs on a copy of the graph that has no large weights: each becomes a graph input
of the same type. So it costs the graph, not the gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

import onnx

from graphfuse.graph.tensors import is_external, subgraphs
from graphfuse.records import Dim, TensorType
from graphfuse.records.element_types import ElementType

SMALL = 1024
"""Initializers of up to this many bytes stay: they may be shapes that inference reads."""

UNKNOWN = TensorType(ElementType.UNDEFINED, None)


def weightless(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model whose large or external initializers are graph inputs of their type.

    So is an initializer that a graph input can override: its value is not known.
    """
    copy = onnx.ModelProto()
    copy.ir_version = max(model.ir_version, 4)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    graph, source = copy.graph, model.graph
    graph.name = source.name or "graph"
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    graph.sparse_initializer.extend(source.sparse_initializer)
    inputs = {value.name for value in source.input}
    for tensor in source.initializer:
        if tensor.name in inputs:
            continue
        if not is_external(tensor) and tensor.ByteSize() <= SMALL:
            graph.initializer.append(tensor)
        else:
            value = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            graph.input.append(value)
    if any(any(subgraphs(node)) for node in graph.node):
        strip_bodies(graph.node)
        inputs = {value.name for value in graph.input}
        give_constants(graph, {t.name: t for t in graph.initializer if t.name not in inputs})
    return copy


def give_constants(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> None:
    """Let the bodies in a graph have the small constants around them as their own.

    Inference does not look outside a body for the axes of a reduction, or for a shape.
    """
    known = {**outer, **{t.name: t for t in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            known[node.output[0]] = node.attribute[0].t
        for body in subgraphs(node):
            own = {value.name for value in body.input} | {t.name for t in body.initializer}
            own.update(name for inner in body.node for name in inner.output)
            read = {name for inner in body.node for name in inner.input} & known.keys() - own
            for name in sorted(read):
                if known[name].data_type != ElementType.INT64 or is_external(known[name]):
                    continue
                tensor = body.initializer.add()
                tensor.CopyFrom(known[name])
                tensor.name = f"{name}/graphfuse_copy"
                for inner in body.node:
                    for position, used in enumerate(inner.input):
                        if used == name:
                            inner.input[position] = tensor.name
            give_constants(body, known)


def strip_bodies(nodes: Iterable[onnx.NodeProto]) -> None:
    """Take the large weights out of the bodies of If, Loop and Scan: they keep their types.

    A body has no inputs of its own to make of them, so each becomes a ConstantOfShape.
    """
    for node in nodes:
        for body in subgraphs(node):
            large = [t for t in body.initializer if is_external(t) or t.ByteSize() > SMALL]
            if large:
                kept = [t for t in body.initializer if not any(t is other for other in large)]
                made = [made for tensor in large for made in _of_shape(tensor)]
                copy = onnx.GraphProto(node=[*made, *body.node], initializer=kept)
                del body.node[:], body.initializer[:]
                body.node.extend(copy.node)
                body.initializer.extend(copy.initializer)
            strip_bodies(body.node)


def _of_shape(tensor: onnx.TensorProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    shape = f"{tensor.name}/graphfuse_shape"
    dims = onnx.helper.make_tensor("", ElementType.INT64, [len(tensor.dims)], tensor.dims)
    zero = onnx.TensorProto(data_type=tensor.data_type, dims=[1], raw_data=bytes(16))
    return (
        onnx.helper.make_node("Constant", [], [shape], value=dims),
        onnx.helper.make_node("ConstantOfShape", [shape], [tensor.name], value=zero),
    )


def type_of(value: onnx.TypeProto) -> TensorType:
    """The record of a TypeProto; unknown for anything that is not a dense tensor."""
    if not value.HasField("tensor_type"):
        return UNKNOWN
    tensor = value.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(ElementType(tensor.elem_type), None)
    dims: list[Dim] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        else:
            dims.append(symbol_of(dim) or None)
    return TensorType(ElementType(tensor.elem_type), tuple(dims))


def symbol_of(dim: onnx.TensorShapeProto.Dimension) -> str:
    """The symbol of an extent, '' for none; protobuf gives bytes for one that is not UTF-8."""
    symbol: str | bytes = dim.dim_param
    if isinstance(symbol, bytes):
        return symbol.decode("utf-8", "backslashreplace")
    return symbol


SAVED = "unk__"
"""How the symbols begin that onnx.shape_inference writes for extents that it does not know."""


def is_saved(symbol: str) -> bool:
    """Whether a symbol of a file is one that an inference made up: a number, no name of anything.

    The next inference numbers anew, and two that were joined in one file may have the same.
    """
    return symbol.startswith(SAVED) and symbol[len(SAVED) :].isdigit()


def forget_saved(graph: onnx.GraphProto) -> None:
    """Take symbols that an earlier inference made up out of a graph of no graph around it."""
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if is_saved(symbol_of(dim)):
                # Still one number in each run, and one that no other extent is known to be.
                dim.dim_param = f"{value.name}:{axis}"
    _forget(graph)


def _forget(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if is_saved(symbol_of(dim)):
                dim.ClearField("dim_param")
    for node in graph.node:
        for body in subgraphs(node):
            _forget(body)


def _without_saved(found: TensorType, shape: tuple[Dim, ...]) -> TensorType:
    if not any(isinstance(dim, str) and is_saved(dim) for dim in shape):
        return found
    kept = (None if isinstance(dim, str) and is_saved(dim) else dim for dim in shape)
    return TensorType(found.elem_type, tuple(kept))


def merged(declared: TensorType, inferred: TensorType) -> TensorType:
    """What a file says of a tensor and what inference does: a number says more than a symbol."""
    elem_type = declared.elem_type or inferred.elem_type
    said, found = declared.shape, inferred.shape
    if said is None or found is None or len(said) != len(found):
        return TensorType(elem_type, found if said is None else said)
    pairs = zip(said, found, strict=True)
    return TensorType(elem_type, tuple(_extent(one, other) for one, other in pairs))


def _extent(declared: Dim, inferred: Dim) -> Dim:
    return declared if isinstance(declared, int) or inferred is None else inferred


class GraphTypes(Mapping[str, TensorType]):
    """The types that a graph declares: inputs, value_info and outputs, initializers.

    Each is read when it is first asked for: most never are. What is kept of it until then is its
    place, so the lists of the graph must not change: protobuf finds every message that Python
    holds in one table, which gets slow when it no longer fits the caches.
    """

    def __init__(
        self, graph: onnx.GraphProto | onnx.FunctionProto, from_file: bool = False
    ) -> None:
        """Of a graph `from_file` the symbols count for nothing that an inference made up."""
        self._from_file = from_file
        self._known: dict[str, TensorType] = {}
        # Most tensors of a model share a few types: one record of each spares memory, and the
        # garbage collector has not to look at tens of thousands of equal ones.
        self._one: dict[TensorType, TensorType] = {}
        self._lists: tuple[Sequence[onnx.ValueInfoProto | onnx.TensorProto], ...]
        if isinstance(graph, onnx.FunctionProto):
            self._lists = (graph.value_info,)
        else:
            self._lists = (graph.input, graph.value_info, graph.output, graph.initializer)
        self._places: dict[str, int] = {}
        start = 0
        for values in self._lists:
            self._places.update((value.name, n) for n, value in enumerate(values, start))
            start += len(values)

    def _value(self, place: int) -> onnx.ValueInfoProto | onnx.TensorProto:
        for values in self._lists:
            if place < len(values):
                return values[place]
            place -= len(values)
        raise IndexError(place)

    def __getitem__(self, name: str) -> TensorType:
        if name not in self._known:
            value = self._value(self._places[name])
            if isinstance(value, onnx.TensorProto):
                found = TensorType(ElementType(value.data_type), tuple(value.dims))
            else:
                found = type_of(value.type)
            if self._from_file and found.shape is not None:
                found = _without_saved(found, found.shape)
            self._known[name] = self._one.setdefault(found, found)
        return self._known[name]

    def elem_type(self, name: str) -> int:
        """The element type alone, 0 when it is not known: the shape is not read."""
        if name not in self._places:
            return 0
        value = self._value(self._places[name])
        if isinstance(value, onnx.TensorProto):
            return value.data_type
        return value.type.tensor_type.elem_type

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Nested(Mapping[str, TensorType]):
    """The types of a graph's tensors, and behind them those of the graph around it."""

    def __init__(self, inner: Mapping[str, TensorType], outer: Mapping[str, TensorType]) -> None:
        self._inner, self._outer = inner, outer

    def __getitem__(self, name: str) -> TensorType:
        return self._inner[name] if name in self._inner else self._outer[name]

    def __contains__(self, name: object) -> bool:
        return name in self._inner or name in self._outer

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._outer), **dict.fromkeys(self._inner)})

    def __len__(self) -> int:
        return len(list(iter(self)))


def same(left: Dim, right: Dim) -> bool:
    """Whether two extents are proven equal. Unknown equals nothing, not even itself."""
    return left is not None and left == right


def broadcasts_to(small: tuple[Dim, ...], large: tuple[Dim, ...]) -> bool:
    """Whether it is proven that `small` broadcasts to exactly `large` by ONNX's rules."""
    if len(small) > len(large):
        return False
    tail = large[len(large) - len(small) :]
    return all(dim == 1 or same(dim, to) for dim, to in zip(small, tail, strict=True))


def extent_of(shape: tuple[Dim, ...], axes: tuple[int, ...]) -> int | None:
    """The number of elements along some axes; None when one of them is not a number."""
    extents = [shape[axis] for axis in axes]
    return (
        prod(d for d in extents if isinstance(d, int))
        if all(isinstance(d, int) for d in extents)
        else None
    )

"""Extents of inputs that the model's own nodes fix: a cache fits what it is joined with.

onnxruntime-genai's builder declares the last extent of every cache as a symbol, though the model
runs with one number only: the size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import NodeProto, helper

from graphfuse.records import Dim, TensorType
from graphfuse.types.shapes import UNKNOWN, type_of

DimShape = tuple[Dim, ...]
TensorTypes = Mapping[str, TensorType]
Fixed = Iterator[tuple[str, int, Dim]]
"""An input of a node, an axis of it, and the extent that it has to have there."""


def fixed_extents(
    model: onnx.ModelProto,
    inputs: Sequence[onnx.ValueInfoProto],
    inferred: Callable[[], TensorTypes],
) -> dict[str, int]:
    """The symbols of inputs of which a node takes one number only, and that number.

    Looked at are Concat and the attention operators with a cache. `inferred` types are asked for
    only where such a node reads an input with symbols.
    """
    declared: dict[str, DimShape] = {}
    for value in inputs:
        shape = type_of(value.type).shape
        if shape is not None and any(isinstance(dim, str) for dim in shape):
            declared[value.name] = shape
    joins = [
        node
        for node in model.graph.node
        if (node.domain, node.op_type) in JOINS and not declared.keys().isdisjoint(node.input)
    ]
    if not joins:
        return {}
    types = _types(model, inferred())
    found: dict[str, int] = {}
    rings = [ring for node in joins if (ring := _ring(node)) > 0]
    if rings:
        # What is behind the tokens of a ring that is not full is no number at all.
        found = dict.fromkeys(past_symbols(declared.values()), max(rings))
    for node in joins:
        for name, axis, extent in JOINS[node.domain, node.op_type](node, types):
            shape = declared.get(name, ())
            symbol = shape[axis] if -len(shape) <= axis < len(shape) else None
            if isinstance(symbol, str) and isinstance(extent, int) and extent > 0:
                found.setdefault(symbol, extent)
    return found


def past_symbols(shapes: Iterable[DimShape]) -> list[str]:
    """The symbols that say how many tokens a cache holds."""
    dims = (dim for shape in shapes for dim in shape)
    return [d for d in dims if isinstance(d, str) and d.isidentifier() and "past" in d.lower()]


def has_ring(model: onnx.ModelProto) -> bool:
    """Whether a cache of a model is a ring, of which every place has to be filled."""
    return any(_ring(node) > 0 for node in model.graph.node)


def _ring(node: NodeProto) -> int:
    """The tokens that a GroupQueryAttention's cache has to hold, where it is a ring of a window."""
    if node.op_type != "GroupQueryAttention":
        return 0
    attributes = _attributes(node)
    ring = attributes.get("sliding_window_cache", 0)
    return int(attributes.get("local_window_size", 0)) if ring else 0


def _types(model: onnx.ModelProto, inferred: TensorTypes) -> TensorTypes:
    """What the file says of its tensors, and what is inferred of the others."""
    graph = model.graph
    said = {v.name: type_of(v.type) for v in (*graph.input, *graph.value_info, *graph.output)}
    return {**inferred, **{name: t for name, t in said.items() if t.shape is not None}}


def _concat(node: NodeProto, types: TensorTypes) -> Fixed:
    """Operands of a Concat have one shape, but for the axis."""
    axis = int(_attributes(node).get("axis", 0))
    shapes = {name: _shape(types, name) for name in node.input}
    for name, shape in shapes.items():
        for other in shapes.values():
            for position in range(len(shape) if len(other) == len(shape) else 0):
                if position != axis % len(shape):
                    yield name, position, other[position]


def _grouped_query(node: NodeProto, types: TensorTypes) -> Fixed:
    """com.microsoft::GroupQueryAttention: past key and value are (batch, kv heads, past, head).

    The query is (batch, tokens, heads * head), with key and value behind it where they are absent.
    """
    attributes = _attributes(node)
    heads, shared = (int(attributes.get(name, 0)) for name in ("num_heads", "kv_num_heads"))
    packed = not _name(node, 1)
    size = _head(types, _name(node, 0), heads + 2 * shared if packed else heads)
    for position in (3, 4):
        yield _name(node, position), 3, size


def _multi_head(node: NodeProto, types: TensorTypes) -> Fixed:
    """com.microsoft::MultiHeadAttention: past key and value are (batch, heads, past, head)."""
    heads = int(_attributes(node).get("num_heads", 0))
    for position, beside in ((6, 0), (7, 2)):
        yield _name(node, position), 3, _head(types, _name(node, beside), heads)


def _attention(node: NodeProto, types: TensorTypes) -> Fixed:
    """ONNX's Attention: past key and value are (batch, kv heads, past, head), as K and V may be."""
    heads = int(_attributes(node).get("kv_num_heads", 0))
    for position, beside in ((4, 1), (5, 2)):
        shape = _shape(types, _name(node, beside))
        size = shape[3] if len(shape) == 4 else _head(types, _name(node, beside), heads)
        yield _name(node, position), 3, size


JOINS: Mapping[tuple[str, str], Callable[[NodeProto, TensorTypes], Fixed]] = {
    ("", "Concat"): _concat,
    ("", "Attention"): _attention,
    ("com.microsoft", "GroupQueryAttention"): _grouped_query,
    ("com.microsoft", "MultiHeadAttention"): _multi_head,
}


def _head(types: TensorTypes, name: str, heads: int) -> Dim:
    """The size of a head in a tensor (batch, tokens, heads * size), if it is one."""
    shape = _shape(types, name)
    width = shape[2] if len(shape) == 3 else None
    if not isinstance(width, int) or heads <= 0 or width % heads:
        return None
    return width // heads


def _name(node: NodeProto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def _shape(types: TensorTypes, name: str) -> DimShape:
    return types.get(name, UNKNOWN).shape or ()


def _attributes(node: NodeProto) -> Mapping[str, int]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}

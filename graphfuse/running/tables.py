"""Which inputs of a model index its tables, and how many rows those have.

Ids that are drawn must stay inside: onnxruntime refuses to run a Gather that leaves its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx

from graphfuse.graph.nodes import constant_value
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.tensors import DEFAULT_DOMAINS, is_external
from graphfuse.ops import CONTRIB_DOMAIN
from graphfuse.records import Dim, TensorType
from graphfuse.types.shapes import UNKNOWN

ROUTES = having(
    Trait.KEEPS
    | Trait.RESHAPES
    | Trait.PERMUTES
    | Trait.REPEATS
    | Trait.PICKS
    | Trait.CASTS
    | Trait.CLAMPS
    | Trait.JOINS
)
"""Operators that pass ids on unchanged, but for what they fill in or leave out."""

READ: Mapping[str, slice] = {
    **dict.fromkeys(("Concat", "Min", "Max"), slice(None)),
    "Where": slice(1, 3),
    **dict.fromkeys(("ScatterND", "ScatterElements"), slice(0, 3, 2)),
}
"""The inputs of a route that are ids, where the first one is not all."""

EMBEDDINGS: Mapping[str, Mapping[int, int]] = {
    "EmbedLayerNormalization": {0: 2, 1: 4, 8: 3},
    "QEmbedLayerNormalization": {0: 2, 1: 4},
}
"""onnxruntime's operators of several tables: for each input of ids the input that is its table."""

ShapeOf = Callable[[str], "tuple[Dim, ...] | None"]


def table_rows(
    model: onnx.ModelProto, inferred: Callable[[], Mapping[str, TensorType]]
) -> dict[str, int]:
    """For each tensor of the main graph that indexes a table, how many rows that has.

    The ids may be cast, reshaped, or moved by a number on their way, and the table may be computed:
    `inferred` types are asked for only then.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            value = constant_value(node)
            tensors.update({} if value is None else {node.output[0]: value})

    def shape(name: str) -> tuple[Dim, ...] | None:
        if name in tensors:
            return tuple(tensors[name].dims)
        # Only where a table is no weight: an embedding that is tied, or quantized.
        return inferred().get(name, UNKNOWN).shape

    rows: dict[str, int] = {}
    for node in reversed(graph.node):
        for target, bound in (*_indexed(node, shape), *_passed(node, rows, tensors)):
            rows[target] = min(bound, rows.get(target, bound))
    return rows


def _indexed(node: onnx.NodeProto, shape: ShapeOf) -> Iterator[tuple[str, int]]:
    """What a node indexes a table by, and the rows of that."""
    pairs: list[tuple[int, int, int]] = []
    if node.op_type in ("Gather", "GatherElements") and node.domain in DEFAULT_DOMAINS:
        axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
        pairs.append((1, 0, axis))
    elif node.domain == CONTRIB_DOMAIN:
        pairs += [(ids, at, 0) for ids, at in EMBEDDINGS.get(node.op_type, {}).items()]
    for ids, at, axis in pairs:
        if max(ids, at) >= len(node.input) or not node.input[ids] or not node.input[at]:
            continue
        extents = shape(node.input[at])
        if extents is None or not -len(extents) <= axis < len(extents):
            continue
        extent = extents[axis]
        if isinstance(extent, int) and extent > 0:
            yield node.input[ids], extent


def _passed(
    node: onnx.NodeProto, rows: Mapping[str, int], tensors: Mapping[str, onnx.TensorProto]
) -> Iterator[tuple[str, int]]:
    """What a node makes ids of, and the rows that those may index then."""
    bounds = [rows[name] for name in node.output if name in rows]
    if not bounds or node.domain not in DEFAULT_DOMAINS:
        return
    bound = min(bounds)
    if node.op_type in ("Add", "Sub"):
        numbers = [_number(tensors.get(name)) for name in node.input]
        for name, other in zip(node.input, reversed(numbers), strict=True):
            if other is not None and name not in tensors:
                # Below 0 an id counts from the end, so a difference stays inside as it is.
                yield name, max(bound - max(other, 0), 1) if node.op_type == "Add" else bound
    elif node.op_type in ROUTES:
        for name in node.input[READ.get(node.op_type, slice(1))]:
            if name and name not in tensors:
                yield name, bound


def _number(tensor: onnx.TensorProto | None) -> int | None:
    """An integer constant, the largest of a small one of several."""
    if tensor is None or is_external(tensor) or tensor.data_type not in (6, 7):
        return None
    array = onnx.numpy_helper.to_array(tensor)
    return int(np.max(array)) if 0 < array.size <= 2**16 else None

"""Whether onnx's propagation of shape values stays small.

Inference computes what integer vectors hold where they come from shapes. A Concat of a vector with
itself doubles it: 40 of them in a row, in a file of 2 KB, ask for a terabyte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx

from graphfuse.graph.operators import Trait, having
from graphfuse.graph.tensors import DEFAULT_DOMAINS, AnyGraph, subgraphs

LONGEST_PROPAGATED = 100_000
"""Entries of a vector that are worth propagating: shapes have a handful."""

SHAPE_ENTRIES = 64
"""Entries of a shape, for this estimate."""

PROPAGATED = having(Trait.PROPAGATED)


def is_small(model: onnx.ModelProto) -> bool:
    """Whether no vector that inference would propagate is absurdly long."""
    return all(_is_small(graph) for graph in (model.graph, *model.functions))


def _is_small(graph: AnyGraph) -> bool:
    sizes: dict[str, int] = {}
    if isinstance(graph, onnx.GraphProto):
        sizes.update((tensor.name, math.prod(tensor.dims)) for tensor in graph.initializer)
    else:
        sizes.update((name, SHAPE_ENTRIES) for name in graph.input)
    for node in graph.node:
        size = _size(node, sizes)
        if size > LONGEST_PROPAGATED:
            return False
        if size:
            sizes.update((name, size) for name in node.output if name)
        if any(not _is_small(body) for body in subgraphs(node)):
            return False
    return True


def _size(node: onnx.NodeProto, sizes: dict[str, int]) -> int:
    """The entries of what is propagated from a node; 0 when nothing is."""
    if node.domain not in DEFAULT_DOMAINS:
        return 0
    if node.op_type == "Shape":
        return SHAPE_ENTRIES
    if node.op_type == "Constant":
        return max(_constants(node), default=0)
    if node.op_type != "Concat" and node.op_type not in PROPAGATED:
        return 0
    found = [sizes.get(name, 0) for name in node.input]
    if node.op_type == "Concat":
        return sum(found) if all(found) else 0
    return max(found, default=0)


def _constants(node: onnx.NodeProto) -> Iterator[int]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield math.prod(attribute.t.dims)
        yield len(attribute.ints)

"""What it takes to run a model, in bytes, before anything is run.

Extents come from shape inference with the sizes that are to be fed. A walk over the nodes in their
order keeps each value from the node that computes it to the last that reads it, as onnxruntime
does; the largest sum on the way is the peak of the activations. The float64 twin walks the same
way with 8 bytes for each float, and works on one node beside it: its largest weight upcast, and
some copies of its largest value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import TensorProto

from graphfuse.files.model_file import Model
from graphfuse.graph.tensors import read_names, subgraphs
from graphfuse.records import TensorType
from graphfuse.records.element_types import FLOAT_TYPES, ElementType
from graphfuse.types.extents import Shapes, elements, typed
from graphfuse.types.shapes import UNKNOWN, GraphTypes

PACKED = 4
"""Bytes of a number that onnxruntime packs for its matrix products; narrower floats become float32
on the way. Before it does, weights are there twice as well: handed over, and its own."""

COPIES = 6
"""Values as large as the largest that the float64 walk has beside those in flight: rounding one by
chance takes the nearest number, the other one, a mask and the result."""

MARGIN = 1.3
"""What allocators keep, and comparisons take; measured peaks are 0.9 to 2 times what is counted."""

PACKED_WAYS = 4
"""In how many ways models are run whose outputs are kept beside one another."""

BASE = 64 * 2**20
"""Libraries, threads and the graph itself."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes: weights of a session, activations of a run, and the float64 twin.

    `feeds` are inputs, outputs and captured tensors, which stay for all runs; `packed` is the part
    of the weights that a session keeps for itself. `unknown` counts the tensors whose extents only
    a run tells; they count as much as what they are computed from.
    """

    weights: int
    packed: int
    activations: int
    twin: int
    feeds: int
    unknown: int

    @property
    def peak(self) -> int:
        """The most that is held at a time: a session and the twin are not there together."""
        most = self.feeds + max(self.weights + self.activations, self.twin)
        return BASE + int(MARGIN * most)

    def running(self, sessions: int) -> int:
        """The most that so many sessions hold that are there together, without a twin.

        They are made one after the other: only one at a time has weights handed over as well.
        """
        kept = sessions * (self.packed + self.activations)
        return BASE + int(MARGIN * (self.feeds + kept + self.weights - self.packed))


def estimate(model: Model, shapes: Shapes, captured: Iterable[str] = ()) -> Need:
    """What a model takes at these shapes of its inputs, in float64 as well.

    `captured` are tensors of the main graph that are kept from a run.
    """
    graph, types = typed(model.proto, shapes)
    sizes = _Sizes(graph, types)
    weights = list(_weights(model.proto.graph))
    outputs = [value.name for value in graph.output]
    fed = sum(sizes.bytes(name) for name in (*shapes, *captured))
    fed_wide = sum(map(sizes.wide, shapes))
    fed += sum(PACKED_WAYS * sizes.bytes(name) + sizes.wide(name) for name in outputs)
    rows = _tables(model.proto.graph)
    widest = max((_bytes(t) + (t.name not in rows) * 8 * _elements(t) for t in weights), default=0)
    largest = max((sizes.wide(name) for node in graph.node for name in node.output), default=0)
    packed = sum(map(_packed, weights))
    return Need(
        weights=sum(map(_bytes, weights)) + packed,
        packed=packed,
        activations=sizes.peak(graph, wide=False),
        twin=sizes.peak(graph, wide=True) + COPIES * largest + widest + fed_wide,
        feeds=fed,
        unknown=sizes.unknown,
    )


def _weights(graph: onnx.GraphProto) -> Iterable[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
        for body in subgraphs(node):
            yield from _weights(body)


def _tables(graph: onnx.GraphProto) -> set[str]:
    """The weights of which only rows are taken: the float64 walk upcasts those alone."""
    first = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    for node in graph.node:
        first.difference_update(node.input[1 if node.op_type == "Gather" else 0 :])
    return first


def _elements(tensor: TensorProto) -> int:
    return prod(tensor.dims)


def _bytes(tensor: TensorProto) -> int:
    return _elements(tensor) * _width(tensor.data_type)


def _packed(tensor: TensorProto) -> int:
    narrow = tensor.data_type in FLOAT_TYPES and _width(tensor.data_type) < PACKED
    return PACKED * _elements(tensor) if narrow else _bytes(tensor)


def _width(elem_type: int) -> int:
    """Bytes of an element; one of no fixed size counts as a pointer."""
    return (ElementType(elem_type).bits + 7) // 8 or 8


class _Sizes:
    """The size of each tensor of a graph."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        types: Mapping[str, TensorType],
        outer: _Sizes | None = None,
    ) -> None:
        self._types = types
        self._outer = outer
        self._elements: dict[str, int] = {}
        self._weights = {tensor.name for tensor in graph.initializer}
        self.unknown = 0
        for node in graph.node:
            known = [self._count(name) for name in read_names(node)]
            for name in filter(None, node.output):
                found = elements(self._types.get(name, UNKNOWN))
                self.unknown += found is None
                self._elements[name] = max(known, default=0) if found is None else found

    def _count(self, name: str) -> int:
        """The elements of a tensor; 0 for weights, which are counted elsewhere."""
        if name in self._elements:
            return self._elements[name]
        if name in self._weights:
            return 0
        if name not in self._types and self._outer is not None:
            return self._outer._count(name)
        return elements(self._types.get(name, UNKNOWN)) or 0

    def bytes(self, name: str) -> int:
        """The bytes of a tensor in a run; the CPU computes narrow floats in float32."""
        elem_type = self._types.get(name, UNKNOWN).elem_type or ElementType.FLOAT
        width = _width(elem_type)
        width = max(width, PACKED) if elem_type in FLOAT_TYPES else width
        return self._count(name) * width

    def wide(self, name: str) -> int:
        """The bytes of a tensor in float64."""
        kind = self._types.get(name, UNKNOWN)
        is_float = kind.elem_type in FLOAT_TYPES or not kind.elem_type
        return self._count(name) * 8 if is_float else self.bytes(name)

    def peak(self, graph: onnx.GraphProto, wide: bool) -> int:
        """The most bytes of values that are there at a time, in the order of the nodes."""
        size = self.wide if wide else self.bytes
        last = {name: n for n, node in enumerate(graph.node) for name in read_names(node)}
        kept = {value.name for value in graph.output}
        freed: dict[int, list[str]] = {}
        for name, at in last.items():
            freed.setdefault(at, []).append(name)
        live, most = 0, 0
        held: set[str] = set()
        for number, node in enumerate(graph.node):
            for name in filter(None, node.output):
                live += size(name)
                held.add(name)
            inside = (
                _Sizes(body, GraphTypes(body), self).peak(body, wide) for body in subgraphs(node)
            )
            most = max(most, live + max(inside, default=0))
            dead = [name for name in freed.get(number, ()) if name in held and name not in kept]
            dead += [n for n in node.output if n and n not in last and n not in kept]
            live -= sum(map(size, dead))
            held.difference_update(dead)
        return most

"""What is known of integer vectors that are shapes: numbers, symbols of extents, or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx

from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.records import Dim, TensorType
from graphfuse.records.element_types import ElementType
from graphfuse.types.shapes import UNKNOWN

Entries = list[Dim]
"""Entries of an integer vector or scalar: numbers, the symbols of extents, None if not known."""

LONGEST_SHAPE_VECTOR = 16
"""The longest vector that can be a shape."""


class ShapeValues:
    """What is known of the values of integer vectors that are shapes."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        initializers: Iterable[onnx.TensorProto],
        inputs: Iterable[str],
        types: Mapping[str, TensorType],
        outer: ShapeValues | None = None,
    ) -> None:
        """`outer` are the values of the graph around this one: its names are seen here."""
        self.types = types
        self._outer = outer
        self._nodes = nodes
        self._inputs = frozenset(inputs)
        self._constants = {t.name: t for t in initializers if t.name not in self._inputs}
        self._found: dict[str, tuple[int, Entries | None]] = {}

    @cached_property
    def _places(self) -> dict[str, int]:
        outputs = (node.output for node in self._nodes)
        return {name: place for place, names in enumerate(outputs) for name in names if name}

    def _producer(self, name: str) -> onnx.NodeProto | None:
        place = self._places.get(name)
        return None if place is None else self._nodes[place]

    def is_constant(self, name: str) -> bool:
        """Whether a vector is a constant of this graph."""
        if name in self._constants:
            return True
        node = self._producer(name)
        return node is not None and node.op_type == "Constant"

    def of(self, name: str, reach: int = 12) -> Entries | None:
        """The entries of a vector, None for those not known; None when its length is not."""
        before = self._found.get(name)
        if before is None or before[0] < reach:
            # Once for each tensor and depth: otherwise a graph could make this exponential.
            before = (reach, self._look(name, reach))
            self._found[name] = before
        return before[1]

    def _look(self, name: str, reach: int) -> Entries | None:
        shape = self.types.get(name, UNKNOWN).shape
        if shape is not None and len(shape) > 1:
            return None
        tensor = self._constants.get(name)
        node = self._producer(name) if tensor is None else None
        if node is not None and node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.HasField("t")), None)
        if tensor is not None:
            small = len(tensor.dims) <= 1 and int(np.prod(tensor.dims)) <= LONGEST_SHAPE_VECTOR
            if tensor.data_type != ElementType.INT64 or not small:
                return None
            return [int(v) for v in onnx.numpy_helper.to_array(tensor).reshape(-1)]
        if node is None and self._outer is not None and name not in self._inputs:
            return self._outer.of(name, reach)
        values = self._computed(node, reach - 1) if node is not None and reach else None
        return self._unknown(name) if values is None else values

    def _computed(self, node: onnx.NodeProto, reach: int) -> Entries | None:
        # What a function's caller gives is not known; nor what another domain's operator does.
        given = any(attribute.ref_attr_name for attribute in node.attribute)
        if given or node.domain not in DEFAULT_DOMAINS:
            return None
        if node.op_type == "Shape":
            shape = self.types.get(node.input[0], UNKNOWN).shape
            part = {attribute.name: attribute.i for attribute in node.attribute}
            return None if shape is None else list(shape[part.get("start", 0) : part.get("end")])
        if node.op_type == "Size":
            shape = self.types.get(node.input[0], UNKNOWN).shape
            numbers = [d for d in shape or () if isinstance(d, int)]
            return [math.prod(numbers)] if shape and len(numbers) == len(shape) else [None]
        if node.op_type == "Concat":
            parts = [self.of(part, reach) for part in node.input]
            joined = [v for part in parts for v in part or []]
            return None if None in parts or len(joined) > LONGEST_SHAPE_VECTOR else joined
        if node.op_type in ("Squeeze", "Unsqueeze", "Identity", "Cast", "Reshape"):
            return self._passed_on(node, reach)
        if node.op_type == "ReduceProd":
            factors = self.of(node.input[0], reach)
            return factors if factors is not None and len(factors) == 1 else None
        if node.op_type in ("Gather", "Slice"):
            return self._picked(node, reach)
        return None

    def _passed_on(self, node: onnx.NodeProto, reach: int) -> Entries | None:
        """The same entries in another shape of one axis at most, or in another wide integer."""
        if node.op_type == "Cast":
            to = next((a.i for a in node.attribute if a.name == "to"), 0)
            if to not in (ElementType.INT64, ElementType.INT32):
                return None
        values = self.of(node.input[0], reach)
        if node.op_type in ("Unsqueeze", "Reshape") and (values is None or len(values) != 1):
            # Of a matrix, one entry would be taken for another; one alone has no order.
            shape = self.types.get(node.output[0], UNKNOWN).shape
            if shape is None or len(shape) > 1:
                return None
        if node.op_type == "Cast" and any(
            isinstance(v, int) and abs(v) >= 2**31 for v in values or ()
        ):
            return None
        return values

    def _picked(self, node: onnx.NodeProto, reach: int) -> Entries | None:
        """Gather(values, i), or Slice(values, start, end) with a step of 1."""
        operands = [self.of(name, reach) for name in node.input]
        values, first = operands[0], operands[1] if len(operands) > 1 else None
        if not first or len(first) != 1 or not isinstance(first[0], int):
            return None
        if values is None:
            # One extent of a shape, whichever it is, is one number.
            source = self._producer(node.input[0])
            is_shape = source is not None and source.op_type == "Shape"
            return [None] if is_shape and node.op_type == "Gather" else None
        if node.op_type == "Gather":
            inside = -len(values) <= first[0] < len(values)
            return [values[first[0]]] if inside else None
        end = operands[2] if len(operands) > 2 else None
        step = operands[4] if len(operands) > 4 else [1]
        if not end or not isinstance(end[0], int) or step != [1]:
            return None
        return values[first[0] : end[0]]

    def _unknown(self, name: str) -> Entries | None:
        shape = self.types.get(name, UNKNOWN).shape
        if shape is None or len(shape) > 1:
            return None
        length = shape[0] if shape else 1
        if not isinstance(length, int) or length > LONGEST_SHAPE_VECTOR:
            return None
        values: Entries = [None] * length
        return values

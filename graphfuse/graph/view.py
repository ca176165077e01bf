"""A read-only view of a model's main graph: nodes, producers, readers, constants, types.

The structure comes from onnx-graphsurgeon; whether something is constant is asked of the
ModelProto, because graphsurgeon calls an initializer constant that a graph input can override.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse import foreign
from graphfuse.errors import ModelError
from graphfuse.graph.inference import ShapeValues, infer_types
from graphfuse.graph.model_file import Model
from graphfuse.graph.shapes import UNKNOWN, collect_types
from graphfuse.graph.tensors import (
    DEFAULT_DOMAINS,
    FLOAT_TYPES,
    read_names,
    subgraphs,
)
from graphfuse.records import Dim, NodeRef, TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEEPS_SCALAR = frozenset(
    ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Flatten")
)
"""Operators whose output has the single value of their first input, whatever its shape."""


ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": lambda left, right: left / right,
}

EXTENTS = frozenset(("Gather", "Slice", "Shape", "Size", "Concat", "ReduceProd"))
"""Operators that make shapes, and take extents out of them."""

NOT_NUMBERS = frozenset(
    (
        onnx.TensorProto.UNDEFINED,
        onnx.TensorProto.STRING,
        onnx.TensorProto.COMPLEX64,
        onnx.TensorProto.COMPLEX128,
    )
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the patterns see it. An absent input or output has the name ''."""

    index: int
    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def ref(self) -> NodeRef:
        """What records keep of the node."""
        return NodeRef(self.index, self.op_type, self.name)

    @property
    def standard(self) -> bool:
        """Whether the operator is of the default domain."""
        return self.domain in DEFAULT_DOMAINS

    def input(self, position: int) -> str:
        """The name of an input, '' when it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""


class GraphView:
    """The main graph of a model, indexed."""

    def __init__(self, model: Model) -> None:
        self.model = model
        proto = model.proto
        self.nodes = tuple(
            Node(
                index,
                node.op,
                node.domain or "",
                node.name,
                tuple(tensor.name for tensor in node.inputs),
                tuple(tensor.name for tensor in node.outputs),
                node.attrs,
            )
            for index, node in enumerate(foreign.surgeon_graph(proto).nodes)
        )
        self.inputs = frozenset(value.name for value in proto.graph.input)
        self.outputs = frozenset(value.name for value in proto.graph.output)
        self.initializers = {
            tensor.name: tensor
            for tensor in proto.graph.initializer
            if tensor.name not in self.inputs
        }
        self._producers: dict[str, Node] = {}
        self._readers: defaultdict[str, list[Node]] = defaultdict(list)
        for node, source in zip(self.nodes, proto.graph.node, strict=True):
            self._index(node, source)
        self._check_names()
        self._declared = collect_types(proto.graph)

    def _index(self, node: Node, source: onnx.NodeProto) -> None:
        for name in read_names(source):
            self._readers[name].append(node)
        for name in node.outputs:
            if not name:
                continue
            if name in self._producers or name in self._readers:
                raise ModelError(
                    f"tensor {name!r} is defined twice, or read before node {node.index} "
                    f"({node.op_type}) defines it",
                    "a graph must be in single-assignment, topological order; "
                    "run onnx.checker on the file",
                )
            self._producers[name] = node

    def _check_names(self) -> None:
        graph = self.model.proto.graph
        known = self.inputs | self._producers.keys()
        known |= {tensor.name for tensor in graph.initializer}
        known |= {tensor.values.name for tensor in graph.sparse_initializer}
        unknown = (self._readers.keys() | self.outputs) - known
        if unknown:
            raise ModelError(
                f"tensor {min(unknown)!r} is read, but nothing defines it",
                "run onnx.checker on the file",
            )

    def producer(self, name: str) -> Node | None:
        """The node that computes a tensor; None for inputs, initializers and outer names."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor, those whose subgraphs capture it included."""
        return self._readers.get(name, [])

    def is_read(self, name: str) -> bool:
        """Whether a node reads a tensor or the graph yields it."""
        return name in self._readers or name in self.outputs

    @cached_property
    def _inferred(self) -> dict[str, TensorType]:
        return infer_types(self.model.proto)

    def type(self, name: str) -> TensorType:
        """A tensor's element type and shape, as declared or else as inferred."""
        declared = self._declared.get(name, UNKNOWN)
        if declared.elem_type and declared.shape is not None and None not in declared.shape:
            return declared
        inferred = self._inferred.get(name, declared)
        return inferred if inferred.shape is not None else declared

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The value of a tensor that nothing can override: an initializer or a Constant node."""
        if name in self.initializers:
            return self.initializers[name]
        node = self.producer(name)
        if node is None or node.op_type != "Constant" or not node.standard:
            return None
        return _constant_value(self.model.proto.graph.node[node.index])

    def behind(self, name: str) -> tuple[str, list[int]]:
        """The tensor behind casts and reshapes of one, and the types that it is cast to."""
        casts: list[int] = []
        node = self.producer(name)
        while node is not None and node.standard and node.op_type in KEEPS_SCALAR:
            if node.op_type == "Cast":
                casts.insert(0, int(node.attributes.get("to", 0)))
            name = node.input(0)
            node = self.producer(name)
        return name, casts

    def scalar(self, name: str, reach: int = 8) -> float | None:
        """The number that a tensor of one element is known to hold, rounded by casts on its way.

        Known are constants, extents (Gather(Shape(x), i) where it is a number), and arithmetic of
        such.
        """
        source, casts = self.behind(name)
        value = self._number(source, reach)
        if value is None:
            return None
        for to in casts:
            if to in NOT_NUMBERS:
                return None
            with np.errstate(all="ignore"):
                value = value.astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        return None if value.dtype.kind in "OSUc" else float(value)

    def _number(self, name: str, reach: int) -> NDArray[Any] | None:
        tensor = self.constant(name)
        if tensor is not None:
            single = int(np.prod(tensor.dims)) == 1
            return self.model.read(tensor).reshape(()) if single else None
        node = self.producer(name)
        shape = self.type(name).shape
        if node is None or not node.standard or not reach or shape is None:
            return None
        if any(extent != 1 for extent in shape):
            return None
        if node.op_type in ARITHMETIC:
            left, right = (self.scalar(operand, reach - 1) for operand in node.inputs)
            if left is None or right is None or (right == 0 and node.op_type == "Div"):
                return None
            if self.type(name).elem_type not in FLOAT_TYPES:
                return None
            return np.asarray(ARITHMETIC[node.op_type](left, right))
        if node.op_type in EXTENTS:
            values = self._extents.of(name)
            if values and len(values) == 1 and isinstance(values[0], int):
                return np.asarray(values[0])
        return None

    def shape_value(self, name: str) -> tuple[Dim, ...] | None:
        """The entries of a tensor that is a shape, as far as they are known."""
        values = self._extents.of(name) if name else None
        return None if values is None else tuple(values)

    @cached_property
    def _extents(self) -> ShapeValues:
        return ShapeValues(self.model.proto.graph, self._inferred)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """The values of a small constant integer tensor, flat: axes, shapes."""
        tensor = self.constant(self.behind(name)[0])
        if tensor is None or tensor.data_type not in (6, 7) or int(np.prod(tensor.dims)) > 64:
            return None
        return tuple(int(value) for value in self.model.read(tensor).reshape(-1))

    def is_weight(self, name: str) -> bool:
        """Whether a tensor can be a parameter: an initializer, or computed from such alone.

        Initializers that an input can override count. Activations do not, whatever their shape:
        so no parameter can depend on a sum.
        """
        return name in self._weights

    @cached_property
    def _weights(self) -> set[str]:
        graph = self.model.proto.graph
        known = {tensor.name for tensor in graph.initializer}
        known.update(tensor.values.name for tensor in graph.sparse_initializer)
        for node, source in zip(self.nodes, graph.node, strict=True):
            constant = node.op_type == "Constant" and node.standard
            derived = bool(node.inputs) and all(not n or n in known for n in node.inputs)
            if (constant or derived) and not any(subgraphs(source)):
                known.update(name for name in node.outputs if name)
        return known


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        match attribute.name:
            case "value":
                return attribute.t
            case "value_float":
                return onnx.numpy_helper.from_array(np.array(attribute.f, np.float32))
            case "value_int":
                return onnx.numpy_helper.from_array(np.array(attribute.i, np.int64))
            case "value_floats":
                return onnx.numpy_helper.from_array(np.array(attribute.floats, np.float32))
            case "value_ints":
                return onnx.numpy_helper.from_array(np.array(attribute.ints, np.int64))
            case _:
                return None
    return None

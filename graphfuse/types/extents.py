"""The type of each tensor when the extents of all inputs are numbers.

onnx's inference knows no values but those of its own data propagation, so it loses an extent that
goes through a Range, a Where or a division. Here a second walk, node by node, computes the small
integer tensors that become extents (onnx.reference) and infers each type with them at hand
(onnx.shape_inference.infer_node_outputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from graphfuse.graph.constants import run_node
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.tensors import default_opset, is_external, subgraphs
from graphfuse.records import TensorType
from graphfuse.records.element_types import ElementType
from graphfuse.types.inference import inferred
from graphfuse.types.shapes import UNKNOWN, GraphTypes, type_of, weightless

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SMALL_VALUES = 1024
"""Elements of a tensor whose values are kept: more are no shape."""

COMPUTING = having(Trait.COMPUTES_SHAPES)
"""What extents are computed by; others may draw, or take long."""

Shapes = Mapping[str, tuple[int, ...]]


def typed(proto: onnx.ModelProto, shapes: Shapes) -> tuple[onnx.GraphProto, dict[str, TensorType]]:
    """The main graph, functions written out, and the types that its tensors have at these shapes.

    What only a run tells has an unknown shape.
    """
    skeleton = weightless(proto)
    if skeleton.functions:
        skeleton = onnx.inliner.inline_local_functions(skeleton)
    for value in skeleton.graph.input:
        if value.name in shapes and value.type.HasField("tensor_type"):
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            for extent in shapes[value.name]:
                dims.add(dim_value=extent)
    # What the file says of them holds for any size: symbols.
    del skeleton.graph.value_info[:]
    for value in skeleton.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = inferred(skeleton).graph
    types = dict(GraphTypes(graph))
    if any(elements(types.get(n, UNKNOWN)) is None for node in graph.node for n in node.output):
        _Walk(graph, types, default_opset(skeleton)).run()
    return graph, types


def elements(kind: TensorType) -> int | None:
    """The number of elements, where every extent is known."""
    if kind.shape is None or not all(isinstance(dim, int) for dim in kind.shape):
        return None
    return prod(dim for dim in kind.shape if isinstance(dim, int))


class _Walk:
    """A walk over a graph that completes the types of its tensors."""

    def __init__(
        self, graph: onnx.GraphProto, types: dict[str, TensorType], opset: int | None
    ) -> None:
        self._graph, self._types, self._opset = graph, types, opset or 1
        self._values: dict[str, Array] = {}
        for tensor in graph.initializer:
            self._keep(tensor.name, tensor)

    def _keep(self, name: str, tensor: onnx.TensorProto) -> None:
        if not is_external(tensor) and prod(tensor.dims) <= SMALL_VALUES:
            self._values[name] = numpy_helper.to_array(tensor)

    def run(self) -> None:
        """Go through the nodes in order."""
        for node in self._graph.node:
            if node.domain or any(True for _ in subgraphs(node)):
                continue
            unknown = [n for n in node.output if n and self._elements(n) is None]
            # What an operator refuses to infer or to compute stays unknown.
            if unknown:
                self._infer(node)
            self._fold(node)

    def _elements(self, name: str) -> int | None:
        return elements(self._types.get(name, UNKNOWN))

    def _infer(self, node: onnx.NodeProto) -> None:
        given = {name: _proto(self._types[name]) for name in node.input if name in self._types}
        data = {
            name: numpy_helper.from_array(self._values[name], name)
            for name in node.input
            if name in self._values
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset)
            imports = [helper.make_opsetid("", self._opset)]
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, given, data, opset_imports=imports
            )
        except Exception:
            # onnx has an exception of its own for each of schema, type and shape.
            return
        for name, kind in found.items():
            new = type_of(kind)
            if elements(new) is not None or name not in self._types:
                self._types[name] = new

    def _fold(self, node: onnx.NodeProto) -> None:
        """Compute a small tensor whose operands are known."""
        output = node.output[0] if node.output else ""
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            self._keep(output, node.attribute[0].t)
        elif node.op_type in ("Shape", "Size"):
            self._fold_shape(node, output)
        elif self._is_small(node, output):
            self._compute(node)

    def _is_small(self, node: onnx.NodeProto, output: str) -> bool:
        """Whether a node is computed fast: what it yields must be known to be small before."""
        known = node.op_type in COMPUTING and all(n in self._values for n in node.input if n)
        size = self._elements(output)
        return (known or node.op_type == "Constant") and size is not None and size <= SMALL_VALUES

    def _fold_shape(self, node: onnx.NodeProto, output: str) -> None:
        shape = self._types.get(node.input[0], UNKNOWN).shape
        if shape is None:
            return
        given = {a.name: a.i for a in node.attribute}
        part = shape[slice(given.get("start", 0), given.get("end"))]
        if all(isinstance(dim, int) for dim in part):
            numbers = np.array(part, np.int64)
            self._values[output] = numbers if node.op_type == "Shape" else numbers.prod()

    def _compute(self, node: onnx.NodeProto) -> None:
        operands = {name: self._values[name] for name in node.input if name}
        try:
            results = run_node(node, operands, self._opset)
        except Exception:
            # onnx.reference raises whatever an operator raised.
            return
        for name, array in results.items():
            if array.size <= SMALL_VALUES and array.dtype.kind in "biuf":
                self._values[name] = array
                elem_type = ElementType(helper.np_dtype_to_tensor_dtype(array.dtype))
                self._types[name] = TensorType(elem_type, array.shape)


def _proto(kind: TensorType) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind.elem_type, kind.shape)

"""Standard nodes that stand for one which onnx has no inference for, as far as types go.

What they compute does not matter: only that outputs get the element type and extents that the
operator gives them, and nothing where that is not known. They are spelled alike in every opset
from 7 on, but for Einsum (12), which an older graph gets as a function of its own opset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import onnx
from onnx import helper

from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.records.element_types import ElementType

DOMAIN = "graphfuse.types"
"""The domain of functions that hold nodes of another opset than the graph's."""

OPSET = 17
"""The opset of such functions."""

EINSUM_SINCE = 12


class Surroundings:
    """What a graph says of its tensors without any inference: ranks, and element types."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph

    @cached_property
    def _declared(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        values = (*self._graph.input, *self._graph.output, *self._graph.value_info)
        return {value.name: value.type.tensor_type for value in values}

    @cached_property
    def _weights(self) -> Mapping[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self._graph.initializer}

    @cached_property
    def _producers(self) -> Mapping[str, onnx.NodeProto]:
        return {name: node for node in self._graph.node for name in node.output if name}

    def rank(self, name: str) -> int | None:
        """A tensor's rank, where it is a weight, declared, or the result of a Transpose."""
        if name in self._weights:
            return len(self._weights[name].dims)
        if name in self._declared and self._declared[name].HasField("shape"):
            return len(self._declared[name].shape.dim)
        node = self._producers.get(name)
        if node is None or node.op_type != "Transpose" or node.domain not in DEFAULT_DOMAINS:
            return None
        return next((len(a.ints) for a in node.attribute if a.name == "perm"), None)

    def elem_type(self, name: str) -> int:
        """A tensor's element type, where it is a weight or declared; else 0."""
        if name in self._weights:
            return self._weights[name].data_type
        return self._declared[name].elem_type if name in self._declared else 0


class StandIns:
    """The nodes that stand for one node, while they are put together.

    Each method adds nodes and gives the name of their result. `to` is called last, once for each
    output that becomes known.
    """

    def __init__(self, node: onnx.NodeProto, around: Surroundings) -> None:
        self.node, self.around = node, around
        self.nodes: list[onnx.NodeProto] = []
        self._attributes = {attribute.name: attribute for attribute in node.attribute}
        self.unsure = False
        """Whether an attribute was asked for that only the caller of a function gives."""
        base = next((name for name in node.output if name), "")
        self._base = f"{base}/graphfuse_type_"

    def input(self, position: int) -> str:
        """The input's name, '' where it is left out."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def has_output(self, position: int) -> bool:
        """Whether the node gives this output."""
        return position < len(self.node.output) and bool(self.node.output[position])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = self._attributes.get(name)
        if found is None:
            return default
        if found.ref_attr_name:
            self.unsure = True
            return default
        return helper.get_attribute_value(found)

    def kept(self, *names: str) -> dict[str, Any]:
        """Those of these attributes that the node has."""
        return {name: self.attribute(name) for name in names if name in self._attributes}

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One node of ONNX's own."""
        name = f"{self._base}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def to(self, position: int, name: str) -> None:
        """An output has the type of a tensor."""
        if self.has_output(position):
            output = self.node.output[position]
            self.nodes.append(helper.make_node("Identity", [name], [output]))

    def ints(self, values: Iterable[int]) -> str:
        """A constant vector."""
        entries = list(values)
        tensor = helper.make_tensor("", ElementType.INT64, [len(entries)], entries)
        return self.add("Constant", [], value=tensor)

    def zeros(self, *shape: int) -> str:
        """A float tensor of a shape."""
        return self.add("ConstantOfShape", [self.ints(shape)])

    def like(self, shape: str, typed: str) -> str:
        """The shape of one tensor, the element type of another."""
        # Arithmetic has the type of its first operand; what is summed over all axes is a scalar.
        return self.add("Mul", [self.add("ReduceSum", [typed], keepdims=0), shape])

    def einsum(self, equation: str, *inputs: str) -> str:
        """Extents by their letters; unknown where an input has not as many."""
        return self.add("Einsum", inputs, equation=equation)

    def last(self, name: str, extent: int) -> str:
        """A tensor whose last axis has another extent."""
        return self.einsum("...k,n->...n", name, self.zeros(extent))

    def parts(self, name: str, rank: int, parts: int, taken: int = 1) -> str:
        """A number of equal parts of the last axis of a tensor of this rank."""
        before = [0] * (rank - 1)
        split = self.add("Reshape", [name, self.ints([*before, parts, -1])])
        some = self.add("Gather", [split, self.ints(range(taken))], axis=rank - 1)
        return self.add("Reshape", [some, self.ints([*before, -1])])

    def channels_first(self, name: str, rank: int) -> str:
        """A tensor whose last axis becomes its second."""
        return self.add("Transpose", [name], perm=[0, rank - 1, *range(1, rank - 1)])

    def channels_last(self, name: str, rank: int) -> str:
        """A tensor whose second axis becomes its last."""
        return self.add("Transpose", [name], perm=[0, *range(2, rank), 1])

    def finished(self, opset: int) -> tuple[list[onnx.NodeProto], onnx.FunctionProto | None]:
        """The nodes, for a graph of an opset; as one call of a function where it is too old."""
        einsum = any(node.op_type == "Einsum" for node in self.nodes)
        if not einsum or opset >= EINSUM_SINCE:
            return self.nodes, None
        inputs = [*dict.fromkeys(name for name in self.node.input if name)]
        made = {name for node in self.nodes for name in node.output}
        outputs = [name for name in self.node.output if name in made]
        imports = [helper.make_opsetid("", OPSET)]
        function = helper.make_function(
            DOMAIN, f"{DOMAIN}/{outputs[0]}", inputs, outputs, self.nodes, imports
        )
        call = helper.make_node(function.name, inputs, outputs, domain=DOMAIN)
        return [call], function


StandInRule = Callable[[StandIns], bool]
"""Adds the nodes that stand for one; whether it could."""


def first(s: StandIns) -> bool:
    """Output 0 has the type of input 0."""
    return same(s, 0)


def same(s: StandIns, position: int) -> bool:
    """Output 0 has the type of an input."""
    s.to(0, s.input(position))
    return True

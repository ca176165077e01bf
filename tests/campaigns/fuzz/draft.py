"""A graph under construction: nodes, constants, inputs and outputs, with plain names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
FLOAT16, BFLOAT16 = TensorProto.FLOAT16, TensorProto.BFLOAT16
INT64, BOOL = TensorProto.INT64, TensorProto.BOOL

Dim = int | str


@dataclass(frozen=True)
class Value:
    """A graph input or output. `sizes` are the extents that it is fed with."""

    name: str
    elem_type: int
    shape: tuple[Dim, ...]
    sizes: tuple[int, ...]

    def proto(self) -> onnx.ValueInfoProto:
        """As ONNX has it."""
        return helper.make_tensor_value_info(self.name, self.elem_type, list(self.shape))


@dataclass
class Draft:
    """Nodes in topological order. `constants` become initializers or Constant nodes later."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    overridable: list[str] = field(default_factory=list)
    """Constants that are graph inputs as well, so that a feed may replace them."""
    _made: int = 0

    def fresh(self, hint: str = "t") -> str:
        """A name that nothing has."""
        self._made += 1
        return f"{hint}{self._made}"

    def node(
        self, op_type: str, inputs: Sequence[str], hint: str = "t", domain: str = "", **kwargs: Any
    ) -> str:
        """Append a node of one output and give the output's name."""
        name = self.fresh(hint)
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], domain=domain, **kwargs))
        return name

    def constant(self, array: np.ndarray, hint: str = "k") -> str:
        """Add a constant and give its name."""
        name = self.fresh(hint)
        self.constants[name] = array
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Add a constant of int64: axes, shapes."""
        return self.constant(np.array(values, np.int64))

    def unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        """Axes are an attribute below opset 13 and an input from there on."""
        if self.opset < 13:
            return self.node("Unsqueeze", [name], axes=list(axes))
        return self.node("Unsqueeze", [name, self.integers(axes)])

    def squeeze(self, name: str, axes: Sequence[int]) -> str:
        """As for Unsqueeze."""
        if self.opset < 13:
            return self.node("Squeeze", [name], axes=list(axes))
        return self.node("Squeeze", [name, self.integers(axes)])

    def reduce(self, op_type: str, name: str, axes: Sequence[int] | None, keepdims: int) -> str:
        """Axes are an attribute below opset 18 (13 for ReduceSum) and an input from there on."""
        if axes is None:
            return self.node(op_type, [name], keepdims=keepdims)
        if self.opset < (13 if op_type == "ReduceSum" else 18):
            return self.node(op_type, [name], axes=list(axes), keepdims=keepdims)
        return self.node(op_type, [name, self.integers(axes)], keepdims=keepdims)

    def cast(self, name: str, elem_type: int) -> str:
        """A cast to a type."""
        return self.node("Cast", [name], to=elem_type)


def dtype_of(elem_type: int) -> np.dtype[Any]:
    """numpy's type."""
    return helper.tensor_dtype_to_np_dtype(elem_type)


def rounded(value: float, elem_type: int) -> float:
    """A number as a type holds it."""
    return float(np.float64(value).astype(dtype_of(elem_type)))


def ir_version(opset: int) -> int:
    """An IR version that has functions and the opset."""
    return 8 if opset < 19 else 9 if opset < 21 else 10 if opset < 23 else 11


def model_of(draft: Draft, opset_domains: Sequence[str] = ()) -> onnx.ModelProto:
    """The draft as a model: constants that are left are initializers."""
    graph = helper.make_graph(
        draft.nodes,
        "g",
        [value.proto() for value in draft.inputs],
        [value.proto() for value in draft.outputs],
        [numpy_helper.from_array(array, name) for name, array in draft.constants.items()],
    )
    for name in draft.overridable:
        tensor = next(t for t in graph.initializer if t.name == name)
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    imports = [helper.make_opsetid("", draft.opset)]
    imports += [helper.make_opsetid(domain, 1) for domain in opset_domains]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version(draft.opset))

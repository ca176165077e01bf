"""What is a constant of a model: numbers, and axes behind a Cast, a Concat, a Range.

onnx.reference evaluates the nodes. What a node may grow to is looked at first: a Range or an Expand
of a few bytes can ask for all memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.graph.nodes import constant_value
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.tensors import DEFAULT_DOMAINS, is_external, subgraphs
from graphfuse.system import machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ARITHMETIC: Mapping[str, Callable[[list[float]], float]] = {
    "Add": lambda operands: operands[0] + operands[1],
    "Sub": lambda operands: operands[0] - operands[1],
    "Mul": lambda operands: operands[0] * operands[1],
    "Div": lambda operands: operands[0] / operands[1],
    "Pow": lambda operands: math.pow(operands[0], operands[1]),
    "Neg": lambda operands: -operands[0],
    "Reciprocal": lambda operands: 1 / operands[0],
    "Sqrt": lambda operands: math.sqrt(operands[0]),
}

LARGEST_CONSTANT = 64
"""Elements of a constant that is computed: axes and shapes have a handful."""
MOST_NODES = 32
"""How many nodes are evaluated for one constant."""


def _of_range(operands: Sequence[Array]) -> float:
    start, limit, step = (float(array.reshape(-1)[0]) for array in operands)
    return (limit - start) / step


GROWING: Mapping[str, Callable[[Sequence[Array]], float]] = {
    "ConstantOfShape": lambda operands: math.prod(map(int, operands[0].reshape(-1))),
    "Expand": lambda operands: operands[0].size * math.prod(map(int, operands[1].reshape(-1))),
    "Tile": lambda operands: operands[0].size * math.prod(map(int, operands[1].reshape(-1))),
    "Range": _of_range,
}
"""How many elements those are asked for at most whose operands' values say it."""

COMPUTING = having(Trait.COMPUTES_SHAPES)
assert GROWING.keys() == having(Trait.GROWS)

WITH_AXES = having(Trait.REDUCES) | {"Squeeze", "Unsqueeze"}
"""Operators whose second input, if they have one, are axes."""


class Computed:
    """Computes constants of one graph; `constant` and `producer` say what a tensor is."""

    def __init__(
        self,
        constant: Callable[[str], Array | None],
        producer: Callable[[str], onnx.NodeProto | None],
        opset: int,
    ) -> None:
        self._constant, self._producer, self._opset = constant, producer, opset
        self._found: dict[str, Array | None] = {}
        self._left = MOST_NODES

    def of(self, name: str) -> Array | None:
        """The value of a tensor, if it is a small constant or computed from such alone."""
        if name not in self._found:
            # What is looked at is unknown meanwhile: a circle has no value.
            self._found[name] = None
            self._found[name] = self._look(name)
        return self._found[name]

    def _look(self, name: str) -> Array | None:
        value = self._constant(name)
        if value is not None:
            return value if value.size <= LARGEST_CONSTANT else None
        node = self._producer(name)
        if node is None or node.domain not in DEFAULT_DOMAINS or not self._left:
            return None
        if node.op_type not in COMPUTING:
            return None
        if len(node.input) > LARGEST_CONSTANT or any(a.ref_attr_name for a in node.attribute):
            return None
        self._left -= 1
        operands = {each: self.of(each) for each in node.input if each}
        known = {each: array for each, array in operands.items() if array is not None}
        if not known or len(known) < len(operands):
            return None
        try:
            growing = GROWING.get(node.op_type)
            if growing and not growing([known[each] for each in node.input]) <= LARGEST_CONSTANT:
                return None
            return self._evaluated(node, known, list(node.output).index(name))
        except Exception as error:
            # onnx.reference raises whatever numpy does: then the model has no such constant.
            machine.check(error, f"computing constant {name!r}")
            return None

    def _evaluated(
        self, node: onnx.NodeProto, operands: Mapping[str, Array], output: int
    ) -> Array | None:
        value = run_node(node, operands, self._opset)[node.output[output]]
        return value if value.size <= LARGEST_CONSTANT else None


def run_node(node: onnx.NodeProto, operands: Mapping[str, Array], opset: int) -> dict[str, Array]:
    """What a node of ONNX computes from its operands, by output.

    Raises whatever onnx.reference does, which is whatever numpy does.
    """
    # Only where a model computes constants: it takes a third of a second to import.
    from onnx.reference import ReferenceEvaluator

    model = onnx.ModelProto(ir_version=10)
    model.opset_import.add(domain="", version=opset)
    model.graph.name = "node"
    model.graph.node.append(node)
    for name in operands:
        # The evaluator looks at the array.
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, 0, None))
    names = [name for name in node.output if name]
    for name in names:
        model.graph.output.add(name=name)
    evaluator: Any = ReferenceEvaluator(model)
    with np.errstate(all="ignore"):
        results = evaluator.run(None, dict(operands))
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def show_axes(
    graph: onnx.GraphProto, opset: int, outer: Mapping[str, onnx.TensorProto] | None = None
) -> list[str]:
    """Write axes that a graph computes from constants as Constants, for onnx's shape inference.

    It knows the axes of a reduction only where they are an initializer or a Constant. Those that
    the graph does not define are given back: the one around it may.
    """
    own = {value.name for value in graph.input}
    known = {**(outer or {}), **{tensor.name: tensor for tensor in graph.initializer}}
    known = {name: tensor for name, tensor in known.items() if name not in own}
    asked: list[str] = []
    for node in graph.node:
        if node.attribute and any(subgraphs(node)):
            for body in subgraphs(node):
                asked += show_axes(body, opset, known)
        reads = len(node.input) > 1 and node.domain in DEFAULT_DOMAINS
        if reads and node.op_type in WITH_AXES:
            asked += [node.input[1]] if node.input[1] not in known else []
    if not asked:
        return []
    makers = {name: node for node in graph.node for name in node.output if name}

    def constant(name: str) -> Array | None:
        node = makers.get(name)
        is_constant = node is not None and node.op_type == "Constant"
        tensor = constant_value(node) if node is not None and is_constant else known.get(name)
        if tensor is None or is_external(tensor) or math.prod(tensor.dims) > LARGEST_CONSTANT:
            return None
        return onnx.numpy_helper.to_array(tensor)

    for name in dict.fromkeys(asked):
        maker = makers.get(name)
        if maker is None or maker.op_type == "Constant" or len(maker.output) != 1:
            continue
        value = Computed(constant, makers.get, opset).of(name)
        if value is not None and value.dtype == np.int64:
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value))
            maker.CopyFrom(onnx.helper.make_node("Constant", [], maker.output, value=tensor))
    return [name for name in asked if name not in makers and name not in own]

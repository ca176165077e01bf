"""A float64 evaluator of ONNX models: what a graph means, whatever types it is computed in.

Casts between float types are lifted, so that meanings are compared and not roundings: a scale that
a fusion computes from weights is rounded to its type once, which is no difference in meaning.
The fused operators are evaluated by their definition, or by their function if `inline` is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper, numpy_helper

from tests.campaigns.fuzz.draft import dtype_of

Array = np.ndarray
FUSED = {"AddLayerNormalization": True, "AddRMSNormalization": False}
"""graphfuse's operators: whether the mean is subtracted."""
FLOATS = (1, 10, 11, 16)


Scope = dict[str, Array]


def evaluate(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    *,
    inline: bool = False,
    nudge: float = 0.0,
) -> dict[str, Array]:
    """Every value of the main graph in float64, by name.

    `nudge` changes the epsilon of fused nodes by that share.
    """
    run = _Run(model, inline, nudge)
    scope: Scope = {name: _lifted(array) for name, array in feeds.items()}
    run.graph(model.graph, scope)
    return scope


def _lifted(array: Array) -> Array:
    return array if array.dtype.kind in "biu" else array.astype(np.float64)


class _Run:
    def __init__(self, model: onnx.ModelProto, inline: bool, nudge: float) -> None:
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.inline = inline
        self.nudge = nudge

    def graph(self, graph: onnx.GraphProto, scope: Scope) -> list[Array]:
        """Run a graph in a scope: a feed of the same name replaces an initializer."""
        given = {value.name for value in graph.input if value.name in scope}
        for tensor in graph.initializer:
            if tensor.name not in given:
                scope[tensor.name] = _lifted(numpy_helper.to_array(tensor))
        self.nodes(graph.node, scope, {})
        return [scope[value.name] for value in graph.output]

    def nodes(
        self, nodes: Iterable[NodeProto], scope: Scope, references: Mapping[str, AttributeProto]
    ) -> None:
        for node in nodes:
            attributes = dict(_attributes(node, references))
            inputs = [scope[name] if name else None for name in node.input]
            outputs = self.node(node, inputs, attributes, scope)
            for name, item in zip(node.output, outputs, strict=False):
                if name:
                    scope[name] = item

    def node(
        self,
        node: NodeProto,
        inputs: list[Array | None],
        attributes: dict[str, AttributeProto],
        scope: Scope,
    ) -> list[Array]:
        if node.domain == "graphfuse" and not self.inline and node.op_type in FUSED:
            return self.fused(node.op_type, inputs, attributes)
        function = self.functions.get((node.domain, node.op_type))
        if function is not None:
            return self.call(function, inputs, attributes)
        if node.op_type == "If":
            return self.branch(inputs, attributes, scope)
        if node.op_type == "Loop":
            return self.loop(inputs, attributes, scope)
        values = {name: helper.get_attribute_value(a) for name, a in attributes.items()}
        with np.errstate(all="ignore"):
            return [np.asarray(output) for output in _standard(node, inputs, values)]

    def fused(
        self, op_type: str, inputs: list[Array | None], attributes: dict[str, AttributeProto]
    ) -> list[Array]:
        """Sum = A + B; Y = scale * (Sum - m) / sqrt(variance + epsilon) + bias."""
        a, b, *parameters = (item for item in inputs if item is not None)
        epsilon = attributes["epsilon"].f if "epsilon" in attributes else float(np.float32(1e-5))
        axis = attributes["axis"].i if "axis" in attributes else -1
        epsilon *= 1 + self.nudge
        with np.errstate(all="ignore"):
            total = a + b
            normal = normalized(total, epsilon, FUSED[op_type], axis) * parameters[0]
            if len(parameters) > 1:
                normal = normal + parameters[1]
        return [normal, total]

    def call(
        self,
        function: onnx.FunctionProto,
        inputs: list[Array | None],
        attributes: dict[str, AttributeProto],
    ) -> list[Array]:
        """A function sees its inputs and attributes, nothing else."""
        given = zip(function.input, inputs, strict=False)
        inner: Scope = {name: item for name, item in given if item is not None}
        references = {a.name: a for a in function.attribute_proto} | attributes
        self.nodes(function.node, inner, references)
        return [inner[name] for name in function.output]

    def branch(
        self, inputs: list[Array | None], attributes: dict[str, AttributeProto], scope: Scope
    ) -> list[Array]:
        assert inputs[0] is not None
        branch = "then_branch" if bool(inputs[0]) else "else_branch"
        return self.graph(attributes[branch].g, dict(scope))

    def loop(
        self, inputs: list[Array | None], attributes: dict[str, AttributeProto], scope: Scope
    ) -> list[Array]:
        """Carried values only; scan outputs are stacked."""
        body = attributes["body"].g
        trips = int(inputs[0]) if inputs[0] is not None else 1_000
        going = inputs[1] is None or bool(inputs[1])
        carried = [item for item in inputs[2:] if item is not None]
        scans: list[list[Array]] = [[] for _ in body.output[1 + len(carried) :]]
        trip = 0
        while going and trip < trips:
            inner = dict(scope)
            given = [np.array(trip), np.array(going), *carried]
            inner |= {v.name: item for v, item in zip(body.input, given, strict=True)}
            outputs = self.graph(body, inner)
            going, carried = bool(outputs[0]), outputs[1 : 1 + len(carried)]
            for scan, item in zip(scans, outputs[1 + len(carried) :], strict=True):
                scan.append(item)
            trip += 1
        return [*carried, *(np.stack(scan) for scan in scans)]


def normalized(x: Array, epsilon: float, centred: bool, axis: int = -1) -> Array:
    """(x - m) / sqrt(mean((x - m)^2) + epsilon)."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    deviation = x - x.mean(axes, keepdims=True) if centred else x
    return deviation / np.sqrt((deviation**2).mean(axes, keepdims=True) + epsilon)


def _attributes(
    node: NodeProto, references: Mapping[str, AttributeProto]
) -> Iterable[tuple[str, AttributeProto]]:
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            yield attribute.name, attribute
        elif attribute.ref_attr_name in references:
            yield attribute.name, references[attribute.ref_attr_name]


Values = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Values], Any]


def _standard(node: NodeProto, inputs: Sequence[Any], values: Values) -> list[Any]:
    """The outputs of an operator of ONNX's own domain."""
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        raise KeyError(f"{node.domain}.{kind}")
    if kind == "Cast":
        return [_cast(inputs[0], int(values["to"]))]
    if kind == "CastLike":
        return [inputs[0]]
    if kind in REDUCTIONS:
        return [_reduced(kind, inputs, values)]
    if kind == "LayerNormalization":
        return _layer_normalization(inputs, values)
    return [OPERATORS[kind](inputs, values)]


def _cast(array: Array, to: int) -> Array:
    if to not in FLOATS:
        return array.astype(dtype_of(to))
    return array.astype(np.float64)


def _reduced(kind: str, inputs: Sequence[Any], values: Values) -> Array:
    axes = values.get("axes") if len(inputs) < 2 or inputs[1] is None else inputs[1].tolist()
    keepdims = bool(values.get("keepdims", 1))
    return REDUCTIONS[kind](inputs[0], tuple(axes) if axes else None, keepdims)


def _layer_normalization(inputs: Sequence[Any], values: Values) -> list[Any]:
    x, axis = inputs[0], int(values.get("axis", -1))
    epsilon = float(values.get("epsilon", np.float32(1e-5)))
    y = normalized(x, epsilon, True, axis) * inputs[1]
    if len(inputs) > 2 and inputs[2] is not None:
        y = y + inputs[2]
    axes = tuple(range(axis % x.ndim, x.ndim))
    return [y, x.mean(axes, keepdims=True), 1 / np.sqrt(x.var(axes, keepdims=True) + epsilon)]


def _rms_normalization(inputs: Sequence[Any], values: Values) -> Array:
    epsilon = float(values.get("epsilon", np.float32(1e-5)))
    return normalized(inputs[0], epsilon, False, int(values.get("axis", -1))) * inputs[1]


def _constant(_: Sequence[Any], values: Values) -> Array:
    ((name, value),) = values.items()
    if name == "value":
        return _lifted(numpy_helper.to_array(value))
    kind = np.int64 if "int" in name else np.float64
    return np.array(value, kind)


def _axes(inputs: Sequence[Any], values: Values) -> tuple[int, ...] | None:
    axes = values.get("axes") if len(inputs) < 2 else inputs[1].tolist()
    return None if axes is None else tuple(axes)


def _squeeze(inputs: Sequence[Any], values: Values) -> Array:
    return np.squeeze(inputs[0], _axes(inputs, values))


def _unsqueeze(inputs: Sequence[Any], values: Values) -> Array:
    axes = _axes(inputs, values)
    assert axes is not None
    return np.expand_dims(inputs[0], axes)


def _reshape(inputs: Sequence[Any], _: Values) -> Array:
    shape = inputs[1].tolist()
    return inputs[0].reshape([inputs[0].shape[i] if d == 0 else d for i, d in enumerate(shape)])


REDUCTIONS: dict[str, Callable[[Array, Any, bool], Array]] = {
    "ReduceMean": lambda a, axes, k: a.mean(axes, keepdims=k),
    "ReduceSum": lambda a, axes, k: a.sum(axes, keepdims=k),
    "ReduceSumSquare": lambda a, axes, k: (a**2).sum(axes, keepdims=k),
    "ReduceL1": lambda a, axes, k: np.abs(a).sum(axes, keepdims=k),
    "ReduceL2": lambda a, axes, k: np.sqrt((a**2).sum(axes, keepdims=k)),
    "ReduceMax": lambda a, axes, k: a.max(axes, keepdims=k),
}

OPERATORS: dict[str, Operator] = {
    "Abs": lambda i, _: np.abs(i[0]),
    "Add": lambda i, _: i[0] + i[1],
    "Concat": lambda i, v: np.concatenate(i, axis=int(v["axis"])),
    "Constant": _constant,
    "Div": lambda i, _: i[0] / i[1],
    "Dropout": lambda i, _: i[0],
    "Expand": lambda i, _: i[0] * np.ones(i[1].tolist()),
    "Gather": lambda i, v: np.take(i[0], i[1].astype(np.int64), axis=int(v.get("axis", 0))),
    "Identity": lambda i, _: i[0],
    "LeakyRelu": lambda i, v: np.where(i[0] < 0, i[0] * v.get("alpha", 0.01), i[0]),
    "MatMul": lambda i, _: i[0] @ i[1],
    "Max": lambda i, _: np.maximum(i[0], i[1]),
    "Mul": lambda i, _: i[0] * i[1],
    "Neg": lambda i, _: -i[0],
    "Pow": lambda i, _: np.power(i[0], i[1]),
    "Reciprocal": lambda i, _: 1 / i[0],
    "Relu": lambda i, _: np.maximum(i[0], 0),
    "Reshape": _reshape,
    "RMSNormalization": _rms_normalization,
    "Shape": lambda i, v: np.array(i[0].shape[v.get("start", 0) : v.get("end")], np.int64),
    "Sigmoid": lambda i, _: 1 / (1 + np.exp(-i[0])),
    "Sqrt": lambda i, _: np.sqrt(i[0]),
    "Squeeze": _squeeze,
    "Sub": lambda i, _: i[0] - i[1],
    "Sum": lambda i, _: sum(i[1:], i[0]),
    "Tanh": lambda i, _: np.tanh(i[0]),
    "Transpose": lambda i, v: np.transpose(i[0], v.get("perm")),
    "Unsqueeze": _unsqueeze,
}

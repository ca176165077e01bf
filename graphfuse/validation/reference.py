"""The float64 twin of a model: what it means, free of rounding.

Weights and inputs are upcast, casts to lower float types are lifted, and fused nodes are evaluated
from their own attributes by the formulas below, which share no code with the rewriter. Evaluation
is by onnx.reference, with own implementations where that one computes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graphfuse.errors import ValidationError
from graphfuse.graph.inference import infer_types
from graphfuse.graph.model_file import Model
from graphfuse.graph.tensors import FLOAT_TYPES, subgraphs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FUSED_DOMAINS = ("graphfuse", "com.microsoft")

EPSILON, CONTRIB_EPSILON = float(np.float32(1e-5)), float(np.float32(1e-12))
"""The operators' defaults; ONNX attributes are float32."""

ZERO64 = helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0])


class UnsupportedModelError(ValidationError):
    """The model holds an operator that has no float64 reference."""


def normalized(x: Array, centred: bool, axis: int, epsilon: float) -> Array:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) over the axes from `axis` on.

    Source: Ba, Kiros, Hinton 2016 (centred); Zhang, Sennrich 2019 (mean taken as 0).
    """
    axes = tuple(range(axis % x.ndim, x.ndim))
    deviation = x - x.mean(axis=axes, keepdims=True) if centred else x
    variance = np.mean(deviation * deviation, axis=axes, keepdims=True)
    return deviation / np.sqrt(variance + epsilon)


def _erf(x: Array) -> Array:
    flat = np.fromiter(map(math.erf, x.reshape(-1)), np.float64, x.size)
    return flat.reshape(x.shape)


class Erf(OpRun):
    """erf in float64; onnx.reference rounds it to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (_erf(x),)


class Gelu(OpRun):
    """x * Phi(x), exactly or by its tanh approximation, in float64."""

    op_domain = ""

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Array, approximate: str = "none"
    ) -> tuple[Array]:
        if approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return (0.5 * x * (1 + np.tanh(inner)),)
        return (0.5 * x * (1 + _erf(x / math.sqrt(2))),)


class GatherElements(OpRun):
    """Elements picked along one axis; onnx.reference fails where that axis is long."""

    op_domain = ""

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, data: Array, indices: Array, axis: int = 0
    ) -> tuple[Array]:
        axis %= data.ndim
        extents = [slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape)]
        return (np.take_along_axis(data[tuple(extents)], indices % data.shape[axis], axis),)


class LayerNormalization(OpRun):
    """ONNX's LayerNormalization in float64, its optional outputs included."""

    op_domain = ""

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Array,
        scale: Array,
        bias: Array | None = None,
        axis: int = -1,
        epsilon: float = EPSILON,
        stash_type: int = 1,
    ) -> tuple[Array, ...]:
        axes = tuple(range(axis % x.ndim, x.ndim))
        middle = x.mean(axis=axes, keepdims=True)
        inverse = 1 / np.sqrt(((x - middle) ** 2).mean(axis=axes, keepdims=True) + epsilon)
        y = (x - middle) * inverse * scale
        outputs = (y if bias is None else y + bias, middle, inverse)
        return outputs[: len(self.onnx_node.output)]


class RMSNormalization(OpRun):
    """ONNX's RMSNormalization in float64."""

    op_domain = ""

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Array,
        scale: Array,
        axis: int = -1,
        epsilon: float = EPSILON,
        stash_type: int = 1,
    ) -> tuple[Array, ...]:
        return (normalized(x, False, axis, epsilon) * scale,)


class SimplifiedLayerNormalization(RMSNormalization):
    """onnxruntime's name for RMSNormalization."""


class AddLayerNormalization(OpRun):
    """graphfuse's fused LayerNorm: Y = LayerNorm(A + B), Sum = A + B."""

    op_domain = "graphfuse"

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        a: Array,
        b: Array,
        scale: Array,
        bias: Array,
        axis: int = -1,
        epsilon: float = EPSILON,
        stash_type: int = 1,
    ) -> tuple[Array, ...]:
        total = a + b
        return (normalized(total, True, axis, epsilon) * scale + bias, total)


class AddRMSNormalization(OpRun):
    """graphfuse's fused RMSNorm: Y = RMSNorm(A + B), Sum = A + B."""

    op_domain = "graphfuse"

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        a: Array,
        b: Array,
        scale: Array,
        axis: int = -1,
        epsilon: float = EPSILON,
        stash_type: int = 1,
    ) -> tuple[Array, ...]:
        total = a + b
        return (normalized(total, False, axis, epsilon) * scale, total)


def _contrib_outputs(node: onnx.NodeProto, y: Array, total: Array) -> tuple[Array, ...]:
    """Outputs 1 and 2 (mean, inverse deviation) are not computed at inference."""
    return (y, total[:0], total[:0], total)[: max(1, len(node.output))]


class SkipLayerNormalization(OpRun):
    """onnxruntime's contrib operator; its epsilon defaults to 1e-12."""

    op_domain = "com.microsoft"

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Array,
        skip: Array,
        gamma: Array,
        beta: Array | None = None,
        bias: Array | None = None,
        epsilon: float = CONTRIB_EPSILON,
    ) -> tuple[Array, ...]:
        total = x + skip if bias is None else x + skip + bias
        y = normalized(total, True, -1, epsilon) * gamma
        return _contrib_outputs(self.onnx_node, y if beta is None else y + beta, total)


class SkipSimplifiedLayerNormalization(OpRun):
    """onnxruntime's contrib operator for the RMSNorm; its epsilon defaults to 1e-12."""

    op_domain = "com.microsoft"

    def _run(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Array,
        skip: Array,
        gamma: Array,
        bias: Array | None = None,
        epsilon: float = CONTRIB_EPSILON,
    ) -> tuple[Array, ...]:
        total = x + skip if bias is None else x + skip + bias
        y = normalized(total, False, -1, epsilon) * gamma
        return _contrib_outputs(self.onnx_node, y, total)


OWN_OPERATORS: list[type[OpRun]] = [
    Erf,
    Gelu,
    GatherElements,
    LayerNormalization,
    RMSNormalization,
    SimplifiedLayerNormalization,
    AddLayerNormalization,
    AddRMSNormalization,
    SkipLayerNormalization,
    SkipSimplifiedLayerNormalization,
]


class Twin:
    """A model's float64 twin: the graph lifted, the weights as float64 arrays beside it."""

    def __init__(self, model: Model, like: Twin | None = None) -> None:
        """Lift a model. Weights that `like` has under the same name and value are shared."""
        self.model = model
        self.proto = _lifted(model.proto)
        self.tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self.weights: dict[str, Array] = {}
        for name, tensor in self.tensors.items():
            shared = like is not None and like.model.folder == model.folder
            if like is not None and shared and like.tensors.get(name) == tensor:
                self.weights[name] = like.weights[name]
            else:
                self.weights[name] = upcast(model.read(tensor))
        self._evaluator: ReferenceEvaluator | None = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs in float64. Raises UnsupportedModelError naming what has no reference."""
        if self._evaluator is None:
            self._evaluator = _evaluator(self.proto)
        return _run(self._evaluator, self.proto, self.weights, feeds)

    def run_all(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every value of the main graph in float64, by name."""
        values = {**self.weights, **{name: upcast(array) for name, array in feeds.items()}}
        with np.errstate(all="ignore"):
            results = _evaluate(_evaluator(self.proto), values, intermediate=True)
        return {name: array for name, array in results.items() if array is not None}

    def run_rounded(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The same, but every value of the main graph is rounded to its declared float type."""
        rounded = _with_rounding(self.proto, self.model.proto)
        return _run(_evaluator(rounded), rounded, self.weights, feeds)


def upcast(array: Array) -> Array:
    """Floating point, bfloat16 included, to float64; anything else as it is."""
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if is_float else array


def _evaluator(proto: onnx.ModelProto) -> ReferenceEvaluator:
    try:
        return ReferenceEvaluator(proto, new_ops=OWN_OPERATORS)
    except Exception as error:
        # onnx.reference raises whatever an operator's loader raised.
        raise _unsupported(error) from error


def _evaluate(
    evaluator: ReferenceEvaluator, values: dict[str, Array], intermediate: bool = False
) -> Any:
    return evaluator.run(  # pyright: ignore[reportUnknownMemberType]
        None, values, intermediate=intermediate
    )


def _run(
    evaluator: ReferenceEvaluator,
    proto: onnx.ModelProto,
    weights: Mapping[str, Array],
    feeds: Mapping[str, Array],
) -> dict[str, Array]:
    values = {**weights, **{name: upcast(array) for name, array in feeds.items()}}
    try:
        with np.errstate(all="ignore"):
            outputs = _evaluate(evaluator, values)
    except Exception as error:
        raise _unsupported(error) from error
    named = dict(zip((value.name for value in proto.graph.output), outputs, strict=True))
    for name, array in named.items():
        if array.dtype in (np.float32, np.float16):
            raise _unsupported(TypeError(f"output {name!r} came out as {array.dtype}"))
    return named


def _unsupported(error: Exception) -> UnsupportedModelError:
    text = " ".join(str(error).split())[:200]
    return UnsupportedModelError(
        f"the model cannot be evaluated in float64 ({type(error).__name__}: {text})",
        "pass --validate none to write without the check",
    )


def _lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in float64, without its initializers; functions inlined, fused ones aside."""
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 10))
    proto.opset_import.extend(model.opset_import)
    proto.functions.extend(f for f in model.functions if f.domain not in FUSED_DOMAINS)
    for field in ("node", "input", "output"):
        getattr(proto.graph, field).extend(getattr(model.graph, field))
    proto.graph.name = "twin"
    for tensor in model.graph.initializer:
        if all(value.name != tensor.name for value in model.graph.input):
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            proto.graph.input.append(value)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    present = {entry.domain for entry in proto.opset_import}
    for domain in FUSED_DOMAINS:
        if domain not in present:
            proto.opset_import.append(helper.make_opsetid(domain, 1))
    for values in (proto.graph.input, proto.graph.output):
        for value in values:
            if value.type.tensor_type.elem_type in FLOAT_TYPES:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
    _lift_nodes(proto.graph.node, narrow_scalars=not _is_float64(model.graph))
    return proto


def _is_float64(graph: onnx.GraphProto) -> bool:
    """Whether a graph computes in float64: it has such inputs, outputs or weights."""
    values = (*graph.input, *graph.output)
    declared = [value.type.tensor_type.elem_type for value in values]
    declared += [tensor.data_type for tensor in graph.initializer if tensor.dims]
    return TensorProto.DOUBLE in declared


def _lift_nodes(nodes: Iterable[onnx.NodeProto], narrow_scalars: bool) -> None:
    """Lift nodes in place.

    PyTorch's TorchScript exporter writes the epsilon of a float16 norm as a float64 constant, which
    the float attribute of a fused node, or of ONNX's own LayerNormalization, holds in float32.
    `narrow_scalars` reads such constants in float32, so that both twins mean the same number.
    """
    for node in nodes:
        lift = LIFTED.get(node.op_type)
        if lift is not None:
            lift(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _lift_tensor(attribute.t, narrow_scalars)
        for graph in subgraphs(node):
            for tensor in graph.initializer:
                _lift_tensor(tensor, narrow_scalars)
            _lift_nodes(graph.node, narrow_scalars)


def _lift_tensor(tensor: TensorProto, narrow_scalars: bool) -> None:
    if tensor.data_type not in FLOAT_TYPES:
        return
    array = numpy_helper.to_array(tensor)
    if narrow_scalars and array.size == 1:
        array = array.astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(upcast(array), tensor.name))


def _lift_type_attribute(name: str, default: int) -> Callable[[onnx.NodeProto], None]:
    """An attribute that names a result type: float types become float64."""

    def lift(node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == name:
                if attribute.i in FLOAT_TYPES:
                    attribute.i = TensorProto.DOUBLE
                return
        if default in FLOAT_TYPES:
            node.attribute.append(helper.make_attribute(name, TensorProto.DOUBLE))

    return lift


def _lift_constant(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = numpy_helper.from_array(np.array(numbers, np.float64))
            attribute.CopyFrom(helper.make_attribute("value", tensor))


def _lift_constant_of_shape(node: onnx.NodeProto) -> None:
    if not node.attribute:
        node.attribute.append(helper.make_attribute("value", ZERO64))


LIFTED: Mapping[str, Callable[[onnx.NodeProto], None]] = {
    "Cast": _lift_type_attribute("to", 0),
    "Constant": _lift_constant,
    "ConstantOfShape": _lift_constant_of_shape,
    "EyeLike": _lift_type_attribute("dtype", 0),
    "RandomNormal": _lift_type_attribute("dtype", 1),
    "RandomUniform": _lift_type_attribute("dtype", 1),
}


def _with_rounding(lifted: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """After each node, a cast of its outputs to their declared type and back to float64."""
    types = infer_types(original)
    proto = onnx.ModelProto()
    proto.CopyFrom(lifted)
    del proto.graph.node[:]
    for node in lifted.graph.node:
        copy = proto.graph.node.add()
        copy.CopyFrom(node)
        for position, name in enumerate(node.output):
            declared = types.get(name)
            if not name or declared is None or declared.elem_type not in FLOAT_TYPES:
                continue
            exact, typed = f"{name}/exact", f"{name}/typed"
            copy.output[position] = exact
            for source, target, to in (
                (exact, typed, declared.elem_type),
                (typed, name, TensorProto.DOUBLE),
            ):
                proto.graph.node.append(helper.make_node("Cast", [source], [target], to=to))
    return proto

"""Operators in float64: the formulas that fused nodes are judged by.

They share no code with the rewriter. Operators of ONNX are here only where onnx.reference computes
them in float32, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference.op_run import OpRun

from graphfuse.views.fused_nodes import CONTRIB_EPSILON, EPSILON

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def normalized(x: Array, centred: bool, axis: int, epsilon: float) -> Array:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) over the axes from `axis` on.

    Source: Ba, Kiros, Hinton 2016 (centred); Zhang, Sennrich 2019 (mean taken as 0).
    """
    axes = tuple(range(axis % x.ndim, x.ndim))
    deviation = x - x.mean(axis=axes, keepdims=True) if centred else x
    variance = np.mean(deviation * deviation, axis=axes, keepdims=True)
    return deviation / np.sqrt(variance + epsilon)


def norm_of_sum(
    terms: Iterable[Array | None],
    scale: Array,
    bias: Array | None,
    centred: bool,
    axis: int,
    epsilon: float,
) -> tuple[Array, Array]:
    """The norm of a sum, times scale plus bias, and the sum itself. Absent terms count nothing."""
    total = reduce(add, (term for term in terms if term is not None))
    y = normalized(total, centred, axis, epsilon) * scale
    return (y if bias is None else y + bias, total)


def erf(x: Array) -> Array:
    """The error function of each element, in float64."""
    flat = np.fromiter(map(math.erf, x.reshape(-1)), np.float64, x.size)
    return flat.reshape(x.shape)


class Formula(OpRun):
    """An operator in float64; each takes its own inputs and attributes."""

    if TYPE_CHECKING:
        _run: Any


class Erf(Formula):
    """erf in float64; onnx.reference rounds it to float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (erf(x),)


class Gelu(Formula):
    """x * Phi(x), exactly or by its tanh approximation, in float64."""

    op_domain = ""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return (0.5 * x * (1 + np.tanh(inner)),)
        return (0.5 * x * (1 + erf(x / math.sqrt(2))),)


class GatherElements(Formula):
    """Elements picked along one axis; onnx.reference fails where that axis is long."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        axis %= data.ndim
        extents = [slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape)]
        return (np.take_along_axis(data[tuple(extents)], indices % data.shape[axis], axis),)


class Pad(Formula):
    """Pad, by negative amounts as well, which crop; onnx.reference refuses those."""

    op_domain = ""

    def _run(
        self,
        data: Array,
        pads: Array,
        constant_value: Array | None = None,
        axes: Array | None = None,
        mode: str = "constant",
        value: float = 0.0,
        **_: object,
    ) -> tuple[Array]:
        given = np.asarray(pads, int).reshape(2, -1)
        amounts = np.zeros((2, data.ndim), int)
        amounts[:, range(data.ndim) if axes is None else np.asarray(axes, int)] = given
        crop, grow = -np.minimum(amounts, 0), np.maximum(amounts, 0)
        kept = tuple(slice(a, n - b) for a, b, n in zip(*crop, data.shape, strict=True))
        filled = value if constant_value is None else constant_value
        more: dict[str, Any] = {"constant_values": filled} if mode == "constant" else {}
        return (np.pad(data[kept], grow.T, cast(Any, mode), **more),)


class BatchNormalization(Formula):
    """scale * (x - mean) / sqrt(variance + epsilon) + bias, at inference, channels on axis 1.

    onnx.reference mixes batch statistics into the given ones at opsets 9 to 13.
    """

    op_domain = ""

    def _run(
        self, *operands: Array, epsilon: float = EPSILON, training_mode: int = 0, **_: object
    ) -> tuple[Array]:
        if training_mode:
            raise NotImplementedError("BatchNormalization in training mode")
        x = operands[0]
        shape = (-1, *(1,) * (x.ndim - 2))
        scale, bias, mean, variance = (operand.reshape(shape) for operand in operands[1:5])
        return (scale * (x - mean) / np.sqrt(variance + epsilon) + bias,)


class LayerNormalization(Formula):
    """ONNX's LayerNormalization in float64, its optional outputs included."""

    op_domain = ""

    def _run(
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


class RMSNormalization(Formula):
    """ONNX's RMSNormalization in float64."""

    op_domain = ""

    def _run(
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


def round_to(array: Array, elem_type: int) -> Array:
    """float64 rounded to another float type, as float64; anything else as it is."""
    if elem_type in (0, TensorProto.DOUBLE) or getattr(array, "dtype", None) != np.float64:
        return array
    with np.errstate(all="ignore"):
        return array.astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).astype(np.float64)


class RoundTo(Formula):
    """What the rounded twin puts behind each node of a body."""

    op_domain = "graphfuse"

    def _run(self, x: Array, to: int = TensorProto.DOUBLE) -> tuple[Array]:
        return (round_to(x, to),)


class AddLayerNormalization(Formula):
    """graphfuse's fused LayerNorm: Y = LayerNorm(A + B), Sum = A + B."""

    op_domain = "graphfuse"
    centred = True

    def _run(
        self,
        *operands: Array,
        axis: int = -1,
        epsilon: float = EPSILON,
        stash_type: int = 1,
        nudge: float = 0.0,
    ) -> tuple[Array, ...]:
        a, b, scale, *more = operands
        bias = more.pop(0) if self.centred else None
        nudged = float(epsilon) * (1 + float(nudge))
        return norm_of_sum((a, b, *more), scale, bias, self.centred, axis, nudged)


class AddRMSNormalization(AddLayerNormalization):
    """graphfuse's fused RMSNorm: Y = RMSNorm(A + B), Sum = A + B."""

    centred = False


class AddBiasLayerNormalization(AddLayerNormalization):
    """The same with a bias vector before the residual, the last operand: Sum = A + B + AddBias."""


class AddBiasRMSNormalization(AddRMSNormalization):
    """The same with a bias vector before the residual, the last operand: Sum = A + B + AddBias."""


def _contrib_outputs(node: onnx.NodeProto, y: Array, total: Array) -> tuple[Array, ...]:
    """Outputs 1 and 2 (mean, inverse deviation) are not computed at inference."""
    return (y, total[:0], total[:0], total)[: max(1, len(node.output))]


class SkipLayerNormalization(Formula):
    """onnxruntime's contrib operator; its epsilon defaults to 1e-12."""

    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        skip: Array,
        gamma: Array,
        beta: Array | None = None,
        bias: Array | None = None,
        epsilon: float = CONTRIB_EPSILON,
        nudge: float = 0.0,
    ) -> tuple[Array, ...]:
        y, total = norm_of_sum(
            (x, skip, bias), gamma, beta, True, -1, float(epsilon) * (1 + float(nudge))
        )
        return _contrib_outputs(self.onnx_node, y, total)


class SkipSimplifiedLayerNormalization(Formula):
    """onnxruntime's contrib operator for the RMSNorm; its epsilon defaults to 1e-12."""

    op_domain = "com.microsoft"

    def _run(
        self,
        x: Array,
        skip: Array,
        gamma: Array,
        bias: Array | None = None,
        epsilon: float = CONTRIB_EPSILON,
        nudge: float = 0.0,
    ) -> tuple[Array, ...]:
        y, total = norm_of_sum(
            (x, skip, bias), gamma, None, False, -1, float(epsilon) * (1 + float(nudge))
        )
        return _contrib_outputs(self.onnx_node, y, total)


EXACT_OPERATORS: list[type[OpRun]] = [
    LayerNormalization,
    RMSNormalization,
    SimplifiedLayerNormalization,
    AddLayerNormalization,
    AddRMSNormalization,
    AddBiasLayerNormalization,
    AddBiasRMSNormalization,
    SkipLayerNormalization,
    SkipSimplifiedLayerNormalization,
]
"""Norms and fused operators: the formulas that a validation rests on."""

OWN_OPERATORS: list[type[OpRun]] = [
    *EXACT_OPERATORS,
    RoundTo,
    Erf,
    Gelu,
    GatherElements,
    Pad,
    BatchNormalization,
]
"""All of them; the others are for where onnxruntime has no float64 kernel."""

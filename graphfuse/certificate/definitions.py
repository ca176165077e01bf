"""Norms that are operators, the fused ones included: each as its documentation defines it.

    LayerNorm(x) = scale * (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) + bias
    RMSNorm(x)   = scale * x / sqrt(mean(x^2) + epsilon)

A fused operator is the norm of the sum A + B, or A + (B + the vector that it adds as well).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.numbers import each, inverse, number, objects, quotient, root
from graphfuse.certificate.reductions import mean
from graphfuse.certificate.values import ExactNode, ExactRule, ExactValue, UnknownError, axes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

EPSILON = float(np.float32(1e-5))
CONTRIB_EPSILON = float(np.float32(1e-12))


def normalized(
    x: Array, axes: tuple[int, ...], epsilon: Any, centred: bool
) -> tuple[Array, Array, Array]:
    """The normalised tensor, the mean (0 for an RMSNorm) and the inverse deviation."""
    middle = mean(x, axes) if centred else objects(number(0))
    deviation = x - middle
    under = mean(deviation * deviation, axes) + epsilon
    deviate = objects(each(root)(under))
    reciprocal = objects(each(inverse)(deviate))
    return deviation * reciprocal, middle, reciprocal


def _last(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(range(axes_of([axis], x.ndim)[0], x.ndim))


def _with_parameters(normal: Array, scale: ExactValue | None, bias: ExactValue | None) -> Array:
    scaled = normal if scale is None else normal * scale.array
    return scaled if bias is None else scaled + bias.array


def _norm(centred: bool) -> ExactRule:
    """LayerNormalization, RMSNormalization, and onnxruntime's name for the latter."""

    def rule(node: ExactNode) -> Sequence[ExactValue]:
        x, value = node.floats(), node.value()
        epsilon = number(node.attributes.get("epsilon", EPSILON))
        axes = _last(x, node.flag("axis", -1))
        normal, middle, reciprocal = normalized(x, axes, epsilon, centred)
        y = _with_parameters(normal, node.optional(1), node.optional(2) if centred else None)
        found = (y, middle, reciprocal) if centred else (y, reciprocal)
        return [value.like(array) for array in found]

    return rule


FUSED_ROLES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("graphfuse", "AddLayerNormalization"): ("A", "B", "Scale", "Bias"),
    ("graphfuse", "AddRMSNormalization"): ("A", "B", "Scale"),
    ("graphfuse", "AddBiasLayerNormalization"): ("A", "B", "Scale", "Bias", "AddBias"),
    ("graphfuse", "AddBiasRMSNormalization"): ("A", "B", "Scale", "AddBias"),
    ("com.microsoft", "SkipLayerNormalization"): ("A", "B", "Scale", "Bias", "AddBias"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): ("A", "B", "Scale", "AddBias"),
}
"""The fused operators and their inputs; that of the vector to add comes last."""


def is_centred(op_type: str) -> bool:
    """Whether a fused operator is a LayerNorm."""
    return op_type in ("AddLayerNormalization", "AddBiasLayerNormalization") or (
        op_type == "SkipLayerNormalization"
    )


def epsilon_of(node: ExactNode) -> Any:
    """A fused node's epsilon: the float32 of the attribute, or the operator's own."""
    own = EPSILON if node.proto.domain == "graphfuse" else CONTRIB_EPSILON
    return number(node.attributes.get("epsilon", own))


def fused(node: ExactNode) -> Sequence[ExactValue | None]:
    """Y and Sum; onnxruntime's operators have Sum in the fourth place."""
    known = FUSED_ROLES[node.proto.domain, node.op_type]
    given = {role: node.optional(at) for at, role in enumerate(known)}
    a, b = node.value(0), node.value(1)
    added = given.get("AddBias")
    addend = b.array if added is None else b.array + added.array
    x = objects(a.array + addend)
    axis = node.flag("axis", -1) if node.proto.domain == "graphfuse" else -1
    normal, _, _ = normalized(x, _last(x, axis), epsilon_of(node), is_centred(node.op_type))
    y = a.like(_with_parameters(normal, given["Scale"], given.get("Bias")))
    total = a.like(x)
    return [y, total] if node.proto.domain == "graphfuse" else [y, None, None, total]


def _channels(array: Array, rank: int) -> Array:
    """A vector along the second axis."""
    return array.reshape(1, -1, *[1] * (rank - 2))


def _batch(node: ExactNode) -> ExactValue:
    """BatchNormalization with the statistics that it is given."""
    if node.flag("training_mode", 0) or not node.flag("spatial", 1):
        raise UnknownError("operator BatchNormalization in training mode, or not spatial")
    x = node.floats()
    scale, bias, middle, variance = (_channels(node.floats(at), x.ndim) for at in range(1, 5))
    epsilon = number(node.attributes.get("epsilon", EPSILON))
    deviate = objects(each(root)(variance + epsilon))
    return node.value().like(each(quotient, 2)(x - middle, deviate) * scale + bias)


def _instance(node: ExactNode) -> ExactValue:
    """InstanceNormalization: each channel of each item over the other axes."""
    x = node.floats()
    epsilon = number(node.attributes.get("epsilon", EPSILON))
    normal, _, _ = normalized(x, tuple(range(2, x.ndim)), epsilon, True)
    scale, bias = (_channels(node.floats(at), x.ndim) for at in (1, 2))
    return node.value().like(normal * scale + bias)


def _group(node: ExactNode) -> ExactValue:
    """GroupNormalization: scale and bias are by group below opset 21, by channel from there on."""
    x = node.floats()
    groups = node.flag("num_groups", 1)
    epsilon = number(node.attributes.get("epsilon", EPSILON))
    apart = x.reshape(x.shape[0], groups, -1)
    normal = normalized(apart, (2,), epsilon, True)[0].reshape(x.shape)
    vectors = [np.repeat(each, x.shape[1] // each.size) for each in map(node.floats, (1, 2))]
    scale, bias = (_channels(vector, x.ndim) for vector in vectors)
    return node.value().like(normal * scale + bias)


def _mean_variance(node: ExactNode) -> ExactValue:
    """MeanVarianceNormalization: its function adds 1e-9 to the deviation, not to the variance."""
    x = node.floats()
    axes = axes_of(node.whole("axes", 9) or [0, 2, 3], x.ndim)
    middle = mean(x, axes)
    # The function takes mean(x^2) - mean(x)^2, which is the same.
    deviate = objects(each(root)(mean((x - middle) * (x - middle), axes)))
    small = number(float(np.float32(1e-9)))
    return node.value().like(each(quotient, 2)(x - middle, deviate + small))


def _lp(node: ExactNode) -> ExactValue:
    """LpNormalization: a row divided by its length; of zeros, zeros."""
    if node.flag("p", 2) != 2:
        raise UnknownError("operator LpNormalization of another order than 2")
    x = node.floats()
    axis = axes_of([node.flag("axis", -1)], x.ndim)
    length = objects(each(root)(np.sum(x * x, axis=axis, keepdims=True)))
    return node.value().like(each(quotient, 2)(x, np.where(length == 0, number(1), length)))


NORMS: Mapping[str, ExactRule] = {
    "LayerNormalization": _norm(centred=True),
    "RMSNormalization": _norm(centred=False),
    "SimplifiedLayerNormalization": _norm(centred=False),
    "BatchNormalization": _batch,
    "InstanceNormalization": _instance,
    "GroupNormalization": _group,
    "MeanVarianceNormalization": _mean_variance,
    "LpNormalization": _lp,
}

"""The scale, bias and epsilon that the original's numbers imply, where the fused node's differ.

A fused node holds its epsilon as a float32, and may hold a scale that a tool folded: numbers that
the original computes, rounded once. Ninety digits see that. So the parameters are solved for from
what the original gives, on rows that tell them apart:

    a row of one number     y = bias
    two spreads v, w        ((y_v - bias) / d_v)^2 / ((y_w - bias) / d_w)^2 = (w + e) / (v + e)
    a usual row             y - bias = scale * d / sqrt(v + e)

If the norm with these numbers is the original on every row, and the fused node's are the same or
the nearest of their type, then it is the original but for that rounding; anything else is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from graphfuse.certificate.definitions import normalized
from graphfuse.certificate.digits import BOUND, difference
from graphfuse.certificate.numbers import (
    FORMATS,
    context,
    each,
    finite,
    number,
    objects,
    quotient,
    rounded,
    unit,
)
from graphfuse.certificate.values import ExactValue
from graphfuse.records.element_types import ElementType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

USUAL, TINY_ROW, CONSTANT = 0, 1, 2
"""The kinds of rows (rows.py) that tell the parameters apart."""

SLACK = 20
"""An element's bound is half a unit, and 2^-20 of that: what was computed in float64 on the way."""


@dataclass(frozen=True)
class Seen:
    """Rows of a site: their sum, what the original gives, and the kind of each."""

    x: Array
    y: Array
    kinds: Sequence[int]


@dataclass(frozen=True)
class Parameters:
    """What the fused node holds; vectors along a row."""

    scale: ExactValue
    bias: ExactValue | None
    epsilon: Any
    centred: bool


def roundings(seen: Seen, held: Parameters) -> tuple[str, ...] | None:
    """The parameters that are the original's rounded once; None where that does not explain it."""
    found = _solve(seen, held)
    if found is None:
        return None
    scale, bias, epsilon = found
    normal, _, _ = normalized(seen.x, (1,), epsilon, held.centred)
    if not difference(seen.y, normal * scale + bias).is_none:
        return None
    rounded_ones: list[str] = []
    if not _close(epsilon, held.epsilon):
        if not _rounds_to(held.epsilon, epsilon, TensorProto.FLOAT):
            return None
        rounded_ones.append("epsilon to float32")
    vectors: Mapping[str, tuple[ExactValue | None, Array]] = {
        "scale": (held.scale, scale),
        "bias": (held.bias, bias),
    }
    for role, (value, implied) in vectors.items():
        if value is None:
            continue
        verdict = _vector(value, implied)
        if verdict is None:
            return None
        rounded_ones += [f"{role} to {ElementType(value.elem_type).text}"] if verdict else []
    return tuple(rounded_ones)


def _solve(seen: Seen, held: Parameters) -> tuple[Array, Array, Any] | None:
    """Scale, bias and epsilon; None where the rows do not tell them, as for what is no norm."""
    if not {USUAL, TINY_ROW, CONSTANT} <= set(seen.kinds) or not finite(seen.y).all():
        return None
    at = [list(seen.kinds).index(kind) for kind in (USUAL, TINY_ROW, CONSTANT)]
    usual, tiny, constant = (seen.y[row] for row in at)
    bias = constant if held.centred and held.bias is not None else constant * 0
    middle = objects(np.mean(seen.x, axis=1, keepdims=True)) if held.centred else number(0)
    deviation = seen.x - middle
    spread = objects(np.mean(deviation * deviation, axis=1))
    one, two = deviation[at[0]], deviation[at[1]]
    scaled = usual - bias
    place = int(np.argmax(np.abs(one * two * scaled)))
    if not one[place] or not two[place] or not scaled[place]:
        return None
    share = (scaled[place] / one[place]) / ((tiny - bias)[place] / two[place])
    square = share * share
    if square == 1:
        return None
    epsilon = (spread[at[1]] - square * spread[at[0]]) / (square - 1)
    under = spread[at[0]] + epsilon
    if not context().isfinite(epsilon) or under <= 0:
        return None
    return objects(each(quotient, 2)(scaled, one)) * context().sqrt(under), bias, epsilon


def _close(one: Any, other: Any) -> bool:
    """Whether two numbers are one, but for the last digits of solving."""
    return bool(abs(one - other) <= context().mpf(10) ** (10 - BOUND) * max(abs(one), abs(other)))


def _vector(held: ExactValue, implied: Array) -> bool | None:
    """Whether a held vector is the implied one, rounded; None if it is another."""
    if held.elem_type not in FORMATS:
        return None
    numbers = np.broadcast_to(held.array.reshape(-1), implied.shape)
    least = context().mpf(10) ** (10 - BOUND)
    off = False
    for one, other in zip(numbers, implied, strict=True):
        if abs(one - other) <= least * max(abs(one), 1):
            continue
        off = True
        if not _rounds_to(rounded(one, held.elem_type), other, held.elem_type):
            return None
    return off


def _rounds_to(held: Any, implied: Any, elem_type: int) -> bool:
    """Whether a number of a type is a nearest one; where two are as near, either is."""
    bound = unit(implied, elem_type) / 2
    return bool(abs(held - implied) <= bound + context().ldexp(bound, -SLACK))

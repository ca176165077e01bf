"""The acceptance rule: how far from float64 a result may be.

Per row h = a + b, mu = mean h (0 for an RMSNorm), s = sqrt(mean (h - mu)^2 + eps), z = (h - mu)/s,
kappa = rms(h)/s, r = scale * z + bias. An element passes when

    |y - r| <= K * (eta + u*(|r| + |bias|) + |scale|*((u*|h| + eta)/s + u*kappa + eta/s)
                    + u_a*|scale|*(8 + sqrt n)*(|z| + kappa))

u is the unit roundoff of the type, u_a that of the accumulation, eta half the least subnormal, n
the normalised extent. The third term is there because the sum is rounded to its type, each element
by u*|h| + eta at most, and so is its mean; the norm divides both by s. A sum of three, a + (b +
bias), is rounded twice: there |h| is |h| + |b + bias|.

K is 1 for graphfuse's own kernels, whatever else runs. For all others it is 8, and a row beyond it
passes where the original's own nodes, run alike, are `no_worse`: until 1.26 onnxruntime's
LayerNormalization takes E[x^2] - E[x]^2 for a variance (ComputeJob in its layer_norm_impl.cc), and
gives NaN for a mean of 10,000 deviations, in a fused node's function as in the original.

Of whole models (G2) distances from float64 are compared, a model with its original: `end_to_end`,
and, before one fails, what chance.py says of the number of independent errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MEANING_BOUND = 1e-11
"""G0: relative L2 distance of two float64 twins. An epsilon off by 1 % gives about 6e-10."""

OWN_KERNEL = 1.0
"""G1: the K of graphfuse's own kernels."""

OTHER_KERNEL = 8.0
"""G1: the K of all others, those behind the functions' bodies among them."""

END_TO_END, CHANCE = 1.25, 3.0


def end_to_end(count: int) -> float:
    """G2: how much further from float64 than the original the fused model may be.

    Both distances are root mean squares of `count` rounding errors. Equally accurate models have
    distances whose ratio varies by 1 / sqrt(count): three times that is chance. Where errors are
    not independent it varies more (chance.py).
    """
    return END_TO_END + CHANCE / math.sqrt(max(count, 1))


@dataclass(frozen=True, slots=True)
class FloatType:
    """Unit roundoff, that of the accumulation, half the least subnormal, largest magnitude."""

    roundoff: float
    accumulation: float
    eta: float
    largest: float


FLOAT: Mapping[int, FloatType] = {
    TensorProto.FLOAT: FloatType(2.0**-24, 2.0**-24, 2.0**-150, 3.4028234663852886e38),
    TensorProto.FLOAT16: FloatType(2.0**-11, 2.0**-24, 2.0**-25, 65504.0),
    TensorProto.BFLOAT16: FloatType(2.0**-8, 2.0**-24, 2.0**-134, 3.3895313892515355e38),
    TensorProto.DOUBLE: FloatType(2.0**-53, 2.0**-53, 0.0, 1.7976931348623157e308),
}


HUGE = 1e8
"""Beyond it are masks (the lowest float32), and what is about to overflow."""


def distance(result: Array, reference: Array) -> float:
    """|result - reference| / |reference| in L2; infinite where NaN or infinities do not agree.

    Huge elements of the reference are compared by themselves: beside them the others count nothing.
    """
    if result.shape == reference.shape:
        with np.errstate(invalid="ignore"):
            huge = np.abs(reference) > HUGE
        if huge.any() and not huge.all():
            parts = (_distance(result[part], reference[part]) for part in (huge, ~huge))
            return max(parts)
    return _distance(result, reference)


def _distance(result: Array, reference: Array) -> float:
    if result.shape != reference.shape:
        return float("inf")
    y, r = result.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(r)
    with np.errstate(invalid="ignore"):
        same_class = np.array_equal(y[~finite], r[~finite], equal_nan=True)
    if not same_class or not np.isfinite(y[finite]).all():
        return float("inf")
    y, r = y[finite], r[finite]
    largest = max(np.abs(r).max(initial=0.0), np.abs(y).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    # Scaled first: squares of large or tiny values leave the range of float64. Not np.linalg.norm,
    # whose BLAS wakes a thread on every core for a few thousand numbers.
    error = np.square((y - r) / largest).sum()
    size = np.square(r / largest).sum()
    return math.sqrt(error / size) if size else float("inf")


def distances(result: Array, reference: Array) -> Array:
    """The `distance` of each row of two matrices of one shape."""
    with np.errstate(invalid="ignore", over="ignore"):
        plain = np.isfinite(result).all() and (np.abs(reference) <= HUGE).all()
    if not plain or not reference.size:
        return np.array([distance(*pair) for pair in zip(result, reference, strict=True)])
    largest = np.maximum(np.abs(result).max(-1), np.abs(reference).max(-1))
    scale = np.where(largest > 0, largest, 1.0)[:, None]
    error = np.square((result - reference) / scale).sum(-1)
    size = np.square(reference / scale).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, np.sqrt(error / size), 0.0)


def compare(result: Any, reference: Any) -> float:
    """Floating point by relative L2; all else, and so the items of sequences, must be equal."""
    if isinstance(reference, list):
        items = cast("list[Array]", reference)
        if not isinstance(result, list) or len(cast("list[Array]", result)) != len(items):
            return float("inf")
        pairs = zip(cast("list[Array]", result), items, strict=True)
        return max((compare(*pair) for pair in pairs), default=0.0)
    y, r = np.asarray(result), np.asarray(reference)
    if r.dtype.kind == "f":
        return distance(y, r)
    return 0.0 if np.array_equal(y, r) else float("inf")


@dataclass(frozen=True, slots=True)
class RowReference:
    """The float64 result of a norm and the bound of each element at K = 1."""

    total: Array
    total_bound: Array
    output: Array
    bound: Array


def reference_rows(
    a: Array,
    b: Array,
    vectors: Mapping[str, Array],
    epsilon: float,
    centred: bool,
    elem_type: int,
) -> RowReference:
    """Evaluate the norm of a + b over the last axes in float64, with its rounding bound.

    `vectors` are Scale, which has the shape of the normalised axes, and where there are such Bias
    and AddBias.
    """
    number = FLOAT[elem_type]
    scale, bias = vectors["Scale"], vectors.get("Bias", np.zeros(()))
    second = b + vectors["AddBias"] if "AddBias" in vectors else b
    axes = tuple(range(-scale.ndim, 0))
    h, gain = a + second, np.abs(scale)
    rounded = np.abs(h) + (np.abs(second) if "AddBias" in vectors else 0.0)
    mu = h.mean(axes, keepdims=True) if centred else np.zeros(())
    s = np.sqrt(((h - mu) ** 2).mean(axes, keepdims=True) + epsilon)
    z = (h - mu) / s
    kappa = np.sqrt((rounded**2).mean(axes, keepdims=True)) / s
    r = scale * z + bias
    bound = (
        number.eta
        + number.roundoff * (np.abs(r) + np.abs(bias))
        + gain * (number.roundoff * (rounded / s + kappa) + 2 * number.eta / s)
        + number.accumulation * gain * (8 + np.sqrt(scale.size)) * (np.abs(z) + kappa)
    )
    return RowReference(h, number.eta + number.roundoff * rounded, r, bound)


def least_factor(result: Array, reference: Array, bound: Array) -> float:
    """The least K for which every element is within K times its bound."""
    return float(element_factors(result, reference, bound).max(initial=0.0))


def element_factors(result: Array, reference: Array, bound: Array) -> Array:
    """The K that each element needs; infinite where NaN or infinities do not agree."""
    y = result.astype(np.float64)
    if y.shape != reference.shape:
        return np.full(reference.shape, np.inf)
    limit = np.broadcast_to(bound, reference.shape)
    with np.errstate(all="ignore"):
        error = np.abs(y - reference)
        factors = np.where(error == 0, 0.0, error / limit)
    same = (y == reference) | (np.isnan(y) & np.isnan(reference))
    factors = np.where(np.isfinite(reference), factors, np.where(same, 0.0, np.inf))
    return np.where(np.isnan(factors), np.inf, factors)


def no_worse(factors: Array, others: Array) -> NDArray[np.bool_]:
    """Row by row, whether a result is as near float64 as another one: what both get wrong.

    Both are `element_factors`. An element that the other has lost (NaN, infinity) can be no worse.
    Of the rest the largest and the root mean square are compared, with G2's factor: so a row in
    which the other has one element wrong allows one, and a row that it has right allows nothing.
    """
    there = np.isfinite(others)
    mine, theirs = (np.where(there, each, 0.0) for each in (factors, others))
    largest, size = (mine.max(-1), theirs.max(-1)), (_rms(mine), _rms(theirs))
    return np.all([one <= END_TO_END * other for one, other in (largest, size)], axis=0)


def _rms(rows: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.sqrt(np.square(rows).mean(-1))

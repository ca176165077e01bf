"""Operands that norms get wrong, in the shapes that a fused node has them in."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from graphfuse.records import Dim
from graphfuse.validation.tolerance import FLOAT
from graphfuse.views.fused_nodes import FusedNode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def hard_inputs(site: FusedNode, seed: int) -> tuple[Array, Array, list[str]]:
    """Operands whose rows go through the distributions that norms get wrong.

    Deviations from far below sqrt(epsilon) to 1000, means up to 10,000 deviations, an outlier, a
    constant row, a zero row, subnormals, large magnitudes, a NaN, an infinity.
    """
    rng = np.random.default_rng(seed)
    hidden = site.hidden
    dtype = helper.tensor_dtype_to_np_dtype(site.elem_type)
    number = FLOAT[site.elem_type]
    # Squares are summed in float32 (float64 for float64): beyond this no kernel stays finite.
    accumulated = np.sqrt(1e308 if site.elem_type == 11 else 3e38) / np.sqrt(hidden) / 4
    limit = min(number.largest / 4, accumulated)
    root = float(np.sqrt(site.epsilon))
    rows: list[Array] = []
    labels: list[str] = []
    for sigma in (0.0, root / 10, root, 10 * root, 1.0, 1e3):
        for ratio in (0.0, 1.0, 1e2, 1e3, 1e4):
            rows.append(rng.standard_normal(hidden) * sigma + ratio * (sigma or 1.0))
            labels.append(f"sigma {sigma:.3g}, mean {ratio * (sigma or 1.0):.3g}")
    outlier: Array = rng.standard_normal(hidden)
    outlier[int(rng.integers(hidden))] *= 3000
    tiny: Array = rng.standard_normal(hidden) * (number.eta or 1e-308) * 64
    large: Array = np.sign(rng.standard_normal(hidden)) * limit * rng.uniform(0.5, 1, hidden)
    rows += [outlier, np.zeros(hidden), tiny, large, outlier, outlier]
    labels += ["a 3000x outlier", "a zero row", "subnormals", "large magnitudes"]
    labels += ["a NaN", "an infinity"]
    a, b = operands(site, np.clip(np.stack(rows), -limit, limit), rng)
    flat = a.reshape(-1, hidden)
    flat[-2, 0], flat[-1, 0] = np.nan, np.inf
    if _is_doubled(site):
        b = a
    return a.astype(dtype), b.astype(dtype), labels


def _is_doubled(site: FusedNode) -> bool:
    """Whether a node adds a tensor to itself: both operands are then the same numbers."""
    return site.roles.get("A") == site.roles.get("B")


LARGEST = 2**22
"""Elements of an operand that is given the extents that it has in the model."""


def operands(
    site: FusedNode, rows: Array, rng: np.random.Generator, as_declared: bool = False
) -> tuple[Array, Array]:
    """Split rows (number, hidden) into two operands of the site's ranks.

    The rows stand along the last axis that is not normalised, and B broadcasts as it does in the
    model: where it has one row or one number for all, it is taken from the middle. `as_declared`
    keeps the extents that the model fixes, for a part of it that depends on them; rows are
    repeated, or left out, to fill them.
    """
    if _is_smaller(site.a_shape, site.b_shape):
        # Which of them broadcasts is the node's to say: some kernels take it of one only.
        turned = replace(site, a_shape=site.b_shape, b_shape=site.a_shape)
        b, a = operands(turned, rows, rng, as_declared)
        return a, b
    vector = site.vectors.get("AddBias", np.zeros(site.extents))
    layout = _layout(site, len(rows), as_declared)
    rank = len(layout)
    rows = np.resize(rows, (prod(layout) // site.hidden, site.hidden))
    total = rows.reshape(layout)
    b = (rows * rng.uniform(0, 1, rows.shape)).reshape(layout)
    a_shape = (None,) * (rank - len(site.a_shape)) + site.a_shape
    for axis in range(-rank, 0):
        missing = axis < -len(site.b_shape)
        one = not missing and site.b_shape[axis] == 1 and a_shape[axis] != 1
        if missing or one:
            middle = b.shape[axis] // 2
            b = np.take(b, [middle], axis=axis)
    if _is_doubled(site):
        half = (total - vector) / 2
        return half, half
    a = total - b - vector
    dropped = rank - len(site.b_shape)
    return a, b.reshape(b.shape[dropped:])


def _is_smaller(shape: tuple[Dim, ...], other: tuple[Dim, ...]) -> bool:
    """Whether a shape broadcasts to another one, as far as numbers say."""
    if len(shape) != len(other):
        return len(shape) < len(other)
    pairs = list(zip(shape, other, strict=True))
    return any(one == 1 and more != 1 for one, more in pairs) and not any(
        one != 1 and more == 1 for one, more in pairs
    )


def _broadcasts_at(site: FusedNode, behind: int) -> bool:
    """Whether one operand has one row, or none, along an axis, and the other more.

    `behind` counts axes from the first that is normalised: 1 is the one before it.
    """
    axis = -len(site.extents) - behind
    dims = [shape[axis] if -axis <= len(shape) else 1 for shape in (site.a_shape, site.b_shape)]
    return (dims[0] == 1) != (dims[1] == 1)


def _layout(site: FusedNode, rows: int, as_declared: bool) -> tuple[int, ...]:
    """The shape of the sum: rows along one axis, or the fixed extents where they are asked for."""
    outer = max(len(site.a_shape), len(site.b_shape)) - len(site.extents)
    # Two of what one operand has one of, or a wrong broadcast would not show.
    lead = [2 if _broadcasts_at(site, outer - at) else 1 for at in range(max(outer, 1) - 1)]
    free = (*lead, rows, *site.extents)
    if not as_declared:
        return free
    shape = site.a_shape if len(site.a_shape) >= len(site.b_shape) else site.b_shape
    lead = [dim if isinstance(dim, int) else 1 for dim in shape[:outer]]
    symbols = [at for at in range(outer) if not isinstance(shape[at], int)]
    if symbols:
        lead[symbols[-1]] = rows
    fixed = (*lead, *site.extents)
    return fixed if 0 < prod(fixed) <= LARGEST else free

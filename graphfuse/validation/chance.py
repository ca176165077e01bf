"""How far from float64 an equally accurate model may be by chance (G2).

Rounding errors that pass through many layers come out along few directions: of the 64 numbers at
the end of 24 narrow post-norm blocks some ten are independent. With nu independent errors of one
size, a distance d is its root mean square s times sqrt(chi^2_nu / nu), and ln(d / s) varies by
1 / sqrt(2 nu) (R. A. Fisher's z, "On a distribution yielding the error functions of several well
known statistics", 1924). How many they are is measured on samples of rounding e_i: for normal
errors of covariance C, with products between different samples,

    nu = (tr C)^2 / tr(C^2) = mean(|e_i|^2)^2 / mean((e_i . e_j)^2)

Kernels round inside too, so the original is some times further away than the samples: a factor of
the model, and it is measured on all feeds that were run, not only on the one that is judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.validation.tolerance import CHANCE, END_TO_END, HUGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LEAST = 2.0
"""Fewer independent errors than this are taken for as many: nothing can be said of one."""

ENOUGH = 2**16
"""Elements of an output that errors are looked at in."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What rounding does to an output: the root mean square of distances, and nu."""

    size: float
    independent: float


def thinned(array: Array) -> Array:
    """Every so many elements of a run of an output: enough to count independent errors by."""
    return array.reshape(-1)[:: array.size // ENOUGH + 1].astype(np.float64)


def spread(samples: Sequence[Array], exact: Array, largest: float) -> Spread | None:
    """The spread of runs with rounding around `exact`; None where they tell nothing.

    Elements beyond `largest` or as large as masks are left out. At least two samples are needed.
    """
    there = np.isfinite(exact) & (np.abs(exact) <= min(HUGE, largest))
    size = math.sqrt(np.square(exact[there]).sum())
    if len(samples) < 2 or not size:
        return None
    errors = np.stack([(sample - exact)[there] for sample in samples])
    if not np.isfinite(errors).all():
        return None
    # Not a matrix product: BLAS would wake a thread on every core.
    products = np.einsum("ik,jk->ij", errors, errors) / size**2
    squares = np.diag(products)
    if not squares.any():
        return None
    others = products[~np.eye(len(samples), dtype=bool)]
    shared = float(np.square(others).mean())
    count = float(there.sum())
    found = float(squares.mean()) ** 2 / shared if shared else count
    return Spread(math.sqrt(squares.mean()), min(max(found, LEAST), count))


def as_accurate(own: Spread, others: Sequence[tuple[Spread, float]]) -> float:
    """How far a model as accurate as the original may be where rounding has the spread `own`.

    `others` are the spreads on each feed and how far the original was there, `own` with it.
    """
    total = sum(each.independent for each, _ in others)
    squares = sum(each.independent * (far / each.size) ** 2 for each, far in others)
    within = 1 / (2 * max(own.independent - 1, 1)) + 1 / (2 * max(total - 1, 1))
    expected = math.sqrt(squares / total) * own.size
    return END_TO_END * expected * math.exp(CHANCE * math.sqrt(within))

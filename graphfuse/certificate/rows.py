"""The operands: random rational rows on which an epsilon, a clamp or a mean shows.

Every number is a quotient of whole numbers; the sum of the operands is what has a kind. A row whose
spread is far below the root of epsilon shows epsilon's last bit, a row of one number what is done
where the variance is 0, and numbers beyond float32's range, or below it, show limits.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.numbers import context, number, objects
from graphfuse.certificate.values import size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

KINDS_OF_ROWS = (
    "a usual row",
    "a row with a spread below the root of epsilon",
    "a row of one number",
    "a row of numbers around 1e40",
    "a row with a large mean",
    "a row of numbers around 1e-40",
)
FEW_ROWS = 3
"""So many of them where rows are huge."""
HUGE = 2**15

KnownShape = tuple[int, ...]


@dataclass(frozen=True)
class Extents:
    """The shapes of the operands and of their sum, and the axes that are normalised, as a count."""

    a: KnownShape
    b: KnownShape
    normalized: int

    @property
    def total(self) -> KnownShape:
        """The shape of the sum."""
        return tuple(np.broadcast_shapes(self.a, self.b))

    @property
    def hidden(self) -> int:
        """How many numbers a row has."""
        return size(self.total[len(self.total) - self.normalized :])

    @property
    def rows(self) -> int:
        """How many rows a sum has."""
        return size(self.total[: len(self.total) - self.normalized])


def kinds_of(extents: Extents) -> Sequence[str]:
    """The kinds of rows that are drawn."""
    return KINDS_OF_ROWS[:FEW_ROWS] if extents.hidden > HUGE else KINDS_OF_ROWS


def rational(rng: random.Random) -> Any:
    """A number between -2 and 2, seldom one that a float holds."""
    return number(rng.randint(-(10**6), 10**6)) / rng.randint(500_001, 10**6)


def vector(rng: random.Random, shape: KnownShape) -> Array:
    """Numbers between 1/2 and 3/2, for a weight that both models hold alike."""
    return _filled(shape, lambda: 1 + rational(rng) / 4)


def operands(
    rng: random.Random, extents: Extents, epsilon: Any, first: int, added: Any, same: bool
) -> Mapping[str, Array]:
    """A and B such that the rows of their sum are of kinds, from number `first` on.

    `added` is what the site adds beside them. Where neither operand has the shape of the sum, the
    rows are those of each operand. `same`: both are one tensor.
    """
    total, kinds = extents.total, kinds_of(extents)
    if total not in (extents.a, extents.b):
        a = _rows(rng, extents.a, extents.normalized, epsilon, first, len(kinds))
        return {"A": a, "B": _filled(extents.b, lambda: rational(rng))}
    wanted = _rows(rng, total, extents.normalized, epsilon, first, len(kinds)) - added
    if same:
        return {"A": objects(wanted / 2), "B": objects(wanted / 2)}
    larger, smaller = ("A", "B") if extents.a == total else ("B", "A")
    shape = extents.b if larger == "A" else extents.a
    other = _filled(shape, lambda: rational(rng))
    return {larger: objects(wanted - other), smaller: other}


def _filled(shape: KnownShape, draw: Any) -> Array:
    array = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        array[index] = draw()
    return array


def _rows(
    rng: random.Random, shape: KnownShape, normalized: int, epsilon: Any, first: int, kinds: int
) -> Array:
    """Rows of a tensor, one kind after the other."""
    outer, inner = shape[: len(shape) - normalized], shape[len(shape) - normalized :]
    array = np.empty(shape, dtype=object)
    for place, index in enumerate(np.ndindex(outer)):
        array[index] = _row(rng, inner, epsilon, (first + place) % kinds)
    return array


def _row(rng: random.Random, shape: KnownShape, epsilon: Any, kind: int) -> Array:
    mp = context()
    numbers = _filled(shape, lambda: rational(rng))
    third = number(1) / 3
    if kind == 1:
        # A power of two, so that the numbers stay rational.
        small = mp.ldexp(1, int(mp.floor(mp.log(epsilon, 2) / 2)) - 3) if epsilon > 0 else third
        return numbers * small
    if kind == 2:
        return numbers * 0 + rational(rng)
    if kind == 3:
        return numbers * number(10**40)
    if kind == 4:
        return numbers / 100 + 1000 + third
    if kind == 5:
        return numbers / number(10**40)
    return numbers + third

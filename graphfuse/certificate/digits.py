"""How far two results are apart, and in which digit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.numbers import context, finite, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BOUND = 90
"""Results are the same when they are so to this many digits, relative to each number."""

FLOOR = 50
"""Of what is below 1e-50 the difference from 1e-50 counts: a row of one number less its mean is
nothing, and only so up to the last digits of the evaluation."""

SHOWN = 6
"""Digits that are shown behind the first that differs."""


@dataclass(frozen=True)
class LargestDifference:
    """The largest relative difference of two tensors, and where it is; `got` is the fused one's."""

    value: Any
    index: tuple[int, ...] = ()
    wanted: Any = None
    got: Any = None

    @property
    def is_none(self) -> bool:
        """Whether the tensors are the same to ninety digits."""
        return bool(self.value <= context().mpf(10) ** -BOUND)

    @property
    def digit(self) -> int:
        """The first significant digit that differs."""
        if not context().isfinite(self.value):
            return 1
        return max(1, int(context().floor(-context().log10(self.value))) + 1)

    def text(self, names: tuple[str, str] = ("the original", "the fused node")) -> str:
        """Both numbers, up to some digits behind the first that differs."""
        digits = self.digit + SHOWN
        one, other = (context().nstr(each, digits) for each in (self.wanted, self.got))
        return f"{one} in {names[0]}, {other} in {names[1]}"


def difference(wanted: Array, got: Array) -> LargestDifference:
    """The largest difference of two tensors of one shape; infinite where one only is finite."""
    floor = context().mpf(10) ** -FLOOR
    both = finite(wanted) & finite(got)
    alone = np.argwhere(finite(wanted) != finite(got))
    if len(alone):
        index = tuple(int(each) for each in alone[0])
        return LargestDifference(context().inf, index, wanted[index], got[index])
    worst = LargestDifference(number(0))
    for index in np.ndindex(wanted.shape):
        if not both[index] or wanted[index] == got[index]:
            continue
        one, other = wanted[index], got[index]
        value = abs(one - other) / max(abs(one), floor)
        if value > worst.value:
            worst = LargestDifference(value, index, one, other)
    return worst

"""The records of a residual stream: its sums, and what they were in runs of the model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FLOAT16_LARGEST = 65504.0
FLOAT16_LARGEST_SQUARED = 255.0
"""The largest magnitude whose square float16 holds, rounded down."""
DRIFT = 100.0
"""Beyond it the steps of float16 are 1/16 and more: what a block adds begins to be lost."""


class StreamVerdict(StrEnum):
    """Whether a sum of the residual stream could be float16."""

    HEALTHY = "healthy"
    DRIFTING = "drifting"
    SQUARES_OVERFLOW = "squares overflow in float16"
    OVERFLOWS = "overflows float16"


@dataclass(frozen=True, slots=True)
class StreamSum:
    """A sum of the residual stream: its tensor, and the site and kind of the norm that reads it.

    `site` and `kind` are empty where no norm does. `squares_in_type` says that the norm is written
    out and squares in the type of the sum, so in float16 once the model is.
    """

    sum: str
    site: str
    kind: str
    layer: int | None
    squares_in_type: bool


@dataclass(frozen=True, slots=True)
class Reading(StreamSum):
    """What a sum of the residual stream was over all feeds, in the model's own runs.

    `largest` is a magnitude, infinite where an element was not finite; mean and standard deviation
    are those of the finite elements. In a validation `site` is the output of the fused node, and
    nothing more is known of the sum.
    """

    mean: float
    std: float
    largest: float

    @property
    def float16_share(self) -> float:
        """The largest magnitude, as a share of 65,504."""
        return self.largest / FLOAT16_LARGEST

    @property
    def squares_overflow(self) -> bool:
        """Whether the square of the largest magnitude is beyond float16: providers that square in
        float16 then give infinity.
        """
        return self.largest > FLOAT16_LARGEST_SQUARED

    @property
    def verdict(self) -> StreamVerdict:
        """Whether the sum could be float16."""
        if self.largest > FLOAT16_LARGEST:
            return StreamVerdict.OVERFLOWS
        if self.squares_in_type and self.squares_overflow:
            return StreamVerdict.SQUARES_OVERFLOW
        is_drifting = self.largest > DRIFT
        return StreamVerdict.DRIFTING if is_drifting else StreamVerdict.HEALTHY

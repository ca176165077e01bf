"""One feed that the original ran on, and what kind of thing an output is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx

from graphfuse.running.feeding import Feed
from graphfuse.types.shapes import type_of
from graphfuse.validation.lockstep import Meaning
from graphfuse.validation.rounding import RoundedSamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Outputs = Mapping[str, Array]

Way = tuple[bool, bool]
"""How a model is run: with optimizations, and with graphfuse's kernels."""


@dataclass
class Ran:
    """One feed that the original ran on: its outputs by way of running it, and float64's."""

    feed: Feed
    before: dict[Way, Outputs]
    meaning: Meaning = field(default_factory=Meaning)
    samples: RoundedSamples | None = None

    def like(self, kernels: bool) -> Mapping[bool, Outputs]:
        """The original's outputs by optimization: run alike, or as it could be run."""
        flags = {flag for _, flag in self.before}
        wanted = kernels if kernels in flags else next(iter(flags))
        return {level: found for (level, flag), found in self.before.items() if flag == wanted}


def elem_type_of(value: onnx.TypeProto) -> int:
    """The element type of a tensor, or of the tensors in a sequence; 0 for anything else."""
    if value.HasField("sequence_type"):
        value = value.sequence_type.elem_type
    return type_of(value).elem_type


def type_of_array(array: Any) -> int:
    """The element type of an output that the model declares none of; 0 for what is no tensor."""
    if not isinstance(array, np.ndarray) or not is_numeric(cast("Array", array)):
        return 0
    return onnx.helper.np_dtype_to_tensor_dtype(cast("Array", array).dtype)


def is_numeric(array: Any) -> bool:
    """Whether an output is a tensor of numbers."""
    return getattr(array, "dtype", np.dtype(object)).kind in "fiub"

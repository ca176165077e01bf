"""What the evaluator hands the operators: values, nodes, and what it does not know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphfuse.certificate.numbers import exact, objects
from graphfuse.records.element_types import FLOAT_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LARGEST = 2**22
"""Elements of a tensor; more of them take minutes, or all memory."""

INTEGER = TensorProto.INT64
BOOLEAN = TensorProto.BOOL


class UnknownError(Exception):
    """The certificate does not know what a node computes; the text is what is said of it."""


class ShapeError(Exception):
    """A node does not take the extents that it was given: they are fixed in the file."""


@dataclass(frozen=True, slots=True)
class ExactValue:
    """A tensor: numbers of 200 digits for a float type, else integers or booleans of numpy's.

    `elem_type` is what the model says of it, an onnx.TensorProto number. `fixed` says that it
    follows from stored numbers alone, so a cast of it rounds in every run alike.
    """

    array: Array
    elem_type: int
    fixed: bool = False

    @property
    def is_float(self) -> bool:
        """Whether its numbers have 200 digits."""
        return self.elem_type in FLOAT_TYPES

    def like(self, array: Any) -> ExactValue:
        """Other numbers of this type."""
        return ExactValue(objects(array) if self.is_float else np.asarray(array), self.elem_type)


def stored(array: Array, elem_type: int) -> ExactValue:
    """A tensor of a file, exactly as stored."""
    if elem_type in FLOAT_TYPES:
        return ExactValue(exact(array), elem_type, True)
    if array.dtype.kind not in "iub":
        raise UnknownError(f"a tensor of type {array.dtype.name}")
    return ExactValue(array, elem_type, True)


def integers(values: Any) -> ExactValue:
    """A tensor of int64."""
    return ExactValue(np.asarray(values, np.int64), INTEGER)


@dataclass(frozen=True, slots=True)
class ExactNode:
    """A node with its values: None for an input that is left out."""

    proto: onnx.NodeProto
    inputs: Sequence[ExactValue | None]
    attributes: Mapping[str, Any]

    @property
    def op_type(self) -> str:
        """The operator's name."""
        return self.proto.op_type

    def optional(self, position: int) -> ExactValue | None:
        """An input, if it is there."""
        return self.inputs[position] if position < len(self.inputs) else None

    def value(self, position: int = 0) -> ExactValue:
        """An input that has to be there."""
        found = self.optional(position)
        if found is None:
            raise UnknownError(f"operator {self.op_type} without input {position}")
        return found

    def floats(self, position: int = 0) -> Array:
        """The numbers of an input that is a float tensor."""
        found = self.value(position)
        if not found.is_float:
            raise UnknownError(f"operator {self.op_type} of integers")
        return found.array

    def whole(self, name: str, position: int) -> list[int] | None:
        """Axes, a shape and so on: an attribute in older operator sets, an input in newer ones."""
        if name in self.attributes:
            given = self.attributes[name]
            return [int(given)] if isinstance(given, int) else [int(each) for each in given]
        found = self.optional(position)
        return None if found is None else [int(each) for each in found.array.reshape(-1)]

    def flag(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))


ExactRule = Callable[[ExactNode], ExactValue | Sequence[ExactValue | None]]
"""What an operator computes: its output, or all of them."""


Attributes = Mapping[str, onnx.AttributeProto | None]
"""The attributes of a function as a call gives them; None for one that is not known."""


def attributes_of(node: onnx.NodeProto, bound: Attributes) -> Mapping[str, Any]:
    """A node's attributes; those that refer to the function's take the values of the call."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.ref_attr_name
        if name and name not in bound:
            continue
        value = bound[name] if name else attribute
        if value is None:
            raise UnknownError(f"attribute {name} of the function, on which calls do not agree")
        found[attribute.name] = helper.get_attribute_value(value)
    return found


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front."""
    return tuple(axis + rank if axis < 0 else axis for axis in axes)


def size(shape: Sequence[int]) -> int:
    """How many elements a shape has."""
    return math.prod(shape)


def check_size(shape: Sequence[int]) -> None:
    """Raise UnknownError for a tensor that is too large to evaluate."""
    if size(shape) > LARGEST:
        raise UnknownError(f"a tensor of {size(shape):,} numbers")

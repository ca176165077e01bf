"""Loop and Scan in float64: which values each trip of the body gets, and what becomes of them.

The body itself is evaluated by whoever walks the twin, node by node as everything else is. A Loop
of very many trips takes long that way: it is handed on to onnxruntime as a whole, where that has
all of its operators in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from graphfuse.records.element_types import FLOAT_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Body = Callable[[Sequence[Array]], list[Array]]

MANY_TRIPS = 1000
"""Trips after which a Loop is handed on."""


class ManyTripsError(Exception):
    """A Loop has run `MANY_TRIPS` trips and goes on."""


class OutOfTimeError(Exception):
    """A Loop or Scan did not end in time; says after how many trips."""


@dataclass
class Trips:
    """Counts the trips of a Loop or Scan, and ends it: after `seconds`, or at `most` trips."""

    seconds: float | None
    most: int | None = None
    number: int = 0

    def __post_init__(self) -> None:
        self._end = None if self.seconds is None else time.monotonic() + self.seconds

    def next(self) -> None:
        """One trip more. Raises ManyTripsError and OutOfTimeError."""
        if self.most is not None and self.number >= self.most:
            raise ManyTripsError
        if self._end is not None and time.monotonic() > self._end:
            raise OutOfTimeError(
                f"it did not end within {self.seconds:g} seconds, after {self.number} trips"
            )
        self.number += 1


def run_loop(
    graph: onnx.GraphProto, inputs: Sequence[Array | None], body: Body, trips: Trips
) -> list[Array]:
    """Loop of ONNX: final values of what it carries, then what each trip yields, stacked.

    `inputs` are the number of trips, the condition, both None where they are absent, and what is
    carried. Raises ManyTripsError and OutOfTimeError.
    """
    limit, condition, *carried = inputs
    most = None if limit is None else int(np.asarray(limit).reshape(-1)[0])
    goes_on = condition is None or bool(np.all(condition))
    state: list[Any] = list(carried)
    yielded: list[list[Array]] = [[] for _ in graph.output[1 + len(state) :]]
    number = 0
    while goes_on and (most is None or number < most):
        trips.next()
        results = body([np.array(number, np.int64), np.array(True), *state])
        # onnxruntime looks at what the body says also where no condition is given from outside.
        goes_on = bool(np.all(results[0]))
        state = results[1 : 1 + len(state)]
        for items, item in zip(yielded, results[1 + len(state) :], strict=True):
            items.append(item)
        number += 1
    outputs = graph.output[1 + len(state) :]
    stacked = (_stacked(items, value, 0) for items, value in zip(yielded, outputs, strict=True))
    return [*state, *stacked]


def run_scan(
    node: onnx.NodeProto,
    graph: onnx.GraphProto,
    inputs: Sequence[Array],
    body: Body,
    trips: Trips,
) -> list[Array]:
    """Scan of ONNX from opset 9 on: final states, then what each trip yields, stacked.

    Raises OutOfTimeError, and ValueError where what is scanned is not of one length.
    """
    given = {a.name: list(a.ints) for a in node.attribute if a.ints}
    scanned = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    first = len(inputs) - scanned
    state, arrays = list(inputs[:first]), inputs[first:]
    outputs = graph.output[first:]
    axes = given.get("scan_input_axes", [0] * scanned)
    backwards = given.get("scan_input_directions", [0] * scanned)
    lengths = {array.shape[axis] for array, axis in zip(arrays, axes, strict=True)}
    if len(lengths) != 1:
        raise ValueError(f"Scan over tensors of {sorted(lengths)} elements")
    [length] = lengths
    yielded: list[list[Array]] = [[] for _ in outputs]
    for number in range(length):
        trips.next()
        places = (length - 1 - number if flag else number for flag in backwards)
        slices = map(_taken, arrays, places, axes)
        results = body([*state, *slices])
        state = results[:first]
        for items, item in zip(yielded, results[first:], strict=True):
            items.append(item)
    into = given.get("scan_output_axes", [0] * len(outputs))
    turned = given.get("scan_output_directions", [0] * len(outputs))
    stacked = [
        _stacked(items[::-1] if flag else items, value, axis)
        for items, value, axis, flag in zip(yielded, outputs, into, turned, strict=True)
    ]
    return [*state, *stacked]


def _taken(array: Array, place: int, axis: int) -> Array:
    return np.take(array, place, axis)


def _stacked(items: Sequence[Array], value: onnx.ValueInfoProto, axis: int) -> Array:
    """One tensor of what all trips have yielded; of none, an empty one of the declared extents."""
    if items:
        return np.stack([np.asarray(item) for item in items], axis)
    kind = value.type.tensor_type
    is_float = kind.elem_type in FLOAT_TYPES
    dtype = np.float64 if is_float else helper.tensor_dtype_to_np_dtype(kind.elem_type or 1)
    shape = [dim.dim_value for dim in kind.shape.dim]
    shape.insert(axis % (len(shape) + 1), 0)
    return np.zeros(shape, dtype)

"""Operators that only move numbers, and those that compute shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from graphfuse.certificate.values import (
    ExactNode,
    ExactRule,
    ExactValue,
    UnknownError,
    axes_of,
    check_size,
    integers,
    size,
    stored,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _constant(node: ExactNode) -> ExactValue:
    """A stored tensor; Python's numbers in attributes are float32 and int64."""
    given = node.attributes
    if "value" in given:
        return stored(numpy_helper.to_array(given["value"]), given["value"].data_type)
    for name in ("value_float", "value_floats"):
        if name in given:
            return stored(np.array(given[name], np.float32), TensorProto.FLOAT)
    for name in ("value_int", "value_ints"):
        if name in given:
            return ExactValue(np.array(given[name], np.int64), TensorProto.INT64, True)
    raise UnknownError("operator Constant of text")


def _constant_of_shape(node: ExactNode) -> ExactValue:
    shape = [int(extent) for extent in node.value().array]
    check_size(shape)
    if "value" not in node.attributes:
        return stored(np.zeros(shape, np.float32), TensorProto.FLOAT)
    one = node.attributes["value"]
    filled = np.broadcast_to(numpy_helper.to_array(one).reshape(()), shape)
    return stored(filled, one.data_type)


def _reshape(node: ExactNode) -> ExactValue:
    value = node.value()
    wanted = node.whole("shape", 1) or []
    if not node.flag("allowzero", 0):
        shape = value.array.shape
        wanted = [shape[at] if extent == 0 else extent for at, extent in enumerate(wanted)]
    return value.like(value.array.reshape(wanted))


def _unsqueeze(node: ExactNode) -> ExactValue:
    value, axes = node.value(), node.whole("axes", 1) or []
    rank = value.array.ndim + len(axes)
    return value.like(np.expand_dims(value.array, axes_of(axes, rank)))


def _squeeze(node: ExactNode) -> ExactValue:
    value, axes = node.value(), node.whole("axes", 1)
    found = None if axes is None else axes_of(axes, value.array.ndim)
    return value.like(np.squeeze(value.array, found))


def _expand(node: ExactNode) -> ExactValue:
    value = node.value()
    shape = np.broadcast_shapes(value.array.shape, tuple(node.whole("shape", 1) or ()))
    check_size(shape)
    return value.like(np.broadcast_to(value.array, shape))


def _transpose(node: ExactNode) -> ExactValue:
    value = node.value()
    return value.like(np.transpose(value.array, node.whole("perm", 1)))


def _flatten(node: ExactNode) -> ExactValue:
    value = node.value()
    axis = axes_of([node.flag("axis", 1)], value.array.ndim)[0]
    return value.like(value.array.reshape(size(value.array.shape[:axis]), -1))


def _shape(node: ExactNode) -> ExactValue:
    shape = node.value().array.shape
    end = node.attributes.get("end")
    return integers(shape[slice(node.flag("start", 0), end)])


def _gather(node: ExactNode) -> ExactValue:
    value = node.value()
    return value.like(np.take(value.array, node.value(1).array, node.flag("axis", 0)))


def _slice(node: ExactNode) -> ExactValue:
    value = node.value()
    starts, ends = node.whole("starts", 1) or [], node.whole("ends", 2) or []
    axes = node.whole("axes", 3) or list(range(len(starts)))
    steps = node.whole("steps", 4) or [1] * len(starts)
    index = [slice(None)] * value.array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            raise UnknownError("operator Slice backwards")
        index[axis] = slice(start, end, step)
    return value.like(value.array[tuple(index)])


def _concat(node: ExactNode) -> ExactValue:
    arrays = [node.value(position).array for position in range(len(node.inputs))]
    return node.value().like(np.concatenate(arrays, node.flag("axis", 0)))


def _tile(node: ExactNode) -> ExactValue:
    repeats = node.whole("repeats", 1) or []
    check_size([node.value().array.size, *repeats])
    return node.value().like(np.tile(node.value().array, repeats))


def _range(node: ExactNode) -> ExactValue:
    first, limit, step = (int(node.value(position).array) for position in range(3))
    if node.value().is_float:
        raise UnknownError("operator Range of floats")
    check_size([abs(limit - first)])
    return integers(np.arange(first, limit, step))


SHAPING: Mapping[str, ExactRule] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Shape": _shape,
    "Size": lambda node: integers(node.value().array.size),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Tile": _tile,
    "Range": _range,
}

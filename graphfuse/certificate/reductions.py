"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.numbers import each, number, objects, root
from graphfuse.certificate.values import ExactNode, ExactRule, ExactValue, axes_of, size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def total(array: Array, axes: tuple[int, ...]) -> Array:
    """The sum over axes, which stay with extent 1."""
    return objects(np.sum(array, axis=axes, keepdims=True))


def mean(array: Array, axes: tuple[int, ...]) -> Array:
    """The mean over axes, which stay with extent 1."""
    count = size([array.shape[axis] for axis in axes])
    return total(array, axes) / number(count)


def _reduce(operation: Callable[[Array, tuple[int, ...]], Array]) -> ExactRule:
    """All axes where none are named, unless the node says that this means none."""

    def rule(node: ExactNode) -> ExactValue:
        value = node.value()
        named = node.whole("axes", 1)
        if not named and node.flag("noop_with_empty_axes", 0):
            return value
        axes = axes_of(named or range(value.array.ndim), value.array.ndim)
        result = operation(node.floats(), axes)
        if not node.flag("keepdims", 1):
            result = result.reshape([n for at, n in enumerate(result.shape) if at not in axes])
        return value.like(result)

    return rule


def _length(array: Array, axes: tuple[int, ...]) -> Array:
    """sqrt(sum(a^2))."""
    return objects(each(root)(total(array * array, axes)))


def _global_mean(node: ExactNode) -> ExactValue:
    """GlobalAveragePool: the mean over all axes behind the second."""
    array = node.floats()
    return node.value().like(mean(array, tuple(range(2, array.ndim))))


REDUCTIONS: Mapping[str, ExactRule] = {
    "ReduceSum": _reduce(total),
    "ReduceMean": _reduce(mean),
    "ReduceSumSquare": _reduce(lambda a, axes: total(a * a, axes)),
    "ReduceL1": _reduce(lambda a, axes: total(np.abs(a), axes)),
    "ReduceL2": _reduce(_length),
    "ReduceMax": _reduce(lambda a, axes: objects(np.max(a, axis=axes, keepdims=True))),
    "ReduceMin": _reduce(lambda a, axes: objects(np.min(a, axis=axes, keepdims=True))),
    "GlobalAveragePool": _global_mean,
}

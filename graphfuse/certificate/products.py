"""Products of matrices, with which some exporters write a mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.numbers import number, objects
from graphfuse.certificate.values import (
    LARGEST,
    ExactNode,
    ExactRule,
    ExactValue,
    UnknownError,
    size,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _product(one: Array, other: Array) -> Array:
    work = one.size * (other.shape[-1] if other.ndim > 1 else 1)
    if work > LARGEST:
        raise UnknownError(f"a product of {work:,} numbers")
    return objects(np.matmul(one, other))


def _matmul(node: ExactNode) -> ExactValue:
    return node.value().like(_product(node.floats(0), node.floats(1)))


def _gemm(node: ExactNode) -> ExactValue:
    """alpha * A * B + beta * C."""
    one, other = node.floats(0), node.floats(1)
    one = one.T if node.flag("transA", 0) else one
    other = other.T if node.flag("transB", 0) else other
    result = _product(one, other) * number(node.attributes.get("alpha", 1.0))
    addend = node.optional(2)
    if addend is not None:
        result = result + addend.array * number(node.attributes.get("beta", 1.0))
    return node.value().like(result)


def _einsum(node: ExactNode) -> ExactValue:
    """By numpy, which takes objects where it is not asked to optimize."""
    arrays = [node.floats(position) for position in range(len(node.inputs))]
    equation = node.attributes["equation"].decode()
    letters: dict[str, int] = {}
    for term, array in zip(equation.split("->")[0].split(","), arrays, strict=True):
        if "." in term:
            raise UnknownError("operator Einsum with an ellipsis")
        letters.update(zip(term.strip(), array.shape, strict=True))
    if size(list(letters.values())) > LARGEST:
        raise UnknownError("operator Einsum of too many numbers")
    return node.value().like(np.einsum(equation, *arrays))


def _conv(node: ExactNode) -> ExactValue:
    """A kernel of one point: a product along the channels. Others are no mean of a row."""
    array, kernel = node.floats(0), node.floats(1)
    strides = node.attributes.get("strides") or [1]
    if size(kernel.shape[2:]) != 1 or node.flag("group", 1) != 1 or set(strides) != {1}:
        raise UnknownError("operator Conv of more than one point")
    if any(node.attributes.get("pads") or ()):
        raise UnknownError("operator Conv with pads")
    matrix = kernel.reshape(kernel.shape[:2])
    flat = array.reshape(*array.shape[:2], -1)
    if flat.size * len(matrix) > LARGEST:
        raise UnknownError("operator Conv of too many numbers")
    result = objects(np.matmul(matrix, flat)).reshape(array.shape[0], -1, *array.shape[2:])
    bias = node.optional(2)
    if bias is not None:
        result = result + bias.array.reshape(1, -1, *[1] * (array.ndim - 2))
    return node.value().like(result)


PRODUCTS: Mapping[str, ExactRule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
}

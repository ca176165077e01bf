"""Operators of one element at a time: arithmetic, comparisons, clamps, casts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.certificate.numbers import (
    context,
    each,
    exact,
    inverse,
    number,
    objects,
    power,
    quotient,
    root,
    rounded,
)
from graphfuse.certificate.values import (
    BOOLEAN,
    INTEGER,
    ExactNode,
    ExactRule,
    ExactValue,
    UnknownError,
)
from graphfuse.records.element_types import FLOAT_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def _unary(function: Callable[[Any], Any]) -> ExactRule:
    """A function of each number."""

    def rule(node: ExactNode) -> ExactValue:
        return node.value().like(each(function)(node.floats()))

    return rule


def _several(operation: Callable[..., Any]) -> ExactRule:
    """An operation on all operands, from the first to the last."""

    def rule(node: ExactNode) -> ExactValue:
        first = node.value()
        arrays = [node.value(position).array for position in range(len(node.inputs))]
        return first.like(reduce(operation, arrays))

    return rule


def _divide(node: ExactNode) -> ExactValue:
    """a / b; of integers the part before the point."""
    one, other = node.value(0), node.value(1)
    if one.is_float:
        return one.like(each(quotient, 2)(one.array, other.array))
    whole = np.abs(one.array) // np.abs(other.array)
    return one.like(whole * np.sign(one.array) * np.sign(other.array))


def _power(node: ExactNode) -> ExactValue:
    """a^p, in a's type, whatever that of p."""
    base, exponent = node.value(0), node.value(1)
    if not base.is_float:
        return base.like(base.array ** exponent.array.astype(np.int64))
    raised = exponent.array if exponent.is_float else exact(exponent.array)
    return base.like(each(power, 2)(base.array, raised))


def _mean_of_several(node: ExactNode) -> ExactValue:
    """(a + b + ...) / n, over the operands."""
    total = _several(np.add)(node)
    assert isinstance(total, ExactValue)
    return total.like(total.array / number(len(node.inputs)))


def _compare(operation: Callable[..., Any]) -> ExactRule:
    def rule(node: ExactNode) -> ExactValue:
        found = operation(node.value(0).array, node.value(1).array)
        return ExactValue(np.asarray(found, dtype=bool), BOOLEAN)

    return rule


def _logic(operation: Callable[..., Any]) -> ExactRule:
    def rule(node: ExactNode) -> ExactValue:
        arrays = [node.value(position).array for position in range(len(node.inputs))]
        return ExactValue(np.asarray(operation(*arrays), dtype=bool), BOOLEAN)

    return rule


def _where(node: ExactNode) -> ExactValue:
    return node.value(1).like(
        np.where(node.value(0).array, node.value(1).array, node.value(2).array)
    )


def _clip(node: ExactNode) -> ExactValue:
    """min(max(a, low), high); the limits were attributes below opset 11."""
    value = node.value()
    array = value.array
    for position, name, operation in ((1, "min", np.maximum), (2, "max", np.minimum)):
        given = node.optional(position)
        if name in node.attributes:
            array = operation(array, objects(number(node.attributes[name])))
        elif given is not None:
            array = operation(array, given.array)
    return value.like(array)


def _leaky(node: ExactNode) -> ExactValue:
    """a where a is not negative, else alpha * a."""
    alpha = number(node.attributes.get("alpha", float(np.float32(0.01))))

    def leaky(value: Any) -> Any:
        return alpha * value if value < 0 else value

    return node.value().like(each(leaky)(node.floats()))


def cast(value: ExactValue, to: int) -> ExactValue:
    """The identity between float types, but of a stored number: that is rounded in every run."""
    if value.is_float and to in FLOAT_TYPES:
        array = value.array
        if value.fixed and array.size == 1:
            array = objects(rounded(array.reshape(-1)[0], to)).reshape(array.shape)
        return ExactValue(array, to)
    if to in FLOAT_TYPES:
        return ExactValue(exact(value.array.astype(np.int64)), to)
    if to == BOOLEAN:
        return ExactValue(np.asarray(value.array != 0, dtype=bool), BOOLEAN)
    whole = each(int)(value.array) if value.is_float else value.array
    return ExactValue(np.asarray(whole, dtype=np.int64), INTEGER)


def _dropout(node: ExactNode) -> ExactValue:
    training = node.optional(2)
    if training is not None and training.array.any():
        raise UnknownError("operator Dropout in training mode")
    return node.value()


def _negative(node: ExactNode) -> ExactValue:
    return node.value().like(-node.value().array)


ELEMENTWISE: Mapping[str, ExactRule] = {
    "Add": _several(np.add),
    "Sub": _several(np.subtract),
    "Mul": _several(np.multiply),
    "Sum": _several(np.add),
    "Max": _several(np.maximum),
    "Min": _several(np.minimum),
    "Mean": _mean_of_several,
    "Div": _divide,
    "Pow": _power,
    "Neg": _negative,
    "Abs": lambda node: node.value().like(np.abs(node.value().array)),
    "Sqrt": _unary(root),
    "Reciprocal": _unary(inverse),
    "Exp": _unary(lambda a: context().exp(a)),
    "Log": _unary(lambda a: context().ln(a) if a > 0 else context().nan),
    "Sign": _unary(lambda a: context().sign(a)),
    "Relu": _unary(lambda a: max(a, number(0))),
    "LeakyRelu": _leaky,
    "Clip": _clip,
    "Where": _where,
    "Equal": _compare(np.equal),
    "Greater": _compare(np.greater),
    "GreaterOrEqual": _compare(np.greater_equal),
    "Less": _compare(np.less),
    "LessOrEqual": _compare(np.less_equal),
    "And": _logic(np.logical_and),
    "Or": _logic(np.logical_or),
    "Not": _logic(np.logical_not),
    "Identity": lambda node: node.value(),
    "Dropout": _dropout,
    "Cast": lambda node: cast(node.value(), node.flag("to", 0)),
    "CastLike": lambda node: cast(node.value(0), node.value(1).elem_type),
}

"""Operators of ONNX that normalise with no epsilon under their root: near misses, by formula.

    MeanVarianceNormalization   (x - m) / (sqrt(mean((x - m)^2)) + 1e-9)     m = mean(x)
    LpNormalization, p = 2      x / sqrt(sum(x^2))

MindSpore writes its LayerNorm with the first, onnx-chainer a length of 1 with the second. Source:
ONNX's operator specification, MeanVarianceNormalization-13 (its function) and LpNormalization-22.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from graphfuse.graph.nodes import Node
from graphfuse.graph.shapes import extent_of
from graphfuse.patterns import algebra
from graphfuse.patterns.algebra import Refusal
from graphfuse.patterns.context import Context, Value, to_value
from graphfuse.patterns.form import Form
from graphfuse.reasons import Reason

HALF = Fraction(1, 2)

ADDED = 1e-9
"""What MeanVarianceNormalization adds to the deviation."""

DEFAULT_AXES = (0, 2, 3)
"""Of MeanVarianceNormalization: all but the channels of an image."""


def fixed_axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes that such an operator normalises over, counted from the end; None if x lacks one."""
    if node.op_type == "LpNormalization":
        axes: tuple[int, ...] = (int(node.attributes.get("axis", -1)),)
    else:
        axes = tuple(int(axis) for axis in node.attributes.get("axes", DEFAULT_AXES))
    if any(not -rank <= axis < rank for axis in axes):
        return None
    return tuple(sorted(axis - rank if axis >= 0 else axis for axis in axes))


def _normalize(context: Context) -> Value | Refusal:
    """What the operator gives; over axes that are not the last ones, that these are wrong."""
    operand, axes = context.operand(0), context.candidate.axes
    if isinstance(operand, Refusal):
        return operand
    own = fixed_axes(context.node, context.candidate.rank)
    if own != axes or axes != tuple(range(-len(axes), 0)):
        return Refusal(Reason.OTHER_AXES, f"axes {list(own) if own else 'unknown'}")
    if context.node.op_type == "MeanVarianceNormalization":
        return to_value(_by_deviation(operand.form), dropped=False)
    if int(context.node.attributes.get("p", 2)) != 2:
        return Refusal(Reason.NOT_THE_DEFINITION, "a norm of another order than 2")
    shape = context.view.type(context.candidate.tensor).shape
    extent = None if shape is None else extent_of(shape, axes)
    if extent is None:
        return Refusal(Reason.UNKNOWN_SHAPE, "a length over an unknown extent")
    return to_value(_by_length(operand.form, extent), dropped=False)


def _by_deviation(form: Form) -> Form | Refusal:
    """(a - m) / (sqrt(mean((a - m)^2)) + 1e-9)."""
    middle = algebra.mean(form)
    deviation = middle if isinstance(middle, Refusal) else algebra.subtract(form, middle)
    root = _root_of_mean_square(deviation)
    if isinstance(deviation, Refusal) or isinstance(root, Refusal):
        return deviation if isinstance(deviation, Refusal) else root
    below = algebra.add(root, algebra.constant(ADDED))
    return _quotient(deviation, below)


def _by_length(form: Form, extent: int) -> Form | Refusal:
    """a / sqrt(n * mean(a^2))."""
    root = _root_of_mean_square(form)
    if isinstance(root, Refusal):
        return root
    return _quotient(form, algebra.multiply(root, algebra.number_power(Fraction(extent), HALF)))


def _root_of_mean_square(form: Form | Refusal) -> Form | Refusal:
    square = form if isinstance(form, Refusal) else algebra.power(form, Fraction(2))
    average = square if isinstance(square, Refusal) else algebra.mean(square)
    return average if isinstance(average, Refusal) else algebra.power(average, HALF)


def _quotient(form: Form, below: Form | Refusal) -> Form | Refusal:
    inverse = below if isinstance(below, Refusal) else algebra.power(below, Fraction(-1))
    return inverse if isinstance(inverse, Refusal) else algebra.multiply(form, inverse)


FIXED: Mapping[str, Callable[[Context], Value | Refusal]] = dict.fromkeys(
    ("MeanVarianceNormalization", "LpNormalization"), _normalize
)
"""Rows of the algebra's table, beside those of `OPERATORS`."""

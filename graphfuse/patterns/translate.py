"""From ONNX operators to the normal form, evaluated forwards from one tensor x.

`OPERATORS` is the whole vocabulary: one row per operator, with the formula it stands for. Every
tensor that is not computed from x is opaque: a number when it is a constant of one element, else
a leaf, if it can be a scale or a bias (a vector along the normalised axes).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

from graphfuse.graph.nodes import Node
from graphfuse.graph.shapes import broadcasts_to, extent_of
from graphfuse.graph.tensors import FLOAT_TYPES
from graphfuse.graph.view import GraphView
from graphfuse.patterns import algebra
from graphfuse.patterns.algebra import Refusal
from graphfuse.patterns.clamps import CLAMPS
from graphfuse.patterns.context import (
    Candidate,
    Context,
    Value,
    join,
    normalized_axes,
    to_value,
)
from graphfuse.patterns.fixed_norms import FIXED
from graphfuse.patterns.form import Form
from graphfuse.reasons import Reason
from graphfuse.records import Dim

HALF = Fraction(1, 2)

MAX_REGION = 256
"""How many nodes are looked at from one tensor: a norm has some twenty."""

DEFAULT_EPSILON = 9.999999747378752e-06
"""1e-5 in float32: what a norm operator without the attribute uses."""


@dataclass(frozen=True, slots=True)
class Region:
    """Everything that could be evaluated from x, and where and why evaluation stopped."""

    candidate: Candidate
    values: Mapping[str, Value]
    refusals: Mapping[int, Refusal]
    named: Mapping[Form, str]
    """Tensors that the model computes from weights, by their form."""


def evaluate(view: GraphView, candidate: Candidate) -> Region:
    """Evaluate forwards from the candidate until operators or operands leave the algebra."""
    values = {candidate.tensor: Value(algebra.subject())}
    refusals: dict[int, Refusal] = {}
    named: dict[Form, str] = {}
    left = MAX_REGION
    pending = sorted({node.position for node in view.readers(candidate.tensor)})
    seen = set(pending)
    while pending and left:
        left -= 1
        node = view.nodes[heapq.heappop(pending)]
        rule = rule_for(node)
        if not node.outputs or not node.outputs[0]:
            continue
        if rule is None:
            refusals[node.position] = _outside(node)
            continue
        result = rule(Context(view, candidate, values, node, OPERATORS, named))
        if isinstance(result, Value):
            result = _of_rank(view, candidate, node, result)
        if isinstance(result, Refusal):
            refusals[node.position] = result
            continue
        values[node.outputs[0]] = result
        for reader in view.readers(node.outputs[0]):
            if reader.position not in seen:
                seen.add(reader.position)
                heapq.heappush(pending, reader.position)
    return Region(candidate, values, refusals, named)


def _of_rank(view: GraphView, candidate: Candidate, node: Node, value: Value) -> Value | Refusal:
    """The value, if its tensor has the axes that it must have: those of x, or without some.

    A number such as [[1]], or one of eight elements, may give a statistic axes that it had not.
    """
    shape, x_shape = view.type(node.outputs[0]).shape, view.type(candidate.tensor).shape
    if shape is None or x_shape is None:
        return Refusal(Reason.UNKNOWN_SHAPE, f"{node.outputs[0]} has no known shape")
    axes = [axis + candidate.rank for axis in candidate.axes]
    whole = [dim for at, dim in enumerate(x_shape) if not value.dropped or at not in axes]
    pairs = zip(shape, whole, strict=False)
    if len(shape) == len(whole) and not any(_enlarges(*pair) for pair in pairs):
        return value
    return Refusal(Reason.AXIS_NOT_PUT_BACK, f"{node.outputs[0]} has shape {list(shape)}")


def _enlarges(dim: Dim, of_x: Dim) -> bool:
    """Whether an extent is known to be another than x has there, or 1."""
    if dim in (1, of_x):
        return False
    return of_x == 1 or isinstance(dim, int)


def _outside(node: Node) -> Refusal:
    if not node.known:
        return Refusal(Reason.FUNCTION_ATTRIBUTE, str(node.ref))
    return Refusal(Reason.NOT_THE_DEFINITION, f"operator {node.op_type}")


Rule = Callable[[Context], Value | Refusal]


def rule_for(node: Node) -> Rule | None:
    """The row of the table for a node; None for an operator outside the algebra."""
    if node.standard:
        rows = (OPERATORS, CLAMPS, FIXED)
        return next((row[node.op_type] for row in rows if node.op_type in row), None)
    if (
        node.known
        and node.domain == "com.microsoft"
        and node.op_type == "SimplifiedLayerNormalization"
    ):
        return OPERATORS[node.op_type]
    return None


def _divide(left: Form, right: Form) -> Form | Refusal:
    """a / b = a * b^-1."""
    inverse = algebra.power(right, Fraction(-1))
    return inverse if isinstance(inverse, Refusal) else algebra.multiply(left, inverse)


def _pow(context: Context) -> Value | Refusal:
    """a^p, for p a constant number."""
    name = context.node.input(1)
    if name in context.values:
        return Refusal(Reason.EXPONENT, f"exponent {context.values[name].form}")
    exponent = context.opaque(name)
    if isinstance(exponent, Refusal):
        return exponent
    number = exponent.form.number
    if number is None:
        return Refusal(Reason.EXPONENT, f"exponent {exponent.form}")
    # An exponent such as 0.1 is no small fraction: its exact value is a root of huge order.
    if number.denominator > 4 or abs(number) > 16:
        return Refusal(Reason.EXPONENT, f"exponent {float(number):g}")
    return context.unary(lambda form: algebra.power(form, number))


def _reduce(finish: Callable[[Form, int | None], Form | Refusal]) -> Rule:
    """A reduction over the candidate's own axes; over others it is not a norm of this tensor."""

    def rule(context: Context) -> Value | Refusal:
        operand = context.operand(0)
        if isinstance(operand, Refusal):
            return operand
        axes = context.axes()
        if operand.dropped or axes is None or axes != context.candidate.axes:
            return Refusal(Reason.OTHER_AXES, f"axes {list(axes) if axes else 'unknown'}")
        # A statistic has extent 1 where x has n: the operand's own extents count.
        shape = context.view.type(context.node.input(0)).shape
        if shape is None or len(shape) != context.candidate.rank:
            return Refusal(Reason.UNKNOWN_SHAPE, f"the rank of {context.node.input(0)}")
        form = finish(operand.form, extent_of(shape, axes))
        return to_value(form, dropped=not context.flag("keepdims", 1))

    return rule


def _mean(form: Form, _: int | None) -> Form | Refusal:
    """mean(a)."""
    return algebra.mean(form)


def _sum(form: Form, extent: int | None) -> Form | Refusal:
    """sum(a) = n * mean(a)."""
    if extent is None:
        return Refusal(Reason.UNKNOWN_SHAPE, "a sum over an unknown extent")
    average = algebra.mean(form)
    return average if isinstance(average, Refusal) else algebra.scale(average, Fraction(extent))


def _sum_of_squares(form: Form, extent: int | None) -> Form | Refusal:
    """sum(a^2)."""
    square = algebra.power(form, Fraction(2))
    return square if isinstance(square, Refusal) else _sum(square, extent)


def _length(form: Form, extent: int | None) -> Form | Refusal:
    """sqrt(sum(a^2))."""
    total = _sum_of_squares(form, extent)
    return total if isinstance(total, Refusal) else algebra.power(total, HALF)


def _same(context: Context) -> Value | Refusal:
    """a. Shapes and float types change nothing; the types are judged at the site."""
    return context.unary(lambda form: form)


def _sum_of_several(context: Context) -> Value | Refusal:
    """a + b + ..."""
    value = context.operand(0)
    for position in range(1, len(context.node.inputs)):
        value = join(value, context.operand(position), algebra.add)
    return value


def _mean_of_several(context: Context) -> Value | Refusal:
    """(a + b + ...) / n: not over axes, but over operands."""
    value = _sum_of_several(context)
    if isinstance(value, Refusal):
        return value
    share = Fraction(1, len(context.node.inputs))
    return to_value(algebra.scale(value.form, share), value.dropped)


def _cast(context: Context) -> Value | Refusal:
    """a, for a cast from one float type to another."""
    if context.view.cast_type(context.node) not in FLOAT_TYPES:
        return Refusal(Reason.NOT_THE_DEFINITION, "a cast to integers")
    if context.node.input(0) not in context.values:
        # CastLike(c, x) rounds c: what comes out counts.
        return context.opaque(context.node.outputs[0])
    return _same(context)


def _dropout(context: Context) -> Value | Refusal:
    """a, at inference."""
    mode = context.node.input(2)
    if mode and context.view.scalar(mode) != 0:
        return Refusal(Reason.NOT_THE_DEFINITION, "dropout in training mode")
    return _same(context)


def _put_back(context: Context) -> Value | Refusal:
    """Unsqueeze, Reshape, Expand, Squeeze: a, when they only drop or put back reduced axes."""
    operand = context.operand(0)
    if isinstance(operand, Refusal):
        return operand
    x_shape = context.view.type(context.candidate.tensor).shape
    shape = context.view.type(context.node.outputs[0]).shape
    if x_shape is None or shape is None:
        return Refusal(Reason.UNKNOWN_SHAPE, "the shape of a reshaped statistic")
    axes = [axis + len(x_shape) for axis in context.candidate.axes]
    kept = tuple(1 if i in axes else dim for i, dim in enumerate(x_shape))
    dropped = tuple(dim for i, dim in enumerate(x_shape) if i not in axes)
    varies = any(atom.inner for term in operand.form.terms for atom, _ in term)
    known = None not in shape
    if varies:
        same = known and shape == x_shape
        return operand if same else Refusal(Reason.NOT_THE_DEFINITION, "x is reshaped")
    if context.node.op_type == "Expand" and operand.dropped:
        # Expand aligns from the right: the dropped axis does not come back where it was.
        return Refusal(Reason.AXIS_NOT_PUT_BACK, "Expand of a statistic without its axis")
    full = shape == x_shape and not operand.dropped
    if (known and (shape == kept or full)) or _puts_axes_back(context, operand, kept):
        return Value(operand.form)
    if known and shape == dropped:
        return Value(operand.form, dropped=True)
    return Refusal(Reason.AXIS_NOT_PUT_BACK, f"a statistic of shape {list(shape)}")


def _puts_axes_back(context: Context, operand: Value, kept: Sequence[Dim]) -> bool:
    """Whether a node says by its own operands that it puts the reduced axes back."""
    node, view = context.node, context.view
    if node.op_type == "Unsqueeze":
        return operand.dropped and context.axes() == context.candidate.axes
    target = view.shape_value(node.input(1))
    if target is None or None in kept:
        return False
    if node.op_type == "Expand":
        x_shape = view.type(context.candidate.tensor).shape
        # What it is repeated to is what it would be repeated to beside x.
        return x_shape is not None and broadcasts_to(tuple(target), x_shape)
    return node.op_type == "Reshape" and _fills(target, kept, view.type(node.input(0)).shape or ())


def _fills(target: Sequence[Dim], kept: Sequence[Dim], before: Sequence[Dim]) -> bool:
    """Whether a Reshape to a target gives a shape: 0 copies an extent, one -1 is what is left."""
    if len(target) != len(kept):
        return False
    padded = [*before, *(None for _ in kept)]
    meant = [padded[at] if dim == 0 else dim for at, dim in enumerate(target)]
    wrong = [left for left, dim in zip(meant, kept, strict=True) if left != dim]
    return wrong in ([], [-1])


def _normalize(centred: bool) -> Rule:
    """scale * (x - m) * (mean((x - m)^2) + epsilon)^(-1/2) + bias; m = 0 for an RMSNorm."""

    def rule(context: Context) -> Value | Refusal:
        operand = context.operand(0)
        if isinstance(operand, Refusal):
            return operand
        if normalized_axes(context.node, context.candidate.rank) != context.candidate.axes:
            return Refusal(Reason.OTHER_AXES, f"axis {context.flag('axis', -1)}")
        normal = normalize(
            operand.form, context.node.attributes.get("epsilon", DEFAULT_EPSILON), centred
        )
        for position, operation in ((1, algebra.multiply), (2, algebra.add)):
            if not context.node.input(position):
                continue
            name = context.node.input(position)
            if name in context.values:
                return Refusal(Reason.PARAMETER_OF_SUM, name)
            parameter = context.opaque(name, fits=True)
            if isinstance(parameter, Refusal):
                return parameter
            if isinstance(normal, Form):
                normal = operation(normal, parameter.form)
        return to_value(normal, dropped=False)

    return rule


def normalize(form: Form, epsilon: float, centred: bool) -> Form | Refusal:
    """The definition: (a - m) * (mean((a - m)^2) + epsilon)^(-1/2), m = mean(a) or 0."""
    if not isfinite(epsilon):
        return Refusal(Reason.EPSILON_NOT_POSITIVE, f"epsilon {epsilon}")
    deviation: Form | Refusal = form
    if centred:
        middle = algebra.mean(form)
        deviation = middle if isinstance(middle, Refusal) else algebra.subtract(form, middle)
    if isinstance(deviation, Refusal):
        return deviation
    square = algebra.power(deviation, Fraction(2))
    variance = square if isinstance(square, Refusal) else algebra.mean(square)
    if isinstance(variance, Refusal):
        return variance
    under_root = algebra.add(variance, algebra.constant(epsilon))
    if isinstance(under_root, Refusal):
        return under_root
    inverse = algebra.power(under_root, -HALF)
    return inverse if isinstance(inverse, Refusal) else algebra.multiply(deviation, inverse)


OPERATORS: Mapping[str, Rule] = {
    "Add": lambda c: c.binary(algebra.add),
    "Sub": lambda c: c.binary(algebra.subtract),
    "Mul": lambda c: c.binary(algebra.multiply),
    "Div": lambda c: c.binary(_divide),
    "Sum": _sum_of_several,
    "Mean": _mean_of_several,
    "Neg": lambda c: c.unary(lambda a: algebra.scale(a, Fraction(-1))),
    "Reciprocal": lambda c: c.unary(lambda a: algebra.power(a, Fraction(-1))),
    "Sqrt": lambda c: c.unary(lambda a: algebra.power(a, HALF)),
    "Pow": _pow,
    "ReduceMean": _reduce(_mean),
    "ReduceSum": _reduce(_sum),
    "ReduceSumSquare": _reduce(_sum_of_squares),
    "ReduceL2": _reduce(_length),
    "Identity": _same,
    "Cast": _cast,
    "CastLike": _cast,
    "Dropout": _dropout,
    "Unsqueeze": _put_back,
    "Squeeze": _put_back,
    "Reshape": _put_back,
    "Expand": _put_back,
    "LayerNormalization": _normalize(centred=True),
    "RMSNormalization": _normalize(centred=False),
    "SimplifiedLayerNormalization": _normalize(centred=False),
}

REDUCTIONS = frozenset(("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"))
NORMALIZATIONS = frozenset(
    ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
)

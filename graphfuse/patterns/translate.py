"""From ONNX operators to the normal form, evaluated forwards from one tensor x.

`OPERATORS` is the whole vocabulary: one row per operator, with the formula it stands for. Every
tensor that is not computed from x is opaque: a number when it is a constant of one element, else
a leaf, if it can be a scale or a bias (a vector along the normalised axes).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite

from graphfuse.graph.shapes import broadcasts_to
from graphfuse.graph.tensors import FLOAT_TYPES
from graphfuse.graph.view import GraphView, Node
from graphfuse.patterns import algebra
from graphfuse.patterns.algebra import Refusal
from graphfuse.patterns.form import Form
from graphfuse.reasons import Reason

HALF = Fraction(1, 2)

MAX_REGION = 256
"""How many nodes are looked at from one tensor: a norm has some twenty."""

DEFAULT_EPSILON = 9.999999747378752e-06
"""1e-5 in float32: what a norm operator without the attribute uses."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor that something reduces: `axes` as indices from the end (-1 is the last axis)."""

    tensor: str
    axes: tuple[int, ...]
    rank: int
    extent: int | None
    """How many elements a mean is over; None when an extent is not a known number."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a tensor is in terms of x. `dropped`: the reduced axes are missing from its shape."""

    form: Form
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Region:
    """Everything that could be evaluated from x, and where and why evaluation stopped."""

    candidate: Candidate
    values: Mapping[str, Value]
    refusals: Mapping[int, Refusal]


def evaluate(view: GraphView, candidate: Candidate) -> Region:
    """Evaluate forwards from the candidate until operators or operands leave the algebra."""
    values = {candidate.tensor: Value(algebra.subject())}
    refusals: dict[int, Refusal] = {}
    left = MAX_REGION
    pending = sorted({node.index for node in view.readers(candidate.tensor)})
    seen = set(pending)
    while pending and left:
        left -= 1
        node = view.nodes[heapq.heappop(pending)]
        rule = rule_for(node)
        if not node.outputs or not node.outputs[0]:
            continue
        if rule is None:
            refusals[node.index] = Refusal(Reason.NOT_THE_DEFINITION, f"operator {node.op_type}")
            continue
        result = rule(Context(view, candidate, values, node))
        if isinstance(result, Refusal):
            refusals[node.index] = result
            continue
        values[node.outputs[0]] = result
        for reader in view.readers(node.outputs[0]):
            if reader.index not in seen:
                seen.add(reader.index)
                heapq.heappush(pending, reader.index)
    return Region(candidate, values, refusals)


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule sees: the node, and the values of its operands."""

    view: GraphView
    candidate: Candidate
    values: Mapping[str, Value]
    node: Node

    def operand(self, position: int) -> Value | Refusal:
        """The value of an input: known in terms of x, a number, or a leaf."""
        name = self.node.input(position)
        if name in self.values:
            return self.values[name]
        if not name:
            return Refusal(Reason.NOT_THE_DEFINITION, f"input {position} is absent")
        return self.opaque(name)

    def opaque(self, name: str) -> Value | Refusal:
        """A tensor that does not come from x: a number, or a leaf that may be a parameter."""
        shape = self.view.type(name).shape
        rank, axes = self.candidate.rank, self.candidate.axes
        if shape is None:
            return Refusal(Reason.UNKNOWN_SHAPE, f"{name} has no known shape")
        if len(shape) > rank:
            return Refusal(Reason.PARAMETER_ENLARGES, f"{name} has {len(shape)} axes, x has {rank}")
        x_shape = self.view.type(self.candidate.tensor).shape
        number = self.view.scalar(name)
        fits = all(dim == 1 for dim in shape) or (x_shape and broadcasts_to(shape, x_shape))
        if number is not None and isfinite(number) and fits:
            return Value(algebra.constant(number))
        if not self.view.is_weight(name):
            return Refusal(Reason.PARAMETER_COMPUTED, name)
        extents = {position - len(shape): dim for position, dim in enumerate(shape)}
        outer = [dim for axis, dim in extents.items() if axis not in axes]
        if any(dim != 1 for dim in outer):
            return Refusal(Reason.PARAMETER_VARIES, f"{name} has shape {list(shape)}")
        for axis in axes:
            dim = extents.get(axis, 1)
            if dim == 1:
                continue
            if x_shape is None or not isinstance(x_shape[axis], int):
                return Refusal(Reason.UNKNOWN_SHAPE, f"the extent of axis {axis} of the sum")
            if x_shape[axis] != dim:
                return Refusal(Reason.PARAMETER_ENLARGES, f"{name} has shape {list(shape)}")
        inner = any(extents.get(axis, 1) != 1 for axis in axes)
        return Value(algebra.leaf(name, inner))

    def binary(self, operation: Callable[[Form, Form], Form | Refusal]) -> Value | Refusal:
        """An elementwise operation of two operands that broadcast."""
        left, right = self.operand(0), self.operand(1)
        if isinstance(left, Refusal):
            return left
        if isinstance(right, Refusal):
            return right
        if left.dropped != right.dropped and None in (left.form.number, right.form.number):
            other = right if left.dropped else left
            if other.form.number is None:
                return Refusal(Reason.AXIS_NOT_PUT_BACK, f"{left.form} meets {right.form}")
        return _value(operation(left.form, right.form), left.dropped or right.dropped)

    def unary(self, operation: Callable[[Form], Form | Refusal]) -> Value | Refusal:
        """An elementwise operation of one operand."""
        operand = self.operand(0)
        if isinstance(operand, Refusal):
            return operand
        return _value(operation(operand.form), operand.dropped)

    def flag(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get(name, default))

    def axes(self) -> tuple[int, ...] | None:
        """The axes of a reduction, from its attribute or its constant input, counted from the end.

        None when they are computed, or empty with noop_with_empty_axes.
        """
        return reduced_axes(self.view, self.node, self.candidate.rank)


def _value(form: Form | Refusal, dropped: bool) -> Value | Refusal:
    return form if isinstance(form, Refusal) else Value(form, dropped)


Rule = Callable[[Context], Value | Refusal]


def rule_for(node: Node) -> Rule | None:
    """The row of the table for a node; None for an operator outside the algebra."""
    if node.standard:
        return OPERATORS.get(node.op_type)
    if node.domain == "com.microsoft" and node.op_type == "SimplifiedLayerNormalization":
        return OPERATORS[node.op_type]
    return None


def reduced_axes(view: GraphView, node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction reduces, counted from the end; None when they are not known."""
    if node.input(1):
        axes = view.integers(node.input(1))
        if axes is None:
            return None
    else:
        axes = tuple(int(axis) for axis in node.attributes.get("axes", ()))
    if not axes:
        return None if node.attributes.get("noop_with_empty_axes") else tuple(range(-rank, 0))
    if any(not -rank <= axis < rank for axis in axes):
        return None
    return tuple(sorted(axis - rank if axis >= 0 else axis for axis in axes))


def normalized_axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a normalization operator: from `axis` to the last, counted from the end."""
    axis = int(node.attributes.get("axis", -1))
    return tuple(range(axis - rank if axis >= 0 else axis, 0)) if -rank <= axis < rank else None


def _divide(left: Form, right: Form) -> Form | Refusal:
    """a / b = a * b^-1."""
    inverse = algebra.power(right, Fraction(-1))
    return inverse if isinstance(inverse, Refusal) else algebra.multiply(left, inverse)


def _pow(context: Context) -> Value | Refusal:
    """a^p, for p a constant number."""
    exponent = context.operand(1)
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
        if operand.dropped or axes != context.candidate.axes:
            return Refusal(Reason.OTHER_AXES, f"axes {list(axes) if axes else 'unknown'}")
        form = finish(operand.form, context.candidate.extent)
        return _value(form, dropped=not context.flag("keepdims", 1))

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


def _cast(context: Context) -> Value | Refusal:
    """a, for a cast from one float type to another."""
    if context.flag("to", 0) not in FLOAT_TYPES:
        return Refusal(Reason.NOT_THE_DEFINITION, "a cast to integers")
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
    if varies:
        same = shape == x_shape and None not in shape
        return operand if same else Refusal(Reason.NOT_THE_DEFINITION, "x is reshaped")
    if shape == kept and None not in shape:
        return Value(operand.form)
    target = context.view.shape_value(context.node.input(1))
    if context.node.op_type in ("Reshape", "Expand") and target == kept and None not in kept:
        return Value(operand.form)
    if shape == x_shape and not operand.dropped and None not in shape:
        return Value(operand.form)
    if shape == dropped and None not in shape:
        return Value(operand.form, dropped=True)
    return Refusal(Reason.AXIS_NOT_PUT_BACK, f"a statistic of shape {list(shape)}")


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
            parameter = context.operand(position)
            if isinstance(parameter, Refusal):
                return parameter
            if isinstance(normal, Form):
                normal = operation(normal, parameter.form)
        return _value(normal, dropped=False)

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

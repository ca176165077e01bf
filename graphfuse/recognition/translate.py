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

from graphfuse.algebra import Form, mean, subject
from graphfuse.algebra.norms import normalize
from graphfuse.algebra.signs import HALF
from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.channels import by_channel, without_epsilon
from graphfuse.recognition.clamps import CLAMPS
from graphfuse.recognition.context import (
    DEFAULT_EPSILON,
    Candidate,
    Context,
    Value,
    join,
    normalized_axes,
)
from graphfuse.records import Dim
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.records.reasons import Reason, Refusal, RefusedError
from graphfuse.types.shapes import broadcasts_to, extent_of
from graphfuse.views.view import GraphView

MAX_REGION = 256
"""How many nodes are looked at from one tensor: a norm has some twenty."""


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
    values = {candidate.tensor: Value(subject())}
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
        try:
            value = rule(Context(view, candidate, values, node, OPERATORS, named))
            _check_rank(view, candidate, node, value)
        except RefusedError as error:
            refusals[node.position] = error.refusal
            continue
        values[node.outputs[0]] = value
        for reader in view.readers(node.outputs[0]):
            if reader.position not in seen:
                seen.add(reader.position)
                heapq.heappush(pending, reader.position)
    return Region(candidate, values, refusals, named)


def _check_rank(view: GraphView, candidate: Candidate, node: Node, value: Value) -> None:
    """A value's tensor has the axes that it must have: those of x, or without some.

    A number such as [[1]], or one of eight elements, may give a statistic axes that it had not.
    """
    shape, x_shape = view.type(node.outputs[0]).shape, view.type(candidate.tensor).shape
    if shape is None or x_shape is None:
        raise RefusedError(Reason.UNKNOWN_SHAPE, "{} has no known shape", node.outputs[0])
    axes = [axis + candidate.rank for axis in candidate.axes]
    whole = [dim for at, dim in enumerate(x_shape) if not value.dropped or at not in axes]
    pairs = zip(shape, whole, strict=False)
    if len(shape) != len(whole) or any(_enlarges(*pair) for pair in pairs):
        seen = "{} has shape {}"
        raise RefusedError(Reason.AXIS_NOT_PUT_BACK, seen, node.outputs[0], list(shape))


def _enlarges(dim: Dim, of_x: Dim) -> bool:
    """Whether an extent is known to be another than x has there, or 1."""
    if dim in (1, of_x):
        return False
    return of_x == 1 or isinstance(dim, int)


def _outside(node: Node) -> Refusal:
    if not node.known:
        return Refusal(Reason.FUNCTION_ATTRIBUTE, str(node.ref))
    return Refusal(Reason.NOT_THE_DEFINITION, f"operator {node.op_type}")


Rule = Callable[[Context], Value]
"""The value of a node's first output. Raises RefusedError for what has none."""


def rule_for(node: Node) -> Rule | None:
    """The row of the table for a node; None for an operator outside the algebra."""
    if node.standard:
        return OPERATORS.get(node.op_type) or CLAMPS.get(node.op_type)
    if (
        node.known
        and node.domain == "com.microsoft"
        and node.op_type == "SimplifiedLayerNormalization"
    ):
        return OPERATORS[node.op_type]
    return None


def _unary(operation: Callable[[Form], Form]) -> Rule:
    """An elementwise operation of one operand."""

    def rule(context: Context) -> Value:
        operand = context.operand(0)
        return Value(operation(operand.form), operand.dropped)

    return rule


def _binary(operation: Callable[[Form, Form], Form]) -> Rule:
    """An elementwise operation of two operands that broadcast."""
    return lambda context: join(context.operand(0), context.operand(1), operation)


def _pow(context: Context) -> Value:
    """a^p, for p a constant number."""
    name = context.node.input(1)
    exponent = context.values[name] if name in context.values else context.opaque(name)
    number = exponent.form.number
    if number is None or name in context.values:
        raise RefusedError(Reason.EXPONENT, "exponent {}", exponent.form)
    # An exponent such as 0.1 is no small fraction: its exact value is a root of huge order.
    if number.denominator > 4 or abs(number) > 16:
        raise RefusedError(Reason.EXPONENT, "exponent {:g}", float(number))
    operand = context.operand(0)
    return Value(operand.form**number, operand.dropped)


def _reduce(finish: Callable[[Form, Extent], Form]) -> Rule:
    """A reduction over the candidate's own axes; over others it is not a norm of this tensor."""

    def rule(context: Context) -> Value:
        operand = context.operand(0)
        axes = context.axes()
        if operand.dropped or axes is None or axes != context.candidate.axes:
            seen = list(axes) if axes else "unknown"
            raise RefusedError(Reason.OTHER_AXES, "axes {}", seen)
        # A statistic has extent 1 where x has n: the operand's own extents count.
        shape = context.view.type(context.node.input(0)).shape
        if shape is None or len(shape) != context.candidate.rank:
            raise RefusedError(Reason.UNKNOWN_SHAPE, "the rank of {}", context.node.input(0))
        form = finish(operand.form, Extent(extent_of(shape, axes)))
        return Value(form, dropped=not context.flag("keepdims", 1))

    return rule


@dataclass(frozen=True, slots=True)
class Extent:
    """How many elements a reduction is over; None when that is not a known number."""

    known: int | None

    def times(self, form: Form) -> Form:
        """The sum that a mean is a part of."""
        if self.known is None:
            raise RefusedError(Reason.UNKNOWN_SHAPE, "a sum over an unknown extent")
        return form * self.known


def _same(context: Context) -> Value:
    """a. Shapes and float types change nothing; the types are judged at the site."""
    return context.operand(0)


def _sum_of_several(context: Context) -> Value:
    """a + b + ..."""
    value = context.operand(0)
    for position in range(1, len(context.node.inputs)):
        value = join(value, context.operand(position), lambda a, b: a + b)
    return value


def _mean_of_several(context: Context) -> Value:
    """(a + b + ...) / n: not over axes, but over operands."""
    value = _sum_of_several(context)
    return Value(value.form * Fraction(1, len(context.node.inputs)), value.dropped)


def _cast(context: Context) -> Value:
    """a, for a cast from one float type to another."""
    to = context.view.cast_type(context.node)
    if not to:
        raise RefusedError(Reason.UNKNOWN_SHAPE, "the type that {} casts to", context.node.ref)
    if to not in FLOAT_TYPES:
        raise RefusedError(Reason.NOT_THE_DEFINITION, "a cast to {}", to.text)
    if context.node.input(0) not in context.values:
        # CastLike(c, x) rounds c: what comes out counts.
        return context.opaque(context.node.outputs[0])
    return _same(context)


def _dropout(context: Context) -> Value:
    """a, at inference."""
    mode = context.node.input(2)
    if mode and context.view.scalar(mode) != 0:
        raise RefusedError(Reason.NOT_THE_DEFINITION, "dropout in training mode")
    return _same(context)


def _put_back(context: Context) -> Value:
    """Unsqueeze, Reshape, Expand, Squeeze: a, when they only drop or put back reduced axes."""
    operand = context.operand(0)
    x_shape = context.view.type(context.candidate.tensor).shape
    shape = context.view.type(context.node.outputs[0]).shape
    if x_shape is None or shape is None:
        raise RefusedError(Reason.UNKNOWN_SHAPE, "the shape of a reshaped statistic")
    axes = [axis + len(x_shape) for axis in context.candidate.axes]
    kept = tuple(1 if i in axes else dim for i, dim in enumerate(x_shape))
    dropped = tuple(dim for i, dim in enumerate(x_shape) if i not in axes)
    varies = any(atom.inner for term in operand.form.terms for atom, _ in term)
    known = None not in shape
    if varies:
        if not known or shape != x_shape:
            raise RefusedError(Reason.NOT_THE_DEFINITION, "x is reshaped")
        return operand
    if context.node.op_type == "Expand" and operand.dropped:
        # Expand aligns from the right: the dropped axis does not come back where it was.
        raise RefusedError(Reason.AXIS_NOT_PUT_BACK, "Expand of a statistic without its axis")
    full = shape == x_shape and not operand.dropped
    if (known and (shape == kept or full)) or _puts_axes_back(context, operand, kept):
        return Value(operand.form)
    if known and shape == dropped:
        return Value(operand.form, dropped=True)
    raise RefusedError(Reason.AXIS_NOT_PUT_BACK, "a statistic of shape {}", list(shape))


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

    def rule(context: Context) -> Value:
        operand = context.operand(0)
        if normalized_axes(context.node, context.candidate.rank) != context.candidate.axes:
            raise RefusedError(Reason.OTHER_AXES, "axis {}", context.flag("axis", -1))
        scale, bias = (_parameter(context, position) for position in (1, 2))
        epsilon = context.node.attributes.get("epsilon", DEFAULT_EPSILON)
        normal = normalize(operand.form, epsilon, centred)
        normal = normal if scale is None else normal * scale
        return Value(normal if bias is None else normal + bias)

    return rule


def _parameter(context: Context, position: int) -> Form | None:
    """The scale or bias of a norm operator, if it has one."""
    name = context.node.input(position)
    if name in context.values:
        raise RefusedError(Reason.PARAMETER_OF_SUM, name)
    return context.opaque(name, fits=True).form if name else None


OPERATORS: Mapping[str, Rule] = {
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(lambda a, b: a / b),
    "Sum": _sum_of_several,
    "Mean": _mean_of_several,
    "Neg": _unary(lambda a: -a),
    "Reciprocal": _unary(lambda a: a**-1),
    "Sqrt": _unary(lambda a: a**HALF),
    "Pow": _pow,
    "ReduceMean": _reduce(lambda a, n: mean(a)),
    "ReduceSum": _reduce(lambda a, n: n.times(mean(a))),
    "ReduceSumSquare": _reduce(lambda a, n: n.times(mean(a**2))),
    "ReduceL2": _reduce(lambda a, n: n.times(mean(a**2)) ** HALF),
    "Identity": _same,
    "Cast": _cast,
    "CastLike": _cast,
    "Dropout": _dropout,
    "Unsqueeze": _put_back,
    "Squeeze": _put_back,
    "Reshape": _put_back,
    "Expand": _put_back,
    "LayerNormalization": _normalize(centred=True),
    "InstanceNormalization": by_channel,
    "GroupNormalization": by_channel,
    "MeanVarianceNormalization": without_epsilon,
    "LpNormalization": without_epsilon,
    "RMSNormalization": _normalize(centred=False),
    "SimplifiedLayerNormalization": _normalize(centred=False),
}

REDUCTIONS = having(Trait.REDUCES) & OPERATORS.keys()
NORMALIZATIONS = having(Trait.NORMALIZES)

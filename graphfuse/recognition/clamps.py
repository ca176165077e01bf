"""Clamps of a statistic: Max, Min, Clip, Relu and Abs, where it is known that they cannot act.

    max(a, c) = a   for a >= c;   min(a, c) = a   for a <= c

A mean of squares, and a variance in whatever spelling, is never negative in exact arithmetic; with
a positive number added it is at least that number. Converters clamp all the same: rounding may give
mean(x^2) - mean(x)^2 a negative value. Nothing bounds a variance from above, so an upper limit must
be infinite: one at the largest number of a type acts on rows whose squares leave its range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import inf, isnan

from graphfuse.algebra.form import Form, has_second_moment, is_of_x
from graphfuse.algebra.signs import at_least
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.context import Context, Value
from graphfuse.records.reasons import Reason, RefusedError

Bounds = tuple[float | None, float | None]
"""What a value is kept between; None where that is no constant number."""


def _clamp(context: Context) -> Value:
    """The operand, if the clamp cannot act on it."""
    node = context.node
    names = node.inputs if node.op_type in ("Max", "Min") else node.inputs[:1]
    operands = [name for name in names if name in context.values]
    if not operands:
        raise RefusedError(Reason.NOT_THE_DEFINITION, "operator {}", node.op_type)
    operand = context.values[operands[0]]
    if _cannot_act(context, operand.form):
        return operand
    statistic = has_second_moment(operand.form) and not is_of_x(operand.form)
    reason = Reason.STATISTIC_CLAMPED if statistic else Reason.NOT_THE_DEFINITION
    raise RefusedError(reason, "{} of {}", node.op_type, operand.form)


def _cannot_act(context: Context, form: Form) -> bool:
    low, high = _limits(context)
    if low is None or high is None or isnan(low) or high != inf or low == inf:
        return False
    return low == -inf or at_least(form, Fraction(low))


def _limits(context: Context) -> Bounds:
    """The limits of a clamp. Of a Clip that states none they are infinite."""
    node = context.node
    if node.op_type in ("Relu", "Abs"):
        return 0.0, inf
    if node.op_type == "Clip":
        found: list[float | None] = []
        for position, name, none in ((1, "min", -inf), (2, "max", inf)):
            given = node.input(position)
            stated = node.attributes.get(name, none)
            number = stated if isinstance(stated, float) else None
            found.append(context.view.scalar(given) if given else number)
        return found[0], found[1]
    # Of Max and Min every other operand is a limit.
    others = [context.view.scalar(name) for name in node.inputs if name not in context.values]
    numbers = [number for number in others if number is not None]
    if len(numbers) < len(node.inputs) - 1 or any(map(isnan, numbers)):
        return None, None
    if node.op_type == "Max":
        return max(numbers, default=-inf), inf
    return -inf, min(numbers, default=inf)


CLAMPS: Mapping[str, Callable[[Context], Value]] = dict.fromkeys(having(Trait.CLAMPS), _clamp)
"""Rows of the algebra's table, beside those of `OPERATORS`."""

"""What comes closest to a norm where none was found, and the node to blame."""

from __future__ import annotations

from graphfuse.algebra.form import Form, exponents, has_second_moment, has_square, is_of_x
from graphfuse.algebra.norms import is_deviation, match
from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.residual import is_sum, quantizes
from graphfuse.recognition.site import interior_of
from graphfuse.recognition.translate import NORMALIZATIONS, REDUCTIONS, Region, rule_for
from graphfuse.records import NearMiss
from graphfuse.records.reasons import Reason, RefusedError
from graphfuse.views.view import GraphView

TURNING = having(Trait.TURNS)


def closest(view: GraphView, region: Region, add: Node) -> NearMiss | None:
    """The near miss of an Add that no norm was found for; None when nothing normalises it."""
    return _closest_form(view, region, add) or _closest_stop(view, region, add)


def _closest_form(view: GraphView, region: Region, add: Node) -> NearMiss | None:
    """The furthest value in which x meets a statistic of second order, and what is off with it."""
    for name, value in reversed(list(region.values.items())):
        if name == region.candidate.tensor or not _normalizes(value.form):
            continue
        try:
            match(value.form)
        except RefusedError as error:
            culprit, refusal = _blame(view, region, name).ref, error.refusal
            return NearMiss(refusal.reason, culprit, add.ref, got=refusal.got, form=value.form)
    return None


def _normalizes(form: Form) -> bool:
    if not is_of_x(form) or not has_second_moment(form):
        return False
    return any(e < 0 for e in exponents(form))


def _blame(view: GraphView, region: Region, name: str) -> Node:
    """The node where the statistic is first turned into a factor: a root, a power, a quotient."""
    interior = interior_of(view, region, name)
    for node in interior:
        value = region.values[node.outputs[0]]
        if node.op_type in TURNING and not is_of_x(value.form) and has_second_moment(value.form):
            return node
    return interior[-1]


def _closest_stop(view: GraphView, region: Region, add: Node) -> NearMiss | None:
    """The first place where a statistic of second order left the algebra."""
    for position, refusal in region.refusals.items():
        node = view.nodes[position]
        forms = [region.values[name].form for name in node.inputs if name in region.values]
        second = [form for form in forms if has_second_moment(form)]
        if refusal.reason is Reason.OTHER_AXES and node.op_type in REDUCTIONS:
            # The variance is taken over other axes than the mean was.
            second = [form for form in forms if has_square(form) and feeds_root(view, node)]
        # A norm over other axes is a candidate of its own.
        if _is_quantized(view, region, node, forms):
            return NearMiss(Reason.NORM_QUANTIZED, node.ref, add.ref, got=str(forms[0]))
        other = refusal.reason is Reason.OTHER_AXES
        is_norm = node.op_type in NORMALIZATIONS and not other
        is_norm = is_norm or refusal.reason is Reason.AXIS_NOT_PUT_BACK
        if not second and not is_norm:
            continue
        reason = refusal.reason
        varies = reason in (Reason.PARAMETER_VARIES, Reason.PARAMETER_COMPUTED)
        if second and varies and not any(map(is_of_x, forms)):
            reason = Reason.EPSILON_NOT_CONSTANT
        elif reason is Reason.PARAMETER_COMPUTED and _comes_from(view, refusal.got, add):
            reason = Reason.PARAMETER_OF_SUM
        # What is no statistic yet is no norm to be compared with the definition.
        form = second[0] if second else ""
        return NearMiss(reason, node.ref, add.ref, got=refusal.got, form=form)
    return None


def _is_quantized(view: GraphView, region: Region, node: Node, forms: list[Form]) -> bool:
    """Whether a part of a norm is quantized: its deviation, its square, or what is made of it."""
    if not quantizes(node) or node.input(0) not in region.values:
        return False
    form = forms[0]
    if not (has_second_moment(form) or has_square(form) or is_deviation(form)):
        return False
    # Where a root was taken already, none need follow.
    return any(e.denominator != 1 for e in exponents(form)) or feeds_root(view, node)


def feeds_root(view: GraphView, node: Node, reach: int = 12) -> bool:
    """Whether a root is taken of something near behind a reduction: the mark of a norm.

    It may be quantized on its way.
    """
    names = list(node.outputs[:1])
    for _ in range(reach):
        readers = [reader for name in names for reader in view.readers(name)[:8]]
        if any(reader.op_type == "Sqrt" or _is_fractional(view, reader) for reader in readers):
            return True
        known = [r for r in readers if rule_for(r) is not None or quantizes(r)]
        near = [r for r in known if not _joins(view, r)]
        names = [reader.outputs[0] for reader in near[:16] if reader.outputs]
    return False


def _joins(view: GraphView, node: Node) -> bool:
    """Whether an Add joins two full activations: beyond it another block begins."""
    shapes = [view.type(name).shape for name in node.inputs if not view.is_weight(name)]
    full = [shape for shape in shapes if shape and shape[-1] != 1]
    return is_sum(node) and len(full) > 1


def _is_fractional(view: GraphView, node: Node) -> bool:
    exponent = view.scalar(node.input(1)) if node.op_type == "Pow" else None
    return exponent is not None and exponent != int(exponent)


def _comes_from(view: GraphView, name: str, add: Node, reach: int = 64) -> bool:
    """Whether a tensor is computed from an Add's sum, in a few steps."""
    pending, seen = [name], {name}
    while pending and reach:
        reach -= 1
        node = view.producer(pending.pop())
        if node is None:
            continue
        if node.position == add.position:
            return True
        more = [operand for operand in node.inputs if operand and operand not in seen]
        seen.update(more)
        pending.extend(more)
    return False

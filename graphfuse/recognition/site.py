"""The record of a site, once everything that is legal for no target has been ruled out."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np

from graphfuse.algebra import Form, leaf, norms
from graphfuse.algebra.atoms import EMPTY
from graphfuse.algebra.norms import Norm
from graphfuse.graph.nodes import Node
from graphfuse.graph.tensors import holds
from graphfuse.recognition.channels import extents_by_channel
from graphfuse.recognition.clamps import CLAMPS
from graphfuse.recognition.layout import layer_of, layout_of
from graphfuse.recognition.notation import written
from graphfuse.recognition.residual import CASTING, KEEPING, ResidualSum, Source, addends, bias_add
from graphfuse.recognition.translate import NORMALIZATIONS, REDUCTIONS, Region
from graphfuse.records import Expression, Factor, NearMiss, NormKind, Parameter, Site, TensorType
from graphfuse.records.element_types import HALF_TYPES, ElementType
from graphfuse.records.reasons import Reason, Refusal
from graphfuse.views.view import GraphView

MAX_HIDDEN = 2**24
MAX_READ = 2**16
"""Elements of a weight that are read to see whether they fit a narrower type."""
FLOAT64_NOISE = 2.0**-50
"""What a few operations in float64, the root of n say, may do to an epsilon."""


def site(
    view: GraphView, region: Region, source: Source, residual: ResidualSum, output: str, norm: Norm
) -> Site | NearMiss:
    """What a norm of a sum is as a record, or why it cannot be one fused node."""
    total = view.type(residual.sum)
    norm = _with_named_tensors(view, region, norm, total.elem_type)
    interior = interior_of(view, region, output)
    refusal = _of_the_norm(view, region, source, total, norm, output)
    if refusal is None:
        refusal = _of_the_interior(view, interior, total.elem_type, output)
    parameter_type = _parameter_type(view, region, norm, total.elem_type)
    count = len(region.candidate.axes) * source.merged
    parameters: list[Parameter] = []
    for form, absent in ((norm.scale, 1), (norm.bias, 0)):
        if refusal is not None:
            break
        parameter = _parameter(view, interior, form, absent, parameter_type, total, count)
        if isinstance(parameter, Refusal):
            refusal = parameter
        else:
            parameters.append(parameter)
    if refusal is not None:
        culprit = producer(view, output)
        return NearMiss(refusal.reason, culprit.ref, residual.add.ref, got=refusal.got)
    assert total.shape is not None, "ruled out by _of_the_norm"
    indices = tuple(sorted({node.index for node in interior}))
    return Site(
        id="",
        kind=norm.kind,
        add=residual.add.ref,
        a=residual.a,
        b=residual.b,
        sum=residual.sum,
        output=output,
        scale=parameters[0],
        bias=parameters[1],
        epsilon=norm.epsilon,
        axis=region.candidate.axes[0] * source.merged,
        elem_type=total.elem_type,
        parameter_type=parameter_type,
        shape=total.shape,
        b_shape=residual.b_shape,
        order_proven=residual.order_proven,
        sum_is_read=False,
        path=tuple(step.index for step in source.path),
        interior=indices,
        computed_in=_computed_in(view, interior, total.elem_type),
    )


def described(
    view: GraphView, region: Region, source: Source, residual: ResidualSum, found: Site, norm: Norm
) -> Site:
    """The site with what only the one that is chosen needs: readers, notation, place."""
    interior = interior_of(view, region, found.output)
    aliases = _aliases(view, residual.sum, interior)
    inside = {*found.interior, *found.path}
    reading = [reader for name in aliases for reader in view.readers(name)]
    readers = tuple(reader.ref for reader in reading if reader.index not in inside)
    full = replace(
        found,
        sum_is_read=bool(readers) or any(name in view.outputs for name in aliases),
        notation=written(view, region, found.output, _roles(norm)),
        form=region.values[found.output].form,
        sum_readers=readers,
        addends=addends(view, residual),
        bias_add=bias_add(view, residual),
        clamps=tuple(_idle(region, node) for node in interior if node.op_type in CLAMPS),
    )
    return replace(full, layout=layout_of(view, full), layer=layer_of(view, full))


def _idle(region: Region, node: Node) -> str:
    """Why a clamp in a norm changes nothing."""
    form = region.values[node.outputs[0]].form
    number = form.terms.get(EMPTY, 0)
    least = f"at least {float(number):.6g}" if number > 0 else "never negative"
    return f"{node.ref} cannot act: {form} is {least} in exact arithmetic"


def producer(view: GraphView, name: str) -> Node:
    """The node that computes a tensor that was evaluated."""
    node = view.producer(name)
    assert node is not None, f"{name} was evaluated, so a node computes it"
    return node


def interior_of(view: GraphView, region: Region, output: str) -> list[Node]:
    """The nodes between the sum and a value of the region, in order."""
    found: dict[int, Node] = {}
    pending = [output]
    while pending:
        name = pending.pop()
        if name == region.candidate.tensor or name not in region.values:
            continue
        node = producer(view, name)
        if node.position not in found:
            found[node.position] = node
            pending.extend(node.inputs)
    return [found[position] for position in sorted(found)]


def _of_the_norm(
    view: GraphView, region: Region, source: Source, total: TensorType, norm: Norm, output: str
) -> Refusal | None:
    """What is wrong with shape, type or epsilon."""
    axes = region.candidate.axes
    if axes != tuple(range(-len(axes), 0)):
        return Refusal(Reason.OTHER_AXES, f"axes {list(axes)}")
    if source.path and len(axes) > 1:
        return Refusal(Reason.SUM_RESHAPED, f"by {source.path[0].ref}, over {len(axes)} axes")
    count = len(axes) * source.merged
    if total.shape is None or not all(isinstance(dim, int) for dim in total.shape[-count:]):
        return Refusal(Reason.UNKNOWN_SHAPE, "the normalised extents of the sum")
    if norm.kind == NormKind.RMS_NORM and norm.bias.terms:
        return Refusal(Reason.NOT_THE_DEFINITION, f"an RMSNorm with the bias {norm.bias}")
    extent = region.candidate.extent
    if extent is None or not 0 < extent <= MAX_HIDDEN:
        return Refusal(Reason.HIDDEN_SIZE, str(extent))
    if not _is_attribute(norm.epsilon, exactly=total.elem_type == ElementType.DOUBLE):
        return Refusal(Reason.EPSILON_PRECISION, repr(norm.epsilon))
    if view.type(output).elem_type != total.elem_type:
        return Refusal(Reason.OUTPUT_TYPE, output)
    return None


def _is_attribute(epsilon: float, exactly: bool) -> bool:
    """Whether a float32 attribute holds an epsilon: to a rounding, or but for float64's own."""
    with np.errstate(over="ignore"):
        held = float(np.float32(epsilon))
    if not float(np.finfo(np.float32).tiny) <= held < float("inf"):
        return False
    return not exactly or abs(held - epsilon) <= FLOAT64_NOISE * epsilon


def _of_the_interior(
    view: GraphView, interior: list[Node], elem_type: ElementType, output: str
) -> Refusal | None:
    """What is wrong with the nodes between: a type that loses digits, results read elsewhere."""
    for node in interior:
        if node.op_type in CASTING and not elem_type.widens(view.cast_type(node)):
            return Refusal(Reason.PRECISION_LOST, str(node.ref))
        if not node.in_call and any(view.is_read(name) for name in node.outputs[1:] if name):
            return Refusal(Reason.STATISTICS_READ, str(node.ref))
    last = producer(view, output)
    others = [name for name in view.original(last).output if name and name != output]
    if output not in view.original(last).output:
        return Refusal(Reason.NORM_IN_FUNCTION, str(last.ref))
    if last.in_call and any(view.is_read(name) for name in others):
        return Refusal(Reason.STATISTICS_READ, str(last.ref))
    return None


def _computed_in(view: GraphView, interior: list[Node], elem_type: ElementType) -> ElementType:
    """The widest type that a statistic of the norm is computed in; 0 when one is not known."""
    widest = elem_type
    for node in interior:
        if node.op_type in REDUCTIONS:
            found = view.type(node.input(0)).elem_type
        elif node.op_type in NORMALIZATIONS:
            # ONNX computes the statistics in the stash type, whatever the input's.
            stashes = node.op_type != "InstanceNormalization"
            own = ElementType.FLOAT if stashes else view.type(node.input(0)).elem_type
            found = ElementType(node.attributes.get("stash_type", own))
        else:
            continue
        if found == ElementType.UNDEFINED:
            return ElementType.UNDEFINED
        if widest.widens(found):
            widest = found
    return widest


def _with_named_tensors(
    view: GraphView, region: Region, norm: Norm, elem_type: ElementType
) -> Norm:
    """The norm with the tensors that hold its scale and bias, where the model computes such."""

    def held(form: Form) -> Form:
        name = region.named.get(form, "")
        if not name or not view.is_real(name):
            return form
        types = (elem_type, ElementType.FLOAT) if elem_type in HALF_TYPES else (elem_type,)
        if norms.is_weight(form) and view.type(norms.weights(form)[0]).elem_type in types:
            return form
        return leaf(name, inner=True) if view.type(name).elem_type in types else form

    return replace(norm, scale=held(norm.scale), bias=held(norm.bias))


def _parameter_type(
    view: GraphView, region: Region, norm: Norm, elem_type: ElementType
) -> ElementType:
    """The type of scale and bias: float32 beside a narrower sum, where the model has it so."""
    if elem_type not in HALF_TYPES:
        return elem_type
    forms = (norm.scale, norm.bias)
    names = [name for form in forms for name in norms.weights(form)]
    wide = any(not view.type(name).elem_type.widens(elem_type) for name in names)
    # 1 + w, say, is no number of the narrow type where w is one; nor is 1 / sqrt(12).
    computed = any(norms.weights(form) and not norms.is_exact(form) for form in forms)
    in_float = any(view.type(name).elem_type == ElementType.FLOAT for name in region.values)
    rounded = any(not _is_of(form.number, elem_type) for form in forms if form.number is not None)
    return ElementType.FLOAT if wide or rounded or (computed and in_float) else elem_type


def _is_of(number: Fraction, elem_type: int) -> bool:
    """Whether a type holds a number exactly."""
    return float(number) == number and holds(elem_type, np.asarray(float(number)))


def _parameter(
    view: GraphView,
    interior: list[Node],
    form: Form,
    absent: int,
    to: ElementType,
    total: TensorType,
    axes: int,
) -> Parameter | Refusal:
    """A scale or bias, if its weights can be brought to the type and shape of the norm's.

    It is over the last `axes` of the sum, or over one that these were flattened to.
    """
    normalized = (total.shape or ())[-axes:]
    factors: dict[str, Factor] = {}
    for name in norms.weights(form):
        if not view.is_real(name):
            return Refusal(Reason.NORM_IN_FUNCTION, name)
        kind = view.type(name)
        if not kind.elem_type.widens(to) and not _holds(view, name, to):
            return Refusal(Reason.PARAMETER_TYPE, name)
        shape = kind.shape or ()
        apart = [extents_by_channel(view, node, name, axes) for node in interior]
        by_channel = next(filter(None, apart), ())
        extents = by_channel or tuple(dim for dim in shape[-axes:] if isinstance(dim, int))
        known = tuple(dim for dim in normalized if isinstance(dim, int))
        flattened = prod(extents[:-1]) == 1 and extents[-1:] == (prod(known),)
        if axes > 1 and flattened and not by_channel:
            extents = known
        whole = extents == normalized
        target = extents if axes > 1 else (-1,)
        flat = len(shape) <= axes and extents == shape
        factors[name] = Factor(name, 1.0, target, kind.elem_type, whole, flat)
    parameter = norms.parameter(form, absent, factors)
    if isinstance(parameter, str):
        wanted = TensorType(to, normalized)
        if view.type(parameter) != wanted:
            return Expression(((1.0, (factors[parameter],)),))
    return parameter


def _holds(view: GraphView, name: str, to: int) -> bool:
    """Whether a wider weight loses nothing in a type: ones in float64, say."""
    tensor = view.constant(name)
    if tensor is None or prod(tensor.dims) > MAX_READ:
        return False
    return holds(to, view.model.read(tensor))


def _aliases(view: GraphView, total: str, interior: list[Node]) -> list[str]:
    """The sum's names: its own, and those that an Identity of the norm gives it.

    A Cast to the type that it has is one too: TorchScript leaves it where the norm asks for
    float32, and what comes after the norm then reads the stream behind it.
    """
    names, elem_type = [total], view.type(total).elem_type
    for node in interior:
        keeps = node.op_type in KEEPING or (
            node.op_type in CASTING and view.cast_type(node) == elem_type
        )
        if keeps and node.input(0) in names:
            names.append(node.outputs[0])
    return names


def _roles(norm: Norm) -> dict[str, str]:
    """The weights that are scale and bias by themselves, by name."""
    pairs = (("scale", norm.scale), ("bias", norm.bias))
    return {names[0]: role for role, form in pairs if len(names := norms.weights(form)) == 1}

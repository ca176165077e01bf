"""Finding every residual Add that feeds a norm, and saying why the others are left."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from graphfuse.graph.model_file import Model
from graphfuse.graph.shapes import extent_of
from graphfuse.graph.tensors import widens
from graphfuse.graph.view import GraphView, Node
from graphfuse.ops import is_fused_node
from graphfuse.patterns import norms
from graphfuse.patterns.algebra import Refusal
from graphfuse.patterns.form import Form, has_second_moment, is_of_x
from graphfuse.patterns.norms import Norm
from graphfuse.patterns.residual import ResidualSum, Source, residual_sum, sources
from graphfuse.patterns.translate import (
    NORMALIZATIONS,
    OPERATORS,
    REDUCTIONS,
    Candidate,
    Region,
    evaluate,
    normalized_axes,
    reduced_axes,
    rule_for,
)
from graphfuse.reasons import Reason
from graphfuse.records import (
    RMS_NORM,
    Expression,
    NearMiss,
    NodeRef,
    Parameter,
    Scan,
    Site,
    TensorType,
)

LAST_AXIS = (-1,)
MAX_HIDDEN = 2**24


def scan(model: Model) -> Scan:
    """Find the sites and near misses of a model's main graph, in the order of their Adds."""
    view = GraphView(model)
    found: list[Site | NearMiss] = []
    for candidate in _candidates(view):
        found.extend(_judge(view, candidate))
    found.sort(key=lambda item: item.add.index)
    kept = _without_overlap(found)
    sites = [item for item in kept if isinstance(item, Site)]
    return Scan(
        sites=tuple(replace(site, id=f"s{n}") for n, site in enumerate(sites, 1)),
        near_misses=tuple(item for item in kept if isinstance(item, NearMiss)),
        already_fused=sum(is_fused_node(node.domain, node.op_type) for node in view.nodes),
        nodes=len(view.nodes),
    )


def _without_overlap(found: list[Site | NearMiss]) -> list[Site | NearMiss]:
    """Earlier sites own their interior: an Add in there (a bias, a deviation) is no residual."""
    owned: set[int] = set()
    taken: dict[int, str] = {}
    kept: list[Site | NearMiss] = []
    for item in found:
        if isinstance(item, NearMiss):
            if item.add.index not in owned:
                kept.append(item)
        elif item.add.index in owned:
            kept.append(NearMiss(Reason.INSIDE_A_NORM, item.add, item.add, got=item.output))
        elif item.add.index in taken:
            other = taken[item.add.index]
            kept.append(NearMiss(Reason.SUM_TAKEN, item.add, item.add, got=other))
        else:
            kept.append(item)
            owned.update(item.interior)
            taken[item.add.index] = item.output
    return kept


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An Add, the reduction that reads it, and its axes (None when they are not known)."""

    source: Source
    reader: Node
    axes: tuple[int, ...] | None


def _candidates(view: GraphView) -> list[_Candidate]:
    """Each Add with the axes that a reduction takes of it, once."""
    seen: dict[tuple[str, tuple[int, ...] | None], _Candidate] = {}
    for node in view.nodes:
        is_normalization = node.op_type in NORMALIZATIONS and rule_for(node) is not None
        if not is_normalization and not (node.standard and node.op_type in REDUCTIONS):
            continue
        for source in sources(view, node.input(0)):
            axes = _axes(view, source.tensor, node, is_normalization)
            blocked = axes is None or source.obstacle is not None
            if blocked and not is_normalization and not _feeds_root(view, node):
                continue
            key = (source.tensor, axes)
            if key not in seen or seen[key].source.obstacle is not None:
                seen[key] = _Candidate(source, node, axes)
    direct = {c.source.add.index for c in seen.values() if c.source.obstacle is None}
    return [
        candidate
        for candidate in seen.values()
        if candidate.source.obstacle is None or candidate.source.add.index not in direct
    ]


def _axes(
    view: GraphView, tensor: str, reader: Node, is_normalization: bool
) -> tuple[int, ...] | None:
    shape = view.type(tensor).shape
    if shape is None:
        return None
    if is_normalization:
        return normalized_axes(reader, len(shape))
    return reduced_axes(view, reader, len(shape))


def _feeds_root(view: GraphView, node: Node, reach: int = 6) -> bool:
    """Whether a root is taken of something near behind a reduction: the mark of a norm."""
    names = [node.outputs[0]]
    for _ in range(reach):
        readers = [reader for name in names for reader in view.readers(name)[:8]]
        if any(reader.op_type == "Sqrt" for reader in readers):
            return True
        near = [r for r in readers if r.op_type in OPERATORS or r.op_type in REDUCTIONS]
        names = [reader.outputs[0] for reader in near[:16] if reader.outputs]
    return False


def _judge(view: GraphView, candidate: _Candidate) -> list[Site | NearMiss]:
    """What becomes of one Add: a site, near misses, or nothing when no norm reads it."""
    add, reader, axes = candidate.source.add, candidate.reader, candidate.axes
    obstacle, reason = candidate.source.obstacle, candidate.source.reason
    if obstacle is not None and reason is not None:
        if isinstance(residual_sum(view, add), Refusal):
            return []
        return [NearMiss(reason, obstacle.ref, add.ref)]
    tensor = candidate.source.tensor
    shape = view.type(tensor).shape
    if axes is None or shape is None:
        return [NearMiss(Reason.UNKNOWN_SHAPE, reader.ref, add.ref, got=f"rank of {tensor}")]
    region = evaluate(view, Candidate(tensor, axes, len(shape), extent_of(shape, axes)))
    matches = _matches(region)
    if not matches:
        return _diagnose(view, region, add)
    residual = residual_sum(view, add)
    if isinstance(residual, Refusal):
        return [NearMiss(residual.reason, add.ref, add.ref, got=residual.got)]
    if axes != LAST_AXIS:
        got = f"axes {list(axes)}"
        return [NearMiss(Reason.OTHER_AXES, reader.ref, add.ref, expected="axes [-1]", got=got)]
    return _choose(view, region, residual, matches, candidate.source.reshape)


def _matches(region: Region) -> dict[str, Norm]:
    found: dict[str, Norm] = {}
    for name, value in region.values.items():
        norm = norms.match(value.form) if not value.dropped else None
        if isinstance(norm, Norm):
            found[name] = norm
    return found


def _choose(
    view: GraphView,
    region: Region,
    residual: ResidualSum,
    matches: dict[str, Norm],
    reshape: Node | None,
) -> list[Site | NearMiss]:
    """Pick the norm's output: the first match that something beyond the norm reads."""
    refused: dict[str, NearMiss] = {}
    valid: dict[str, Site] = {}
    for name, norm in matches.items():
        site = _site(view, region, residual, name, norm)
        if isinstance(site, Site):
            valid[name] = replace(site, reshape=reshape.index if reshape else None)
        else:
            refused[name] = site
    if not valid:
        return [list(refused.values())[-1]]
    final = [name for name in valid if _escapes(view, name, valid)]
    if not final:
        return []
    first = valid[final[0]]
    others = [
        NearMiss(Reason.SUM_TAKEN, _producer(view, name).ref, residual.add.ref, got=first.output)
        for name in final[1:]
        if _producer(view, first.output).index not in valid[name].interior
    ]
    return [first, *others]


def _escapes(view: GraphView, name: str, valid: dict[str, Site]) -> bool:
    if name in view.outputs:
        return True
    return any(reader.outputs[0] not in valid for reader in view.readers(name))


def _producer(view: GraphView, name: str) -> Node:
    node = view.producer(name)
    assert node is not None, f"{name} was evaluated, so a node computes it"
    return node


def _site(
    view: GraphView, region: Region, residual: ResidualSum, output: str, norm: Norm
) -> Site | NearMiss:
    """The record of a site, once everything that is legal for no target has been ruled out."""
    total = residual.total
    total_type = view.type(total)
    interior = _interior(view, region, output)
    culprit = _producer(view, output).ref

    def miss(reason: Reason, expected: str = "", got: str = "") -> NearMiss:
        return NearMiss(reason, culprit, residual.add.ref, expected, got)

    if total_type.shape is None or not isinstance(total_type.shape[-1], int):
        return miss(Reason.UNKNOWN_SHAPE, got=f"the last extent of {total}")
    if norm.kind == RMS_NORM and norm.bias.terms:
        return miss(Reason.NOT_THE_DEFINITION, "an RMSNorm without a bias", str(norm.bias))
    if not 0 < total_type.shape[-1] <= MAX_HIDDEN:
        return miss(Reason.HIDDEN_SIZE, got=str(total_type.shape[-1]))
    if not _is_attribute(norm.epsilon, exactly=total_type.elem_type == TensorProto.DOUBLE):
        return miss(Reason.EPSILON_PRECISION, got=repr(norm.epsilon))
    narrowed = _narrowing_cast(view, interior, total_type.elem_type)
    if narrowed is not None:
        return NearMiss(Reason.PRECISION_LOST, narrowed.ref, residual.add.ref)
    if view.type(output).elem_type != total_type.elem_type:
        return miss(Reason.OUTPUT_TYPE)
    statistic = _read_beside(view, interior)
    if statistic is not None:
        return NearMiss(Reason.STATISTICS_READ, statistic.ref, residual.add.ref)
    parameters: list[Parameter] = []
    for form, absent in ((norm.scale, 1), (norm.bias, 0)):
        parameter = _parameter(view, form, absent, total_type)
        if isinstance(parameter, Refusal):
            return miss(parameter.reason, got=parameter.got)
        parameters.append(parameter)
    order = {node.index: node for node in interior}
    return Site(
        id="",
        kind=norm.kind,
        add=residual.add.ref,
        a=residual.a,
        b=residual.b,
        total=total,
        output=output,
        scale=parameters[0],
        bias=parameters[1],
        epsilon=norm.epsilon,
        axis=-1,
        elem_type=total_type.elem_type,
        shape=total_type.shape,
        b_shape=residual.b_shape,
        order_proven=residual.order_proven,
        total_is_read=_read_outside(view, total, frozenset(order)),
        reshape=None,
        interior=tuple(sorted(order)),
        spelling=" ".join(order[index].op_type for index in sorted(order)),
    )


def _is_attribute(epsilon: float, exactly: bool) -> bool:
    """Whether a float32 attribute holds an epsilon: to a rounding, or exactly."""
    with np.errstate(over="ignore"):
        held = float(np.float32(epsilon))
    if not float(np.finfo(np.float32).tiny) <= held < float("inf"):
        return False
    return held == epsilon or not exactly


def _parameter(view: GraphView, form: Form, absent: int, total: TensorType) -> Parameter | Refusal:
    """A scale or bias, if its weights can be brought to the type and shape of the norm's."""
    for name in norms.weights(form):
        if not widens(view.type(name).elem_type, total.elem_type):
            return Refusal(Reason.PARAMETER_TYPE, name)
    parameter = norms.parameter(form, absent)
    if isinstance(parameter, str) and not _fits(view, parameter, total):
        return Expression(((1.0, ((parameter, 1.0),)),))
    return parameter


def _fits(view: GraphView, name: str, total: TensorType) -> bool:
    """Whether a tensor can be passed as it is."""
    hidden = (total.shape or (None,))[-1]
    return view.type(name) == TensorType(total.elem_type, (hidden,))


def _interior(view: GraphView, region: Region, output: str) -> list[Node]:
    """The nodes between the sum and a value of the region."""
    found: dict[int, Node] = {}
    pending = [output]
    while pending:
        name = pending.pop()
        if name == region.candidate.tensor or name not in region.values:
            continue
        node = _producer(view, name)
        if node.index not in found:
            found[node.index] = node
            pending.extend(node.inputs)
    return [found[index] for index in sorted(found)]


def _narrowing_cast(view: GraphView, interior: list[Node], elem_type: int) -> Node | None:
    for node in interior:
        if node.op_type == "Cast" and not widens(elem_type, int(node.attributes.get("to", 0))):
            return node
    return None


def _read_beside(view: GraphView, interior: list[Node]) -> Node | None:
    """A node of the norm whose second output is read: a mean, an inverse deviation, a mask."""
    for node in interior:
        if any(view.is_read(name) for name in node.outputs[1:] if name):
            return node
    return None


def _read_outside(view: GraphView, name: str, inside: frozenset[int]) -> bool:
    if name in view.outputs:
        return True
    return any(reader.index not in inside for reader in view.readers(name))


def _diagnose(view: GraphView, region: Region, add: Node) -> list[Site | NearMiss]:
    """The near miss of an Add that no norm was found for; none when nothing normalises it."""
    if isinstance(residual_sum(view, add), Refusal):
        return []
    refusal = _closest_form(view, region) or _closest_stop(view, region)
    if refusal is None:
        return []
    culprit, difference = refusal
    return [NearMiss(difference.reason, culprit, add.ref, got=difference.got)]


def _closest_form(view: GraphView, region: Region) -> tuple[NodeRef, Refusal] | None:
    """The furthest value in which x meets a statistic of second order, and what is off with it."""
    for name, value in reversed(list(region.values.items())):
        if name == region.candidate.tensor or not _normalizes(value.form):
            continue
        difference = norms.match(value.form)
        if isinstance(difference, Refusal):
            return _blame(view, region, name).ref, difference
    return None


def _normalizes(form: Form) -> bool:
    if not is_of_x(form) or not has_second_moment(form):
        return False
    return any(e < 0 for term in form.terms for _, e in term)


def _blame(view: GraphView, region: Region, name: str) -> Node:
    """The node where the statistic is first turned into a factor: a root, a power, a quotient."""
    interior = _interior(view, region, name)
    turning = ("Sqrt", "Pow", "Reciprocal", "Div")
    for node in interior:
        value = region.values[node.outputs[0]]
        if node.op_type in turning and not is_of_x(value.form) and has_second_moment(value.form):
            return node
    return interior[-1]


def _closest_stop(view: GraphView, region: Region) -> tuple[NodeRef, Refusal] | None:
    """The first place where a statistic of second order left the algebra."""
    for index, refusal in region.refusals.items():
        node = view.nodes[index]
        forms = [region.values[name].form for name in node.inputs if name in region.values]
        if any(has_second_moment(form) for form in forms):
            is_epsilon = not any(map(is_of_x, forms))
            varies = refusal.reason in (Reason.PARAMETER_VARIES, Reason.PARAMETER_COMPUTED)
            if varies and is_epsilon:
                return node.ref, Refusal(Reason.EPSILON_NOT_CONSTANT, refusal.got)
            return node.ref, refusal
        if refusal.reason is Reason.AXIS_NOT_PUT_BACK or node.op_type in NORMALIZATIONS:
            return node.ref, refusal
    return None

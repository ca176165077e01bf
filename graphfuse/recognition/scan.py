"""Finding every residual Add that feeds a norm, and saying why the others are left."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

from graphfuse.algebra.norms import Norm, is_deviation, match
from graphfuse.files.model_file import Model
from graphfuse.graph.bodies import strange_names
from graphfuse.graph.nodes import Node
from graphfuse.graph.scopes import as_written
from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.recognition.channels import is_of_groups, is_one_norm
from graphfuse.recognition.context import Candidate, normalized_axes, reduced_axes, reduces_nothing
from graphfuse.recognition.disguised import disguised
from graphfuse.recognition.near_misses import closest, feeds_root
from graphfuse.recognition.residual import ResidualSum, Source, residual_sum, sources
from graphfuse.recognition.site import described, producer, site
from graphfuse.recognition.translate import NORMALIZATIONS, REDUCTIONS, Region, evaluate
from graphfuse.records import Dim, NearMiss, Scan, Site
from graphfuse.records.reasons import Reason, Refusal, RefusedError
from graphfuse.types.shapes import extent_of
from graphfuse.views.view import GraphView, views

NORM_DOMAINS = (*DEFAULT_DOMAINS, "com.microsoft")


def scan(model: Model, pinned: frozenset[str] = frozenset()) -> Scan:
    """Find the sites and near misses of a model, graph by graph, in the order of their Adds.

    `pinned` are outputs of norms: what follows one of them is no part of it.
    """
    kept: list[Site | NearMiss] = []
    nodes = 0
    unimported: set[str] = set()
    for view in views(model):
        found = [
            item for candidate in _candidates(view) for item in _judge(view, candidate, pinned)
        ]
        kept.extend(_without_overlap(found))
        unimported |= _unimported(view)
        nodes += len(view.scope.graph.node)
    sites = [item for item in kept if isinstance(item, Site)]
    misses = [item for item in kept if isinstance(item, NearMiss)]
    return Scan(
        sites=tuple(
            replace(site, id=f"s{n}", notation=as_written(site.notation))
            for n, site in enumerate(sites, 1)
        ),
        near_misses=tuple(
            replace(miss, id=f"m{n}", got=as_written(miss.got)) for n, miss in enumerate(misses, 1)
        ),
        nodes=nodes,
        strange=strange_names(model.proto),
        unimported=tuple(sorted(unimported)),
    )


def _unimported(view: GraphView) -> set[str]:
    """The domains of a graph's nodes that it imports no opset of."""
    model, function = view.model.proto, view.scope.ref.function
    holder = model if function is None else model.functions[function]
    known = {entry.domain for entry in holder.opset_import}
    return {node.domain for node in view.nodes if not node.in_call} - known - {*DEFAULT_DOMAINS}


def _without_overlap(found: Iterable[Site | NearMiss]) -> list[Site | NearMiss]:
    """Earlier sites own their interior: an Add in there (a bias, a deviation) is no residual."""
    owned: set[int] = set()
    taken: dict[int, str] = {}
    kept: list[Site | NearMiss] = []
    for item in sorted(found, key=lambda item: item.add.index):
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
        for source in disguised(view, node):
            seen[source.tensor, None] = _Candidate(source, node, None)
        is_normalization = node.op_type in NORMALIZATIONS and node.domain in NORM_DOMAINS
        is_normalization = is_normalization and is_one_norm(node)
        if not is_normalization and not (node.standard and node.op_type in REDUCTIONS):
            continue
        if not is_normalization and reduces_nothing(view, node):
            continue
        for source in sources(view, node.input(0)):
            axes = _axes(view, source.tensor, node, is_normalization)
            blocked = axes is None or source.obstacle is not None
            if blocked and not is_normalization and not feeds_root(view, node):
                continue
            if blocked and is_of_groups(view, node):
                continue
            key = (source.tensor, axes)
            if key not in seen or seen[key].source.obstacle is not None:
                seen[key] = _Candidate(source, node, axes)
    direct = {c.source.key for c in seen.values() if c.source.obstacle is None}
    return [
        candidate
        for candidate in seen.values()
        if candidate.source.obstacle is None or candidate.source.key not in direct
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


def _judge(view: GraphView, candidate: _Candidate, pinned: frozenset[str]) -> list[Site | NearMiss]:
    """What becomes of one Add: a site, near misses, or nothing when no norm reads it."""
    source, reader, axes = candidate.source, candidate.reader, candidate.axes
    add, tensor = source.add, source.tensor
    elsewhere = source.reason is Reason.SUM_IN_OTHER_SCOPE
    home = view.home(add.outputs[0])
    residual = residual_sum(home, add)
    is_residual = not isinstance(residual, Refusal) or residual.reason is Reason.SUM_OF_MANY
    if source.obstacle is not None and source.reason is not None:
        # What a call holds is for the function's own scan to say.
        is_residual = is_residual and not add.in_call
        unknown = source.reason is Reason.UNKNOWN_SHAPE
        got = f"the type that {source.obstacle.ref} casts to" if unknown else ""
        miss = NearMiss(source.reason, source.obstacle.ref, add.ref, got=got)
        return [miss] if is_residual else []
    shape = view.type(tensor).shape
    if axes is None or shape is None:
        return [] if elsewhere else [_unknown_axes(reader, add, tensor, shape)]
    region = evaluate(view, Candidate(tensor, axes, len(shape), extent_of(shape, axes)))
    matches = _matches(region)
    if not matches:
        miss = closest(view, region, add) if is_residual and source.reason is None else None
        return [miss] if miss is not None else []
    if source.reason is not None:
        return _in_the_way(view, source, matches) if is_residual else []
    if isinstance(residual, Refusal):
        return [NearMiss(residual.reason, add.ref, add.ref, got=residual.got)]
    if _is_deviation(view, residual, axes):
        return [NearMiss(Reason.INSIDE_A_NORM, add.ref, add.ref, got=f"{residual.a} - its mean")]
    return _choose(view, region, source, residual, matches, pinned)


def _unknown_axes(reader: Node, add: Node, tensor: str, shape: tuple[Dim, ...] | None) -> NearMiss:
    """The near miss where it is not known what a norm is over, or where it has no such axis."""
    if shape is None:
        return NearMiss(Reason.UNKNOWN_SHAPE, reader.ref, add.ref, got=f"rank of {tensor}")
    if reader.op_type in NORMALIZATIONS:
        axis = reader.attributes.get("axis", -1)
        got = f"axis {axis} of {len(shape)} axes"
        return NearMiss(Reason.OTHER_AXES, reader.ref, add.ref, got=got)
    return NearMiss(Reason.UNKNOWN_SHAPE, reader.ref, add.ref, got=f"the axes of {reader.ref}")


def _is_deviation(view: GraphView, residual: ResidualSum, axes: tuple[int, ...]) -> bool:
    """Whether the Add is x + (-mean(x)): the deviation of a LayerNorm, and no residual."""
    shape = residual.b_shape
    if shape is None or any(shape[axis] != 1 for axis in axes if -axis <= len(shape)):
        return False
    # The mean may be of what was cast to x.
    x = view.behind(residual.a)[0]
    whole = view.type(x).shape
    if whole is None or len(whole) < max(-axis for axis in axes):
        return False
    region = evaluate(view, Candidate(x, axes, len(whole), extent_of(whole, axes)))
    value = region.values.get(residual.sum)
    return value is not None and is_deviation(value.form)


def _matches(region: Region) -> dict[str, Norm]:
    found: dict[str, Norm] = {}
    for name, value in region.values.items():
        if not value.dropped:
            with suppress(RefusedError):
                found[name] = match(value.form)
    return found


def _in_the_way(view: GraphView, source: Source, matches: dict[str, Norm]) -> list[Site | NearMiss]:
    """A norm whose sum is no Add that can be fused; a norm in a call is for the function's scan."""
    real = [
        node
        for name in matches
        if name in view.original(node := producer(view, name)).output
        and (node.index != source.add.index or not source.add.in_call)
    ]
    if not real or source.reason is None:
        return []
    return [NearMiss(source.reason, real[-1].ref, source.add.ref)]


def _choose(
    view: GraphView,
    region: Region,
    source: Source,
    residual: ResidualSum,
    matches: dict[str, Norm],
    pinned: frozenset[str],
) -> list[Site | NearMiss]:
    """Pick the norm's output: the first match that something beyond the norm reads."""
    refused: dict[str, NearMiss] = {}
    valid: dict[str, Site] = {}
    for name, norm in matches.items():
        found = site(view, region, source, residual, name, norm)
        if isinstance(found, Site):
            valid[name] = found
        else:
            refused[name] = replace(found, form=region.values[name].form)
    if not valid:
        return [list(refused.values())[-1]]
    final = [name for name in valid if name in pinned or _escapes(view, name, valid)]
    if not final:
        return []
    first = described(view, region, source, residual, valid[final[0]], matches[final[0]])
    others = [
        NearMiss(Reason.SUM_TAKEN, producer(view, name).ref, residual.add.ref, got=first.output)
        for name in final[1:]
        if producer(view, first.output).index not in valid[name].interior
    ]
    return [first, *others]


def _escapes(view: GraphView, name: str, valid: dict[str, Site]) -> bool:
    if name in view.outputs:
        return True
    return any(
        not reader.outputs or reader.outputs[0] not in valid or _is_left_to_matmul(view, reader)
        for reader in view.readers(name)
    )


def _is_left_to_matmul(view: GraphView, node: Node) -> bool:
    """Whether a node multiplies by a number what only MatMuls read.

    It could be part of the scale, but onnxruntime makes it the alpha of a FusedMatMul, for nothing
    (core/optimizer/matmul_scale_fusion.cc): T5 so scales what its last norm gives.
    """
    if not node.standard or node.in_call or node.op_type not in ("Mul", "Div"):
        return False
    factors = [tensor for name in node.inputs if (tensor := view.constant(name)) is not None]
    readers = view.readers(node.outputs[0])
    return (
        len(factors) == 1
        and prod(factors[0].dims) == 1
        and node.outputs[0] not in view.outputs
        and bool(readers)
        and all(reader.standard and reader.op_type == "MatMul" for reader in readers)
    )

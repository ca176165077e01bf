"""What a report draws: the graph around each distinct spelling and near miss, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from graphfuse.files.model_file import Model
from graphfuse.ops import is_fused_node
from graphfuse.records import MAIN, NearMiss, ScopeRef, Site
from graphfuse.records.drawings import Diagram, Fate, Picture
from graphfuse.records.results import FuseResult, Rewritten, UnfuseResult
from graphfuse.records.sites import shape_text
from graphfuse.steps.scanning import Looked, look
from graphfuse.views.analyses import types_of
from graphfuse.views.surroundings import (
    Places,
    between,
    came,
    counterpart,
    draw,
    node_key,
    places_of,
)

if TYPE_CHECKING:
    import onnx

MOST_PICTURES = 40
"""Distinct spellings and near misses that are drawn: the first ones."""


def of_scan(looked: Looked) -> tuple[Picture, ...]:
    """The graph around what a scan found, a picture for all that is written alike."""
    artist = _Artist(looked, None)
    return tuple(artist.pictures(looked.shown.sites, {}, looked.shown.near_misses))


def of_fusion(looked: Looked, result: Rewritten) -> tuple[Picture, ...]:
    """The same of a fusion, with what each spelling became."""
    assert isinstance(result, FuseResult)
    artist = _Artist(looked, result.proto)
    fused = [fusion.site for fusion in result.fused]
    operators = {fusion.site.id: fusion.operator for fusion in result.fused}
    return tuple(artist.pictures(fused, operators, result.left))


def of_comparison(original: Model, fused: Model) -> tuple[tuple[Site, ...], tuple[Picture, ...]]:
    """The sites of one model that are fused nodes in another, and the graph around them in both."""
    looked = look(original)
    artist = _Artist(looked, fused.proto)
    operators = {site.id: artist.became(site) for site in looked.shown.sites}
    sites = tuple(site for site in looked.shown.sites if operators[site.id])
    return sites, tuple(artist.pictures(sites, operators, ()))


def of_unfusing(source: Model, result: Rewritten) -> tuple[Picture, ...]:
    """The fused nodes of the main graph that were written out, a picture for each operator."""
    assert isinstance(result, UnfuseResult)
    before, after = Places(source.proto.graph), Places(result.proto.graph)
    label = _Label(source, MAIN)
    alike: dict[str, list[str]] = {}
    for each in result.unfused:
        if each.output in before.makers:
            alike.setdefault(each.operator, []).append(each.output)
    found: list[Picture] = []
    for operator, outputs in alike.items():
        index = before.makers[outputs[0]]
        made = came(before, after, [name for name in before.graph.node[index].output if name])
        gone = draw(before, {index: Fate.GOES}, label)
        if gone is not None:
            drawn = draw(after, dict.fromkeys(made, Fate.COMES), label)
            found.append(Picture(tuple(outputs), (), operator, gone, drawn))
    return tuple(found)


@dataclass(frozen=True)
class _Label:
    """The type and shape of a tensor of one graph, as `float32 [2, S, 64]`; empty if not known."""

    model: Model
    ref: ScopeRef

    def __call__(self, name: str) -> str:
        known = types_of(self.model).get(self.ref, {}).get(name)
        if known is None or not known.elem_type:
            return ""
        text = known.elem_type.text
        return text if known.shape is None else f"{text} {shape_text(known.shape)}"


class _Artist:
    """Draws places of one model, and of what it became."""

    def __init__(self, looked: Looked, result: onnx.ModelProto | None) -> None:
        self._looked, self._result = looked, result
        self._before: dict[ScopeRef, Places] = {}
        self._after: dict[ScopeRef, Places | None] = {}

    def pictures(
        self,
        sites: Iterable[Site],
        operators: Mapping[str, str],
        misses: Iterable[NearMiss],
    ) -> Iterator[Picture]:
        alike: dict[object, list[Site]] = {}
        for site in sites:
            alike.setdefault((operators.get(site.id), *_spelling(site)), []).append(site)
        missed: dict[object, list[NearMiss]] = {}
        for miss in misses:
            missed.setdefault((miss.reason, miss.culprit.op_type, miss.culprit.call), []).append(
                miss
            )
        for group in [*alike.values()][:MOST_PICTURES]:
            ids = tuple(site.id for site in group)
            drawn = self._site(group[0])
            if drawn is not None:
                yield Picture(ids, (), group[0].notation, *drawn)
        for group in [*missed.values()][:MOST_PICTURES]:
            ids = tuple(miss.id or miss.site for miss in group)
            drawing = self._miss(group[0])
            if drawing is not None:
                yield Picture((), ids, group[0].reason.value, drawing)

    def became(self, site: Site) -> str:
        """The operator of the fused node that a site is in the result; empty where it is none."""
        places = self._rewritten(site.scope)
        index = None if places is None else places.makers.get(site.output)
        if places is None or index is None:
            return ""
        node = places.graph.node[index]
        is_fused = is_fused_node(node.domain, node.op_type)
        return f"{node.domain}::{node.op_type}" if is_fused else ""

    def _places(self, ref: ScopeRef) -> Places:
        if ref not in self._before:
            self._before[ref] = places_of(self._looked.source.proto, ref)
        return self._before[ref]

    def _rewritten(self, ref: ScopeRef) -> Places | None:
        if ref not in self._after:
            assert self._result is not None
            graph = counterpart(self._looked.source.proto, self._result, ref)
            self._after[ref] = None if graph is None else Places(graph)
        return self._after[ref]

    @cached_property
    def _shown(self) -> Mapping[str, Site]:
        return {site.id: site for site in self._looked.shown.sites}

    @cached_property
    def _scanned(self) -> Mapping[str, Site]:
        """The sites in the model that was scanned: its graphs may be counted otherwise."""
        return {site.id: site for site in self._looked.scan.sites}

    def _label(self, site: Site | None, ref: ScopeRef) -> _Label:
        known = None if site is None else self._scanned.get(site.id)
        return _Label(self._looked.model, ref if known is None else known.scope)

    def _site(self, site: Site) -> tuple[Diagram, Diagram | None] | None:
        places, label = self._places(site.scope), self._label(site, site.scope)
        core = {site.add.index, *site.path, *site.interior}
        after = None if self._result is None else self._rewritten(site.scope)
        kept = set[object]() if after is None else after.keys
        if after is not None and site.bias_add is not None:
            # Where the fused node adds the bias vector too, its Add goes.
            folded = places.graph.node[site.bias_add.add.index]
            core |= set() if node_key(folded) in kept else {site.bias_add.add.index}
        parts = {
            index: Fate.STAYS if node_key(places.graph.node[index]) in kept else Fate.GOES
            for index in core
        }
        before = draw(places, parts, label)
        if before is None or after is None:
            return None if before is None else (before, None)
        made = came(places, after, {site.sum, site.output})
        return before, draw(after, dict.fromkeys(made, Fate.COMES), label)

    def _miss(self, miss: NearMiss) -> Diagram | None:
        """The Add, the node to blame, and what is between them."""
        site = self._shown.get(miss.site)
        if site is not None:
            return self._left(site, miss)
        places = self._places(miss.add.scope)
        nodes = places.graph.node
        both = [each for each in (miss.add, miss.culprit) if each.scope == miss.add.scope]
        if any(each.index >= len(nodes) for each in both):
            return None
        parts = dict.fromkeys(between(places, both[0].index, both[-1].index), Fate.STAYS)
        return draw(
            places, {**parts, both[-1].index: Fate.BLAMED}, self._label(None, miss.add.scope)
        )

    def _left(self, site: Site, miss: NearMiss) -> Diagram | None:
        """A site that a plan left; the node to blame is counted in the model as it was scanned."""
        core = {site.add.index, *site.path, *site.interior}
        known = miss.culprit.index in core and not self._looked.apart.fused
        blamed = miss.culprit.index if known else site.add.index
        parts = {index: Fate.BLAMED if index == blamed else Fate.STAYS for index in core}
        return draw(self._places(site.scope), parts, self._label(site, site.scope))


def _spelling(site: Site) -> tuple[object, ...]:
    """What sites have in common that one drawing stands for."""
    return (
        site.kind,
        site.notation,
        site.layout,
        site.elem_type,
        site.sum_is_read,
        site.bias_add is None,
        site.fused_by,
        len(site.interior),
        len(site.path),
        site.add.call,
    )

"""Looking at a model whose fused nodes are sites too: taken apart, scanned, and said as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from graphfuse.files.model_file import Model
from graphfuse.graph.scopes import find, function_key
from graphfuse.recognition.scan import scan
from graphfuse.records import NearMiss, NodeRef, Scan, ScopeRef, Site
from graphfuse.rewriting.apart import Apart, FusedPlace, Keep, Origin, keep_none, take_apart


@dataclass(frozen=True)
class Looked:
    """A model taken apart, and the scan of that: what a plan is made of."""

    source: Model
    apart: Apart
    scan: Scan

    @property
    def model(self) -> Model:
        """The model that was scanned."""
        return self.apart.model

    def place(self, site: Site) -> FusedPlace:
        """What tells a site apart: the function of the source that it is in, and its output."""
        return self._places.function(site.scope), site.output

    def origin(self, site: Site) -> Origin | None:
        """What a site was, if it was a fused node."""
        return self.apart.origins.get(self.place(site))

    @cached_property
    def shown(self) -> Scan:
        """The scan in terms of the model as it was given: its nodes, its indices."""
        if not self.apart.fused:
            return self.scan
        place = self._places
        sites = tuple(place.site(site, self.origin(site)) for site in self.scan.sites)
        misses = [place.near_miss(miss) for miss in self.scan.near_misses]
        first = len(misses) + 1
        left = (replace(miss, id=f"m{n}") for n, miss in enumerate(self.apart.left, first))
        return replace(
            self.scan,
            sites=sites,
            near_misses=(*misses, *left),
            already_fused=self.apart.fused,
            nodes=self.scan.nodes - sum(len(o) - len(set(o)) for o in self.apart.owners.values()),
        )

    @cached_property
    def _places(self) -> _Places:
        return _Places(self.source, self.apart)


def look(model: Model, keep: Keep = keep_none) -> Looked:
    """Scan a model, its fused nodes taken apart but for those to `keep`."""
    apart = take_apart(model, keep)
    outputs = frozenset(output for _, output in apart.origins)
    found = replace(scan(apart.model, outputs), notes=model.notes)
    return Looked(model, apart, found)


class _Places:
    """From the graphs of a model taken apart back to those that it had."""

    def __init__(self, source: Model, apart: Apart) -> None:
        before = {function_key(f): n for n, f in enumerate(source.proto.functions)}
        after = [function_key(f) for f in apart.model.proto.functions]
        self._functions: Mapping[int, int] = {n: before[key] for n, key in enumerate(after)}
        self._owners, self._made, self._source = apart.owners, apart.made, source

    def function(self, ref: ScopeRef) -> int | None:
        """The function that a graph is in, as the source counts them."""
        return None if ref.function is None else self._functions[ref.function]

    def scope(self, ref: ScopeRef) -> ScopeRef:
        """A graph of the source."""
        found = ScopeRef(self.function(ref))
        steps: list[tuple[int, str, int]] = []
        for index, name, number in ref.steps:
            steps.append((self._index(found, index), name, number))
            found = ScopeRef(found.function, tuple(steps))
        return ScopeRef(found.function, found.steps, ref.text)

    def _index(self, scope: ScopeRef, index: int) -> int:
        owners = self._owners.get(scope)
        return index if owners is None else owners[index]

    def node(self, ref: NodeRef, origin: Origin | None = None) -> NodeRef:
        """A node of the source; that of `origin` for the parts of a fused one."""
        scope = self.scope(ref.scope)
        named = ref if origin is None else replace(ref, op_type=origin.node.op_type)
        named = named if origin is None else replace(named, name=origin.node.name)
        return replace(named, index=self._index(scope, ref.index), scope=scope)

    def near_miss(self, miss: NearMiss) -> NearMiss:
        """A near miss in terms of the source."""
        got = miss.got
        for name, words in self._made.items():
            got = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w/])", lambda _, w=words: w, got)
        return replace(miss, add=self.part(miss.add), culprit=self.part(miss.culprit), got=got)

    def part(self, ref: NodeRef) -> NodeRef:
        """A node of the source: the fused one for any of its parts."""
        found = self.node(ref)
        if ref.call or found.scope not in self._owners:
            return found
        node = find(self._source.proto, found.scope).node[found.index]
        return replace(found, op_type=node.op_type, name=node.name)

    def site(self, site: Site, origin: Origin | None) -> Site:
        """A site in terms of the source; a fused node's notation is its operator."""
        scope = self.scope(site.scope)
        bias = site.bias_add
        return replace(
            site,
            add=self.node(site.add, origin),
            sum_readers=tuple(self.node(reader) for reader in site.sum_readers),
            bias_add=None if bias is None else replace(bias, add=self.node(bias.add)),
            path=tuple(self._index(scope, index) for index in site.path),
            interior=tuple(sorted({self._index(scope, index) for index in site.interior})),
            notation=site.notation if origin is None else origin.operator,
            fused_by="" if origin is None else origin.operator,
        )

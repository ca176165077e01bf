"""Each distinct site alone: its original nodes against each form that could replace them.

The nodes of a site are cut out of the model, with the MatMul that a bias vector before the residual
belongs to (onnxruntime may fuse the two), and fused there. The original runs in the best session
that onnxruntime gives by itself (its slow fusions off), the fused ones in graphfuse's. Small sites
are timed in a chain of several, each reading what the one before wrote, as in a model, so that the
cost of entering onnxruntime does not hide theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from graphfuse.errors import UsageError, in_one_line
from graphfuse.files.model_file import Model
from graphfuse.planning.plan import plan
from graphfuse.planning.targets import Target, takes_bias
from graphfuse.recognition.scan import scan as scan_model
from graphfuse.records import Dim, Scan, Site
from graphfuse.records.progress import Progress, counted
from graphfuse.records.requests import Costs, Feeds, Selection
from graphfuse.rewriting.rewrite import rewrite
from graphfuse.running.feeding import Feed
from graphfuse.running.fitting import Fitting
from graphfuse.running.inputs import inputs_of
from graphfuse.running.random_feeds import Sizes, bound, random_feeds, shapes_of
from graphfuse.running.sessions import CPU
from graphfuse.speed.bound_runs import Contender, SessionKind, caller, environment
from graphfuse.speed.measurements import BenchOptions, BenchReport, SiteTiming
from graphfuse.speed.timing import Interval, Threads, Timing, paired, pinned
from graphfuse.system import machine
from graphfuse.views.analyses import scopes_of
from graphfuse.views.cutting import Parts, parts_by_scope
from graphfuse.views.keys import scope_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class SiteForm(StrEnum):
    """Forms of a site: as it is; one node; one node that adds the bias vector as well."""

    ORIGINAL = "original"
    FUSED = "fused"
    FOLDED = "folded"


CHAIN_ELEMENTS = 2**21
LONGEST_CHAIN = 20
ROUNDS = 9
AT_LEAST = BenchOptions(seconds=0.0)
"""As many rounds as there have to be."""

SITE_SIZES = Sizes(1, 128)


@dataclass(frozen=True, slots=True)
class SiteModel:
    """A site cut out of its model: the part, and the names and extents that it has there."""

    site: Site
    part: Model
    shape: tuple[int, ...]
    length: int


def time_sites(
    model: Model,
    scan: Scan,
    target: Target,
    options: BenchOptions,
    feeds: Feeds,
    progress: Progress,
) -> BenchReport:
    """Time each distinct site of a model alone, for each target and number of threads.

    Of `feeds` are taken the shapes of inputs and the extents by symbol.
    """
    found: list[SiteTiming] = []
    notes: list[str] = [] if scan.sites else ["the model has no sites"]
    known = symbols_of(model.proto, feeds.input_shapes, feeds.symbols)
    for single in target.singles:
        for count in options.threads:
            for sizes in options.sizes or (SITE_SIZES,):
                with pinned(count) as threads:
                    tuner = Tuner(model, single, threads, sizes, known, options)
                    found += tuner.timings(scan.sites, progress)
                    notes += tuner.notes
    return BenchReport(environment(), (), tuple(found), tuple(dict.fromkeys(notes)))


class Tuner:
    """Times distinct sites on one provider, with one number of threads and one size."""

    def __init__(
        self,
        model: Model,
        target: Target,
        threads: Threads,
        sizes: Sizes = SITE_SIZES,
        symbols: Mapping[str, int] = MappingProxyType({}),
        options: BenchOptions = AT_LEAST,
    ) -> None:
        self.model, self.target, self.threads = model, target, threads
        self.sizes, self.symbols = sizes, dict(symbols)
        self.seconds, self.clock = options.seconds, options.clock
        self.notes: list[str] = []
        self._known: dict[object, Mapping[str, Timing]] = {}
        found = scopes_of(model)
        keys, parts = scope_keys(found), parts_by_scope(model)
        self._parts = {scope.ref: parts[keys[scope.ref]] for scope in found}

    def timings(self, sites: Iterable[Site], progress: Progress) -> list[SiteTiming]:
        """One timing for each distinct site; sites that cannot be cut out are in the notes."""
        distinct: dict[object, list[tuple[Site, SiteModel, SiteModel | None]]] = {}
        for site in sites:
            cut = self._cut(site, {site.a: site.shape, site.b: _b_shape(site)})
            if cut is None:
                self.notes.append(f"{site.id} cannot be timed alone")
                continue
            biased = None
            if site.bias_add is not None and takes_bias(self.target, site.kind):
                biased = self._cut(site, _sources(self._parts[site.scope], site))
            alike = _likeness(cut), biased and _likeness(biased)
            distinct.setdefault(alike, []).append((site, cut, biased))
        found: list[SiteTiming] = []
        progress.stage(f"timing each distinct site on {self.target.provider}")
        for alike in counted(progress, tuple(distinct.values())):
            _, cut, biased = alike[0]
            timing = self._time(tuple(site.id for site, _, _ in alike), cut, biased)
            if timing is not None:
                found.append(timing)
        return found

    def _time(
        self, ids: tuple[str, ...], cut: SiteModel, biased: SiteModel | None
    ) -> SiteTiming | None:
        timings = self._tried(ids[0], cut, (SiteForm.FUSED,))
        if timings is None:
            return None
        if SiteForm.FUSED not in timings:
            self.notes.append(f"{ids[0]} has no fused form on {self.target.name}")
            return None
        seconds = {form: timing.median / cut.length for form, timing in timings.items()}
        faster = timings[SiteForm.FUSED].speedup(timings[SiteForm.ORIGINAL])
        speedups: dict[str, Interval] = {SiteForm.FUSED: faster}
        best = SiteForm.FUSED if speedups[SiteForm.FUSED].low > 1.0 else SiteForm.ORIGINAL
        more: Mapping[str, Timing] = {}
        if biased is not None:
            more = self._tried(ids[0], biased, (SiteForm.FUSED, SiteForm.FOLDED)) or {}
        if SiteForm.FOLDED in more:
            # These include the MatMul that the bias belongs to.
            speedups[SiteForm.FOLDED] = more[SiteForm.FOLDED].speedup(more[SiteForm.ORIGINAL])
            seconds[SiteForm.FOLDED] = more[SiteForm.FOLDED].median
            over_fused = (
                SiteForm.FUSED not in more
                or more[SiteForm.FOLDED].speedup(more[SiteForm.FUSED]).low > 1.0
            )
            best = SiteForm.FOLDED if over_fused and speedups[SiteForm.FOLDED].low > 1.0 else best
        site = cut.site
        return SiteTiming(
            ids,
            site.kind,
            site.elem_type,
            cut.shape,
            site.sum_is_read,
            seconds,
            speedups,
            best,
        )

    def _tried(
        self, name: str, cut: SiteModel, forms: Sequence[str]
    ) -> Mapping[str, Timing] | None:
        """The timings; None, with a note, of a part that does not run, or has no room."""
        try:
            return self._measured(cut, forms)
        except UsageError:
            raise
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code. The part is of our making:
            # that it does not run says nothing of the model, and the other sites go on.
            machine.check(error, f"timing {name} on {self.target.provider}")
            self.notes.append(f"{name} cannot be timed alone: {in_one_line(error, 500)}")
            return None

    def _measured(self, cut: SiteModel, forms: Sequence[str]) -> Mapping[str, Timing]:
        """Paired timings of a cut in its original form and others; the same cut is timed once."""
        key = (_likeness(cut), tuple(forms))
        if key not in self._known:
            models = {SiteForm.ORIGINAL: cut.part, **dict(self._fused(cut, forms))}
            calls: dict[str, Callable[[], object]] = {}
            chains = {f: model.edited(_chain(model.proto, cut)) for f, model in models.items()}
            self._check_room(chains)
            feeds = random_feeds(cut.part.proto, 0, sizes=self.sizes)
            for form, chained in chains.items():
                # Beside the best that a session without graphfuse can be, not the default.
                kind = SessionKind.BEST if form == SiteForm.ORIGINAL else SessionKind.GRAPHFUSE
                contender = Contender(form, chained, kind)
                made = contender.session(self.target.provider, self.threads)
                calls[form] = caller(made, feeds, self.target.provider)
            timings = paired(calls, self.seconds, ROUNDS, self.clock)
            if (
                SiteForm.FUSED in timings
                and timings[SiteForm.FUSED].speedup(timings[SiteForm.ORIGINAL]).low <= 1.0
            ):
                # It may be noise: look longer before a site is left.
                timings = paired(calls, self.seconds, 2 * ROUNDS, self.clock)
            self._known[key] = timings
        return self._known[key]

    def _check_room(self, chains: Mapping[str, Model]) -> None:
        """Raise TooLargeError where a part's sessions do not fit into the memory there is."""
        if self.target.provider != CPU:
            return
        proto = chains[SiteForm.ORIGINAL].proto
        draw = partial(random_feeds, proto, 0, sizes=self.sizes)
        feed = Feed(draw, shapes_of(proto, sizes=self.sizes), "drawn rows", "")
        Fitting(chains[SiteForm.ORIGINAL], doing="timing it", sessions=len(chains)).those_that_fit(
            [feed]
        )

    def _fused(self, cut: SiteModel, forms: Sequence[str]) -> Iterator[tuple[str, Model]]:
        """The part in those fused forms that the target takes."""
        scan = scan_model(cut.part)
        for form in forms:
            folds = form == SiteForm.FOLDED
            if folds and not any(site.bias_add for site in scan.sites):
                continue
            selection = Selection(fold_bias=folds, costs=Costs.NONE)
            planned = plan(cut.part, scan, self.target, selection)
            if [fusion.site.output for fusion in planned.fusions] == [cut.site.output]:
                yield form, cut.part.edited(rewrite(cut.part.proto, planned))

    def _cut(self, site: Site, sources: Mapping[str, tuple[Dim, ...]]) -> SiteModel | None:
        if site.scope.function is not None or not site.shape:
            return None
        parts, length = self._parts[site.scope], 1
        outputs = [site.output, *([site.sum] if site.sum_is_read else [])]
        names = {name for name in sources if parts.computes(name)}
        part = parts.behind(onnx.NodeProto(input=sorted(names), output=outputs), names)
        if part is None or not names:
            return None
        shape = tuple(self._extent(dim, place) for place, dim in enumerate(site.shape))
        for value in part.proto.graph.input:
            extents = self._operand(sources[value.name], shape)
            value.CopyFrom(helper.make_tensor_value_info(value.name, site.elem_type, extents))
        for value in part.proto.graph.output:
            value.CopyFrom(helper.make_tensor_value_info(value.name, site.elem_type, None))
        if names == {site.a, site.b} and site.b_shape == site.shape and not site.path:
            length = max(1, min(LONGEST_CHAIN, CHAIN_ELEMENTS // max(1, prod(shape))))
        return SiteModel(site, part, shape, length)

    def _operand(self, dims: tuple[Dim, ...], shape: tuple[int, ...]) -> list[int]:
        """The extents of an operand beside those of the sum, the last axes one above the other.

        An extent without a number of its own is the sum's: the operand's may be called otherwise
        (`Min(64, sequence)` of a table of positions), and what it is then nobody says.
        """
        missing = len(shape) - len(dims)
        return [
            dim if isinstance(dim, int) and dim > 0 else shape[missing + place]
            for place, dim in enumerate(dims)
        ]

    def _extent(self, dim: Dim, place: int) -> int:
        if isinstance(dim, int) and dim > 0:
            return dim
        known = self.symbols.get(dim) if isinstance(dim, str) else None
        return known or (self.sizes.batch if place == 0 else self.sizes.later)


def symbols_of(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], symbols: Mapping[str, int]
) -> dict[str, int]:
    """What the symbols of a model's inputs are, where the user gives the inputs' shapes or them.

    Raises UsageError for inputs that the model does not have, or not in that rank, and for symbols
    that it does not have.
    """
    return bound(inputs_of(model.graph), shapes, symbols)


def _b_shape(site: Site) -> tuple[Dim, ...]:
    return site.shape if site.b_shape is None else site.b_shape


def _sources(parts: Parts, site: Site) -> dict[str, tuple[Dim, ...]]:
    """The tensors that the part reads, with their shapes: operands, or what one is made from."""
    sources = {site.a: site.shape, site.b: _b_shape(site)}
    if site.bias_add is not None:
        shape = sources.pop(site.bias_add.result)
        operand = site.bias_add.operand
        product = parts.node(operand)
        inner = None if product is None else _inner(parts, product)
        if product is None or inner is None:
            sources[operand] = shape
        else:
            sources[product.input[0]] = (*shape[:-1], inner)
    return sources


def _inner(parts: Parts, node: onnx.NodeProto) -> int | None:
    """The inner extent of a MatMul of activations and a weight."""
    if node.op_type != "MatMul" or node.domain or parts.computes(node.input[1]):
        return None
    weight = parts.weight(node.input[1])
    return weight.dims[0] if weight is not None and len(weight.dims) == 2 else None


def _likeness(cut: SiteModel) -> object:
    """What a site's time depends on: sites that have it in common are timed once."""
    site = cut.site
    inputs = tuple(
        (value.name == site.a, tuple(d.dim_value for d in value.type.tensor_type.shape.dim))
        for value in cut.part.proto.graph.input
    )
    operators = tuple(node.op_type for node in cut.part.proto.graph.node)
    types = (site.elem_type, site.parameter_type, cut.shape, site.sum_is_read, site.axis)
    return site.kind, types, inputs, operators


def _chain(proto: onnx.ModelProto, cut: SiteModel) -> onnx.ModelProto:
    """Several copies of a part, each reading what the one before wrote."""
    if cut.length == 1:
        return proto
    site, result = cut.site, onnx.ModelProto()
    result.CopyFrom(proto)
    del result.graph.node[:]
    produced = {name for node in proto.graph.node for name in node.output if name}
    feeds = {site.a: site.sum if site.sum_is_read else site.output}
    if site.sum_is_read:
        feeds[site.b] = site.output
    for number in range(cut.length):
        last = number == cut.length - 1
        names = {name: name if last else f"{name}/{number}" for name in produced}
        if number:
            names |= {name: f"{source}/{number - 1}" for name, source in feeds.items()}
        for place, node in enumerate(proto.graph.node):
            copy = result.graph.node.add()
            copy.CopyFrom(node)
            copy.name = f"{node.name}/{number}/{place}"
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names.get(name, name) for name in node.output]
    return result

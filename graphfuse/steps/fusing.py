"""One model on its way to a fused one; sites that fail validation are put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from graphfuse.errors import GateError, ValidationError
from graphfuse.files.model_file import Model, materialized
from graphfuse.graph.bodies import has_contrib
from graphfuse.graph.tensors import count_nodes
from graphfuse.planning import advice
from graphfuse.planning.plan import plan as make_plan
from graphfuse.planning.runtimes import Runtime
from graphfuse.planning.targets import Target
from graphfuse.records import (
    Cost,
    FuseResult,
    Fusion,
    Plan,
    Scan,
    Site,
    ValidationReport,
    arguments,
)
from graphfuse.records.progress import Progress
from graphfuse.records.requests import Costs, Feeds, Level, Selection
from graphfuse.rewriting.putting_back import Attempt, PuttingBack
from graphfuse.rewriting.rewrite import rewrite
from graphfuse.running.feeding import Feeding, feeding_of
from graphfuse.steps.judging import Asked, failure, remedy, validate_models, why
from graphfuse.steps.opening import files_read, saved
from graphfuse.steps.picturing import of_fusion
from graphfuse.steps.scanning import Looked, look


@dataclass
class Fusing:
    """One model and what the user wants of it; sites can be put back, so it may be asked again."""

    source: Model
    target: Target
    selection: Selection
    runtime: Runtime
    strict_mode: bool
    feeds: Feeds
    progress: Progress

    def __post_init__(self) -> None:
        """Refuse what is no such record."""
        arguments.expect("selection", self.selection, Selection, "give a graphfuse.Selection")
        arguments.flag("strict_mode", self.strict_mode)
        arguments.told(self.progress)

    @cached_property
    def _measured(self) -> Mapping[str, Cost]:
        """The sites' costs, measured on this machine where that is asked for."""
        if self.selection.costs != Costs.AUTOTUNE:
            return {}
        from graphfuse.running.sessions import require_provider
        from graphfuse.speed.autotune import autotune

        require_provider(self.target.provider)
        looked = self.looked
        return autotune(looked.model, looked.scan, self.target, self.feeds, self.progress)

    @cached_property
    def looked(self) -> Looked:
        """The sites, looked for once; fused nodes are sites as well."""
        self.progress.stage("scanning")
        return look(self.source)

    @property
    def scan(self) -> Scan:
        """The sites as the user sees them."""
        return self.looked.shown

    def _plan(self, looked: Looked, put_back: Mapping[str, str], selection: Selection) -> Plan:
        return make_plan(
            looked.model,
            looked.scan,
            self.target,
            selection,
            put_back=put_back,
            measured=self._measured,
            runtime=self.runtime,
            strict_mode=self.strict_mode,
        )

    def result(self, put_back: Mapping[str, str]) -> FuseResult:
        """The rewritten model; `put_back` are ids of sites to leave, and why.

        A fused node that is what the target wants stays as it is, and so does one that the plan
        would leave: what is not changed is not written out.
        """
        looked = self.looked
        planned = self._plan(looked, put_back, self.selection)
        kept = {fusion.site.id for fusion in planned.fusions if _is_there(looked, fusion)}
        left = {miss.site for miss in planned.left}
        stay = [s for s in looked.scan.sites if s.id in kept | left and looked.origin(s)]
        source = looked.model
        if stay:
            source, planned = self._without(stay, planned)
        self.progress.stage("rewriting")
        model = rewrite(source.proto, planned)
        shown = {site.id: site for site in self.scan.sites}
        return FuseResult(
            proto=model,
            target=self.target.name,
            scan=self.scan,
            fused=tuple(replace(f, site=shown[f.site.id]) for f in planned.fusions),
            left=(*self.scan.near_misses, *planned.left),
            nodes_before=self.scan.nodes,
            nodes_after=count_nodes(model),
            kept=len(kept),
            costs=planned.costs,
            runtime=planned.runtime,
            made_for=planned.made_for,
            notes=(*self.scan.notes, *advice.of_scan(self.scan)),
            read=self.source.once(files_read),
            complete=partial(materialized, self.source),
            saver=partial(saved, self.source),
            drawer=partial(of_fusion, looked),
        )

    def _without(self, stay: Sequence[Site], first: Plan) -> tuple[Model, Plan]:
        """The model with fused nodes that stay, and the plan of the rest by their first ids."""
        gone = {site.id for site in stay}
        chosen = [fusion.site.id for fusion in first.fusions if fusion.site.id not in gone]
        if not chosen:
            return self.source, replace(first, fusions=(), vectors=(), costs=(), made_for="")
        places = {self.looked.place(site) for site in stay}
        again = look(self.source, places.__contains__)
        ids = {self.looked.place(site): site.id for site in self.looked.scan.sites}
        known = [site for site in again.scan.sites if again.place(site) in ids]
        sites = tuple(replace(site, id=ids[again.place(site)]) for site in known)
        again = replace(again, scan=replace(again.scan, sites=sites))
        selection = replace(self.selection, include=tuple(chosen), exclude=())
        # What was left, and why, was said of all of them.
        return again.model, replace(self._plan(again, {}, selection), left=first.left)

    def accepted(self, asked: Asked, strict: bool, min_fused: int) -> FuseResult:
        """The rewritten model, validated as asked.

        Raises GateError when fewer than `min_fused` sites are fused, and what `validated` raises.
        """
        arguments.flag("strict", strict)
        arguments.count("min_fused", min_fused)
        result = self.result({})
        self._check_fused(result, min_fused)
        if (asked.level != Level.NONE or asked.certify) and result.changed:
            result = self.validated(asked, strict)
            self._check_fused(result, min_fused)
        return result

    def _check_fused(self, result: FuseResult, wanted: int) -> None:
        fused = len(result.fused) + result.kept
        if fused < wanted:
            missed = GateError(
                f"{fused} of {wanted} sites were fused that --min-fused asks for",
                advice.of_left(result.left, str(self.source.path or "MODEL")),
            )
            missed.result = result
            raise missed

    def validated(self, asked: Asked, strict: bool) -> FuseResult:
        """The rewritten model without the sites that fail validation, and the report of the rest.

        Raises ValidationError when `strict`, or when no site can be blamed.
        """
        attempt = partial(self._attempt, asked, feeding_of(self.feeds))
        return PuttingBack(self, attempt, strict).run()

    def _attempt(self, asked: Asked, feeding: Feeding, put_back: Mapping[str, str]) -> Attempt:
        """The model with some sites put back, judged; and which sites are to blame."""
        result = self.result(put_back)
        if not result.changed:
            return Attempt(result, None, {})
        fused = self.source.edited(result.proto)
        report = validate_models(self.source, fused, self.target, asked, feeding, self.progress)
        if report.passed:
            return Attempt(replace(result, validation=report), report, {})
        unknown = {item.subject: item.why for item in report.not_shown}
        blamed = {
            fusion.site.id: unknown.get(fusion.output) or why(report, fusion.output)
            for fusion in result.fused
            if fusion.output in report.wrong or fusion.output in unknown
        }
        return Attempt(result, report, blamed)

    def failed(self, report: ValidationReport) -> ValidationError:
        """The error for a report that did not pass, where no site can be put back for it."""
        outputs = {value.name for value in self.source.proto.graph.output}
        return ValidationError(failure(report), f"nothing was written; {remedy(report, outputs)}")


def _is_there(looked: Looked, fusion: Fusion) -> bool:
    """Whether a site is a fused node already, and such as the target wants."""
    origin = looked.origin(fusion.site)
    if origin is None or origin.node.domain != fusion.domain or not origin.whole:
        return False
    inside = fusion.body is not None and has_contrib(fusion.body)
    return origin.contrib_inside == inside


def all_put_back(result: FuseResult) -> GateError | None:
    """What ends a run in which every site that was fused failed validation; else None."""
    if result.changed or not result.put_back:
        return None
    return GateError(
        f"all {len(result.put_back)} sites that were fused failed validation and were put back: "
        "the output, if one was asked for, is the original",
        "the report says what each of them failed: real feeds (--load-inputs) may help, and "
        "whatever is wrong with a node of graphfuse's please report",
    )

"""One model on its way to a fused one; sites that fail validation are put back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import onnx

from graphfuse.errors import UsageError, ValidationError
from graphfuse.files.model_file import Model, materialized
from graphfuse.graph.bodies import has_contrib, strange_names
from graphfuse.graph.tensors import count_nodes
from graphfuse.planning import advice, runtimes, targets
from graphfuse.planning.plan import plan as make_plan
from graphfuse.planning.runtimes import Runtime
from graphfuse.records import (
    CertificateVerdict,
    Cost,
    FuseResult,
    Fusion,
    Plan,
    Scan,
    Site,
    ValidationReport,
)
from graphfuse.records.progress import Progress
from graphfuse.rewriting.putting_back import Attempt, PuttingBack
from graphfuse.rewriting.rewrite import rewrite
from graphfuse.running import empty_inputs
from graphfuse.running.feeding import Feeding
from graphfuse.scanning import Looked, look
from graphfuse.system import libraries
from graphfuse.types.shapes import type_of

LEVELS = ("fast", "full", "sites", "none")
"""Levels of validation (validation/judge.py), and none."""


AUTOTUNE = "autotune"
COSTS = ("table", AUTOTUNE, "none")
"""How it is known that a fused node wins."""


@dataclass
class Fusing:
    """One model and what the user wants of it; sites can be put back, so it may be asked again."""

    source: Model
    ep: str
    include: Sequence[str]
    exclude: Sequence[str]
    fold_bias: bool | None
    by: str
    shapes: Mapping[str, tuple[int, ...]]
    progress: Progress
    runtime: Runtime
    strict_mode: bool = False
    symbols: Mapping[str, int] = field(default_factory=dict[str, int])

    @cached_property
    def costs(self) -> Mapping[str, Cost] | None:
        """What is known of the sites' costs beside the table; None when all are to be fused."""
        if self.by != AUTOTUNE:
            return None if self.by == "none" else {}
        from graphfuse.bench.autotune import autotune
        from graphfuse.running.sessions import require_provider

        provider = targets.target(self.ep).provider
        require_provider(provider)
        return autotune(
            self.looked.model,
            self.looked.scan,
            self.ep,
            provider,
            self.shapes,
            self.progress,
            self.symbols,
        )

    @cached_property
    def looked(self) -> Looked:
        """The sites, looked for once; fused nodes are sites as well."""
        targets.target(self.ep)
        self.progress.stage("scanning")
        return look(self.source)

    @property
    def scan(self) -> Scan:
        """The sites as the user sees them."""
        return self.looked.shown

    def _plan(
        self,
        looked: Looked,
        put_back: Mapping[str, str],
        include: Sequence[str],
        exclude: Sequence[str] = (),
    ) -> Plan:
        return make_plan(
            looked.model,
            looked.scan,
            self.ep,
            include,
            exclude,
            self.fold_bias,
            put_back,
            self.costs,
            self.runtime,
            strict_mode=self.strict_mode,
        )

    def result(self, put_back: Mapping[str, str]) -> FuseResult:
        """The rewritten model; `put_back` are ids of sites to leave, and why.

        A fused node that is what the target wants stays as it is, and so does one that the plan
        would leave: what is not changed is not written out.
        """
        looked = self.looked
        planned = self._plan(looked, put_back, self.include, self.exclude)
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
            target=self.ep,
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
            complete=partial(materialized, self.source),
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
        # What was left, and why, was said of all of them.
        return again.model, replace(self._plan(again, {}, chosen), left=first.left)

    def validated(
        self, level: str, feeding: Feeding, strict: bool, certify: bool = False
    ) -> FuseResult:
        """The rewritten model without the sites that fail validation, and the report of the rest.

        `certify`: sites whose certificate does not hold fail as well. Raises ValidationError when
        `strict`, or when no site can be blamed.
        """
        return PuttingBack(self, partial(self._trial, level, feeding, certify), strict).run()

    def _trial(
        self, level: str, feeding: Feeding, certify: bool, put_back: Mapping[str, str]
    ) -> Attempt:
        """The model with some sites put back, judged; and which sites are to blame."""
        result = self.result(put_back)
        if not result.changed:
            return Attempt(result, None, {})
        fused = self.source.edited(result.proto)
        eps = self.ep.split(",")
        report = validate_models(
            self.source, fused, eps, feeding, level, (), self.progress, certify
        )
        if report.passed:
            return Attempt(replace(result, validation=report), report, {})
        unknown = {item.subject: item.why for item in report.not_shown}
        blamed = {
            fusion.site.id: unknown.get(fusion.output) or _why(report, fusion.output)
            for fusion in result.fused
            if fusion.output in report.wrong or fusion.output in unknown
        }
        return Attempt(result, report, blamed)

    def failed(self, report: ValidationReport) -> ValidationError:
        """The error for a report that did not pass, where no site can be put back for it."""
        outputs = {value.name for value in self.source.proto.graph.output}
        return ValidationError(failure(report), f"nothing was written; {_remedy(report, outputs)}")


def _is_there(looked: Looked, fusion: Fusion) -> bool:
    """Whether a site is a fused node already, and such as the target wants."""
    origin = looked.origin(fusion.site)
    if origin is None or origin.node.domain != fusion.domain or not origin.whole:
        return False
    inside = fusion.body is not None and has_contrib(fusion.body)
    return origin.contrib_inside == inside


def validate_models(
    original: Model,
    fused: Model,
    eps: Sequence[str],
    feeding: Feeding,
    level: str,
    sites: Sequence[str],
    progress: Progress,
    certify: bool = False,
) -> ValidationReport:
    """`validate`, of two models that were loaded; at level none there are certificates alone."""
    from graphfuse.validation.judge import LEVELS, judge

    allowed = (*LEVELS, "none") if certify else LEVELS
    if level not in allowed:
        raise UsageError(f"unknown level {level!r}", f"choose one of {', '.join(allowed)}")
    if certify:
        libraries.mpmath()
    if level == "none":
        check_signature(original.proto.graph, fused.proto.graph)
        alone = ValidationReport((), (), feeding.seed, level)
        return _certified(alone, original, fused, sites, progress)
    providers = {ep: targets.target(ep).provider for ep in targets.resolve(eps)}
    check_signature(original.proto.graph, fused.proto.graph)
    report = judge(original, fused, providers, feeding, level, sites, progress)
    said = advice.of_bodies(fused.proto, runtimes.runtime())
    names = (*strange_names(original.proto), *strange_names(fused.proto))
    said += advice.of_strange(dict.fromkeys(names))
    put_right = (*original.notes, *fused.notes, *empty_inputs.notes(original.proto, fused.proto))
    report = replace(report, notes=tuple(dict.fromkeys((*put_right, *report.notes, *said))))
    return _certified(report, original, fused, sites, progress) if certify else report


def _certified(
    report: ValidationReport,
    original: Model,
    fused: Model,
    sites: Sequence[str],
    progress: Progress,
) -> ValidationReport:
    """The report with a certificate for each distinct site; those that fail are to blame as well.

    Raises UsageError when none of the sites that were asked for is there.
    """
    from graphfuse.certificate.certify import certify

    found = certify(original, fused, report.seed, sites, progress)
    certified = {name for each in found for name in each.sites}
    missing = sorted(set(sites) - certified)
    if missing and report.level == "none":
        raise UsageError(
            f"no fused node computes {missing[0]!r}", "name an output that `--json` shows"
        )
    failed = [name for each in found if not each.passed for name in each.sites]
    notes = report.notes if found else (*report.notes, "no fused node is new: nothing to certify")
    wrong = tuple(dict.fromkeys((*report.wrong, *failed)))
    return replace(report, certificates=found, wrong=wrong, notes=notes)


def check_signature(original: onnx.GraphProto, fused: onnx.GraphProto) -> None:
    """Raise UsageError when two models have other inputs or outputs."""
    for kind in ("input", "output"):
        names = [[v.name for v in getattr(graph, kind)] for graph in (original, fused)]
        if names[0] != names[1]:
            raise UsageError(
                f"the models' {kind}s differ: {', '.join(names[0])} and {', '.join(names[1])}",
                "validate a model against the one that it was made from",
            )
        for one, other in zip(getattr(original, kind), getattr(fused, kind), strict=True):
            types = [type_of(value.type).elem_type for value in (one, other)]
            if all(types) and types[0] != types[1]:
                raise UsageError(
                    f"{kind} {one.name!r} is {types[0].text} in one model and "
                    f"{types[1].text} in the other",
                    "validate a model against the one that it was made from",
                )


def check_costs(costs: str) -> None:
    """Raise UsageError for an unknown way to know costs."""
    if costs not in COSTS:
        raise UsageError(f"unknown costs {costs!r}", f"choose one of {', '.join(COSTS)}")


def _why(report: ValidationReport, output: str) -> str:
    """How a fused node failed: its own check, or the first of the whole model's."""
    own = [check for check in report.failures if check.subject == output]
    certificate = next((c for c in report.uncertified if output in c.sites), None)
    if certificate is not None and not own:
        return f"certificate: {certificate.verdict}, {certificate.detail}"
    check = (own or list(report.failures))[0]
    return f"{check.gate} is {check.value:.3g}, bound {check.bound:.3g} ({check.where})"


def _remedy(report: ValidationReport, outputs: set[str]) -> str:
    """What helps. To be reported is a wrong meaning, a wrong kernel of ours, what does not run."""
    from graphfuse.validation.tolerance import OWN_KERNEL

    if report.verdict == "not shown" and all(
        each.subject in {f"output {name!r}" for name in outputs} for each in report.not_shown
    ):
        # Of the original itself no run is what it says, so no feed would show anything.
        return "`--validate sites` checks the fused nodes alone, whatever runs the rest"
    if report.verdict == "not shown":
        return (
            "give feeds that reach it with --load-inputs, leave it out with --exclude, or without "
            "--strict it is put back"
        )
    ours = [
        check.gate == "G0"
        or (check.gate == "G1" and check.bound == OWN_KERNEL)
        or (check.gate == "G2" and math.isinf(check.value))
        for check in report.failures
    ]
    if any(ours) or any(
        each.verdict == CertificateVerdict.DIFFERENT for each in report.uncertified
    ):
        return "please report it with the model's graph"
    if any(check.gate == "G1" for check in report.failures):
        return (
            f"onnxruntime {libraries.onnxruntime().__version__} runs the node worse than those "
            "that it replaces: leave it out with --exclude, or without --strict it is put back"
        )
    if not report.failures:
        return "leave it out with --exclude, or without --strict it is put back"
    return (
        "each fused node passed alone, so it is rounding that this model makes large: give real "
        "feeds with --load-inputs, others with --seed, or check the nodes with --validate sites"
    )


def failure(report: ValidationReport) -> str:
    """Why a validation did not pass, in one line."""
    if report.uncertified and not report.failures:
        certificate = report.uncertified[0]
        return f"the certificate of {certificate.site} fails: it is {certificate.verdict} " + (
            f"({certificate.detail})"
        )
    if report.verdict == "not shown":
        first = report.not_shown[0]
        more = len(report.not_shown) - 1
        rest = f" and {more} more" if more else ""
        return f"nothing shows that {first.subject}{rest} is right ({first.why})"
    first = report.failures[0]
    names = sorted({check.subject for check in report.failures})
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    at = f"; the first site that differs is {report.first_difference}"
    return (
        f"validation failed at {shown}: {first.gate} of {first.subject} is {first.value:.3g}, "
        f"bound {first.bound:.3g} ({first.where}){at if report.first_difference else ''}"
    )

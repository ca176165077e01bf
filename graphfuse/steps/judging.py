"""The judgement of two models, and in words what did not pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from graphfuse.errors import UsageError
from graphfuse.files.model_file import Model
from graphfuse.graph.bodies import strange_names
from graphfuse.planning import advice, runtimes
from graphfuse.planning.targets import Target
from graphfuse.records import CertificateVerdict, ValidationReport, arguments
from graphfuse.records.progress import Progress
from graphfuse.records.requests import Level
from graphfuse.running import empty_inputs
from graphfuse.running.feeding import Feeding
from graphfuse.system import libraries
from graphfuse.types.shapes import type_of


@dataclass(frozen=True)
class Asked:
    """What a validation is asked for: its level, the sites to judge alone, and certificates."""

    level: Level
    sites: Sequence[str] = ()
    certify: bool = False

    def __post_init__(self) -> None:
        """One text is one site."""
        arguments.flag("certify", self.certify)
        object.__setattr__(self, "sites", arguments.names("sites", self.sites))


def validate_models(
    original: Model,
    fused: Model,
    target: Target,
    asked: Asked,
    feeding: Feeding,
    progress: Progress,
) -> ValidationReport:
    """`validate`, of two models that were loaded; at level none there are certificates alone."""
    from graphfuse.validation.judge import judge

    level, sites = asked.level, asked.sites
    if asked.certify:
        libraries.mpmath()
    check_signature(original.proto.graph, fused.proto.graph)
    if level == Level.NONE:
        alone = ValidationReport((), (), feeding.seed, level)
        return _certified(alone, original, fused, sites, progress)
    report = judge(original, fused, target.providers, feeding, level, sites, progress)
    said = advice.of_bodies(fused.proto, runtimes.runtime())
    names = (*strange_names(original.proto), *strange_names(fused.proto))
    said += advice.of_strange(dict.fromkeys(names))
    put_right = (*original.notes, *fused.notes, *empty_inputs.notes(original.proto, fused.proto))
    report = replace(report, notes=tuple(dict.fromkeys((*put_right, *report.notes, *said))))
    return _certified(report, original, fused, sites, progress) if asked.certify else report


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
    if missing and report.level == Level.NONE:
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


def why(report: ValidationReport, output: str) -> str:
    """How a fused node failed: its own check, or the first of the whole model's."""
    own = [check for check in report.failures if check.subject == output]
    certificate = next((c for c in report.uncertified if output in c.sites), None)
    if certificate is not None and not own:
        return f"certificate: {certificate.verdict}, {certificate.detail}"
    check = (own or list(report.failures))[0]
    return f"{check.gate} is {check.value:.3g}, bound {check.bound:.3g} ({check.where})"


def remedy(report: ValidationReport, outputs: set[str]) -> str:
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

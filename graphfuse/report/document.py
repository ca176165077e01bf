"""The JSON document: one versioned shape that every other view is made from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from graphfuse.recognition.explain import explained
from graphfuse.records import (
    BiasAdd,
    Certificate,
    Check,
    Explanation,
    Expression,
    FuseResult,
    HashedFile,
    NearMiss,
    NodeRef,
    Parameter,
    Scan,
    Site,
    UnfuseResult,
    ValidationReport,
)
from graphfuse.records.drawings import Diagram, Picture
from graphfuse.records.residual_stream import Reading
from graphfuse.report.head import Document, head


def scan_document(
    model: str,
    scan: Scan,
    readings: Sequence[Reading] | None = None,
    notes: Sequence[str] = (),
) -> Document:
    """What `graphfuse scan` found; `readings` when it was asked for the activations."""
    more = {} if readings is None else {"activations": [_reading(each) for each in readings]}
    return {
        **head("scan"),
        "model": model,
        "nodes": scan.nodes,
        "already_fused": scan.already_fused,
        "sites": [_site(site) for site in scan.sites],
        "near_misses": [_near_miss(miss) for miss in scan.near_misses],
        "pictures": [_picture(each) for each in scan.pictures],
        "read": [file_document(file) for file in scan.read],
        "notes": list(notes),
        **more,
    }


def explain_document(model: str, found: Explanation) -> Document:
    """What `graphfuse explain` says of a site or near miss."""
    item = found.item
    return {
        **head("explain"),
        "model": model,
        "site": _site(item) if isinstance(item, Site) else None,
        "near_miss": _near_miss(item) if isinstance(item, NearMiss) else None,
        "kind": found.kind,
        "seen": found.seen,
        "definition": found.definition,
        "extra": list(found.extra),
        "missing": list(found.missing),
    }


def fuse_document(
    model: str, result: FuseResult, options: Sequence[str] = (), command: str = "fuse"
) -> Document:
    """What `graphfuse fuse` or `export` did; `options` are those that name the user's feeds."""
    written = result.written[0].path if result.written else ""
    return {
        **head(command),
        "model": model,
        "target": result.target,
        "changed": result.changed,
        "nodes_before": result.nodes_before,
        "nodes_after": result.nodes_after,
        "already_fused": result.scan.already_fused,
        "fused": [{**_site(f.site), "operator": f.operator} for f in result.fused],
        "kept": result.kept,
        "left": [_near_miss(miss) for miss in result.left],
        "costs": [asdict(cost) for cost in result.costs],
        "runtime": result.runtime,
        "made_for": result.made_for or None,
        "validation": None
        if result.validation is None
        else _validation(result.validation, model if command == "fuse" else "", written, options),
        "pictures": [_picture(each) for each in result.pictures],
        "read": [file_document(file) for file in result.read],
        "written": [file_document(file) for file in result.written],
        "notes": list(result.notes),
    }


def unfuse_document(model: str, result: UnfuseResult, options: Sequence[str] = ()) -> Document:
    """What `graphfuse unfuse` did; `options` are those that name the user's feeds."""
    written = result.written[0].path if result.written else ""
    report = result.validation
    return {
        **head("unfuse"),
        "model": model,
        "changed": result.changed,
        "nodes_before": result.nodes_before,
        "nodes_after": result.nodes_after,
        "unfused": [asdict(each) for each in result.unfused],
        "left": [_near_miss(miss) for miss in result.left],
        "validation": None if report is None else _validation(report, model, written, options),
        "pictures": [_picture(each) for each in result.pictures],
        "read": [file_document(file) for file in result.read],
        "written": [file_document(file) for file in result.written],
        "notes": list(result.notes),
    }


def file_document(file: HashedFile) -> Document:
    """The hash is null for a file that was not read as a whole."""
    return {"path": file.path, "size": file.size, "sha256": file.sha256 or None}


def validation_document(
    original: str, fused: str, report: ValidationReport, options: Sequence[str] = ()
) -> Document:
    """What `graphfuse validate` measured; `options` are those that name the user's feeds."""
    return {
        **head("validate"),
        "original": original,
        "fused": fused,
        **_validation(report, original, fused, options),
        "sites": [_site(site) for site in report.sites],
        "pictures": [_picture(each) for each in report.pictures],
        "read": [file_document(file) for file in report.read],
    }


def _node(node: NodeRef) -> Document:
    return {
        "index": node.index,
        "op_type": node.op_type,
        "name": node.name,
        "scope": node.scope.text,
    }


def _site(site: Site) -> Document:
    return {
        "id": site.id,
        "kind": site.kind,
        "add": _node(site.add),
        "a": site.a,
        "b": site.b,
        "sum": site.sum,
        "sum_is_read": site.sum_is_read,
        "sum_readers": [_node(node) for node in site.sum_readers],
        "addends": list(site.addends),
        "bias_add": None if site.bias_add is None else _bias_add(site.bias_add),
        "layout": site.layout,
        "layer": site.layer,
        "output": site.output,
        "scale": _parameter(site.scale),
        "bias": _parameter(site.bias),
        "epsilon": site.epsilon,
        "axis": site.axis,
        "elem_type": site.elem_type.text,
        "parameter_type": site.parameter_type.text,
        "shape": list(site.shape),
        "b_shape": None if site.b_shape is None else list(site.b_shape),
        "notation": site.notation,
        "clamps": list(site.clamps),
        "fused_by": site.fused_by or None,
        "form": str(site.form),
    }


def _bias_add(found: BiasAdd) -> Document:
    return {
        "add": _node(found.add),
        "vector": found.vector,
        "operand": found.operand,
        "result": found.result,
        "from_matmul": found.from_matmul,
    }


def _parameter(parameter: Parameter) -> str | list[Any] | None:
    """A tensor's name, null, or an expression as [[number, [[tensor, exponent], ...]], ...]."""
    if not isinstance(parameter, Expression):
        return parameter
    return [
        [number, [[factor.tensor, factor.exponent] for factor in factors]]
        for number, factors in parameter.terms
    ]


def _near_miss(miss: NearMiss) -> Document:
    return {
        "id": miss.id or None,
        "reason": miss.reason.value,
        "sentence": miss.reason.sentence,
        "remedy": miss.reason.remedy,
        "site": miss.site or None,
        "add": _node(miss.add),
        "culprit": _node(miss.culprit),
        "got": miss.got,
        "form": str(miss.form),
        "difference": _difference(miss),
    }


def _difference(miss: NearMiss) -> Document | None:
    """The first term of what was seen that the definition has not, and the other way round."""
    found = explained(miss)
    if not found.extra and not found.missing:
        return None
    return {
        "kind": found.kind,
        "seen": found.seen,
        "definition": found.definition,
        "extra": found.extra[0] if found.extra else None,
        "missing": found.missing[0] if found.missing else None,
    }


def _picture(picture: Picture) -> Document:
    return {
        "sites": list(picture.sites),
        "near_misses": list(picture.near_misses),
        "notation": picture.notation,
        "before": _drawing(picture.before),
        "after": None if picture.after is None else _drawing(picture.after),
    }


def _drawing(drawing: Diagram) -> Document:
    return {
        "boxes": [{**asdict(box), "constants": list(box.constants)} for box in drawing.boxes],
        "wires": [asdict(wire) for wire in drawing.wires],
    }


def _validation(
    report: ValidationReport, original: str, fused: str, options: Sequence[str]
) -> Document:
    command = shlex.join(["graphfuse", "validate", original, fused or "FUSED", *options])
    if not original:
        # What was exported is no file: there is nothing to validate against once more.
        command = ""
    return {
        "passed": report.passed,
        "verdict": report.verdict,
        "not_shown": [asdict(item) for item in report.not_shown],
        "changes": [asdict(change) for change in report.changes],
        "level": report.level,
        "providers": list(report.providers),
        "seed": report.seed,
        "first_difference": report.first_difference,
        "wrong": list(report.wrong),
        "checks": [_check(check, command) for check in report.checks],
        "activations": [_reading(found) for found in report.activations],
        "evaluated": {means: list(names) for means, names in report.evaluated.items()},
        "unpaired": [{"site": item.site, "why": item.why} for item in report.unpaired],
        "certificates": [_certificate(each, command) for each in report.certificates],
        "notes": list(report.notes),
    }


def _certificate(certificate: Certificate, command: str) -> Document:
    """`difference` is null where nothing was evaluated, or one side is not finite."""
    found = certificate.difference
    return {
        **asdict(certificate),
        "sites": list(certificate.sites),
        "difference": None if found is None else _finite(found),
        "passed": certificate.passed,
        "repeat": f"{command} {certificate.repeat}",
    }


def _check(check: Check, command: str) -> Document:
    return {
        "gate": check.gate,
        "subject": check.subject,
        # JSON has no infinity.
        "value": check.value if math.isfinite(check.value) else None,
        "bound": check.bound,
        "where": check.where,
        "passed": check.passed,
        "repeat": f"{command} {check.repeat}".strip() if command else "",
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _reading(found: Reading) -> Document:
    return {
        "sum": found.sum,
        "site": found.site or None,
        "kind": found.kind or None,
        "layer": found.layer,
        "mean": _finite(found.mean),
        "std": _finite(found.std),
        "largest": _finite(found.largest),
        "float16_share": _finite(found.float16_share),
        "squares_in_type": found.squares_in_type,
        "squares_overflow": found.squares_overflow,
        "verdict": found.verdict,
    }

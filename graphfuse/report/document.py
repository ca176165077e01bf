"""The JSON document: one versioned shape that every other view is made from."""

from __future__ import annotations

import math
from typing import Any

from graphfuse import __version__
from graphfuse.graph.tensors import type_name
from graphfuse.records import (
    Check,
    Explanation,
    Expression,
    FuseResult,
    NearMiss,
    NodeRef,
    Parameter,
    Scan,
    Site,
    ValidationReport,
)

SCHEMA = 1

Document = dict[str, Any]


def scan_document(model: str, scan: Scan) -> Document:
    """What `graphfuse scan` found."""
    return {
        **_head("scan"),
        "model": model,
        "nodes": scan.nodes,
        "already_fused": scan.already_fused,
        "sites": [_site(site) for site in scan.sites],
        "near_misses": [_near_miss(miss) for miss in scan.near_misses],
    }


def explain_document(model: str, found: Explanation) -> Document:
    """What `graphfuse explain` says of a site or near miss."""
    item = found.item
    return {
        **_head("explain"),
        "model": model,
        "site": _site(item) if isinstance(item, Site) else None,
        "near_miss": _near_miss(item) if isinstance(item, NearMiss) else None,
        "kind": found.kind,
        "seen": found.seen,
        "definition": found.definition,
        "extra": list(found.extra),
        "missing": list(found.missing),
    }


def fuse_document(model: str, result: FuseResult) -> Document:
    """What `graphfuse fuse` did."""
    return {
        **_head("fuse"),
        "model": model,
        "target": result.target,
        "nodes_before": result.nodes_before,
        "nodes_after": result.nodes_after,
        "already_fused": result.scan.already_fused,
        "fused": [{**_site(f.site), "operator": f"{f.domain}::{f.op_type}"} for f in result.fused],
        "left": [_near_miss(miss) for miss in result.left],
        "validation": _validation(result.validation) if result.validation else None,
        "written": [
            {"path": file.path, "bytes": file.size, "sha256": file.sha256}
            for file in result.written
        ],
    }


def validation_document(original: str, fused: str, report: ValidationReport) -> Document:
    """What `graphfuse validate` measured."""
    return {**_head("validate"), "original": original, "fused": fused, **_validation(report)}


def _head(command: str) -> Document:
    return {"schema": SCHEMA, "graphfuse": __version__, "command": command}


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
        "sum": site.total,
        "sum_is_read": site.total_is_read,
        "sum_readers": [_node(node) for node in site.sum_readers],
        "addends": list(site.addends),
        "bias_add": site.bias_add.vector if site.bias_add else None,
        "layout": site.layout,
        "layer": site.layer,
        "output": site.output,
        "scale": _parameter(site.scale),
        "bias": _parameter(site.bias),
        "epsilon": site.epsilon,
        "axis": site.axis,
        "type": type_name(site.elem_type),
        "parameter_type": type_name(site.parameter_type),
        "shape": list(site.shape),
        "b_shape": None if site.b_shape is None else list(site.b_shape),
        "spelling": site.spelling,
        "form": str(site.form),
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
        "expected": miss.expected,
        "got": miss.got,
        "form": str(miss.form),
    }


def _validation(report: ValidationReport) -> Document:
    return {
        "passed": report.passed,
        "providers": list(report.providers),
        "seed": report.seed,
        "first_difference": report.first_difference,
        "checks": [_check(check) for check in report.checks],
    }


def _check(check: Check) -> Document:
    return {
        "gate": check.gate,
        "subject": check.subject,
        # JSON has no infinity.
        "value": check.value if math.isfinite(check.value) else None,
        "bound": check.bound,
        "where": check.where,
        "passed": check.passed,
    }

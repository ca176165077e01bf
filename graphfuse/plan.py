"""Deciding which sites are rewritten for a target, and by which node."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from graphfuse import ops, targets
from graphfuse.errors import UsageError
from graphfuse.graph.model_file import Model
from graphfuse.graph.tensors import default_opset, type_name
from graphfuse.patterns.algebra import Refusal
from graphfuse.reasons import Reason
from graphfuse.records import Fusion, NearMiss, Plan, Scan, Site
from graphfuse.targets import Target


def plan(
    model: Model,
    scan: Scan,
    ep: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Plan:
    """Choose the sites to fuse for an execution provider.

    `include` and `exclude` hold site ids or patterns of output names ('s3', '*/layer.2/*').
    """
    target = targets.target(ep)
    _check_selection(scan, (*include, *exclude))
    opset = default_opset(model.proto)
    fusions: list[Fusion] = []
    left: list[NearMiss] = []
    for site in scan.sites:
        refusal = _refusal(model, site, target, opset, fusions, include, exclude)
        if refusal is None:
            operator = target.operator[site.kind]
            fusions.append(Fusion(site, target.domain, operator, site.a, site.b))
        else:
            left.append(NearMiss(refusal.reason, site.add, site.add, got=refusal.got, site=site.id))
    return Plan(ep, tuple(fusions), tuple(left))


def _check_selection(scan: Scan, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_selects(pattern, site) for site in scan.sites):
            raise UsageError(
                f"no site is named {pattern!r}", "`graphfuse scan` lists the sites of a model"
            )


def _selects(pattern: str, site: Site) -> bool:
    return pattern == site.id or fnmatchcase(site.output, pattern)


def _refusal(
    model: Model,
    site: Site,
    target: Target,
    opset: int,
    fusions: Sequence[Fusion],
    include: Sequence[str],
    exclude: Sequence[str],
) -> Refusal | None:
    chosen = not include or any(_selects(pattern, site) for pattern in include)
    if not chosen or any(_selects(pattern, site) for pattern in exclude):
        return Refusal(Reason.EXCLUDED)
    refused = targets.refusal(target, site, opset)
    if refused is not None or target.domain != ops.DOMAIN:
        return refused
    return _function_clash(model, site, opset, fusions)


def _function_clash(
    model: Model, site: Site, opset: int, fusions: Sequence[Fusion]
) -> Refusal | None:
    """One function serves all sites of a kind: it must be ours and serve this site's type."""
    wanted = ops.function(site.kind, opset, site.elem_type)
    there = ops.find_function(model.proto, site.kind)
    if there is not None and there != wanted:
        return Refusal(Reason.NAME_TAKEN, there.name)
    for fusion in fusions:
        other = fusion.site
        another = other.kind == site.kind and other.elem_type != site.elem_type
        if another and ops.function(other.kind, opset, other.elem_type) != wanted:
            return Refusal(Reason.MIXED_TYPES, type_name(other.elem_type))
    return None

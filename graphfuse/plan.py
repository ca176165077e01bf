"""Deciding which sites are rewritten for a target, and by which node."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx
from onnx import helper

from graphfuse import ops, targets
from graphfuse.errors import UsageError
from graphfuse.graph.model_file import Model
from graphfuse.graph.tensors import all_names, default_opset, type_name
from graphfuse.parameters import MARK, Operands
from graphfuse.patterns.algebra import Refusal
from graphfuse.reasons import Reason
from graphfuse.records import LAYER_NORM, Fusion, NearMiss, Plan, Scan, Site
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
    bodies = _Bodies(model.proto, opset)
    operands = Operands(all_names(model.proto.graph))
    for site in scan.sites:
        refusal = _refusal(site, target, opset, include, exclude)
        if refusal is None and target.domain == ops.DOMAIN:
            refusal = bodies.refusal(site)
        if refusal is None:
            fusions.append(_fusion(model.proto.graph, site, target, operands))
        else:
            left.append(NearMiss(refusal.reason, site.add, site.add, got=refusal.got, site=site.id))
    return Plan(ep, tuple(fusions), tuple(left), operands.vectors)


def _fusion(graph: onnx.GraphProto, site: Site, target: Target, operands: Operands) -> Fusion:
    prelude: list[onnx.NodeProto] = []
    inputs = [site.a, site.b, operands.name(site, "scale", site.scale, prelude)]
    if site.kind == LAYER_NORM:
        inputs.append(operands.name(site, "bias", site.bias, prelude))
    output, epilogue = site.output, ()
    if site.reshape is not None:
        # What reshapes the sum reshapes its norm: the last axis stays.
        output = operands.fresh(f"{site.output}/{MARK}y")
        reshape = onnx.NodeProto()
        reshape.CopyFrom(graph.node[site.reshape])
        reshape.input[0], reshape.output[0], reshape.name = output, site.output, f"{output}/reshape"
        epilogue = (reshape,)
    operator = target.operator[site.kind]
    return Fusion(site, target.domain, operator, tuple(inputs), output, tuple(prelude), epilogue)


def _check_selection(scan: Scan, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_selects(pattern, site) for site in scan.sites):
            raise UsageError(
                f"no site is named {pattern!r}", "`graphfuse scan` lists the sites of a model"
            )


def _selects(pattern: str, site: Site) -> bool:
    return pattern == site.id or fnmatchcase(site.output, pattern)


def _refusal(
    site: Site, target: Target, opset: int, include: Sequence[str], exclude: Sequence[str]
) -> Refusal | None:
    chosen = not include or any(_selects(pattern, site) for pattern in include)
    if not chosen or any(_selects(pattern, site) for pattern in exclude):
        return Refusal(Reason.EXCLUDED)
    return targets.refusal(target, site, opset)


class _Bodies:
    """One function serves all sites of a kind: the first site taken decides on its body."""

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        self._opset = opset
        self._there = {kind: ops.find_function(model, kind) for kind in ops.OPERATOR}
        self._chosen: dict[str, int] = {}
        self._wanted: dict[tuple[str, int], onnx.FunctionProto] = {}

    def refusal(self, site: Site) -> Refusal | None:
        """Why the function that is there, or was chosen before, cannot serve a site."""
        wanted = self._body(site.kind, site.elem_type)
        there = self._there[site.kind]
        if there is not None and there != wanted:
            return Refusal(Reason.NAME_TAKEN, there.name)
        chosen = self._chosen.setdefault(site.kind, site.elem_type)
        if chosen != site.elem_type and self._body(site.kind, chosen) != wanted:
            return Refusal(Reason.MIXED_TYPES, type_name(chosen))
        return None

    def _body(self, kind: str, elem_type: int) -> onnx.FunctionProto:
        key = (kind, elem_type)
        if key not in self._wanted:
            self._wanted[key] = ops.function(kind, self._opset, elem_type)
        return self._wanted[key]


def added_functions(model: onnx.ModelProto, plan: Plan) -> list[onnx.FunctionProto]:
    """The functions that a plan's operators need and the model lacks, one per kind."""
    first = {f.site.kind: f.site for f in reversed(plan.fusions) if f.domain == ops.DOMAIN}
    opset = default_opset(model)
    return [
        ops.function(kind, opset, first[kind].elem_type)
        for kind in ops.OPERATOR
        if kind in first and ops.find_function(model, kind) is None
    ]


def added_imports(model: onnx.ModelProto, plan: Plan) -> list[onnx.OperatorSetIdProto]:
    """The opset import that a plan's operators need, if the model lacks it."""
    domain = plan.fusions[0].domain
    there = any(entry.domain == domain for entry in model.opset_import)
    return [] if there else [helper.make_opsetid(domain, ops.VERSION)]

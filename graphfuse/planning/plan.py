"""Deciding which sites are rewritten for a target, and by which node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType

import onnx

from graphfuse import ops
from graphfuse.errors import UsageError
from graphfuse.files.model_file import Model
from graphfuse.graph import scopes
from graphfuse.graph.bodies import alike, strange_names
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.tensors import DEFAULT_DOMAINS, AnyGraph, default_opset, model_names
from graphfuse.planning import runtimes, targets
from graphfuse.planning.costs import predict
from graphfuse.planning.faults import STRICT_MODE
from graphfuse.planning.gains import with_gains
from graphfuse.planning.operands import MARK, Constants, Operands
from graphfuse.planning.runtimes import Choice, Runtime
from graphfuse.planning.targets import Target
from graphfuse.records import (
    Cost,
    Expression,
    Factor,
    Fusion,
    NearMiss,
    NormKind,
    Parameter,
    Plan,
    Scan,
    ScopeRef,
    Site,
    TensorType,
)
from graphfuse.records.element_types import ElementType
from graphfuse.records.reasons import Reason, Refusal
from graphfuse.records.requests import EVERY_SITE, Costs, Selection
from graphfuse.types.shapes import symbol_of

RUNTIME_NORMS = having(Trait.RUNTIME_NORM)
EXPRESSION_OPSET = 9
"""Below it there are no constants of integers, or no Expand, to compute a scale with."""


def plan(
    model: Model,
    scan: Scan,
    target: Target,
    selection: Selection = EVERY_SITE,
    *,
    put_back: Mapping[str, str] = MappingProxyType({}),
    measured: Mapping[str, Cost] = MappingProxyType({}),
    runtime: Runtime | None = None,
    strict_mode: bool = False,
) -> Plan:
    """Choose the sites to fuse for a target.

    `put_back` are the sites that failed validation, by id, and how. `measured` are costs that were
    measured on this machine, by site; the others are looked up in the table that the package ships,
    and a site that would not win is left, but where `selection` asks for no costs. `runtime` is the
    onnxruntime that will run the model, the installed one if not given: a site whose kernel is
    wrong there is left. `strict_mode` says that every session of the model has the options of
    `sessions.provider_options`.
    """
    runtime = runtime or runtimes.runtime()
    _check_selection(scan, (*selection.include, *selection.exclude))
    opset = default_opset(model.proto)
    fusions: list[Fusion] = []
    left: list[NearMiss] = []
    known: list[Cost] = []
    bodies = _Bodies(model.proto, scan.sites, target.inside == ops.CONTRIB_DOMAIN, runtime)
    types = _Types(model.proto)
    operands = Operands(model_names(model.proto), Constants(model).value)
    interiors = {(site.scope, index) for site in scan.sites for index in site.interior}
    own = target.domain == ops.DOMAIN
    for site in _of_one_type(scan.sites) if own else scan.sites:
        cost = None
        if selection.costs != Costs.NONE:
            cost = measured.get(site.id) or predict(target, site, runtime)
        fold_bias = selection.fold_bias
        folds = bool(cost and cost.folds) if fold_bias is None else fold_bias
        biased = site.bias_add is not None and folds and targets.takes_bias(target, site.kind)
        if site.bias_add is not None and (site.scope, site.bias_add.add.index) in interiors:
            # It is the bias of a norm that is fused itself.
            biased = False
        operator = targets.operator(target, site.kind, biased)
        refusal = _selection_refusal(site, opset, selection)
        refusal = refusal or targets.refusal(target, site, opset, runtime.name, strict_mode)
        if refusal is None and cost is not None and not cost.wins:
            refusal = Refusal(Reason.SLOWER, f"{cost.speedup:.2f} times as fast {_beside(cost)}")
        if site.id in put_back:
            refusal = Refusal(Reason.PUT_BACK, put_back[site.id])
        if refusal is None and target.domain == ops.DOMAIN:
            refusal = bodies.refusal(site, operator)
        if refusal is None:
            body = bodies.chosen(operator) if target.domain == ops.DOMAIN else None
            graph = scopes.find(model.proto, site.scope)
            fusion = _fusion(graph, site, target.domain, operator, operands, biased)
            fusions.append(replace(fusion, body=body, types=types.missing(fusion)))
            known += [cost] if cost is not None else []
        else:
            left.append(NearMiss(refusal.reason, site.add, site.add, got=refusal.got, site=site.id))
    planned = Plan(
        target.name,
        tuple(fusions),
        tuple(left),
        operands.vectors,
        tuple(known),
        runtime.name,
        _made_for(target, runtime, bodies.choices, fusions, strict_mode),
    )
    return with_gains(model.proto, planned)


def _beside(cost: Cost) -> str:
    """What a cost is beside, and how it is known."""
    table = f", table of onnxruntime {cost.runtime}" if cost.source == "table" else ""
    return f"as its own nodes at their best ({cost.where}{table})"


def _made_for(
    target: Target,
    runtime: Runtime,
    choices: Iterable[Choice],
    fusions: Sequence[Fusion],
    strict_mode: bool,
) -> str:
    """The versions that a file suits: by its functions' bodies, and by the kernels it names."""
    said = [runtimes.made_for(runtime.name, choices)] if target.domain == ops.DOMAIN else []
    since = targets.right_since(target, [fusion.site for fusion in fusions])
    if since is not None:
        where = f" where {target.name} runs onnxruntime's kernels" if said else ""
        mode = f", before in sessions with {STRICT_MODE}" if strict_mode else ""
        said.append(f"onnxruntime {since[0]}.{since[1]} and later{where}{mode}")
    return "; ".join(said)


def _of_one_type(sites: tuple[Site, ...]) -> list[Site]:
    """Sites of one kind read scale and bias in one type: in float32, when one of them needs that.

    One function serves them all, and widening loses nothing.
    """
    wide = {(s.kind, s.elem_type) for s in sites if s.parameter_type != s.elem_type}
    return [
        replace(
            site,
            parameter_type=ElementType.FLOAT,
            scale=_widened(site, site.scale),
            bias=_widened(site, site.bias),
        )
        if (site.kind, site.elem_type) in wide and site.parameter_type == site.elem_type
        else site
        for site in sites
    ]


def _widened(site: Site, parameter: Parameter) -> Parameter:
    """A weight as an expression: it is cast on the way."""
    if not isinstance(parameter, str):
        return parameter
    extents = site.extents if len(site.extents) > 1 else (-1,)
    return Expression(((1.0, (Factor(parameter, 1.0, extents),)),))


def _fusion(
    graph: AnyGraph, site: Site, domain: str, operator: str, operands: Operands, biased: bool
) -> Fusion:
    prelude: list[onnx.NodeProto] = []
    inputs = [*_summands(site, biased), operands.name(site, "scale", site.scale, prelude)]
    if site.kind == NormKind.LAYER_NORM:
        inputs.append(operands.name(site, "bias", site.bias, prelude))
    if biased and site.bias_add is not None:
        inputs.append(site.bias_add.vector)
    output, epilogue = site.output, list[onnx.NodeProto]()
    for number, index in enumerate(reversed(site.path)):
        # What moves the rows of the sum moves those of its norm: each stays whole.
        step = onnx.NodeProto()
        step.CopyFrom(graph.node[index])
        step.output[0] = output
        output = operands.fresh(f"{site.output}/{MARK}y{number or ''}")
        step.input[0], step.name = output, f"{output}/{step.op_type.lower()}"
        del step.output[1:]
        epilogue.insert(0, step)
    contrib = domain == ops.CONTRIB_DOMAIN
    attributes: dict[str, int | float] = {"epsilon": site.epsilon}
    if not contrib:
        attributes |= {"axis": site.axis, "stash_type": ops.stash_type(site.elem_type)}
    return Fusion(
        site,
        domain,
        operator,
        tuple(inputs),
        output,
        tuple(prelude),
        tuple(epilogue),
        attributes=tuple(sorted(attributes.items())),
        # onnxruntime's own have the mean and the inverse deviation before the sum.
        sum_at=3 if contrib else 1,
    )


def _summands(site: Site, biased: bool) -> tuple[str, str]:
    if not biased or site.bias_add is None:
        return site.a, site.b
    # Both have the shape of the sum where `a` is the biased one: it can be second.
    if site.bias_add.result == site.a and site.b_shape == site.shape:
        return site.b, site.bias_add.operand
    first, second = (
        site.bias_add.operand if name == site.bias_add.result else name for name in (site.a, site.b)
    )
    return first, second


def _check_selection(scan: Scan, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(_selects(pattern, site) for site in scan.sites):
            raise UsageError(
                f"no site is named {pattern!r}",
                "`graphfuse scan` lists the sites; an option names one, and may be repeated",
            )


def _selects(pattern: str, site: Site) -> bool:
    return pattern == site.id or fnmatchcase(site.output, pattern)


def _selection_refusal(site: Site, opset: int, selection: Selection) -> Refusal | None:
    include = selection.include
    chosen = not include or any(_selects(pattern, site) for pattern in include)
    if not chosen or any(_selects(pattern, site) for pattern in selection.exclude):
        return Refusal(Reason.EXCLUDED)
    computed = any(isinstance(p, Expression) for p in (site.scale, site.bias))
    if computed and opset < EXPRESSION_OPSET:
        return Refusal(Reason.OPSET, f"opset {opset}, and a scale or bias that is computed")
    return None


class _Bodies:
    """One function serves all sites of an operator: the first site taken decides on its body.

    `choices` are what the bodies' form hung on, beside the runtime.
    """

    def __init__(
        self, model: onnx.ModelProto, sites: Sequence[Site], contrib: bool, runtime: Runtime
    ) -> None:
        self._opset, self._contrib, self._runtime = default_opset(model), contrib, runtime
        folded = [site for site in sites if _is_folded(scopes.find(model, site.scope), site)]
        self._folded = {site.kind for site in folded}
        self.choices: set[Choice] = set()
        self._strange = strange_names(model)
        self._there = {name: ops.find_function(model, name) for name in ops.OPERATORS}
        self._chosen: dict[str, onnx.FunctionProto] = {}
        self._variants: dict[tuple[str, ops.Variant], onnx.FunctionProto] = {}

    def refusal(self, site: Site, operator: str) -> Refusal | None:
        """Why the function that is there, or was chosen before, cannot serve a site."""
        written_out = site.kind == NormKind.LAYER_NORM and site.kind not in self._folded
        if self._strange:
            # Registered for our node, the kernels would run in place of that function as well.
            return Refusal(Reason.NAME_TAKEN, self._strange[0])
        choice = Choice(site.kind, site.elem_type, self._opset, written_out, site.axis != -1)
        wanted = self._body(site, operator, self._runtime.form(choice))
        there = self._there[operator]
        if there is not None and there != wanted:
            # A body for another onnxruntime means the same: the nodes that are there have it.
            wanted = there
            if not any(alike(there, self._body(site, operator, form)) for form in ops.BodyForm):
                return Refusal(Reason.MIXED_TYPES, f"the model's own {there.name}")
        elif not self._contrib:
            self.choices.add(choice)
        if self._chosen.setdefault(operator, wanted) != wanted:
            kind = f"{site.elem_type.text}, axis {site.axis}, rank {len(site.shape)}"
            return Refusal(Reason.MIXED_TYPES, kind)
        return None

    def chosen(self, operator: str) -> onnx.FunctionProto:
        """The function of an operator that `refusal` let pass."""
        return self._chosen[operator]

    def _body(self, site: Site, operator: str, form: ops.BodyForm) -> onnx.FunctionProto:
        variant = ops.Variant(
            site.elem_type, site.parameter_type, site.axis, len(site.shape), form=form
        )
        if self._contrib:
            # onnxruntime's operator is one for all types that it takes.
            variant = ops.Variant(contrib=True)
        key = (operator, variant)
        if key not in self._variants:
            biased = operator == ops.BIAS_OPERATOR[site.kind]
            self._variants[key] = ops.function(site.kind, self._opset, variant, biased)
        return self._variants[key]


def _is_folded(graph: AnyGraph, site: Site) -> bool:
    """Whether a default session computes a site's norm by an operator for it."""
    nodes = [graph.node[index] for index in site.interior]
    # What a function holds is not looked at: PyTorch's have LayerNormalization.
    return any(
        node.op_type in RUNTIME_NORMS or node.domain not in DEFAULT_DOMAINS for node in nodes
    )


class _Types:
    """What the file is to say of the outputs of fused nodes, where it says nothing yet.

    Extents are numbers, or symbols that the model's own inputs have: those that shape inference
    makes up are names of nothing.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._symbols = {
            symbol
            for value in model.graph.input
            for dim in value.type.tensor_type.shape.dim
            if (symbol := symbol_of(dim))
        }
        self._known: dict[ScopeRef, set[str]] = {}

    def missing(self, fusion: Fusion) -> tuple[tuple[str, TensorType], ...]:
        """The outputs of a fused node that its graph says nothing of, with their types."""
        site = fusion.site
        graph = scopes.find(self._model, site.scope)
        within = site.scope.function is not None
        if within or fusion.domain != ops.DOMAIN or not isinstance(graph, onnx.GraphProto):
            # Functions serve many types; onnxruntime infers the outputs of its own operators.
            return ()
        if site.scope not in self._known:
            known = (*graph.value_info, *graph.output)
            self._known[site.scope] = {value.name for value in known}
        known = self._known[site.scope]
        shape = tuple(
            dim if isinstance(dim, int) or dim in self._symbols else None for dim in site.shape
        )
        outputs = (fusion.output, site.sum) if site.sum_is_read else (fusion.output,)
        names = [name for name in outputs if name not in known]
        known.update(names)
        return tuple((name, TensorType(site.elem_type, shape)) for name in names)

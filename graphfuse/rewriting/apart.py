"""Fused nodes taken apart: a sum and a norm in ONNX's own operators, at the model's opset.

What graphfuse or onnxruntime has fused is a sum and a norm like any other once it is written out:
scanned, planned and rewritten as such. What was written out and is fused again is the same node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, helper

from graphfuse import ops
from graphfuse.files.model_file import Model
from graphfuse.graph.bodies import form_of, has_contrib, strange
from graphfuse.graph.scopes import Scope, bind, find, function_key
from graphfuse.graph.tensors import (
    DEFAULT_DOMAINS,
    AnyGraph,
    all_nodes,
    default_opset,
    fresh_name,
    model_names,
    read_names,
    replace_nodes,
    value_names,
)
from graphfuse.recognition.translate import DEFAULT_EPSILON
from graphfuse.records import NearMiss, NodeRef, NormKind, ScopeRef, TensorType
from graphfuse.records.element_types import FLOAT_TYPES, ElementType
from graphfuse.records.reasons import Reason
from graphfuse.types.shapes import UNKNOWN
from graphfuse.views.analyses import scopes_of, types_of

CONTRIB_EPSILON = 9.999999960041972e-13
"""1e-12 in float32: what onnxruntime's operators add where a node says nothing."""

SUM_AT = {ops.DOMAIN: 1, ops.CONTRIB_DOMAIN: 3}
"""Which output is the sum."""

WORDS = {"A": "input", "B": "skip", "Scale": "scale"}
"""What onnxruntime calls the inputs that a fused node must have."""

Holder = onnx.ModelProto | onnx.FunctionProto
"""What imports operator sets."""

FusedPlace = tuple[int | None, str]
"""A fused node by the function that it is in, if any, and its first output."""
Keep = Callable[[FusedPlace], bool]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a site was before it was taken apart: the node, and the function that it calls.

    `whole` is false for a node of ours whose function the model has lost, as some tools make it:
    only our kernels run such a node.
    """

    node: NodeProto
    contrib_inside: bool = False
    whole: bool = True

    @property
    def operator(self) -> str:
        """The operator with its domain."""
        return f"{self.node.domain}::{self.node.op_type}"


@dataclass
class Apart:
    """A model with its fused nodes taken apart.

    `origins` are those that were, `left` those that could not be, with the reason. `owners` give,
    for each graph that changed, which node of the model each node of the result stands for.
    """

    model: Model
    origins: dict[FusedPlace, Origin] = field(default_factory=dict[FusedPlace, Origin])
    left: list[NearMiss] = field(default_factory=list[NearMiss])
    owners: dict[ScopeRef, list[int]] = field(default_factory=dict[ScopeRef, list[int]])
    made: dict[str, str] = field(default_factory=dict[str, str])
    """Tensors that the model does not have, and what they are in words."""
    fused: int = 0
    """How many fused nodes the model has, in all its graphs."""


def keep_none(_: FusedPlace) -> bool:
    """Every fused node is taken apart."""
    return False


def take_apart(model: Model, keep: Keep = keep_none) -> Apart:
    """Write out the fused nodes of a model that `keep` does not name.

    A model without such is given back as it is; any other is copied. Functions that nothing calls
    any more, and operator sets that nothing is of any more, go with the nodes.
    """
    graphs = (model.proto.graph, *model.proto.functions)
    nodes = (node for graph in graphs for node in all_nodes(graph.node))
    if not any(ops.is_fused_node(node.domain, node.op_type) for node in nodes):
        return Apart(model)
    names = {function.name for function in strange(model.proto)}
    found = scopes_of(model)
    holders = {
        scope.ref: indices
        for scope in found
        if (indices := [n for n, node in enumerate(scope.graph.node) if _is_fused(node, names)])
    }
    result = Apart(model, fused=sum(map(len, holders.values())))
    if not holders:
        return result
    worker = _Worker(model, found, names, keep, result)
    result.model = worker.run(holders)
    return result


def _is_fused(node: NodeProto, strange_names: set[str]) -> bool:
    """Whether a node is a fused one, and means what its operator means."""
    if not ops.is_fused_node(node.domain, node.op_type) or node.overload:
        return False
    if not node.output or not node.output[0]:
        # Not a norm that anybody could read.
        return False
    return node.domain != ops.DOMAIN or node.op_type not in strange_names


class _Worker:
    """Takes the fused nodes of each graph apart, inner graphs first."""

    def __init__(
        self, model: Model, found: list[Scope], names: set[str], keep: Keep, result: Apart
    ) -> None:
        self._before, self._strange, self._keep, self._result = model, names, keep, result
        self._scopes = {scope.ref: scope for scope in found}
        self._types = types_of(model)
        self._taken = model_names(model.proto)
        graphs = (model.proto.graph, *model.proto.functions)
        self._named = {node.name for graph in graphs for node in all_nodes(graph.node)}
        functions = {function_key(function): function for function in model.proto.functions}
        self._own = {key[1]: f for key, f in functions.items() if key[0] == ops.DOMAIN}
        # A function of the model under a contrib name means itself.
        self._hidden = {key[1] for key in functions if key[0] == ops.CONTRIB_DOMAIN}

    def run(self, holders: Mapping[ScopeRef, list[int]]) -> Model:
        proto = onnx.ModelProto()
        proto.CopyFrom(self._before.proto)
        for ref in sorted(holders, key=lambda ref: -len(ref.steps)):
            graph = find(proto, ref)
            before = self._before.proto
            opset = default_opset(
                before if ref.function is None else before.functions[ref.function]
            )
            nodes: list[NodeProto] = []
            owners: list[int] = []
            for index, node in enumerate(graph.node):
                parts = None
                if index in holders[ref]:
                    parts = self._apart(self._scopes[ref], node, index, opset)
                parts = [node] if parts is None else parts
                nodes += parts
                owners += [index] * len(parts)
            if len(nodes) > len(graph.node):
                self._result.owners[ref] = owners
                replace_nodes(graph, nodes)
        if not self._result.origins:
            return self._before
        _forget(proto, self._before.proto)
        return self._before.edited(proto)

    def _apart(
        self, scope: Scope, node: NodeProto, index: int, opset: int
    ) -> list[NodeProto] | None:
        """The nodes that say what a fused one says; None where it has to stay."""
        place = (scope.ref.function, node.output[0])
        hidden = node.domain == ops.CONTRIB_DOMAIN and node.op_type in self._hidden
        if hidden or self._keep(place):
            return None
        found = self._nodes(scope, node, opset)
        if isinstance(found, tuple):
            ref = NodeRef(index, node.op_type, node.name, scope.ref)
            self._result.left.append(NearMiss(found[0], ref, ref, got=found[1]))
            return None
        function = self._own.get(node.op_type) if node.domain == ops.DOMAIN else None
        inside = function is not None and has_contrib(function)
        copy = NodeProto()
        copy.CopyFrom(node)
        whole = node.domain != ops.DOMAIN or function is not None
        self._result.origins[place] = Origin(copy, inside, whole)
        return found

    def _nodes(
        self, scope: Scope, node: NodeProto, opset: int
    ) -> list[NodeProto] | tuple[Reason, str]:
        roles = dict(zip(_roles(node), node.input, strict=False))
        roles = {role: name for role, name in roles.items() if name}
        at = SUM_AT[node.domain]
        absent = [role for role in ("A", "B", "Scale") if role not in roles]
        if absent:
            return Reason.NOT_THE_DEFINITION, f"it has no {WORDS[absent[0]]}"
        between = [name for name in node.output[1:at] if name]
        read = next((name for name in between if _is_read(scope.graph, name)), "")
        if read:
            return Reason.STATISTICS_READ, read
        a, scale = self._type(scope, roles["A"]), self._type(scope, roles["Scale"])
        if a.elem_type not in FLOAT_TYPES or (a.shape is None and opset < ops.CASTLIKE_OPSET):
            return Reason.UNKNOWN_SHAPE, f"type of {roles['A']}"
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        contrib = node.domain == ops.CONTRIB_DOMAIN
        values = {
            "epsilon": attributes.get("epsilon", CONTRIB_EPSILON if contrib else DEFAULT_EPSILON),
            "axis": -1 if contrib else attributes.get("axis", -1),
            "stash_type": attributes.get("stash_type", ops.stash_type(a.elem_type)),
        }
        centred = "LayerNorm" in node.op_type and not _is_rms(node)
        kind = NormKind.LAYER_NORM if centred else NormKind.RMS_NORM
        function = self._own.get(node.op_type) if not contrib else None
        variant = ops.Variant(
            a.elem_type,
            scale.elem_type or a.elem_type,
            values["axis"],
            max(len(a.shape or ()), len(self._type(scope, roles["B"]).shape or ())) or 3,
            form=ops.BodyForm.APART
            if function is not None and form_of(function) == ops.BodyForm.APART
            else ops.BodyForm.ADD,
        )
        if variant.axis >= 0:
            return Reason.OTHER_AXES, f"axis {variant.axis}"
        body = ops.function(kind, opset, variant, "AddBias" in roles)
        total = node.output[at] if len(node.output) > at else ""
        return self._written(node, body, roles, values, total)

    def _written(
        self,
        node: NodeProto,
        body: onnx.FunctionProto,
        roles: Mapping[str, str],
        values: Mapping[str, float],
        total: str,
    ) -> list[NodeProto]:
        """The nodes of a function's body as a call means them, under names of their own."""
        output = node.output[0]
        label = node.name.removeprefix("graphfuse/")
        names = {**roles, "Y": output, "": ""}
        names["Sum"] = total or self._fresh(f"{output}/sum")
        if not total:
            self._result.made[names["Sum"]] = f"the sum of {node.op_type} that gives {output}"
        parts = _with_constants([_bound(each, values) for each in body.node], values)
        if "Bias" in body.input and "Bias" not in roles:
            parts = _without_bias(parts)
        for part in parts:
            for position, name in enumerate(part.input):
                part.input[position] = names[name]
            for position, name in enumerate(part.output):
                if name not in names:
                    names[name] = self._fresh(f"{output}/{name.lower()}")
                part.output[position] = names[name]
            is_sum = part.output[0] == names["Sum"]
            wanted = label if is_sum else f"{label}/{part.op_type}"
            part.name = fresh_name(wanted, self._named) if label else ""
        return parts

    def _fresh(self, base: str) -> str:
        return fresh_name(base, self._taken)

    def _type(self, scope: Scope | None, name: str) -> TensorType:
        while scope is not None:
            if name in self._types[scope.ref]:
                return self._types[scope.ref][name]
            scope = scope.parent
        return UNKNOWN


def _is_rms(node: NodeProto) -> bool:
    return "RMS" in node.op_type or "Simplified" in node.op_type


def _roles(node: NodeProto) -> tuple[str, ...]:
    """What each input of a fused node is."""
    vectors = ("A", "B", "Scale") if _is_rms(node) else ("A", "B", "Scale", "Bias")
    biased = node.domain == ops.CONTRIB_DOMAIN or node.op_type in ops.BIAS_OPERATOR.values()
    return (*vectors, "AddBias") if biased else vectors


def _is_read(graph: AnyGraph, name: str) -> bool:
    return name in value_names(graph.output) or any(name in read_names(n) for n in graph.node)


def _bound(node: NodeProto, values: Mapping[str, float]) -> NodeProto:
    """A node of a body with the values that it takes from the call."""
    copy = NodeProto()
    copy.CopyFrom(node)
    bind(copy, {name: helper.make_attribute(name, value) for name, value in values.items()})
    return copy


def _with_constants(parts: list[NodeProto], values: Mapping[str, float]) -> list[NodeProto]:
    """Below opset 12 a body takes its epsilon from a LeakyRelu; here it is a number."""
    if not any(part.op_type == "LeakyRelu" for part in parts):
        return parts
    tensor = helper.make_tensor("", ElementType.FLOAT, [], [values["epsilon"]])
    number = helper.make_node("Constant", [], ["Epsilon32"], value=tensor)
    dropped = ("MinusOne", "MinusEpsilon")
    kept = [part for part in parts if part.output[0] not in dropped]
    return [number if part.op_type == "Neg" else part for part in kept]


def _without_bias(parts: list[NodeProto]) -> list[NodeProto]:
    """A body for a LayerNorm without a bias: none is added."""
    last = next(part for part in parts if "Bias" in part.input)
    if last.op_type == "LayerNormalization":
        del last.input[2:]
        return parts
    (scaled,) = (name for name in last.input if name != "Bias")
    kept = [part for part in parts if part is not last]
    for part in kept:
        for position, name in enumerate(part.output):
            if name == scaled:
                part.output[position] = last.output[0]
    return kept


def _forget(proto: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Drop functions and operator sets that only the nodes needed that are gone."""
    called, before_called = _called(proto), _called(before)
    kept = [
        function
        for function in proto.functions
        if function.domain != ops.DOMAIN
        or function.name not in ops.OPERATORS
        or function_key(function) in called
        or function_key(function) not in before_called
    ]
    copies = onnx.ModelProto(functions=kept).functions
    del proto.functions[:]
    proto.functions.extend(copies)
    _drop_imports(proto, before)
    by_key = {function_key(function): function for function in before.functions}
    for function in proto.functions:
        _drop_imports(function, by_key[function_key(function)])


def _called(proto: onnx.ModelProto) -> set[tuple[str, str, str]]:
    graphs = (proto.graph, *proto.functions)
    return {function_key(node) for graph in graphs for node in all_nodes(graph.node)}


def _drop_imports(holder: Holder, before: Holder) -> None:
    """Drop the operator sets that went with the nodes.

    A holder that has sets of which it has no node (onnxruntime saves a model with all that it
    knows) keeps them all: which of them were there before the nodes came, nothing would tell.
    """
    needed = _domains(before)
    gone = needed - _domains(holder) - set(DEFAULT_DOMAINS)
    if any(e.domain not in (*needed, *DEFAULT_DOMAINS) for e in before.opset_import):
        return
    kept = [entry for entry in holder.opset_import if entry.domain not in gone]
    copies = onnx.ModelProto(opset_import=kept).opset_import
    del holder.opset_import[:]
    holder.opset_import.extend(copies)


def _domains(holder: Holder) -> set[str]:
    """The domains of all nodes and functions."""
    if isinstance(holder, onnx.FunctionProto):
        return {node.domain for node in all_nodes(holder.node)}
    found = {node.domain for node in all_nodes(holder.graph.node)}
    for function in holder.functions:
        found |= {function.domain, *_domains(function)}
    return found

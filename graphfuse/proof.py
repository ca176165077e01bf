"""The proof that a rewrite did what was planned and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphfuse import ops
from graphfuse.errors import InternalError
from graphfuse.graph.scopes import bodies, find
from graphfuse.graph.shapes import type_of, weightless
from graphfuse.graph.tensors import AnyGraph, read_names, subgraphs, value_names, vanished
from graphfuse.plan import added_imports, all_functions
from graphfuse.records import MAIN, Fusion, Plan, ScopeRef, Vector

LOSING_FIELDS = ("initializer", "sparse_initializer", "value_info", "quantization_annotation")
"""The fields of a graph that lose the entries of tensors that vanish."""

EDITED_GRAPH_FIELDS = ("node", *LOSING_FIELDS, "input", "output")
"""The fields of a graph that are compared entry by entry."""


def tensor_name(item: Any) -> str:
    """The tensor that an entry of a graph's field speaks of."""
    if isinstance(item, onnx.SparseTensorProto):
        return item.values.name
    return item.tensor_name if isinstance(item, onnx.TensorAnnotation) else item.name


def by_scope(plan: Plan) -> dict[ScopeRef, list[Fusion]]:
    """A plan's fusions by the graph that they are in."""
    found: dict[ScopeRef, list[Fusion]] = {}
    for fusion in plan.fusions:
        found.setdefault(fusion.site.scope, []).append(fusion)
    return found


def lowest_ir_version(plan: Plan) -> int:
    """Functions need IR version 8; before 4 every initializer had to be an input as well."""
    if any(fusion.body is not None for fusion in plan.fusions):
        return ops.MINIMUM_IR_VERSION
    return 4 if plan.vectors else 0


def edited_functions(plan: Plan) -> list[int]:
    """The functions that a plan edits, by index."""
    found = {fusion.site.scope.function for fusion in plan.fusions}
    return sorted(index for index in found if index is not None)


def touched(
    before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan
) -> list[tuple[ScopeRef, AnyGraph, AnyGraph]]:
    """The graphs that a plan edits and those around them, before and after, inner ones first."""
    refs: set[ScopeRef] = set()
    for ref in by_scope(plan):
        refs.update(ScopeRef(ref.function, ref.steps[:n]) for n in range(len(ref.steps) + 1))
    found: dict[ScopeRef, tuple[AnyGraph, AnyGraph]] = {}
    for ref in sorted(refs, key=lambda ref: len(ref.steps)):
        if not ref.steps:
            moved = ref
            if ref.function is not None:
                # The fused operators' functions stand before the model's own.
                moved = ScopeRef(ref.function + len(after.functions) - len(before.functions))
            found[ref] = (find(before, ref), find(after, moved))
            continue
        # A node with a body is never removed, so it is found again by what it computes.
        index, name, number = ref.steps[-1]
        old, new = found[ScopeRef(ref.function, ref.steps[:-1])]
        holder = old.node[index]
        again = [node for node in new.node if node.output == holder.output]
        if len(again) != 1:
            raise InternalError(f"{holder.op_type} {holder.name!r} is not where it was")
        found[ref] = (_body(holder, name, number), _body(again[0], name, number))
    return [(ref, *pair) for ref, pair in reversed(found.items())]


def _body(node: onnx.NodeProto, name: str, number: int) -> onnx.GraphProto:
    found = {(n, k): graph for n, k, graph in bodies(node)}
    if (name, number) not in found:
        raise InternalError(f"{node.op_type} {node.name!r} has lost its {name}")
    return found[name, number]


def prove(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    plan: Plan,
    removed: Mapping[ScopeRef, set[int]],
) -> None:
    """Check a result as an outsider would; InternalError when anything is not as planned.

    `removed` are the indices of the nodes that are gone, by graph. That they were free to go
    follows from the order: everything that is still read is still computed.
    """
    fusions = by_scope(plan)
    added = len(after.functions) - len(before.functions)
    for index in edited_functions(plan):
        _prove_function(before.functions[index], after.functions[index + added], plan)
    scopes = touched(before, after, plan)
    for ref, old, new in scopes:
        mine = fusions.get(ref, [])
        _prove_fused(new, mine)
        edited = {inner.steps[-1][0] for inner, _, _ in scopes if _is_child(inner, ref)}
        _prove_nodes(old, new, mine, removed.get(ref, set()), edited)
        if isinstance(old, onnx.GraphProto) and isinstance(new, onnx.GraphProto):
            _prove_graph(old, new, plan.vectors if ref == MAIN else (), mine)
        _prove_order(new, within=bool(ref.steps))
    _prove_model(before, after, plan)
    problem = _checker_says(after)
    if problem and _checker_says(before):
        # It stops at the first thing that it refuses, which the original has as well.
        problem = _checker_says_of(after, [], after.functions[:added])
        for ref, _, new in scopes:
            holder = after if ref.function is None else after.functions[ref.function + added]
            problem = problem or _checker_says_of(holder, _made(new, fusions.get(ref, [])))
    if problem:
        raise InternalError(f"the checker refuses the result: {problem}")


def _is_child(ref: ScopeRef, of: ScopeRef) -> bool:
    return ref.function == of.function and ref.steps[:-1] == of.steps and ref != of


def _prove_fused(graph: AnyGraph, fusions: list[Fusion]) -> None:
    """Each planned site is one node with the operator, operands and attributes of the plan."""
    nodes = {node.output[0]: node for node in graph.node if node.output}
    for fusion in fusions:
        site, node = fusion.site, nodes.get(fusion.output)
        if node is None or (node.domain, node.op_type) != (fusion.domain, fusion.op_type):
            raise InternalError(f"site {site.id} is not one {fusion.op_type}")
        if tuple(node.input) != fusion.inputs:
            raise InternalError(f"site {site.id} has other inputs than planned")
        beside = (*fusion.prelude, *fusion.epilogue)
        if any(nodes.get(wanted.output[0]) != wanted for wanted in beside):
            raise InternalError(f"what stands beside site {site.id} is not as planned")
        got = {
            attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute
        }
        if got.pop("epsilon") != np.float32(site.epsilon) or got != _fixed_attributes(fusion):
            raise InternalError(f"site {site.id} has other attributes than planned")
        total_at = 3 if fusion.domain == ops.CONTRIB_DOMAIN else 1
        if list(node.output[total_at:]) not in ([site.total], [""], []):
            raise InternalError(f"site {site.id} yields its sum under another name")


def _fixed_attributes(fusion: Fusion) -> dict[str, int]:
    if fusion.domain == ops.CONTRIB_DOMAIN:
        return {}
    return {"axis": fusion.site.axis, "stash_type": ops.stash_type(fusion.site.elem_type)}


def _checker_says(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(weightless(model))  # pyright: ignore[reportUnknownMemberType]
    except onnx.checker.ValidationError as error:
        return str(error)
    return ""


def _made(graph: AnyGraph, fusions: list[Fusion]) -> list[onnx.NodeProto]:
    """The nodes of a graph that were not there before: fused ones, and what stands beside them."""
    outputs = {fusion.output for fusion in fusions}
    for fusion in fusions:
        outputs.update(node.output[0] for node in (*fusion.prelude, *fusion.epilogue))
    return [node for node in graph.node if node.output and node.output[0] in outputs]


def _checker_says_of(
    holder: onnx.ModelProto | onnx.FunctionProto,
    nodes: Iterable[onnx.NodeProto],
    functions: Iterable[onnx.FunctionProto] = (),
) -> str:
    """What the checker says of nodes and functions on their own, in what imports their opsets."""
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version = ops.MINIMUM_IR_VERSION
    context.opset_imports = {entry.domain: entry.version for entry in holder.opset_import}
    try:
        for node in nodes:
            onnx.checker.check_node(node, context)  # pyright: ignore[reportUnknownMemberType]
        for function in functions:
            onnx.checker.check_function(  # pyright: ignore[reportUnknownMemberType]
                function, context
            )
    except onnx.checker.ValidationError as error:
        return str(error)
    return ""


def _prove_nodes(
    before: AnyGraph,
    after: AnyGraph,
    fusions: list[Fusion],
    removed: set[int],
    edited: set[int],
) -> None:
    """What is not a fused node is an original one, in the same number, and equal.

    `edited` are nodes whose bodies are compared on their own.
    """
    outputs = {node.output[0] for node in _made(after, fusions)}
    holders = {before.node[index].output[0] for index in edited}
    kept = (node for i, node in enumerate(before.node) if i not in removed)
    others = (node for node in after.node if not node.output or node.output[0] not in outputs)
    if Counter(_printed(n, holders) for n in kept) != Counter(_printed(n, holders) for n in others):
        raise InternalError("nodes outside the fused sites differ")


def _printed(node: onnx.NodeProto, holders: set[str]) -> bytes:
    """A node's bytes; without the contents of its bodies when they are compared elsewhere."""
    if not node.output or node.output[0] not in holders:
        return node.SerializeToString(deterministic=True)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for graph in subgraphs(copy):
        graph.Clear()
    return copy.SerializeToString(deterministic=True)


def _prove_graph(
    before: onnx.GraphProto,
    after: onnx.GraphProto,
    vectors: tuple[Vector, ...],
    fusions: list[Fusion],
) -> None:
    """Every other field is equal, but for what vanished with the removed nodes."""
    gone = vanished(before, after)
    for name in EDITED_GRAPH_FIELDS[1:]:
        old, new = getattr(before, name), list(getattr(after, name))
        expected = list(old)
        if name in LOSING_FIELDS:
            expected = [item for item in old if tensor_name(item) not in gone]
        if name == "initializer":
            # What was added stands last.
            _prove_vectors(new[len(expected) :], vectors)
            new = new[: len(expected)]
        if name == "value_info":
            _prove_types(new[len(expected) :], fusions)
            new = new[: len(expected)]
        if expected != new:
            raise InternalError(f"graph field {name!r} differs outside the fused sites")
    if _other_fields(before, EDITED_GRAPH_FIELDS) != _other_fields(after, EDITED_GRAPH_FIELDS):
        raise InternalError("the graph's own fields differ")


def _prove_types(added: list[onnx.ValueInfoProto], fusions: list[Fusion]) -> None:
    """What is said of tensors that nothing was said of is what was planned of fused nodes."""
    planned = [one for fusion in fusions for one in fusion.types]
    if [(value.name, type_of(value.type)) for value in added] != planned:
        raise InternalError("types were added that are not as planned")


def _prove_vectors(added: list[onnx.TensorProto], vectors: tuple[Vector, ...]) -> None:
    if [tensor.name for tensor in added] != [vector.name for vector in vectors]:
        raise InternalError("other initializers were added than planned")
    for tensor, vector in zip(added, vectors, strict=True):
        array = numpy_helper.to_array(tensor)
        same = tensor.raw_data == vector.data if vector.data else (array == vector.value).all()
        if array.shape != vector.extents or tensor.data_type != vector.elem_type or not same:
            raise InternalError(f"the added initializer {vector.name!r} has other values")


def _prove_function(before: onnx.FunctionProto, after: onnx.FunctionProto, plan: Plan) -> None:
    """Outside its nodes a function gains at most the import of the fused operators."""
    if [*before.opset_import, *added_imports(before, plan)] != list(after.opset_import):
        raise InternalError(f"the opset imports of function {before.name!r} differ")
    gone = vanished(before, after)
    if [value for value in before.value_info if value.name not in gone] != list(after.value_info):
        raise InternalError(f"the value_info of function {before.name!r} differs")
    edited = ("node", "opset_import", "value_info")
    if _other_fields(before, edited) != _other_fields(after, edited):
        raise InternalError(f"function {before.name!r} differs outside its nodes")


def _prove_model(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan) -> None:
    expected = all_functions(before, plan)
    added = len(expected) - len(before.functions)
    edited = {index + added for index in edited_functions(plan)}
    same = len(expected) == len(after.functions) and all(
        index in edited or old == new
        for index, (old, new) in enumerate(zip(expected, after.functions, strict=True))
    )
    if not same:
        raise InternalError("the model's functions differ")
    if [*before.opset_import, *added_imports(before, plan)] != list(after.opset_import):
        raise InternalError("the model's opset imports differ")
    if after.ir_version != max(before.ir_version, lowest_ir_version(plan)):
        raise InternalError("the model's IR version differs")
    if MAIN not in {ref for ref, _, _ in touched(before, after, plan)}:
        _prove_graph(before.graph, after.graph, plan.vectors, [])
        if list(before.graph.node) != list(after.graph.node):
            raise InternalError("nodes outside the edited functions differ")
    fields = ("graph", "functions", "opset_import", "ir_version")
    if _other_fields(before, fields) != _other_fields(after, fields):
        raise InternalError("the model's own fields differ")


def _other_fields(
    message: onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto, without: Iterable[str]
) -> object:
    skipped = frozenset(without)
    return [(f.name, value) for f, value in message.ListFields() if f.name not in skipped]


def _defined(graph: AnyGraph) -> set[str]:
    known = set(value_names(graph.input))
    if isinstance(graph, onnx.GraphProto):
        known.update(tensor.name for tensor in graph.initializer)
        known.update(tensor.values.name for tensor in graph.sparse_initializer)
    return known


def _prove_order(graph: AnyGraph, within: bool) -> None:
    """Every tensor exists before it is read, and is computed once.

    What a body (`within` another graph) reads and does not define is captured, and so is a read of
    the node that holds it: it is proven there.
    """
    known = _defined(graph)
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        unknown = read_names(node) - known
        if unknown & later or (unknown and not within):
            raise InternalError(f"{node.op_type} reads {min(unknown)!r} before it is computed")
        outputs = [name for name in node.output if name]
        if not known.isdisjoint(outputs) or len(set(outputs)) != len(outputs):
            raise InternalError(f"{node.op_type} {node.name!r} computes a tensor a second time")
        known.update(outputs)
    missing = set(value_names(graph.output)) - known
    if missing and not within:
        raise InternalError(f"nothing computes the graph output {min(missing)!r}")

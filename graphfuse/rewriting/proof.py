"""The proof that a rewrite did what was planned and nothing else.

It knows the plan, the model before and the model after, and how neither was made: it walks graphs
by itself and shares no helper with the editor, so that a fault of the one does not pass the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphfuse.records import MAIN, Fusion, Plan, ScopeRef, Vector
from graphfuse.types.shapes import type_of, weightless

Graph = onnx.GraphProto | onnx.FunctionProto

NAMED_FIELDS = ("initializer", "sparse_initializer", "value_info", "quantization_annotation")
"""The fields of a graph that speak of a tensor, and do so as long as it is there."""

COMPARED_FIELDS = ("node", *NAMED_FIELDS, "input", "output")
"""The fields of a graph that are compared entry by entry."""

LOWEST_IR_VERSION = 8
"""The first with functions."""


class _UnprovenError(Exception):
    """What is not as planned."""


def problem(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan) -> str:
    """What in a result is not as planned, judged as an outsider would; nothing when all is."""
    try:
        _prove(before, after, plan)
    except _UnprovenError as found:
        return str(found)
    return ""


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _UnprovenError(otherwise)


def _prove(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan) -> None:
    own = _own_functions(after, plan)
    _prove_model(before, after, own, plan)
    fusions = plan.by_scope()
    scopes = _pairs(before, after, own, plan)
    for ref, (old, new) in scopes.items():
        mine = fusions.get(ref, [])
        # The nodes whose bodies are compared as graphs of their own.
        holders = {inner.steps[-1][0] for inner in scopes if _is_child(inner, ref)}
        _prove_fused(new, mine)
        _prove_nodes(old, new, mine, {old.node[index].output[0] for index in holders})
        _prove_fields(old, new, plan.vectors if ref == MAIN else (), mine)
        _prove_order(new, within=bool(ref.steps))
    for (index, function), new in zip(enumerate(before.functions), own, strict=True):
        ref = ScopeRef(index)
        _demand(ref in scopes or function == new, f"function {function.name!r} differs")
    if MAIN not in scopes:
        _prove_fields(before.graph, after.graph, plan.vectors, [])
        same = list(before.graph.node) == list(after.graph.node)
        _demand(same, "nodes outside the edited functions differ")
    complaint = _checker_says(after)
    if complaint and _checker_says(before):
        # It stops at the first thing that it refuses, which the original has as well.
        complaint = _checker_says_of(after, [], [function for _, function in plan.functions])
        for ref, (_, new) in scopes.items():
            holder = after if ref.function is None else own[ref.function]
            complaint = complaint or _checker_says_of(holder, _made(new, fusions.get(ref, [])))
    _demand(not complaint, f"the checker refuses the result: {complaint}")


def _own_functions(after: onnx.ModelProto, plan: Plan) -> list[onnx.FunctionProto]:
    """The model's own functions in the result, without those that it was to gain."""
    own = list(after.functions)
    for at, function in reversed(plan.functions):
        _demand(at < len(own) and own.pop(at) == function, "the model's functions differ")
    return own


def _prove_model(
    before: onnx.ModelProto, after: onnx.ModelProto, own: list[onnx.FunctionProto], plan: Plan
) -> None:
    """The model's own fields, and those of its functions beside their nodes."""
    _demand(len(own) == len(before.functions), "the model's functions differ")
    _demand(_imports(before, plan.imports) == _imports(after), "the model's opset imports differ")
    lowest = max(before.ir_version, plan.ir_version)
    _demand(after.ir_version == lowest, "the model's IR version differs")
    fields = ("graph", "functions", "opset_import", "ir_version")
    _demand(_others(before, fields) == _others(after, fields), "the model's own fields differ")
    gained = dict(plan.function_imports)
    edited = {ref.function for ref in plan.by_scope()}
    for index, (old, new) in enumerate(zip(before.functions, own, strict=True)):
        more = (gained[index],) if index in gained else ()
        same = _imports(old, more) == _imports(new)
        _demand(same, f"the opset imports of function {old.name!r} differ")
        fields = ("node", "opset_import", "value_info")
        same = index not in edited or _others(old, fields) == _others(new, fields)
        _demand(same, f"function {old.name!r} differs outside its nodes")


def _imports(
    holder: onnx.ModelProto | onnx.FunctionProto, more: Iterable[tuple[str, int]] = ()
) -> list[onnx.OperatorSetIdProto]:
    return [*holder.opset_import, *(helper.make_opsetid(*entry) for entry in more)]


def _others(message: onnx.ModelProto | Graph, without: Iterable[str]) -> object:
    skipped = frozenset(without)
    return [(f.name, value) for f, value in message.ListFields() if f.name not in skipped]


def _pairs(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    own: list[onnx.FunctionProto],
    plan: Plan,
) -> dict[ScopeRef, tuple[Graph, Graph]]:
    """The graphs that a plan edits and those around them, before and after, outer ones first."""
    refs = {
        ScopeRef(ref.function, ref.steps[:depth])
        for ref in plan.by_scope()
        for depth in range(len(ref.steps) + 1)
    }
    found: dict[ScopeRef, tuple[Graph, Graph]] = {}
    for ref in sorted(refs, key=lambda ref: len(ref.steps)):
        if not ref.steps:
            at = ref.function
            found[ref] = (
                (before.graph, after.graph) if at is None else (before.functions[at], own[at])
            )
            continue
        # A node with a body is never removed, so it is found again by what it computes.
        index, name, number = ref.steps[-1]
        old, new = found[ScopeRef(ref.function, ref.steps[:-1])]
        holder = old.node[index]
        again = [node for node in new.node if node.output == holder.output]
        _demand(len(again) == 1, f"{holder.op_type} {holder.name!r} is not where it was")
        found[ref] = (_body(holder, name, number), _body(again[0], name, number))
    return found


def _is_child(ref: ScopeRef, of: ScopeRef) -> bool:
    return ref.function == of.function and ref.steps[:-1] == of.steps and ref != of


def _body(node: onnx.NodeProto, name: str, number: int) -> onnx.GraphProto:
    for attribute in node.attribute:
        if attribute.name == name and attribute.HasField("g"):
            return attribute.g
        if attribute.name == name and number < len(attribute.graphs):
            return attribute.graphs[number]
    raise _UnprovenError(f"{node.op_type} {node.name!r} has lost its {name}")


def _prove_fused(graph: Graph, fusions: list[Fusion]) -> None:
    """Each planned site is one node with the operator, operands and attributes of the plan."""
    nodes = {node.output[0]: node for node in graph.node if node.output}
    read = {name for node in graph.node for name in _reads(node)} | set(_names(graph.output))
    for fusion in fusions:
        site, node = fusion.site, nodes.get(fusion.output)
        kind = (node.domain, node.op_type) if node is not None else None
        if node is None or kind != (fusion.domain, fusion.op_type):
            raise _UnprovenError(f"site {site.id} is not one {fusion.op_type}")
        _demand(tuple(node.input) == fusion.inputs, f"site {site.id} has other inputs than planned")
        beside = (*fusion.prelude, *fusion.epilogue)
        same = all(nodes.get(wanted.output[0]) == wanted for wanted in beside)
        _demand(same, f"what stands beside site {site.id} is not as planned")
        got = [(each.name, helper.get_attribute_value(each)) for each in node.attribute]
        wanted = [(k, np.float32(v) if isinstance(v, float) else v) for k, v in fusion.attributes]
        _demand(got == wanted, f"site {site.id} has other attributes than planned")
        others = list(node.output[1 : fusion.sum_at])
        total = list(node.output[fusion.sum_at :])
        wanted = [site.sum] if site.sum in read else [""]
        same = total == wanted or (not total and wanted == [""])
        same = same and not any(others)
        _demand(same, f"site {site.id} yields its sum under another name")


def _prove_nodes(before: Graph, after: Graph, fusions: list[Fusion], holders: set[str]) -> None:
    """What is not a fused node is an original one, and equal; what is gone only a norm needed.

    `holders` are the first outputs of nodes whose bodies are compared on their own.
    """
    made = {node.output[0] for node in _made(after, fusions)}
    printed = [_printed(node, holders) for node in before.node]
    kept = [node for node in after.node if not node.output or node.output[0] not in made]
    gone = Counter(printed)
    gone.subtract(_printed(node, holders) for node in kept)
    _demand(min(gone.values(), default=0) >= 0, "nodes outside the fused sites differ")
    missing = [node for node, text in zip(before.node, printed, strict=True) if gone[text]]
    # What only the bodies of others read before may be read no more.
    captured = {name for node in before.node if _holds(node, holders) for name in _reads(node)}
    idle = _idle(after, captured) - _idle(before, captured)
    _demand(not idle, f"{min(idle, default='')!r} is computed, and nothing reads it any more")
    producers = {name: node for node in missing for name in node.output if name}
    # Behind the norms and sums of the sites, through nothing but what is gone.
    pending = [name for fusion in fusions for name in (fusion.site.output, fusion.site.sum)]
    behind: set[str] = set()
    while pending:
        node = producers.get(pending.pop())
        if node is not None and not behind.issuperset(node.output):
            behind.update(node.output)
            pending.extend(_reads(node))
    lost = [node for node in missing if not behind.issuperset(node.output) or not node.output]
    _demand(not lost, "nodes that belong to no site are gone")


def _idle(graph: Graph, captured: set[str]) -> set[str]:
    """The first outputs of nodes of which nothing reads any; what is `captured` counts as read."""
    read = captured.union(_names(graph.output), *map(_reads, graph.node))
    return {node.output[0] for node in graph.node if node.output and read.isdisjoint(node.output)}


def _holds(node: onnx.NodeProto, holders: set[str]) -> bool:
    return bool(node.output) and node.output[0] in holders


def _made(graph: Graph, fusions: list[Fusion]) -> list[onnx.NodeProto]:
    """The nodes of a graph that were not there before: fused ones, and what stands beside them."""
    outputs = {fusion.output for fusion in fusions}
    for fusion in fusions:
        outputs.update(node.output[0] for node in (*fusion.prelude, *fusion.epilogue))
    return [node for node in graph.node if node.output and node.output[0] in outputs]


def _printed(node: onnx.NodeProto, holders: set[str]) -> bytes:
    """A node's bytes; without the contents of its bodies when they are compared elsewhere."""
    if not _holds(node, holders):
        return node.SerializeToString(deterministic=True)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for graph in _inner(copy):
        graph.Clear()
    return copy.SerializeToString(deterministic=True)


def _prove_fields(
    before: Graph, after: Graph, vectors: tuple[Vector, ...], fusions: list[Fusion]
) -> None:
    """Every other field is equal, but for what spoke of tensors that are gone."""
    gone = _living(before) - _living(after) - {*_names(after.input), *_names(after.output)}
    for name in COMPARED_FIELDS[1:]:
        old = list[Any](getattr(before, name, ()))
        new = list[Any](getattr(after, name, ()))
        if name in NAMED_FIELDS:
            old = [item for item in old if _speaks_of(item) not in gone]
        # What was added stands last.
        if name == "initializer":
            _prove_vectors(new[len(old) :], vectors)
            new = new[: len(old)]
        if name == "value_info" and isinstance(after, onnx.GraphProto):
            planned = [one for fusion in fusions for one in fusion.types]
            added = [(value.name, type_of(value.type)) for value in new[len(old) :]]
            _demand(added == planned, "types were added that are not as planned")
            new = new[: len(old)]
        _demand(old == new, f"graph field {name!r} differs outside the fused sites")
    if isinstance(before, onnx.GraphProto):
        same = _others(before, COMPARED_FIELDS) == _others(after, COMPARED_FIELDS)
        _demand(same, "the graph's own fields differ")


def _prove_vectors(added: Sequence[onnx.TensorProto], vectors: tuple[Vector, ...]) -> None:
    same = [tensor.name for tensor in added] == [vector.name for vector in vectors]
    _demand(same, "other initializers were added than planned")
    for tensor, vector in zip(added, vectors, strict=True):
        array = numpy_helper.to_array(tensor)
        same = tensor.raw_data == vector.data if vector.data else (array == vector.value).all()
        same = same and (array.shape, tensor.data_type) == (vector.extents, vector.elem_type)
        _demand(bool(same), f"the added initializer {vector.name!r} has other values")


def _prove_order(graph: Graph, within: bool) -> None:
    """Every tensor exists before it is read, and is computed once.

    What a body (`within` another graph) reads and does not define is captured, and so is a read of
    the node that holds it: it is proven there.
    """
    known = _given(graph)
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        unknown = _reads(node) - known
        if unknown & later or (unknown and not within):
            raise _UnprovenError(f"{node.op_type} reads {min(unknown)!r} before it is computed")
        outputs = [name for name in node.output if name]
        once = known.isdisjoint(outputs) and len(set(outputs)) == len(outputs)
        _demand(once, f"{node.op_type} {node.name!r} computes a tensor a second time")
        known.update(outputs)
    missing = set(_names(graph.output)) - known
    if missing and not within:
        raise _UnprovenError(f"nothing computes the graph output {min(missing)!r}")


def _given(graph: Graph) -> set[str]:
    """The tensors that a graph has before any node ran."""
    known = set(_names(graph.input))
    if isinstance(graph, onnx.GraphProto):
        known.update(map(_speaks_of, (*graph.initializer, *graph.sparse_initializer)))
    return known


def _living(graph: Graph) -> set[str]:
    """The tensors that nodes read or compute."""
    names = {name for node in graph.node for name in node.output if name}
    return names.union(*map(_reads, graph.node))


def _reads(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, also in its bodies, where they do not define them."""
    names = {name for name in node.input if name}
    for graph in _inner(node):
        inside = {name for each in graph.node for name in _reads(each)}
        computed = {name for each in graph.node for name in each.output}
        names |= (inside | set(_names(graph.output))) - computed - _given(graph)
    return names


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _names(values: Iterable[Any]) -> list[str]:
    """The names of a graph's inputs or outputs; a function has just the names."""
    return [value if isinstance(value, str) else value.name for value in values]


def _speaks_of(item: Any) -> str:
    """The tensor that an entry of a graph's field speaks of."""
    if isinstance(item, onnx.SparseTensorProto):
        return item.values.name
    return item.tensor_name if isinstance(item, onnx.TensorAnnotation) else item.name


def _checker_says(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(weightless(model))  # pyright: ignore[reportUnknownMemberType]
    except onnx.checker.ValidationError as error:
        return str(error)
    return ""


def _checker_says_of(
    holder: onnx.ModelProto | onnx.FunctionProto,
    nodes: Iterable[onnx.NodeProto],
    functions: Iterable[onnx.FunctionProto] = (),
) -> str:
    """What the checker says of nodes and functions on their own, in what imports their opsets."""
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version = LOWEST_IR_VERSION
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

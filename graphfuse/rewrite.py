"""The edits: each planned site becomes one node, and a proof that nothing else changed.

Works on a copy of the ModelProto. The fused node takes the place of the norm's last node, or an
earlier one where something reads the sum before that; producers that would then come too late
(a scale computed beside the norm) move up, unchanged and in order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphfuse import ops
from graphfuse.errors import InternalError
from graphfuse.graph.shapes import weightless
from graphfuse.graph.tensors import captured_names, default_opset, subgraphs
from graphfuse.records import LAYER_NORM, Fusion, Plan

EDITED_GRAPH_FIELDS = (
    "node",
    "initializer",
    "sparse_initializer",
    "value_info",
    "quantization_annotation",
    "input",
    "output",
)
"""The fields of a graph that are compared entry by entry; the first five may lose entries."""


@dataclass
class _Edits:
    """What the rewrite did, for the proof: everything else must be as it was."""

    removed: set[int] = field(default_factory=set[int])
    fused: list[NodeProto] = field(default_factory=list[NodeProto])
    initializers: list[TensorProto] = field(default_factory=list[TensorProto])
    functions: list[onnx.FunctionProto] = field(default_factory=list[onnx.FunctionProto])


def rewrite(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Apply a plan to a copy of a model. A plan without fusions gives an equal copy.

    Raises InternalError, and changes nothing, when the result is not provably the same model
    outside the planned edits.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if not plan.fusions:
        return result
    editor = _Editor(model.graph)
    for fusion in plan.fusions:
        editor.fuse(fusion)
    _rebuild(result, model, editor, plan)
    _prove(model, result, editor.edits)
    return result


class _Editor:
    """The node list of one graph, by original index, while sites are being replaced."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.edits = _Edits()
        self.place: dict[int, NodeProto] = {}
        """Fused nodes by the original index that each stands at (of the norm's last node)."""
        self.names = _all_names(graph)
        self.node_names = {node.name for node in graph.node}
        self.reads = [_read_names(node) for node in graph.node]
        self.outputs = {value.name for value in graph.output}
        self.producer = {
            name: index for index, node in enumerate(graph.node) for name in node.output if name
        }
        self.readers: defaultdict[str, set[int]] = defaultdict(set)
        for index, names in enumerate(self.reads):
            for name in names:
                self.readers[name].add(index)
        self._vectors: dict[tuple[int, int, float], str] = {}

    def fuse(self, fusion: Fusion) -> None:
        """Replace one site: its norm goes, and what only the norm read; then the Add."""
        site = fusion.site
        last = self.producer[site.output]
        inputs = self._inputs(fusion)
        # The fused node reads its inputs before the old readers go, so no producer is dropped.
        # Negative indices keep its reads apart from those of original nodes.
        for name in inputs:
            self.readers[name].add(-1 - last)
        self._remove(last)
        self._remove_unread(self.reads[last])
        total_is_read = bool(self.readers[site.total]) or site.total in self.outputs
        self._remove(site.add.index)
        node = self._node(fusion, inputs, total_is_read)
        self.place[last] = node
        self.edits.fused.append(node)

    def _remove(self, index: int) -> None:
        self.edits.removed.add(index)
        for name in self.reads[index]:
            self.readers[name].discard(index)

    def _remove_unread(self, names: Iterable[str]) -> None:
        """Remove producers whose every output lost its last reader by this edit, in turn."""
        pending = list(names)
        while pending:
            index = self.producer.get(pending.pop())
            if index is None or index in self.edits.removed or index in self.place:
                continue
            outputs = [name for name in self.graph.node[index].output if name]
            if any(self.readers[name] or name in self.outputs for name in outputs):
                continue
            self._remove(index)
            pending.extend(self.reads[index])

    def _inputs(self, fusion: Fusion) -> list[str]:
        site = fusion.site
        inputs = [fusion.a, fusion.b, site.scale or self._vector(fusion, 1.0)]
        if site.kind == LAYER_NORM:
            inputs.append(site.bias or self._vector(fusion, 0.0))
        elif site.bias is not None:
            raise InternalError(f"site {site.id} is an RMSNorm with a bias")
        return inputs

    def _node(self, fusion: Fusion, inputs: list[str], total_is_read: bool) -> NodeProto:
        site = fusion.site
        if fusion.domain == ops.CONTRIB_DOMAIN:
            # Mean and inverse deviation, outputs 1 and 2, are not asked for; the sum is output 3.
            outputs = [site.output, "", "", site.total] if total_is_read else [site.output]
            attributes = {"epsilon": site.epsilon}
        else:
            outputs = [site.output, site.total]
            attributes = {
                "axis": site.axis,
                "epsilon": site.epsilon,
                "stash_type": ops.stash_type(site.elem_type),
            }
        node = helper.make_node(
            fusion.op_type, inputs, outputs, self._fresh_node_name(fusion), domain=fusion.domain
        )
        node.attribute.extend(helper.make_attribute(k, v) for k, v in sorted(attributes.items()))
        return node

    def _fresh_node_name(self, fusion: Fusion) -> str:
        base = f"graphfuse/{fusion.site.add.name or fusion.site.total}"
        name, number = base, 1
        while name in self.node_names:
            number += 1
            name = f"{base}_{number}"
        self.node_names.add(name)
        return name

    def _vector(self, fusion: Fusion, value: float) -> str:
        """A shared initializer for a missing scale (ones) or bias (zeros)."""
        site = fusion.site
        key = (site.elem_type, site.hidden, value)
        if key not in self._vectors:
            dtype = helper.tensor_dtype_to_np_dtype(site.elem_type)
            array = np.full(site.hidden, value, dtype)
            base = f"graphfuse_{'ones' if value else 'zeros'}_{site.hidden}"
            name, number = base, 1
            while name in self.names:
                number += 1
                name = f"{base}_{number}"
            self.names.add(name)
            self._vectors[key] = name
            self.edits.initializers.append(numpy_helper.from_array(array, name))
        return self._vectors[key]

    def nodes(self) -> list[NodeProto]:
        """The new node list, in topological order and otherwise in the original one."""
        entries: list[tuple[int, NodeProto]] = []
        for index, node in enumerate(self.graph.node):
            if index in self.place:
                entries.append((index, self.place[index]))
            elif index not in self.edits.removed:
                entries.append((index, node))
        return _ordered(entries, self.reads, self.place)


def _ordered(
    entries: list[tuple[int, NodeProto]], reads: list[set[str]], place: dict[int, NodeProto]
) -> list[NodeProto]:
    """Emit nodes in order; a node whose inputs are not there yet pulls their producers up."""
    producer = {
        name: position for position, (_, node) in enumerate(entries) for name in node.output if name
    }
    needs = [set(node.input) if i in place else reads[i] for i, node in entries]
    done = [False] * len(entries)
    most = len(entries) + sum(map(len, needs))
    ordered: list[NodeProto] = []
    for start in range(len(entries)):
        stack = [start]
        while stack:
            position = stack[-1]
            if done[position]:
                stack.pop()
                continue
            missing = {producer[n] for n in needs[position] if n in producer}
            waiting = sorted((p for p in missing if not done[p]), reverse=True)
            if len(stack) > most:
                raise InternalError("the fused node would read its own result")
            if waiting:
                stack.extend(waiting)
                continue
            done[stack.pop()] = True
            ordered.append(entries[position][1])
    return ordered


def _read_names(node: NodeProto) -> set[str]:
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= captured_names(graph)
    return names


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.input)
        names.update(node.output)
        for inner in subgraphs(node):
            names |= _all_names(inner)
    return names


def _rebuild(result: onnx.ModelProto, model: onnx.ModelProto, editor: _Editor, plan: Plan) -> None:
    """Put the new nodes into the copy, and drop what only the removed nodes had."""
    graph, edits = result.graph, editor.edits
    nodes = editor.nodes()
    del graph.node[:]
    graph.node.extend(nodes)
    gone = _vanished(model.graph, graph)
    for name in EDITED_GRAPH_FIELDS[1:5]:
        field = getattr(graph, name)
        _drop(field, [_tensor_name(item) in gone for item in field])
    graph.initializer.extend(edits.initializers)
    opset = default_opset(model)
    for fusion in plan.fusions:
        if fusion.domain == ops.DOMAIN and ops.find_function(result, fusion.site.kind) is None:
            function = ops.function(fusion.site.kind, opset, fusion.site.elem_type)
            result.functions.append(function)
            edits.functions.append(function)
    domain = plan.fusions[0].domain
    if all(entry.domain != domain for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid(domain, ops.VERSION))
    if edits.functions:
        result.ir_version = max(result.ir_version, ops.MINIMUM_IR_VERSION)


def _vanished(before: onnx.GraphProto, after: onnx.GraphProto) -> set[str]:
    """The tensors that were read or computed before the edits, and are neither now."""
    kept = {value.name for value in (*after.input, *after.output)} | _live_names(after)
    return _live_names(before) - kept


def _live_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for node in graph.node:
        names |= _read_names(node)
        names.update(name for name in node.output if name)
    return names


def _drop(field: Any, drop: list[bool]) -> None:
    for index in reversed([i for i, flag in enumerate(drop) if flag]):
        del field[index]


def _prove(before: onnx.ModelProto, after: onnx.ModelProto, edits: _Edits) -> None:
    """Check the result as an outsider would; any difference but the planned ones is a fault."""
    _prove_nodes(before.graph, after.graph, edits)
    _prove_fields(before, after, edits)
    _prove_order(after.graph)
    try:
        _check(weightless(after))
    except onnx.checker.ValidationError as error:
        if _was_valid(before):
            raise InternalError(f"the checker refuses the result: {error}") from error


def _check(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]


def _was_valid(model: onnx.ModelProto) -> bool:
    try:
        _check(weightless(model))
    except onnx.checker.ValidationError:
        return False
    return True


def _prove_nodes(before: onnx.GraphProto, after: onnx.GraphProto, edits: _Edits) -> None:
    kept = (node for i, node in enumerate(before.node) if i not in edits.removed)
    expected = Counter(n.SerializeToString(deterministic=True) for n in (*kept, *edits.fused))
    got = Counter(node.SerializeToString(deterministic=True) for node in after.node)
    if expected != got:
        raise InternalError("nodes outside the fused sites differ")


def _prove_fields(before: onnx.ModelProto, after: onnx.ModelProto, edits: _Edits) -> None:
    """Every other field is equal, but for what vanished with the removed nodes."""
    gone = _vanished(before.graph, after.graph)
    for name in EDITED_GRAPH_FIELDS[1:]:
        old, new = getattr(before.graph, name), getattr(after.graph, name)
        expected = [item for item in old if _tensor_name(item) not in gone]
        if name in ("input", "output"):
            expected = list(old)
        if name == "initializer":
            expected += edits.initializers
        if expected != list(new):
            raise InternalError(f"graph field {name!r} differs outside the fused sites")
    if [*before.functions, *edits.functions] != list(after.functions):
        raise InternalError("the model's functions differ")
    if list(before.opset_import) != list(after.opset_import)[: len(before.opset_import)]:
        raise InternalError("the model's opset imports differ")
    edited = ("graph", "functions", "opset_import", "ir_version")
    if _other_fields(before, edited) != _other_fields(after, edited):
        raise InternalError("the model's own fields differ")
    if _other_fields(before.graph, EDITED_GRAPH_FIELDS) != _other_fields(
        after.graph, EDITED_GRAPH_FIELDS
    ):
        raise InternalError("the graph's own fields differ")


def _tensor_name(item: Any) -> str:
    """The tensor that an entry of a graph's field speaks of."""
    if isinstance(item, onnx.SparseTensorProto):
        return item.values.name
    return item.tensor_name if isinstance(item, onnx.TensorAnnotation) else item.name


def _other_fields(message: onnx.ModelProto | onnx.GraphProto, without: Iterable[str]) -> object:
    skipped = frozenset(without)
    return [(f.name, value) for f, value in message.ListFields() if f.name not in skipped]


def _prove_order(graph: onnx.GraphProto) -> None:
    """Every tensor exists before it is read, and is computed once."""
    known = {value.name for value in graph.input}
    known.update(tensor.name for tensor in graph.initializer)
    known.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        unknown = _read_names(node) - known
        if unknown:
            raise InternalError(f"{node.op_type} reads {min(unknown)!r} before it is computed")
        outputs = [name for name in node.output if name]
        if len(set(outputs) | known) != len(known) + len(outputs):
            raise InternalError(f"{node.op_type} {node.name!r} computes a tensor a second time")
        known.update(outputs)

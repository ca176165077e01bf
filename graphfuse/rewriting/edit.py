"""The edits: each planned site becomes one node. That nothing else changed, proof.py shows.

The fused node takes the place of the norm's last node, or an earlier one where something reads the
sum before that; producers that would then come too late (a scale computed beside the norm) move
up, unchanged and in order. What the edits need to know is in the plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphfuse.errors import InternalError
from graphfuse.graph.order import stable_order
from graphfuse.graph.scopes import find
from graphfuse.graph.tensors import (
    AnyGraph,
    fresh_name,
    read_names,
    replace_nodes,
    value_names,
    vanished,
)
from graphfuse.records import Fusion, Plan, ScopeRef, Vector

LOSING_FIELDS = ("initializer", "sparse_initializer", "value_info", "quantization_annotation")
"""The fields of a graph that lose the entries of tensors that vanish."""


def edit(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """A copy of a model with a plan carried out in it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if not plan.fusions:
        return result
    fusions = plan.by_scope()
    around = {
        ScopeRef(ref.function, ref.steps[:n]) for ref in fusions for n in range(len(ref.steps))
    }
    # Inner graphs first: an edit moves the nodes of its graph, and so the way to graphs inside. A
    # tensor of a graph around them may have been read in them alone.
    for ref in sorted(fusions.keys() | around, key=lambda ref: -len(ref.steps)):
        graph = find(result, ref)
        if ref in fusions:
            editor = _Editor(graph)
            for fusion in fusions[ref]:
                editor.fuse(fusion)
            replace_nodes(graph, editor.nodes())
        _clean(graph, find(model, ref), fusions.get(ref, ()))
    _complete(result, plan)
    return result


class _Editor:
    """The node list of one graph, by original index, while sites are being replaced."""

    def __init__(self, graph: AnyGraph) -> None:
        self.graph = graph
        self.removed: set[int] = set()
        self.place: dict[int, list[NodeProto]] = {}
        """Fused nodes, with what they need, by the original index of the norm's last node."""
        self.node_names = {node.name for node in graph.node}
        self.reads = [read_names(node) for node in graph.node]
        self.outputs = set(value_names(graph.output))
        self.producer = {
            name: index for index, node in enumerate(graph.node) for name in node.output if name
        }
        self.readers: defaultdict[str, set[int]] = defaultdict(set)
        for index, names in enumerate(self.reads):
            for name in names:
                self.readers[name].add(index)

    def fuse(self, fusion: Fusion) -> None:
        """Replace one site: its norm goes, and what only the norm read; then the Add."""
        site = fusion.site
        last = self.producer[site.output]
        # The fused node reads its inputs before the old readers go, so no producer is dropped.
        # Negative indices keep its reads apart from those of original nodes.
        for node in (*fusion.prelude, *fusion.epilogue):
            for name in node.input:
                self.readers[name].add(-1 - last)
        for name in fusion.inputs:
            self.readers[name].add(-1 - last)
        self._remove(last)
        self._remove_unread(self.reads[last])
        sum_is_read = bool(self.readers[site.sum]) or site.sum in self.outputs
        self._remove(site.add.index)
        self._remove_unread(self.reads[site.add.index])
        fused = self._node(fusion, sum_is_read)
        self.place[last] = [*fusion.prelude, fused, *fusion.epilogue]

    def _remove(self, index: int) -> None:
        self.removed.add(index)
        for name in self.reads[index]:
            self.readers[name].discard(index)

    def _remove_unread(self, names: Iterable[str]) -> None:
        """Remove producers whose every output lost its last reader by this edit, in turn."""
        pending = list(names)
        while pending:
            index = self.producer.get(pending.pop())
            if index is None or index in self.removed or index in self.place:
                continue
            outputs = [name for name in self.graph.node[index].output if name]
            if any(self.readers[name] or name in self.outputs for name in outputs):
                continue
            self._remove(index)
            pending.extend(self.reads[index])

    def _node(self, fusion: Fusion, sum_is_read: bool) -> NodeProto:
        site = fusion.site
        # Nobody computes a sum that nobody reads; onnxruntime wants the place of ours in the list.
        others = [""] * (fusion.sum_at - 1)
        outputs = [fusion.output, *others, site.sum if sum_is_read else ""]
        if not sum_is_read and fusion.sum_at > 1:
            outputs = [fusion.output]
        node = helper.make_node(
            fusion.op_type,
            fusion.inputs,
            outputs,
            fresh_name(f"graphfuse/{site.add.name or site.sum}", self.node_names),
            domain=fusion.domain,
        )
        node.attribute.extend(helper.make_attribute(*named) for named in fusion.attributes)
        return node

    def nodes(self) -> list[NodeProto]:
        """The new node list, in topological order and otherwise in the original one."""
        entries: list[tuple[int, NodeProto]] = []
        for index, node in enumerate(self.graph.node):
            if index in self.place:
                entries.extend((index, placed) for placed in self.place[index])
            elif index not in self.removed:
                entries.append((index, node))
        return _ordered(entries, self.reads, self.place)


def _ordered(
    entries: list[tuple[int, NodeProto]],
    reads: list[set[str]],
    place: dict[int, list[NodeProto]],
) -> list[NodeProto]:
    """Emit nodes in order; a node whose inputs are not there yet pulls their producers up."""
    needs = [set(node.input) if index in place else reads[index] for index, node in entries]
    try:
        order = stable_order(needs, [node.output for _, node in entries])
    except ValueError as error:
        raise InternalError("the fused node would read its own result") from error
    return [entries[position][1] for position in order]


def _clean(graph: AnyGraph, before: AnyGraph, fusions: Iterable[Fusion]) -> None:
    """Drop what was said of tensors that are gone, and say what the fused nodes' outputs are."""
    gone = vanished(before, graph)
    for name in LOSING_FIELDS:
        field = getattr(graph, name, ())
        _drop(field, [_tensor_name(item) in gone for item in field])
    if isinstance(graph, onnx.GraphProto):
        graph.value_info.extend(
            helper.make_tensor_value_info(name, known.elem_type, known.shape)
            for fusion in fusions
            for name, known in fusion.types
        )


def _tensor_name(item: Any) -> str:
    """The tensor that an entry of a graph's field speaks of."""
    if isinstance(item, onnx.SparseTensorProto):
        return item.values.name
    return item.tensor_name if isinstance(item, onnx.TensorAnnotation) else item.name


def _complete(result: onnx.ModelProto, plan: Plan) -> None:
    """Add what the fused nodes need beside them."""
    result.graph.initializer.extend(_vector(vector) for vector in plan.vectors)
    for index, entry in plan.function_imports:
        result.functions[index].opset_import.append(helper.make_opsetid(*entry))
    result.opset_import.extend(helper.make_opsetid(*entry) for entry in plan.imports)
    result.ir_version = max(result.ir_version, plan.ir_version)
    if plan.functions:
        functions = list(result.functions)
        for at, function in plan.functions:
            functions.insert(at, function)
        copies = onnx.ModelProto(functions=functions).functions
        del result.functions[:]
        result.functions.extend(copies)


def _vector(vector: Vector) -> TensorProto:
    if vector.data:
        return TensorProto(
            name=vector.name,
            data_type=vector.elem_type,
            dims=vector.extents,
            raw_data=vector.data,
        )
    dtype = helper.tensor_dtype_to_np_dtype(vector.elem_type)
    return numpy_helper.from_array(np.full(vector.extents, vector.value, dtype), vector.name)


def _drop(field: Any, drop: list[bool]) -> None:
    for index in reversed([i for i, flag in enumerate(drop) if flag]):
        del field[index]

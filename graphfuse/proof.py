"""The proof that a rewrite did what was planned and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphfuse import ops
from graphfuse.errors import InternalError
from graphfuse.graph.shapes import weightless
from graphfuse.graph.tensors import read_names, vanished
from graphfuse.plan import added_functions, added_imports
from graphfuse.records import Fusion, Plan

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


def tensor_name(item: Any) -> str:
    """The tensor that an entry of a graph's field speaks of."""
    if isinstance(item, onnx.SparseTensorProto):
        return item.values.name
    return item.tensor_name if isinstance(item, onnx.TensorAnnotation) else item.name


def prove(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan, removed: set[int]) -> None:
    """Check a result as an outsider would; InternalError when anything is not as planned.

    `removed` are the indices of the original's nodes that are gone. That they were free to go
    follows from the order: everything that is still read is still computed.
    """
    _prove_fused(before, after, plan)
    _prove_nodes(before.graph, after.graph, plan, removed)
    _prove_fields(before, after, plan)
    _prove_order(after.graph)
    problem = _checker_says(after)
    if problem and problem != _checker_says(before):
        raise InternalError(f"the checker refuses the result: {problem}")


def _prove_fused(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan) -> None:
    """Each planned site is one node with the operator, operands and attributes of the plan."""
    nodes = {node.output[0]: node for node in after.graph.node if node.output}
    for fusion in plan.fusions:
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
        if list(node.output[total_at:]) not in ([site.total], []):
            raise InternalError(f"site {site.id} yields its sum under another name")
    old = {tensor.name for tensor in before.graph.initializer}
    added = {t.name: t for t in after.graph.initializer if t.name not in old}
    if added.keys() != {vector.name for vector in plan.vectors}:
        raise InternalError("other initializers were added than planned")
    for vector in plan.vectors:
        array = numpy_helper.to_array(added[vector.name])
        if array.shape != (vector.hidden,) or not (array == vector.value).all():
            raise InternalError(f"the added initializer {vector.name!r} has other values")


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


def _prove_nodes(
    before: onnx.GraphProto, after: onnx.GraphProto, plan: Plan, removed: set[int]
) -> None:
    """What is not a fused node is an original one, in the same number, and equal."""
    outputs = {fusion.output for fusion in plan.fusions}
    for fusion in plan.fusions:
        outputs.update(node.output[0] for node in (*fusion.prelude, *fusion.epilogue))
    kept = (node for i, node in enumerate(before.node) if i not in removed)
    others = (node for node in after.node if not node.output or node.output[0] not in outputs)
    expected = Counter(node.SerializeToString(deterministic=True) for node in kept)
    if expected != Counter(node.SerializeToString(deterministic=True) for node in others):
        raise InternalError("nodes outside the fused sites differ")


def _prove_fields(before: onnx.ModelProto, after: onnx.ModelProto, plan: Plan) -> None:
    """Every other field is equal, but for what vanished with the removed nodes."""
    gone = vanished(before.graph, after.graph)
    for name in EDITED_GRAPH_FIELDS[1:]:
        old, new = getattr(before.graph, name), list(getattr(after.graph, name))
        expected = [item for item in old if tensor_name(item) not in gone]
        if name in ("input", "output"):
            expected = list(old)
        if name == "initializer":
            # What was added stands last: see _prove_fused.
            new = new[: len(expected)]
        if expected != new:
            raise InternalError(f"graph field {name!r} differs outside the fused sites")
    functions = added_functions(before, plan)
    if [*before.functions, *functions] != list(after.functions):
        raise InternalError("the model's functions differ")
    if [*before.opset_import, *added_imports(before, plan)] != list(after.opset_import):
        raise InternalError("the model's opset imports differ")
    lowest = ops.MINIMUM_IR_VERSION if functions else 0
    if after.ir_version != max(before.ir_version, lowest):
        raise InternalError("the model's IR version differs")
    edited = ("graph", "functions", "opset_import", "ir_version")
    if _other_fields(before, edited) != _other_fields(after, edited):
        raise InternalError("the model's own fields differ")
    if _other_fields(before.graph, EDITED_GRAPH_FIELDS) != _other_fields(
        after.graph, EDITED_GRAPH_FIELDS
    ):
        raise InternalError("the graph's own fields differ")


def _other_fields(message: onnx.ModelProto | onnx.GraphProto, without: Iterable[str]) -> object:
    skipped = frozenset(without)
    return [(f.name, value) for f, value in message.ListFields() if f.name not in skipped]


def _prove_order(graph: onnx.GraphProto) -> None:
    """Every tensor exists before it is read, and is computed once."""
    known = {value.name for value in graph.input}
    known.update(tensor.name for tensor in graph.initializer)
    known.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        unknown = read_names(node) - known
        if unknown:
            raise InternalError(f"{node.op_type} reads {min(unknown)!r} before it is computed")
        outputs = [name for name in node.output if name]
        if not known.isdisjoint(outputs) or len(set(outputs)) != len(outputs):
            raise InternalError(f"{node.op_type} {node.name!r} computes a tensor a second time")
        known.update(outputs)
    missing = {value.name for value in graph.output} - known
    if missing:
        raise InternalError(f"nothing computes the graph output {min(missing)!r}")

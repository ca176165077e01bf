"""Blocks in the branch of an If, the body of a Loop, or a model-local function."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.draft import BFLOAT16, BOOL, INT64, Draft, Value, model_of

DOMAIN = "local"


@dataclass(frozen=True)
class Wrapped:
    """A model whose nodes are in a scope, and what it is fed with."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[Value, ...]


def wrap(draft: Draft, choices: Choices) -> Wrapped | None:
    """All nodes of a draft in one scope, or none where the main graph is drawn."""
    where = choices.pick("scope", ("main", "if", "loop", "function"))
    if where == "main" or draft.overridable or _has_unknown_types(draft):
        return None
    if where == "if":
        return _in_branch(draft, choices)
    if where == "loop":
        return _in_loop(draft, choices)
    return _in_function(draft, choices)


def _has_unknown_types(draft: Draft) -> bool:
    """If and Loop know bfloat16 from opset 16 on."""
    types = {value.elem_type for value in draft.outputs}
    return draft.opset < 16 and BFLOAT16 in types


def _taken(draft: Draft) -> set[str]:
    names = {value.name for value in draft.inputs} | set(draft.constants)
    return names | {name for node in draft.nodes for name in node.output}


def _fresh(draft: Draft, hint: str) -> str:
    taken = _taken(draft)
    return next(n for n in (hint, *(f"{hint}_{i}" for i in range(99))) if n not in taken)


def _body(draft: Draft, choices: Choices, name: str) -> onnx.GraphProto:
    """The nodes as a graph that reads the outer scope; its constants are here or there."""
    inner = {} if choices.chance("constants outside", 40) else dict(draft.constants)
    for moved in inner:
        del draft.constants[moved]
    tensors = [numpy_helper.from_array(array, key) for key, array in inner.items()]
    outputs = [value.proto() for value in draft.outputs]
    return helper.make_graph(draft.nodes, name, [], outputs, tensors)


def _outside(draft: Draft, node: NodeProto, outputs: list[Value], extra: list[NodeProto]) -> Draft:
    """A draft of the outer graph, which holds the node alone."""
    outer = replace(draft, nodes=[*extra, node], outputs=outputs)
    outer.inputs = list(draft.inputs)
    return outer


def _in_branch(draft: Draft, choices: Choices) -> Wrapped:
    """Both branches hold the block, under names of their own."""
    body = _body(draft, choices, "then")
    other = onnx.GraphProto()
    other.CopyFrom(body)
    other.name = "else"
    _rename_graph(other, "_else")
    branches = {"then_branch": body, "else_branch": other}
    outputs = [replace(value, name=_fresh(draft, value.name + "_out")) for value in draft.outputs]
    condition = _fresh(draft, "condition")
    names = [value.name for value in outputs]
    node = helper.make_node("If", [condition], names, **branches)
    outer = _outside(draft, node, outputs, [])
    outer.inputs.append(Value(condition, BOOL, (), ()))
    return Wrapped("if", model_of(outer), tuple(outer.inputs))


def _rename_graph(graph: onnx.GraphProto, suffix: str) -> None:
    """Other names for everything that a graph defines."""
    defined = {t.name for t in graph.initializer} | {n for node in graph.node for n in node.output}
    for tensor in graph.initializer:
        tensor.name += suffix
    for value in graph.output:
        value.name += suffix if value.name in defined else ""
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [name + suffix if name in defined and name else name for name in field]


def _in_loop(draft: Draft, choices: Choices) -> Wrapped:
    """Two rounds; a number is carried, and the outputs of every round are stacked."""
    body = _body(draft, choices, "body")
    trip, going, carried = (_fresh(draft, hint) for hint in ("trip", "going", "carried"))
    going_on, carried_on = _fresh(draft, "going_on"), _fresh(draft, "carried_on")
    body.input.extend(
        [
            helper.make_tensor_value_info(trip, INT64, []),
            helper.make_tensor_value_info(going, BOOL, []),
            helper.make_tensor_value_info(carried, TensorProto.FLOAT, []),
        ]
    )
    body.node.insert(0, helper.make_node("Identity", [going], [going_on]))
    body.node.append(helper.make_node("Identity", [carried], [carried_on]))
    scans = list(body.output)
    del body.output[:]
    body.output.append(helper.make_tensor_value_info(going_on, BOOL, []))
    body.output.append(helper.make_tensor_value_info(carried_on, TensorProto.FLOAT, []))
    body.output.extend(scans)
    rounds, start = _fresh(draft, "rounds"), _fresh(draft, "start")
    last = _fresh(draft, "last")
    outputs = [
        Value(_fresh(draft, v.name + "_all"), v.elem_type, (2, *v.shape), (2, *v.sizes))
        for v in draft.outputs
    ]
    names = [last, *(value.name for value in outputs)]
    node = helper.make_node("Loop", [rounds, "", start], names, body=body)
    outer = _outside(draft, node, outputs, [])
    outer.constants[rounds] = np.array(2, np.int64)
    outer.constants[start] = np.array(0, np.float32)
    return Wrapped("loop", model_of(outer), tuple(outer.inputs))


def _in_function(draft: Draft, choices: Choices) -> Wrapped:
    """All nodes in a function; constants are passed as inputs or are Constants inside."""
    inside: list[NodeProto] = []
    if not choices.chance("constants passed", 40):
        for name, array in list(draft.constants.items()):
            tensor = numpy_helper.from_array(array, "")
            inside.append(helper.make_node("Constant", [], [name], value=tensor))
            del draft.constants[name]
    given = [*(value.name for value in draft.inputs), *draft.constants]
    results = [value.name for value in draft.outputs]
    function = helper.make_function(
        DOMAIN,
        "Block",
        given,
        results,
        [*inside, *draft.nodes],
        [helper.make_opsetid("", draft.opset)],
    )
    outputs = [replace(value, name=_fresh(draft, value.name + "_out")) for value in draft.outputs]
    names = [value.name for value in outputs]
    node = helper.make_node("Block", given, names, domain=DOMAIN)
    outer = _outside(draft, node, outputs, [])
    model = model_of(outer, [DOMAIN])
    model.functions.append(function)
    return Wrapped("function", model, tuple(outer.inputs))

"""What changes nothing: decoys, names, the order of nodes, initializers or Constants."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from tests.campaigns.fuzz.build import Builder
from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.draft import Draft

NAMES = (
    *("x", "y", "a", "b", "A", "B", "Y", "Sum", "Scale", "Bias", "scale", "bias", "eps", "mean"),
    *("é", "入力", "größe", "a b", "0", "-1", "/layer/Add_output_0", "onnx::Add_12", "::", "axis"),
    *("graphfuse", "graphfuse/x", "graphfuse/bias", "Epsilon", "X", "Mean", "epsilon", "Identity"),
)


def add_decoys(builder: Builder, total: str) -> None:
    """Nodes that have nothing to do with a norm, read or dead."""
    draft, choices = builder.draft, builder.choices
    for _ in range(choices.pick("decoys", (0, 0, 0, 1, 2))):
        source = choices.pick("decoy of", (total, builder.tensors["a"][0]))
        kind = choices.pick("decoy", ("Sigmoid", "pooled", "scaled", "length", "dead"))
        if kind == "Sigmoid":
            builder.output(draft.node("Sigmoid", [source]))
        elif kind == "pooled":
            axis = -2 if source == total or len(builder.shape) == 2 else -1
            draft.reduce("ReduceMean", source, [axis], 1)
        elif kind == "scaled":
            draft.node("Mul", [source, source])
        elif kind == "length":
            draft.node("Sqrt", [draft.node("Abs", [source])])
        else:
            draft.node("Identity", [draft.node("Neg", [source])])


def finish_constants(draft: Draft, choices: Choices) -> None:
    """Move some constants into Constant nodes, of a tensor or of a float."""
    for name, array in list(draft.constants.items()):
        if name in draft.overridable:
            continue
        way = choices.pick("constant by", ("initializer", "initializer", "Constant", "value_float"))
        if way == "initializer":
            continue
        if way == "value_float" and array.dtype == np.float32 and draft.opset >= 12:
            key, value = ("value_float", float(array)) if not array.ndim else ("value_floats", None)
            if array.ndim > 1:
                continue
            node = helper.make_node("Constant", [], [name], **{key: value or array.tolist()})
        else:
            tensor = numpy_helper.from_array(array, "")
            node = helper.make_node("Constant", [], [name], value=tensor)
        del draft.constants[name]
        draft.nodes.insert(0, node)


def shuffle(draft: Draft, choices: Choices) -> None:
    """Another topological order."""
    rng = choices.random("order of nodes") if choices.chance("nodes shuffled", 50) else None
    if rng is None:
        return
    draft.nodes[:] = _shuffled(draft.nodes, rng)


def _shuffled(nodes: list[NodeProto], rng: random.Random) -> list[NodeProto]:
    producer = {name: i for i, node in enumerate(nodes) for name in node.output}
    waits = [{producer[n] for n in node.input if n in producer} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, needed in enumerate(waits):
        for other in needed:
            readers[other].append(i)
    ready = [i for i, needed in enumerate(waits) if not needed]
    order: list[NodeProto] = []
    while ready:
        i = ready.pop(rng.randrange(len(ready)))
        order.append(nodes[i])
        for reader in readers[i]:
            waits[reader].discard(i)
            if not waits[reader]:
                ready.append(reader)
    return order


def rename(draft: Draft, choices: Choices) -> Mapping[str, str]:
    """Other names for values and nodes; the mapping from the old names of values."""
    _name_nodes(draft, choices)
    rng = choices.random("names") if choices.chance("renamed", 50) else None
    if rng is None:
        return {}
    names = [*(v.name for v in draft.inputs), *draft.constants]
    names += [name for node in draft.nodes for name in node.output if name]
    pool = [*NAMES, *(f"n{i}" for i in range(len(names)))]
    # Fancy names are fewer than values: which values get them is drawn.
    order = rng.sample(names, len(names))
    mapping = dict(zip(order, pool, strict=False))
    for node in draft.nodes:
        for field in (node.input, node.output):
            field[:] = [mapping.get(name, name) for name in field]
    draft.inputs[:] = [replace(v, name=mapping[v.name]) for v in draft.inputs]
    draft.outputs[:] = [replace(v, name=mapping[v.name]) for v in draft.outputs]
    draft.constants = {mapping[name]: array for name, array in draft.constants.items()}
    draft.overridable[:] = [mapping[name] for name in draft.overridable]
    return mapping


def _name_nodes(draft: Draft, choices: Choices) -> None:
    way = choices.pick("node names", ("none", "numbered", "unicode", "all alike"))
    for i, node in enumerate(draft.nodes):
        if way != "none":
            node.name = {"numbered": f"node_{i}", "unicode": f"узел/{i}", "all alike": "n"}[way]

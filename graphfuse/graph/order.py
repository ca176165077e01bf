"""The order of nodes: each after those whose outputs it reads, and otherwise as they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from graphfuse.graph.tensors import AnyGraph, read_names, replace_nodes, subgraphs


def stable_order(reads: Sequence[Collection[str]], writes: Sequence[Collection[str]]) -> list[int]:
    """The positions of nodes in an order in which each comes after what it reads.

    Nodes stay in their order; one whose inputs are not there yet pulls their producers up. So what
    is in order already stays as it is. Nodes in a circle have no order: raises ValueError.
    """
    producer = {name: at for at, names in enumerate(writes) for name in names if name}
    done = [False] * len(reads)
    most = len(reads) + sum(map(len, reads))
    ordered: list[int] = []
    for start in range(len(reads)):
        stack = [start]
        while stack:
            position = stack[-1]
            if done[position]:
                stack.pop()
                continue
            missing = {producer[name] for name in reads[position] if name in producer}
            waiting = sorted((at for at in missing if not done[at]), reverse=True)
            if len(stack) > most:
                raise ValueError("nodes read each other's results in a circle")
            if waiting:
                stack.extend(waiting)
                continue
            done[stack.pop()] = True
            ordered.append(position)
    return ordered


def in_order(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model with each graph's nodes in topological order, and how many moved up.

    A model in order is given back itself; of another, a copy. A graph whose nodes have no order (a
    tensor that is defined twice, a circle) is left as it is: what reads it says what is wrong.
    """
    if not any(_is_unordered(graph) for graph in _graphs(model)):
        return model, 0
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result, sum(_sort(graph) for graph in _graphs(result))


def _graphs(model: onnx.ModelProto) -> list[AnyGraph]:
    """Every graph of a model, inner ones before those around them."""
    found: list[AnyGraph] = []
    pending: list[AnyGraph] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        found.append(graph)
        for node in graph.node:
            if node.attribute:
                pending.extend(subgraphs(node))
    return found[::-1]


def _is_unordered(graph: AnyGraph) -> bool:
    """Whether a node reads what a later one of its graph writes."""
    read = set[str]()
    for node in graph.node:
        if node.attribute and any(subgraphs(node)):
            read |= read_names(node)
        else:
            read.update(node.input)
        if any(name and name in read for name in node.output):
            return True
    return False


def _sort(graph: AnyGraph) -> int:
    """Put the nodes of a graph in order; how many had to move up."""
    if not _is_unordered(graph):
        return 0
    writes = [[name for name in node.output if name] for node in graph.node]
    names = [name for each in writes for name in each]
    if len(set(names)) < len(names):
        return 0
    try:
        order = stable_order([read_names(node) for node in graph.node], writes)
    except ValueError:
        return 0
    moved, first, done = 0, 0, set[int]()
    for position in order:
        moved += position > first
        done.add(position)
        while first in done:
            first += 1
    replace_nodes(graph, [graph.node[position] for position in order])
    return moved

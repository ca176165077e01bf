"""Whether a model is one that a session can load, as far as its own graphs and inputs say.

Level sites makes no session of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import onnx

from graphfuse.graph.tensors import AnyGraph, captured_names, read_names, subgraphs, value_names
from graphfuse.types.shapes import type_of


def flaw(proto: onnx.ModelProto) -> str:
    """What keeps a model from being loaded: a tensor that nothing or two nodes compute; else ''."""
    graphs: list[AnyGraph] = [proto.graph, *proto.functions]
    return next((found for graph in graphs for found in _flaws(graph, frozenset())), "")


def _flaws(graph: AnyGraph, outer: frozenset[str]) -> Iterator[str]:
    known = set(value_names(graph.input))
    if isinstance(graph, onnx.GraphProto):
        known.update(tensor.name for tensor in graph.initializer)
        known.update(sparse.values.name for sparse in graph.sparse_initializer)
    producers: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in producers or name in known:
                yield f"{node.op_type} computes {name!r} a second time"
            producers[name] = number
    there = known | producers.keys() | outer
    needs: dict[int, set[int]] = {}
    for number, node in enumerate(graph.node):
        reads = read_names(node)
        if not reads <= there:
            yield f"nothing computes {min(reads - there)!r}, which {node.op_type} reads"
        needs[number] = {producers[name] for name in reads if name in producers}
    missing = [name for name in value_names(graph.output) if name not in there]
    if missing:
        yield f"nothing computes the output {missing[0]!r}"
    try:
        TopologicalSorter(needs).prepare()
    except CycleError:
        yield "a node reads what is computed from its own output"
    for node in graph.node:
        for body in subgraphs(node):
            if captured_names(body) <= there:
                yield from _flaws(body, frozenset(there))


def narrower(original: onnx.GraphProto, fused: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """The inputs that the second graph takes fewer shapes of than the first, and what it takes."""
    declared = {value.name: type_of(value.type).shape for value in original.input}
    for value in fused.input:
        mine, other = declared.get(value.name), type_of(value.type).shape
        if other is None:
            continue
        fewer = mine is None or len(mine) != len(other)
        if mine is not None and not fewer:
            pairs = zip(mine, other, strict=True)
            fewer = any(isinstance(its, int) and its != dim for dim, its in pairs)
        if fewer:
            yield value.name, f"{_text(other)} in place of {_text(mine)}"


def _text(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "any shape"
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"

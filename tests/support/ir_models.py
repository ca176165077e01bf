"""What onnx_ir models are made of, by name, and whether they hold together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from tests.support.graphs import feeds


def graphs_of(held: ir.Model) -> Iterator[ir.Graph]:
    pending = [held.graph, *(function.graph for function in held.functions.values())]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                    pending.append(attribute.as_graph())


def nodes_of(held: ir.Model) -> dict[tuple[object, ...], ir.Node]:
    """Every node by its graph and the names of its outputs."""
    return {
        (id(graph), *(value.name for value in node.outputs)): node
        for graph in graphs_of(held)
        for node in graph
    }


def values_of(held: ir.Model) -> dict[tuple[int, str], ir.Value]:
    found: dict[tuple[int, str], ir.Value] = {}
    for graph in graphs_of(held):
        made = [value for node in graph for value in node.outputs]
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            found[id(graph), value.name] = value
    return found


def tensors_of(held: ir.Model) -> dict[tuple[int, str], object]:
    return {
        (id(graph), name): value.const_value
        for graph in graphs_of(held)
        for name, value in graph.initializers.items()
    }


def assert_consistent(held: ir.Model) -> None:
    """Values know who computes and who reads them, and graphs own their nodes."""
    uses: dict[int, set[tuple[int, int]]] = {}
    every: dict[int, ir.Value] = {}
    for graph in graphs_of(held):
        for value in (*graph.inputs, *graph.initializers.values()):
            every[id(value)] = value
        for node in graph:
            assert node.graph is graph
            for index, value in enumerate(node.outputs):
                assert value.producer() is node
                assert value.index() == index
                every[id(value)] = value
            for index, value in enumerate(node.inputs):
                if value is not None:
                    uses.setdefault(id(value), set()).add((id(node), index))
    for key, value in every.items():
        known = {(id(use.node), use.idx) for use in value.uses()}
        assert known == uses.get(key, set()), value.name


def ran(proto: onnx.ModelProto, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(proto.SerializeToString()).run(None, fed)


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, **sizes: int) -> None:
    fed = feeds(before, **sizes)
    for one, other in zip(ran(before, fed), ran(after, fed), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)

"""Walking a ModelProto: every graph, every node, every tensor, wherever it hides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.ops import is_operator

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_DOMAINS = ("", "ai.onnx")


AnyGraph = onnx.GraphProto | onnx.FunctionProto


def value_names(values: Iterable[onnx.ValueInfoProto] | Iterable[str]) -> list[str]:
    """The names of a graph's inputs or outputs; a function has just the names."""
    return [value if isinstance(value, str) else value.name for value in values]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes (bodies of If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those in their bodies, outer ones before inner ones."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph, those of its nodes and subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from node_tensors(graph.node)


def node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor in the attributes of nodes."""
    for node in nodes:
        yield from attribute_tensors(node.attribute)


def attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor in some attributes, those of the graphs in them included."""
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for tensor in (*sparse, *attribute.sparse_tensors):
            yield tensor.values
            yield tensor.indices
        if attribute.HasField("g"):
            yield from graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from graph_tensors(graph)


def model_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: graphs, functions, training info."""
    yield from graph_tensors(model.graph)
    for function in model.functions:
        yield from attribute_tensors(function.attribute_proto)
        yield from node_tensors(function.node)
    for training in model.training_info:
        yield from graph_tensors(training.initialization)
        yield from graph_tensors(training.algorithm)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's bytes are in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """The external_data entries (location, offset, length, checksum) as a dictionary."""
    return {entry.key: entry.value for entry in tensor.external_data}


def captured_names(graph: onnx.GraphProto) -> set[str]:
    """The outer names that a subgraph reads, its own subgraphs included.

    A name that the subgraph defines itself shadows the outer one and is not captured.
    """
    own = {value.name for value in graph.input}
    own.update(tensor.name for tensor in graph.initializer)
    own.update(tensor.values.name for tensor in graph.sparse_initializer)
    captured: set[str] = set()
    for node in graph.node:
        captured.update(name for name in node.input if name and name not in own)
        for inner in subgraphs(node):
            captured.update(captured_names(inner) - own)
        own.update(node.output)
    captured.update(value.name for value in graph.output if value.name not in own)
    return captured


def read_names(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, those that its subgraphs capture included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= captured_names(graph)
    return names


def model_names(model: onnx.ModelProto) -> set[str]:
    """The names of a model's tensors, in every graph and function."""
    names = all_names(model.graph)
    for function in model.functions:
        inside = onnx.GraphProto(node=function.node)
        names |= all_names(inside) | {*function.input, *function.output}
    return names


def all_names(graph: onnx.GraphProto) -> set[str]:
    """The names of a graph's tensors, those in its subgraphs included."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.input)
        names.update(node.output)
        for inner in subgraphs(node):
            names |= all_names(inner)
    return names


def count_nodes(model: onnx.ModelProto) -> int:
    """How many nodes a model has, in every graph and function; graphfuse's own are not counted."""
    functions = [function for function in model.functions if not is_operator(function)]
    return sum(map(_count, [model.graph, *functions]))


def _count(graph: AnyGraph) -> int:
    inner = (body for node in graph.node for body in subgraphs(node))
    return len(graph.node) + sum(map(_count, inner))


def holds(elem_type: int, values: NDArray[Any]) -> bool:
    """Whether a type holds all of some numbers exactly."""
    with np.errstate(all="ignore"):
        held = values.astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).astype(values.dtype)
    return bool((held == values).all())


def upcast(array: NDArray[Any]) -> NDArray[Any]:
    """Floating point, bfloat16 included, to float64; anything else as it is."""
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if is_float else array


def equal(left: onnx.TensorProto, right: onnx.TensorProto) -> bool:
    """Whether two small tensors hold the same numbers, whatever their names."""
    if is_external(right) or (left.data_type, left.dims) != (right.data_type, right.dims):
        return False
    one, other = (onnx.numpy_helper.to_array(tensor) for tensor in (left, right))
    return bool(np.array_equal(one, other))


def replace_nodes(graph: AnyGraph, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph another list of nodes, which may be its own in part: they are copied first."""
    copies = onnx.GraphProto(node=nodes).node
    del graph.node[:]
    graph.node.extend(copies)


def fresh_name(base: str, taken: set[str]) -> str:
    """`base`, or `base` with a number, that is not taken; from then on it is."""
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


def default_opset(holder: onnx.ModelProto | onnx.FunctionProto) -> int:
    """The version of the default operator set, 0 when the model or function imports none."""
    versions = [o.version for o in holder.opset_import if o.domain in DEFAULT_DOMAINS]
    return max(versions, default=0)


def vanished(before: AnyGraph, after: AnyGraph) -> set[str]:
    """The tensors that were read or computed before the edits, and are neither now."""
    kept = {*value_names(after.input), *value_names(after.output)} | _live_names(after)
    return _live_names(before) - kept


def _live_names(graph: AnyGraph) -> set[str]:
    names: set[str] = set()
    for node in graph.node:
        names |= read_names(node)
        names.update(name for name in node.output if name)
    return names

"""Lifting a model to float64: types, constants and casts; its functions are inlined.

Weights are left where they are: reference.py reads and upcasts each when a node needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from graphfuse.files.model_file import Model
from graphfuse.graph.bodies import KINDS, strange
from graphfuse.graph.tensors import (
    DEFAULT_DOMAINS,
    all_nodes,
    default_opset,
    is_external,
    model_names,
    read_names,
    subgraphs,
    upcast,
)
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.running.sessions import is_operator
from graphfuse.views.fused_nodes import FUSED_DOMAINS, OWN_DOMAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CONTRIB_OPERATORS = (
    ("com.microsoft", "SkipLayerNormalization"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"),
)

NAMED = "/graphfuse_"
"""What graphfuse computes a scale from is in the name of its nodes' outputs."""

ADDED = "added by graphfuse"
"""The mark of such a node of one of two models, in its twin: a name may be a user's, and proves
nothing. It is exact, if it is read as a scale or bias and as nothing else."""

OPERANDS = 2
"""The inputs of a fused node that are added; those behind them are scale and biases."""

ONE_OPERAND = frozenset(
    ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Flatten")
)
"""Operators that pass a single number on."""

ZERO64 = helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0])


def dense(sparse: onnx.SparseTensorProto) -> Array:
    """A sparse initializer as an array; its indices are linear or one row per value."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    result = np.zeros(tuple(sparse.dims), values.dtype)
    at = np.unravel_index(indices, result.shape) if indices.ndim == 1 else tuple(indices.T)
    result[at] = values
    return result


def is_fused_operator(function: onnx.FunctionProto) -> bool:
    """Whether a function has the name of an operator that is evaluated by a formula.

    Of onnxruntime's it runs its own, whatever function a model has under the name.
    """
    if function.domain == OWN_DOMAIN:
        return function.name in KINDS
    return (function.domain, function.name) in CONTRIB_OPERATORS


def _is_of_runtime(function: onnx.FunctionProto, versions: Mapping[str, int]) -> bool:
    """Whether onnxruntime has an operator of a function's name, which it then runs in its place."""
    domain = "" if function.domain in DEFAULT_DOMAINS else function.domain
    default = max((versions.get(name, 0) for name in DEFAULT_DOMAINS), default=0)
    version = versions.get(domain, 0) if domain else default
    return is_operator(domain, function.name, version)


def added_to(model: Model, other: Model) -> frozenset[str]:
    """The tensors that graphfuse has added to one of two models: the other knows none of them."""
    return model.once(_named) - other.once(_named)


def _named(model: Model) -> frozenset[str]:
    """The tensors of a model, in any of its graphs, that have names as graphfuse gives them."""
    return frozenset(name for name in model_names(model.proto) if NAMED in name)


def lifted(source: Model, added: Container[str] = ()) -> onnx.ModelProto:
    """The graph in float64, without its initializers; functions inlined, fused ones aside.

    `added` are the tensors that graphfuse's own nodes compute.
    """
    model = source.proto
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 10))
    proto.opset_import.extend(model.opset_import)
    # What a function of ours means is a formula; any other, whatever its name, is its nodes.
    named = {function.name for function in strange(model)}
    own = [f for f in model.functions if not is_fused_operator(f) or f.name in named or f.overload]
    versions = {entry.domain: entry.version for entry in model.opset_import}
    proto.functions.extend(f for f in own if not _is_of_runtime(f, versions))
    proto.graph.node.extend(_sorted(model.graph))
    for holder in (proto.graph, *proto.functions):
        _mark(holder.node, added)
    for field in ("input", "output"):
        getattr(proto.graph, field).extend(getattr(model.graph, field))
    proto.graph.name = "twin"
    for named in (*proto.graph.node, *proto.opset_import):
        named.domain = "" if named.domain in DEFAULT_DOMAINS else named.domain
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in inputs:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            proto.graph.input.append(value)
    if proto.functions:
        _fill_defaults(proto)
        proto = onnx.inliner.inline_local_functions(proto)
    present = {entry.domain for entry in proto.opset_import}
    for domain in FUSED_DOMAINS:
        if domain not in present:
            proto.opset_import.append(helper.make_opsetid(domain, 1))
    _lift_values(proto.graph)
    _round_constants(proto.graph, _single_numbers(model.graph, source))
    _lift_nodes(proto.graph.node, source)
    return proto


def _mark(nodes: Iterable[onnx.NodeProto], added: Container[str]) -> None:
    """Mark the nodes that graphfuse has added, and no others: the inliner renames what they give.

    A node's text is nothing that its meaning depends on.
    """
    for node in all_nodes(nodes):
        node.doc_string = ADDED if any(name in added for name in node.output) else ""


def _sorted(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes such that each follows what it reads; onnxruntime sorts them as well."""
    nodes = list(graph.node)
    producers = {name: n for n, node in enumerate(nodes) for name in node.output if name}
    before = [{producers[name] for name in read_names(node) if name in producers} for node in nodes]
    if all(max(needs, default=-1) < n for n, needs in enumerate(before)):
        return nodes
    try:
        order = TopologicalSorter(dict(enumerate(before))).static_order()
        return [nodes[n] for n in order]
    except CycleError:
        # Whoever evaluates the nodes says what is missing.
        return nodes


def _fill_defaults(proto: onnx.ModelProto) -> None:
    """Give calls the attributes that they leave out: onnx's inliner forgets their defaults.

    It leaves functions alone, too, whose operator set has another version, if not another meaning.
    """
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    pending = [proto.graph.node, *(function.node for function in proto.functions)]
    while pending:
        for node in pending.pop():
            pending.extend(graph.node for graph in subgraphs(node))
            function = functions.get((node.domain, node.op_type, node.overload))
            given = {attribute.name for attribute in node.attribute}
            defaults = function.attribute_proto if function is not None else ()
            node.attribute.extend(value for value in defaults if value.name not in given)
    version = default_opset(proto)
    for function in proto.functions:
        for entry in function.opset_import:
            if entry.domain in DEFAULT_DOMAINS and _same_meaning(function, entry.version, version):
                entry.version = version


def _same_meaning(function: onnx.FunctionProto, version: int, other: int) -> bool:
    """Whether the operators of a function look the same in another version of their set."""
    return all(
        _signature(node.op_type, version) == _signature(node.op_type, other)
        for node in function.node
        if node.domain in DEFAULT_DOMAINS
    )


def _signature(op_type: str, version: int) -> object:
    """Inputs, and attributes with their defaults: later versions mostly add types alone."""
    try:
        schema = onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return None
    defaults = {name: str(a.default_value) for name, a in schema.attributes.items()}
    return (schema.min_input, schema.max_input, defaults)


def _single_numbers(graph: onnx.GraphProto, source: Model) -> dict[str, Array]:
    """The weights of a graph that are one number."""
    inputs = {value.name for value in graph.input}
    return {
        tensor.name: source.read(tensor)
        for tensor in graph.initializer
        if tensor.name not in inputs and math.prod(tensor.dims) == 1
    }


def _round_constants(graph: onnx.GraphProto, known: dict[str, Array]) -> None:
    """Replace casts of single constant numbers by their results; `known` are those seen so far.

    Casts of activations are lifted, but an epsilon that is cast to float16 is another number: the
    one that every run of the model adds.
    """
    parameters = _Parameters(graph)
    for node in graph.node:
        for body in subgraphs(node):
            hidden = {value.name for value in (*body.input, *body.initializer)}
            outer = {name: array for name, array in known.items() if name not in hidden}
            own = {t.name: numpy_helper.to_array(t) for t in body.initializer if _is_number(t)}
            _round_constants(body, outer | own)
        array = _constant_number(node)
        if array is not None:
            known[node.output[0]] = array
        if node.op_type not in ONE_OPERAND or not node.input or node.input[0] not in known:
            continue
        array = known[node.input[0]]
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type == "Cast" and to not in FLOAT_TYPES:
            # Evaluated as it is: a number that becomes an integer loses its fraction.
            continue
        exact = node.op_type != "Cast" or parameters.hold(node)
        if not exact and to in FLOAT_TYPES:
            with np.errstate(all="ignore"):
                array = array.astype(helper.tensor_dtype_to_np_dtype(to))
            value = numpy_helper.from_array(array)
            node.CopyFrom(helper.make_node("Constant", [], list(node.output), value=value))
        known[node.output[0]] = array


class _Parameters:
    """What only fused nodes of a graph read, as a scale or bias, at once or in another shape."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._outputs = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in read_names(node):
                self._readers.setdefault(name, []).append(node)

    def hold(self, cast: onnx.NodeProto) -> bool:
        """Whether a cast is one that graphfuse has put there to compute a scale or bias."""
        pending, added = [cast.output[0]], cast.doc_string == ADDED
        while pending and added:
            name = pending.pop()
            readers = self._readers.get(name, [])
            if name in self._outputs or not readers:
                return False
            for node in readers:
                fused = node.domain in FUSED_DOMAINS and name not in node.input[:OPERANDS]
                if node.op_type in ONE_OPERAND and not node.domain:
                    pending.append(node.output[0])
                elif any(subgraphs(node)) or not fused:
                    return False
        return added


def _is_number(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) == 1 and not is_external(tensor)


def _constant_number(node: onnx.NodeProto) -> Array | None:
    """The value of a Constant that is one number; those of Python's types are float32."""
    if node.op_type != "Constant" or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.HasField("t") and _is_number(attribute.t):
        return numpy_helper.to_array(attribute.t)
    return np.array(attribute.f, np.float32) if attribute.name == "value_float" else None


def _lift_values(graph: onnx.GraphProto) -> None:
    """Make float64 of what a graph says of its values."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOAT_TYPES:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _lift_nodes(nodes: Iterable[onnx.NodeProto], source: Model) -> None:
    opset = default_opset(source.proto)
    for node in nodes:
        lift = LIFTED.get(node.op_type)
        # A type that an earlier version of the operator does not have would be a stray attribute.
        if lift is not None and opset >= LIFTED_SINCE.get(node.op_type, 0):
            lift(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _lift_tensor(attribute.t, source)
        for graph in subgraphs(node):
            for tensor in graph.initializer:
                _lift_tensor(tensor, source)
            _lift_values(graph)
            _lift_nodes(graph.node, source)


def _lift_tensor(tensor: TensorProto, source: Model) -> None:
    is_float = tensor.data_type in FLOAT_TYPES and tensor.data_type != TensorProto.DOUBLE
    if is_float or is_external(tensor):
        tensor.CopyFrom(numpy_helper.from_array(upcast(source.read(tensor)), tensor.name))


def _lift_type_attribute(name: str, default: int) -> Callable[[onnx.NodeProto], None]:
    """An attribute that names a result type: float types become float64."""

    def lift(node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == name:
                if attribute.i in FLOAT_TYPES:
                    attribute.i = TensorProto.DOUBLE
                return
        if default in FLOAT_TYPES:
            node.attribute.append(helper.make_attribute(name, TensorProto.DOUBLE))

    return lift


def _lift_constant(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats"):
            numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = numpy_helper.from_array(np.array(numbers, np.float64))
            attribute.CopyFrom(helper.make_attribute("value", tensor))


def _lift_constant_of_shape(node: onnx.NodeProto) -> None:
    if not node.attribute:
        node.attribute.append(helper.make_attribute("value", ZERO64))


LIFTED: Mapping[str, Callable[[onnx.NodeProto], None]] = {
    "Attention": _lift_type_attribute("softmax_precision", 0),
    "Cast": _lift_type_attribute("to", 0),
    "Constant": _lift_constant,
    "ConstantOfShape": _lift_constant_of_shape,
    "EyeLike": _lift_type_attribute("dtype", 0),
    "GroupNormalization": _lift_type_attribute("stash_type", 1),
    "RandomNormal": _lift_type_attribute("dtype", 1),
    "RandomUniform": _lift_type_attribute("dtype", 1),
}
LIFTED_SINCE = {"GroupNormalization": 21}
"""The opset from which on an operator has the attribute that is lifted."""

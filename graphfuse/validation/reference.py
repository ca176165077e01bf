"""The float64 twin of a model: what it means, free of rounding.

Weights and inputs are upcast, casts to lower float types are lifted, and fused nodes are evaluated
from their own attributes (operators.py). Evaluation is by onnx.reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphfuse.errors import ValidationError
from graphfuse.graph.inference import infer_types
from graphfuse.graph.model_file import Model
from graphfuse.graph.tensors import (
    DEFAULT_DOMAINS,
    FLOAT_TYPES,
    default_opset,
    is_external,
    subgraphs,
)
from graphfuse.validation.operators import OWN_OPERATORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

OWN_DOMAIN = "graphfuse"
FUSED_DOMAINS = (OWN_DOMAIN, "com.microsoft")

ADDED = "/graphfuse_"
"""What graphfuse computes a scale from is in the name of its nodes' outputs; it is exact."""

HALF_UNIT = 2.0**-24
"""An epsilon attribute is a float32: it is off by this share of itself at most."""

SINGLE = frozenset(("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Flatten"))
"""Operators that pass a single number on."""

ZERO64 = helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0])


class UnsupportedModelError(ValidationError):
    """The model holds an operator that has no float64 reference."""


class Twin:
    """A model's float64 twin: the graph lifted, the weights as float64 arrays beside it."""

    def __init__(self, model: Model, like: Twin | None = None) -> None:
        """Lift a model. Weights that `like` has under the same name and value are shared."""
        self.model = model
        self.proto = _lifted(model)
        self.tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self.weights: dict[str, Array] = {}
        for name, tensor in self.tensors.items():
            shared = like is not None and like.model.folder == model.folder
            if like is not None and shared and like.tensors.get(name) == tensor:
                self.weights[name] = like.weights[name]
            else:
                self.weights[name] = upcast(model.read(tensor))
        for sparse in model.proto.graph.sparse_initializer:
            self.weights[sparse.values.name] = upcast(_dense(sparse))
        self._evaluator: ReferenceEvaluator | None = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs in float64. Raises UnsupportedModelError naming what has no reference."""
        if self._evaluator is None:
            self._evaluator = _evaluator(self.proto)
        return _run(self._evaluator, self.proto, self.weights, feeds)

    def run_nudged(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The same with every fused node's epsilon off by half a unit in its last place.

        What this changes is no difference in meaning: an attribute cannot say it better.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        _nudge(proto.graph.node)
        return _run(_evaluator(proto), proto, self.weights, feeds)

    def run_all(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every value of the main graph in float64, by name."""
        values = {**self.weights, **{name: upcast(array) for name, array in feeds.items()}}
        with np.errstate(all="ignore"):
            results = _evaluate(_evaluator(self.proto), values, intermediate=True)
        return {name: array for name, array in results.items() if array is not None}

    def run_rounded(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The same, but every value of the main graph is rounded to its declared float type."""
        rounded = _with_rounding(self.proto, self.model.proto)
        return _run(_evaluator(rounded), rounded, self.weights, feeds)


def _nudge(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.domain in FUSED_DOMAINS:
            node.attribute.append(helper.make_attribute("nudge", HALF_UNIT))
        for graph in subgraphs(node):
            _nudge(graph.node)


def _dense(sparse: onnx.SparseTensorProto) -> Array:
    """A sparse initializer as an array; its indices are linear or one row per value."""
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    result = np.zeros(tuple(sparse.dims), values.dtype)
    at = np.unravel_index(indices, result.shape) if indices.ndim == 1 else tuple(indices.T)
    result[at] = values
    return result


def upcast(array: Array) -> Array:
    """Floating point, bfloat16 included, to float64; anything else as it is."""
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if is_float else array


def _evaluator(proto: onnx.ModelProto) -> ReferenceEvaluator:
    try:
        return ReferenceEvaluator(proto, new_ops=OWN_OPERATORS)
    except Exception as error:
        # onnx.reference raises whatever an operator's loader raised.
        raise _unsupported(error) from error


def _evaluate(
    evaluator: ReferenceEvaluator, values: dict[str, Array], intermediate: bool = False
) -> Any:
    return evaluator.run(  # pyright: ignore[reportUnknownMemberType]
        None, values, intermediate=intermediate
    )


def _run(
    evaluator: ReferenceEvaluator,
    proto: onnx.ModelProto,
    weights: Mapping[str, Array],
    feeds: Mapping[str, Array],
) -> dict[str, Array]:
    values = {**weights, **{name: upcast(array) for name, array in feeds.items()}}
    try:
        with np.errstate(all="ignore"):
            outputs = _evaluate(evaluator, values)
    except Exception as error:
        raise _unsupported(error) from error
    named = dict(zip((value.name for value in proto.graph.output), outputs, strict=True))
    for name, array in named.items():
        if array.dtype in (np.float32, np.float16):
            raise _unsupported(TypeError(f"output {name!r} came out as {array.dtype}"))
    return named


def _unsupported(error: Exception) -> UnsupportedModelError:
    text = " ".join(str(error).split())[:200]
    return UnsupportedModelError(
        f"the model cannot be evaluated in float64 ({type(error).__name__}: {text})",
        "`fuse --validate none` writes without the check",
    )


def _lifted(source: Model) -> onnx.ModelProto:
    """The graph in float64, without its initializers; functions inlined, fused ones aside."""
    model = source.proto
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 10))
    proto.opset_import.extend(model.opset_import)
    proto.functions.extend(f for f in model.functions if f.domain not in FUSED_DOMAINS)
    for field in ("node", "input", "output"):
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
    for values in (proto.graph.input, proto.graph.output):
        for value in values:
            if value.type.tensor_type.elem_type in FLOAT_TYPES:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
    _round_constants(proto.graph, model.graph)
    _lift_nodes(proto.graph.node, source)
    return proto


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


def _round_constants(graph: onnx.GraphProto, original: onnx.GraphProto) -> None:
    """Replace casts of single constant numbers by their results.

    Casts of activations are lifted, but an epsilon that is cast to float16 is another number: the
    one that every run of the model adds.
    """
    inputs = {value.name for value in original.input}
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in original.initializer
        if tensor.name not in inputs and not is_external(tensor) and math.prod(tensor.dims) == 1
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            array = numpy_helper.to_array(node.attribute[0].t)
            if array.size == 1:
                known[node.output[0]] = array
        if node.op_type not in SINGLE or not node.input or node.input[0] not in known:
            continue
        array = known[node.input[0]]
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type == "Cast" and to not in FLOAT_TYPES:
            # Evaluated as it is: a number that becomes an integer loses its fraction.
            continue
        exact = node.op_type != "Cast" or ADDED in node.output[0]
        if not exact and to in FLOAT_TYPES:
            with np.errstate(all="ignore"):
                array = array.astype(helper.tensor_dtype_to_np_dtype(to))
            value = numpy_helper.from_array(array)
            node.CopyFrom(helper.make_node("Constant", [], list(node.output), value=value))
        known[node.output[0]] = array


def _lift_nodes(nodes: Iterable[onnx.NodeProto], source: Model) -> None:
    for node in nodes:
        lift = LIFTED.get(node.op_type)
        if lift is not None:
            lift(node)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _lift_tensor(attribute.t, source)
        for graph in subgraphs(node):
            for tensor in graph.initializer:
                _lift_tensor(tensor, source)
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
    "Cast": _lift_type_attribute("to", 0),
    "Constant": _lift_constant,
    "ConstantOfShape": _lift_constant_of_shape,
    "EyeLike": _lift_type_attribute("dtype", 0),
    "RandomNormal": _lift_type_attribute("dtype", 1),
    "RandomUniform": _lift_type_attribute("dtype", 1),
}


def _with_rounding(lifted: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """After each node, a cast of its outputs to their declared type and back to float64."""
    types = infer_types(original)
    proto = onnx.ModelProto()
    proto.CopyFrom(lifted)
    del proto.graph.node[:]
    for node in lifted.graph.node:
        copy = proto.graph.node.add()
        copy.CopyFrom(node)
        for position, name in enumerate(node.output):
            declared = types.get(name)
            if not name or declared is None or declared.elem_type not in FLOAT_TYPES:
                continue
            exact, typed = f"{name}/exact", f"{name}/typed"
            copy.output[position] = exact
            for source, target, to in (
                (exact, typed, declared.elem_type),
                (typed, name, TensorProto.DOUBLE),
            ):
                proto.graph.node.append(helper.make_node("Cast", [source], [target], to=to))
    return proto

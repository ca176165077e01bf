"""The kinds: each changes one fused node, or says that the model has nothing of the sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphfuse import ops


class NothingToDamageError(Exception):
    """The model has nothing that this kind of mutant changes."""


def fused_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in proto.graph.node if n.domain in ("graphfuse", "com.microsoft")]


def _middle(proto: onnx.ModelProto) -> onnx.NodeProto:
    nodes = fused_nodes(proto)
    return nodes[len(nodes) // 2]


def _epsilon(node: onnx.NodeProto) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == "epsilon")


def _other(proto: onnx.ModelProto) -> onnx.NodeProto:
    """An earlier fused node: what it computes is there where the middle one reads."""
    first = fused_nodes(proto)[0]
    if first == _middle(proto):
        raise NothingToDamageError("there is one fused node only")
    return first


def _weight(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    if not found:
        raise NothingToDamageError("the scale is computed")
    return found[0]


def _is_centred(node: onnx.NodeProto) -> bool:
    return node.op_type in ("AddLayerNormalization", "SkipLayerNormalization")


def epsilon_doubled(proto: onnx.ModelProto) -> None:
    _epsilon(_middle(proto)).f *= 2


def epsilon_one_percent(proto: onnx.ModelProto) -> None:
    _epsilon(_middle(proto)).f *= 1.01


def epsilon_of_another(proto: onnx.ModelProto) -> None:
    """As a fuser that takes one epsilon for all: 1e-12 where a site has 1e-5, and so on."""
    found = {_epsilon(node).f for node in fused_nodes(proto)}
    mine = _epsilon(_middle(proto))
    others = found - {mine.f} or {float(np.float32(1e-12)), float(np.float32(1e-5))} - {mine.f}
    mine.f = max(others)


def variance_over_n_minus_1(proto: onnx.ModelProto) -> None:
    """Said with the attributes that there are: another scale and another epsilon."""
    node = _middle(proto)
    tensor = _weight(proto, node.input[2])
    array = numpy_helper.to_array(tensor)
    share = (array.size - 1) / array.size
    copy = numpy_helper.from_array((array * np.sqrt(share)).astype(array.dtype), "scaled")
    proto.graph.initializer.append(copy)
    node.input[2] = "scaled"
    _epsilon(node).f *= share


def scale_and_bias_swapped(proto: onnx.ModelProto) -> None:
    node = _middle(proto)
    if not _is_centred(node):
        raise NothingToDamageError("an RMSNorm has no bias")
    node.input[2], node.input[3] = node.input[3], node.input[2]


def scale_of_another(proto: onnx.ModelProto) -> None:
    _middle(proto).input[2] = _other(proto).input[2]


def operands_swapped_under_broadcast(proto: onnx.ModelProto) -> None:
    """onnxruntime's operator broadcasts one way; graphfuse's both, so that nothing is damaged."""
    shapes = {
        value.name: value.type.tensor_type.shape
        for value in onnx.shape_inference.infer_shapes(proto).graph.value_info
    }
    shapes |= {
        tensor.name: helper.make_tensor_value_info("", 1, list(tensor.dims)).type.tensor_type.shape
        for tensor in proto.graph.initializer
    }
    for node in fused_nodes(proto):
        if node.domain == "graphfuse":
            continue
        a, b = (shapes.get(name) for name in node.input[:2])
        if (
            a is not None
            and b is not None
            and str(a.dim[0] if a.dim else "") != str(b.dim[0] if b.dim else "")
        ):
            node.input[0], node.input[1] = node.input[1], node.input[0]
            return
    raise NothingToDamageError("no operand broadcasts")


def sum_doubled(proto: onnx.ModelProto) -> None:
    """Whoever reads the sum reads twice the sum."""
    read = {name for node in proto.graph.node for name in node.input}
    read |= {value.name for value in proto.graph.output}
    for node in fused_nodes(proto):
        total = node.output[-1]
        if len(node.output) < 2 or total not in read:
            continue
        node.output[len(node.output) - 1] = "once"
        at = list(proto.graph.node).index(node)
        proto.graph.node.insert(at + 1, helper.make_node("Add", ["once", "once"], [total]))
        return
    raise NothingToDamageError("nobody reads a sum")


def sum_of_another(proto: onnx.ModelProto) -> None:
    _middle(proto).input[0] = _other(proto).input[0]


def operand_twice(proto: onnx.ModelProto) -> None:
    node = _middle(proto)
    node.input[1] = node.input[0]


def axis_moved(proto: onnx.ModelProto) -> None:
    """Over the axis before the last: the last two are exchanged, and exchanged again."""
    node = _middle(proto)
    tensor = _weight(proto, node.input[2])
    output, operands = node.output[0], list(node.input[:2])
    flat = "ones"
    proto.graph.initializer.append(
        numpy_helper.from_array(np.ones(1, numpy_helper.to_array(tensor).dtype), flat)
    )
    at = list(proto.graph.node).index(node)
    domain, kind, attributes = node.domain, node.op_type, list(node.attribute)
    before = [
        helper.make_node("Transpose", [name], [f"turned{n}"], perm=[0, 2, 1])
        for n, name in enumerate(operands)
    ]
    if domain != "graphfuse":
        raise NothingToDamageError("onnxruntime's operator takes no axis")
    turned = onnx.NodeProto(op_type=kind, domain=domain)
    turned.attribute.extend(attributes)
    # Scale and bias of the whole row make no sense over another axis: one number stands for them.
    turned.input.extend(["turned0", "turned1", *[flat] * (len(node.input) - 2)])
    turned.output.extend(["turned_y", "turned_sum"])
    after = [
        helper.make_node("Transpose", ["turned_y"], [output], perm=[0, 2, 1]),
        helper.make_node("Transpose", ["turned_sum"], ["back_sum"], perm=[0, 2, 1]),
    ]
    if len(node.output) > 1 and node.output[-1]:
        after[1].output[0] = node.output[-1]
    nodes = [*proto.graph.node[:at], *before, turned, *after, *proto.graph.node[at + 1 :]]
    copies = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def output_of_another(proto: onnx.ModelProto) -> None:
    """The readers of one norm read another."""
    mine, other = _middle(proto).output[0], _other(proto).output[0]
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            if name == mine:
                node.input[position] = other
    for value in proto.graph.output:
        if value.name == mine:
            raise NothingToDamageError("the norm is an output")


def weight_off(proto: onnx.ModelProto) -> None:
    """One element of a scale, by a percent."""
    tensor = _weight(proto, _middle(proto).input[2])
    array = numpy_helper.to_array(tensor).copy()
    array[array.size // 2] *= np.array(1.01, array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def statistics_in_float16(proto: onnx.ModelProto) -> None:
    found = [a for a in _middle(proto).attribute if a.name == "stash_type"]
    if not found:
        raise NothingToDamageError("onnxruntime's operator has no stash_type")
    found[0].i = onnx.TensorProto.FLOAT16


def body_with_another_epsilon(proto: onnx.ModelProto) -> None:
    """The node says what it should; whoever has no kernel for it runs something else."""
    double = 2 * _epsilon(_middle(proto)).f
    referring = [
        attribute
        for function in proto.functions
        for node in function.node
        for attribute in node.attribute
        if function.domain == "graphfuse" and attribute.ref_attr_name == "epsilon"
    ]
    if not referring:
        raise NothingToDamageError("onnxruntime's operator has no function")
    for attribute in referring:
        attribute.CopyFrom(helper.make_attribute(attribute.name, double))


def _bodies(proto: onnx.ModelProto) -> list[onnx.FunctionProto]:
    mine = {node.op_type for node in fused_nodes(proto) if node.domain == "graphfuse"}
    found = [f for f in proto.functions if f.domain == "graphfuse" and f.name in mine]
    if not found:
        raise NothingToDamageError("onnxruntime's operator has no function")
    return found


def _behind_body(function: onnx.FunctionProto, nodes: list[onnx.NodeProto]) -> None:
    """Nodes that make Y of what the body has computed, `before`."""
    for node in function.node:
        for position, name in enumerate(node.output):
            if name == "Y":
                node.output[position] = "before"
    function.node.extend(nodes)


def body_output_scaled(proto: onnx.ModelProto) -> None:
    """By one half more; below opset 12 nothing makes such a number shorter than this."""
    for function in _bodies(proto):
        half = helper.make_tensor("", onnx.TensorProto.FLOAT, [], [1.5])
        _behind_body(
            function,
            [
                helper.make_node("Constant", [], ["factor32"], value=half),
                helper.make_node("CastLike", ["factor32", "A"], ["factor"]),
                helper.make_node("Mul", ["before", "factor"], ["Y"]),
            ],
        )


def body_wrong_for_large_batches(proto: onnx.ModelProto) -> None:
    """Of more than three rows of the first axis the result is zero, of fewer it is right."""
    for function in _bodies(proto):
        three = helper.make_tensor("", onnx.TensorProto.INT64, [], [3])
        first = helper.make_tensor("", onnx.TensorProto.INT64, [], [0])
        _behind_body(
            function,
            [
                helper.make_node("Constant", [], ["three"], value=three),
                helper.make_node("Constant", [], ["first"], value=first),
                helper.make_node("Shape", ["A"], ["extents"]),
                helper.make_node("Gather", ["extents", "first"], ["batch"]),
                helper.make_node("Greater", ["batch", "three"], ["large"]),
                helper.make_node("Not", ["large"], ["small"]),
                helper.make_node("CastLike", ["small", "A"], ["factor"]),
                helper.make_node("Mul", ["before", "factor"], ["Y"]),
            ],
        )


def body_over_other_axes(proto: onnx.ModelProto) -> None:
    """A body as graphfuse writes it for other nodes: over the last two axes."""
    for function in _bodies(proto):
        kind = "LayerNorm" if "LayerNorm" in function.name else "RMSNorm"
        opset = next(entry.version for entry in function.opset_import if not entry.domain)
        elem_type = onnx.TensorProto.FLOAT
        variant = ops.Variant(elem_type, elem_type, axis=-2, form=ops.BodyForm.APART)
        biased = "AddBias" in function.input
        function.CopyFrom(ops.function(kind, opset, variant, biased))


def overload_of_another_meaning(proto: onnx.ModelProto) -> None:
    """The node calls a function of the same name under another overload."""
    (function, *_) = _bodies(proto)
    other = onnx.FunctionProto()
    other.CopyFrom(function)
    other.overload = "other"
    _scale_last(other)
    proto.functions.append(other)
    next(n for n in fused_nodes(proto) if n.op_type == function.name).overload = "other"
    proto.ir_version = max(proto.ir_version, 10)


def _scale_last(function: onnx.FunctionProto) -> None:
    _behind_body(function, [helper.make_node("Add", ["before", "before"], ["Y"])])


def plain_epsilon(proto: onnx.ModelProto) -> None:
    """Ten times the epsilon of a norm that was not fused."""
    small = {
        tensor.name: tensor
        for tensor in proto.graph.initializer
        if np.prod(tensor.dims) == 1 and 0 < float(numpy_helper.to_array(tensor).ravel()[0]) < 1e-4
    }
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        for attribute in node.attribute:
            if attribute.name == "epsilon" and node.op_type.endswith("Normalization"):
                attribute.f *= 10
                return
        for name in node.input if node.op_type == "Add" else ():
            if name in small:
                array = numpy_helper.to_array(small[name])
                small[name].CopyFrom(numpy_helper.from_array(array * array.dtype.type(10), name))
                return
    raise NothingToDamageError("every norm is fused")


def node_added_behind_a_norm(proto: onnx.ModelProto) -> None:
    """The readers of a norm read a thousandth more."""
    node = _middle(proto)
    name = node.output[0]
    readers = [n for n in proto.graph.node if name in n.input]
    if not readers or any(value.name == name for value in proto.graph.output):
        raise NothingToDamageError("the norm is an output")
    elem_type = _weight(proto, node.input[2]).data_type
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1.001, dtype), "more"))
    for reader in readers:
        for position, read in enumerate(reader.input):
            if read == name:
                reader.input[position] = "added"
    at = list(proto.graph.node).index(node)
    proto.graph.node.insert(at + 1, helper.make_node("Mul", [name, "more"], ["added"]))


KINDS: Mapping[str, Callable[[onnx.ModelProto], None]] = {
    function.__name__: function
    for function in (
        epsilon_doubled,
        epsilon_one_percent,
        epsilon_of_another,
        variance_over_n_minus_1,
        scale_and_bias_swapped,
        scale_of_another,
        weight_off,
        operands_swapped_under_broadcast,
        operand_twice,
        sum_doubled,
        sum_of_another,
        axis_moved,
        output_of_another,
        statistics_in_float16,
        body_with_another_epsilon,
        body_output_scaled,
        body_wrong_for_large_batches,
        body_over_other_axes,
        overload_of_another_meaning,
        plain_epsilon,
        node_added_behind_a_norm,
    )
}

"""A model with everything that ONNX can say, and with fields that it cannot say yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto, numpy_helper
from onnx import helper as h

from tests.support.graphs import residual

UNKNOWN = b"\xba\x3e\x03abc"
"""Field 999 of any message, as a newer ONNX might have it."""

PACKED = {
    TensorProto.UINT4: ml_dtypes.uint4,
    TensorProto.INT4: ml_dtypes.int4,
    TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}


def all_types() -> list[TensorProto]:
    """A tensor of every element type, as raw data and in typed fields."""
    found: list[TensorProto] = []
    for name, number in TensorProto.DataType.items():
        if number in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        dtype = h.tensor_dtype_to_np_dtype(number)
        array = np.array([0, 1, 1, 0, 1]).astype(dtype)
        found.append(numpy_helper.from_array(array, f"raw {name}"))
        with_fields = number not in (TensorProto.UINT2, TensorProto.INT2)
        if with_fields and number not in PACKED:
            values = array.astype(np.complex64 if array.dtype.kind == "c" else np.float32)
            kinds = (TensorProto.FLOAT8E8M0,)
            if number not in kinds:
                found.append(h.make_tensor(f"fields {name}", number, [5], values))
    strings = TensorProto(name="strings", data_type=TensorProto.STRING, dims=[3])
    strings.string_data.extend([b"a", b"\xff\xfe no UTF-8", b""])
    return [*found, strings]


def types() -> Iterator[tuple[str, TypeProto]]:
    """A type of every kind."""
    tensor = h.make_tensor_type_proto(TensorProto.BFLOAT16, ["B", 3, None])
    tensor.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    tensor.denotation = "TENSOR"
    yield "tensor", tensor
    yield "sparse", h.make_sparse_tensor_type_proto(TensorProto.FLOAT8E5M2, [4, "N"])
    yield "sequence", h.make_sequence_type_proto(tensor)
    yield "optional", h.make_optional_type_proto(h.make_sequence_type_proto(tensor))
    mapped = TypeProto()
    mapped.map_type.key_type = TensorProto.STRING
    mapped.map_type.value_type.CopyFrom(tensor)
    yield "map", mapped
    opaque = TypeProto()
    opaque.opaque_type.domain, opaque.opaque_type.name = "other", "Thing"
    yield "opaque", opaque


def model() -> ModelProto:
    """One site, and beside it everything else."""
    proto = residual(
        "k = Relu(b) y = LayerNormalization(x, scale, bias) z = Mul(k, k) w = Tanh(y)",
        outputs="float[B,S,8] z, float[B,S,8] w",
    )
    proto.graph.node[0].input[1] = "k"
    nodes = list(proto.graph.node)
    order = [nodes[1], nodes[0], *nodes[2:]]
    copies = onnx.GraphProto(node=order).node
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    proto.ir_version = 11
    proto.producer_name, proto.producer_version = "somebody", "1.2"
    proto.domain, proto.model_version, proto.doc_string = "some.where", 7, "a model"
    _name(proto)
    graph = proto.graph
    graph.doc_string = "a graph"
    _name(graph)
    graph.initializer.extend(all_types())
    sparse = graph.sparse_initializer.add(dims=[10])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "sparse weight"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1, 5]), "indices"))
    for name, kind in types():
        value = graph.value_info.add(name=name, type=kind, doc_string=f"of {name}")
        _name(value)
    note = graph.quantization_annotation.add(tensor_name="k")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    _configure(proto)
    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"node {number}", f"doc of {node.op_type}"
        _name(node)
    graph.node.append(_holder())
    proto.opset_import.extend([h.make_opsetid("other", 3), h.make_opsetid("unused", 1)])
    for overload in ("", "one", "two"):
        _function(proto, overload)
    training = proto.training_info.add()
    training.initialization.node.append(h.make_node("Constant", [], ["s"], value_float=1.0))
    training.initialization.output.add(name="s")
    training.algorithm.node.append(h.make_node("Identity", ["s"], ["t"]))
    training.initialization_binding.add(key="scale", value="s")
    training.update_binding.add(key="scale", value="t")
    return proto


def _name(message: Any) -> None:
    message.metadata_props.add(key="who", value=type(message).__name__)


def _configure(proto: ModelProto) -> None:
    proto.configuration.add(name="two", num_devices=2, device=["cpu:0", "cpu:1"])
    made = proto.graph.node[2].device_configurations.add(configuration_id="two", pipeline_stage=1)
    sharding = made.sharding_spec.add(tensor_name="z", device=[0, 1])
    sharding.index_to_device_group_map.add(key=1, value=[0, 1])
    sharding.sharded_dim.add(axis=0).simple_sharding.add(dim_param="B", num_shards=2)


def _holder() -> onnx.NodeProto:
    """A node with an attribute of every kind."""
    tensor = numpy_helper.from_array(np.arange(3.0), "t")
    body = h.make_graph([h.make_node("Neg", ["k"], ["inner"])], "body", [], [])
    body.initializer.append(tensor)
    sparse = onnx.SparseTensorProto(values=tensor, dims=[9])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(3), "i"))
    kind = dict(types())["sequence"]
    values = {
        "f": 1.5, "i": 3, "s": b"\xff", "t": tensor, "g": body, "sparse": sparse, "type": kind,
        "floats": [1.0], "ints": [1, 2], "strings": [b"a", b""], "tensors": [tensor],
        "graphs": [body, body], "sparses": [sparse], "types": [kind],
    }  # fmt: skip
    node = h.make_node("Holder", ["k"], ["held"], "holder", domain="other", **values)
    node.overload = "two"
    node.attribute[0].doc_string = "doc of an attribute"
    return node


def _function(proto: ModelProto, overload: str) -> None:
    made = h.make_function(
        "other",
        "F",
        ["i"],
        ["o"],
        [h.make_node("Neg", ["i"], ["o"])],
        [h.make_opsetid("", 17)],
        attributes=["given"],
        attribute_protos=[h.make_attribute("default", 1.0)],
        doc_string="a function",
        overload=overload,
    )
    made.value_info.add(name="o", type=dict(types())["optional"])
    _name(made)
    proto.functions.append(made)


def add_unknown(message: Any) -> int:
    """Give a message, and every message in it, a field that nobody knows; how many got one."""
    count = 1
    for field, value in message.ListFields():
        if field.message_type is not None:
            items = value if field.is_repeated else [value]
            count += sum(add_unknown(item) for item in items)
    message.MergeFromString(UNKNOWN)
    return count


def kinds_of(message: Any) -> set[str]:
    """The kinds of messages in a message."""
    found = {message.DESCRIPTOR.name}
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                found |= kinds_of(item)
    return found

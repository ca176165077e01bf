"""Nothing but the fused sites changes."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import graphfuse
from tests.support import everything
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, kinds, residual

NORM = "y = LayerNormalization(x, scale, bias)"


def decorated() -> onnx.ModelProto:
    """A model that carries what writers tend to lose."""
    proto = residual(
        "k = Relu(b) y = LayerNormalization(x, scale, bias) z = Mul(k, k) w = Tanh(y)",
        outputs="float[B,S,8] z, float[B,S,8] w",
        constants={"never": np.ones(3, np.float32)},
    )
    proto.graph.node[0].input[1] = "k"
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "never"))
    proto.producer_name, proto.doc_string = "somebody", "a model"
    proto.metadata_props.add(key="author", value="me")
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="graph", value="data")
    for node in proto.graph.node:
        node.doc_string = f"doc of {node.op_type}"
        node.metadata_props.add(key="namespace", value=node.op_type)
    for name in ("k", "x", "y"):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "S", 8], "info")
        info.type.tensor_type.shape.dim[0].denotation = "BATCH"
        proto.graph.value_info.append(info)
    note = proto.graph.quantization_annotation.add(tensor_name="k")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    proto.opset_import.append(helper.make_opsetid("other", 3))
    proto.functions.append(
        helper.make_function(
            "other",
            "F",
            ["i"],
            ["o"],
            [helper.make_node("Neg", ["i"], ["o"])],
            [helper.make_opsetid("", 17)],
        )
    )
    return proto


def test_everything_else_is_byte_equal() -> None:
    before = decorated()
    after = graphfuse.fuse(before).model
    expected = copy.deepcopy(before)
    (fused,) = [node for node in after.graph.node if node.domain == "graphfuse"]
    survivors = [
        node for node in before.graph.node if node.op_type not in ("Add", "LayerNormalization")
    ]
    del expected.graph.node[:]
    expected.graph.node.extend([survivors[0], fused, *survivors[1:]])
    # Nobody reads the sum, so it is gone, and what was said of it.
    kept = [value for value in before.graph.value_info if value.name != "x"]
    del expected.graph.value_info[:]
    expected.graph.value_info.extend(kept)
    expected.opset_import.append(helper.make_opsetid("graphfuse", 1))
    functions = [after.functions[0], *before.functions]
    del expected.functions[:]
    expected.functions.extend(functions)
    assert after.functions[0].name == "AddLayerNormalization"
    assert after.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


def expected_of(before: onnx.ModelProto, after: onnx.ModelProto) -> onnx.ModelProto:
    """The original, with the one site replaced by hand: the fused node, its function and import."""
    expected = onnx.ModelProto()
    expected.CopyFrom(before)
    (fused,) = [node for node in after.graph.node if node.domain == "graphfuse"]
    nodes: list[onnx.NodeProto] = []
    for node in before.graph.node:
        if node.op_type == "LayerNormalization":
            nodes.append(fused)
        elif node.op_type != "Add":
            nodes.append(node)
    copies = onnx.GraphProto(node=nodes).node
    del expected.graph.node[:]
    expected.graph.node.extend(copies)
    expected.opset_import.append(helper.make_opsetid("graphfuse", 1))
    functions = onnx.ModelProto(functions=[after.functions[0], *before.functions]).functions
    del expected.functions[:]
    expected.functions.extend(functions)
    # Nobody reads the sum, so it is gone, and what was said of it; y is an output.
    known = {value.name for value in (*before.graph.value_info, *before.graph.output)}
    assert list(fused.output[1:]) == [""]
    told = [value for value in before.graph.value_info if value.name != "x"]
    copied = onnx.GraphProto(value_info=told).value_info
    del expected.graph.value_info[:]
    expected.graph.value_info.extend(copied)
    for name in fused.output:
        if name and name not in known:
            expected.graph.value_info.append(
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", "S", 8])
            )
    return expected


def test_everything_that_onnx_can_say_survives(tmp_path: Path) -> None:
    """In a file of its own, with a field that nobody knows in every message."""
    before = everything.model()
    known = {name for name in dir(onnx) if name.endswith("Proto")} - {"OperatorProto"}
    missing = (
        known - everything.kinds_of(before) - {"OperatorSetProto", "MapProto", "OptionalProto"}
    )
    assert missing <= {"SequenceProto"}
    assert everything.add_unknown(before) > 200
    path = tmp_path / "model.onnx"
    path.write_bytes(before.SerializeToString(deterministic=True))
    graphfuse.optimize(path, tmp_path / "fused.onnx", level="none")
    data = (tmp_path / "fused.onnx").read_bytes()
    after = onnx.ModelProto.FromString(data)
    assert len(after.graph.node) == len(before.graph.node) - 1
    assert data == expected_of(before, after).SerializeToString(deterministic=True)


def other_spelling(data: bytes) -> bytes:
    """Bytes of a message with its fields in the opposite order of kinds, and long tags."""
    fields: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        start, (tag, at) = at, number_at(data, at)
        length, at = number_at(data, at)
        at += length if tag & 7 == 2 else 0
        # A number may have more bytes than it needs.
        plain = data[start + 1 : at] if tag < 128 else b""
        longer = bytes([tag | 0x80, 0]) + plain if plain else data[start:at]
        fields.setdefault(tag, []).append(longer)
    return b"".join(part for tag in sorted(fields, reverse=True) for part in fields[tag])


def number_at(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def test_parts_keep_the_spelling_of_their_file(tmp_path: Path) -> None:
    """Every node, weight, input and type that no edit touches, as another encoder wrote it."""
    proto = decorated()
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    parts = [("node", 1), ("initializer", 5), ("input", 11), ("output", 12), ("value_info", 13)]
    body, kept = b"", list[bytes]()
    for field, number in parts:
        for item in getattr(graph, field):
            odd = other_spelling(item.SerializeToString())
            assert type(item).FromString(odd) == item
            assert odd != item.SerializeToString()
            body += bytes([number << 3 | 2]) + number_of(len(odd)) + odd
            gone = field == "node" and item.op_type in ("Add", "LayerNormalization")
            gone = gone or (field == "value_info" and item.name == "x")
            kept += [] if gone else [odd]
        graph.ClearField(field)
    body += graph.SerializeToString()
    proto.ClearField("graph")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + number_of(len(body)) + body + proto.SerializeToString())
    result = graphfuse.optimize(path, tmp_path / "fused.onnx", level="none")
    assert len(result.fused) == 1
    data = (tmp_path / "fused.onnx").read_bytes()
    assert [part for part in kept if part not in data] == []
    assert onnx.ModelProto.FromString(data) == result.model


def number_of(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def test_unknown_fields_survive() -> None:
    """Field 999 of the model and of a node, as a newer ONNX might have them."""
    data = residual(NORM + " z = Neg(a)", outputs="float[B,S,8] y, float[B,S,8] z")
    unknown = b"\xba\x3e\x03abc"
    raw = data.SerializeToString() + unknown
    proto = onnx.ModelProto.FromString(raw)
    assert unknown in graphfuse.fuse(proto).model.SerializeToString()


def test_initializers_that_nothing_reads_go() -> None:
    proto = residual(DECOMPOSED_LAYER_NORM)
    names = [t.name for t in graphfuse.fuse(proto).model.graph.initializer]
    assert "eps" not in names
    assert names == [t.name for t in proto.graph.initializer if t.name != "eps"]


def test_constant_nodes_that_nothing_reads_go() -> None:
    proto = residual(
        "two = Constant<value = float {2}>() "
        + DECOMPOSED_RMS_NORM.replace("Mul(x, x)", "Pow(x, two)")
    )
    assert kinds(graphfuse.fuse(proto).model) == ["AddRMSNormalization"]


def test_vanished_value_info_goes_and_the_rest_stays() -> None:
    proto = residual(DECOMPOSED_LAYER_NORM)
    for name in ("a", "x", "d", "v"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, 1, None))
    names = [v.name for v in graphfuse.fuse(proto).model.graph.value_info]
    assert names == ["a"]


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (graphfuse.fuse(decorated()).model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )

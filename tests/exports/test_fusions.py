"""onnxruntime's own fusions, before and after: none is lost; `python -m tests.campaigns.fusions` tries all."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from onnx import helper

import graphfuse
from tests.campaigns import fusions
from tests.conftest import Export
from tests.support.graphs import model

SAMPLE = [("hf-bert", "torchscript", 17), ("hf-bert", "dynamo", 18), ("hf-t5", "dynamo", 18)]


@pytest.mark.parametrize("form", ["float32", "int8"])
@pytest.mark.parametrize(("name", "exporter", "opset"), SAMPLE)
def test_no_fusion_of_onnxruntimes_is_lost(
    name: str, exporter: str, opset: int, form: str, export: Export, tmp_path: Path
) -> None:
    path = Path(shutil.copy(export(name, exporter, opset), tmp_path))
    path = fusions.quantized(path) if form == "int8" else path
    assert fusions.made(path, "all"), "onnxruntime fuses nothing here: the test shows nothing"
    sites, gone = fusions.compare(path)
    assert sites
    assert gone == {}


def test_a_lost_fusion_is_seen(tmp_path: Path) -> None:
    """A Gelu whose bias is of an unknown shape stays alone."""
    body = "h = Add(x, b)\ny = Gelu(h)"
    known = model(
        body.replace("Gelu(h)", "com.microsoft.Gelu(h)"),
        inputs="float[2,3,8] x",
        constants={"b": np_ones()},
    )
    known.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "known.onnx"
    onnx.save(known, path)
    assert fusions.made(path, "extended")["com.microsoft::BiasGelu"] == 1
    hidden = onnx.ModelProto()
    hidden.CopyFrom(known)
    del hidden.graph.input[0].type.tensor_type.shape.dim[:]
    hidden.graph.input[0].type.tensor_type.ClearField("shape")
    other = tmp_path / "hidden.onnx"
    onnx.save(hidden, other)
    gone = fusions.lost(path, other)
    assert gone["extended, without kernels"]["com.microsoft::BiasGelu"] == 1


def np_ones() -> object:
    import numpy as np

    return np.ones(8, np.float32)


def test_fused_nodes_say_what_their_outputs_are() -> None:
    proto = model(
        "x = Add(a, b)\ny = LayerNormalization(x, scale, bias)\nz = Relu(y)\nw = Neg(x)",
        outputs="float[B,S,8] z, float[B,S,8] w",
    )
    result = graphfuse.fuse(proto)
    said = {value.name: value.type.tensor_type for value in result.model.graph.value_info}
    assert set(said) == {"y", "x"}
    for tensor in said.values():
        assert tensor.elem_type == onnx.TensorProto.FLOAT
        assert [dim.dim_param or dim.dim_value for dim in tensor.shape.dim] == ["B", "S", 8]
    # What the file said stays as it was.
    again = onnx.ModelProto()
    again.CopyFrom(proto)
    again.graph.value_info.append(helper.make_tensor_value_info("y", 1, ["B", "S", 8]))
    names = [value.name for value in graphfuse.fuse(again).model.graph.value_info]
    assert names == ["y", "x"]


def test_symbols_that_inference_made_up_are_not_written() -> None:
    """They are names of nothing: equal ones need not be equal extents."""
    proto = model(
        "n = NonZero(k)\nr = Transpose(n)\nc = Cast<to = 1>(r)\na = MatMul(c, w)\nx = Add(a, a2)\n"
        "a2 = Relu(a)\ny = LayerNormalization(x, scale, bias)".replace(
            "x = Add(a, a2)\na2 = Relu(a)", "a2 = Relu(a)\nx = Add(a, a2)"
        ),
        inputs="float[B,S] k",
        outputs="float[N,8] y",
        constants={"w": weight()},
    )
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    for value in result.model.graph.value_info:
        first, last = value.type.tensor_type.shape.dim
        assert not first.dim_param
        assert not first.dim_value
        assert last.dim_value == 8


def weight() -> object:
    import numpy as np

    return np.ones((2, 8), np.float32)

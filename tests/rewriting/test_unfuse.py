"""Fused nodes are sites: written out again, and turned into what another provider wants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphfuse
from graphfuse.records.reasons import Reason
from tests.cli.test_cli import Shell
from tests.conftest import MODELS
from tests.support.graphs import assert_passes, kinds, model, needs_opset, residual

NAMES = sorted(path.name for path in MODELS.glob("*.onnx"))
CONTRIB = "com.microsoft::SkipLayerNormalization"
RANDOM = np.random.default_rng(5)
VECTORS = {
    name: RANDOM.normal(1, 0.3, 8).astype(np.float32) for name in ("gamma", "beta", "vector")
}


def bytes_of(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


def skip(
    call: str, outputs: str = "float[B,S,8] y", opset: int = 17, **options: object
) -> onnx.ModelProto:
    """A model around onnxruntime's fused node, as other tools write it."""
    proto = model(
        call,
        outputs=outputs,
        opset=opset,
        extra_imports=', "com.microsoft" : 1',
        constants=VECTORS,
        **options,  # type: ignore[arg-type]
    )
    for node in proto.graph.node:
        node.domain = "com.microsoft" if node.op_type.startswith("Skip") else ""
    return proto


@pytest.mark.parametrize("name", NAMES)
def test_fused_unfused_and_fused_again_is_the_fused_model(name: str) -> None:
    if "opset23" in name:
        needs_opset(23)
    first = graphfuse.fuse(MODELS / name).model
    plain = graphfuse.unfuse(first)
    assert not plain.left
    assert not [node for node in plain.model.graph.node if node.domain]
    assert not plain.model.functions
    onnx.checker.check_model(plain.model, full_check=True)
    assert_passes(MODELS / name, plain.model, level="fast")
    assert bytes_of(graphfuse.fuse(plain.model).model) == bytes_of(first)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_again_are_the_same_bytes(name: str) -> None:
    """From the CPU's nodes to CUDA's and back."""
    first = graphfuse.fuse(MODELS / name).model
    there = graphfuse.fuse(first, "cuda").model
    assert bytes_of(graphfuse.fuse(there).model) == bytes_of(first)
    direct = graphfuse.fuse(MODELS / name, "cuda")
    converted = [n for n in there.graph.node if n.domain == "com.microsoft"]
    assert len(converted) == len(direct.fused)


CALLS = {
    "all inputs": "y, m, i, s = SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma, beta, vector)",
    "no beta": "y = SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma)",
    "no beta, a bias": "y = SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma, , vector)",
    "the epsilon of the operator": "y = SkipLayerNormalization(a, b, gamma, beta)",
    "the sum": "y, , , z = SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma, beta)",
    "an RMSNorm": "y = SkipSimplifiedLayerNormalization<epsilon = 1e-6>(a, b, gamma)",
    "an RMSNorm with all": "y, m, i, z = SkipSimplifiedLayerNormalization(a, b, gamma, vector)",
}


@pytest.mark.parametrize("opset", [11, 14, 17, 21])
@pytest.mark.parametrize("case", CALLS)
def test_a_node_of_onnxruntime_s_becomes_what_the_target_wants(case: str, opset: int) -> None:
    call = CALLS[case]
    reads_sum = " z =" in call
    outputs = "float[B,S,8] y" + (", float[B,S,8] z" if reads_sum else "")
    proto = skip(call, outputs, opset)
    found = graphfuse.scan(proto)
    assert [site.fused_by.split("::")[0] for site in found.sites] == ["com.microsoft"]
    assert found.sites[0].notation == found.sites[0].fused_by
    assert found.already_fused == 1
    for ep in ("cpu", "portable", "tensorrt", "openvino"):
        result = graphfuse.fuse(proto, ep, selection=graphfuse.Selection(costs="none"))
        assert [node.domain for node in result.model.graph.node][-1] == "graphfuse"
        assert all(entry.domain != "com.microsoft" for entry in result.model.opset_import)
        assert_passes(proto, result.model, level="fast")
    assert not graphfuse.fuse(proto, "cuda").changed
    plain = graphfuse.unfuse(proto).model
    onnx.checker.check_model(plain, full_check=True)
    assert not [node for node in plain.graph.node if node.domain]
    assert_passes(proto, plain, level="full")


def test_other_outputs_of_a_fused_node_that_are_read_keep_it() -> None:
    """Mean and inverse deviation: nothing else yields them."""
    proto = skip(
        "y, m, i, s = SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma, beta) \n z = Relu(i)",
        "float[B,S,8] y, float[B,S,1] z",
    )
    result = graphfuse.fuse(proto)
    assert not result.changed
    assert Reason.STATISTICS_READ in result.reasons()
    plain = graphfuse.unfuse(proto)
    assert not plain.changed
    assert [miss.reason for miss in plain.left] == [Reason.STATISTICS_READ]


def test_a_skip_that_broadcasts_does_so_written_out() -> None:
    proto = skip(CALLS["no beta"].replace("b,", "c,"), inputs="float[B,S,8] a, float[1,S,8] c")
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none"))
    assert result.changed
    assert_passes(proto, result.model, level="fast")
    assert_passes(proto, graphfuse.unfuse(proto).model, level="fast")


def test_a_fused_node_in_a_branch_and_in_a_function_is_a_site() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1, "f" : 1]>
        g (float[B,S,8] a, float[B,S,8] b, bool c) => (float[B,S,8] y, float[B,S,8] z) {
            y = If (c) <
                then_branch = t () => (float[B,S,8] u) {
                    u = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma, beta)
                },
                else_branch = e () => (float[B,S,8] v) { v = Add(a, b) }
            >
            z = f.block (a, b, gamma, beta)
        }
        <domain: "f", opset_import: ["" : 17, "com.microsoft" : 1]>
        block (p, q, s, t) => (r) {
            r = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(p, q, s, t)
        }
    """)
    for name in ("gamma", "beta"):
        proto.graph.initializer.append(numpy_helper.from_array(VECTORS[name], name))
    found = graphfuse.scan(proto)
    assert [site.fused_by for site in found.sites] == [CONTRIB, CONTRIB]
    assert [site.add.index for site in found.sites] == [0, 0]
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none"))
    assert len(result.fused) == 2
    assert "com.microsoft" not in {node.domain for f in result.model.functions for node in f.node}
    assert_passes(proto, result.model, level="fast")


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types_are_written_out_as_well(dtype: int) -> None:
    proto = residual("y = LayerNormalization(x, scale, bias)")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = dtype
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    fused = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none")).model
    plain = graphfuse.unfuse(fused).model
    assert kinds(plain) == ["Add", "LayerNormalization"]
    assert_passes(fused, plain)
    assert bytes_of(
        graphfuse.fuse(plain, selection=graphfuse.Selection(costs="none")).model
    ) == bytes_of(fused)


def test_a_function_that_got_lost_comes_back() -> None:
    """onnx.version_converter drops functions: only sessions with our kernels run what is left."""
    fused = graphfuse.fuse(residual("y = LayerNormalization(x, scale, bias)")).model
    lost = onnx.ModelProto()
    lost.CopyFrom(fused)
    del lost.functions[:]
    found = graphfuse.fuse(lost)
    assert found.changed
    assert bytes_of(found.model) == bytes_of(fused)


def test_the_command_writes_and_validates(shell: Shell, tmp_path: Path) -> None:
    bert = MODELS / "bert.onnx"
    assert shell("fuse", bert, "-o", "fused.onnx").returncode == 0
    run = shell("unfuse", "fused.onnx", "-o", "plain.onnx", "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["command"] == "unfuse"
    assert document["validation"]["verdict"] == "pass"
    assert len(document["unfused"]) == 5
    assert shell("fuse", "plain.onnx", "-o", "again.onnx").returncode == 0
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "fused.onnx").read_bytes()
    again = shell("unfuse", "plain.onnx", "-o", "plainer.onnx")
    assert "no fused node: the model is unchanged" in again.stdout
    assert (tmp_path / "plainer.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_strict_says_what_has_to_stay(shell: Shell, tmp_path: Path) -> None:
    proto = skip(
        "y, m, i, s = SkipLayerNormalization<epsilon = 1e-5>(a, b, gamma, beta) \n z = Relu(i)",
        "float[B,S,8] y, float[B,S,1] z",
    )
    onnx.save(proto, tmp_path / "read.onnx")
    run = shell("unfuse", "read.onnx", "-o", "plain.onnx", "--strict")
    assert run.returncode == 6
    assert "1 fused nodes have to stay" in run.stderr
    assert not (tmp_path / "plain.onnx").exists()


WRONG = {
    "bias dropped": lambda node: node.input.pop(),
    "beta and bias swapped": lambda node: node.input.__setitem__(
        slice(3, 5), [node.input[4], node.input[3]]
    ),
    "gamma and beta swapped": lambda node: node.input.__setitem__(
        slice(2, 4), [node.input[3], node.input[2]]
    ),
    "the other default of epsilon": lambda node: node.attribute.pop(),
    "the other output": lambda node: node.output.__setitem__(slice(0, 2), ["z", "y"]),
}


@pytest.mark.parametrize("level", ["fast", "full", "sites"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("epsilon", ["1e-12", "1e-6", "1e-3"])
def test_wrong_conversions_do_not_pass(wrong: str, epsilon: str, level: str) -> None:
    call = f"y, , , z = SkipLayerNormalization<epsilon = {epsilon}>(a, b, gamma, beta, vector)"
    proto = skip(call, "float[B,S,8] y, float[B,S,8] z")
    fused = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none", fold_bias=True)).model
    (node,) = [node for node in fused.graph.node if node.domain == "graphfuse"]
    if "bias" in wrong:
        assert node.op_type == "AddBiasLayerNormalization"
    if wrong == "the other default of epsilon":
        attributes = [a for a in node.attribute if a.name != "epsilon"]
        copies = onnx.NodeProto(attribute=attributes).attribute
        del node.attribute[:]
        node.attribute.extend(copies)
    elif wrong == "bias dropped":
        node.op_type = "AddLayerNormalization"
        node.input.pop()
        body = graphfuse.fuse(residual("y = LayerNormalization(x, scale, bias)")).model.functions[0]
        fused.functions.append(body)
    else:
        WRONG[wrong](node)
    assert graphfuse.validate(proto, fused, level=level).verdict != "pass"


def test_a_fused_node_that_yields_no_norm_is_left_alone() -> None:
    """With its sum alone, or nothing, there is no norm to be a site."""
    proto = skip("z = Relu(a)", "float[B,S,8] z")
    for outputs in ([], ["", "", "", "s"]):
        odd = onnx.ModelProto.FromString(proto.SerializeToString())
        inputs = ["a", "b", "gamma"]
        odd.graph.initializer.append(numpy_helper.from_array(VECTORS["gamma"], "gamma"))
        odd.graph.node.append(
            helper.make_node("SkipLayerNormalization", inputs, outputs, domain="com.microsoft")
        )
        assert not graphfuse.scan(odd).sites
        assert not graphfuse.fuse(odd).changed
        assert not graphfuse.unfuse(odd).changed

"""Norms that exporters write so that they cannot be fused as they are: each is a near miss.

Each from a public report, rebuilt in small. The reason is true, and what it advises makes a site.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

import graphfuse
from graphfuse.cli import app
from graphfuse.records.reasons import Reason
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, model, residual

FIXED = {"inputs": "float[2,3,8] a, float[2,3,8] b", "outputs": "float[2,3,8] y"}
IMAGE = {"inputs": "float[2,3,4,8] a, float[2,3,4,8] b", "outputs": "float[2,3,4,8] y"}
CHANNELS = {"inputs": "float[B,8,1,S] a, float[B,8,1,S] b", "outputs": "float[B,8,1,S] y"}
RNG = np.random.default_rng(12)
NUMBERS = {
    "least": np.array(1e-12, np.float32),
    "long": np.array([np.sqrt(8)], np.float32),
    "rows": np.array([1, 6, 8], np.int64),
    "back": np.array([2, 3, 8], np.int64),
    "ones": np.ones(6, np.float32),
    "none": np.zeros(6, np.float32),
    "pairs": np.array([2, 2, 2, 8], np.int64),
    "at0": np.array([0], np.int64),
    "at1": np.array([1], np.int64),
    "at2": np.array([2], np.int64),
    "twice": np.ones(16, np.float32),
    "halves": np.array([8, 8], np.int64),
    "token": np.ones((2, 1, 8), np.float32),
    "pads": np.array([0, 1, 0, 0, 0, 0], np.int64),
    "zero": np.array(0, np.float32),
    "at": np.array([[0, 0]], np.int64),
    "new": np.ones((1, 8), np.float32),
    "wide_scale": RNG.normal(1, 0.3, (1, 8, 1, 1)).astype(np.float32),
}
AFFINE = "s = Mul(n, scale) y = Add(s, bias)"
LAYER_NORM = "y = LayerNormalization({}, scale, bias)"
LENGTH = "l = ReduceL2<axes=[-1], keepdims=1>(x) k = {} sh = Shape(x) e = Expand(k, sh)"
MASKED = "float[2,3,8] a, float[2,3,8] b, bool[2,3,1] mask"

CASES = {
    # MindSpore's exporter writes its LayerNorm so (OP_MERGE_LAYER_NORM); onnx/onnx#2379.
    "onnx#2379": (
        f"n = MeanVarianceNormalization<axes=[2]>(x) {AFFINE}",
        {"opset": 11, "ir": 6},
        Reason.EPSILON_OUTSIDE_ROOT,
        "MeanVarianceNormalization",
    ),
    "onnx#2379, from the end": (
        f"n = MeanVarianceNormalization<axes=[-1]>(x) {AFFINE}",
        {},
        Reason.EPSILON_OUTSIDE_ROOT,
        "MeanVarianceNormalization",
    ),
    "onnx-chainer#58": (
        "n = LpNormalization<axis=-1, p=2>(x) m = Mul(n, long) y = Mul(m, scale)",
        {},
        Reason.EPSILON_NOT_POSITIVE,
        "LpNormalization",
    ),
    "pytorch#32041": (
        f"{LENGTH.format('Clip(l, least)')} n = Div(x, e) m = Mul(n, long) y = Mul(m, scale)",
        {},
        Reason.STATISTIC_CLAMPED,
        "Clip",
    ),
    "pytorch#32041, opset 9": (
        f"{LENGTH.format('Clip<min = 1e-12>(l)')} n = Div(x, e) y = Mul(n, scale)",
        {"opset": 9, "ir": 4},
        Reason.STATISTIC_CLAMPED,
        "Clip",
    ),
    # Anemll's RMSNorm for a machine that has LayerNorms only.
    "an RMSNorm as the LayerNorm of [x, -x]": (
        "k = Neg(x) c = Concat<axis=-1>(x, k) n = LayerNormalization(c, twice) "
        "h, o = Split<axis=-1>(n, halves) y = Mul(h, scale)",
        {},
        Reason.SUM_JOINED,
        "Concat",
    ),
    "a token before the rows": (
        f"c = Concat<axis=1>(token, x) {LAYER_NORM.format('c')}",
        {**FIXED, "outputs": "float[2,4,8] y"},
        Reason.SUM_JOINED,
        "Concat",
    ),
    "rows of zeros around it": (
        f"c = Pad(x, pads) {LAYER_NORM.format('c')}",
        {**FIXED, "outputs": "float[2,4,8] y"},
        Reason.SUM_JOINED,
        "Pad",
    ),
    "rows that a mask leaves out": (
        f"c = Where(mask, x, zero) {LAYER_NORM.format('c')}",
        {**FIXED, "inputs": MASKED},
        Reason.SUM_JOINED,
        "Where",
    ),
    "a row that is written into it": (
        f"c = ScatterND(x, at, new) {LAYER_NORM.format('c')}",
        FIXED,
        Reason.SUM_JOINED,
        "ScatterND",
    ),
    "patches that are merged": (
        "f = Reshape(x, pairs) p = Slice(f, at0, at1, at2) q = Slice(f, at1, at2, at2) "
        "c = Concat<axis=-1>(p, q) y = LayerNormalization(c, twice)",
        {
            "inputs": "float[2,4,8] a, float[2,4,8] b",
            "outputs": "float[2,2,1,16] y",
        },
        Reason.SUM_JOINED,
        "Concat",
    ),
    "coremltools#1972, channels first": (
        DECOMPOSED_LAYER_NORM.replace("axes=[-1]", "axes=[1]").replace(
            "s = Mul(n, scale)\n    y = Add(s, bias)", "y = Mul(n, wide_scale)"
        ),
        {"opset": 13, **CHANNELS},
        Reason.OTHER_AXES,
        "Mul",
    ),
}


@pytest.mark.parametrize("report", CASES)
def test_what_cannot_be_fused_is_named(report: str, tmp_path: Path) -> None:
    body, options, reason, culprit = CASES[report]
    proto = residual(body, constants=NUMBERS, **options)
    onnx.save(proto, tmp_path / "model.onnx")
    found = graphfuse.scan(tmp_path / "model.onnx")
    assert not found.sites
    (miss,) = found.near_misses
    assert (miss.reason, miss.culprit.op_type) == (reason, culprit)
    assert miss.add.op_type == "Add"
    shown = CliRunner().invoke(app, ["explain", str(tmp_path / "model.onnx"), "m1"])
    assert shown.exit_code == 0, shown.output
    assert reason.value in shown.output
    result = graphfuse.optimize(tmp_path / "model.onnx", tmp_path / "out.onnx")
    assert not result.fused
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


ADVICE = {
    "sqrt(variance + epsilon) in place of MeanVarianceNormalization": DECOMPOSED_LAYER_NORM,
    "an epsilon under the root, as MeanVarianceNormalization is a function": (
        DECOMPOSED_LAYER_NORM.replace("n = Div(d, r)", "i = Reciprocal(r) n = Mul(d, i)")
    ),
    "an epsilon under the root in place of the clamp": (
        "l = ReduceSumSquare<axes=[-1], keepdims=1>(x) t = Add(l, eps) k = Sqrt(t) sh = Shape(x) "
        "e = Expand(k, sh) n = Div(x, e) m = Mul(n, long) y = Mul(m, scale)"
    ),
    "LayerNormalization in place of InstanceNormalization": LAYER_NORM.format("x"),
    "the RMSNorm alone": DECOMPOSED_RMS_NORM,
    "normalised before the rows are joined": (
        "n = LayerNormalization(x, scale, bias) t = LayerNormalization(token, scale, bias) "
        "y = Concat<axis=1>(t, n)"
    ),
}


@pytest.mark.parametrize("advice", ADVICE)
def test_what_is_advised_makes_a_site(advice: str, tmp_path: Path) -> None:
    outputs = "float[2,4,8] y" if "joined" in advice else FIXED["outputs"]
    sizes = {**FIXED, "outputs": outputs}
    onnx.save(residual(ADVICE[advice], constants=NUMBERS, **sizes), tmp_path / "model.onnx")
    result = graphfuse.optimize(tmp_path / "model.onnx", tmp_path / "out.onnx", level="full")
    assert len(result.fused) == 1
    assert result.validation is not None
    assert result.validation.passed


UNKNOWN = {
    "efficient-transformers#19": ("com.qti.aisw.onnx", "CustomRMSNorm", {}),
    "TensorRT#2113": ("", "LayerNorm", {}),
    "mmdeploy's own": ("mmdeploy", "layer_norm", {}),
    "pytorch#16442": ("org.pytorch.aten", "ATen", {"operator": "layer_norm"}),
    "onnxruntime#10648": (
        "com.microsoft",
        "PythonOp",
        {"name": "FusedLayerNormAffineFunction"},
    ),
}


def unknown(report: str, function: bool = False) -> onnx.ModelProto:
    """x = a + b, read by an operator that only its name says something of."""
    domain, op_type, attributes = UNKNOWN[report]
    proto = residual("y = Identity(x)")
    node = proto.graph.node[1]
    node.op_type, node.domain = op_type, domain
    node.input.append("scale")
    node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "scale"))
    if function:
        body = [helper.make_node("LayerNormalization", ["x", "w"], ["y"])]
        imports = [helper.make_opsetid("", 17)]
        proto.functions.append(
            helper.make_function(domain, op_type, ["x", "w"], ["y"], body, imports)
        )
    return proto


@pytest.mark.parametrize("report", UNKNOWN)
def test_an_operator_that_is_called_a_norm_is_named(report: str) -> None:
    found = graphfuse.scan(unknown(report))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.NORM_UNKNOWN]
    assert found.near_misses[0].culprit.op_type == UNKNOWN[report][1]


def test_a_function_of_that_name_makes_a_site() -> None:
    result = graphfuse.fuse(unknown("efficient-transformers#19", function=True))
    assert len(result.fused) == 1
    assert not result.left


SILENT = {
    "a custom operator with another name": ("my", "Normalizer"),
    "a norm over the batch": ("my", "BatchNorm"),
    "an operator of onnxruntime": ("com.microsoft", "GroupNorm"),
}


@pytest.mark.parametrize("case", SILENT)
def test_other_operators_are_no_near_misses(case: str) -> None:
    proto = residual("y = Identity(x)")
    proto.graph.node[1].domain, proto.graph.node[1].op_type = SILENT[case]
    proto.opset_import.append(helper.make_opsetid(SILENT[case][0], 1))
    assert not graphfuse.scan(proto).near_misses


ELSEWHERE = {
    "the sum is a bias": f"x = Add(a, bias) n = MeanVarianceNormalization<axes=[2]>(x) {AFFINE}",
    "groups of channels": "x = Add(a, b) y = GroupNormalization<num_groups=3>(x, three, three)",
    "a length of order 1": "x = Add(a, b) y = LpNormalization<p=1>(x)",
    "a custom norm of a product": "x = Mul(a, b) y = my.LayerNorm(x)",
    "rows that are moved": (
        "x = Add(a, b) t = Transpose<perm=[0,1,3,2]>(x) y = InstanceNormalization(t, three, three)"
    ),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_is_no_norm_of_a_residual_is_nothing(case: str) -> None:
    sizes = {**IMAGE, "outputs": "float[2,3,D,E] y"}
    if case == "rows that are moved":
        # As many columns as rows: it is over both.
        sizes["inputs"] = "float[2,3,8,8] a, float[2,3,8,8] b"
    proto = model(
        ELSEWHERE[case],
        constants={"three": np.ones(3, np.float32)},
        extra_imports=', "my" : 1',
        opset=21,
        ir=10,
        **sizes,
    )
    found = graphfuse.scan(proto)
    assert not found.sites
    assert not [miss for miss in found.near_misses if miss.reason is not Reason.VECTOR_OPERAND]


def test_a_skip_that_is_absent_is_said_to_be() -> None:
    """An exporter that leaves it out where nothing is added; onnxruntime refuses the file."""
    proto = model(
        "x = Add(a, b) y = com.microsoft.SkipSimplifiedLayerNormalization(x, , scale)",
        extra_imports=', "com.microsoft" : 1',
    )
    assert [miss.got for miss in graphfuse.scan(proto).near_misses] == ["it has no skip"]

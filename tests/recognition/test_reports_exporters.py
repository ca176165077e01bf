"""Norms as exporters and converters write them, each from a public report, rebuilt in small.

These fuse: what is written is right at every level of onnxruntime, with and without the kernels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphfuse
from tests.support.graphs import DECOMPOSED_RMS_NORM, kinds, residual
from tests.support.levels import assert_right_everywhere, optimized

RNG = np.random.default_rng(11)
HALF = {"inputs": "float16[B,S,8] a, float16[B,S,8] b", "outputs": "float16[B,S,8] y"}
FIXED = {"inputs": "float[2,3,8] a, float[2,3,8] b", "outputs": "float[2,3,8] y"}
WEIGHTS = {
    "scale": RNG.normal(1, 0.3, 8).astype(np.float32),
    "bias": RNG.normal(0, 0.3, 8).astype(np.float32),
}
NARROW = {name: array.astype(np.float16) for name, array in WEIGHTS.items()}
NUMBERS = {
    "two": np.array(2, np.float32),
    "one": np.array(1, np.float32),
    "eight": np.array(8, np.float32),
    "half_two": np.array(2, np.float16),
    "wide_two": np.array(2, np.float64),
    "wide_eps": np.array(1e-8, np.float64),
    "at0": np.array([0], np.int64),
    "at1": np.array([1], np.int64),
    "at2": np.array([2], np.int64),
    "at3": np.array([3], np.int64),
    "row": np.array([1, 1, 8], np.int64),
    "i0": np.array(0, np.int64),
    "i1": np.array(1, np.int64),
    "step": np.array([-1], np.int64),
}

LN_WITH = """
    m = ReduceMean<axes=[{axis}]>(x) d = Sub(x, m) q = Pow(d, two)
    v = ReduceMean<axes=[{axis}]>(q) e = Add(v, eps) r = Sqrt(e) n = Div(d, r)
"""
# pytorch/pytorch#22265: the first exporter of layer_norm, opset 9.
RAW_MOMENTS = """
    m = ReduceMean<axes=[-1]>(x) p = Pow(x, two) mm = Pow(m, two) pm = ReduceMean<axes=[-1]>(p)
    v = Sub(pm, mm) d = Sub(x, m) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) s = Mul(n, scale)
    y = Add(s, bias)
"""
# pytorch/pytorch#86580: in float16 the deviation goes to the type of a float64 epsilon and back.
THROUGH_FLOAT64 = """
    m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) w = Cast<to=11>(d) q = Pow(w, wide_two)
    v = ReduceMean<axes=[-1]>(q) e = Add(v, wide_eps) r = Sqrt(e) f = Div(w, r) n = Cast<to=10>(f)
    s = Mul(n, scale) y = Add(s, bias)
"""
# google/flax#4430: jax2tf and tf2onnx put axes back by Reshape, and repeat up to the shape of x.
JAX = """
    t = ReduceSum<keepdims=0>(x, at2) m = Div(t, eight) sh = Shape(x) lead = Slice(sh, at0, at2)
    put = Concat<axis=0>(lead, at1) m3 = Reshape(m, put) mb = Expand(m3, sh) d = Sub(x, mb)
    q = Mul(d, d) u = ReduceSum<keepdims=0>(q, at2) v = Div(u, eight) v3 = Reshape(v, put)
    e = Add(v3, eps) r = Sqrt(e) i = Reciprocal(r) ib = Expand(i, sh) n = Mul(d, ib)
    g = Reshape(scale, row) gb = Expand(g, sh) s = Mul(n, gb) c = Reshape(bias, row)
    cb = Expand(c, sh) y = Add(s, cb)
"""
# apache/mxnet#14653, mx2onnx: an axis other than -1 makes the shape of gamma by comparing numbers.
MXNET = (
    LN_WITH.format(axis=2)
    + """
    sh = Shape(x) di = Shape(sh) ds = Squeeze(di) all = Range(i0, ds, i1) eq = Equal(all, at2)
    hot = Cast<to=7>(eq) sl = Slice(sh, at2, at3) ss = Squeeze(sl) less = Sub(ss, i1)
    mh = Mul(hot, less) form = Add(mh, i1) g = Reshape(scale, form) c = Reshape(bias, form)
    gb = Expand(g, sh) cb = Expand(c, sh) s = Mul(n, gb) y = Add(s, cb)
"""
)
# PaddlePaddle/Paddle2ONNX#718: gamma is reshaped to the extents that are taken from x.
PADDLE = (
    LN_WITH.format(axis=2)
    + """
    sh = Shape(x) sl = Slice(sh, at2, at3) g = Reshape(scale, sl) c = Reshape(bias, sl)
    s = Mul(n, g) y = Add(s, c)
"""
)
# apple/coremltools#1972, ml-ane-transformers: the bias comes before the scale.
BIAS_FIRST = LN_WITH.format(axis=-1) + "s = Add(n, bias) y = Mul(s, scale)"
# huggingface/optimum#1092, T5: a cast of float32 to float32, 1 / root, the weight on the left.
T5 = """
    c = Cast<to=1>(x) q = Pow(c, two) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e)
    i = Div(one, r) n = Mul(x, i) y = Mul(scale, n)
"""
# keras-team/keras#20710, Keras 3: x * f + (beta - mean * f), f = gamma / root.
KERAS = """
    m = ReduceMean<axes=[2]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[2]>(q)
    g = Reshape(scale, row) c = Reshape(bias, row) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r)
    f = Mul(i, g) xf = Mul(x, f) k = Neg(m) mf = Mul(k, f) rest = Add(mf, c) y = Add(xf, rest)
"""
# NVIDIA/TransformerEngine#2406: the norm in float32, and 1 + gamma in float16.
ZERO_CENTRED = """
    w = Cast<to=1>(x) sh = Shape(scale) o = ConstantOfShape<value = float16[1] {1}>(sh)
    g = Add(scale, o) q = Pow(w, two) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e)
    i = Reciprocal(r) f = Mul(w, i) n = Cast<to=10>(f) y = Mul(n, g)
"""
# microsoft/onnxruntime#13556: autocast writes the norm in float32, and casts around it.
AUTOCAST = "w = Cast<to=1>(x) n = LayerNormalization(w, scale, bias) y = Cast<to=10>(n)"

CASES = {
    "pytorch#22265": (RAW_MOMENTS, {"opset": 9, "ir": 4}),
    "pytorch#86580": (THROUGH_FLOAT64, {"opset": 14, **HALF}),
    "flax#4430": (JAX, {"opset": 13}),
    "flax#4430, fixed": (JAX, {"opset": 13, **FIXED}),
    "mxnet#14653": (MXNET, {"opset": 12, "ir": 7}),
    "Paddle2ONNX#718": (PADDLE, {"opset": 11, "ir": 6}),
    "coremltools#1972": (BIAS_FIRST, {"opset": 13}),
    "optimum#1092": (T5, {"opset": 9, "ir": 4}),
    "keras#20710": (KERAS, {"opset": 15}),
    "TransformerEngine#2406": (ZERO_CENTRED, {"opset": 15, **HALF}),
    "onnxruntime#13556": (AUTOCAST, {**HALF}),
    "onnx-mlir#2647": (DECOMPOSED_RMS_NORM.replace("y =", "t =") + "y = Add(t, bias)", {}),
}
LEFT_BEHIND = {
    "mxnet#14653": 17,
    "coremltools#1972": 4,
    "onnx-mlir#2647": 1,
    "TransformerEngine#2406": 3,
}
"""Nodes beside the fused one: shapes of gamma, bias * scale, a bias of an RMSNorm, 1 + gamma."""


def exported(report: str) -> onnx.ModelProto:
    body, options = CASES[report]
    narrow = report in ("pytorch#86580", "TransformerEngine#2406")
    constants = {**NUMBERS, **(NARROW if narrow else WEIGHTS)}
    return residual(body, constants=constants, **options)


@pytest.mark.parametrize("report", CASES)
def test_what_exporters_write_fuses(report: str, tmp_path: Path) -> None:
    proto = exported(report)
    onnx.checker.check_model(proto, full_check=True)
    result = optimized(proto, tmp_path)
    assert len(result.fused) == 1
    assert not result.left
    written = onnx.load(tmp_path / "after.onnx")
    assert len(written.graph.node) == 1 + LEFT_BEHIND.get(report, 0)
    assert_right_everywhere(proto, written)
    plain = graphfuse.unfuse(tmp_path / "after.onnx").model
    assert all(node.domain == "" for node in plain.graph.node)
    assert_right_everywhere(proto, plain)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_scale_that_is_repeated_up_to_x_is_the_scale(fixed: bool) -> None:
    """Both were left as nodes of their own, and with free extents the norm was no site at all."""
    result = graphfuse.fuse(exported("flax#4430, fixed" if fixed else "flax#4430"))
    assert kinds(result.model) == ["AddLayerNormalization"]


def test_what_is_repeated_further_than_x_is_not() -> None:
    """A mean of [1,3,1] that is repeated to [2,3,8] beside an x of [1,3,8] enlarges it."""
    body = """
        m = ReduceMean<axes=[-1]>(x) mb = Expand(m, wide) d = Sub(x, mb) q = Mul(d, d)
        v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e) y = Div(d, r)
    """
    proto = residual(
        body,
        constants={"wide": np.array([2, 3, 8], np.int64)},
        inputs="float[1,3,8] a, float[1,3,8] b",
        outputs="float[2,3,8] y",
    )
    assert not graphfuse.scan(proto).sites


MIXED = {
    "weights of float16 (pytorch#190338)": (NARROW, {}),
    "weights of float32 beside float16": (WEIGHTS, HALF),
}


@pytest.mark.parametrize("case", MIXED)
def test_weights_of_another_type_end_in_one_line(case: str, tmp_path: Path) -> None:
    """pytorch/pytorch#190338: onnxruntime refuses the file, and says why: exit code 4."""
    weights, options = MIXED[case]
    proto = residual("y = LayerNormalization(x, scale, bias)", constants=weights, **options)
    onnx.save(proto, tmp_path / "before.onnx")
    with pytest.raises(graphfuse.OriginalModelError) as caught:
        graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx")
    assert caught.value.exit_code == 4
    assert "bound to different types" in caught.value.message
    assert not (tmp_path / "after.onnx").exists()


FUNCTIONS = {
    # pytorch/pytorch#149940: the wrapper of PyTorch's exporter, its attributes given by each call.
    "pytorch#149940": """
        <ir_version: 10, opset_import: ["" : 18, "pkg.onnxscript.torch_lib" : 1]>
        g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {
            x = Add(a, b)
            h = pkg.onnxscript.torch_lib._aten_layer_norm_onnx<axis = -1, epsilon = 1e-5>(
                x, scale, bias)
            z = Add(h, x)
            y = pkg.onnxscript.torch_lib._aten_layer_norm_onnx<axis = -1, epsilon = 1e-6>(
                z, scale, bias)
        }
        <domain: "pkg.onnxscript.torch_lib", opset_import: ["" : 18]>
        _aten_layer_norm_onnx <axis, epsilon> (input, weight, bias) => (result) {
            result, m, i = LayerNormalization<axis: int = @axis, epsilon: float = @epsilon>(
                input, weight, bias)
        }
    """,
    # pytorch/pytorch#63589: export_modules_as_functions.
    "pytorch#63589": """
        <ir_version: 8, opset_import: ["" : 15, "torch.nn.modules.normalization" : 1]>
        g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {
            x = Add(a, b)
            h = torch.nn.modules.normalization.LayerNorm<eps = 1e-5>(x, scale, bias)
            z = Add(h, x)
            y = torch.nn.modules.normalization.LayerNorm<eps = 1e-6>(z, scale, bias)
        }
        <domain: "torch.nn.modules.normalization", opset_import: ["" : 15]>
        LayerNorm <eps> (x, weight, bias) => (y) {
            m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) two = Constant<value_float=2.0>()
            q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)
            ep = Constant<value_float: float = @eps>() e = Add(v, ep) r = Sqrt(e) n = Div(d, r)
            s = Mul(n, weight) y = Add(s, bias)
        }
    """,
    # quic/efficient-transformers#19: an RMSNorm as a function whose epsilon is repeated.
    "efficient-transformers#19": """
        <ir_version: 8, opset_import: ["" : 13, "com.qti.aisw.onnx" : 1]>
        g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {
            x = Add(a, b)
            h = com.qti.aisw.onnx.CustomRMSNorm<epsilon = 1e-5>(x, scale)
            z = Add(h, x)
            y = com.qti.aisw.onnx.CustomRMSNorm<epsilon = 1e-6>(z, scale)
        }
        <domain: "com.qti.aisw.onnx", opset_import: ["" : 13]>
        CustomRMSNorm <epsilon> (h, w) => (o) {
            two = Constant<value_float=2.0>() q = Pow(h, two)
            v = ReduceMean<axes=[-1], keepdims=1>(q)
            ep = Constant<value_float: float = @epsilon>() sh = Shape(v) es = Expand(ep, sh)
            e = Add(v, es) r = Sqrt(e) i = Reciprocal(r) n = Mul(h, i) o = Mul(w, n)
        }
    """,
}


@pytest.mark.parametrize("report", FUNCTIONS)
def test_functions_of_exporters_are_seen_through(report: str, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(FUNCTIONS[report])
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in read
    )
    result = optimized(proto, tmp_path)
    assert [round(f.site.epsilon, 8) for f in result.fused] == [1e-5, 1e-6]
    assert_right_everywhere(proto, onnx.load(tmp_path / "after.onnx"))

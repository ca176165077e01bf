"""What is found and what is refused, case by case; reasons are members, never texts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.records import NormKind
from graphfuse.records.reasons import Reason
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, model, residual

LN = DECOMPOSED_LAYER_NORM
RMS = DECOMPOSED_RMS_NORM
TWO = {"two": np.array(2, np.float32)}

LEGAL = {
    "LayerNormalization": (
        "y = LayerNormalization<axis=-1>(x, scale, bias)",
        {},
        NormKind.LAYER_NORM,
    ),
    "LayerNormalization, last axis by index": (
        "y = LayerNormalization<axis=2>(x, scale, bias)",
        {},
        NormKind.LAYER_NORM,
    ),
    "LayerNormalization, no bias": ("y = LayerNormalization(x, scale)", {}, NormKind.LAYER_NORM),
    "RMSNormalization": (
        "y = RMSNormalization<axis=-1>(x, scale)",
        {"opset": 23, "ir": 11},
        NormKind.RMS_NORM,
    ),
    "SimplifiedLayerNormalization": (
        "y = SimplifiedLayerNormalization(x, scale)",
        {},
        NormKind.RMS_NORM,
    ),
    "decomposed LayerNorm": (LN, {}, NormKind.LAYER_NORM),
    "decomposed RMSNorm": (RMS, {}, NormKind.RMS_NORM),
    "opset 18 axes as an input": (
        LN.replace("<axes=[-1], keepdims=1>(x)", "(x, axes)").replace(
            "<axes=[-1], keepdims=1>(q)", "(q, axes)"
        ),
        {"opset": 18, "constants": {"axes": np.array([-1], np.int64)}},
        NormKind.LAYER_NORM,
    ),
    "Pow 2": (LN.replace("Mul(d, d)", "Pow(d, two)"), {"constants": TWO}, NormKind.LAYER_NORM),
    "Reciprocal": (
        RMS.replace("n = Div(x, r)", "i = Reciprocal(r) n = Mul(x, i)"),
        {},
        NormKind.RMS_NORM,
    ),
    "mean of squares less square of mean": (
        LN.replace("q = Mul(d, d)", "q = Mul(x, x)").replace(
            "e = Add(v, eps)", "mm = Mul(m, m) vv = Sub(v, mm) e = Add(vv, eps)"
        ),
        {},
        NormKind.LAYER_NORM,
    ),
    "without scale and bias": (
        LN.replace("n = Div(d, r)", "y = Div(d, r)").split("s = Mul")[0],
        {},
        NormKind.LAYER_NORM,
    ),
    "scale only": (
        LN.replace("s = Mul(n, scale)", "y = Mul(n, scale)").split("y = Add")[0],
        {},
        NormKind.LAYER_NORM,
    ),
    "bias of a computed vector": (
        LN.replace("s = Mul(n, scale)", "w = Add(scale, one) s = Mul(n, w)"),
        {"constants": {"one": np.array(1, np.float32)}},
        NormKind.LAYER_NORM,
    ),
    "sum of squares by ReduceSumSquare": (
        RMS.replace("q = Mul(x, x)", "")
        .replace(
            "ReduceMean<axes=[-1], keepdims=1>(q)", "ReduceSumSquare<axes=[-1], keepdims=1>(x)"
        )
        .replace("e = Add(v, eps)", "w = Div(v, n8) e = Add(w, eps)"),
        {"constants": {"n8": np.array(8, np.float32)}},
        NormKind.RMS_NORM,
    ),
    "a variance put back as PyTorch's exporter does": (
        LN.replace(
            "v = ReduceMean<axes=[-1], keepdims=1>(q)",
            """w = ReduceMean<axes=[-1], keepdims=0>(q) h0 = Shape<start=0, end=1>(w)
               h1 = Shape<start=1, end=2>(w) k0 = Reshape(h0, last) k1 = Reshape(h1, last)
               t = Concat<axis=0>(k0, k1, one) z = Reshape(w, t)
               i0 = Shape<start=0, end=1>(a) i1 = Shape<start=1, end=2>(a)
               u = Concat<axis=0>(i0, i1, one) v = Expand(z, u)""",
        ),
        {"constants": {"last": np.array([-1]), "one": np.array([1])}},
        NormKind.LAYER_NORM,
    ),
    "n from the shape": (
        RMS.replace("q = Mul(x, x)", "q = Mul(x, x) t = ReduceSum(q, last)").replace(
            "v = ReduceMean<axes=[-1], keepdims=1>(q)",
            "h = Shape(x) i = Gather(h, at) n0 = Cast<to=1>(i) v = Div(t, n0)",
        ),
        {"constants": {"last": np.array([-1]), "at": np.array(2)}},
        NormKind.RMS_NORM,
    ),
    "n - 1 from the shape": (
        LN.replace(
            "v = ReduceMean<axes=[-1], keepdims=1>(q)",
            """w = ReduceMean<axes=[-1], keepdims=1>(q) h = Shape(x) i = Gather(h, at)
               n0 = Cast<to=1>(i) n1 = Sub(n0, one) c = Div(n0, n1) v = Mul(w, c)""",
        ),
        {"constants": {"at": np.array(-1), "one": np.array(1, np.float32)}},
        NormKind.LAYER_NORM,
    ),
    "through Identity and Cast": (
        "i = Identity(x) c = Cast<to=1>(i) y = LayerNormalization(c, scale, bias)",
        {},
        NormKind.LAYER_NORM,
    ),
    "a single reduction put back by Unsqueeze": (
        RMS.replace("keepdims=1>(q)", "keepdims=0>(q)").replace(
            "n = Div(x, r)", "u = Unsqueeze(r, last) n = Div(x, u)"
        ),
        {"constants": {"last": np.array([-1], np.int64)}},
        NormKind.RMS_NORM,
    ),
}


@pytest.mark.parametrize("case", LEGAL)
def test_legal_spellings_are_sites(case: str) -> None:
    norm, options, kind = LEGAL[case]
    proto = residual(norm, **options)
    found = graphfuse.scan(proto)
    assert [site.kind for site in found.sites] == [kind], found.near_misses
    assert not found.near_misses
    site = found.sites[0]
    assert (site.sum, site.output) == ("x", "y")
    assert site.epsilon == pytest.approx(1e-5 * (7 / 8 if "n - 1" in case else 1), rel=1e-6)


def test_float16_norm_in_float32() -> None:
    scale = np.ones(8, np.float16)
    proto = residual(
        """
        c = Cast<to=1>(x)
        q = Mul(c, c)
        v = ReduceMean<axes=[-1], keepdims=1>(q)
        e = Add(v, eps)
        r = Sqrt(e)
        n = Div(c, r)
        h = Cast<to=10>(n)
        y = Mul(h, scale)
        """,
        inputs="float16[B,S,8] a, float16[B,S,8] b",
        outputs="float16[B,S,8] y",
        constants={"scale": scale},
    )
    found = graphfuse.scan(proto)
    assert [site.elem_type for site in found.sites] == [onnx.TensorProto.FLOAT16]


NEAR = {
    "scale that varies": (
        "y = LayerNormalization(x, scale)",
        {"constants": {"scale": np.ones((3, 8), np.float32)}},
        Reason.PARAMETER_VARIES,
    ),
    "scale of more axes": (
        "y = LayerNormalization(x, scale)",
        {"constants": {"scale": np.ones((1, 1, 1, 8), np.float32)}},
        Reason.PARAMETER_ENLARGES,
    ),
    "epsilon outside the root": (
        RMS.replace("e = Add(v, eps)", "").replace("r = Sqrt(e)", "t = Sqrt(v) r = Add(t, eps)"),
        {},
        Reason.EPSILON_OUTSIDE_ROOT,
    ),
    "no root": (RMS.replace("r = Sqrt(e)", "r = Identity(e)"), {}, Reason.EXPONENT),
    "cube root": (
        RMS.replace("r = Sqrt(e)", "r = Pow(e, third)"),
        {"constants": {"third": np.array(0.25, np.float32)}},
        Reason.EXPONENT,
    ),
    "no epsilon": (
        RMS.replace("e = Add(v, eps)", "e = Identity(v)"),
        {},
        Reason.EPSILON_NOT_POSITIVE,
    ),
    "negative epsilon": (
        RMS,
        {"constants": {"eps": np.array(-1e-5, np.float32)}},
        Reason.EPSILON_NOT_POSITIVE,
    ),
    "epsilon is an input": (
        RMS,
        {"inputs": "float[B,S,8] a, float[B,S,8] b, float[1] eps"},
        Reason.EPSILON_NOT_CONSTANT,
    ),
    "epsilon varies": (
        RMS,
        {"inputs": "float[B,S,8] a, float[B,S,8] b, float[B,1,1] eps"},
        Reason.EPSILON_NOT_CONSTANT,
    ),
    "another axis": (
        RMS.replace("axes=[-1]", "axes=[1]"),
        {"inputs": "float[B,8,8] a, float[B,8,8] b", "outputs": "float[B,8,8] y"},
        Reason.OTHER_AXES,
    ),
    "axis not put back": (
        RMS.replace("keepdims=1", "keepdims=0"),
        {"inputs": "float[8,8] a, float[8,8] b", "outputs": "float[8,8] y"},
        Reason.AXIS_NOT_PUT_BACK,
    ),
    "mean of another tensor": (
        LN.replace("d = Sub(x, m)", "mh = Mul(m, half) d = Sub(x, mh)"),
        {"constants": {"half": np.array(0.5, np.float32)}},
        Reason.NOT_THE_DEFINITION,
    ),
    "scale of a wider type": (
        "c = Cast<to=11>(x) n = LayerNormalization(c, wide, wide) y = Cast<to=1>(n)",
        {"constants": {"wide": np.full(8, 0.1)}},
        Reason.PARAMETER_TYPE,
    ),
    "output of another type": (
        "c = Cast<to=1>(x) y = LayerNormalization(c, scale, bias)",
        {"inputs": "float16[B,S,8] a, float16[B,S,8] b"},
        Reason.OUTPUT_TYPE,
    ),
    "precision lost inside": (
        RMS.replace("n = Div(x, r)", "h = Cast<to=10>(r) w = Cast<to=1>(h) n = Div(x, w)"),
        {},
        Reason.PRECISION_LOST,
    ),
    "bias vector, not a residual": (
        "y = LayerNormalization(x, scale, bias)",
        {"inputs": "float[B,S,8] a", "constants": {"b": np.ones(8, np.float32)}},
        Reason.VECTOR_OPERAND,
    ),
    "constant sum": (
        "z = LayerNormalization(x, scale, bias) y = Add(z, c)",
        {
            "inputs": "float[B,S,8] c",
            "constants": {"a": np.ones((2, 8), np.float32), "b": np.ones((2, 8), np.float32)},
        },
        Reason.CONSTANT_SUM,
    ),
    "the mean is read": (
        "y, m = LayerNormalization(x, scale, bias)",
        {"outputs": "float[B,S,8] y, float[B,S,1] m"},
        Reason.STATISTICS_READ,
    ),
    "float64 epsilon": (
        RMS,
        {
            "inputs": "double[B,S,8] a, double[B,S,8] b",
            "outputs": "double[B,S,8] y",
            "constants": {"scale": np.ones(8), "eps": np.array(1e-5)},
        },
        Reason.EPSILON_PRECISION,
    ),
}


@pytest.mark.parametrize("case", NEAR)
def test_near_misses_have_their_reason(case: str) -> None:
    norm, options, reason = NEAR[case]
    found = graphfuse.scan(residual(norm, **options))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [reason]
    assert found.near_misses[0].add.op_type == "Add"


@pytest.mark.parametrize("shape", [(3, 1, 8), (1, 3, 8), (3, 3, 8), (3, 8)])
def test_scale_that_varies_stays_outside(shape: tuple[int, ...]) -> None:
    """The norm before such a scale is multiplied in is a site of its own, with scale 1."""
    found = graphfuse.scan(residual(RMS, constants={"scale": np.full(shape, 0.5, np.float32)}))
    assert [(site.output, site.scale) for site in found.sites] == [("n", None)]


def test_scale_from_the_sum_itself_is_no_site() -> None:
    proto = residual(
        "w = ReduceMax<axes=[0, 1], keepdims=0>(x) " + RMS.replace("Mul(n, scale)", "Mul(n, w)"),
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[2,3,8] y",
    )
    found = graphfuse.scan(proto)
    # The plain norm inside is legal: only its product with w is not.
    assert [site.output for site in found.sites] == ["n"]


def test_mean_pooling_of_a_sum_is_not_a_norm() -> None:
    proto = residual("y = ReduceMean<axes=[1], keepdims=1>(x)", outputs="float[B,1,8] y")
    found = graphfuse.scan(proto)
    assert not found.sites
    assert not found.near_misses


def test_two_norms_on_one_sum_fuse_the_first() -> None:
    proto = residual(
        "y = LayerNormalization(x, scale, bias) z = LayerNormalization(x, bias, scale)",
        outputs="float[B,S,8] y, float[B,S,8] z",
    )
    found = graphfuse.scan(proto)
    assert [site.output for site in found.sites] == ["y"]
    assert found.sites[0].sum_is_read
    assert [miss.reason for miss in found.near_misses] == [Reason.SUM_TAKEN]


def test_pre_norm_chain_has_one_site_per_sum() -> None:
    lines, x = [], "a"
    for layer in range(5):
        lines.append(f"n{layer} = LayerNormalization({x}, scale, bias)")
        lines.append(f"f{layer} = MatMul(n{layer}, w)")
        lines.append(f"x{layer} = Add({x}, f{layer})")
        x = f"x{layer}"
    lines.append(f"y = LayerNormalization({x}, scale, bias)")
    proto = model(
        "\n".join(lines), inputs="float[B,S,8] a", constants={"w": np.eye(8, dtype=np.float32)}
    )
    found = graphfuse.scan(proto)
    assert [site.sum for site in found.sites] == [f"x{i}" for i in range(5)]
    assert [site.id for site in found.sites] == ["s1", "s2", "s3", "s4", "s5"]


@pytest.mark.parametrize(
    ("inputs", "a", "proven"),
    [
        ("float[B,S,8] a, float[B,S,8] b", "a", True),
        ("float[S,8] a, float[B,S,8] b", "b", True),
        ("float[B,S,8] a, float[1,S,8] b", "a", True),
        ("float[B,1,8] a, float[1,S,8] b", "a", False),
        ("float[B,S,8] a, float[B,T,8] b", "a", False),
        ("float[B,S,1] a, float[B,S,8] b", "b", True),
    ],
)
def test_the_larger_operand_comes_first_where_proven(inputs: str, a: str, proven: bool) -> None:
    found = graphfuse.scan(residual("y = LayerNormalization(x, scale, bias)", inputs=inputs))
    assert [(site.a, site.order_proven) for site in found.sites] == [(a, proven)]


def test_overridable_initializer_is_not_constant() -> None:
    proto = residual(RMS)
    eps = next(t for t in proto.graph.initializer if t.name == "eps")
    proto.graph.input.append(onnx.helper.make_tensor_value_info("eps", 1, list(eps.dims)))
    assert [m.reason for m in graphfuse.scan(proto).near_misses] == [Reason.EPSILON_NOT_CONSTANT]


def test_integer_sum_is_not_a_candidate() -> None:
    proto = model(
        "x = Add(a, b) m = ReduceMean<axes=[-1]>(x) c = Cast<to=1>(m) y = Sqrt(c)",
        inputs="int64[B,8] a, int64[B,8] b",
        outputs="float[B,1] y",
    )
    found = graphfuse.scan(proto)
    assert not found.sites
    assert not found.near_misses


def test_defined_twice_is_a_model_error() -> None:
    proto = residual("y = LayerNormalization(x, scale, bias)")
    proto.graph.node.append(proto.graph.node[0])
    with pytest.raises(graphfuse.ModelError, match="defined twice"):
        graphfuse.scan(proto)

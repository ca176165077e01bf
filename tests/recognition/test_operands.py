"""Axes, types, opsets, biases and detours: what stands around the sum and the norm."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    DECOMPOSED_RMS_NORM,
    assert_passes,
    check,
    kinds,
    model,
    needs_opset,
    residual,
)

LN = "y = LayerNormalization(x, scale, bias)"
AXES = {
    "operator": (17, "y = LayerNormalization<axis=-2>(x, scale, bias)"),
    "operator, from the front": (17, "y = LayerNormalization<axis=1>(x, scale, bias)"),
    "rms operator": (23, "y = RMSNormalization<axis=-2>(x, scale)"),
    "decomposed": (17, DECOMPOSED_LAYER_NORM.replace("axes=[-1]", "axes=[-2, -1]")),
    "decomposed, in another order": (13, DECOMPOSED_RMS_NORM.replace("axes=[-1]", "axes=[-1, -2]")),
    "low opset": (11, DECOMPOSED_LAYER_NORM.replace("axes=[-1]", "axes=[1, 2]")),
    "lowest opset": (7, DECOMPOSED_LAYER_NORM.replace("axes=[-1]", "axes=[1, 2]")),
}


@pytest.mark.parametrize("case", AXES)
def test_several_trailing_axes(case: str) -> None:
    opset, norm = AXES[case]
    needs_opset(opset)
    rng = np.random.default_rng(2)
    proto = residual(
        norm,
        opset=opset,
        ir=10 if opset > 20 else 8,
        inputs="float[B,4,8] a, float[B,4,8] b",
        outputs="float[B,4,8] y",
        constants={
            "scale": rng.normal(1, 0.2, (4, 8)).astype(np.float32),
            "bias": rng.normal(0, 0.2, (4, 8)).astype(np.float32),
        },
    )
    result = check(proto)
    assert [f.site.axis for f in result.fused] == [-2]
    assert result.fused[0].site.hidden == 32
    assert_passes(proto, result.model)
    assert not graphfuse.fuse(result.model).changed
    cuda = graphfuse.fuse(proto, ep="cuda")
    assert [m.reason for m in cuda.left] == [Reason.OTHER_AXES]


def test_parameters_along_some_of_the_axes() -> None:
    """A scale of the last axis alone, a bias of the one before, their absence."""
    rng = np.random.default_rng(2)
    proto = residual(
        """n = LayerNormalization<axis=-2>(x, ones) s = Mul(n, row) y = Add(s, column)""",
        inputs="float[B,4,8] a, float[B,4,8] b",
        outputs="float[B,4,8] y",
        constants={
            "ones": np.ones((4, 8), np.float32),
            "row": rng.normal(1, 0.2, (1, 1, 8)).astype(np.float32),
            "column": rng.normal(0, 0.2, (4, 1)).astype(np.float32),
        },
    )
    result = check(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)
    bare = residual(
        DECOMPOSED_RMS_NORM.replace("axes=[-1]", "axes=[-2, -1]").replace(
            "y = Mul(n, scale)", "y = Identity(n)"
        ),
        inputs="float[B,4,8] a, float[B,4,8] b",
        outputs="float[B,4,8] y",
    )
    assert check(bare).fused[0].inputs[2] == "graphfuse_ones_4x8"


def test_b_broadcasts_along_normalised_axes() -> None:
    proto = residual(
        "y = LayerNormalization<axis=-2>(x, scale, bias)",
        inputs="float[B,4,8] a, float[1,8] b",
        outputs="float[B,4,8] y",
        constants={"scale": np.ones((4, 8), np.float32), "bias": np.zeros((4, 8), np.float32)},
    )
    result = check(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


def test_axes_in_the_middle_are_left() -> None:
    proto = residual(
        DECOMPOSED_RMS_NORM.replace("axes=[-1]", "axes=[-3, -1]"),
        inputs="float[3,4,8] a, float[3,4,8] b",
        outputs="float[3,4,8] y",
    )
    assert [m.reason for m in graphfuse.fuse(proto).left] == [Reason.OTHER_AXES]


def test_one_function_serves_one_axis_in_primitives() -> None:
    two = DECOMPOSED_RMS_NORM.replace("axes=[-1]", "axes=[-2, -1]")
    second = two.replace("x", "h").replace("ReduceMean<ahes", "ReduceMean<axes")
    for old in ("q", "v", "e", "r", "n"):
        second = second.replace(f"    {old} =", f"    {old}2 =").replace(f"({old})", f"({old}2)")
        second = second.replace(f"({old},", f"({old}2,").replace(f", {old})", f", {old}2)")
    second = second.replace("y =", "z =")
    proto = residual(
        DECOMPOSED_RMS_NORM + "h = Add(y, a)" + second,
        inputs="float[B,4,8] a, float[B,4,8] b",
        outputs="float[B,4,8] z",
    )
    result = check(proto)
    assert len(result.fused) == 1
    assert [m.reason for m in result.left] == [Reason.MIXED_TYPES]


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
@pytest.mark.parametrize("norm", [DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM])
def test_opsets_before_negative_axes(opset: int, norm: str) -> None:
    proto = residual(norm.replace("axes=[-1]", "axes=[2]"), opset=opset, ir=3)
    for name in [t.name for t in proto.graph.initializer]:
        # Before IR 4 every initializer is an input as well: here that is no override.
        assert name in ("scale", "bias", "eps")
    result = check(proto)
    assert kinds(result.model)[-1].startswith("Add")
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


BIASED = "p = Identity(b) h = Add(p, vec) x = Add(a, h)"


def biased(norm: str, head: str = BIASED, **options: object) -> onnx.ModelProto:
    vector = np.random.default_rng(4).normal(0, 0.5, 8).astype(np.float32)
    return model(f"{head} {norm}", constants={"vec": vector}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("norm", [DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM])
@pytest.mark.parametrize("ep", ["cpu", "cuda"])
def test_a_bias_before_the_residual(opset: int, norm: str, ep: str) -> None:
    """Folded when the plan wants it, and only then."""
    proto = biased(norm, opset=opset, ir=10 if opset > 20 else 8)
    plain = graphfuse.fuse(proto, ep=ep)
    assert "Bias" not in plain.fused[0].op_type
    folded = graphfuse.fuse(proto, ep=ep, selection=graphfuse.Selection(fold_bias=True))
    assert folded.fused[0].inputs[:2] == ("a", "p")
    assert folded.fused[0].inputs[-1] == "vec"
    assert kinds(folded.model)[0] == "Identity"
    assert len(kinds(folded.model)) == 2
    onnx.checker.check_model(folded.model)
    assert_passes(proto, folded.model)


def test_a_bias_on_the_first_operand_and_one_that_others_read() -> None:
    first = biased(LN, "p = Identity(b) h = Add(vec, p) x = Add(h, a)")
    assert graphfuse.fuse(first, selection=graphfuse.Selection(fold_bias=True)).fused[0].inputs[
        :2
    ] == ("a", "p")
    smaller = biased(
        LN,
        "p = Identity(b) h = Add(vec, p) x = Add(h, a)",
        inputs="float[S,8] a, float[B,S,8] b",
    )
    result = graphfuse.fuse(smaller, selection=graphfuse.Selection(fold_bias=True))
    assert result.fused[0].inputs[:2] == ("p", "a")
    assert_passes(smaller, result.model)
    shared = biased(LN + " z = Relu(h)", outputs="float[B,S,8] y, float[B,S,8] z")
    assert (
        "Bias"
        not in graphfuse.fuse(shared, selection=graphfuse.Selection(fold_bias=True))
        .fused[0]
        .op_type
    )


def test_a_wrong_bias_is_caught() -> None:
    proto = biased(LN)
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(fold_bias=True))
    node = result.model.graph.node[-1]
    node.input[4] = "bias"
    report = graphfuse.validate(proto, result.model)
    assert not report.passed
    assert {check.gate for check in report.failures} >= {"G0"}


DETOURS = {
    "transpose": (
        "t = Transpose<perm=[1, 0, 2]>(x) y = LayerNormalization(t, scale, bias)",
        "float[S,B,8] y",
    ),
    "unsqueeze": (
        "t = Unsqueeze(x, zero) y = LayerNormalization(t, scale, bias)",
        "float[1,2,3,8] y",
    ),
    "expand": (
        "u = Unsqueeze(x, zero) t = Expand(u, four) y = LayerNormalization(t, scale, bias)",
        "float[4,2,3,8] y",
    ),
    "identity, reshape, transpose": (
        """i = Identity(x) r0 = Reshape(i, rows) r1 = Unsqueeze(r0, zero)
           t = Transpose<perm=[1, 0, 2]>(r1)"""
        + DECOMPOSED_LAYER_NORM.replace("(x", "(t"),
        "float[6,1,8] y",
    ),
}


@pytest.mark.parametrize("case", DETOURS)
def test_rows_that_move_stay_rows(case: str) -> None:
    norm, outputs = DETOURS[case]
    proto = residual(
        norm,
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs=outputs.replace("S", "3").replace("B", "2"),
        constants={
            "zero": np.array([0]),
            "four": np.array([4, 1, 1, 1]),
            "rows": np.array([-1, 8]),
        },
    )
    result = check(proto)
    assert len(result.fused) == 1
    assert result.fused[0].site.path
    assert_passes(proto, result.model)
    assert not graphfuse.fuse(result.model).changed


@pytest.mark.parametrize(
    "sum_",
    ["x = Sum(a, b)", "h = Mul(a, half) x = Add(h, b)", "x = Add(a, b)"],
)
def test_sums_by_other_names(sum_: str) -> None:
    proto = model(f"{sum_} {LN}", constants={"half": np.array(0.5, np.float32)})
    assert len(check(proto).fused) == 1


LEFT = {
    "a sum of three": ("x = Sum(a, b, a)", "", Reason.SUM_OF_MANY),
    "integers": (
        "i = Cast<to=7>(a) j = Cast<to=7>(b) k = Add(i, j) x = Cast<to=1>(k)",
        "",
        Reason.INTEGER_SUM,
    ),
    "a slice": ("s = Add(a, b) x = Slice(s, zero, one, zero)", "", Reason.SUM_SLICED),
    "clamped": (
        "s = Add(a, b) t = Max(s, low) x = Min(t, high)",
        "",
        Reason.SUM_CLAMPED,
    ),
    "a sequence": (
        "s = Add(a, b) q = SequenceConstruct(s, a) x = SequenceAt(q, at)",
        "",
        Reason.SUM_IN_SEQUENCE,
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_sums_that_are_left(case: str) -> None:
    head, _, reason = LEFT[case]
    constants = {"zero": np.array([0]), "one": np.array([1]), "at": np.array(0)}
    constants |= {"low": np.array(-9, np.float32), "high": np.array(9, np.float32)}
    proto = model(
        f"{head} {LN}",
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[N,3,8] y",
        constants=constants,
    )
    assert [m.reason for m in graphfuse.fuse(proto).left] == [reason]


def test_a_parallel_block_has_three_addends() -> None:
    proto = model(
        """m = MatMul(a, w) n = MatMul(b, w) i = Add(m, n) x = Add(c, i) """ + LN,
        inputs="float[B,S,8] a, float[B,S,8] b, float[B,S,8] c",
        constants={"w": np.ones((8, 8), np.float32)},
    )
    site = check(proto).fused[0].site
    assert site.addends == ("c", "m", "n")
    assert site.layout == "parallel"


def test_float32_norms_in_a_float16_model() -> None:
    """Gemma's 1 + w in float32: computed, not rounded, whichever way the function is written."""
    norm = """c = Cast<to=1>(x) q = Mul(c, c) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps)
              r = Sqrt(e) n = Div(c, r) w = Add(scale, one) s = Mul(n, w) y = Cast<to=10>(s)"""
    for opset in (11, 13, 15, 17):
        proto = residual(
            norm,
            opset=opset,
            inputs="float16[B,S,8] a, float16[B,S,8] b",
            outputs="float16[B,S,8] y",
            constants={"one": np.array(1, np.float32)},
        )
        result = graphfuse.fuse(proto)
        assert [f.site.parameter_type for f in result.fused] == [TensorProto.FLOAT]
        assert_passes(proto, result.model)


def test_a_graph_input_of_one_axis_is_a_scale() -> None:
    """A model may be handed its weights."""
    proto = residual(LN, inputs="float[B,S,8] a, float[B,S,8] b, float[8] scale, float[8] bias")
    assert check(proto).fused[0].inputs == ("a", "b", "scale", "bias")
    row = residual(
        "n = LayerNormalization(x, scale, bias) y = Add(n, c)",
        inputs="float[8] a, float[8] b, float[8] c",
        outputs="float[8] y",
    )
    assert check(row).fused[0].site.output == "n"


def test_a_weight_that_is_reshaped_to_the_extent_of_the_sum() -> None:
    """PaddlePaddle's exporter does: the extent is known, so the weight is what it was."""
    proto = residual(
        """n = LayerNormalization(x, ones) sh = Shape(x) h = Slice(sh, two, three, zero)
           w = Reshape(scale, h) s = Mul(n, w) c = Reshape(bias, h) y = Add(s, c)""",
        constants={
            "ones": np.ones(8, np.float32),
            "zero": np.array([0]),
            "two": np.array([2]),
            "three": np.array([3]),
        },
    )
    result = check(proto)
    assert result.fused[0].site.output == "y"
    assert len(kinds(result.model)) == 4 or kinds(result.model)[-1] == "AddLayerNormalization"


def test_castlike_is_a_cast() -> None:
    proto = residual(
        "f = CastLike(x, eps) n = LayerNormalization(f, scale) y = CastLike(n, a)",
        inputs="float16[B,S,8] a, float16[B,S,8] b",
        outputs="float16[B,S,8] y",
    )
    assert len(graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none")).fused) == 1


@pytest.mark.parametrize("opset", [19, 21, 22, 23, 24, 25])
def test_later_opsets(opset: int) -> None:
    proto = residual(LN, opset=opset, ir=10)
    result = graphfuse.fuse(proto)
    onnx.checker.check_model(result.model, full_check=True)
    assert len(result.fused) == 1
    assert helper.make_opsetid("graphfuse", 1) in result.model.opset_import

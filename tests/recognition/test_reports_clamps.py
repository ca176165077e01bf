"""Clamps between variance and root (NVIDIA/TensorRT#2466), and Flax's max(0, E[x^2] - E[x]^2).

A clamp is the identity only where it provably cannot act; one that may act is named.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.api.looking import explain
from graphfuse.certificate.certify import certify
from graphfuse.files.model_file import wrap
from graphfuse.records import CertificateVerdict, NormKind
from graphfuse.records.progress import SILENT
from graphfuse.records.reasons import Reason
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, assert_passes, residual

LN, RMS = DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM
INF = np.array(np.inf, np.float32)
NUMBERS = {
    "zero": np.array(0, np.float32),
    "inf": INF,
    "top": np.array(np.finfo(np.float32).max, np.float32),
    "small": np.array(1e-6, np.float32),
    "large": np.array(1e-3, np.float32),
    "ninf": -INF,
    "root": np.array(3e-3, np.float32),
    "nan": np.array(np.nan, np.float32),
}
FLAX = """
    m = ReduceMean<axes=[-1], keepdims=1>(x)
    q = Mul(x, x)
    p = ReduceMean<axes=[-1], keepdims=1>(q)
    mm = Mul(m, m)
    w = Sub(p, mm)
    v = Max(zero, w)
    e = Add(v, eps)
    r = Sqrt(e)
    i = Reciprocal(r)
    g = Mul(i, scale)
    d = Sub(x, m)
    s = Mul(d, g)
    y = Add(s, bias)
"""


def clamped(norm: str, *lines: str) -> str:
    """A norm with the sum under its root clamped by some lines, from e to c."""
    return norm.replace("r = Sqrt(e)", f"{' '.join(lines)} r = Sqrt(c)")


def before(norm: str, line: str) -> str:
    """A norm with its variance clamped before epsilon is added."""
    return norm.replace("e = Add(v, eps)", f"{line} e = Add(c, eps)")


IDLE = {
    "flax": (FLAX, NormKind.LAYER_NORM),
    "flax, Relu": (FLAX.replace("Max(zero, w)", "Relu(w)"), NormKind.LAYER_NORM),
    "flax, Clip": (FLAX.replace("Max(zero, w)", "Clip(w, zero)"), NormKind.LAYER_NORM),
    "flax, Abs": (FLAX.replace("Max(zero, w)", "Abs(w)"), NormKind.LAYER_NORM),
    "keras: Min at infinity, then Max at 0": (
        clamped(LN, "t = Min(e, inf)", "c = Max(t, zero)"),
        NormKind.LAYER_NORM,
    ),
    "Clip from 0 to infinity": (clamped(LN, "c = Clip(e, zero, inf)"), NormKind.LAYER_NORM),
    "Clip without limits": (clamped(RMS, "c = Clip(e)"), NormKind.RMS_NORM),
    "Max at less than epsilon": (clamped(RMS, "c = Max(small, e)"), NormKind.RMS_NORM),
    "Max at epsilon": (clamped(RMS, "c = Max(e, eps)"), NormKind.RMS_NORM),
    "Max of several": (clamped(RMS, "c = Max(zero, e, small)"), NormKind.RMS_NORM),
    "Max of one": (clamped(RMS, "c = Max(e)"), NormKind.RMS_NORM),
    "Relu": (clamped(LN, "c = Relu(e)"), NormKind.LAYER_NORM),
    "Relu of the variance": (before(LN, "c = Relu(v)"), NormKind.LAYER_NORM),
    "Max of a mean of squares and 0": (before(RMS, "c = Max(v, zero)"), NormKind.RMS_NORM),
    "Max of the root at less than sqrt(epsilon)": (
        RMS.replace("n = Div(x, r)", "c = Max(r, root) n = Div(x, c)"),
        NormKind.RMS_NORM,
    ),
}


@pytest.mark.parametrize("case", IDLE)
def test_a_clamp_that_cannot_act_is_the_identity(case: str) -> None:
    norm, kind = IDLE[case]
    proto = residual(norm, constants=NUMBERS)
    result = graphfuse.fuse(proto)
    assert [(f.site.output, f.site.kind) for f in result.fused] == [("y", kind)], result.left
    assert_passes(proto, result.model)
    pair = [wrap(each, Path()) for each in (proto, result.model)]
    found = certify(*pair, 0, (), SILENT)
    assert [each.verdict for each in found] == [CertificateVerdict.IDENTICAL]
    assert "cannot act" in result.fused[0].site.clamps[0]


def test_clips_with_attributes_below_opset_11() -> None:
    whole = clamped(RMS, "c = Clip<min=0.0>(e)")
    assert len(graphfuse.scan(residual(whole, opset=10)).sites) == 1
    cut = clamped(RMS, "c = Clip<min=0.0, max=6.0>(e)")
    assert not graphfuse.scan(residual(cut, opset=10)).sites


ACTING = {
    "m4: clamped at epsilon": RMS.replace("e = Add(v, eps)", "e = Max(v, eps)"),
    "m4, LayerNorm": LN.replace("e = Add(v, eps)", "e = Max(v, eps)"),
    "m4, Clip": LN.replace("e = Add(v, eps)", "e = Clip(v, eps)"),
    "Max at more than epsilon": clamped(RMS, "c = Max(e, large)"),
    "Min at a number": clamped(RMS, "c = Min(e, large)"),
    "Clip with a finite top": clamped(RMS, "c = Clip(e, zero, large)"),
    "Max of the root at more than sqrt(epsilon)": RMS.replace(
        "n = Div(x, r)", "c = Max(r, large2) n = Div(x, c)"
    ),
    "a NaN": clamped(RMS, "c = Max(e, nan)"),
    "Clip from 0 to the largest float": clamped(RMS, "c = Clip(e, zero, top)"),
    "Clip at a NaN": clamped(RMS, "c = Clip(e, nan)"),
    "Max at infinity": clamped(RMS, "c = Max(e, inf)"),
    "Min at 0": clamped(RMS, "c = Min(e, zero)"),
}


@pytest.mark.parametrize("case", ACTING)
def test_a_clamp_that_may_act_is_named(case: str) -> None:
    numbers = {**NUMBERS, "large2": np.array(4e-3, np.float32)}
    found = graphfuse.scan(residual(ACTING[case], constants=numbers))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.STATISTIC_CLAMPED]
    assert found.near_misses[0].culprit.op_type in ("Max", "Min", "Clip")


def test_a_clamp_by_an_input_is_named() -> None:
    proto = residual(
        clamped(RMS, "c = Max(e, k)"), inputs="float[B,S,8] a, float[B,S,8] b, float k"
    )
    assert [m.reason for m in graphfuse.scan(proto).near_misses] == [Reason.STATISTIC_CLAMPED]


def test_a_clamp_of_one_of_two_statistics_is_not_taken_for_the_other() -> None:
    """Max(v, w) has no number for a limit: it is either, row by row."""
    norm = RMS.replace("e = Add(v, eps)", "w = Add(v, eps) c = Max(v, w) e = Add(c, eps)")
    assert not graphfuse.scan(residual(norm)).sites


def test_a_statistic_that_is_a_limit_is_not_what_is_clamped() -> None:
    norm = RMS.replace("e = Add(v, eps)", "w = Add(v, eps) e = Clip(large, w)")
    assert not graphfuse.scan(residual(norm, constants=NUMBERS)).sites


def test_explain_says_why_the_clamp_is_nothing() -> None:
    proto = residual(FLAX, constants=NUMBERS)
    found = explain(proto, "s1").item
    assert isinstance(found, graphfuse.Site)
    assert "never negative in exact arithmetic" in found.clamps[0]
    assert "max(0, " in found.notation


def test_explain_of_a_clamped_norm_takes_epsilon_for_no_bias() -> None:
    proto = residual(clamped(RMS, "c = Max(e, large)"), constants=NUMBERS)
    found = explain(proto, "m1")
    assert found.seen == found.definition
    assert not found.extra
    assert not found.missing


def test_the_advice_works() -> None:
    """Epsilon added in place of the clamp, or a clamp at no more than it."""
    onnx.checker.check_model(residual(RMS))
    assert graphfuse.scan(residual(RMS)).sites
    assert graphfuse.scan(residual(clamped(RMS, "c = Max(e, small)"), constants=NUMBERS)).sites

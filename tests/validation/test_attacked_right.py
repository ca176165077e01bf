"""Fused models that are right and do not pass, and what ends in a traceback or not at all."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from tests.conftest import MODELS
from tests.validation.test_attacked import (
    BOTH,
    CONTRIB,
    LEVELS,
    MY,
    NORM,
    RUNS,
    SKIP,
    A,
    graph,
    never,
    verdict,
)

SQRT2 = 2**0.5
GELU = "g = Div(t, s2) e = Erf(g) p = Add(e, c1) q = Mul(t, p) v = Mul(q, half)"


@pytest.mark.parametrize("name", ["llama.onnx", "bert.onnx", "gpt2.onnx"])
def test_a_fused_model_and_its_original_exchanged_at_level_sites(name: str) -> None:
    """Places of the first model count as shown in the second, and so its norms are never compared.

    What is beside them is then said to be added, and not shown.
    """
    original = MODELS / name
    assert verdict(graphfuse.fuse(original).model, original, "sites") == "pass"


@pytest.mark.parametrize("level", LEVELS)
def test_a_contrib_norm_unfused_in_a_branch_that_no_feed_takes(level: str) -> None:
    """The same at every level: the Add is `added`, and the norm that reads it `shown` already."""
    fused = never(f"z = {SKIP}(a, b, scale, bias)", more=CONTRIB)
    plain = never("x = Add(a, b) z = LayerNormalization<epsilon = 1e-5>(x, scale, bias)")
    assert verdict(plain, fused, level) == "pass"
    assert verdict(fused, plain, level) == "pass"


def optimized(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


@pytest.mark.parametrize("level", RUNS)
@pytest.mark.parametrize("kind", ["Gelu", "FusedMatMul"])
def test_an_original_with_contrib_operators_in_float32(
    kind: str, level: str, tmp_path: Path
) -> None:
    """The float32 of the original's Gelu is taken for float64, and the exact one fails G0."""
    if kind == "Gelu":
        body = f"{NORM} t = MatMul(h, w) {GELU} y = MatMul(v, w)"
    else:
        body = f"{NORM} r = Transpose<perm = [0, 2, 1]>(h) m = MatMul(h, r) y = MatMul(m, x)"
    plain = graph(body, s2=SQRT2, half=0.5)
    contrib = optimized(plain, tmp_path)
    assert kind in {node.op_type for node in contrib.graph.node}
    assert verdict(plain, contrib, level) == "pass"
    assert verdict(contrib, plain, level) == "pass"


@pytest.mark.parametrize("level", RUNS)
def test_a_sequence_of_floats_as_an_output(level: str) -> None:
    """G4 asks for equal bits, which no fused norm has; its items are floats, as G2 judges them."""
    original = graph(f"{NORM} y = SequenceConstruct(h, x)", BOTH, "seq(float[B,S,8]) y")
    assert verdict(original, graphfuse.fuse(original).model, level) == "pass"


@pytest.mark.parametrize("level", LEVELS)
def test_a_tensor_added_to_itself_by_onnxruntime_s_operator(level: str) -> None:
    """One name for two operands: the original is not asked what it makes of the hard rows."""
    original = graph("x = Add(a, a) y = LayerNormalization<epsilon = 1e-12>(x, scale)", A)
    fused = graph("y = com.microsoft.SkipLayerNormalization(a, a, scale)", A, more=CONTRIB)
    assert verdict(original, fused, level) == "pass"


@pytest.mark.parametrize("level", RUNS)
def test_a_scan_over_another_axis_than_the_first(level: str) -> None:
    """onnx.reference does not know it, and the whole model is refused: onnxruntime runs it."""
    original = graph(
        """r, y = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
            body = step (float[B,8] s, float[B,8] e) => (float[B,8] t, float[B,8] o) {
                q = Add(s, e) o = LayerNormalization(q, scale, bias) t = Identity(o) }>(i, a)""",
        f"float[B,8] i, {A}",
    )
    result = graphfuse.fuse(original)
    assert result.fused
    assert verdict(original, result.model, level) == "pass"


def test_a_loop_whose_condition_was_folded_at_level_sites() -> None:
    """What has a body is never cut out: that it is left to a run is said."""
    loop = """y = Loop (n, {c}, a) <body = l (int64 i, bool go, float[B,S,8] s)
        => (bool on, float[B,S,8] t) {{ on = Identity(go) t = Mul(s, b) }}>"""
    original = graph("c = Cast<to = 9>(one) " + loop.format(c="c"), n=np.array(3))
    fused = graph(loop.format(c="d"), n=np.array(3), d=np.array(True))
    report = graphfuse.validate(original, fused, level="sites")
    assert report.verdict == "not shown"
    assert "what has a body, as Loop has, is not compared alone" in report.not_shown[0].why
    assert verdict(original, fused, "fast") == "pass"


BROKEN = {
    "an If without an else_branch": (
        f"{BOTH}, bool c",
        "y = If (c) <then_branch = t () => (float[B,S,8] z) { z = Add(a, b) }>",
        "",
    ),
    "a function that calls itself": (
        f"{BOTH}, bool c",
        "y = my.F(a)",
        '<domain: "my", opset_import: ["" : 17, "my" : 1]> F (X) => (Y) { Y = my.F(X) }',
    ),
    "a fused node without outputs": (f"{BOTH}, bool c", "y = Add(a, b)", ""),
    "an empty scale": (
        f"{BOTH}, bool c",
        "y = com.microsoft.SkipLayerNormalization(a, b, none)",
        "",
    ),
}


@pytest.mark.parametrize("level", RUNS)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_fused_model_ends_in_no_traceback(kind: str, level: str) -> None:
    """A failed check, `not shown`, or one of graphfuse's errors: nothing else."""
    inputs, body, functions = BROKEN[kind]
    original = graph("y = Add(a, b)", f"{BOTH}, bool c")
    none = np.zeros(0, np.float32)
    fused = graph(body, inputs, more=CONTRIB + MY, functions=functions, none=none)
    if "outputs" in kind:
        node = fused.graph.node.add(op_type="SkipLayerNormalization", domain="com.microsoft")
        node.input.extend(["a", "b", "a"])
    try:
        found = verdict(original, fused, level)
    except graphfuse.GraphfuseError:
        return
    assert found != "pass"


def test_a_loop_of_many_trips_ends() -> None:
    """onnxruntime takes about a second, onnx.reference a minute, and no limit is on it."""
    proto = graph(
        """c = Cast<to = 9>(one) y = Loop (n, c, a) <body = l (int64 i, bool go, float[B,S,8] s)
            => (bool on, float[B,S,8] t) { on = Identity(go) q = Mul(s, half) t = Add(q, b) }>""",
        n=np.array(200_000),
        half=0.5,
    )
    start = time.monotonic()
    assert verdict(proto, proto, "fast") == "pass"
    assert time.monotonic() - start < 12


@pytest.mark.parametrize("level", RUNS)
def test_a_loop_that_yields_a_number_each_time(level: str) -> None:
    """onnx.reference makes n rows of one number of it, and not n numbers: not its own like passes."""
    proto = graph(
        """c = Cast<to = 9>(one) s, y = Loop (n, c, a) <
            body = l (int64 i, bool go, float[B,S,8] u) => (bool on, float[B,S,8] t, float o) {
                on = Identity(go) t = Mul(u, c2) o = ReduceSum<keepdims = 0>(t) }>""",
        A,
        "float[T] y",
        n=np.array(3),
    )
    assert verdict(proto, proto, level) == "pass"


UNKNOWN = {
    "MeanVarianceNormalization": "y = MeanVarianceNormalization<axes = [0, 1]>(h)",
    "ConvTranspose of groups": "t = ConvTranspose<group = 2>(h, k) y = Mul(t, c2)",
}


@pytest.mark.parametrize("level", RUNS)
@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_operator_that_onnx_reference_does_not_evaluate(kind: str, level: str) -> None:
    """onnxruntime does, and the whole model is refused: neither judged by G2 nor its sites."""
    weight = np.ones((4, 2, 1), np.float32)
    inputs, outputs = (f"float[B,4,8] {name}" for name in ("a", "y"))
    original = graph(f"{NORM} {UNKNOWN[kind]}", f"{inputs}, float[B,4,8] b", outputs, k=weight)
    assert verdict(original, graphfuse.fuse(original).model, level) == "pass"

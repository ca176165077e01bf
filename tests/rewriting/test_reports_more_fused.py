"""Graphs of public reports on which other optimisers failed, in small: each is fused, or named.

The numbers are those of the reports; of each, the graph that its text describes.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    DECOMPOSED_RMS_NORM,
    assert_passes,
    kinds,
    model,
)

RNG = np.random.default_rng(11)
HALF = np.float16
MICROSOFT = ', "com.microsoft" : 1'
NORM = "y = LayerNormalization(x, scale, bias)"
CUBES = DECOMPOSED_RMS_NORM.replace("Mul(x, x)", "Pow(x, p)")
HALVES = "float16[B,S,8] a, float16[B,S,8] b"
OF_HALVES = {
    "inputs": HALVES,
    "outputs": "float16[B,S,8] y",
    "constants": {"scale": RNG.normal(1, 0.3, 8).astype(HALF), "bias": np.zeros(8, HALF)},
}
TABLES = {
    "w": RNG.normal(0, 1, (20, 8)).astype(np.float32),
    "t": RNG.normal(0, 1, (1, 3, 8)).astype(np.float32),
    "rows": np.array([-1, 8]),
    "h": np.eye(8, dtype=HALF),
    "c": RNG.normal(0, 1, 8).astype(np.float32),
    "double": np.array(1e-5, np.float64),
}

FUSED: dict[str, tuple[str, int, dict[str, object]]] = {
    "onnxruntime#4779: a Reshape between two sums": (
        f"v = Add(a, b) n = LayerNormalization(v, scale, bias) r = Reshape(n, rows) x = Add(r, k) "
        f"{NORM}",
        2,
        {
            "inputs": "float[2,3,8] a, float[2,3,8] b, float[6,8] k",
            "outputs": "float[6,8] y",
        },
    ),
    "onnxruntime#12064: positions of one batch": (
        f"e = Gather(w, i) p = Gather(w, j) x = Add(e, p) {NORM}",
        1,
        {"inputs": "int64[B,S] i, int64[1,S] j"},
    ),
    "onnxruntime#4980: a table of positions is added": (
        f"e = Gather(w, i) x = Add(t, e) {NORM}",
        1,
        {"inputs": "int64[B,3] i", "outputs": "float[B,3,8] y"},
    ),
    "onnxruntime#27488: the operand that broadcasts comes first": (
        f"x = Add(b, a) {NORM}",
        1,
        {"inputs": "float[B,S,8] a, float[S,8] b"},
    ),
    "onnxruntime#17320: the sum is an output": (
        f"x = Add(a, b) {NORM}",
        1,
        {"outputs": "float[B,S,8] y, float[B,S,8] x"},
    ),
    "onnxruntime#17320: a Cast before the bias": (
        f"m = MatMul(k, h) f = Cast<to = 1>(m) g = Add(f, c) x = Add(g, b) {NORM}",
        1,
        {"inputs": "float16[B,S,8] k, float[B,S,8] b"},
    ),
    "onnxruntime#14156: the sum of a node that was fused with its bias": (
        "y, m, v, s = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(a, b, scale, bias, c) "
        "z = Relu(s)",
        1,
        {"outputs": "float[B,S,8] y, float[B,S,8] z", "extra_imports": MICROSOFT},
    ),
    "onnxruntime#16341: float16 at opset 18": (
        f"x = Add(a, b) {NORM}",
        1,
        {"opset": 18, **OF_HALVES},
    ),
    "onnxruntime#22704: one float16 scale for two nodes": (
        "n, m, v, s = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 1e-6>(a, b, scale) "
        "y, k, u, t = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 1e-6>(n, s, scale)",
        2,
        {"extra_imports": MICROSOFT, **OF_HALVES},
    ),
    "onnxruntime#29153: an exponent that a Cast gives, epsilon first": (
        "two = Constant<value_float = 2.0>() p = Cast<to = 1>(two) x = Add(a, b) "
        f"{CUBES.replace('Add(v, eps)', 'Add(eps, v)')}",
        1,
        {},
    ),
    "onnxruntime#15531: epsilon in float64": (
        "x = Add(a, b) "
        + DECOMPOSED_LAYER_NORM.replace("Add(v, eps)", "Add(w_v, double)")
        .replace("e =", "w_v = Cast<to = 11>(v) e =")
        .replace("n = Div(d, r)", "f = Cast<to = 1>(r) n = Div(d, f)"),
        1,
        {},
    ),
    "onnxruntime#12930: float16, statistics in float32": (
        "x = Add(a, b) f = Cast<to = 1>(x) "
        + DECOMPOSED_RMS_NORM.replace("(x", "(f")
        .replace("Mul(x, x)", "Mul(f, f)")
        .replace("Mul(f, x)", "Mul(f, f)")
        .replace("Mul(n, scale)", "Mul(k, scale)")
        .replace("y =", "k = Cast<to = 10>(n) y ="),
        1,
        OF_HALVES,
    ),
    "onnxruntime#15844: reductions over all axes": (
        "x = Add(a, b) " + DECOMPOSED_LAYER_NORM.replace("axes=[-1], ", ""),
        1,
        {"inputs": "float[2,8] a, float[2,8] b", "outputs": "float[2,8] y"},
    ),
    "TensorRT#3457: statistics that nobody reads": (
        "x = Add(a, b) y, mean, deviation = LayerNormalization(x, scale, bias)",
        1,
        {},
    ),
    "openvino#35460: a power of -1/2": (
        "x = Add(a, b) "
        + DECOMPOSED_RMS_NORM.replace("r = Sqrt(e)", "p = Constant<value_float = -0.5>()")
        .replace("Div(x, r)", "Mul(x, r)")
        .replace("n =", "r = Pow(e, p) n ="),
        1,
        {},
    ),
    "optimum#1092: T5 at opset 9": (
        "x = Add(a, b) " + DECOMPOSED_RMS_NORM,
        1,
        {"opset": 9, "ir": 4},
    ),
}


def made(body: str, options: dict[str, object]) -> onnx.ModelProto:
    given = options.get("constants", {})
    assert isinstance(given, dict)
    return model(body, **{**options, "constants": {**TABLES, **given}})  # type: ignore[arg-type]


@pytest.mark.parametrize("report", FUSED)
def test_the_graph_of_a_report_is_fused(report: str) -> None:
    body, sites, options = FUSED[report]
    proto = made(body, options)
    result = graphfuse.fuse(proto)
    assert len(result.fused) == sites
    assert not [miss for miss in result.left if miss.reason is not Reason.VECTOR_OPERAND]
    assert sum(kind.startswith("Add") and kind != "Add" for kind in kinds(result.model)) == sites
    assert_passes(proto, result.model, level="fast")


LEFT: dict[str, tuple[str, Reason, dict[str, object]]] = {
    "onnxruntime#29153: an exponent of 3": (
        f"three = Constant<value_float = 3.0>() p = Cast<to = 1>(three) x = Add(a, b) {CUBES}",
        Reason.NOT_THE_DEFINITION,
        {},
    ),
    "pytorch#86580: an epsilon that float16 makes 0": (
        f"x = Add(a, b) {DECOMPOSED_LAYER_NORM}",
        Reason.EPSILON_NOT_POSITIVE,
        {
            "inputs": HALVES,
            "outputs": "float16[B,S,8] y",
            "constants": {
                "eps": np.array(1e-8, HALF),
                "scale": np.ones(8, HALF),
                "bias": np.zeros(8, HALF),
            },
        },
    ),
    "onnxruntime#15500: a sum in float16, a norm in float32": (
        "k = Add(a, b) x = Cast<to = 1>(k) y = LayerNormalization(x, scale, bias)",
        Reason.OUTPUT_TYPE,
        {"inputs": HALVES},
    ),
    "TensorRT#4475: a scale that enlarges": (
        f"x = Add(a, b) {NORM}",
        Reason.PARAMETER_ENLARGES,
        {"inputs": "float[2,3,1,1] a, float[2,3,1,1] b", "outputs": "float[2,3,1,1] y"},
    ),
    "onnxruntime#23297: a scale for each item": (
        f"x = Add(a, b) {NORM}",
        Reason.PARAMETER_VARIES,
        {
            "inputs": "float[2,3,8] a, float[2,3,8] b",
            "outputs": "float[2,3,8] y",
            "constants": {"scale": np.ones((2, 1, 8), np.float32)},
        },
    ),
    "TensorRT#3457: statistics that are outputs": (
        "x = Add(a, b) y, mean = LayerNormalization(x, scale, bias)",
        Reason.STATISTICS_READ,
        {"outputs": "float[B,S,8] y, float[B,S,1] mean"},
    ),
}


@pytest.mark.parametrize("report", LEFT)
def test_the_graph_of_a_report_that_is_no_norm_is_named(report: str) -> None:
    body, reason, options = LEFT[report]
    found = graphfuse.scan(made(body, options))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [reason]


def test_the_advice_for_a_norm_in_another_type_works() -> None:
    """Cast back to the type of the sum, the norm is one of float16 (onnxruntime#15500)."""
    body = "k = Add(a, b) x = Cast<to = 1>(k) n = LayerNormalization(x, scale, bias) "
    proto = made(f"{body} y = Cast<to = 10>(n)", {"inputs": HALVES, "outputs": "float16[B,S,8] y"})
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model, level="fast")


@pytest.mark.parametrize(("x", "scale"), [("float16", np.float32), ("float", np.float16)])
def test_a_norm_of_mixed_types_is_the_models_fault(x: str, scale: type) -> None:
    """No onnxruntime loads it (onnxscript#2099, pytorch#190338): one line, exit code 4."""
    values = {"scale": np.ones(8, scale), "bias": np.zeros(8, scale)}
    sizes = {"inputs": f"{x}[2,8] a, {x}[2,8] b", "outputs": f"{x}[2,8] y"}
    proto = model(f"x = Add(a, b) {NORM}", constants=values, **sizes)
    with pytest.raises(graphfuse.OriginalModelError, match="bound to different types") as caught:
        graphfuse.validate(proto, graphfuse.fuse(proto).model)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("epsilon", ["1e-12", "1e-5"])
@pytest.mark.parametrize("number", [1.0, 7.7])
def test_a_bias_that_is_one_number_is_added_sooner_or_later(number: float, epsilon: str) -> None:
    """onnxruntime#14156: rows of 1e-7 beside a bias of 1 are at the edge of float64."""
    node = f"SkipLayerNormalization<epsilon = {epsilon}>(a, b, scale, bias, c)"
    before = model(
        f"y, m, v, s = com.microsoft.{node} z = Relu(s)",
        outputs="float[B,S,8] y, float[B,S,8] z",
        extra_imports=MICROSOFT,
        constants={"c": np.full(8, number, np.float32)},
    )
    for after in (
        graphfuse.fuse(before, selection=graphfuse.Selection(fold_bias=False)),
        graphfuse.unfuse(before),
    ):
        report = graphfuse.validate(before, after.model)
        assert report.passed, report.failures

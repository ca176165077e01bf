"""Statically quantized sums (NVIDIA/TensorRT#4084, microsoft/onnxruntime-genai#1792).

The norm reads a sum that was rounded to integers, so it is no sum of the model's: a near miss, which
says what helps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import DECOMPOSED_LAYER_NORM, feeds, model, residual

MICROSOFT = ', "com.microsoft" : 1'
NUMBERS = {"s": np.array(0.05, np.float32), "z": np.array(3, np.uint8)}
ADDED = """
    p = QuantizeLinear(a, s, z)
    k = QuantizeLinear(b, s, z)
    q = com.microsoft.QLinearAdd(p, s, z, k, s, z, s, z)
    d = DequantizeLinear(q, s, z)
    y = LayerNormalization(d, scale, bias)
"""
QUANTIZED = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"

CASES = {
    "r15_qdq": (residual, f"{QUANTIZED} y = LayerNormalization(d, scale, bias)", "QuantizeLinear"),
    "r15_qop": (model, ADDED, "QLinearAdd"),
    "an RMSNorm": (
        residual,
        f"{QUANTIZED} y = SimplifiedLayerNormalization(d, scale)",
        "QuantizeLinear",
    ),
    "decomposed": (
        residual,
        "q0 = QuantizeLinear(x, s, z) xx = DequantizeLinear(q0, s, z)"
        + DECOMPOSED_LAYER_NORM.replace("(x", "(xx")
        .replace("s = Mul", "sn = Mul")
        .replace("Add(s,", "Add(sn,"),
        "QuantizeLinear",
    ),
    "com.microsoft's operators": (
        residual,
        QUANTIZED.replace("Quant", "com.microsoft.Quant").replace("Deq", "com.microsoft.Deq")
        + " y = LayerNormalization(d, scale, bias)",
        "QuantizeLinear",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_quantized_sum_is_a_near_miss(case: str) -> None:
    make, body, culprit = CASES[case]
    found = graphfuse.scan(make(body, constants=NUMBERS, extra_imports=MICROSOFT))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.SUM_QUANTIZED]
    assert found.near_misses[0].culprit.op_type == culprit


def test_a_quantized_bias_is_no_residual() -> None:
    body = ADDED.replace("k = QuantizeLinear(b, s, z)", "k = Identity(w)")
    proto = model(
        body,
        inputs="float[B,S,8] a",
        constants={**NUMBERS, "w": np.ones(8, np.uint8)},
        extra_imports=MICROSOFT,
    )
    assert not graphfuse.scan(proto).near_misses


def test_a_quantized_sum_that_no_norm_reads_is_nothing() -> None:
    proto = residual(f"{QUANTIZED} y = Relu(d)", constants=NUMBERS)
    assert not graphfuse.scan(proto).near_misses


BLOCK = """
    h = MatMul(a, w)
    x = Add(h, b)
    y = LayerNormalization(x, scale, bias)
"""


def test_the_advice_works(tmp_path: Path) -> None:
    """The Add and the norm left out of quantization fuse; so does a fused model that is quantized."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    weight = np.random.default_rng(0).normal(0, 1, (8, 8)).astype(np.float32)
    proto = model(
        BLOCK,
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[2,3,8] y",
        constants={"w": weight},
    )
    for node in proto.graph.node:
        node.name = f"/{node.op_type}"

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = [feeds(proto, seed) for seed in range(3)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    def quantized(source: onnx.ModelProto, **options: object) -> onnx.ModelProto:
        onnx.save(source, tmp_path / "before.onnx")
        quantization.quantize_static(
            tmp_path / "before.onnx", tmp_path / "after.onnx", Reader(), **options
        )
        return onnx.load(tmp_path / "after.onnx")

    whole = graphfuse.scan(quantized(proto))
    assert [miss.reason for miss in whole.near_misses] == [Reason.SUM_QUANTIZED]
    left_out = graphfuse.scan(quantized(proto, nodes_to_exclude=["/Add", "/LayerNormalization"]))
    assert len(left_out.sites) == 1
    fused = quantized(graphfuse.fuse(proto).model)
    assert [n.op_type for n in fused.graph.node].count("AddLayerNormalization") == 1
    assert "DequantizeLinear" in {n.op_type for n in fused.graph.node}

"""What each target takes, and that its nodes compute the same thing."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import foreign, targets
from graphfuse.reasons import Reason
from tests.graphs import DECOMPOSED_RMS_NORM, kinds, residual

NORM = "y = LayerNormalization(x, scale, bias)"
HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()

TAKEN = {
    "same shape": ("float[B,S,8] a, float[B,S,8] b", "float[B,S,8] y"),
    "rank 2": ("float[B,8] a, float[B,8] b", "float[B,8] y"),
    "skip (S, H)": ("float[B,S,8] a, float[S,8] b", "float[B,S,8] y"),
    "skip (1, S, H)": ("float[B,S,8] a, float[1,S,8] b", "float[B,S,8] y"),
    "skip first": ("float[1,S,8] a, float[B,S,8] b", "float[B,S,8] y"),
}

REFUSED = {
    "rank 4": ("float[B,T,S,8] a, float[B,T,S,8] b", "float[B,T,S,8] y", Reason.TARGET_RANK),
    "rank 1": ("float[8] a, float[8] b", "float[8] y", Reason.TARGET_RANK),
    "skip (H)": ("float[B,S,8] a, float[8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "skip (1, 1, H)": ("float[B,S,8] a, float[1,1,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "skip (B, 1, H)": ("float[B,S,8] a, float[B,1,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "both broadcast": ("float[B,1,8] a, float[1,S,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "not proven": ("float[B,S,8] a, float[B,T,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "rank 2, skip (1, H)": ("float[B,8] a, float[1,8] b", "float[B,8] y", Reason.TARGET_BROADCAST),
}


@pytest.mark.parametrize("case", TAKEN)
def test_contrib_operator_where_it_is_right(case: str) -> None:
    inputs, outputs = TAKEN[case]
    proto = residual(NORM, inputs=inputs, outputs=outputs)
    result = graphfuse.fuse(proto, ep="cuda")
    assert kinds(result.model) == ["SkipLayerNormalization"]
    node = result.model.graph.node[0]
    assert node.domain == "com.microsoft"
    # The contrib operator's default epsilon is another than ONNX's.
    assert [a.f for a in node.attribute if a.name == "epsilon"] == [np.float32(1e-5)]
    assert list(node.output) == ["y"]
    # The CPU provider has this operator too: same meaning, same kernel interface.
    report = graphfuse.validate(proto, result.model, eps=["cpu"])
    assert report.passed, report.failures


@pytest.mark.parametrize("case", REFUSED)
def test_contrib_operator_where_it_is_not(case: str) -> None:
    inputs, outputs, reason = REFUSED[case]
    result = graphfuse.fuse(residual(NORM, inputs=inputs, outputs=outputs), ep="cuda")
    assert not result.changed
    assert [miss.reason for miss in result.left] == [reason]
    # Our own operator takes every one of them.
    assert graphfuse.fuse(residual(NORM, inputs=inputs, outputs=outputs), ep="cpu").changed


def test_contrib_operator_yields_the_sum_as_output_3() -> None:
    proto = residual(NORM, outputs="float[B,S,8] y, float[B,S,8] x")
    result = graphfuse.fuse(proto, ep="cuda")
    assert list(result.model.graph.node[0].output) == ["y", "", "", "x"]
    assert graphfuse.validate(proto, result.model).passed


def test_contrib_rms_norm() -> None:
    proto = residual(DECOMPOSED_RMS_NORM)
    result = graphfuse.fuse(proto, ep="cuda")
    assert kinds(result.model) == ["SkipSimplifiedLayerNormalization"]
    assert len(result.model.graph.node[0].input) == 3
    assert not result.model.functions
    assert graphfuse.validate(proto, result.model).passed


def test_float64_is_not_for_the_contrib_operator() -> None:
    options = {
        "inputs": "double[B,S,8] a, double[B,S,8] b",
        "outputs": "double[B,S,8] y",
        "constants": {"scale": np.ones(8), "bias": np.zeros(8)},
    }
    result = graphfuse.fuse(residual(NORM, **options), ep="cuda")
    assert [miss.reason for miss in result.left] == [Reason.ELEMENT_TYPE]
    fused = graphfuse.fuse(residual(NORM, **options), ep="cpu")
    assert graphfuse.validate(residual(NORM, **options), fused.model).passed


def test_opset_below_seven_has_no_function() -> None:
    proto = residual(DECOMPOSED_RMS_NORM.replace("axes=[-1]", "axes=[2]"), opset=6, ir=3)
    assert [miss.reason for miss in graphfuse.fuse(proto).left] == [Reason.OPSET]


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(graphfuse.UsageError, match=r"cpu, cuda, .*portable or auto"):
        targets.target("tpu")


@pytest.mark.skipif(HAS_CUDA, reason="the CUDA provider is there, so nothing is missing")
def test_missing_provider_is_an_error_of_its_own() -> None:
    proto = residual(NORM)
    result = graphfuse.fuse(proto, ep="cuda")
    with pytest.raises(graphfuse.ProviderError, match="CUDAExecutionProvider") as caught:
        graphfuse.validate(proto, result.model, eps=["cuda"])
    assert caught.value.exit_code == 5


def test_missing_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> object:
        raise ImportError(f"no module named {name!r}")

    monkeypatch.setattr(foreign.importlib, "import_module", fail)
    with pytest.raises(graphfuse.ProviderError, match=r"graphfuse\[cpu\]"):
        graphfuse.session_options()

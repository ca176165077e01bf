"""Sessions: what onnxruntime's own optimiser makes of fused models, and of sites that are left.

Each test reads the graph that onnxruntime wrote after its optimisations at ORT_ENABLE_ALL.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import kernels, ops
from graphfuse.planning import runtimes, targets
from graphfuse.planning.runtimes import Choice
from graphfuse.records.element_types import ElementType
from graphfuse.running import sessions
from graphfuse.system import libraries
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, feeds, kinds, residual

NORM = "y = LayerNormalization(x, scale, bias)"
HERE = runtimes.runtime()
SUM_READ = "float[B,S,8] y, float[B,S,8] x"


def optimised(proto: onnx.ModelProto, options: ort.SessionOptions, folder: Path) -> list[str]:
    """The operators of the graph as onnxruntime runs it."""
    path = folder / "optimised.onnx"
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    made = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    made.run(None, feeds(proto))
    return kinds(onnx.load(path))


def test_onnxruntime_makes_the_slow_node_of_a_site_that_is_left(tmp_path: Path) -> None:
    assert optimised(residual(NORM), ort.SessionOptions(), tmp_path) == ["SkipLayerNormalization"]


@pytest.mark.parametrize("with_kernels", [False, True])
def test_a_site_that_is_left_gets_the_node_that_is_fast_here(
    tmp_path: Path, with_kernels: bool
) -> None:
    options = graphfuse.session_options(kernels=with_kernels)
    slow = "SkipLayerNormFusion" in HERE.slow_fusions
    wanted = ["Add", "LayerNormalization"] if slow else ["SkipLayerNormalization"]
    assert optimised(residual(NORM), options, tmp_path) == wanted


@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "there are kernels")
@pytest.mark.parametrize("outputs", ["float[B,S,8] y", SUM_READ])
@pytest.mark.parametrize("norm", [NORM, DECOMPOSED_RMS_NORM])
def test_a_fused_node_is_neither_undone_nor_doubled(
    tmp_path: Path, norm: str, outputs: str
) -> None:
    fused = graphfuse.fuse(residual(norm, outputs=outputs)).model
    assert optimised(fused, graphfuse.session_options(), tmp_path) == kinds(fused)


@pytest.mark.parametrize("outputs", ["float[B,S,8] y", SUM_READ])
def test_in_a_plain_session_a_function_becomes_what_is_fast_here(
    tmp_path: Path, outputs: str
) -> None:
    fused = graphfuse.fuse(residual(NORM, outputs=outputs)).model
    adds = HERE.form(Choice("LayerNorm", ElementType.FLOAT, 17))
    folded = adds == ops.BodyForm.ADD and outputs != SUM_READ
    wanted = ["SkipLayerNormalization"] if folded else [adds, "LayerNormalization"]
    assert optimised(fused, ort.SessionOptions(), tmp_path) == wanted


@pytest.mark.parametrize("opset", [7, 8, 13, 17])
def test_a_function_for_another_version_is_what_is_fast_there(tmp_path: Path, opset: int) -> None:
    """1.29 folds Add and LayerNormalization to the faster node, 1.30 to the slower one."""
    text = NORM if opset >= 17 else DECOMPOSED_LAYER_NORM
    proto = residual(text, opset=opset)
    for version, folded in (("1.29", True), ("1.30", False)):
        fused = graphfuse.fuse(proto, runtime=version).model
        found = optimised(fused, ort.SessionOptions(), tmp_path)
        assert (found == ["SkipLayerNormalization"]) == folded, found
        assert ("LayerNormalization" in found) != folded, found


def test_without_kernels_a_decomposed_norm_still_becomes_one_node(tmp_path: Path) -> None:
    fused = graphfuse.fuse(residual(DECOMPOSED_RMS_NORM)).model
    options = graphfuse.session_options(kernels=False)
    assert optimised(fused, options, tmp_path) == ["Add", "SimplifiedLayerNormalization"]


@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "there are kernels")
def test_a_whole_model_keeps_every_fused_node(tmp_path: Path) -> None:
    fused = graphfuse.fuse(MODELS / "bert.onnx")
    options = graphfuse.session_options()
    path = tmp_path / "optimised.onnx"
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(fused.model.SerializeToString(), options)
    found = kinds(onnx.load(path))
    assert len(fused.fused) == 5
    assert sorted(op for op in found if op.startswith("Add") and op.endswith("Normalization")) == [
        *sorted(fusion.op_type for fusion in fused.fused)
    ]
    assert "SkipLayerNormalization" not in found


def test_a_gpu_first_keeps_onnxruntimes_own_fusion() -> None:
    """There the contrib operator is the fast one, and graphfuse's kernels would be on the CPU."""
    options = graphfuse.session_options(providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    entry = options.get_session_config_entry(sessions.DISABLED_KEY)
    assert "SkipLayerNormFusion" not in entry.split(";")


def test_a_session_that_lacks_its_provider_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime goes on with the CPU when a listed provider cannot start."""
    monkeypatch.setattr(
        ort.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"]
    )
    with pytest.raises(graphfuse.ProviderError, match="cannot start it") as caught:
        sessions.session(residual(NORM), Path())
    assert caught.value.exit_code == 5


def test_an_onnxruntime_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions.require_provider(sessions.CPU, (1, 17))
    monkeypatch.setattr(ort, "__version__", "1.16.3")
    with pytest.raises(graphfuse.ProviderError, match=r"1\.16\.3 is too old") as caught:
        sessions.require_provider(sessions.CPU, targets.since(targets.target("cpu")))
    assert caught.value.exit_code == 5
    assert targets.since(targets.target("cpu,cuda")) == targets.since(targets.target("cuda"))


def test_available_providers_end_with_the_cpu() -> None:
    assert libraries.available_providers()[-1] == sessions.CPU


@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "there are kernels")
@pytest.mark.parametrize("rows", [0, 3])
def test_bfloat16_goes_in_and_comes_out(rows: int) -> None:
    """numpy has no such type, so onnxruntime's `run` takes none."""
    ones = np.ones(8, ml_dtypes.bfloat16)
    proto = residual(
        NORM,
        inputs="bfloat16[B,S,8] a, bfloat16[B,S,8] b",
        outputs="bfloat16[B,S,8] y, bfloat16[B,S,8] x",
        constants={"scale": ones, "bias": ones},
    )
    made = sessions.session(graphfuse.fuse(proto).model, Path())
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((1, rows, 8)).astype(ml_dtypes.bfloat16) for _ in "ab")
    got = sessions.run(made, {"a": a, "b": b, "other": a})
    assert got["x"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got["x"], a + b)
    total = a.astype(np.float64) + b.astype(np.float64)
    deviation = total - total.mean(-1, keepdims=True)
    wanted = deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-5) + 1
    np.testing.assert_allclose(got["y"].astype(np.float64), wanted, atol=2e-2)

"""What only a machine with an NVIDIA GPU can show; `tests/gpu/run.sh` runs it where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.records import NormKind, ValidationReport
from graphfuse.records.progress import SILENT
from graphfuse.running import profiler, sessions
from graphfuse.running.feeding import Feeding
from graphfuse.running.random_feeds import Sizes
from graphfuse.speed.measurements import BenchOptions
from graphfuse.validation.judge import judge
from tests.conftest import MODELS
from tests.gpu import strict
from tests.support.graphs import DECOMPOSED_RMS_NORM, feeds, residual

NORM = "y = LayerNormalization(x, scale, bias)"
SUM_READ = "float[B,S,8] y, float[B,S,8] x"
HAS_CUDA = sessions.CUDA in ort.get_available_providers()

cuda = pytest.mark.cuda
needs_cuda = pytest.mark.skipif(
    not HAS_CUDA,
    reason=f"onnxruntime {ort.__version__} has no {sessions.CUDA}: "
    "install onnxruntime-gpu on a machine with an NVIDIA GPU, or see tests/gpu/run.sh",
)


def providers_of(proto: onnx.ModelProto, options: ort.SessionOptions) -> dict[str, str]:
    """The operators of the fused nodes that ran, with the provider of each."""

    def make(made: ort.SessionOptions) -> ort.InferenceSession:
        return sessions.session(proto, Path(), sessions.CUDA, options=made)

    spent = profiler.profile(make, options, feeds(proto), 1)
    return {
        node.op_type: node.provider for node in spent if node.op_type in profiler.FUSED_OPERATORS
    }


@cuda
@needs_cuda
@pytest.mark.parametrize("norm", [NORM, DECOMPOSED_RMS_NORM])
@pytest.mark.parametrize("ep", ["cuda", "cpu,cuda"])
def test_fused_nodes_run_on_cuda(norm: str, ep: str) -> None:
    """The file for both inlines onnxruntime's own operator there, as no kernel is registered."""
    fused = graphfuse.fuse(residual(norm, outputs=SUM_READ), ep=ep).model
    options = graphfuse.session_options(providers=[sessions.CUDA])
    found = providers_of(fused, options)
    assert len(found) == 1
    assert next(iter(found)).startswith("Skip")
    assert set(found.values()) == {sessions.CUDA}


@cuda
@needs_cuda
def test_registered_kernels_draw_fused_nodes_to_the_cpu() -> None:
    """Why session_options registers none where CUDA comes first."""
    if not sessions.has_kernels(sessions.CPU):
        pytest.skip("graphfuse's kernels are not built")
    fused = graphfuse.fuse(residual(NORM), ep="cpu").model
    options = graphfuse.session_options(kernels=True, providers=[sessions.CUDA])
    assert providers_of(fused, options) == {"AddLayerNormalization": sessions.CPU}


@cuda
@needs_cuda
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "llama-float16", "gemma"])
@pytest.mark.parametrize("ep", ["cuda", "portable"])
def test_models_are_valid_on_cuda(name: str, ep: str) -> None:
    original = MODELS / f"{name}.onnx"
    fused = graphfuse.fuse(original, ep=ep).model
    report = graphfuse.validate(original, fused, ep=["cuda"])
    assert report.passed, report.failures


@cuda
@needs_cuda
@pytest.mark.parametrize("kind", [NormKind.LAYER_NORM, NormKind.RMS_NORM])
@pytest.mark.parametrize("elem_type", strict.UNITS)
@pytest.mark.parametrize("mode", [False, True])
def test_kernels_that_are_called_right_are_right(kind: str, elem_type: int, mode: bool) -> None:
    """What faults.json says of this version, shown; with strict mode and without."""
    found = strict.measure(sessions.CUDA, kind, elem_type, 4096, mode)
    assert found.verdict != "FAIL", found


@pytest.mark.parametrize("kind", [NormKind.LAYER_NORM, NormKind.RMS_NORM])
def test_the_measure_of_kernels_tells_right_from_wrong(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's kernel sums in float32; units of a finer type stand for one that does not."""
    elem_type = onnx.TensorProto.FLOAT16
    found = strict.measure(sessions.CPU, kind, elem_type, 64, False)
    assert found.right, found
    monkeypatch.setattr(strict, "UNITS", {elem_type: 2.0**-15})
    finer = strict.measure(sessions.CPU, kind, elem_type, 64, False)
    assert not finer.right
    assert replace(finer, claimed=True).verdict == "FAIL"
    assert replace(finer, claimed=False).verdict == "as the table says"
    assert replace(found, claimed=False).verdict == "right, and refused"


@cuda
@needs_cuda
def test_bench_runs_on_cuda() -> None:
    fused = graphfuse.fuse(MODELS / "bert.onnx", ep="cuda").model
    options = BenchOptions(0.2, (1,), (Sizes(1, 8),))
    (found,) = graphfuse.bench(MODELS / "bert.onnx", fused, ["cuda"], options=options).comparisons
    assert found.provider == sessions.CUDA
    assert found.fused.profile is not None
    assert set(found.fused.profile.providers.values()) == {sessions.CUDA}


@cuda
@pytest.mark.skipif(HAS_CUDA, reason="the CUDA provider is there, so nothing is missing")
def test_bench_without_cuda_is_exit_5() -> None:
    with pytest.raises(graphfuse.ProviderError, match=sessions.CUDA) as caught:
        graphfuse.bench(MODELS / "bert.onnx", MODELS / "bert.onnx", ["cuda"])
    assert caught.value.exit_code == 5


OTHER = "AzureExecutionProvider"
has_other = pytest.mark.skipif(
    OTHER not in ort.get_available_providers(),
    reason=f"onnxruntime {ort.__version__} has no {OTHER}, which has no kernels at all",
)


def _judged(level: str) -> ValidationReport:
    """A validation on a provider that has no kernel: onnxruntime gives every node to the CPU."""
    proto = residual(NORM, outputs=SUM_READ)
    fused = graphfuse.fuse(proto, ep="cuda").model
    return judge(Model(proto), Model(fused), {"other": OTHER}, Feeding(), level, (), SILENT)


@has_other
def test_fused_nodes_that_fell_back_fail_a_validation() -> None:
    with pytest.raises(graphfuse.ProviderError, match=f"in place of {OTHER}") as caught:
        _judged("fast")
    assert caught.value.exit_code == 5


@has_other
def test_a_site_alone_is_not_judged_by_the_kernel_of_another_provider() -> None:
    report = _judged("sites")
    assert [check.gate for check in report.failures] == ["G1"]
    assert "fallback to CPU EP has been explicitly disabled" in report.failures[0].where


def test_the_profile_names_the_provider_of_each_node() -> None:
    proto = residual(NORM)
    options = sessions.plain_options()
    spent = profiler.profile(
        lambda o: sessions.session(proto, Path(), options=o), options, feeds(proto), 2
    )
    assert {node.provider for node in spent} == {sessions.CPU}
    assert all(np.isfinite(time) and time >= 0 for time in spent.values())

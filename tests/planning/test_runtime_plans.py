"""Plans and sessions for a version of onnxruntime: what they make of its kernels' faults."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.planning import faults, runtimes
from graphfuse.planning.plan import plan
from graphfuse.planning.targets import target
from graphfuse.recognition.scan import scan
from graphfuse.records import NormKind, Plan
from graphfuse.records.reasons import Reason
from graphfuse.records.requests import Selection
from graphfuse.running import sessions
from graphfuse.system import libraries
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, feeds, residual
from tests.support.typed_sites import LN_IN_FLOAT32, LN_OP, NORMS, RMS_IN_FLOAT32, VERSIONS, site

CUDA, WEBGPU, DIRECTML = "cuda", "webgpu", "directml"
NEWEST = "1.32"


def planned(proto: onnx.ModelProto, ep: str, runtime: str = NEWEST, **options: Any) -> Plan:
    model = Model(proto)
    every = Selection(costs="none", fold_bias=options.pop("fold_bias", None))
    known = runtimes.runtime(runtime)
    return plan(model, scan(model), target(ep), every, runtime=known, **options)


def verdict(proto: onnx.ModelProto, ep: str, **options: Any) -> Reason | None:
    """Why the one site of a model is left, None when it is fused."""
    made = planned(proto, ep, **options)
    assert len(made.fusions) + len(made.left) == 1
    return made.left[0].reason if made.left else None


def outputs(proto: onnx.ModelProto, given: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a run on the CPU."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=[sessions.CPU])
    return session.run(None, given)[0]


# Plans.


@pytest.mark.parametrize("ep", [CUDA, "cpu,cuda"])
@pytest.mark.parametrize("norm", [*NORMS.values(), DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM])
def test_float16_on_cuda_is_left_until_1_26(norm: str, ep: str) -> None:
    """Whatever the model computes in: sums of x * x / n in float16 lose small rows as well."""
    for version in VERSIONS:
        fixed = runtimes.parse_version(version) >= (1, 27)
        wanted = None if fixed else Reason.RUNTIME_FAULT
        assert verdict(site(norm), ep, runtime=version) is wanted, version
        assert verdict(site(norm), ep, runtime=version, strict_mode=True) is None, version
    assert verdict(site(norm), ep) is None


def test_a_plan_says_in_which_versions_its_kernels_are_right() -> None:
    assert planned(site(LN_OP), CUDA).made_for == "onnxruntime 1.27 and later"
    strict = planned(site(LN_OP), CUDA, runtime="1.24", strict_mode=True).made_for
    assert strict == f"onnxruntime 1.27 and later, before in sessions with {faults.STRICT_MODE}"
    assert planned(site(LN_OP), "cpu,cuda").made_for.endswith(
        "; onnxruntime 1.27 and later where cpu,cuda runs onnxruntime's kernels"
    )
    assert planned(site(LN_OP, "float32", "[S,8]"), WEBGPU).made_for == "onnxruntime 1.25 and later"
    for ep in (CUDA, WEBGPU, DIRECTML):
        assert planned(site(LN_OP, "float32"), ep).made_for == ""
    assert "kernels" not in planned(site(LN_OP), "cpu").made_for


def test_a_fault_is_told_with_its_source() -> None:
    (left,) = planned(site(LN_OP), CUDA, runtime="1.24.4").left
    assert "CUDAExecutionProvider" in left.got
    assert "microsoft/onnxruntime#29034" in left.got
    assert "\n" not in left.got


@pytest.mark.parametrize("norm", NORMS.values())
@pytest.mark.parametrize("ep", ["cpu", "portable", "tensorrt"])
def test_graphfuses_own_operators_have_no_faults(norm: str, ep: str) -> None:
    for version in ("1.20", "1.26", "1.32"):
        assert verdict(site(norm), ep, runtime=version) is None


def test_float32_on_cuda_is_fused_in_every_version() -> None:
    for version in VERSIONS:
        for norm in (LN_OP, DECOMPOSED_RMS_NORM):
            assert verdict(site(norm, "float32"), CUDA, runtime=version) is None, version


@pytest.mark.parametrize("type_", ["float32", "float16"])
@pytest.mark.parametrize("b", ["[S,8]", "[1,S,8]"])
def test_strict_mode_takes_no_skip_that_broadcasts(type_: str, b: str) -> None:
    """So a file for a version whose sessions need strict mode has no such node, of any type."""
    for norm in (LN_OP, DECOMPOSED_RMS_NORM):
        proto = site(norm, type_, b)
        for strict_mode in (False, True):
            options = {"strict_mode": strict_mode}
            assert verdict(proto, CUDA, runtime="1.26", **options) is Reason.RUNTIME_FAULT
            assert verdict(proto, CUDA, runtime="1.27", **options) is None


@pytest.mark.parametrize("strict_mode", [False, True])
def test_bfloat16_on_cuda_from_1_27_on(strict_mode: bool) -> None:
    for norm in (LN_OP, DECOMPOSED_RMS_NORM):
        proto = site(norm, "bfloat16")
        for version in VERSIONS:
            wanted = Reason.RUNTIME_FAULT if runtimes.parse_version(version) < (1, 27) else None
            options = {"runtime": version, "strict_mode": strict_mode}
            assert verdict(proto, CUDA, **options) is wanted, version


def test_a_norm_in_float32_needs_a_kernel_that_is_shown_to_be_as_wide() -> None:
    """DirectML: nothing is shown. WebGPU: a LayerNorm's mean is rounded to float16."""
    wide = {NormKind.LAYER_NORM: LN_IN_FLOAT32, NormKind.RMS_NORM: RMS_IN_FLOAT32}
    narrow = {NormKind.LAYER_NORM: DECOMPOSED_LAYER_NORM, NormKind.RMS_NORM: DECOMPOSED_RMS_NORM}
    for kind in (NormKind.LAYER_NORM, NormKind.RMS_NORM):
        assert verdict(site(wide[kind]), DIRECTML) is Reason.RUNTIME_PRECISION
        assert verdict(site(narrow[kind]), DIRECTML) is None
        assert verdict(site(narrow[kind]), WEBGPU) is None
        assert verdict(site(wide[kind]), CUDA) is None
    assert verdict(site(LN_OP), DIRECTML) is Reason.RUNTIME_PRECISION
    assert verdict(site(LN_IN_FLOAT32), WEBGPU) is Reason.RUNTIME_PRECISION
    assert verdict(site(RMS_IN_FLOAT32), WEBGPU) is None
    assert verdict(site(LN_IN_FLOAT32), "cuda,webgpu") is Reason.RUNTIME_PRECISION
    assert verdict(site(LN_OP, "float32"), DIRECTML) is None


def test_webgpu_reads_a_skip_that_broadcasts_rightly_from_1_25_on() -> None:
    proto = site(LN_OP, "float32", "[1,S,8]")
    assert verdict(proto, WEBGPU, runtime="1.24") is Reason.RUNTIME_FAULT
    assert verdict(proto, WEBGPU, runtime="1.25") is None
    assert verdict(site(LN_OP, "float32"), WEBGPU, runtime="1.24") is None


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 8)])
def test_a_scale_is_written_with_the_rank_that_every_kernel_reads(shape: tuple[int, ...]) -> None:
    """onnxruntime pull 28971: CUDA reads a scale of another rank than that wrongly."""
    proto = residual(
        "c = ReduceMean<axes=[-1], keepdims=1>(x)\n d = Sub(x, c)\n"
        "q = Mul(d, d)\n v = ReduceMean<axes=[-1], keepdims=1>(q)\n e = Add(v, eps)\n"
        "r = Sqrt(e)\n n = Div(d, r)\n y = Mul(n, scale)",
        constants={"scale": np.linspace(0.5, 1.5, 8, dtype=np.float32).reshape(shape)},
    )
    result = graphfuse.fuse(proto, ep=CUDA)
    assert result.changed
    made = onnx.shape_inference.infer_shapes(result.model)
    (fused,) = [n for n in made.graph.node if n.op_type == "SkipLayerNormalization"]
    shapes = {w.name: tuple(w.dims) for w in made.graph.initializer}
    for value in made.graph.value_info:
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    assert shapes[fused.input[2]] == (8,)
    before, after = outputs(proto, feeds(proto)), outputs(result.model, feeds(proto))
    np.testing.assert_allclose(after, before, atol=1e-5)


# Sessions.


def test_cuda_sessions_have_strict_mode_where_a_version_needs_it() -> None:
    for version in VERSIONS:
        wanted = {faults.STRICT_MODE: "1"} if runtimes.parse_version(version) < (1, 27) else {}
        assert sessions.provider_options(sessions.CUDA, version) == wanted, version
        for other in (sessions.CPU, "WebGpuExecutionProvider", "TensorrtExecutionProvider"):
            assert sessions.provider_options(other, version) == {}


def test_providers_are_what_a_session_takes() -> None:
    strict = {faults.STRICT_MODE: "1"}
    assert graphfuse.providers("cuda", "1.24.4") == [(sessions.CUDA, strict)]
    assert graphfuse.providers("cuda,cpu", (1, 24)) == [(sessions.CUDA, strict), (sessions.CPU, {})]
    assert graphfuse.providers(["cpu", "portable"]) == [(sessions.CPU, {})]
    with pytest.raises(graphfuse.UsageError, match="unknown execution provider"):
        graphfuse.providers("tpu")
    proto = site(LN_OP, "float32")
    options = graphfuse.session_options()
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=graphfuse.providers("cpu")
    )
    assert session.get_providers() == [sessions.CPU]


@pytest.mark.parametrize(("version", "strict"), [("1.24.4", True), ("1.27.0", False)])
def test_validation_and_bench_run_with_the_same_options(
    monkeypatch: pytest.MonkeyPatch, version: str, strict: bool
) -> None:
    """What onnxruntime is asked for; no GPU runs it here."""
    asked: list[object] = []

    def session(data: bytes, options: object, providers: object) -> object:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: [sessions.CUDA, sessions.CPU])

    fake = SimpleNamespace(
        __version__=version,
        InferenceSession=session,
        SessionOptions=ort.SessionOptions,
        GraphOptimizationLevel=ort.GraphOptimizationLevel,
    )
    monkeypatch.setattr(libraries, "onnxruntime", lambda: fake)
    monkeypatch.setattr(libraries, "load_cuda_libraries", lambda: None)
    sessions.session(site(LN_OP), Path(), sessions.CUDA)
    assert asked == [[(sessions.CUDA, {faults.STRICT_MODE: "1"} if strict else {})]]

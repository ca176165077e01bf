"""What is known of onnxruntime's own kernels by version, and the plans and sessions that heed it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

import graphfuse
from graphfuse import faults, foreign, runtime, targets
from graphfuse.graph.model_file import Model
from graphfuse.ops import CONTRIB_OPERATOR
from graphfuse.patterns.scan import scan
from graphfuse.plan import plan
from graphfuse.reasons import Reason
from graphfuse.records import LAYER_NORM, RMS_NORM, Plan
from tests.conftest import ROOT
from tests.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, residual

CUDA, WEBGPU, DIRECTML = "cuda", "webgpu", "directml"
HALF, BRAIN, SINGLE = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT
LN_OP = "y = LayerNormalization(x, scale, bias)"
RMS_OP = "y = RMSNormalization(x, scale)"
RMS_IN_FLOAT32 = """
    c = Cast<to=1>(x)
    q = Mul(c, c)
    v = ReduceMean<axes=[-1], keepdims=1>(q)
    e = Add(v, wide)
    r = Sqrt(e)
    n = Div(c, r)
    h = Cast<to=10>(n)
    y = Mul(h, scale)
"""
LN_IN_FLOAT32 = """
    c = Cast<to=1>(x)
    m = ReduceMean<axes=[-1], keepdims=1>(c)
    d = Sub(c, m)
    q = Mul(d, d)
    v = ReduceMean<axes=[-1], keepdims=1>(q)
    e = Add(v, wide)
    r = Sqrt(e)
    n = Div(d, r)
    h = Cast<to=10>(n)
    s = Mul(h, scale)
    y = Add(s, bias)
"""
MEAN_IN_FLOAT16 = LN_IN_FLOAT32.replace(
    "c = Cast<to=1>(x)\n    m = ReduceMean<axes=[-1], keepdims=1>(c)\n    d = Sub(c, m)",
    "m = ReduceMean<axes=[-1], keepdims=1>(x)\n    f = Sub(x, m)\n    d = Cast<to=1>(f)",
)
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SPELLED = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}
VERSIONS = [f"1.{n}" for n in range(20, 34)]


def site(norm: str, type_: str = "float16", b: str = "[B,S,8]") -> onnx.ModelProto:
    """x = a + b in a type, and a norm whose scale, bias and eps have that type too."""
    dtype, spelled = TYPES[type_], SPELLED[type_]
    constants = {
        "scale": np.linspace(0.5, 1.5, 8).astype(dtype),
        "bias": np.linspace(-0.5, 0.5, 8).astype(dtype),
        "eps": np.array(1e-5, dtype),
        "wide": np.array(1e-5, np.float32),
    }
    options: dict[str, Any] = {"opset": 23, "ir": 10} if norm == RMS_OP else {}
    return residual(
        norm,
        inputs=f"{spelled}[B,S,8] a, {spelled}{b} b",
        outputs=f"{spelled}[B,S,8] y",
        constants=constants,
        **options,
    )


def planned(proto: onnx.ModelProto, ep: str, **options: Any) -> Plan:
    model = Model(proto)
    return plan(model, scan(model), ep, **options)


def verdict(proto: onnx.ModelProto, ep: str, **options: Any) -> Reason | None:
    """Why the one site of a model is left, None when it is fused."""
    made = planned(proto, ep, **options)
    assert len(made.fusions) + len(made.left) == 1
    return made.left[0].reason if made.left else None


# The table.


def document() -> dict[str, Any]:
    path = ROOT / "graphfuse" / faults.FILE
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_row_names_its_source_and_a_provider_that_targets_know() -> None:
    table = faults.table()
    assert table.faults
    assert table.accumulation
    providers = {target.provider for target in targets.TARGETS.values()}
    for row in (*table.faults, *table.accumulation):
        assert row.provider in providers
        assert row.since >= table.oldest
        # An issue or pull request by number, a file of the sources, or a released wheel.
        assert re.search(r"#\d{4,}|pull \d{4,}|\.(cc|cuh|cpp)\b|\d\.\d+\.\d", row.source), row


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("faults", "effect", "shrug"),
        ("faults", "when", "on Mondays"),
        ("faults", "what", ""),
        ("faults", "source", ""),
        ("faults", "operators", []),
        ("faults", "types", []),
        ("faults", "types", ["float8"]),
        ("faults", "until", "1.19"),
        ("accumulation", "in", "decimal"),
        ("accumulation", "source", ""),
    ],
)
def test_a_row_that_says_nothing_is_refused(part: str, field: str, value: object) -> None:
    broken = copy.deepcopy(document())
    assert faults.parse(broken)
    broken[part][0][field] = value
    with pytest.raises((ValueError, KeyError)):
        faults.parse(broken)


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 2"):
        faults.parse({**document(), "schema": 2})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.29", (1, 29)),
        ("1.29.0", (1, 29)),
        ("1.33.0.dev2026", (1, 33)),
        ("1.27.0rc1", (1, 27)),
        ("1.24.4+cu12", (1, 24)),
        ("2.0", (2, 0)),
    ],
)
def test_versions_are_read_as_onnxruntime_writes_them(text: str, wanted: tuple[int, int]) -> None:
    assert faults.minor(text) == wanted


@pytest.mark.parametrize("text", ["", "1", "newest", "v1.29", "1."])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(graphfuse.UsageError, match=r"write it like 1\.29"):
        faults.minor(text)


def effects(operator: str, elem_type: int, version: faults.Version | None) -> set[str]:
    found = faults.known(runtime.CUDA, operator, elem_type, version)
    return {fault.effect for fault in found if not fault.when} - {faults.NOTE}


@pytest.mark.parametrize("operator", CONTRIB_OPERATOR.values())
def test_cuda_by_version(operator: str) -> None:
    """Sums in float16 until 1.26, no or narrow bfloat16 kernels; nothing of that from 1.27 on."""
    for version in VERSIONS:
        narrow = faults.minor(version) < (1, 27)
        assert effects(operator, HALF, version) == ({faults.STRICT} if narrow else set())
        assert effects(operator, BRAIN, version) == ({faults.REFUSE} if narrow else set())
        assert effects(operator, SINGLE, version) == set()
        shown = [
            faults.accumulates(runtime.CUDA, operator, HALF, version, strict_mode)
            for strict_mode in (False, True)
        ]
        assert shown == [0 if narrow else SINGLE, SINGLE]
    assert effects(operator, HALF, None) == set()
    assert effects(operator, HALF, (1, 26)) == effects(operator, HALF, "1.26.0")


@pytest.mark.parametrize("version", ["1.27.0.dev20260501", "1.27.0rc1"])
def test_what_came_before_the_release_with_the_fix_may_lack_it(version: str) -> None:
    operator = CONTRIB_OPERATOR[RMS_NORM]
    assert effects(operator, HALF, version) == {faults.STRICT}
    assert not faults.accumulates(runtime.CUDA, operator, HALF, version)
    assert effects(operator, HALF, "1.27.0") == effects(operator, HALF, "1.28.0.dev1") == set()


def test_older_versions_than_the_oldest_are_taken_for_it() -> None:
    assert effects(CONTRIB_OPERATOR[RMS_NORM], HALF, "1.17.3") == {faults.STRICT}


# What a model computes its statistics in.


@pytest.mark.parametrize(
    ("norm", "type_", "wanted"),
    [
        (DECOMPOSED_RMS_NORM, "float16", HALF),
        (DECOMPOSED_LAYER_NORM, "float16", HALF),
        (DECOMPOSED_LAYER_NORM, "float32", SINGLE),
        (RMS_IN_FLOAT32, "float16", SINGLE),
        (LN_IN_FLOAT32, "float16", SINGLE),
        (MEAN_IN_FLOAT16, "float16", SINGLE),
        (LN_OP, "float16", SINGLE),
        (LN_OP, "bfloat16", SINGLE),
        (LN_OP, "float32", SINGLE),
        (RMS_OP, "float16", SINGLE),
        (LN_OP.replace("(x", "<stash_type=16>(x"), "bfloat16", BRAIN),
    ],
)
def test_a_site_knows_what_its_statistics_are_computed_in(
    norm: str, type_: str, wanted: int
) -> None:
    (found,) = scan(Model(site(norm, type_))).sites
    assert found.elem_type == faults.TYPES[type_]
    assert found.computed_in == wanted


# Plans.

NORMS = {LAYER_NORM: LN_OP, RMS_NORM: RMS_IN_FLOAT32}
"""In float16, with statistics in float32."""


@pytest.mark.parametrize("ep", [CUDA, "cpu,cuda"])
@pytest.mark.parametrize("norm", [*NORMS.values(), DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM])
def test_float16_on_cuda_is_left_until_1_26(norm: str, ep: str) -> None:
    """Whatever the model computes in: sums of x * x / n in float16 lose small rows as well."""
    for version in VERSIONS:
        fixed = faults.minor(version) >= (1, 27)
        wanted = None if fixed else Reason.RUNTIME_FAULT
        assert verdict(site(norm), ep, runtime=version) is wanted, version
        assert verdict(site(norm), ep, runtime=version, strict_mode=True) is None, version
    assert verdict(site(norm), ep) is None


def test_a_fault_is_told_with_its_source() -> None:
    (left,) = planned(site(LN_OP), CUDA, runtime="1.24.4").left
    assert "CUDAExecutionProvider" in left.got
    assert "microsoft/onnxruntime#29034" in left.got
    assert "\n" not in left.got


@pytest.mark.parametrize("norm", NORMS.values())
@pytest.mark.parametrize("ep", ["cpu", "portable", "tensorrt"])
def test_graphfuses_own_operators_have_no_faults(norm: str, ep: str) -> None:
    for version in ("1.20", "1.26", "1.32"):
        assert verdict(site(norm), ep, runtime=version, costs=None) is None


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
            wanted = Reason.RUNTIME_FAULT if faults.minor(version) < (1, 27) else None
            options = {"runtime": version, "strict_mode": strict_mode}
            assert verdict(proto, CUDA, **options) is wanted, version


def test_a_norm_in_float32_needs_a_kernel_that_is_shown_to_be_as_wide() -> None:
    """DirectML: nothing is shown. WebGPU: a LayerNorm's mean is rounded to float16."""
    wide = {LAYER_NORM: LN_IN_FLOAT32, RMS_NORM: RMS_IN_FLOAT32}
    narrow = {LAYER_NORM: DECOMPOSED_LAYER_NORM, RMS_NORM: DECOMPOSED_RMS_NORM}
    for kind in (LAYER_NORM, RMS_NORM):
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
    assert graphfuse.validate(proto, result.model).passed


# Sessions.


def test_cuda_sessions_have_strict_mode_where_a_version_needs_it() -> None:
    for version in VERSIONS:
        wanted = {runtime.STRICT_MODE: "1"} if faults.minor(version) < (1, 27) else {}
        assert runtime.provider_options(runtime.CUDA, version) == wanted, version
        for other in (runtime.CPU, "WebGpuExecutionProvider", "TensorrtExecutionProvider"):
            assert runtime.provider_options(other, version) == {}


def test_providers_are_what_a_session_takes() -> None:
    strict = {runtime.STRICT_MODE: "1"}
    assert graphfuse.providers("cuda", "1.24.4") == [(runtime.CUDA, strict)]
    assert graphfuse.providers("cuda,cpu", (1, 24)) == [(runtime.CUDA, strict), (runtime.CPU, {})]
    assert graphfuse.providers(["cpu", "portable"]) == [(runtime.CPU, {})]
    with pytest.raises(graphfuse.UsageError, match="unknown execution provider"):
        graphfuse.providers("tpu")
    proto = site(LN_OP, "float32")
    options = graphfuse.session_options()
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=graphfuse.providers("cpu")
    )
    assert session.get_providers() == [runtime.CPU]


@pytest.mark.parametrize(("version", "strict"), [("1.24.4", True), ("1.27.0", False)])
def test_validation_and_bench_run_with_the_same_options(
    monkeypatch: pytest.MonkeyPatch, version: str, strict: bool
) -> None:
    """What onnxruntime is asked for; no GPU runs it here."""
    asked: list[object] = []

    def session(data: bytes, options: object, providers: object) -> object:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: [runtime.CUDA, runtime.CPU])

    fake = SimpleNamespace(
        __version__=version,
        InferenceSession=session,
        SessionOptions=ort.SessionOptions,
        GraphOptimizationLevel=ort.GraphOptimizationLevel,
    )
    monkeypatch.setattr(foreign, "onnxruntime", lambda: fake)
    monkeypatch.setattr(foreign, "load_cuda_libraries", lambda: None)
    runtime.session(site(LN_OP), Path(), runtime.CUDA)
    assert asked == [[(runtime.CUDA, {runtime.STRICT_MODE: "1"} if strict else {})]]

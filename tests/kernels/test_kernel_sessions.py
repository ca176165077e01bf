"""Sessions with the CPU kernels: fused models, registration, and a library that is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import kernels
from graphfuse.errors import ProviderError, UsageError
from graphfuse.running.sessions import has_kernels
from tests.campaigns.kernels.node import Arrays, Node
from tests.conftest import MODELS

pytestmark = pytest.mark.skipif(
    kernels.find() is None and shutil.which("c++") is None,
    reason="the kernels were not built: there is no C++ compiler",
)

LAYER_NORM = "AddLayerNormalization"
FUSED = (LAYER_NORM, "AddBiasLayerNormalization")


def fused_model(name: str = "bert.onnx") -> tuple[onnx.ModelProto, int]:
    result = graphfuse.fuse(MODELS / name)
    return result.model, len(result.fused)


@pytest.mark.parametrize("registered", [True, False])
def test_a_fused_model_runs_with_the_kernels(registered: bool, tmp_path: Path) -> None:
    model, sites = fused_model()
    options = graphfuse.session_options(kernels=registered)
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    made = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = graphfuse_feeds(model)
    made.run(None, feeds)
    events = json.loads(Path(made.end_profiling()).read_text())
    ran = {
        event["args"]["op_name"] + event["name"]
        for event in events
        if event.get("args", {}).get("op_name") in FUSED and "kernel_time" in event["name"]
    }
    assert len(ran) == (sites if registered else 0)


def graphfuse_feeds(model: onnx.ModelProto) -> Arrays:
    from graphfuse.running.random_feeds import random_feeds

    return dict(random_feeds(model, 0))


def test_validation_runs_both_ways() -> None:
    model, sites = fused_model()
    report = graphfuse.validate(MODELS / "bert.onnx", model)
    assert report.passed
    own = [
        check for check in report.checks if check.gate == "G1" and "graphfuse kernel" in check.where
    ]
    others = [check for check in report.checks if check.gate == "G1" and check not in own]
    assert len(own) == len(others) == 2 * sites, "on hard rows and on real activations"
    assert {check.bound for check in own} == {1.0}
    assert {check.bound for check in others} == {8.0}
    assert any("graphfuse kernels" in check.where for check in report.checks if check.gate == "G2")


def test_kernels_are_for_sessions_on_the_cpu() -> None:
    assert has_kernels(["CPUExecutionProvider"])
    assert not has_kernels(["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert has_kernels([("CPUExecutionProvider", {}), "CUDAExecutionProvider"])
    assert has_kernels("CPUExecutionProvider")
    assert not has_kernels([("CUDAExecutionProvider", {"device_id": 0})])
    with pytest.raises(UsageError, match="no execution provider is named"):
        graphfuse.session_options(providers=[])


@pytest.mark.parametrize("first", ["by path", "by graphfuse"])
@pytest.mark.parametrize("second", ["by path", "by graphfuse", "another copy"])
def test_options_may_be_given_the_library_twice(first: str, second: str, tmp_path: Path) -> None:
    """onnxruntime makes no session of such options: "Domain already set in registry"."""
    copy = tmp_path / kernels.library_path().name
    shutil.copy(kernels.library_path(), copy)
    options = ort.SessionOptions()
    ways = {
        "by path": lambda: options.register_custom_ops_library(str(kernels.library_path())),
        "by graphfuse": lambda: kernels.register(options),
        "another copy": lambda: options.register_custom_ops_library(str(copy)),
    }
    ways[first]()
    ways[second]()
    model, _ = fused_model()
    data = model.SerializeToString()
    # Each session gets a copy of the options.
    for _ in range(2):
        made = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        assert made.run(None, graphfuse_feeds(model))


def test_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "__path__", [])
    kernels.why_not.cache_clear()
    try:
        assert "no C++17 compiler" in kernels.why_not()
        with pytest.raises(ProviderError, match=r"no CPU kernels.*install g\+\+"):
            kernels.library_path()
        with pytest.raises(ProviderError, match="no CPU kernels"):
            graphfuse.session_options(kernels=True)
        # By default such a session has none, and fused models run through their functions.
        model, _ = fused_model()
        made = ort.InferenceSession(
            model.SerializeToString(),
            graphfuse.session_options(),
            providers=["CPUExecutionProvider"],
        )
        assert made.run(None, graphfuse_feeds(model))
    finally:
        kernels.why_not.cache_clear()


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / kernels.library_path().name
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(kernels, "__path__", [str(tmp_path)])
    with pytest.raises(ProviderError, match="onnxruntime cannot load graphfuse's kernels"):
        kernels.register(ort.SessionOptions())


def test_one_symbol_is_exported() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    command = [nm, "-D", "--defined-only", str(kernels.library_path())]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["RegisterCustomOps"]


def test_the_floating_point_environment_stays() -> None:
    """A library that is linked with -ffast-math makes every subnormal of the process zero."""
    Node(LAYER_NORM).run(Node(LAYER_NORM).feeds(np.random.default_rng(0), (2, 8)))
    assert np.float32(1e-40) * np.float32(0.5) > 0
    assert float(np.array(5e-324) * 1.0) > 0

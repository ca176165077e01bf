"""GraphFuse as a pass of Microsoft Olive: `olive run`, its cache, composite models, the evaluator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

import graphfuse
from tests.conftest import MODELS, ROOT, files_of
from tests.support import environments
from tests.support.graphs import assert_passes

HAS_OLIVE = find_spec("olive") is not None
needs_olive = pytest.mark.skipif(not HAS_OLIVE, reason="olive-ai is not installed")
CASES_TIME = 600


def child(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python process with this checkout, its warnings and its telemetry off."""
    env = {**environments.with_checkout(), "OLIVE_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-W", "ignore", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=CASES_TIME,
    )


def fused(path: Path, domain: str = "graphfuse") -> int:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum(node.domain == domain for node in nodes)


@pytest.fixture(scope="module")
def cli(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, list[str]]:
    """A folder in which `olive run` was run, twice with --every-export, and what each printed."""
    folder = tmp_path_factory.mktemp("olive")
    shutil.copy(MODELS / "bert.onnx", folder / "model.onnx")
    shutil.copy(ROOT / "tests" / "integrations" / "workflow.json", folder)
    (folder / "graphfuse_evaluator.py").write_text("import graphfuse.integrations.olive\n")
    printed = child(folder, "-m", "graphfuse.integrations.olive")
    assert printed.returncode == 0, printed.stderr
    (folder / "passes.json").write_text(printed.stdout)
    said: list[str] = []
    for _ in range(2 if request.config.getoption("--every-export") else 1):
        options = ["--config", "workflow.json", "--package-config", "passes.json"]
        done = child(folder, "-m", "olive", "run", *options)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
        shutil.copytree(folder / "out", folder / f"out{len(said)}")
    return folder, said


@needs_olive
def test_a_workflow(cli: tuple[Path, list[str]]) -> None:
    """An optimizer of Olive's and GraphFuse, with the latency before and after."""
    folder, (first, *_) = cli
    assert "GraphFuse: FuseResult: 5 fused for cpu" in first, first
    assert fused(folder / "out1" / "model.onnx") == 5
    assert_passes(MODELS / "bert.onnx", onnx.load(folder / "out1" / "model.onnx"), level="fast")
    for name in ("input_model_metrics.json", "metrics.json"):
        metrics = json.loads((folder / "out1" / name).read_text())
        assert metrics["latency-avg"]["value"] > 0


@needs_olive
@pytest.mark.every
def test_a_workflow_again_comes_from_the_cache(cli: tuple[Path, list[str]]) -> None:
    folder, (_, second) = cli
    assert second.count("Loaded model from cache") == 2, second
    assert "GraphFuse:" not in second
    one, other = ((folder / name / "model.onnx").read_bytes() for name in ("out1", "out2"))
    assert one == other


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    """The workflows of tests/support/olive_cases.py: their folders, and what came of each."""
    folder = tmp_path_factory.mktemp("cases")
    done = child(folder, "-m", "tests.support.olive_cases", str(folder))
    lines = [line[5:] for line in done.stdout.splitlines() if line.startswith("CASE ")]
    assert lines, done.stderr
    found = {each["case"]: each for each in map(json.loads, lines)}
    return folder, found


@needs_olive
def test_external_data_is_copied_and_not_loaded(cases: tuple[Path, Mapping[str, Any]]) -> None:
    folder, found = cases
    for name, model, sites in (("external", "bert", 5), ("external_validated", "llama", 4)):
        assert not found[name]["raised"]
        out = folder / name / "out"
        assert {"model.onnx", "w"} <= set(files_of(out))
        assert (out / "w").read_bytes() == (folder / name / "in" / "w").read_bytes()
        assert fused(out / "model.onnx") == sites
        assert_passes(MODELS / f"{model}.onnx", out / "model.onnx", level="fast")


@needs_olive
def test_inline_weights_go_into_a_file_where_that_is_asked_for(
    cases: tuple[Path, Mapping[str, Any]],
) -> None:
    out = cases[0] / "to_external" / "out"
    assert {"mine.data", "model.onnx"} <= set(files_of(out))
    assert fused(out / "model.onnx") == 5
    assert_passes(MODELS / "bert.onnx", out / "model.onnx", level="fast")


@needs_olive
def test_each_component_of_a_composite_model(cases: tuple[Path, Mapping[str, Any]]) -> None:
    folder, found = cases
    assert not found["composite"]["raised"], found["composite"]
    out = folder / "composite" / "out"
    for name, sites in (("bert", 5), ("llama", 4)):
        assert fused(out / f"{name}.onnx") == sites
        # Olive links the weights of components to those in its cache.
        limits = graphfuse.Limits(allow_links=True)
        assert_passes(MODELS / f"{name}.onnx", out / f"{name}.onnx", level="fast", limits=limits)


@needs_olive
def test_a_model_without_sites_passes_through(cases: tuple[Path, Mapping[str, Any]]) -> None:
    folder, found = cases
    case = folder / "unfusable"
    assert any("0 fused for cpu" in line for line in found["unfusable"]["log"])
    assert (case / "out" / "model.onnx").read_bytes() == (case / "plain.onnx").read_bytes()


@needs_olive
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too_few", "GateError: 5 of 6 sites were fused"),
        ("wrong_number", "UsageError: min_fused is -1, below 0"),
        ("wrong_site", "UsageError: no site is named 'nothing'"),
        ("linked", "ModelError: external data of tensor"),
    ],
)
def test_a_failure_is_in_the_log(
    name: str, said: str, cases: tuple[Path, Mapping[str, Any]]
) -> None:
    folder, found = cases
    assert any(line.startswith(f"Pass run failed. {said}") for line in found[name]["log"])
    case = folder / name / "again" if name == "linked" else folder / name
    assert not list(case.rglob("*.onnx"))


@needs_olive
def test_links_to_weights_are_followed_where_that_is_allowed(
    cases: tuple[Path, Mapping[str, Any]],
) -> None:
    folder, found = cases
    assert not found["linked_and_allowed"]["raised"]
    assert fused(folder / "linked_and_allowed" / "again" / "out" / "model.onnx") == 5


@needs_olive
def test_options(cases: tuple[Path, Mapping[str, Any]]) -> None:
    folder, found = cases
    assert "Input should be 'fast', 'full', 'sites' or 'none'" in found["wrong_level"]["raised"]
    out = folder / "chosen" / "out" / "model.onnx"
    assert (fused(out), fused(out, "com.microsoft")) == (0, 1)
    # The accelerator's provider says what nodes are for.
    assert found["providers"]["gave"] == {"CUDA": "cuda", "QNN": "qnn", "CPU": "cpu", "": "cpu"}
    assert fused(folder / "providers" / "CUDA.onnx", "com.microsoft") == 4
    assert fused(folder / "providers" / "QNN.onnx") == 4
    assert "put a pass that exports it" in found["no_onnx"]["raised"]
    settings = found["settings"]["gave"]
    assert settings["inference_settings"] == {"session_options": {"intra_op_num_threads": 1}}
    assert files_of(folder / "settings" / "out") == ["extra.npz", "model.onnx"]


@needs_olive
def test_the_evaluators_sessions_have_the_kernels(cases: tuple[Path, Mapping[str, Any]]) -> None:
    """A model that only they can run; Olive's own evaluator cannot load it."""
    from graphfuse import kernels

    if kernels.find() is None:
        pytest.skip("the kernels were not built")
    _, found = cases
    assert found["our_evaluator"]["gave"]["latency-avg"]["value"] > 0
    assert any("is not a registered function" in line for line in found["their_evaluator"]["log"])


def test_what_is_shipped_names_the_pass() -> None:
    """As far as it goes without Olive: the configuration names a class that is there."""
    own = json.loads((ROOT / "graphfuse" / "integrations" / "olive.json").read_text())
    module, _, name = own["passes"]["GraphFuse"]["module_path"].rpartition(".")
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert f"class {name}(" in source.read_text()


@pytest.mark.parametrize("command", ["import", "run"])
def test_without_olive_there_is_one_line(command: str, tmp_path: Path) -> None:
    """Even where Olive is installed: a module that is none stands before it."""
    (tmp_path / "olive.py").write_text("raise ImportError('no Olive here')\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    code = "import graphfuse\ntry:\n    import graphfuse.integrations.olive\n"
    code += "except graphfuse.ProviderError as error:\n    print(error)"
    words = ["-c", code] if command == "import" else ["-m", "graphfuse.integrations.olive"]
    done = subprocess.run(
        [sys.executable, *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = done.stdout if command == "import" else done.stderr
    assert done.returncode == (0 if command == "import" else 5)
    assert said.count("\n") == 1, said
    assert "Olive cannot be imported (no Olive here)" in said
    assert "pip install 'graphfuse[olive]'" in said

"""`graphfuse fuse FOLDER --genai`: genai_config.json names the fused file, and the kernels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import kernels
from graphfuse.errors import ModelError
from tests.conftest import MODELS, Shell
from tests.support.folder_cases import none, tree

CONFIG = {
    "model": {
        "bos_token_id": 1,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": 32,
        },
        "type": "gpt2",
    },
    "search": {"temperature": 0.7, "past_present_share_buffer": False},
}


def genai_folder(folder: Path, config: Any) -> Path:
    shutil.copy(MODELS / "gpt2.onnx", folder / "model.onnx")
    (folder / "genai_config.json").write_text(json.dumps(config, indent=4))
    return folder


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder as the builder of onnxruntime-genai writes them, and a library of kernels."""
    (tmp_path / "built").mkdir()
    return genai_folder(tmp_path / "built", CONFIG)


needs_kernels = pytest.mark.skipif(kernels.find() is None, reason="the kernels are not built")


@needs_kernels
@pytest.mark.parametrize("beside", [True, False])
def test_genai_names_the_fused_file_and_the_kernels(
    built: Path, tmp_path: Path, shell: Shell, beside: bool
) -> None:
    library = kernels.library_path()
    words = ["--in-place"] if beside else ["-o", "fused"]
    run = shell("fuse", built, *words, "--genai", "--validate", "none")
    assert run.returncode == 0, run.stderr
    folder = built if beside else tmp_path / "fused"
    config = json.loads((folder / "genai_config.json").read_text())
    wanted = json.loads(json.dumps(CONFIG))
    wanted["model"]["decoder"]["filename"] = "model_graphfuse.onnx"
    wanted["model"]["decoder"]["session_options"]["custom_ops_library"] = library.name
    assert config == wanted
    assert list(config["model"]["decoder"]) == list(CONFIG["model"]["decoder"])
    assert (folder / library.name).read_bytes() == library.read_bytes()
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(folder / library.name))
    assert ort.InferenceSession(folder / "model_graphfuse.onnx", options).get_inputs()
    once = tree(folder)
    if beside:
        assert (
            shell("fuse", built, *words, "--genai", "--force", "--validate", "none").returncode == 0
        )
        assert tree(folder) == once


def test_genai_without_kernels(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "find", lambda: None)
    before = tree(tmp_path)
    with pytest.raises(
        graphfuse.ProviderError, match="--genai needs a library for custom_ops_library"
    ):
        none(built, tmp_path / "fused", genai=True)
    assert tree(tmp_path) == before


def test_genai_elsewhere_has_no_kernels_for_the_cpu(built: Path, tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"cuda": {}}]
    genai_folder(built, config)
    result = none(built, tmp_path / "fused", genai=True)
    found = json.loads((tmp_path / "fused" / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = "model_graphfuse.onnx"
    assert found == config
    assert any("kernels are for the CPU" in note for note in result.notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        '{"model": 3}',
        '{"model": {"decoder": [{"filename": "a", "session_options": 3}]}}',
    ],
)
def test_genai_config_that_is_none(built: Path, tmp_path: Path, text: str) -> None:
    (built / "genai_config.json").write_text(text)
    with pytest.raises(ModelError, match="genai_config"):
        none(built, tmp_path / "fused", genai=True)
    assert none(built, tmp_path / "fused").exit_code == 0


def test_genai_config_is_told_of_where_it_is_not_asked_for(
    built: Path, tmp_path: Path, shell: Shell
) -> None:
    result = none(built, tmp_path / "fused")
    assert "genai_config.json names model.onnx, which is not here: --genai" in result.notes[-1]
    assert json.loads((tmp_path / "fused" / "genai_config.json").read_text()) == CONFIG
    run = shell("fuse", built / "model.onnx", "-o", "x.onnx", "--genai")
    assert run.returncode == 2
    assert "--genai is for a folder" in run.stderr

"""Each extra that is missing is named, by the command that installs it, wherever it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import MODELS, ROOT, files_of

BERT = str(MODELS / "bert.onnx")

HIDDEN = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
"""A process in which packages are as if they were not installed."""

COMMAND = "import graphfuse.cli; sys.argv = ['graphfuse', *{words!r}]; graphfuse.cli.main()"


def python(code: str, folder: Path, *hidden: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDDEN.format(names=hidden) + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


CPU, TORCH = "pip install 'graphfuse[cpu]'", "pip install 'graphfuse[torch]'"
FOLDERS = "pip install 'graphfuse[transformers]'"
CERTIFY = "pip install 'graphfuse[certify]'"


@pytest.mark.parametrize(
    ("hidden", "words", "remedy"),
    [
        ("onnxruntime", ["fuse", BERT, "-o", "out.onnx"], CPU),
        ("onnxruntime", ["fuse", BERT, "-o", "out.onnx", "--autotune"], CPU),
        ("onnxruntime", ["unfuse", str(MODELS / "bert.onnx"), "-o", "out.onnx"], ""),
        ("onnxruntime", ["validate", BERT, BERT], CPU),
        ("onnxruntime", ["bench", BERT, BERT], CPU),
        ("onnxruntime", ["bench", BERT, "--sites"], CPU),
        ("onnxruntime", ["scan", BERT, "--activations"], CPU),
        ("onnxruntime", ["scan", BERT], ""),
        ("onnxruntime", ["explain", BERT, "s1"], ""),
        ("onnxruntime", ["fuse", BERT, "-o", "out.onnx", "--validate", "none"], ""),
        ("mpmath", ["fuse", BERT, "-o", "out.onnx", "--certify"], CERTIFY),
        ("mpmath", ["validate", BERT, BERT, "--validate", "none", "--certify"], CERTIFY),
        ("torch", ["export", ".", "-o", "out.onnx"], FOLDERS),
        ("onnxscript", ["export", ".", "-o", "out.onnx"], TORCH),
        ("torch", ["export", "model.pt2", "-o", "out.onnx"], TORCH),
        ("torch", ["export", "math:sqrt", "-o", "out.onnx"], TORCH),
        ("transformers", ["export", ".", "-o", "out.onnx"], FOLDERS),
    ],
    ids=lambda value: " ".join(Path(w).name for w in value) if isinstance(value, list) else None,
)
def test_commands(hidden: str, words: list[str], remedy: str, tmp_path: Path) -> None:
    if words[:2] == ["export", "."]:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    if words[:2] == ["export", "model.pt2"]:
        with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
            archive.writestr("version", "1")
    there = files_of(tmp_path)
    run = python(COMMAND.format(words=words), tmp_path, hidden)
    if not remedy:
        # Nothing is missing for what this command does.
        assert (run.returncode, run.stderr) == (0, "")
        return
    assert run.returncode == 5, run.stderr
    assert run.stderr.count("\n") == 1
    assert f"{hidden}" in run.stderr
    assert remedy in run.stderr
    assert files_of(tmp_path) == there


LIBRARY = """
import graphfuse
try:
    {call}
except graphfuse.ProviderError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("hidden", "call", "remedy"),
    [
        ("torch", "graphfuse.export(None, (), 'out.onnx')", TORCH),
        ("onnxscript", "graphfuse.export(None, (), 'out.onnx')", TORCH),
        ("onnxruntime", f"graphfuse.session({BERT!r})", CPU),
        ("onnxruntime", "graphfuse.session_options()", CPU),
        ("onnxruntime", f"graphfuse.validate({BERT!r}, {BERT!r})", CPU),
        ("onnxruntime", f"graphfuse.optimize({BERT!r}, 'out.onnx')", CPU),
        ("onnxruntime", f"graphfuse.activations({BERT!r})", CPU),
        ("onnxruntime", f"graphfuse.bench({BERT!r}, {BERT!r})", CPU),
        ("mpmath", f"graphfuse.validate({BERT!r}, {BERT!r}, level='none', certify=True)", CERTIFY),
    ],
)
def test_functions(hidden: str, call: str, remedy: str, tmp_path: Path) -> None:
    run = python(LIBRARY.format(call=call), tmp_path, hidden)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 1
    assert hidden in run.stdout
    assert remedy in run.stdout
    assert files_of(tmp_path) == []


def test_an_export_without_onnxruntime_says_so_before_exporting(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="exports from PyTorch, which is not installed")
    call = "import torch; graphfuse.export(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),), 'o')"
    run = python(LIBRARY.format(call=call), tmp_path, "onnxruntime")
    assert CPU in run.stdout
    assert files_of(tmp_path) == []


@pytest.mark.parametrize("hidden", ["onnxruntime", "torch", "mpmath"])
def test_the_environment_is_shown_without_them(hidden: str, tmp_path: Path) -> None:
    run = python(COMMAND.format(words=["env"]), tmp_path, hidden)
    assert (run.returncode, run.stderr) == (0, "")
    assert (CPU in run.stdout) == (hidden == "onnxruntime")

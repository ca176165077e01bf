"""A small export as a folder: two models, one in a subfolder, with other files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx

import graphfuse
from tests.conftest import MODELS

SITES = 5
"""Of each of the two models."""


def make_export(path: Path) -> Path:
    """An export: two models, one in a subfolder, with other files."""
    (path / "onnx").mkdir(parents=True)
    shutil.copy(MODELS / "bert.onnx", path / "encoder_model.onnx")
    shutil.copy(MODELS / "gpt2.onnx", path / "onnx" / "model.onnx")
    (path / "config.json").write_text("{}")
    (path / "onnx" / "notes.txt").write_text("kept")
    (path / ".hidden.onnx").write_text("no model")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, with its bytes."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def with_weights(path: Path, place: str) -> None:
    """Let a model's weights be in a file beside it."""
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location=place, size_threshold=64)


def none(folder: Path, output: Any, **more: Any) -> graphfuse.FolderResult:
    return graphfuse.fuse_folder(folder, output, level="none", **more)


def in_place(folder: Path, **more: Any) -> graphfuse.Output:
    return graphfuse.Output(folder, in_place=True, **more)

"""Fixtures: exported models, made once a session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"

# `python -m tests.campaigns.kernels.sanitize --pytest` names a folder with the library to test.
if folder := os.environ.get("GRAPHFUSE_TEST_KERNELS"):
    import graphfuse.kernels

    graphfuse.kernels.__path__.insert(0, folder)

# Nothing in these tests may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

Export = Callable[..., Path]
Shell = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Exports are what takes longest: a sample of them is tested unless all are asked for."""
    parser.addoption("--every-export", action="store_true", help="every exporter at every opset")


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export an architecture of models/ and give the file; the same export is made once."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def make(name: str, exporter: str = "dynamo", opset: int = 18, dtype: str = "float32") -> Path:
        # `python -m tests.campaigns.versions` has environments without it.
        torch = pytest.importorskip("torch", reason="exports from PyTorch, which is not installed")

        from models.export import build
        from models.export import export as write

        path = folder / f"{name}-{exporter}-{opset}-{dtype}.onnx"
        write(build(name), path, exporter, opset, getattr(torch, dtype))
        return path

    return make


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run the command line in a fresh process, in an empty folder."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graphfuse", *map(str, arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            # What runs the tests may say how wide its own terminal is.
            env={**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, **(env or {})},
            stdin=subprocess.DEVNULL,
            timeout=300,
        )

    return run


def files_of(folder: Path) -> Sequence[str]:
    """The names of everything in a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())

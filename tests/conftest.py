"""Fixtures: exported models, made once a session."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import pytest

from tests.support.commands import Commands

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is like another test and takes long, unless all are asked for."""
    if config.getoption("--every-export"):
        return
    for item in items:
        if item.get_closest_marker("every") is not None:
            item.add_marker(pytest.mark.skip(reason="takes long: run it with --every-export"))


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export an architecture of models/ and give the file; the same export is made once."""
    # Processes of one run of tests share what any of them has made.
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "exports"
    folder.mkdir(exist_ok=True)

    @cache
    def make(name: str, exporter: str = "dynamo", opset: int = 18, dtype: str = "float32") -> Path:
        # `python -m tests.campaigns.versions` has environments without it.
        pytest.importorskip("torch", reason="exports from PyTorch, which is not installed")

        from models.committed import arguments
        from models.export import main

        path = folder / f"{name}-{exporter}-{opset}-{dtype}.onnx"
        if not path.exists():
            draft = tmp_path_factory.mktemp("export") / path.name
            assert main([*arguments(name, exporter, opset, dtype), "-o", str(draft)]) == 0
            draft.replace(path)
        return path

    return make


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """What runs command lines in processes of their own."""
    made = Commands()
    yield made
    made.close()


@pytest.fixture
def shell(tmp_path: Path, commands: Commands) -> Shell:
    """Run the command line in a process of its own, in an empty folder."""
    return partial(commands.run, cwd=tmp_path)


def files_of(folder: Path) -> Sequence[str]:
    """The names of everything in a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())

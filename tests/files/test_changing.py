"""Files of a model that change while it is worked on: what was validated is what is written."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import graphfuse
from graphfuse.api import looking, verdicts
from graphfuse.errors import ChangedError
from graphfuse.files import copying, model_file
from graphfuse.files.folder import TICK
from graphfuse.records.progress import Silent
from graphfuse.steps import fusing
from tests.cli.test_cli import one_line
from tests.conftest import MODELS, Shell, files_of
from tests.files.test_files import external

BERT = MODELS / "bert.onnx"


def rewrite(path: Path) -> None:
    """Other bytes, as many."""
    with path.open("r+b") as file:
        file.write(bytes(byte ^ 0x11 for byte in path.read_bytes()))


def rewrite_in_secret(path: Path) -> None:
    """The same, with the time put back: `rsync -t` and unpacking do it."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    rewrite(path)
    os.utime(path, ns=times)


def replace(path: Path) -> None:
    """Another file of that name, of the same size and time."""
    new = path.with_name("new")
    new.write_bytes(bytes(path.stat().st_size))
    shutil.copystat(path, new)
    new.replace(path)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def vanish(path: Path) -> None:
    path.unlink()


CHANGES = [rewrite, rewrite_in_secret, replace, truncate, grow, vanish]
Change = Callable[[Path], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return external(tmp_path / "in")


class once(Silent):  # noqa: N801
    """What is told of stages, and changes a file when one begins."""

    def __init__(self, change: Change, path: Path, at: str) -> None:
        self.change, self.path, self.at = change, path, at
        self.done = False

    def stage(self, name: str) -> None:
        if name == self.at and not self.done:
            self.done = True
            self.change(self.path)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("weights", ["keep", "copy", "auto", "embed"])
@pytest.mark.parametrize("changed", ["model.onnx_data", "model.onnx"])
def test_what_was_not_validated_is_not_written(
    change: Change, weights: str, changed: str, source: Path, tmp_path: Path
) -> None:
    """Rewritten after the validation: it was written with exit code 0."""
    folder = tmp_path / ("in" if weights == "keep" else "out")
    before = files_of(folder)
    progress = once(change, source.with_name(changed), "writing")
    with pytest.raises(graphfuse.GraphfuseError) as caught:
        graphfuse.optimize(
            source, graphfuse.Output(folder / "fused.onnx", weights=weights), progress=progress
        )
    assert isinstance(caught.value, ChangedError)
    assert caught.value.exit_code == 1
    assert changed in caught.value.message
    gone = [changed] if change is vanish and weights == "keep" else []
    assert files_of(folder) == [name for name in before if name not in gone]


@pytest.mark.parametrize("change", [rewrite, rewrite_in_secret, truncate, vanish])
def test_data_that_changes_while_it_is_copied(
    change: Change, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, done = tmp_path / "in" / "model.onnx_data", list[int]()
    write = copying.Writer._data

    def late(self: copying.Writer, descriptor: int, start: int, end: int, path: Path) -> None:
        write(self, descriptor, start, start + 8, path)
        if not done:
            done.append(1)
            change(data)
        write(self, descriptor, start + 8, end, path)

    monkeypatch.setattr(copying.Writer, "_data", late)
    with pytest.raises(ChangedError, match=r"in/model\.onnx_data (changed|became)"):
        graphfuse.optimize(
            source, graphfuse.Output(tmp_path / "out" / "fused.onnx", weights="copy")
        )
    assert files_of(tmp_path / "out") == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("level", ["fast", "full", "sites"])
def test_data_that_changes_before_it_is_validated(
    change: Change, level: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that fails, or an original that does not run, is none of the model's faults then."""
    judge = fusing.Fusing.validated
    data = source.with_name("model.onnx_data")

    def late(self: fusing.Fusing, *arguments: object) -> object:
        change(data)
        return judge(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fusing.Fusing, "validated", late)
    with pytest.raises(ChangedError, match=r"model\.onnx_data changed while"):
        graphfuse.optimize(source, tmp_path / "out" / "fused.onnx", level=level)
    assert files_of(tmp_path / "out") == []


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal here")
def test_weights_cut_short_under_onnxruntime(shell: Shell, tmp_path: Path) -> None:
    """It has them mapped, and the process ends: isolated, with one line and nothing written."""
    (tmp_path / "out").mkdir()
    path = external(tmp_path / "in", width=1024)
    script = f"""
import os
import numpy as np
from graphfuse.validation import whole_model

run = whole_model.run

def late(*arguments, **options):
    os.truncate({str(path.with_name("model.onnx_data"))!r}, 4096)
    return run(*arguments, **options)

whole_model.run = late

def load_data():
    yield {{name: np.ones((1, 2, 1024), np.float32) for name in "ab"}}
"""
    (tmp_path / "feeds.py").write_text(script)
    run = shell(
        "fuse", path, "-o", "out/fused.onnx", "--isolate", "--data-loader-script",
        "feeds.py:load_data",
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert "a weight file became shorter" in one_line(run)
    assert files_of(tmp_path / "out") == []


@pytest.mark.parametrize("changed", ["fused.onnx", "model.onnx", "model.onnx_data"])
def test_a_verdict_on_files_that_change_is_none(
    changed: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = source.with_name("fused.onnx")
    graphfuse.optimize(source, fused)
    validate = verdicts.validate_models

    def late(*arguments: object) -> object:
        found = validate(*arguments)  # type: ignore[arg-type]
        grow(source.with_name(changed))
        return found

    monkeypatch.setattr(verdicts, "validate_models", late)
    with pytest.raises(ChangedError, match=rf"{changed} changed while"):
        graphfuse.validate(source, fused, level="sites")


@pytest.mark.parametrize("look", ["scan", "fuse", "activations", "explain"])
def test_what_is_seen_in_a_file_that_changes_is_not_told(
    look: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = looking.look

    def late(model: model_file.Model) -> object:
        grow(source)
        return scan(model)

    monkeypatch.setattr(looking, "look", late)
    monkeypatch.setattr("graphfuse.steps.fusing.look", late)
    calls: dict[str, Callable[[], object]] = {
        "scan": lambda: graphfuse.scan(source),
        "fuse": lambda: graphfuse.fuse(source),
        "activations": lambda: graphfuse.activations(source),
        "explain": lambda: graphfuse.explain(source, "s1"),
    }
    with pytest.raises(ChangedError, match=r"model\.onnx changed while"):
        calls[look]()


def test_weights_that_are_read_late_come_from_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`result.model` of a large file reads its inline weights when it is asked for."""
    monkeypatch.setattr(model_file, "LARGE", 1)
    monkeypatch.setattr(model_file, "LEAST_INLINE", 64)
    path = tmp_path / "model.onnx"
    shutil.copy(BERT, path)
    result = graphfuse.fuse(path)
    assert result.model.graph.node
    result = graphfuse.fuse(path)
    rewrite(path)
    with pytest.raises(ChangedError, match="changed while"):
        _ = result.model


def test_a_change_right_after_the_first_look_shows(tmp_path: Path) -> None:
    """File systems count time in ticks: of two changes in one, the second is not seen."""
    path = external(tmp_path)
    newest = max(file.stat().st_ctime_ns for file in tmp_path.iterdir())
    graphfuse.scan(path)
    assert time.time_ns() - newest >= TICK


def test_changes_are_looked_for_without_reading(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model_file.load(source)
    opened: list[object] = []
    real = os.open

    def look(path: str, flags: int, *arguments: object, **more: object) -> int:
        if not flags & os.O_DIRECTORY:
            opened.append(path)
        return real(path, flags, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", look)
    loaded.check_same()
    assert opened == []


def test_a_file_that_is_only_read_meanwhile_has_not_changed(source: Path, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        path.read_bytes()

    progress = once(read, source.with_name("model.onnx_data"), "writing")
    assert graphfuse.optimize(source, tmp_path / "out" / "fused.onnx", progress=progress).written
    onnx.load(tmp_path / "out" / "fused.onnx")

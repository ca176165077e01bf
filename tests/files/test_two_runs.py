"""Two runs in one folder: weights that one has made and another relies on."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import graphfuse
from graphfuse.files import leftovers, writing
from tests.conftest import files_of
from tests.files.test_files import external

Move = Callable[[Path, Path, bool], None]


def fused(source: Path, output: Path, **options: object) -> graphfuse.FuseResult:
    return graphfuse.optimize(source, graphfuse.Output(output, **options), level="none")  # type: ignore[arg-type]


class Paused:
    """A run in a thread that has named its weights and waits before its model; then it fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Path, output: Path) -> None:
        self.there, self.go = threading.Event(), threading.Event()
        self.said: list[str] = []
        move = writing._move

        def pause(temporary: Path, target: Path, replace: bool) -> None:
            if target == output:
                self.there.set()
                assert self.go.wait(60)
                raise OSError(errno.EIO, "Input/output error")
            move(temporary, target, replace)

        monkeypatch.setattr(writing, "_move", pause)
        self.thread = threading.Thread(target=self._run, args=(source, output))
        self.thread.start()
        assert self.there.wait(60)

    def _run(self, source: Path, output: Path) -> None:
        try:
            fused(source, output)
        except graphfuse.WriteError as error:
            self.said.append(error.message)

    def fail(self) -> None:
        self.go.set()
        self.thread.join(60)
        assert "Input/output error" in self.said[0]


def killed(monkeypatch: pytest.MonkeyPatch, source: Path, output: Path) -> None:
    """A run in a process of its own, killed when its weights have names and its model has none."""
    child = os.fork()
    if not child:
        move = writing._move

        def die(temporary: Path, target: Path, replace: bool) -> None:
            if target == output:
                os.kill(os.getpid(), signal.SIGKILL)
            move(temporary, target, replace)

        monkeypatch.setattr(writing, "_move", die)
        fused(source, output)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return external(tmp_path / "in", data="deep/x.data")


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "lock", lambda *_, **__: False)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT: nothing but a plain rename."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(writing, "_rename", refuse, raising=False)
    monkeypatch.setattr(os, "link", refuse)


def with_all(_: pytest.MonkeyPatch) -> None:
    """A system that has everything."""


SYSTEMS = [with_all, without_locks, without_links]


@pytest.mark.parametrize("system", SYSTEMS)
def test_weights_survive_the_failure_of_the_run_that_made_them(
    system: Callable[[pytest.MonkeyPatch], None],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A names x.data and pauses; B finds it and succeeds; A fails and cleans up."""
    system(monkeypatch)
    monkeypatch.setattr(leftovers, "PATIENCE", 0.1, raising=False)
    out = tmp_path / "out"
    first = Paused(monkeypatch, source, out / "a.onnx")
    fused(source, out / "b.onnx")
    first.fail()
    onnx.load(out / "b.onnx")
    assert not (out / "a.onnx").exists()
    # What A made itself is gone, unless B relies on it.
    assert len(files_of(out / "deep")) == 1


@pytest.mark.parametrize("system", SYSTEMS)
def test_weights_survive_the_death_of_the_run_that_made_them(
    system: Callable[[pytest.MonkeyPatch], None],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A is killed when x.data has its name; B succeeds; a third run cleans up."""
    system(monkeypatch)
    monkeypatch.setattr(leftovers, "PATIENCE", 0.1, raising=False)
    out = tmp_path / "out"
    killed(monkeypatch, source, out / "a.onnx")
    fused(source, out / "b.onnx")
    fused(source, out / "c.onnx")
    onnx.load(out / "b.onnx")
    onnx.load(out / "c.onnx")


def test_weights_survive_a_journal_in_a_folder_above(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B's model is beside the weights, A's in the folder above: B does not see A's journal."""
    out = tmp_path / "out"
    killed(monkeypatch, source, out / "a.onnx")
    near = external(tmp_path / "near", data="x.data")
    fused(near, out / "deep" / "b.onnx")
    leftovers.remove(out)
    assert files_of(out) == ["deep"]
    assert files_of(out / "deep") == ["b.onnx", "x.data"]
    onnx.load(out / "deep" / "b.onnx")


def test_a_dead_run_that_nobody_relies_on_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, source, tmp_path / "out" / "a.onnx")
    assert files_of(tmp_path / "out" / "deep") == ["x.data"]
    leftovers.remove(tmp_path / "out")
    assert files_of(tmp_path / "out") == []


def test_weights_of_a_finished_run_carry_no_mark(source: Path, tmp_path: Path) -> None:
    """Else the next one would wait for a run that is long done."""
    out = tmp_path / "out"
    fused(source, out / "a.onnx")
    assert not leftovers.is_claimed((out / "deep" / "x.data").stat())


def test_a_weight_file_that_appears_meanwhile_is_no_copy_of_ours(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for one with the same content by its name alone."""
    out, write = tmp_path / "out", writing.Draft._write

    def late(self: writing.Draft, *arguments: object) -> object:
        (out / "deep").mkdir(exist_ok=True)
        (out / "deep" / "x.data").write_bytes(b"another model's")
        return write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing.Draft, "_write", late)
    fused(source, out / "a.onnx", weights="copy")
    assert (out / "deep" / "x.data").read_bytes() == b"another model's"
    weights = (tmp_path / "in" / "deep" / "x.data").read_bytes()
    location = onnx.load(out / "a.onnx", load_external_data=False).graph.initializer[0]
    named = {entry.key: entry.value for entry in location.external_data}["location"]
    assert (out / named).read_bytes() == weights


def test_weights_that_change_before_the_model_is_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of somebody else, found equal and rewritten before the model that needs it comes."""
    out = tmp_path / "out"
    fused(source, out / "a.onnx")
    data = out / "deep" / "x.data"
    commit = writing.Draft.commit

    def late(self: writing.Draft, *arguments: object) -> object:
        data.write_bytes(bytes(data.stat().st_size))
        return commit(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing.Draft, "commit", late)
    with pytest.raises(graphfuse.GraphfuseError, match=r"x\.data changed while") as caught:
        fused(source, out / "b.onnx")
    assert caught.value.exit_code == 1
    assert files_of(out) == ["a.onnx", "deep"]


def test_no_rename_replaces_what_another_run_has_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "name").write_text("theirs")
    with pytest.raises(graphfuse.UsageError, match="exists by now"):
        writing._move(tmp_path / "mine", tmp_path / "name", replace=False)
    assert (tmp_path / "name").read_text() == "theirs"


def test_a_new_name_is_never_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between a link and the removal of the old name, other loaders refused the weights."""
    seen: list[int] = []
    unlink = Path.unlink

    def look(self: Path, missing_ok: bool = False) -> None:
        seen.extend(path.stat().st_nlink for path in tmp_path.rglob("*") if path.is_file())
        unlink(self, missing_ok)

    source = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "unlink", look)
    fused(source, tmp_path / "out" / "a.onnx")
    assert set(seen) == {1}


def test_a_run_killed_when_its_model_is_there_leaves_it_whole(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights carry the mark yet; the next run takes it off before it looks at the model."""
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        monkeypatch.setattr(leftovers, "release", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        fused(source, out / "a.onnx")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert leftovers.is_claimed((out / "deep" / "x.data").stat())
    fused(out / "a.onnx", out / "b.onnx")
    assert not leftovers.is_claimed((out / "deep" / "x.data").stat())
    assert files_of(out) == ["a.onnx", "b.onnx", "deep"]
    onnx.load(out / "a.onnx")
    onnx.load(out / "b.onnx")

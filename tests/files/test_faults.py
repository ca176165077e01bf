"""Writing that is disturbed: failing system calls, killed processes, full disks, races."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest

import graphfuse
from graphfuse.files import leftovers, writing
from tests.campaigns.faults.__main__ import compiler
from tests.campaigns.faults.scenarios import NORM
from tests.conftest import ROOT, Shell, files_of
from tests.files.test_files import external
from tests.support.graphs import residual


def command(*arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.faults", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("scenario", "fault"),
    [
        ("an old file", "EIO"),
        ("in place", "kill before"),
        ("weights copied, an old file", "kill after"),
        ("weights copied", "ENOSPC"),
        ("split", "short write"),
    ],
)
def test_every_call_may_fail(scenario: str, fault: str) -> None:
    """A sample; `python -m tests.campaigns.faults calls` has every kind of run and of fault."""
    if compiler() is None:
        pytest.skip("no C compiler for the shim that lets calls fail")
    said = command("calls", "--scenario", scenario, "--fault", fault)
    assert " 0 wrong" in said


def test_killed_runs_lose_nothing() -> None:
    said = command("kills", "--count", "30", "--seed", "3")
    assert ", 0 wrong" in said


def test_a_file_that_may_not_grow(shell: Shell, tmp_path: Path) -> None:
    """As on a full disk: the model is larger than what the process may write."""
    onnx.save(residual(NORM), tmp_path / "model.onnx")
    (tmp_path / "fused.onnx").write_text("old")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300));"
        "from graphfuse.cli import main;"
        "sys.argv = 'graphfuse fuse model.onnx -o fused.onnx --force --validate none'.split();"
        "main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "File too large" in run.stderr
    assert run.stderr.count("\n") == 1
    assert (tmp_path / "fused.onnx").read_text() == "old"
    assert files_of(tmp_path) == ["fused.onnx", "model.onnx"]


def test_no_room_is_said_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from collections import namedtuple

    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10))
    with pytest.raises(graphfuse.WriteError, match="does not fit"):
        graphfuse.optimize(path, tmp_path / "out" / "fused.onnx", level="none")
    assert files_of(tmp_path / "out") == []


def test_a_folder_without_rights(tmp_path: Path) -> None:
    """As another user where the tests run as root."""
    onnx.save(residual(NORM), tmp_path / "model.onnx")
    (tmp_path / "out").mkdir(mode=0o555)
    code = (
        "import os, sys\n"
        "import graphfuse, graphfuse.api.changing\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: graphfuse.optimize('model.onnx', 'out/fused.onnx', level='none')\n"
        "except graphfuse.UsageError as error: print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005 and os.getuid() == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "out is not writable" in run.stdout, run.stderr
    assert files_of(tmp_path / "out") == []


def test_two_runs_with_one_output(tmp_path: Path) -> None:
    """One writes, the other says so; nothing is left over."""
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    said: list[str] = []
    ready = threading.Barrier(4)

    def run() -> None:
        ready.wait()
        try:
            graphfuse.optimize(path, tmp_path / "out" / "fused.onnx", level="none")
            said.append("written")
        except graphfuse.UsageError as error:
            said.append(error.message)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("written") == 1, said
    assert all("exists" in text for text in said if text != "written")
    assert files_of(tmp_path / "out") == ["fused.onnx", "model.onnx_data"]
    onnx.load(tmp_path / "out" / "fused.onnx")


def test_files_of_a_living_run_are_left(tmp_path: Path) -> None:
    with writing.Draft(tmp_path / "fused.onnx", force=False) as draft:
        draft.write([b"data"])
        leftovers.remove(tmp_path)
        assert files_of(tmp_path) == [draft.path.name]
        # What is left of a dead one has no lock.
        (tmp_path / ".x.0123.graphfuse-tmp").touch()
        (tmp_path / ".x.0123.graphfuse-journal").write_text("{")
        (tmp_path / ".somebody-elses-tmp").touch()
        leftovers.remove(tmp_path)
        assert files_of(tmp_path) == [draft.path.name, ".somebody-elses-tmp"]
    assert files_of(tmp_path) == [".somebody-elses-tmp"]


def test_a_journal_does_not_remove_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("somebody else's")
    (tmp_path / ".m.0123.graphfuse-tmp").touch()
    inode = (tmp_path / "weights.bin").stat().st_ino
    text = f'{{"model": ["m", 1], "files": [["weights.bin", {inode + 1}], ["../x", 1]], "folders": []}}'
    (tmp_path / ".m.0123.graphfuse-journal").write_text(text)
    leftovers.remove(tmp_path)
    assert files_of(tmp_path) == ["weights.bin"]


def test_signals_wait_for_the_names(tmp_path: Path) -> None:
    """A signal in the middle of the commit comes after it."""
    import signal

    came: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("signal"))
    try:
        with leftovers.undisturbed():
            signal.raise_signal(signal.SIGTERM)
            came.append("commit")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == ["commit", "signal"]

"""The command line with streams that are closed, full or read by nobody, and with little memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from graphfuse.cli import streams
from tests.cli.test_cli import one_line
from tests.conftest import MODELS, Shell, files_of
from tests.support.commands import Commands

BERT = str(MODELS / "bert.onnx")
COMMANDS = {
    "fuse": ["fuse", BERT, "-o", "out.onnx", "--validate", "none"],
    "scan": ["scan", BERT],
    "validate": ["validate", BERT, BERT, "--validate", "sites"],
    "explain": ["explain", BERT, "s1"],
    "bench": ["bench", BERT, "--sites", "--seconds", "0.01"],
    "env": ["env"],
}
TWO_FORMS = [(name, form) for name in COMMANDS for form in ("", "--json") if form == "" or name != "bench"]  # fmt: skip


def closed(
    folder: Path, arguments: list[str], *descriptors: int
) -> subprocess.CompletedProcess[str]:
    """A run that starts with some of its streams closed; the others are files in a folder."""
    import shlex

    ends = " ".join(
        f"{descriptor}{'<' if descriptor == 0 else '>'}&-" for descriptor in descriptors
    )
    command = f"{shlex.join([sys.executable, '-m', 'graphfuse', *arguments])} {ends}"
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )


def check(name: str, run: subprocess.CompletedProcess[str], folder: Path) -> None:
    """One line, and the code that says whether anything was written."""
    assert run.stderr.startswith("graphfuse: error: standard output cannot be written (")
    assert run.stderr.count("\n") == 1
    if name == "fuse":
        assert run.returncode == 7
        assert "out.onnx is written, and whole" in run.stderr
        assert onnx.load(folder / "out.onnx").graph.node
    else:
        assert run.returncode == 1
        assert "nothing was written" in run.stderr
    assert files_of(folder) == (["out.onnx"] if name == "fuse" else [])


@pytest.mark.parametrize(("name", "form"), TWO_FORMS)
def test_standard_output_that_is_closed(name: str, form: str, tmp_path: Path) -> None:
    run = closed(tmp_path, [*COMMANDS[name], *([form] if form else [])], 1)
    check(name, run, tmp_path)


@pytest.mark.parametrize(("name", "form"), TWO_FORMS)
def test_standard_output_that_nobody_reads(
    name: str, form: str, tmp_path: Path, commands: Commands
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = commands.run(*COMMANDS[name], *([form] if form else []), cwd=tmp_path, stdout=writing)
    os.close(writing)
    check(name, run, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("name", "form"), TWO_FORMS)
def test_standard_output_that_is_full(
    name: str, form: str, tmp_path: Path, commands: Commands
) -> None:
    with Path("/dev/full").open("wb") as full:
        run = commands.run(
            *COMMANDS[name], *([form] if form else []), cwd=tmp_path, stdout=full.fileno()
        )
    check(name, run, tmp_path)


def test_all_streams_closed(tmp_path: Path) -> None:
    """What is opened next would be standard output, and get what libraries print."""
    run = closed(tmp_path, COMMANDS["fuse"], 0, 1, 2)
    assert run.returncode == 7
    assert run.stdout + run.stderr == ""
    assert onnx.load(tmp_path / "out.onnx").graph.node
    assert files_of(tmp_path) == ["out.onnx"]


def test_errors_do_not_go_to_standard_output(tmp_path: Path) -> None:
    """Python prints to it when there is no standard error: a program would read them as a report."""
    run = closed(tmp_path, ["scan", "nothing.onnx"], 2)
    assert run.returncode == 3
    assert run.stdout == ""
    run = closed(tmp_path, ["scan", "nothing.onnx", "--json"], 2)
    assert run.returncode == 3
    assert json.loads(run.stdout)["error"]["type"] == "ModelError"


def test_an_isolated_run_with_closed_output(tmp_path: Path) -> None:
    run = closed(tmp_path, [*COMMANDS["fuse"], "--isolate"], 1)
    check("fuse", run, tmp_path)


def test_a_failed_gate_is_said_by_its_code_all_the_same(tmp_path: Path) -> None:
    run = closed(tmp_path, [*COMMANDS["fuse"], "--min-fused", "99"], 1)
    assert run.returncode == 6
    assert files_of(tmp_path) == []


def test_a_model_is_not_written_to_standard_output(shell: Shell, tmp_path: Path) -> None:
    run = shell("fuse", BERT, "-o", "-")
    assert run.returncode == 2
    assert "./-" in one_line(run)
    assert files_of(tmp_path) == []
    assert shell("fuse", BERT, "-o", "/dev/stdout", "--validate", "none").returncode == 2
    assert shell("fuse", BERT, "-o", "./-", "--validate", "none").returncode == 0
    assert files_of(tmp_path) == ["-"]


def limited(kib: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (kib * 1024, kib * 1024))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep RLIMIT_AS")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kib", [90_000, 140_000, 200_000])
def test_little_memory(name: str, kib: int, tmp_path: Path) -> None:
    """As with `ulimit -v`: a result, or one line; nothing is written by a run that fails."""
    arguments = [word for word in COMMANDS[name] if word not in ("--validate", "none")]
    run = subprocess.run(
        [sys.executable, "-m", "graphfuse", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limited(kib),
    )  # fmt: skip
    if run.returncode:
        assert run.returncode == 1
        assert "out of memory" in one_line(run)
        assert files_of(tmp_path) == []
    else:
        assert run.stderr == ""


def test_memory_is_looked_at_only_where_it_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    streams.check_memory(["fuse"])


def test_json_is_ascii_without_control_characters(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a\x7f\x9b\u202e.onnx").write_bytes(Path(BERT).read_bytes())
    run = shell("scan", "a\x7f\x9b\u202e.onnx", "--json")
    assert run.returncode == 0
    assert run.stdout.isascii()
    assert "\x7f" not in run.stdout
    assert json.loads(run.stdout)["model"] == "a\x7f\x9b\u202e.onnx"

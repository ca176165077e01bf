"""Outputs that are no file, reports that cannot be shown, runs that race."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import one_line
from tests.conftest import MODELS, Shell, files_of

BERT = MODELS / "bert.onnx"


def test_an_output_that_is_no_file_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    """A rename would replace a pipe or a device by a file, and a link by its target."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "target").write_text("precious")
    for name in ("pipe", "dangling", "link"):
        run = shell("fuse", BERT, "-o", name, "--force", "--validate", "none")
        assert run.returncode == 2
        assert "no regular file" in one_line(run)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_report_that_cannot_be_shown(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "graphfuse", "scan", str(BERT), "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("graphfuse: error: standard output cannot be written")
    assert run.stderr.count("\n") == 1


def test_names_that_the_terminal_cannot_show(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mödel.onnx").write_bytes(BERT.read_bytes())
    run = shell("scan", "mödel.onnx", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert run.returncode == 0
    run = shell("scan", "nö.onnx", env={"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 3


def test_one_of_many_runs_wins(tmp_path: Path) -> None:
    """Without --force, runs that start together do not replace each other's output."""
    command = [sys.executable, "-m", "graphfuse", "fuse", str(BERT), "-o", "out.onnx"]
    runs = [
        subprocess.Popen(
            [*command, "--validate", "none"], cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]  # fmt: skip
    codes = sorted(run.wait(timeout=60) for run in runs)
    assert codes == [0, 2, 2, 2]
    assert files_of(tmp_path) == ["out.onnx"]
    assert (tmp_path / "out.onnx").stat().st_nlink == 1

"""What is done on both systems: folders to begin with, command lines, and the codes they end with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.conftest import MODELS

KILLED = 9
"""The code of a run that ends at once, as a killed one does: no handler and no `finally` runs."""

DIES = f"""
import os, sys
from graphfuse.files import exports, writing
move = writing._move
def die(temporary, target, replace):
    if target.suffix == ".onnx":
        os._exit({KILLED})
    move(temporary, target, replace)
writing._move = die
exports.place_folder = lambda *_: os._exit({KILLED})
"""
"""A run that is killed when its weights have their names, and its model has not."""

FAILS = """
import errno
from graphfuse.files import writing
move = writing._move
def fail(temporary, target, replace):
    if target.suffix == ".onnx":
        raise OSError(errno.ENOSPC, "No space left on device")
    move(temporary, target, replace)
writing._move = fail
"""

CODE = """
import sys
from graphfuse.cli import main
sys.argv = ["graphfuse", *{arguments!r}]
main()
"""


@dataclass(frozen=True)
class Step:
    """One command line: its words, the code it ends with, and what is run in Python before it."""

    words: Sequence[str]
    code: int = 0
    before: str = ""

    @property
    def arguments(self) -> list[str]:
        if not self.before:
            return ["-m", "graphfuse", *self.words]
        return ["-c", self.before + CODE.format(arguments=list(self.words))]


@dataclass(frozen=True)
class Job:
    """A folder, and what is done in it one after the other."""

    name: str
    furnish: Callable[[Path], object]
    steps: Sequence[Step]


def step(line: str, code: int = 0, before: str = "") -> Step:
    return Step(line.split(), code, before)


def inline(folder: Path) -> None:
    shutil.copy(MODELS / "bert.onnx", folder / "model.onnx")


def external(folder: Path) -> None:
    model = onnx.load(MODELS / "bert.onnx")
    place = {"location": "deep/weights.bin", "size_threshold": 64}
    (folder / "deep").mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, **place)
    (folder / "out").mkdir()


def taken(folder: Path) -> None:
    """Another file has the name that the weights' copy is to get."""
    external(folder)
    (folder / "out" / "deep").mkdir()
    (folder / "out" / "deep" / "weights.bin").write_bytes(b"another's")


def copied(folder: Path) -> None:
    """The weights' copy is there already, with the same content."""
    external(folder)
    shutil.copytree(folder / "deep", folder / "out" / "deep")


def several(folder: Path) -> None:
    (folder / "export").mkdir()
    external(folder / "export")
    (folder / "export" / "out").rmdir()
    shutil.copy(MODELS / "gpt2.onnx", folder / "export" / "decoder.onnx")
    (folder / "export" / "config.json").write_bytes(b"{}\r\n")
    (folder / "empty").mkdir()


JOBS = (
    Job(
        "inline",
        inline,
        (
            step("scan model.onnx"),
            step("fuse model.onnx -o fused.onnx"),
            step("fuse model.onnx -o fused.onnx", 2),
            step("fuse model.onnx -o fused.onnx --force"),
            step("validate model.onnx fused.onnx"),
            step("unfuse fused.onnx -o back.onnx"),
            step("fuse model.onnx --in-place"),
            step("fuse missing.onnx -o x.onnx", 3),
            step("fuse model.onnx -o nowhere/x.onnx", 2),
            step("scan model.onnx --html page.html --markdown page.md"),
        ),
    ),
    Job(
        "external",
        external,
        (
            step("fuse model.onnx -o fused.onnx"),
            step("fuse model.onnx -o out/fused.onnx"),
            step("validate model.onnx out/fused.onnx"),
            step("fuse model.onnx -o copy.onnx --weights copy"),
            step("fuse model.onnx -o embedded.onnx --weights embed"),
            step("fuse model.onnx -o out/kept.onnx --weights keep", 2),
            step("fuse model.onnx --in-place --validate full"),
            step("fuse model.onnx -o deep/weights.bin --force", 2),
        ),
    ),
    Job(
        "a weight file's name is taken",
        taken,
        (
            step("fuse model.onnx -o out/fused.onnx", 2),
            step("fuse model.onnx -o out/fused.onnx --force"),
        ),
    ),
    Job("a copy is there", copied, (step("fuse model.onnx -o out/fused.onnx"),)),
    Job(
        "killed, then the same again",
        external,
        (
            step("fuse model.onnx -o out/fused.onnx", KILLED, DIES),
            step("fuse model.onnx -o out/fused.onnx"),
        ),
    ),
    Job(
        "killed, then another",
        external,
        (
            step("fuse model.onnx -o out/fused.onnx", KILLED, DIES),
            step("fuse model.onnx -o out/other.onnx --weights embed"),
        ),
    ),
    Job("the disk is full", external, (step("fuse model.onnx -o out/fused.onnx", 1, FAILS),)),
    Job("the disk is full in place", inline, (step("fuse model.onnx --in-place", 1, FAILS),)),
    Job(
        "a folder",
        several,
        (
            step("fuse export -o new"),
            step("fuse export -o empty"),
            step("fuse export -o empty", 2),
            step("fuse export -o empty --force"),
            step("fuse export -o killed", KILLED, DIES),
            step("fuse export -o again"),
            step("fuse export --in-place"),
        ),
    ),
)

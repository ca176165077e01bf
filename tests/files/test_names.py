"""Names of files, nodes and tensors that are no UTF-8, or would move a terminal's cursor."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.errors import GraphfuseError, printable
from graphfuse.files import model_file
from tests.conftest import MODELS, Shell, files_of
from tests.files.test_files import external
from tests.support.commands import Commands
from tests.support.graphs import residual

BERT = MODELS / "bert.onnx"
RAW = os.fsdecode(b"m\xff\xfe")
"""A name as old archives have them: Latin-1, say."""
EVIL = "\x1b[2J\x1b]0;title\x07\r\x08\x7f\x9b31m\u202e\u2028\n[red]x"
"""Clears the screen, sets the title, goes back, turns the direction of writing, ends the line."""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder whose name is not UTF-8."""
    try:
        (tmp_path / RAW).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    return tmp_path / RAW


@pytest.mark.every
def test_every_command_takes_names_that_are_not_utf8(raw: Path, commands: Commands) -> None:
    name = f"{RAW}.onnx"
    onnx.save(residual("y = LayerNormalization(x, scale, bias)"), raw / name)
    for arguments in (
        ["fuse", name, "-o", f"{RAW}-fused.onnx"],
        ["scan", name],
        ["scan", name, "--activations"],
        ["explain", name, "s1"],
        ["validate", name, f"{RAW}-fused.onnx", "--validate", "fast"],
        ["bench", name, f"{RAW}-fused.onnx", "--seconds", "0.01", "--no-profile"],
        ["bench", name, "--sites", "--seconds", "0.01"],
    ):
        # Each command with one form, those that write with both.
        for form in ([], ["--json"]) if arguments[0] in ("fuse", "scan") else ([],):
            more = ["--force"] if arguments[0] == "fuse" else []
            done = commands.run(*arguments, *form, *more, cwd=raw)
            assert done.returncode == 0, (arguments, done.stderr)
            assert done.stderr == ""
    assert files_of(raw) == [f"{RAW}-fused.onnx", name]


def test_external_weights_in_a_folder_that_is_not_utf8(raw: Path) -> None:
    path = external(raw)
    result = graphfuse.optimize(path, raw / "fused.onnx", level="full")
    assert result.validation is not None
    assert result.validation.passed


def test_a_large_file_whose_name_is_not_utf8(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights cannot be external data of itself: a model names files in UTF-8."""
    monkeypatch.setattr(model_file, "LARGE", 1)
    monkeypatch.setattr(model_file, "LEAST_INLINE", 64)
    path = raw / f"{RAW}.onnx"
    shutil.copy(BERT, path)
    assert graphfuse.optimize(path, raw / "fused.onnx").fused
    monkeypatch.setattr(model_file, "PROTO_LIMIT", 1000)
    with pytest.raises(graphfuse.ModelError, match="rename the file"):
        graphfuse.scan(path)


def test_errors_name_files_that_are_not_utf8(raw: Path, commands: Commands) -> None:
    for arguments in (["scan", f"{RAW}.onnx"], ["fuse", BERT, "-o", f"{RAW}/out.onnx"]):
        done = commands.run(*arguments, cwd=raw)
        assert done.returncode in (2, 3)
        assert done.stderr.count("\n") == 1
        assert r"m\udcff\udcfe" in done.stderr


def is_tame(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def evil_model(folder: Path) -> Path:
    """One site and one near miss, every name hostile."""
    proto = residual("y = LayerNormalization(x, scale, bias)")
    near = residual("y = LayerNormalization<epsilon=0.0>(x, scale)")
    for graph in (proto.graph, near.graph):
        names = {value.name for value in (*graph.input, *graph.output)}
        names |= {tensor.name for tensor in graph.initializer}
        names |= {name for node in graph.node for name in (*node.input, *node.output)}
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = value.name + EVIL
        for number, node in enumerate(graph.node):
            node.name = f"{number}{EVIL}"
            node.input[:] = [name + EVIL if name else "" for name in node.input]
            node.output[:] = [name + EVIL for name in node.output]
        assert names
    (folder / "near.onnx").write_bytes(near.SerializeToString())
    path = folder / f"a{EVIL}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_names_are_shown_and_not_obeyed(tmp_path: Path, shell: Shell) -> None:
    """In every table, message and report; tables would be torn by the end of a line as well."""
    name = evil_model(tmp_path).name
    output = f"b{EVIL}.onnx"
    commands = (
        ["fuse", name, "-o", output],
        ["scan", name],
        ["scan", name, "--activations"],
        ["scan", "near.onnx"],
        ["explain", name, "s1"],
        ["explain", "near.onnx", "m1"],
        ["validate", name, output],
        ["validate", output, name],
        ["bench", name, output, "--seconds", "0.01", "--no-memory"],
        ["bench", name, "--sites", "--seconds", "0.01"],
    )
    for arguments in commands:
        done = shell(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert is_tame(done.stdout), (arguments, done.stdout)
        assert done.stderr == ""
        more = ["--force"] if arguments[0] == "fuse" else []
        document = shell(*arguments, "--json", *more)
        assert document.returncode == 0, document.stderr
        assert document.stdout.isascii()
        assert is_tame(document.stdout)
        json.loads(document.stdout)
    assert "\\x1b[2J" in shell("scan", name).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", "none" + EVIL],
        ["explain", "near.onnx", "none" + EVIL],
        ["fuse", "near.onnx", "-o", "none" + EVIL + "/x.onnx"],
        ["fuse", "near.onnx", "-o", "x.onnx", "--include", EVIL],
        ["fuse", "near.onnx", "-o", "x.onnx", "--ep", EVIL],
        ["fuse", "near.onnx", "-o", "x.onnx", "--load-inputs", "none" + EVIL],
        ["fuse", "near.onnx", "-o", "x.onnx", "--data-loader-script", EVIL],
        ["fuse", "near.onnx", "-o", "x.onnx", "--" + EVIL],
        ["none" + EVIL],
        ["validate", "near.onnx", "garbage" + EVIL],
        ["bench", "near.onnx", "--sizes", EVIL],
    ],
)
def test_messages_are_shown_and_not_obeyed(
    arguments: list[str], tmp_path: Path, shell: Shell
) -> None:
    evil_model(tmp_path)
    (tmp_path / f"garbage{EVIL}").write_bytes(b"no model")
    for more in ([], ["--isolate"]):
        done = shell(*arguments, *(more if arguments[0] == "fuse" else []))
        assert done.returncode in (2, 3)
        assert done.stderr.count("\n") == 1
        assert is_tame(done.stderr), done.stderr


def test_hostile_names_in_a_model_that_is_refused(tmp_path: Path, shell: Shell) -> None:
    proto = residual("y = LayerNormalization(x, scale, bias)")
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w" + EVIL)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="x" + EVIL)
    proto.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    done = shell("scan", "m.onnx")
    assert done.returncode == 3
    assert is_tame(done.stderr)
    assert done.stderr.count("\n") == 1


def test_messages_of_the_library_are_one_line_too() -> None:
    """Whoever logs them has a terminal as well."""
    error = GraphfuseError("no " + EVIL, EVIL)
    assert str(error).isprintable()
    assert printable("as it is: ä 模型") == "as it is: ä 模型"
    assert printable("\x1b\udcff\n") == r"\x1b\udcff\n"

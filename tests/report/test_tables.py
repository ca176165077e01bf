"""Tables on a terminal: 80 columns, no name broken, many sites folded; a pipe gets a row on a line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, parser

from graphfuse.records import Check
from graphfuse.report.scan_view import ranges
from graphfuse.report.sheet import Sheet, Whole, folded
from graphfuse.report.terminal import figures
from tests.conftest import MODELS, ROOT, Shell

BOLD = re.compile(r"\x1b\[[0-9;]*m")


def terminal(*words: object, folder: Path, **more: str) -> str:
    """What a command prints on a terminal of 80 columns, bold headings and all."""
    mine, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    hidden = ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    known = {name: value for name, value in os.environ.items() if name not in hidden}
    environment = {**known, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-m", "graphfuse", *map(str, words)]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=other, stderr=subprocess.PIPE
    ) as child:
        os.close(other)
        found = b""
        while True:
            try:
                more_of_it = os.read(mine, 65536)
            except OSError:
                break
            if not more_of_it:
                break
            found += more_of_it
        os.close(mine)
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert child.returncode == 0
    return found.decode().replace("\r\n", "\n")


def stack(folder: Path, sites: int, name: str = "layers.{0}/out") -> Path:
    """A residual stream of `sites` post-norm blocks."""
    nodes, last = [], "x"
    for number in range(sites):
        out = name.format(number)
        nodes.append(helper.make_node("Tanh", [last], [f"t{number}"]))
        nodes.append(helper.make_node("Add", [last, f"t{number}"], [f"sum{number}"]))
        nodes.append(
            helper.make_node("LayerNormalization", [f"sum{number}", "scale"], [out], axis=-1)
        )
        last = out
    value = helper.make_tensor_value_info
    shape = ["batch", "sequence", 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value(last, TensorProto.FLOAT, shape)],
        [helper.make_tensor("scale", TensorProto.FLOAT, [8], [1.0] * 8)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "stack.onnx")
    return folder / "stack.onnx"


def too_wide(text: str) -> list[str]:
    return [line for line in BOLD.sub("", text).split("\n") if len(line) > 80]


@pytest.mark.parametrize("file", sorted(path.name for path in MODELS.glob("*.onnx")))
def test_a_scan_fits_a_terminal(file: str, shell: Shell, tmp_path: Path) -> None:
    shown = terminal("scan", MODELS / file, folder=tmp_path)
    assert too_wide(shown) == []
    lines = BOLD.sub("", shown).split("\n")
    assert all(line == line.rstrip() for line in lines)
    piped = shell("scan", MODELS / file).stdout.split("\n")
    header = next(line for line in piped if line.startswith("site "))
    # Every output, which is what `explain` takes, stands whole on a line of each.
    column = header.index("output")
    for row in piped[1 : piped.index(next(line for line in piped if line.startswith("s1, ")))]:
        name = row[column:].partition(" in ")[0]
        assert name
        assert any(re.search(rf"(^|\s){re.escape(name)}( in |$)", line) for line in lines), name


@pytest.mark.every
def test_a_whole_run_fits_a_terminal(tmp_path: Path) -> None:
    gpt2, out = MODELS / "gpt2.onnx", tmp_path / "fused.onnx"
    quick = ("--seconds", "0", "--sizes", "1x8", "--threads", "1")
    for words in (
        ("fuse", gpt2, "-o", "fused.onnx", "--certify"),
        ("validate", gpt2, out, "--certify"),
        ("unfuse", "fused.onnx", "-o", "plain.onnx"),
        ("explain", gpt2, "s1"),
        ("scan", gpt2, "--activations"),
        ("bench", gpt2, "--sites", *quick),
        ("bench", gpt2, "fused.onnx", *quick),
        ("env",),
    ):
        shown = terminal(*words, folder=tmp_path)
        # A path of this machine may be longer than any terminal.
        assert [line for line in too_wide(shown) if "/" not in line] == [], words
        assert all(line == line.rstrip() for line in BOLD.sub("", shown).split("\n")), words
        if words[0] in ("fuse", "validate"):
            assert "verdict" in shown
            assert shown.count("  at: logits") == 3


def test_many_sites_that_are_alike_share_a_row(shell: Shell, tmp_path: Path) -> None:
    model = stack(tmp_path, 192)
    shown = BOLD.sub("", terminal("scan", model, folder=tmp_path))
    assert len(shown.splitlines()) < 20
    assert too_wide(shown) == []
    assert "--all" in shown
    assert re.search(r"^0-191 +192 +LayerNorm +post-norm +float32 +s1-s192 ", shown, re.M)
    every = BOLD.sub("", terminal("scan", model, "--all", folder=tmp_path))
    names = {f"layers.{number}/out" for number in range(192)}
    assert names <= set(every.split())
    piped = shell("scan", model).stdout
    assert names <= set(piped.split())
    assert sum(line.startswith("s") for line in piped.splitlines()) >= 193


def test_readings_that_are_alike_share_a_row(tmp_path: Path) -> None:
    model = stack(tmp_path, 40)
    shown = BOLD.sub("", terminal("scan", model, "--activations", folder=tmp_path))
    assert len(shown.splitlines()) < 12
    assert "40 sums: " in shown
    every = terminal("scan", model, "--activations", "--all", folder=tmp_path)
    assert len(every.splitlines()) > 40


def test_hostile_names_stay_whole(tmp_path: Path) -> None:
    long = "block/" + "x" * 120 + "{0}"
    shown = BOLD.sub("", terminal("scan", stack(tmp_path, 3, long), folder=tmp_path))
    for number in range(3):
        assert long.format(number) in shown.split()
    # One with blanks, wide letters and an escape sequence: shown as text, and whole.
    odd = "a b\x1b[31m \u4f60\u597d " * 6 + "{0}"
    shown = terminal("scan", stack(tmp_path, 3, odd), folder=tmp_path)
    assert "\x1b[31m" not in shown
    assert odd.format(1).replace("\x1b", "\\x1b") in shown


def test_no_colour(tmp_path: Path) -> None:
    words = ("scan", MODELS / "bert.onnx")
    assert "\x1b[1m" in terminal(*words, folder=tmp_path)
    assert "\x1b" not in terminal(*words, folder=tmp_path, NO_COLOR="1")


def test_a_pipe_gets_a_row_on_a_line(shell: Shell) -> None:
    """Whatever a shell says of its terminal, and however colours are forced."""
    for env in ({"COLUMNS": "80"}, {"FORCE_COLOR": "1", "COLUMNS": "80"}, {}):
        lines = BOLD.sub("", shell("scan", MODELS / "gpt2.onnx", env=env).stdout).splitlines()
        assert re.match(
            r"s1 +0 +LayerNorm .* /model/transformer/h.0/ln_1/Add_1_output_0$", lines[1]
        )
        assert len(lines) == 8
        assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option: str, shell: Shell) -> None:
    for words in ((option,), ("scan", option)):
        run = shell(*words)
        assert run.returncode == 0
        assert "Usage: graphfuse" in run.stdout


def test_a_figure_that_is_not_its_bound_does_not_look_like_it() -> None:
    for value, shown in ((0.997, "0.997"), (0.9999996, "0.9999996"), (1.0, "1"), (0.5, "0.5")):
        assert figures(Check("G1", "y", value, 1.0, "CPU", True)) == (shown, "1")


def test_folding_keeps_cells_and_names_whole() -> None:
    sheet = Sheet(("id", "kind", "name", "note"))
    sheet.add_row("1", "k", "n" * 30, ("first", "second " * 4, "third"))
    sheet.add_row("2", "k", "n" * 50, "-")
    assert [line.text for line in sheet.lines(40)] == [
        "in every row: kind k",
        "id",
        "1",
        f"  name: {'n' * 30}",
        "  note: first,",
        "    second second second second , third",
        "2",
        "  name:",
        "n" * 50,
    ]
    assert [line.text[:4] for line in sheet.lines(None)] == ["id  ", "1   ", "2   "]
    text = folded(["see ", Whole("a name with blanks"), ", which is long"], 20, 2)
    assert text == ["see", " a name with blanks,", "  which is long"]


def test_ranges() -> None:
    assert ranges([1, 2, 3, 7], "s") == ("s1-s3", "s7")
    assert ranges(range(1, 100, 2), "s") == ("s1", "s3", "s5", "... s99")
    assert ranges([]) == ()


def test_near_misses_that_are_many_are_folded(tmp_path: Path) -> None:
    blocks = "\n".join(
        f"t{n} = Tanh(y{n}) u{n} = Add(y{n}, t{n}) "
        f"y{n + 1} = LayerNormalization<epsilon=0.0>(u{n}, scale)"
        for n in range(40)
    )
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 8] y0, float[8] scale) => (float[2, 8] y40) {{ {blocks} }}
    """
    onnx.save(parser.parse_model(text), tmp_path / "near.onnx")
    shown = BOLD.sub("", terminal("scan", "near.onnx", folder=tmp_path))
    assert "40 near misses" in shown
    assert "and 37 more:" in shown
    assert shown.count("would help") == 3
    every = terminal("scan", "near.onnx", "--all", folder=tmp_path)
    assert every.count("would help") == 40

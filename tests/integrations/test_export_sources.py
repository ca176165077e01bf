"""What `graphfuse export` takes and what it refuses, each with one line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphfuse
from graphfuse.cli.parsing import with_values
from graphfuse.integrations.symbols import likely_symbols, parse_dynamic
from tests.cli.test_cli import one_line
from tests.conftest import ROOT, Shell, files_of
from tests.integrations.test_export_command import (
    Block,
    axes_of,
    exported,
    folder_of,
    pair,
    saved,
)


def refused(source: Path | str, code: int, says: str, **options: Any) -> None:
    """It ends with an error of that exit code, in one line, and nothing is written."""
    with pytest.raises(graphfuse.GraphfuseError) as caught:
        exported(str(source), Path("fused.onnx"), **options)
    assert caught.value.exit_code == code
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("fused.onnx").exists()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def changed(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_folders_that_are_refused(tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path)
    (tmp_path / "empty").mkdir()
    refused("empty", 3, "has no config.json")
    refused("bert", 2, "unknown type 'int8'", dtype="int8")
    settings = folder / "config.json"
    original = settings.read_text()
    changed(folder, auto_map={"AutoModel": "code.Model"}, model_type="own")
    (folder / "code.py").write_text("raise SystemExit('this code was run')")
    refused("bert", 3, "asks for code of its own (auto_map in config.json)")
    # A type that transformers knows is loaded by its own class, whatever else the folder says.
    changed(folder, model_type="bert")
    assert len(exported("bert", None, level="none").fused) == 5
    for name in ("os", "BertTokenizer"):
        settings.write_text(original)
        changed(folder, architectures=[name])
        refused("bert", 3, f"no architecture '{name}'")
    changed(folder, model_type="nothing-known")
    refused("bert", 3, "knows no model of type 'nothing-known'")
    settings.write_text("{")
    refused("bert", 3, "config.json cannot be read")
    settings.write_text("[]")
    refused("bert", 3, "is no configuration")
    settings.write_text(original)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused("bert", 3, "transformers cannot load bert")
    weights.rename(folder / "pytorch_model.bin")
    refused("bert", 3, "has no weights in safetensors")


FUNCTIONS = """
import torch
from tests.integrations.test_export_command import Block, pair

def whole(): return Block().eval(), pair(2, 7, 16)
def keywords():
    x, y = pair(2, 7, 16)
    print("noise on standard output")
    return Block().eval(), ((x,), {"y": y})
def mapping(): return Block().eval(), dict(zip("xy", pair(2, 7, 16)))
def three():
    x, y = pair(2, 7, 16)
    return Block().eval(), (x,), {"y": y}
def program(): return torch.export.export(Block().eval(), pair(2, 7, 16)), pair(2, 7, 16)
def training(): return Block(), pair(2, 7, 16)
def raising(): raise ValueError("no\\nweights")
def leaving(): raise SystemExit(0)
def nothing(): pass
def text(): return "ab"
def alone(): return (Block().eval(),)
def other(): return "model", pair(2, 7, 16)
def tensor(): return Block().eval(), pair(2, 7, 16)[0]
def few(): return Block().eval(), pair(2, 7, 16)[:1]
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text("import nothing_like_it")
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path / "fused.onnx"


@pytest.mark.parametrize("name", ["whole", "keywords", "mapping", "three", "program"])
def test_a_function(name: str, mine: Path) -> None:
    assert len(exported(f"mine.py:{name}", mine).fused) == 1
    assert axes_of(mine) == {"x": [2, 7, 16], "y": [2, 7, 16]}


def test_a_function_of_a_module(mine: Path, shell: Shell, tmp_path: Path) -> None:
    """The working folder is where modules are looked for; what it prints is no part of a report."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "inner.py").write_text(FUNCTIONS)
    path = {"PYTHONPATH": str(ROOT)}
    run = shell("export", "pack.inner:keywords", "-o", mine, "--json", env=path)
    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)["fused"]) == 1
    assert run.stderr == "noise on standard output\n"
    run = shell("export", "pack.inner:raising", "-o", "none.onnx", env=path)
    assert run.returncode == 4
    assert "failed (ValueError: no weights)" in one_line(run)


def test_symbols_by_name_and_likely_ones(mine: Path) -> None:
    axes = ["x=batch,length", "y=batch,length"]
    exported("mine.py:whole", mine, axes, dtype="float16")
    assert axes_of(mine) == {"x": ["batch", "length", 16], "y": ["batch", "length", 16]}
    mine.unlink()
    exported("mine.py:whole", mine, ["auto"])
    assert axes_of(mine) == {"x": ["batch", "sequence", 16], "y": ["batch", "sequence", 16]}


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("mine.py:whol", 2, "has no 'whol'; did you mean whole?"),
        ("mine.py:number", 2, "is a int, no function"),
        ("mine.py:raising", 4, "failed (ValueError: no weights)"),
        ("mine.py:leaving", 4, "failed (SystemExit: 0)"),
        ("mine.py:nothing", 2, "returned a NoneType"),
        ("mine.py:text", 2, "returned a str"),
        ("mine.py:alone", 2, "returned a tuple"),
        ("mine.py:other", 2, "returned a str, no torch.nn.Module"),
        ("mine.py:tensor", 2, "arguments of type Tensor"),
        ("mine.py:training", 2, "is in training mode"),
        ("mine.py:few", 2, "does not take these arguments (missing a required argument: 'y')"),
        ("nowhere_at_all:whole", 2, "nowhere_at_all cannot be imported (ModuleNotFoundError"),
        ("broken.py:whole", 2, "nothing_like_it"),
        ("none.py:whole", 2, "is no Python file"),
        ("nothing.pt2", 3, "nothing.pt2 does not exist"),
        ("nothing", 2, "there is no such file or folder"),
        ("", 2, "the path is empty"),
        ("a:b:c", 2, "there is no such file or folder"),
    ],
)
def test_what_cannot_be_exported(source: str, code: int, says: str, mine: Path) -> None:
    refused(source, code, says)


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt2").write_text("nothing")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    saved(tmp_path / "cut.pt2", dynamic=False)
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "cut.pt2").read_bytes()[:-200])
    before = files_of(tmp_path)
    refused("weights.pt", 3, "torch.export.load cannot read")
    refused("text.pt2", 3, "it is no archive")
    refused("model.onnx", 3, "graphfuse fuse model.onnx")
    refused("cut.pt2", 3, "cut.pt2")
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x"], "cannot read the dynamic axes 'x'"),
        (["x=_"], "cannot read the dynamic axes"),
        (["x=a b"], "cannot read the dynamic axes"),
        (["x=batch", "x=other"], "given twice"),
        (["z=batch"], "names 'z', and the inputs are x, y"),
        (["x=a,b,c,d"], "4 axes, and it has 3"),
        (["auto", "x=batch"], "go alone"),
    ],
)
def test_symbols_that_cannot_be(words: list[str], says: str, mine: Path) -> None:
    refused("mine.py:whole", 2, says, dynamic=words)


def test_a_program_keeps_its_own_symbols_and_types(tmp_path: Path) -> None:
    saved(tmp_path / "block.pt2", dynamic=False)
    refused("block.pt2", 2, "its own dynamic shapes", dynamic=["x=batch"])
    refused("block.pt2", 2, "types that it was traced with", dtype="float16")


class Picky(Block):
    """Takes seven positions and no others."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y) + torch.ones(7, 1)


def picky() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Picky().eval(), pair(2, 7, 16)


def test_what_pytorch_does_not_allow_stays_a_number(tmp_path: Path) -> None:
    source, path = "tests.integrations.test_export_sources:picky", tmp_path / "f.onnx"
    result = exported(source, path, ["auto"])
    assert any("it chose among them" in note for note in result.notes)
    batch, positions, hidden = axes_of(path)["x"]
    assert isinstance(batch, str)
    assert (positions, hidden) == (7, 16)
    # What is said by name is not given up.
    axes = ["x=batch,length", "y=batch,length"]
    refused(source, 4, "PyTorch cannot export the module", dynamic=axes)


def test_likely_symbols() -> None:
    ids, other = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    hidden, image = torch.ones(2, 7, 16), torch.ones(2, 3, 8, 8)
    found = likely_symbols(
        torch,
        {"input_ids": ids, "mask": ids, "decoder_input_ids": other, "x": hidden, "pixels": image,
         "scale": torch.ones(()), "one": torch.ones(1, 7), "flag": True},
    )  # fmt: skip
    both = {0: "batch", 1: "sequence"}
    assert found == {
        "input_ids": both, "mask": both, "decoder_input_ids": {0: "batch", 1: "decoder_sequence"},
        "x": both, "pixels": {0: "batch"}, "scale": None, "one": None, "flag": None,
    }  # fmt: skip
    assert parse_dynamic(["x=batch,_,length"]) == {"x": ("batch", "_", "length")}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("export m -o f --dynamic", "export m -o f --dynamic auto"),
        ("export m --dynamic -o f", "export m --dynamic auto -o f"),
        ("export m --dynamic none -o f", "export m --dynamic none -o f"),
        ("export m --dynamic x=a --dynamic y=a", "export m --dynamic x=a --dynamic y=a"),
        ("fuse m -o f", "fuse m -o f"),
    ],
)
def test_dynamic_alone_means_auto(words: str, meant: str) -> None:
    assert with_values(words.split()) == meant.split()


def test_gates_and_outputs_that_exist(tmp_path: Path) -> None:
    saved(tmp_path / "block.pt2", dynamic=False)
    refused("block.pt2", 6, "1 of 2 sites were fused", min_fused=2)
    (tmp_path / "f.onnx").write_text("precious")
    with pytest.raises(graphfuse.UsageError, match="exists"):
        exported("block.pt2", tmp_path / "f.onnx")
    assert (tmp_path / "f.onnx").read_text() == "precious"
    assert files_of(tmp_path) == ["block.pt2", "f.onnx"]


def test_in_place_has_no_model(shell: Shell) -> None:
    run = shell("export", "m.pt2", "--in-place")
    assert run.returncode == 2
    assert "--in-place has no model to replace" in one_line(run)

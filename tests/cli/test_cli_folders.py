"""`graphfuse fuse FOLDER`: what is found, what is written where, what is refused, how it ends."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.errors import GraphfuseError, ModelError, UsageError
from graphfuse.records.folder_results import FolderModel
from graphfuse.steps import fusing
from tests.conftest import Shell, files_of
from tests.support.folder_cases import SITES, in_place, make_export, none, tree, with_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export: two models, one in a subfolder, with other files."""
    return make_export(tmp_path / "export")


def test_beside_the_originals(folder: Path, shell: Shell) -> None:
    before = tree(folder)
    run = shell("fuse", folder, "--in-place")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].split() == [str(folder), "found", "fused", "verdict", "file"]
    assert lines[1].split()[:4] == ["encoder_model.onnx", "5", "5", "pass"]
    assert lines[2].split()[:4] == ["onnx/model.onnx", "5", "5", "pass"]
    after = tree(folder)
    new = {"encoder_model_graphfuse.onnx", "onnx/model_graphfuse.onnx"}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before} == before
    again = shell("fuse", folder, "--in-place")
    assert (again.returncode, tree(folder)) == (2, after)
    assert "encoder_model_graphfuse.onnx exists" in again.stderr
    forced = shell("fuse", folder, "--in-place", "--force", "--validate", "none", "--isolate")
    assert (forced.returncode, tree(folder)) == (0, after), forced.stderr


def test_into_another_folder(folder: Path, tmp_path: Path) -> None:
    with_weights(folder / "encoder_model.onnx", "encoder_model.onnx_data")
    shutil.copy(folder / "encoder_model.onnx", folder / "decoder_model.onnx")
    output = tmp_path / "fused"
    result = none(folder, output)
    names = {
        "config.json", "encoder_model.onnx_data", "encoder_model_graphfuse.onnx",
        "decoder_model_graphfuse.onnx", "onnx/model_graphfuse.onnx", "onnx/notes.txt",
    }  # fmt: skip
    assert tree(output).keys() == names
    assert [Path(file.path).name for file in result.copied] == ["config.json", "notes.txt"]
    assert {Path(file.path) for file in result.written} == {output / name for name in names}
    for name in ("encoder_model", "decoder_model", "onnx/model"):
        fused, plain = output / f"{name}_graphfuse.onnx", folder / f"{name}.onnx"
        assert graphfuse.validate(plain, fused).passed
    assert files_of(tmp_path) == ["export", "fused"]
    assert not any(
        str(tmp_path / ".fused") in note
        for each in result.models
        if each.result
        for note in each.result.notes
    )


def test_what_was_fused_before_does_not_come_along(folder: Path, tmp_path: Path) -> None:
    with_weights(folder / "encoder_model.onnx", "data.bin")
    none(folder, in_place(folder, weights="copy"))
    names = [path.name for path in folder.glob("data-*.bin")]
    assert len(names) == 1
    none(folder, tmp_path / "fused")
    assert tree(tmp_path / "fused").keys() == {
        "config.json", "data.bin", "encoder_model_graphfuse.onnx", "onnx/model_graphfuse.onnx",
        "onnx/notes.txt",
    }  # fmt: skip


def test_weights_beside_stay_where_they_are(folder: Path) -> None:
    with_weights(folder / "encoder_model.onnx", "data.bin")
    status = (folder / "data.bin").stat()
    result = none(folder, in_place(folder))
    now = (folder / "data.bin").stat()
    assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert result.copied == ()
    assert len(tree(folder)) == 8


def test_a_model_that_fails_stops_no_other(folder: Path, shell: Shell, tmp_path: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "broken.onnx_data").write_bytes(bytes(9))
    run = shell("fuse", folder, "-o", "fused", "--validate", "none", "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"]) == (3, 3)
    assert document["error"]["type"] == "ModelError"
    assert "1 of 3 models failed: broken.onnx" in document["error"]["message"]
    assert [each["exit_code"] for each in document["models"]] == [3, 0, 0]
    assert document["models"][0]["error"]["message"] in document["error"]["message"]
    assert "fused" not in document["models"][0]
    assert [len(each["fused"]) for each in document["models"][1:]] == [SITES, SITES]
    assert files_of(tmp_path / "fused") == ["config.json", "encoder_model_graphfuse.onnx", "onnx"]
    shown = shell("fuse", folder, "--dry-run", "--validate", "none")
    assert shown.returncode == 3
    assert shown.stdout.splitlines()[1].split() == ["broken.onnx", "-", "-", "FAILED", "-"]
    assert any(line.startswith("failed: broken.onnx:") for line in shown.stdout.splitlines())


def test_where_every_model_fails_nothing_is_written(
    folder: Path, shell: Shell, tmp_path: Path
) -> None:
    for name in ("encoder_model.onnx", "onnx/model.onnx"):
        (folder / name).write_bytes(b"no model")
    run = shell("fuse", folder, "-o", "fused", "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["output"], document["copied"]) == (3, None, [])
    assert "every model failed: nothing was written" in document["notes"]
    assert files_of(tmp_path) == ["export"]


def test_the_worst_code_is_that_of_all() -> None:
    codes = [1, 3, 4, 5, 2, 6]
    for worst, code in enumerate(codes):
        errors = [GraphfuseError(f"number {number}") for number in codes[worst:]]
        for error, number in zip(errors, codes[worst:], strict=True):
            error.exit_code = number
        models = [FolderModel(name="a", path="a", error=error) for error in reversed(errors)]
        made = graphfuse.FolderResult(folder="x", output="", models=tuple(models))
        assert made.exit_code == code


def test_all_put_back_is_told_of_one_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fusing.Fusing.result

    def wrong(self: Any, put_back: Any) -> Any:
        found = real(self, put_back)
        if self.source.path.name == "encoder_model.onnx":
            # As if a kernel were wrong: another epsilon.
            for node in found.proto.graph.node:
                for each in node.attribute:
                    each.f = 0.1 if each.name == "epsilon" else each.f
        return found

    monkeypatch.setattr(fusing.Fusing, "result", wrong)
    result = graphfuse.fuse_folder(folder, tmp_path / "fused")
    assert [model.exit_code for model in result.models] == [6, 0]
    assert result.exit_code == result.models[0].exit_code
    assert (tmp_path / "fused" / "onnx" / "model_graphfuse.onnx").is_file()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("export", "is the folder of the models"),
        ("export/../export/", "is the folder of the models"),
        ("export/onnx/new", "inside of the folder"),
        (".", "holds the folder"),
        ("full", "is not empty"),
        ("file", "is a link or a file"),
        ("link", "is a link or a file"),
        ("fused.onnx", "the name of a file"),
        ("no/such", "does not exist"),
    ],
)
def test_folders_that_are_not_written_to(
    folder: Path, shell: Shell, tmp_path: Path, output: str, said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("my only copy")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    before = tree(tmp_path)
    for force in (False, True):
        made = graphfuse.Output(tmp_path / output, force=force)
        with pytest.raises(
            UsageError, match="would remove" if (force, output) == (True, "full") else said
        ):
            none(folder, made)
    assert tree(tmp_path) == before
    if output == "export":
        run = shell("fuse", folder, "-o", folder)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)


def test_as_many_sites_as_are_asked_for_in_all_models(
    folder: Path, shell: Shell, tmp_path: Path
) -> None:
    before = tree(folder)
    for words in (["-o", "fused"], ["--in-place"]):
        command = ["fuse", folder, *words, "--validate", "none", "--json", "--min-fused"]
        run = shell(*command, str(2 * SITES + 1))
        document = json.loads(run.stdout)
        assert (run.returncode, document["error"]["type"]) == (6, "GateError")
        assert "10 of 11 sites" in run.stderr
        assert [len(each["fused"]) for each in document["models"]] == [SITES, SITES]
        assert (tree(folder), files_of(tmp_path)) == (before, ["export"])
    assert none(folder, in_place(folder), min_fused=2 * SITES).fused == 2 * SITES
    assert len(tree(folder)) == len(before) + 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--include", "s1"], "name sites of one"),
        (["--load-inputs", "feeds.npz"], "are those of one"),
        (["--symbol", "nosuch=3"], "has the symbol 'nosuch'"),
        (["--input-shapes", "nosuch:[1,3]"], "has the input 'nosuch'"),
        (["--weights", "keep"], "own folder only"),
        (["--genai"], "no file genai_config.json"),
        (["--ep", "nosuch"], "nosuch"),
    ],
)
def test_options_that_make_no_sense_here(
    folder: Path, shell: Shell, tmp_path: Path, words: list[str], said: str
) -> None:
    np.savez(tmp_path / "feeds.npz", input_ids=np.zeros((1, 3), np.int64))
    run = shell("fuse", folder, "-o", "fused", *words)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in run.stderr
    assert files_of(tmp_path) == ["export", "feeds.npz"]


def test_feeds_go_to_the_models_that_take_them(folder: Path) -> None:
    model = onnx.load(folder / "encoder_model.onnx")
    for node in model.graph.node:
        node.input[:] = ["mask" if name == "attention_mask" else name for name in node.input]
    next(each for each in model.graph.input if each.name == "attention_mask").name = "mask"
    onnx.save(model, folder / "encoder_model.onnx")
    feeds = graphfuse.Feeds(input_shapes={"mask": (2, 5)}, val_range={"mask": (1, 1)})
    alone = [None, UsageError]
    for name, error in zip(("encoder_model.onnx", "onnx/model.onnx"), alone, strict=True):
        with pytest.raises(error) if error else contextlib.nullcontext():
            graphfuse.optimize(folder / name, None, feeds=feeds)
    result = graphfuse.fuse_folder(folder, None, feeds=feeds)
    assert [model.exit_code for model in result.models] == [0, 0]
    assert all(model.result and model.result.validation for model in result.models)


def test_a_folder_without_models(tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "empty").mkdir()
    run = shell("fuse", "empty", "-o", "fused")
    assert run.returncode == 3
    assert "the folder empty has no ONNX model" in run.stderr
    (tmp_path / "empty" / "model_graphfuse.onnx").write_bytes(b"")
    assert "is fused already" in shell("fuse", "empty", "-o", "fused").stderr
    assert files_of(tmp_path) == ["empty"]


def test_nothing_is_written_when_nothing_changed(folder: Path, tmp_path: Path) -> None:
    none(folder, tmp_path / "fused")
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(tmp_path / "fused" / "encoder_model_graphfuse.onnx", again / "model.onnx")
    result = none(again, graphfuse.Output(tmp_path / "third", only_if_changed=True))
    assert (result.output, result.exit_code, result.fused) == ("", 0, SITES)
    assert "--only-if-changed" in result.notes[-1]
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda f: graphfuse.fuse_folder(3, None), UsageError, "the folder is 3"),
        (lambda f: graphfuse.fuse_folder("", None), UsageError, "is empty"),
        (lambda f: graphfuse.fuse_folder(f / "no", None), ModelError, "does not exist"),
        (lambda f: graphfuse.fuse_folder(f / "config.json", None), ModelError, "is no folder"),
        (lambda f: graphfuse.fuse_folder(f, 3), UsageError, "the output is 3"),
        (lambda f: graphfuse.fuse_folder(f, in_place(f / "onnx")), UsageError, "in place"),
        (lambda f: graphfuse.fuse_folder(f, None, genai="no"), UsageError, "genai is 'no'"),
        (lambda f: graphfuse.fuse_folder(f, None, min_fused=-1), UsageError, "below 0"),
        (lambda f: graphfuse.fuse_folder(f, None, limits=3), UsageError, "limits is 3"),
        (lambda f: graphfuse.fuse_folder(f, None, selection="s1"), UsageError, "selection is"),
        (lambda f: graphfuse.fuse_folder(f, None, strict=1), UsageError, "strict is 1"),
        (lambda f: graphfuse.fuse_folder(f, None, progress=print), UsageError, "progress is"),
    ],
)
def test_wrong_arguments_are_a_line(
    folder: Path, call: Callable[[Path], object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        call(folder)

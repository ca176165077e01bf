"""Folders of models as files: links, strange names, what is replaced, what a stopped run leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import graphfuse
from graphfuse.errors import UsageError, WriteError
from graphfuse.files import exports
from tests.conftest import MODELS, Shell, files_of
from tests.support.folder_cases import SITES, make_export, none, tree, with_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_export(tmp_path / "export")


def test_links_lead_not_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(MODELS / "bert.onnx", elsewhere / "model.onnx")
    (folder / "passwords.txt").symlink_to(secret)
    (folder / "linked.onnx").symlink_to(elsewhere / "model.onnx")
    (folder / "more").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.txt").symlink_to(folder / "nothing")
    (folder / "twice.json").symlink_to("config.json")
    os.mkfifo(folder / "pipe")
    result = none(folder, tmp_path / "fused")
    assert len(result.models) == 2
    assert len(result.notes) == 6
    assert all("left" in note for note in result.notes)
    assert {"twice.json", "config.json"} <= tree(tmp_path / "fused").keys()
    assert not (tmp_path / "fused" / "twice.json").is_symlink()
    assert not {"passwords.txt", "more", "loop"} & set(files_of(tmp_path / "fused"))
    followed = none(folder, tmp_path / "all", limits=graphfuse.Limits(allow_links=True))
    assert "linked.onnx" in [model.name for model in followed.models]
    assert (tmp_path / "all" / "passwords.txt").read_text() == "of somebody else"


def test_the_layout_of_the_hugging_face_cache(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    with_weights(folder / "encoder_model.onnx", "data.bin")
    for number, name in enumerate(sorted(tree(folder))):
        shutil.copy(folder / name, blobs / str(number))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / str(number))
    result = none(snapshot, tmp_path / "fused")
    assert (result.exit_code, result.fused, result.notes) == (0, 2 * SITES, ())
    assert tree(tmp_path / "fused")["data.bin"] == (folder / "data.bin").read_bytes()


def test_names_that_are_not_text(folder: Path, tmp_path: Path, shell: Shell) -> None:
    strange = os.fsdecode(b"a\x1b[31m\xff.onnx")
    shutil.copy(folder / "encoder_model.onnx", folder / strange)
    (folder / os.fsdecode(b"\xfe.txt")).write_text("")
    run = shell("fuse", folder, "-o", "fused", "--validate", "none")
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stdout
    assert len(tree(tmp_path / "fused")) == 6


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_stopped_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(exports, "access_of", fail)
    with pytest.raises((WriteError, KeyboardInterrupt)) as caught:
        none(folder, tmp_path / "fused")
    assert files_of(tmp_path) == ["export"]
    if isinstance(caught.value, WriteError):
        assert str(caught.value).startswith(f"{tmp_path / 'fused'}{os.sep}")


def test_a_killed_run_is_cleaned_up_by_the_next(folder: Path, tmp_path: Path) -> None:
    dead = tmp_path / f".fused.{'0' * 16}.graphfuse-tmp"
    (dead / "new").mkdir(parents=True)
    none(folder, tmp_path / "fused")
    assert files_of(tmp_path) == ["export", "fused"]


def test_force_replaces_what_a_run_made_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "fused"
    output.mkdir()
    none(folder, output)
    first = tree(output)
    (folder / "config.json").write_text('{"new": 1}')
    (output / "old_graphfuse.onnx").write_text("of a model that is there no more")
    none(folder, graphfuse.Output(output, force=True))
    assert tree(output) == first | {"config.json": b'{"new": 1}'}
    (output / "thesis.txt").write_text("my only copy")
    before = tree(output)
    with pytest.raises(UsageError, match=r"has thesis\.txt, which --force would remove"):
        none(folder, graphfuse.Output(output, force=True))
    assert tree(output) == before
    assert files_of(tmp_path) == ["export", "fused"]


def test_force_where_the_system_cannot_exchange(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none(folder, tmp_path / "fused")
    monkeypatch.setattr(exports, "_exchanged", lambda *_: False)
    (folder / "config.json").write_text('{"new": 1}')
    none(folder, graphfuse.Output(tmp_path / "fused", force=True))
    assert (tmp_path / "fused" / "config.json").read_text() == '{"new": 1}'
    assert files_of(tmp_path) == ["export", "fused"]

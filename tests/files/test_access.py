"""Who may read what is written: mode, owner, group and ACL of files that are replaced or copied."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import graphfuse
from graphfuse.files import access
from graphfuse.files.access import Access
from tests.conftest import MODELS
from tests.files.test_files import external

BERT = MODELS / "bert.onnx"
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def fused(source: Path, output: Path, **options: object) -> graphfuse.FuseResult:
    return graphfuse.optimize(source, graphfuse.Output(output, **options), level="none")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as Linux keeps it: version 2, then tag, rights and id of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 2**32 - 1
OF_BOB = acl(
    (1, 6, NOBODY), (2, 4, 4711), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)
)  # owner rw, user 4711 r, group nothing, mask r, others nothing


def with_acl(path: Path, text: bytes, name: str = access.ACL) -> None:
    try:
        os.setxattr(path, name, text)
    except (OSError, AttributeError):
        pytest.skip("this file system has no POSIX ACLs")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o604, 0o400])
def test_a_model_that_is_replaced_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(mode)
    fused(path, path, in_place=True)
    assert mode_of(path) == mode
    (tmp_path / "out.onnx").write_text("old")
    (tmp_path / "out.onnx").chmod(mode)
    fused(BERT, tmp_path / "out.onnx", force=True)
    assert mode_of(tmp_path / "out.onnx") == mode


@ROOT_ONLY
def test_a_model_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o640)
    os.chown(path, 1234, 2345)
    result = fused(path, path, in_place=True)
    assert result.notes == ()
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)
    assert mode_of(path) == 0o640


@ROOT_ONLY
def test_a_user_who_cannot_keep_the_owner_widens_nothing(tmp_path: Path) -> None:
    """Another user's file in a folder that both may write to: it is his by then, and says so."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    path = shared / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o644)
    (shared / "out.onnx").write_text("old")
    (shared / "out.onnx").chmod(0o640)
    os.chown(shared / "out.onnx", 1234, 2345)
    for folder in (shared, *tmp_path.parents, tmp_path):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, graphfuse\n"
        # What is imported late may be in a folder that only root may read.
        "output = graphfuse.Output('out.onnx', force=True)\n"
        "graphfuse.optimize('model.onnx', None, level='none')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "result = graphfuse.optimize('model.onnx', output, level='none')\n"
        "print(result.notes)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=shared, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "the owner is user 65534, no longer 1234" in run.stdout
    assert "the mode is 600, no longer 640" in run.stdout
    assert mode_of(shared / "out.onnx") == 0o600
    onnx.load(shared / "out.onnx")


@pytest.mark.parametrize("weights", ["auto", "copy", "embed"])
def test_copies_of_private_weights_are_private(weights: str, tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "in" / "model.onnx_data").chmod(0o600)
    (tmp_path / "out").mkdir()
    fused(path, tmp_path / "out" / "fused.onnx", weights=weights)
    modes = {file.name: mode_of(file) for file in (tmp_path / "out").iterdir()}
    # The model has new weights made of the old ones, in small.
    expected = {"fused.onnx": 0o600, "model.onnx_data": 0o600}
    assert modes == {name: expected[name] for name in modes}
    assert (tmp_path / "in" / "model.onnx_data").stat().st_mode & 0o777 == 0o600


def test_a_private_model_becomes_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o600)
    fused(path, tmp_path / "fused.onnx")
    assert mode_of(tmp_path / "fused.onnx") == 0o600


def test_no_moment_in_which_anybody_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary files are as private, from their first byte on."""
    path = external(tmp_path / "in")
    for file in (tmp_path / "in").iterdir():
        file.chmod(0o600)
    (tmp_path / "out").mkdir()
    seen: set[int] = set()
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.update(mode_of(file) for file in (tmp_path / "out").iterdir() if file.is_file())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    fused(path, tmp_path / "out" / "fused.onnx", weights="copy")
    assert seen - {0o644} == {0o600}
    # A journal has names alone, and those are in the folder anyway.
    assert mode_of(tmp_path / "out" / "model.onnx_data") == 0o600


@pytest.mark.parametrize(("mode", "expected"), [(0o440, 0o640), (0o444, 0o644), (0o400, 0o600)])
def test_what_is_made_of_read_only_files_is_its_users_to_write(
    mode: int, expected: int, tmp_path: Path
) -> None:
    path = external(tmp_path / "in")
    for file in (tmp_path / "in").iterdir():
        file.chmod(mode)
    (tmp_path / "out").mkdir()
    fused(path, tmp_path / "out" / "fused.onnx")
    assert {mode_of(file) for file in (tmp_path / "out").iterdir()} == {expected}


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    os.umask(0o027)
    fused(BERT, tmp_path / "fused.onnx")
    assert mode_of(tmp_path / "fused.onnx") == 0o640


def test_an_acl_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o600)
    with_acl(path, OF_BOB)
    fused(path, path, in_place=True)
    assert os.getxattr(path, access.ACL) == OF_BOB


def test_the_group_bits_of_an_acl_that_is_lost_are_no_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are its mask: as a mode they would let the group read."""
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o600)
    with_acl(path, OF_BOB)
    assert mode_of(path) == 0o640

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    result = fused(path, path, in_place=True)
    assert mode_of(path) == 0o600
    assert "the mode is 600, no longer 640" in result.notes[0]


def test_the_acl_of_a_folder_does_not_open_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o640)
    with_acl(tmp_path, OF_BOB, "system.posix_acl_default")
    fused(path, path, in_place=True)
    assert mode_of(path) == 0o640
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, access.ACL)


def test_what_is_made_of_several_files_is_for_those_who_may_read_all() -> None:
    open_, group, other = Access(0, 0, 0o644), Access(0, 1, 0o640), Access(0, 2, 0o640)
    assert access.common([open_, open_]).mode == 0o644
    assert access.common([open_, Access(0, 0, 0o600)]).mode == 0o600
    assert access.common([group, group]).mode == 0o640
    assert access.common([group, other]).mode == 0o600
    assert access.common([open_, other]) == other
    assert access.common([Access(0, 2, 0o604), group]).mode == 0o600
    of_bob = Access(0, 0, 0o640, OF_BOB)
    assert access.common([open_, of_bob]) == of_bob
    assert access.common([other, of_bob]).mode == 0o600


def test_a_system_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT: what it refuses is no failure."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("fchmod", "fchown", "setxattr", "removexattr"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(BERT.read_bytes())
    path.chmod(0o640)
    fused(path, path, in_place=True)
    assert onnx.load(path).graph.node
    assert not mode_of(path) & 0o077

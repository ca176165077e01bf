"""Systems without POSIX's functions; `python -m tests.campaigns.systems` does all of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import Output, cli
from graphfuse.api import whole_batches
from graphfuse.cli import isolation
from graphfuse.errors import ChangedError
from graphfuse.files import folder
from graphfuse.files.folder import LocationError, components
from graphfuse.files.weights import as_file
from graphfuse.system.descriptors import leads_elsewhere
from tests.campaigns.hostile.cases import FINE
from tests.campaigns.systems.__main__ import BARE_SYSTEM, WINDOWS, content, done, hostile
from tests.campaigns.systems.jobs import DIES, KILLED, Job, external, step

SAMPLE = Job(
    "a sample",
    external,
    (
        step("fuse model.onnx -o out/fused.onnx --validate none", KILLED, DIES),
        step("fuse model.onnx -o out/fused.onnx --validate none"),
        step("fuse model.onnx --in-place"),
    ),
)


def test_reading_and_writing_do_without_posix(tmp_path: Path) -> None:
    """A child that starts without it; what it writes has the bytes that are written here."""
    found = [(each.words, wrong) for each, wrong in done(SAMPLE, [BARE_SYSTEM], tmp_path) if wrong]
    assert found == []
    there = content(tmp_path / "0")
    assert sorted(there) == [
        "deep", "deep/weights.bin", "model.onnx", "out", "out/deep", "out/deep/weights.bin", "out/fused.onnx",
    ]  # fmt: skip
    (tmp_path / "here").mkdir()
    external(tmp_path / "here")
    graphfuse.optimize(tmp_path / "here" / "model.onnx", tmp_path / "here" / "out" / "fused.onnx")
    graphfuse.optimize(
        tmp_path / "here" / "model.onnx", Output(tmp_path / "here" / "model.onnx", in_place=True)
    )
    assert content(tmp_path / "here") == there


def test_hostile_locations_are_refused_without_posix(tmp_path: Path) -> None:
    assert hostile(BARE_SYSTEM, tmp_path) == []


def test_data_is_linked_where_symbolic_links_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    external(tmp_path)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(Path, "symlink_to", refuse)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    path = as_file(model, tmp_path, tmp_path / "scratch")
    assert path is not None
    assert (path.parent / "deep" / "weights.bin").samefile(tmp_path / "deep" / "weights.bin")
    ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_names_that_windows_reads_otherwise() -> None:
    for name in WINDOWS:
        with pytest.raises(
            LocationError, match=r"another name on Windows|leaves the model's folder"
        ):
            components(name, windows=True)
        assert components(name, windows=False) == name.split("/")
    for name in ("weights.bin", "folder/./CONSOLE.bin", ".hidden", "nul_1", "COM10"):
        assert components(name, windows=True) == [part for part in name.split("/") if part != "."]
    assert any(components(dict(each)["location"], windows=False) == ["..."] for each in FINE)


@pytest.mark.parametrize("puts_back", [False, True])
def test_what_is_exchanged_while_it_is_opened_by_path_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puts_back: bool
) -> None:
    """A folder becomes a link between the look and the opening, and may be a folder again after."""
    external(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(b"secret")
    monkeypatch.setattr(folder, "OPENS_INSIDE", False)
    files = folder.Folder(tmp_path, tmp_path / "model.onnx")
    files.status("deep/weights.bin")
    opened: list[int] = []
    deep, honest = tmp_path / "deep", os.open

    def exchange(path: Path, flags: int) -> int:
        deep.rename(tmp_path / "aside")
        deep.symlink_to("elsewhere")
        opened.append(honest(path, flags))
        if puts_back:
            deep.unlink()
            (tmp_path / "aside").rename(deep)
        return opened[0]

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(ChangedError if puts_back else LocationError):
        files.open("deep/weights.bin")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_junction_is_a_link() -> None:
    """A mount point as `lstat` shows it on Windows; a file that a cloud holds back is none."""
    for tag, is_elsewhere in (
        (0xA0000003, True),
        (0xA000000C, True),
        (0x9000001A, False),
        (0, False),
    ):
        status = SimpleNamespace(st_mode=stat.S_IFDIR, st_reparse_tag=tag)
        assert leads_elsewhere(cast(os.stat_result, status)) is is_elsewhere


def test_what_needs_posix_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = SimpleNamespace(name="nt")
    monkeypatch.setattr(isolation, "os", windows)
    monkeypatch.setattr(whole_batches, "os", windows)
    external(tmp_path)
    (tmp_path / "model.onnx").rename(tmp_path / "m.onnx")
    for line in ("fuse m.onnx -o o.onnx --isolate", "batch m.onnx -o rows"):
        monkeypatch.setattr("sys.argv", ["graphfuse", *line.split()])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2
        assert "POSIX system" in said
        assert "\n" not in said
    assert not (tmp_path / "o.onnx").exists()

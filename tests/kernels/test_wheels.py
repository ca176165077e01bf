"""A sample of `python -m tests.campaigns.kernels.wheels`: how wheels are put together and judged."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from graphfuse import kernels
from tests.campaigns.kernels.wheels import building
from tests.campaigns.kernels.wheels.__main__ import faults
from tests.campaigns.kernels.wheels.platforms import PLATFORMS, Platform
from tests.conftest import ROOT

BY_NAME = {platform.name: platform for platform in PLATFORMS}
SYSTEMS = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}
GOOD = {
    "linux-x86_64": {
        "machine": "X86_64", "exports": ["RegisterCustomOps"], "needs": ["libc.so.6"],
        "glibc": [2, 17], "paths": [], "stays": True, "executable stack": False,
    },
    "macos-arm64": {
        "machine": "ARM64", "exports": ["_RegisterCustomOps", "__ZdlPv"],
        "needs": ["/usr/lib/libSystem.B.dylib"],
        "minos": [11, 0], "platform": "MACOS", "signed": True,
    },
    "windows-amd64": {
        "machine": "AMD64", "exports": ["RegisterCustomOps"],
        "needs": ["KERNEL32.dll", "api-ms-win-crt-heap-l1-1-0.dll"], "stamp": 0,
    },
}  # fmt: skip


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A wheel without a library, whose files come in any order and at any time."""
    wheel = tmp_path / "graphfuse-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("graphfuse-0.1.dist-info/WHEEL", "Tag: py3-none-any\n")
        archive.writestr("graphfuse-0.1.dist-info/RECORD", "")
        archive.writestr("graphfuse/ops.py", "")
        archive.writestr("graphfuse/__init__.py", "x = 1\n")
    return wheel


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_a_wheel_says_what_is_in_it(
    platform: Platform, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = tmp_path / "built"
    made.write_bytes(b"machine code")
    made = made if platform.target else None
    wheels: list[Path] = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        wheels.append(building.assemble(plain, platform, made, folder))

    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    _, _, _, tags = parse_wheel_filename(wheels[0].name)
    with zipfile.ZipFile(wheels[0]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        assert {each.date_time for each in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
    said = files["graphfuse-0.1.dist-info/WHEEL"].decode()
    assert {f"Tag: {tag}" for tag in tags} == {x for x in said.splitlines() if x[:4] == "Tag:"}
    libraries = [name for name in files if name.startswith("graphfuse/kernels/")]
    assert libraries == ([f"graphfuse/kernels/{platform.library}"] if platform.target else [])
    record = list(csv.reader(io.StringIO(files["graphfuse-0.1.dist-info/RECORD"].decode())))
    assert {row[0] for row in record} == set(files)
    assert all(int(row[2]) == len(files[row[0]]) for row in record if row[2])


def test_a_library_in_the_plain_wheel_is_an_error(plain: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(plain, "a") as archive:
        archive.writestr("graphfuse/kernels/libgraphfuse_kernels.so", "")
    with pytest.raises(SystemExit, match="has graphfuse/kernels/libgraphfuse_kernels"):
        building.assemble(plain, BY_NAME["any"], None, tmp_path)


def test_each_library_has_the_name_that_the_package_looks_for() -> None:
    for platform in PLATFORMS:
        if platform.target:
            name = kernels.LIBRARY_NAMES.get(SYSTEMS[platform.system], "libgraphfuse_kernels.so")
            assert platform.library == name


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("linux-x86_64", {}, ""),
        ("linux-x86_64", {"glibc": [2, 36]}, "glibc"),
        ("linux-x86_64", {"needs": ["libc.so.6", "libstdc++.so.6"]}, "libstdc"),
        ("linux-x86_64", {"exports": ["RegisterCustomOps", "_ZdlPv"]}, "exports"),
        ("linux-x86_64", {"exports": []}, "exports"),
        ("linux-x86_64", {"stays": False}, "stays"),
        ("linux-x86_64", {"machine": "AARCH64"}, "AARCH64"),
        ("macos-arm64", {}, ""),
        ("macos-arm64", {"minos": [13, 0]}, "minos"),
        ("macos-arm64", {"exports": ["_RegisterCustomOps", "__ZNSt3__15mutexE"]}, "exports"),
        ("windows-amd64", {}, ""),
        ("windows-amd64", {"needs": ["libstdc++-6.dll"]}, "libstdc"),
    ],
)
def test_what_a_library_must_not_have_is_named(
    name: str, change: dict[str, object], said: str
) -> None:
    found = "; ".join(faults(BY_NAME[name], {**GOOD[name], **change}))
    assert (said in found) if said else (found == "")


def test_the_table_of_platforms_has_them_all() -> None:
    page = (ROOT / "graphfuse" / "kernels" / "README.md").read_text()
    for platform in PLATFORMS:
        assert f"| `{platform.tag.split('.')[0]}` |" in page

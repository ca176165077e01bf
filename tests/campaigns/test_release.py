"""A sample of `python -m tests.campaigns.release`: what needs neither a build nor an index."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import graphfuse
from tests.campaigns.release import __main__ as release
from tests.campaigns.release import bom
from tests.conftest import ROOT


def test_the_bill_of_materials_hangs_on_the_commit_alone() -> None:
    first = bom.document(ROOT, "0.1.0", "a" * 40)
    assert first == bom.document(ROOT, "0.1.0", "a" * 40)
    found = json.loads(first)
    names = {each["name"] for each in found["components"]}
    assert names == {each.name.lower() for each, _ in bom.promised(ROOT)} | set(bom.LINKED)
    assert all(each["licenses"] for each in found["components"])
    assert "timestamp" not in found["metadata"]
    other = json.loads(bom.document(ROOT, "0.1.0", "b" * 40))
    assert other["serialNumber"] != found["serialNumber"]


def test_what_is_linked_into_the_kernels_is_named() -> None:
    build = (ROOT / "graphfuse" / "kernels" / "CMakeLists.txt").read_text()
    assert {f"lib{name}" for name in ("stdc++", "gcc") if f"-static-lib{name}" in build} == set(
        bom.BY_GCC
    )


def test_the_version_is_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert release.the_version(is_draft=True) == graphfuse.__version__
    (tmp_path / "graphfuse").mkdir()
    (tmp_path / "graphfuse" / "__init__.py").write_text('__version__ = "9.8.7"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(release.ReleaseError, match=r"no part for 9\.8\.7"):
        release.the_version(is_draft=False)


def test_a_licence_that_is_another_than_said_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    release.check_licences({"numpy": ["2.0", "BSD-3-Clause AND MIT"], "other": ["1", "GPL"]})
    with pytest.raises(release.ReleaseError, match=r"numpy 2\.0 says 'GPL', not BSD-3-Clause"):
        release.check_licences({"numpy": ["2.0", "GPL"]})
    assert "other 1: GPL" in capsys.readouterr().out


def test_a_wheel_with_strange_files_is_found(tmp_path: Path) -> None:
    wheel = tmp_path / "graphfuse-1-py3-none-any.whl"
    licence = "graphfuse-1.dist-info/licenses/LICENSE"
    for names, problem in (
        (("graphfuse/x.py", licence, "tests/x.py"), "tests/x.py"),
        (("graphfuse/x.py",), "has \\[\\]"),
        (("graphfuse/x.py", licence, "graphfuse/vendored/COPYING.txt"), "COPYING"),
    ):
        with zipfile.ZipFile(wheel, "w") as files:
            for name in names:
                files.writestr(name, "")
        with pytest.raises(release.ReleaseError, match=problem):
            release.check_content(wheel)

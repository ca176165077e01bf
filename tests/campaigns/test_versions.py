"""The command that runs the tests on other versions: what it pins, counts and says."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.campaigns import versions
from tests.conftest import ROOT
from tests.support import environments

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    """Every dependency is pinned, where its bound is; on a Python that asks for more, to that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {Requirement(line).name for line in project["dependencies"]} | {"onnxruntime"}
    for python in versions.PYTHON:
        pinned = [Requirement(line) for line in environments.lowest(python, "cpu")]
        assert {each.name for each in pinned} == names
        assert len(pinned) == len(names)
        for each in pinned:
            (pin,) = each.specifier
            assert pin.operator == "=="
            for promise in environments.promised(python, "cpu"):
                assert promise.name != each.name or promise.specifier.contains(pin.version)
    assert "numpy==1.26" in environments.lowest("3.12", "cpu")
    assert "numpy==2.1" in environments.lowest("3.13", "cpu")


def test_a_dependency_without_a_bound_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "promised", lambda *_: [Requirement("numpy<3")])
    with pytest.raises(ValueError, match="no lower bound for numpy"):
        environments.lowest("3.11")


def test_there_is_a_row_for_every_minor_version_and_python() -> None:
    rows = {row.name: row for row in versions.rows("full")}
    promised = [each for each in environments.promised("3.11", "cpu") if each.name == "onnxruntime"]
    assert all(promised[0].specifier.contains(version) for version in versions.ONNXRUNTIME)
    minors = [int(version.split(".")[1]) for version in versions.ONNXRUNTIME]
    assert minors == list(range(20, minors[-1] + 1))
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [line.split(" :: ")[-1] for line in classifiers if "Python :: 3." in line]
    assert list(versions.PYTHON) == pythons
    assert {f"lowest-{python}" for python in pythons} <= rows.keys()
    assert {f"newest-{python}" for python in pythons} <= rows.keys()


def test_every_file_of_tests_is_run_or_left_for_a_reason() -> None:
    found = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(set(found)) == len(found), "files are chosen by their names"
    assert versions.ELSEWHERE.keys() <= set(found)
    chosen = {Path(name).name for name in versions.files("full")}
    assert chosen == set(found) - versions.ELSEWHERE.keys()
    assert {Path(name).name for name in versions.files("quick")} == set(versions.QUICK) <= chosen
    assert all((ROOT / name).is_file() for name in (*versions.files("full"), *versions.TORCH))


def test_interpreters_are_started_before_they_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = environments.interpreter(HERE)
    assert found is not None
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    # So a version manager's shim looks.
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert environments.interpreter("3.99") is None


CASES = """
def test_passes(): pass
def test_fails(): assert 1 == 2
def test_is_skipped(): __import__("pytest").skip("no torch")
"""


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> versions.Row:
    """A row whose environment is this one, and whose tests are those of CASES."""
    monkeypatch.setattr(environments, "make", lambda *_: Path(sys.executable))
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_few.py").write_text(CASES)
    (tmp_path / "home").mkdir()
    return versions.Row("here", HERE, (), ("tests/test_few.py",))


def test_what_ran_is_counted(row: versions.Row, tmp_path: Path) -> None:
    outcome = versions.run(row, tmp_path / "home")
    assert (outcome.passed, len(outcome.failed)) == (1, 1)
    assert outcome.failed[0].endswith("::test_fails")
    assert outcome.skipped == {"no torch": 1}
    assert not outcome.good
    assert "1 passed, 1 failed, 1 skipped" in versions.describe(outcome)
    assert outcome.versions["numpy"] in versions.markdown([outcome])


def test_the_exit_code_is_that_of_the_rows(
    row: versions.Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "rows", lambda _: [row])
    keep = ["--keep", str(tmp_path), "--json", str(tmp_path / "out.json")]
    (tmp_path / "here").mkdir()
    assert versions.main(keep) == 1
    assert json.loads((tmp_path / "out.json").read_text())[0]["passed"] == 1
    tests = tmp_path / "tests" / "test_few.py"
    tests.write_text("def test_passes(): pass\n")
    assert versions.main(keep) == 0
    tests.write_text("import os; os.abort()\n")
    assert versions.main(keep) == 1
    tests.write_text("")
    assert versions.main(keep) == 1, "no test ran"


def test_what_is_not_there_is_said(
    row: versions.Row,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(versions, "rows", lambda _: [row])
    monkeypatch.setattr(environments, "interpreter", lambda _: None)
    assert versions.main([]) == 1, "no row ran"
    assert f"here: left out: Python {HERE} is not on this machine" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        versions.main(["--only", "nowhere"])
    assert "no row is named nowhere" in capsys.readouterr().err

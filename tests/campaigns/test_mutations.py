"""Broken models: samples of `python -m tests.campaigns.hostile mutations`, `truncations` and `bombs`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.hostile import bombs, mutations


def test_mutated_models_give_results_or_named_errors(tmp_path: Path) -> None:
    assert list(mutations.campaign(250, 77, 2, tmp_path)) == []


def test_the_campaign_notices_what_it_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that dies, hangs or raises anything: each is a failure, and the rest goes on."""
    import os
    import time

    import graphfuse

    honest = graphfuse.scan
    counter = tmp_path / "counter"

    def broken(path: object) -> object:
        with counter.open("a+") as file:
            file.write("x")
            file.flush()
            seen = file.tell()
        if seen == 3:
            os.abort()
        if seen == 5:
            time.sleep(5)
        if seen == 7:
            raise KeyError("odd")
        return honest(path)  # type: ignore[arg-type]

    monkeypatch.setattr(mutations, "SECONDS", 1)
    monkeypatch.setattr(graphfuse, "scan", broken)
    whats = [failure.what for failure in mutations.campaign(12, 1, 1, tmp_path)]
    assert whats[:2] == ["SIGABRT", "SIGALRM"]
    assert "KeyError" in whats[2]
    assert len(whats) == 3


def test_a_child_that_dies_prints_no_stacks() -> None:
    """pytest's faulthandler writes past every redirection of standard error."""
    test = f"{__file__}::test_the_campaign_notices_what_it_looks_for"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "Extension modules" not in run.stderr + run.stdout


def test_every_prefix_of_a_model_is_refused_or_read(tmp_path: Path) -> None:
    data = mutations.seeds(tmp_path)[0]
    assert list(mutations.truncations(data, tmp_path)) == []


@pytest.mark.parametrize(
    "name",
    [
        "graphs nested 100,000 deep",
        "25 functions that call twice",
        "shapes doubled 2,000 times",
        "products doubled 200 times",
    ],
)
def test_bombs_end(name: str, tmp_path: Path) -> None:
    bomb = bombs.BOMBS[name]
    made = bomb.make()
    path = tmp_path / "bomb.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    found = bombs.attempt(path, bomb.ways[0], bomb.says)
    assert found.problem == "", found

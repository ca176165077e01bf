"""Many models: each a row, whatever it does; a run that ended goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

import graphfuse
from graphfuse.batches.ledger import LEDGER_NAME
from graphfuse.records.batch_rows import BatchOutcome
from tests.conftest import ROOT, Shell
from tests.support.graphs import residual


def small(name: str = "y = LayerNormalization(x, scale, bias)") -> onnx.ModelProto:
    return residual(name)


def endless() -> onnx.ModelProto:
    """A loop that nothing ends, beside a site."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 8] x, float[2, 8] r, float[8] s) => (float[2, 8] y, float[2, 8] z) {
            most = Constant <value = int64 {9223372036854775807}> ()
            yes = Constant <value = bool {1}> ()
            z = Loop (most, yes, x) <body = b (int64 i, bool c, float[2, 8] v)
                => (bool d, float[2, 8] w) { d = Identity(c)  w = Add(v, v) }>
            t = Add (r, x)
            y = LayerNormalization (t, s)
        }"""
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models, one of them in an export, and one that is none."""
    source = tmp_path / "in"
    (source / "deep" / "export").mkdir(parents=True)
    for number in range(2):
        onnx.save(small(), source / f"m{number}.onnx")
    onnx.save(small(), source / "deep" / "export" / "model.onnx")
    (source / "deep" / "export" / "config.json").write_text("{}")
    (source / "broken.onnx").write_text("garbage")
    (source / ".hidden.onnx").write_text("no")
    return source


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / LEDGER_NAME).read_text().splitlines()]
    return [line for line in lines if "begun" not in line]


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != LEDGER_NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_good_ones_are_as_alone_and_bad_ones_are_rows(folder: Path, shell: Shell) -> None:
    run = shell("batch", "in", "-o", "out", "--json")
    assert run.returncode == 3, run.stderr
    document = json.loads(run.stdout)
    assert document["counts"] == {"fused": 3, "failed": 1}
    first = document["rows"][0]
    assert (first["source"], first["outcome"], first["exit_code"]) == (
        "in/broken.onnx",
        "failed",
        3,
    )
    assert "is not an ONNX model" in first["message"]
    alone = graphfuse.optimize(folder / "m0.onnx", folder.parent / "alone.onnx")
    out = folder.parent / "out"
    assert (out / "m0.onnx").read_bytes() == (folder.parent / "alone.onnx").read_bytes()
    assert set(contents(out)) == {
        "m0.onnx", "m1.onnx", "deep/export/model_graphfuse.onnx", "deep/export/config.json",
    }  # fmt: skip
    written = {row["source"]: row for row in rows(out)}
    assert written["in/m0.onnx"]["fused"] == len(alone.fused) == 1
    assert written["in/m0.onnx"]["written"][0]["sha256"] == alone.written[0].sha256
    assert 0 < written["in/m0.onnx"]["figures"]["G1"] <= 1


def test_what_is_done_is_skipped_until_it_changes(folder: Path) -> None:
    out = folder.parent / "out"
    first = graphfuse.fuse_batch([folder], out)
    before = {name: (out / name).stat().st_mtime_ns for name in contents(out)}
    again = graphfuse.fuse_batch([folder], out)
    assert (len(first.skipped), len(again.skipped)) == (0, 3)
    assert [row.source for row in again.rows if row.source not in again.skipped] == [
        str(folder / "broken.onnx")
    ]
    assert {name: (out / name).stat().st_mtime_ns for name in contents(out)} == before
    # An input that changed, an output that is gone, other options: each is run again.
    onnx.save(small("y = LayerNormalization<epsilon=0.01>(x, scale, bias)"), folder / "m0.onnx")
    (out / "m1.onnx").unlink()
    third = graphfuse.fuse_batch([folder], out)
    assert len(third.skipped) == 1
    assert (out / "m1.onnx").exists()
    node = onnx.load(out / "m0.onnx").graph.node[0]
    assert [a.f for a in node.attribute if a.name == "epsilon"] == [pytest.approx(0.01)]
    fourth = graphfuse.fuse_batch([folder / "m0.onnx"], out, options={"validate": "none"})
    assert not fourth.skipped


def test_only_what_failed_is_run_again(folder: Path) -> None:
    out = folder.parent / "out"
    graphfuse.fuse_batch([folder], out)
    onnx.save(small(), folder / "broken.onnx")
    onnx.save(small("y = LayerNormalization<epsilon=0.01>(x, scale, bias)"), folder / "m0.onnx")
    before = (out / "m0.onnx").read_bytes()
    found = graphfuse.fuse_batch([folder], out, only_failed=True)
    assert found.exit_code == 0
    assert (out / "broken.onnx").exists()
    assert (out / "m0.onnx").read_bytes() == before


def test_fail_fast_ends_and_the_next_run_goes_on(folder: Path) -> None:
    out = folder.parent / "out"
    found = graphfuse.fuse_batch([folder], out, workers=1, fail_fast=True)
    assert found.stopped
    assert [row.outcome for row in found.rows] == [BatchOutcome.FAILED]
    assert len(graphfuse.fuse_batch([folder], out).rows) == 4


def test_what_ends_its_process_is_one_row(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    onnx.save(endless(), source / "endless.onnx")
    onnx.save(small(), source / "good.onnx")
    found = graphfuse.fuse_batch(
        [source], tmp_path / "out", time_limit=8, options=["--run-limit=60"]
    )
    failed, good = found.rows
    assert good.outcome == BatchOutcome.FUSED
    assert (failed.outcome, failed.exit_code) == (BatchOutcome.FAILED, 4)
    assert "took more than 8 s while running the original" in failed.message
    found = graphfuse.fuse_batch([source / "good.onnx"], tmp_path / "tight", memory_limit=0.2)
    assert found.rows[0].outcome == BatchOutcome.FAILED
    assert "memory" in found.rows[0].message
    assert contents(tmp_path / "tight") == {}


def test_an_output_of_somebody_else_stays(folder: Path) -> None:
    out = folder.parent / "out"
    out.mkdir()
    (out / "m0.onnx").write_text("mine")
    models = [folder / "m0.onnx", folder / "m1.onnx"]
    found = {row.source: row for row in graphfuse.fuse_batch(models, out).rows}
    row = found[str(folder / "m0.onnx")]
    assert (row.outcome, row.exit_code) == (BatchOutcome.FAILED, 2)
    assert "exists" in row.message
    assert (out / "m0.onnx").read_text() == "mine"
    graphfuse.fuse_batch(models, out, options=["--force"])
    assert (out / "m0.onnx").read_bytes() == (out / "m1.onnx").read_bytes()


def test_patterns_and_manifests(folder: Path, tmp_path: Path) -> None:
    found = graphfuse.fuse_batch([f"{folder}/m*.onnx"], tmp_path / "one")
    assert sorted(contents(tmp_path / "one")) == ["m0.onnx", "m1.onnx"]
    lines = [
        {"path": "in/m0.onnx", "output": "two/renamed.onnx", "options": {"validate": "none"}},
        {"path": "in/m1.onnx", "ep": "portable"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = graphfuse.fuse_batch([tmp_path / "list.jsonl"], tmp_path / "two")
    assert sorted(contents(tmp_path / "two")) == ["m1.onnx", "renamed.onnx"]
    assert [row.options for row in found.rows] == [("--validate=none",), ("--ep=portable",)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "line 1 of list.jsonl is not JSON"),
        ("[]", "has no path"),
        ('{"path": 7}', "has no path"),
        ('{"path": "a", "epp": "cpu"}', "unknown field 'epp'"),
        ('{"path": "a", "options": {"x": {}}}', "has no value for 'x'"),
        ('{"path": "a", "output": 3}', "output that is no text"),
    ],
)
def test_a_wrong_manifest_is_one_line(shell: Shell, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "list.jsonl").write_text(line)
    run = shell("batch", "list.jsonl", "-o", "out")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert said in run.stderr
    assert not (tmp_path / "out").exists()


def test_what_names_nothing_or_one_name_twice(shell: Shell, folder: Path) -> None:
    for source in ("nothing", "nothing/*.onnx"):
        run = shell("batch", source, "-o", "out")
        assert (run.returncode, run.stderr.count("\n")) == (3, 1)
    (folder.parent / "other").mkdir()
    onnx.save(small(), folder.parent / "other" / "m0.onnx")
    run = shell("batch", "in", "other", "-o", "out")
    assert run.returncode == 2
    assert "would both become out/m0.onnx" in run.stderr
    (folder.parent / "book").write_text("[1]\n")
    run = shell("batch", "in", "-o", "out", "--ledger", "book")
    assert run.returncode == 2
    assert "line 1 of book is none of a ledger" in run.stderr
    with pytest.raises(graphfuse.UsageError, match="no option for many models"):
        graphfuse.fuse_batch([folder], "out", options=["--in-place"])


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A batch that runs; its own process group, as a shell gives it."""
    return subprocess.Popen(
        [sys.executable, "-m", "graphfuse", "batch", "in", "-o", "out", *words],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


def running(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A batch of which a child works, and its children."""
    batch = start(folder, "--workers", "2")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = children(batch.pid) if batch.poll() is None else []
        if found and (folder.parent / "out" / LEDGER_NAME).exists():
            return batch, found
        time.sleep(0.01)
    raise AssertionError("no child began")


def gone(processes: list[int], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(Path(f"/proc/{number}").exists() for number in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def many(tmp_path: Path) -> Path:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(6):
        onnx.save(small(), source / f"m{number}.onnx")
    return source


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.every), signal.SIGKILL],
)
def test_a_run_that_is_stopped_leaves_nothing_and_goes_on(many: Path, number: int) -> None:
    out = many.parent / "out"
    batch, started = running(many)
    batch.send_signal(number)
    batch.communicate(timeout=30)
    assert batch.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert gone(started), "a child outlived its batch"
    again = start(many)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert sorted(contents(out)) == [f"m{number}.onnx" for number in range(6)]
    assert len(set(contents(out).values())) == 1
    done = [row["source"] for row in rows(out) if row["outcome"] == "fused"]
    assert sorted(done) == [f"in/m{number}.onnx" for number in range(6)]


def test_a_worker_that_is_killed_is_one_row(many: Path) -> None:
    batch, started = running(many)
    os.kill(started[0], signal.SIGKILL)
    _, errors = batch.communicate(timeout=120)
    failed = [row for row in rows(many.parent / "out") if row["outcome"] == "failed"]
    assert len(failed) == 1, errors
    assert "was stopped by SIGKILL" in failed[0]["message"]
    assert batch.returncode == failed[0]["exit_code"] == 1
    again = start(many, "--only-failed")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert len(contents(many.parent / "out")) == 6


def test_two_at_once_do_not_share_a_ledger(many: Path) -> None:
    batch, _ = running(many)
    second = start(many)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "another batch is writing to out/graphfuse-batch.jsonl" in errors
    _, errors = batch.communicate(timeout=120)
    assert batch.returncode == 0, errors
    assert len(rows(many.parent / "out")) == 6


def test_a_line_that_was_cut_short_is_done_again(many: Path) -> None:
    out = many.parent / "out"
    graphfuse.fuse_batch([many], out)
    book = out / LEDGER_NAME
    whole = book.read_bytes()
    for cut in (1, len(whole.splitlines()[-1]) - 1):
        book.write_bytes(whole[:-cut])
        found = graphfuse.fuse_batch([many], out)
        assert found.exit_code == 0
        assert len(found.skipped) == (6 if cut == 1 else 5)
        assert len(contents(out)) == 6


def test_its_pages_and_tables(folder: Path, shell: Shell) -> None:
    run = shell("batch", "in", "-o", "out", "--html", "p.html", "--markdown", "p.md")
    assert run.returncode == 3
    assert "failed (3): in/broken.onnx" in run.stdout
    for name in ("p.html", "p.md"):
        text = (folder.parent / name).read_text()
        assert text.index("broken.onnx") < text.index("m0.onnx")
        assert "3 of 4 models done, 1 failed" in text

"""What a node of a cluster does: it has no disk of ours, and the same result comes of it.

Ray itself is not needed: messages are calls here. `python -m tests.campaigns.many cluster` has one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

import graphfuse
from graphfuse.batches import cluster_nodes
from graphfuse.batches.cluster_nodes import (
    Disks,
    Errand,
    FarDisks,
    own_processor,
    run_on_node,
    versions,
)
from graphfuse.batches.scheduling import processors
from graphfuse.batches.working import ChildBounds, StoppedError
from graphfuse.errors import MachineError
from graphfuse.records.batch_rows import BatchOutcome, Task
from graphfuse.system import libraries
from tests.batches.test_batch import endless
from tests.batches.test_storages import with_data

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The disks of a driver that runs in `tmp_path`; what nodes have is sent in small pieces."""
    monkeypatch.setattr(cluster_nodes, "SENT_AT_ONCE", 7)
    monkeypatch.chdir(tmp_path)
    return Disks(str(tmp_path)).call


def errand(source: str, output: str, **more: Any) -> Errand:
    runtime = libraries.version_of("onnxruntime")
    given = {"replaces": False, "versions": versions(), **more}
    return Errand(
        Task(source, output), bounds=ChildBounds(), runtime=runtime, token="token", **given
    )


def test_a_result_of_a_node_is_as_here(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "in").mkdir()
    with_data(tmp_path / "in" / "two.onnx")
    row = run_on_node(errand("in/two.onnx", "out/two.onnx"), ask, lambda: False)
    assert row.outcome == BatchOutcome.FUSED, row.message
    alone = graphfuse.optimize(tmp_path / "in" / "two.onnx", tmp_path / "alone.onnx")
    out = tmp_path / "out"
    assert (out / "two.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()
    assert sorted(path.name for path in out.rglob("*")) == ["data", "two.onnx", "weights.bin"]
    assert {stamp.path for stamp in row.written} == {"out/two.onnx", "out/data/weights.bin"}
    assert {stamp.path for stamp in row.input} == {"in/two.onnx", "in/data/weights.bin"}
    assert {file.sha256 for file in alone.written} == {s.sha256 for s in row.written}
    # Tried again after its node was lost: what is there is its own. Else it is somebody's.
    assert run_on_node(
        errand("in/two.onnx", "out/two.onnx", replaces=True), ask, lambda: False
    ).is_good
    there = run_on_node(errand("in/two.onnx", "out/two.onnx"), ask, lambda: False)
    assert (there.exit_code, there.message) == (2, "out/two.onnx exists")


def test_what_is_not_there_is_said_as_here(ask: Ask) -> None:
    row = run_on_node(errand("nosuch.onnx", "out/nosuch.onnx"), ask, lambda: False)
    assert (row.outcome, row.exit_code) == (BatchOutcome.FAILED, 3)
    assert row.message.startswith("nosuch.onnx cannot be read")
    assert not Path("out").exists()


def test_errors_come_back_as_what_they_are(tmp_path: Path, ask: Ask) -> None:
    far = FarDisks(ask)
    for size in (0, 6, 7, 8, 50):
        (tmp_path / "here").write_bytes(bytes(range(size)))
        far.put(tmp_path / "here", "deep/there")
        far.get("deep/there", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == bytes(range(size))
        assert far.digest("deep/there") == far.stamp("here").sha256
    with pytest.raises(graphfuse.ModelError, match="gone cannot be read"):
        far.get("gone", tmp_path / "back")
    with pytest.raises(graphfuse.WriteError, match="here/under cannot be written"):
        far.put(tmp_path / "back", "here/under")


def test_a_node_with_other_versions_ends_the_batch(ask: Ask) -> None:
    other = {**versions(), "onnxruntime": "1.0.0"}
    with pytest.raises(MachineError, match=r"has onnxruntime .*, the batch 1\.0\.0"):
        run_on_node(errand("a.onnx", "b.onnx", versions=other), ask, lambda: False)


def test_a_batch_that_is_over_ends_its_nodes(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits does not begin; a child that runs is ended, and nothing is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(cluster_nodes, "ASKED_EVERY", 0.1)
    (tmp_path / "tmp").mkdir()
    onnx.save(endless(), tmp_path / "endless.onnx")
    for answers in ([True], [False, False, False, True]):
        is_over = partial(next, iter(answers), True)
        with pytest.raises(StoppedError):
            run_on_node(errand("endless.onnx", "out.onnx"), ask, is_over)
        assert not (tmp_path / "out.onnx").exists()
        assert not [*(tmp_path / "tmp").glob(".graphfuse-batch*")]


def test_each_task_has_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    there = processors()
    with own_processor() as first:
        assert first == (there[0],)
        with own_processor() as second:
            assert second == ((there[1],) if len(there) > 1 else ())
    with own_processor() as again:
        assert again == first


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'graphfuse[ray]'")
    onnx.save(onnx.ModelProto(), tmp_path / "m.onnx")
    with pytest.raises(graphfuse.UsageError, match=r"no cluster of Ray answers at 127.0.0.1:1"):
        graphfuse.fuse_batch([tmp_path / "m.onnx"], tmp_path / "out", ray="127.0.0.1:1")
    with pytest.raises(graphfuse.UsageError, match="which is no node"):
        graphfuse.fuse_batch([tmp_path / "m.onnx"], tmp_path / "out", ray="ray://127.0.0.1:1")

"""Models and results in storages: fetched with their data, sent complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphfuse
from graphfuse.batches.ledger import LEDGER_NAME
from graphfuse.batches.moving import Carrier, Load
from graphfuse.batches.places import RemotePlace, place_of
from graphfuse.files.locations import locations_in
from graphfuse.records.batch_rows import BatchOutcome, Task
from tests.support.graphs import residual


@pytest.fixture
def storage() -> Iterator[Any]:
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    yield found
    found.store.clear()


def with_data(path: Path, value: float = 1.0) -> None:
    """A model whose scale is in a file beside it, in a folder of its own."""
    model = residual("y = LayerNormalization(x, w, bias)")
    scale = numpy_helper.from_array(np.full(8, value, np.float32), "w")
    scale.ClearField("raw_data")
    scale.data_location = onnx.TensorProto.EXTERNAL
    scale.external_data.add(key="location", value="data/weights.bin")
    model.graph.initializer.append(scale)
    (path.parent / "data").mkdir(exist_ok=True)
    (path.parent / "data" / "weights.bin").write_bytes(np.full(8, value, np.float32).tobytes())
    onnx.save(model, path)


@pytest.fixture
def sources(tmp_path: Path, storage: Any) -> Path:
    """A model, one with data, an export, and one whose data is missing; here and in a storage."""
    here = tmp_path / "in"
    (here / "export").mkdir(parents=True)
    onnx.save(residual("y = LayerNormalization(x, scale, bias)"), here / "one.onnx")
    onnx.save(residual("y = LayerNormalization(x, scale, bias)"), here / "export" / "model.onnx")
    (here / "export" / "config.json").write_text("{}")
    with_data(here / "two.onnx")
    (here / "lost").mkdir()
    with_data(here / "lost" / "lost.onnx")
    (here / "lost" / "data" / "weights.bin").unlink()
    storage.put(str(here), "/in", recursive=True)
    return here


def stored(storage: Any, folder: str) -> dict[str, bytes]:
    found = {name.removeprefix(f"{folder}/"): storage.cat(name) for name in storage.find(folder)}
    return {name: data for name, data in found.items() if not name.startswith(LEDGER_NAME)}


def here(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LEDGER_NAME)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_comes_from_a_storage_and_goes_there_is_as_here(sources: Path, storage: Any) -> None:
    local = graphfuse.fuse_batch([sources], sources.parent / "out")
    remote = graphfuse.fuse_batch(["memory://in"], "memory://out")
    assert [row.outcome for row in remote.rows] == [row.outcome for row in local.rows]
    assert stored(storage, "/out") == here(sources.parent / "out")
    assert set(stored(storage, "/out")) == {
        "one.onnx", "two.onnx", "data/weights.bin", "export/config.json",
        "export/model_graphfuse.onnx",
    }  # fmt: skip
    lost = next(row for row in remote.rows if "lost" in row.source)
    assert (lost.outcome, lost.exit_code) == (BatchOutcome.FAILED, 3)
    assert "'data/weights.bin'" in lost.message
    two = next(row for row in remote.rows if row.source == "memory://in/two.onnx")
    assert {stamp.path for stamp in two.input} == {
        "memory://in/two.onnx", "memory://in/data/weights.bin",
    }  # fmt: skip
    assert {s.sha256 for s in two.written} == {
        s.sha256 for row in local.rows if row.source.endswith("two.onnx") for s in row.written
    }
    # From here to there, and from there to here.
    graphfuse.fuse_batch([sources / "two.onnx"], "memory://over")
    graphfuse.fuse_batch(["memory://in/two.onnx"], sources.parent / "back")
    assert stored(storage, "/over") == here(sources.parent / "back")
    assert stored(storage, "/over").items() < stored(storage, "/out").items()


def test_a_storage_has_a_ledger_that_goes_on(sources: Path, storage: Any) -> None:
    first = graphfuse.fuse_batch(["memory://in"], "memory://out")
    before = {name: storage.info(name)["created"] for name in storage.find("/out")}
    again = graphfuse.fuse_batch(["memory://in"], "memory://out")
    assert (len(first.skipped), len(again.skipped)) == (0, 3)
    after = {name: storage.info(name)["created"] for name in storage.find("/out")}
    changed = {name for name in before if before[name] != after[name]}
    assert len(changed) == 1, "the row of the one that failed, and nothing else"
    rows = [json.loads(storage.cat(name)) for name in storage.find(f"/out/{LEDGER_NAME}")]
    assert len([row for row in rows if "begun" not in row]) == 4
    # What changed is done again; what is gone as well.
    storage.rm("/out/one.onnx")
    storage.rm("/in/data/weights.bin")
    storage.pipe("/in/data/weights.bin", np.full(8, 2.0, np.float32).tobytes())
    third = graphfuse.fuse_batch(["memory://in"], "memory://out")
    assert third.skipped == {"memory://in/export"}
    found = stored(storage, "/out")
    assert found["data/weights.bin"] == np.full(8, 1.0, np.float32).tobytes()
    other = next(name for name in found if name.startswith("data/weights-"))
    assert found[other] == np.full(8, 2.0, np.float32).tobytes()
    folder = sources.parent / "loaded"
    (folder / "data").mkdir(parents=True)
    for name in ("two.onnx", other):
        (folder / name).write_bytes(found[name])
    assert locations_in(folder / "two.onnx") == (other,)


def test_an_object_of_somebody_else_stays(sources: Path, storage: Any) -> None:
    storage.pipe("/out/one.onnx", b"mine")
    found = graphfuse.fuse_batch(["memory://in/one.onnx"], "memory://out")
    assert (found.rows[0].exit_code, found.exit_code) == (2, 2)
    assert "memory://out/one.onnx exists" in found.rows[0].message
    assert storage.cat("/out/one.onnx") == b"mine"
    graphfuse.fuse_batch(["memory://in/one.onnx"], "memory://out", options=["--force"])
    assert storage.cat("/out/one.onnx") != b"mine"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("step", ["put", "digest", "move"])
def test_what_does_not_arrive_leaves_what_was(
    tmp_path: Path,
    storage: Any,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    number: int,
    there: bool,
) -> None:
    """The model, or what it needs, is lost on its way; the model was there before, or was not."""
    before = {"two.onnx": b"old"} if there else {}
    for name, content in before.items():
        storage.pipe(f"/out/{name}", content)
    (tmp_path / "data").mkdir()
    (tmp_path / "two.onnx").write_bytes(b"model")
    (tmp_path / "data" / "weights.bin").write_bytes(b"weights")
    original, done = getattr(RemotePlace, step), list[Any]()

    def fails(self: RemotePlace, *words: Any) -> Any:
        if not any(".graphfuse-part" in str(word) for word in words):
            return original(self, *words)
        done.append(words)
        if len(done) != number:
            return original(self, *words)
        if step == "digest":
            return "0" * 64
        raise graphfuse.WriteError("the connection is gone", "try again")

    task = Task("two.onnx", "memory://out/two.onnx")
    load = Load("two.onnx", str(tmp_path / "two.onnx"), "")
    files = [load.output, str(tmp_path / "data" / "weights.bin")]
    carrier = Carrier(place_of, "token", tmp_path)
    monkeypatch.setattr(RemotePlace, step, fails)
    with pytest.raises(graphfuse.WriteError, match=r"did not arrive|connection is gone"):
        carrier.send(task, load, files)
    assert len(done) == number
    assert stored(storage, "/out") == before
    monkeypatch.undo()
    carrier.send(task, load, files)
    assert stored(storage, "/out") == {"two.onnx": b"model", "data/weights.bin": b"weights"}
    assert [Path(stamp.path).name for stamp in load.written] == ["weights.bin", "two.onnx"]


def test_what_is_wrong_is_told_by_its_url(storage: Any) -> None:
    storage.pipe("/in/bad.onnx", b"garbage")
    found = graphfuse.fuse_batch(["memory://in/bad.onnx"], "memory://out")
    assert found.rows[0].message.startswith("memory://in/bad.onnx is not an ONNX model")


def test_what_nothing_here_opens_is_one_line(storage: Any) -> None:
    with pytest.raises(graphfuse.UsageError, match="nothing here opens nosuch://"):
        graphfuse.fuse_batch(["nosuch://bucket/models"], "out")
    with pytest.raises(graphfuse.ModelError, match="memory://empty does not exist"):
        graphfuse.fuse_batch(["memory://empty"], "memory://out")


def test_manifests_and_patterns_in_a_storage(sources: Path, storage: Any) -> None:
    lines = [
        {"path": "in/one.onnx", "output": "made/renamed.onnx"},
        {"path": "memory://in/two.onnx"},
    ]
    storage.pipe("/list.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert graphfuse.fuse_batch(["memory://list.jsonl"], "memory://two").exit_code == 0
    assert set(stored(storage, "/made")) == {"renamed.onnx"}
    assert set(stored(storage, "/two")) == {"two.onnx", "data/weights.bin"}
    assert graphfuse.fuse_batch(["memory://in/o*.onnx"], "memory://three").exit_code == 0
    assert set(stored(storage, "/three")) == {"one.onnx"}

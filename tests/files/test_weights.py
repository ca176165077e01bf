"""Where weights go: kept, copied, shared, embedded, split; inline weights of large files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

import graphfuse
from graphfuse.files import copying, model_file, weights, wire
from tests.campaigns.faults.scenarios import inline, siteless
from tests.conftest import Shell, files_of
from tests.files.test_files import external
from tests.support.graphs import model

Feeds = dict[str, np.ndarray]


def outputs(path: Path, hidden: int) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {
        n: np.random.default_rng(i).normal(size=(2, 3, hidden)).astype(np.float32)
        for i, n in enumerate("ab")
    }
    (result,) = session.run(None, feeds)
    return result


def same(one: Path, other: Path, hidden: int = 8) -> None:
    np.testing.assert_allclose(outputs(one, hidden), outputs(other, hidden), rtol=1e-5, atol=1e-6)
    for path in (one, other):
        onnx.load(path)
        onnx.checker.check_model(str(path))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Files of 4 KiB are large; what one may be is as it is."""
    monkeypatch.setattr(model_file, "LARGE", 4096)
    monkeypatch.setattr(model_file, "LEAST_INLINE", 4096)
    return monkeypatch


def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may be larger than 8 KiB, as none may beyond protobuf's 2 GiB."""
    monkeypatch.setattr(model_file, "PROTO_LIMIT", 8192)
    monkeypatch.setattr(weights, "PROTO_LIMIT", 8192)


def test_inline_weights_stay_in_their_file_until_they_are_written(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    """The large way gives the same bytes as the small one, and reads no weight."""
    inline(tmp_path / "m")
    path = tmp_path / "m" / "model.onnx"
    whole = graphfuse.fuse(path).model.SerializeToString(deterministic=True)
    loaded = model_file.load(path)
    assert len(loaded.inline) == 1
    assert loaded.proto.ByteSize() < 4096
    result = graphfuse.optimize(path, tmp_path / "m" / "fused.onnx", level="full")
    assert result.validation is not None
    assert result.validation.passed
    assert (tmp_path / "m" / "fused.onnx").read_bytes() == whole
    large.setattr(model_file, "LARGE", 2**30)
    graphfuse.optimize(path, tmp_path / "m" / "small.onnx")
    assert (tmp_path / "m" / "small.onnx").read_bytes() == whole


def test_inline_weights_beyond_the_limit_are_split(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    too_large(large)
    inline(tmp_path / "m")
    path, fused = tmp_path / "m" / "model.onnx", tmp_path / "m" / "fused.onnx"
    before = path.read_bytes()
    result = graphfuse.optimize(path, fused, level="full")
    assert result.validation is not None
    data = Path(result.written[1].path)
    assert data.name.startswith("fused-")
    assert data.name[6:22] == hashlib.sha256(data.read_bytes()).hexdigest()[:16]
    assert "more than protobuf's 2 GiB: the weights that were inline are in" in result.notes[0]
    assert path.read_bytes() == before
    same(path, fused, 64)
    mine, other = (onnx.load(p).graph.initializer for p in (path, fused))
    for name in ("w", "scale", "bias"):
        one, two = (next(t for t in ts if t.name == name) for ts in (mine, other))
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))


def test_inline_weights_beyond_the_limit_can_stay(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    too_large(large)
    inline(tmp_path / "m")
    path, fused = tmp_path / "m" / "model.onnx", tmp_path / "m" / "fused.onnx"
    result = graphfuse.optimize(path, graphfuse.Output(fused, weights="keep"))
    assert files_of(tmp_path / "m") == ["fused.onnx", "model.onnx"]
    assert "the weights stay in model.onnx" in result.notes[0]
    same(path, fused, 64)
    # And such a model is one that graphfuse reads.
    assert graphfuse.scan(fused).already_fused == 1


def test_beyond_the_limit_nothing_is_embedded(tmp_path: Path, large: pytest.MonkeyPatch) -> None:
    too_large(large)
    inline(tmp_path / "m")
    with pytest.raises(graphfuse.ModelError, match="cannot be one file"):
        graphfuse.optimize(
            tmp_path / "m" / "model.onnx",
            graphfuse.Output(tmp_path / "m" / "fused.onnx", weights="embed"),
        )
    assert files_of(tmp_path / "m") == ["model.onnx"]


def test_large_constants_of_nodes_are_split_as_well(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    too_large(large)
    inline(tmp_path / "m")
    path, fused = tmp_path / "m" / "model.onnx", tmp_path / "m" / "fused.onnx"
    proto = onnx.load(path)
    tensor = next(t for t in proto.graph.initializer if t.name == "w")
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    proto.graph.initializer.remove(tensor)
    proto.graph.node.insert(0, node)
    path.write_bytes(proto.SerializeToString())
    graphfuse.optimize(path, fused, level="none")
    same(path, fused, 64)


def test_a_file_that_changes_meanwhile_is_noticed(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    inline(tmp_path / "m")
    path = tmp_path / "m" / "model.onnx"
    loaded = model_file.load(path)
    path.write_bytes(path.read_bytes() + b"\x42\x00")
    with pytest.raises(graphfuse.ModelError, match="changed while"):
        loaded.check_same()


def test_raw_data_of_another_size_than_its_shape_is_refused(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    inline(tmp_path / "m")
    path = tmp_path / "m" / "model.onnx"
    proto = onnx.load(path)
    next(t for t in proto.graph.initializer if t.name == "w").dims[0] = 63
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(graphfuse.ModelError, match=r"inline data of tensor 'w'.*needs 16128"):
        graphfuse.scan(path)


def test_weights_are_copied_beside_on_request(tmp_path: Path) -> None:
    path = external(tmp_path)
    result = graphfuse.optimize(path, graphfuse.Output(tmp_path / "fused.onnx", weights="copy"))
    name = Path(result.written[1].path).name
    digest = hashlib.sha256((tmp_path / "model.onnx_data").read_bytes()).hexdigest()
    assert name == f"model-{digest[:16]}.onnx_data"
    assert result.written[1].sha256 == digest
    (tmp_path / "model.onnx_data").rename(tmp_path / "gone")
    onnx.load(tmp_path / "fused.onnx")


def test_weights_are_embedded_on_request(tmp_path: Path) -> None:
    path = external(tmp_path)
    graphfuse.optimize(path, graphfuse.Output(tmp_path / "fused.onnx", weights="embed"))
    assert files_of(tmp_path) == ["fused.onnx", "model.onnx", "model.onnx_data"]
    proto = onnx.load(tmp_path / "fused.onnx", load_external_data=False)
    assert not any(t.external_data or t.data_location for t in proto.graph.initializer)
    same(path, tmp_path / "fused.onnx")


def test_weights_are_not_kept_elsewhere(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(graphfuse.UsageError, match="own folder only"):
        graphfuse.optimize(path, graphfuse.Output(tmp_path / "out" / "fused.onnx", weights="keep"))
    with pytest.raises(graphfuse.UsageError, match="unknown way"):
        graphfuse.optimize(path, graphfuse.Output(tmp_path / "out" / "fused.onnx", weights="melt"))


def test_blocks_are_shared_or_it_is_said(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "fused.onnx"
    with (tmp_path / "try").open("wb") as there, path.open("rb") as source:
        shares = copying.reflink(source.fileno(), there.fileno())
    if shares:
        result = graphfuse.optimize(path, graphfuse.Output(output, weights="reflink"))
        assert result.written[1].sha256 == ""
        same(path, output)
        return
    with pytest.raises(graphfuse.WriteError, match="cannot share the blocks"):
        graphfuse.optimize(path, graphfuse.Output(output, weights="reflink"))
    assert files_of(tmp_path / "out") == []


def test_weights_that_are_there_already_are_used(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    graphfuse.optimize(path, tmp_path / "out" / "fused.onnx")
    inode = (tmp_path / "out" / "model.onnx_data").stat().st_ino
    result = graphfuse.optimize(path, tmp_path / "out" / "again.onnx")
    assert (tmp_path / "out" / "model.onnx_data").stat().st_ino == inode
    assert [Path(file.path).name for file in result.written] == ["again.onnx"]


def test_other_weights_of_that_name_are_left_alone(tmp_path: Path) -> None:
    """With --force too: an old model may need them."""
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx_data").write_bytes(b"precious")
    result = graphfuse.optimize(path, graphfuse.Output(tmp_path / "out" / "fused.onnx", force=True))
    assert (tmp_path / "out" / "model.onnx_data").read_bytes() == b"precious"
    assert Path(result.written[1].path).name.startswith("model-")
    same(path, tmp_path / "out" / "fused.onnx")


def test_holes_stay_holes(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    data = tmp_path / "in" / "model.onnx_data"
    content = data.read_bytes()
    with data.open("r+b") as file:
        file.truncate(2**26)
    (tmp_path / "out").mkdir()
    result = graphfuse.optimize(path, tmp_path / "out" / "fused.onnx", level="none")
    copy = tmp_path / "out" / "model.onnx_data"
    assert copy.read_bytes() == content + bytes(2**26 - len(content))
    assert result.written[1].sha256 == hashlib.sha256(copy.read_bytes()).hexdigest()
    if data.stat().st_blocks < 2**16:
        assert copy.stat().st_blocks < 2**16


def test_large_new_weights_get_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm without a scale is given one."""
    monkeypatch.setattr(weights, "NEW_INLINE", 16)
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    node = next(n for n in proto.graph.node if n.op_type == "LayerNormalization")
    del node.input[2:]
    path.write_bytes(proto.SerializeToString())
    result = graphfuse.optimize(path, tmp_path / "fused.onnx")
    assert "new weights are in fused-" in result.notes[0]
    same(path, tmp_path / "fused.onnx")


def test_in_place(tmp_path: Path, shell: Shell) -> None:
    path = external(tmp_path)
    before = outputs(path, 8)
    refused = shell("fuse", "model.onnx", "-o", "model.onnx", "--force")
    assert refused.returncode == 2
    assert "--in-place" in refused.stderr
    assert shell("fuse", "model.onnx", "-o", "x.onnx", "--in-place").returncode == 2
    run = shell("fuse", "model.onnx", "--in-place")
    assert run.returncode == 0, run.stderr
    assert files_of(tmp_path) == ["model.onnx", "model.onnx_data"]
    assert graphfuse.scan(path).already_fused == 1
    np.testing.assert_allclose(outputs(path, 8), before, rtol=1e-5, atol=1e-6)


def test_only_if_changed(tmp_path: Path) -> None:
    siteless(tmp_path / "m")
    path, output = tmp_path / "m" / "model.onnx", tmp_path / "m" / "fused.onnx"
    assert graphfuse.optimize(path, graphfuse.Output(output, only_if_changed=True)).written == ()
    assert files_of(tmp_path / "m") == ["model.onnx"]
    assert graphfuse.optimize(path, output).written[0].sha256


def test_the_report_has_the_hash_of_what_was_read_and_written(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    result = graphfuse.optimize(path, tmp_path / "out" / "fused.onnx")
    hashes = {Path(f.path).name: f.sha256 for f in (*result.written, *result.read)}
    for name in ("in/model.onnx", "out/fused.onnx"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert hashes[Path(name).name] == digest
    assert [file.sha256 for file in result.read][1:] == [""]


def test_unchanged_models_keep_their_bytes_elsewhere(tmp_path: Path) -> None:
    """Their weights go with them."""
    path = external(tmp_path / "in")
    proto = onnx.load(path, load_external_data=False)
    del proto.graph.node[1:]
    proto.graph.node[0].output[0] = "y"
    data = proto.SerializeToString() + b"\x08\x08"
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    result = graphfuse.optimize(path, tmp_path / "out" / "same.onnx")
    assert not result.changed
    assert (tmp_path / "out" / "same.onnx").read_bytes() == data
    onnx.load(tmp_path / "out" / "same.onnx")


def test_shrinking_and_expanding_is_no_change(tmp_path: Path) -> None:
    """Every tensor of the file left out and put back: the same bytes."""
    weight = numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    proto = model("y = Add(a, w)", inputs="float[64] a", outputs="float[64] y")
    proto.graph.initializer.append(weight)
    proto.graph.sparse_initializer.add(values=weight, dims=[100])
    body = onnx.helper.make_graph([], "body", [], [], [weight])
    proto.graph.node.append(onnx.helper.make_node("Holder", [], ["u"], "n", body=body, t=weight))
    proto.functions.add(name="F", domain="other").node.append(proto.graph.node[-1])
    proto.training_info.add().initialization.initializer.append(weight)
    data = proto.SerializeToString(deterministic=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with path.open("rb") as file:
        shrinker = wire.Shrinker(wire.FileSource(file.fileno(), 64), path, 128, 2**20)
        shrunk = shrinker.shrunk(len(data))
    # An initializer, sparse values, a node's two, a function's two, training.
    assert len(shrinker.tensors) == 7
    small = onnx.ModelProto.FromString(shrunk)
    tensor = small.graph.initializer[0]
    assert tensor.data_location == TensorProto.EXTERNAL
    pieces = wire.expanded(
        small.SerializeToString(deterministic=True),
        {key: (span,) for key, span in shrinker.tensors.items()},
    )
    whole = b"".join(
        p if isinstance(p, bytes) else data[p.offset : p.offset + p.length] for p in pieces
    )
    assert whole == data


def test_the_share_that_is_copied_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a stage that wants to know, as the command line's does; up to all of it."""
    monkeypatch.setattr(copying, "CHUNK", 64)
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    told: list[tuple[int, int]] = []

    class Stage:
        def stage(self, name: str) -> None:
            pass

        def portion(self, what: str, done: int, total: int) -> None:
            told.append((done, total))

    output = tmp_path / "out" / "fused.onnx"
    graphfuse.optimize(
        path, graphfuse.Output(output, weights="copy"), progress=Stage(), level="none"
    )
    size = (tmp_path / "in" / "model.onnx_data").stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) == -(-size // 64)

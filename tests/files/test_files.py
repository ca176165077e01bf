"""Reading and writing: external data, the gate, atomic output."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

import graphfuse
from graphfuse.files import model_file, writing
from tests.conftest import files_of
from tests.support.graphs import kinds, model, residual

NORM = "h = MatMul(b, w) x = Add(a, h) y = LayerNormalization(x, scale, bias)"


def external(
    folder: Path, name: str = "model.onnx", data: str = "model.onnx_data", width: int = 8
) -> Path:
    """A model of one site whose initializers lie in one external file."""
    folder.mkdir(parents=True, exist_ok=True)
    weight = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32)
    if width == 8:
        proto = model(NORM, constants={"w": weight})
    else:
        vectors = {each: np.ones(width, np.float32) for each in ("scale", "bias")}
        shape = f"float[B,S,{width}]"
        proto = model(
            NORM,
            inputs=f"{shape} a, {shape} b",
            outputs=f"{shape} y",
            constants={"w": weight, **vectors},
        )
    blob = b""
    for tensor in proto.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data), ("offset", len(blob)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        blob += raw
    (folder / data).parent.mkdir(parents=True, exist_ok=True)
    (folder / data).write_bytes(blob)
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def outputs(path: Path) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {
        n: np.random.default_rng(i).normal(size=(2, 3, 8)).astype(np.float32)
        for i, n in enumerate("ab")
    }
    (result,) = session.run(None, feeds)
    return result


def test_weights_stay_in_place_beside_the_output(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = (tmp_path / "model.onnx_data").read_bytes()
    graphfuse.optimize(path, tmp_path / "fused.onnx")
    assert files_of(tmp_path) == ["fused.onnx", "model.onnx", "model.onnx_data"]
    assert (tmp_path / "model.onnx_data").read_bytes() == before
    assert kinds(onnx.load(tmp_path / "fused.onnx")) == ["MatMul", "AddLayerNormalization"]
    np.testing.assert_allclose(
        outputs(tmp_path / "fused.onnx"), outputs(path), rtol=1e-5, atol=1e-6
    )


def test_weights_are_copied_to_another_folder(tmp_path: Path) -> None:
    path = external(tmp_path / "in", data="deep/weights.bin")
    (tmp_path / "out").mkdir()
    result = graphfuse.optimize(path, tmp_path / "out" / "fused.onnx")
    copied = tmp_path / "out" / "deep" / "weights.bin"
    assert copied.read_bytes() == (tmp_path / "in" / "deep" / "weights.bin").read_bytes()
    # A hard link would make other loaders refuse both models.
    assert copied.stat().st_nlink == 1
    assert [Path(file.path).name for file in result.written] == ["fused.onnx", "weights.bin"]
    np.testing.assert_allclose(
        outputs(tmp_path / "out" / "fused.onnx"), outputs(path), rtol=1e-5, atol=1e-6
    )


def test_an_existing_weight_file_is_not_overwritten(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx_data").write_text("precious")
    with pytest.raises(graphfuse.UsageError, match="exists"):
        graphfuse.optimize(path, tmp_path / "out" / "fused.onnx")
    assert files_of(tmp_path / "out") == ["model.onnx_data"]
    assert (tmp_path / "out" / "model.onnx_data").read_text() == "precious"


def test_the_output_is_not_the_name_of_a_copied_weight_file(tmp_path: Path) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(graphfuse.UsageError, match="name of a weight file"):
        graphfuse.optimize(path, graphfuse.Output(tmp_path / "out" / "model.onnx_data", force=True))
    assert files_of(tmp_path / "out") == []


def test_a_failed_copy_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path / "in", data="deep/er/weights.bin")
    (tmp_path / "out").mkdir()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(graphfuse.WriteError):
        graphfuse.optimize(path, tmp_path / "out" / "fused.onnx")
    assert files_of(tmp_path / "out") == []


def test_a_failed_last_step_takes_the_weights_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(tmp_path / "in")
    (tmp_path / "out").mkdir()
    honest = writing._move

    def fail(temporary: Path, target: Path, replace: bool) -> None:
        if target.name == "fused.onnx":
            raise OSError(5, "Input/output error")
        honest(temporary, target, replace)

    monkeypatch.setattr(writing, "_move", fail)
    with pytest.raises(graphfuse.WriteError, match="Input/output error"):
        graphfuse.optimize(path, tmp_path / "out" / "fused.onnx")
    assert files_of(tmp_path / "out") == []


def test_the_output_is_not_a_data_file(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = (tmp_path / "model.onnx_data").read_bytes()
    with pytest.raises(graphfuse.UsageError, match="is an input"):
        graphfuse.optimize(path, graphfuse.Output(tmp_path / "model.onnx_data", force=True))
    assert (tmp_path / "model.onnx_data").read_bytes() == before


def test_scanning_reads_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path)

    def refuse(self: object, tensor: TensorProto) -> None:
        raise AssertionError(f"{tensor.name} was read")

    monkeypatch.setattr(model_file.Model, "read", refuse)
    assert len(graphfuse.scan(path).sites) == 1


def set_entry(tensor: TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


HOSTILE = {
    "parent": ("location", "../secret"),
    "absolute": ("location", "/etc/hostname"),
    "inner parent": ("location", "deep/../../secret"),
    "backslash": ("location", "..\\secret"),
    "drive": ("location", "C:secret"),
    "newline": ("location", "a\nb"),
    "missing": ("location", "nothing.bin"),
    "folder": ("location", "folder"),
    "link": ("location", "link.bin"),
    "through a link": ("location", "linked/secret"),
    "empty": ("location", ""),
    "fifo": ("location", "fifo"),
    "offset beyond": ("offset", "100000"),
    "negative offset": ("offset", "-4"),
    "huge offset": ("offset", "9" * 30),
    "offset in words": ("offset", "four"),
    "short length": ("length", "4"),
    "long length": ("length", "100000"),
    "unknown key": ("mode", "rw"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph"])
def test_hostile_external_data_is_refused(case: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    path = external(folder)
    (tmp_path / "secret").write_bytes(bytes(4096))
    (folder / "folder").mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    set_entry(tensor, *HOSTILE[case])
    if place != "initializer":
        node = onnx.helper.make_node("Constant", [], ["unused"], value=tensor)
        if place == "subgraph":
            graph = onnx.helper.make_graph([node], "body", [], [])
            node = onnx.helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=graph)
        proto.graph.node.append(node)
        set_entry(tensor, "location", "model.onnx_data")
        proto.graph.initializer[0].CopyFrom(
            onnx.load(external(tmp_path / "clean"), load_external_data=False).graph.initializer[0]
        )
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(graphfuse.ModelError, match="external data of tensor") as caught:
        graphfuse.scan(path)
    assert caught.value.exit_code == 3


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(residual("y = LayerNormalization(x, scale, bias)"), path)
    (tmp_path / "out.onnx").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(graphfuse.WriteError, match="No space left"):
        graphfuse.optimize(path, graphfuse.Output(tmp_path / "out.onnx", force=True))
    assert files_of(tmp_path) == ["in.onnx", "out.onnx"]
    assert (tmp_path / "out.onnx").read_text() == "old"


def test_a_model_without_sites_is_copied(tmp_path: Path) -> None:
    """Byte for byte, even where protobuf would write it another way."""
    data = model("y = Relu(a)", inputs="float[B,8] a", outputs="float[B,8] y").SerializeToString()
    # A field that is given twice: parsing and serializing would merge it.
    data += b"\x08\x08"
    (tmp_path / "in.onnx").write_bytes(data)
    result = graphfuse.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert not result.changed
    assert (tmp_path / "out.onnx").read_bytes() == data


def test_names_with_spaces_and_unicode(tmp_path: Path) -> None:
    folder = tmp_path / "mödel ünd 模型"
    folder.mkdir()
    onnx.save(residual("y = LayerNormalization(x, scale, bias)"), folder / "in put.onnx")
    graphfuse.optimize(folder / "in put.onnx", folder / "öut.onnx")
    assert files_of(folder) == ["in put.onnx", "öut.onnx"]

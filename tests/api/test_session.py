"""graphfuse.session: a model fused in memory, and run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import graphfuse
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, residual

IDS = np.arange(14, dtype=np.int64).reshape(2, 7)


def feeds_of(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    names = [argument.name for argument in session.get_inputs()]
    return {name: IDS if name == "input_ids" else np.ones_like(IDS) for name in names}


@pytest.mark.parametrize("name", ["bert.onnx", "gpt2.onnx", "llama.onnx"])
def test_it_gives_what_the_model_gives(name: str) -> None:
    path = MODELS / name
    plain = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    fused = graphfuse.session(path)
    feeds = feeds_of(plain)
    for one, other in zip(plain.run(None, feeds), fused.run(None, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_it_runs_fused_nodes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = graphfuse.session_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = graphfuse.session(MODELS / "bert.onnx", options=options)
    session.run(None, feeds_of(session))
    text = Path(session.end_profiling()).read_text()
    nodes = [each for each in json.loads(text) if each.get("cat") == "Node"]
    fused = {each["name"] for each in nodes if each["name"].startswith("graphfuse/")}
    assert len(fused) == 5
    assert [each.name for each in tmp_path.iterdir() if "profile" not in each.name] == []


def test_external_data_is_read_where_it_lies(tmp_path: Path) -> None:
    model = onnx.load(MODELS / "bert.onnx")
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save(
        model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=256
    )
    plain = ort.InferenceSession(MODELS / "bert.onnx", providers=["CPUExecutionProvider"])
    fused = graphfuse.session(folder / "m.onnx")
    feeds = feeds_of(plain)
    np.testing.assert_allclose(
        plain.run(None, feeds)[0], fused.run(None, feeds)[0], rtol=1e-4, atol=1e-5
    )
    assert sorted(each.name for each in folder.iterdir()) == ["m.data", "m.onnx"]


@pytest.mark.every
def test_weights_beyond_protobufs_limit(tmp_path: Path) -> None:
    """2.5 GiB in a file with a hole in it: read by onnxruntime, never put into one message."""
    proto = residual(DECOMPOSED_LAYER_NORM)
    rows = 5 * 2**27
    table = onnx.TensorProto(name="table", data_type=onnx.TensorProto.FLOAT, dims=[rows])
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "table.data"), ("offset", "0"), ("length", str(4 * rows))):
        table.external_data.add(key=key, value=value)
    proto.graph.initializer.append(table)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([3]), "which"))
    proto.graph.node.add(op_type="Gather", input=["table", "which"], output=["picked"])
    proto.graph.output.append(onnx.helper.make_tensor_value_info("picked", 1, [1]))
    with (tmp_path / "table.data").open("wb") as file:
        file.write(np.arange(8, dtype=np.float32).tobytes())
        file.truncate(4 * rows)
    onnx.save(proto, tmp_path / "large.onnx")
    code = (
        "import graphfuse, numpy; session = graphfuse.session('large.onnx');"
        "x = numpy.ones((2, 3, 8), numpy.float32);"
        "print(session.run(['picked'], {'a': x, 'b': x})[0].item())"
    )
    # In a process of its own: what it has in memory counts for whatever its parent starts later.
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "3.0"


def test_a_validation_may_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    judged = graphfuse.steps.fusing.validate_models  # type: ignore[attr-defined]

    def watched(*arguments: object) -> object:
        seen.append("judged")
        return judged(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("graphfuse.steps.fusing.validate_models", watched)
    graphfuse.session(MODELS / "bert.onnx")
    assert not seen
    graphfuse.session(MODELS / "bert.onnx", level="fast")
    assert seen == ["judged"]


def test_options_of_a_provider_are_kept() -> None:
    session = graphfuse.session(
        MODELS / "bert.onnx", [("CPUExecutionProvider", {"use_arena": "0"})]
    )
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="has CUDA")
def test_a_provider_that_is_missing() -> None:
    with pytest.raises(graphfuse.ProviderError, match="has no CUDAExecutionProvider"):
        graphfuse.session(MODELS / "bert.onnx", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(graphfuse.UsageError, match="no execution provider is named"):
        graphfuse.session(MODELS / "bert.onnx", [])


def test_a_model_that_onnxruntime_refuses() -> None:
    proto = residual(DECOMPOSED_LAYER_NORM)
    proto.graph.node.add(op_type="NoSuchOperator", input=["a"], output=["nothing"])
    with pytest.raises(graphfuse.OriginalModelError, match="NoSuchOperator"):
        graphfuse.session(proto)


def test_a_result_is_saved_with_its_weights(tmp_path: Path) -> None:
    """`onnx.save(result.model, elsewhere)` leaves external data behind; `save` does not."""
    model = onnx.load(MODELS / "bert.onnx")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = tmp_path / "in" / "m.onnx"
    onnx.save(model, source, save_as_external_data=True, location="m.data", size_threshold=256)
    result = graphfuse.fuse(source)
    written = result.save(tmp_path / "out" / "fused.onnx")
    assert [Path(file.path).name for file in written] == ["fused.onnx", "m.data"]
    assert graphfuse.validate(source, tmp_path / "out" / "fused.onnx", level="fast").passed
    with pytest.raises(graphfuse.UsageError, match="exists"):
        result.save(tmp_path / "out" / "fused.onnx")
    result.save(graphfuse.Output(tmp_path / "out" / "fused.onnx", force=True))

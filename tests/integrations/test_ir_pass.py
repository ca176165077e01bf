"""onnx_ir models edited in place, by graphfuse.fuse and by the pass: what is read, refused and left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.errors import (
    GateError,
    GraphfuseError,
    ModelError,
    UsageError,
    ValidationError,
    WriteError,
)
from tests.conftest import MODELS
from tests.support.graphs import (
    assert_passes,
    model,
)

ir = pytest.importorskip("onnx_ir", reason="onnx_ir is not installed")
from onnx_ir.passes import common  # noqa: E402

from graphfuse.integrations.onnx_ir import FuseResidualNorms  # noqa: E402
from tests.support.ir_models import assert_consistent, assert_same, nodes_of, tensors_of, values_of  # noqa: E402


@pytest.mark.parametrize("level", ["none", "fast"])
def test_the_pass_runs_twice_and_changes_once(level: str) -> None:
    held = ir.load(MODELS / "llama.onnx")
    fuse = FuseResidualNorms(level=level)
    assert fuse.in_place
    first = fuse(held)
    assert first.model is held
    assert first.modified
    assert fuse.result is not None
    assert len(fuse.result.fused) == 4
    assert (fuse.result.validation is None) == (level == "none")
    nodes = list(held.graph)
    assert not fuse(held).modified
    assert fuse.result.kept == 4
    assert all(one is other for one, other in zip(held.graph, nodes, strict=True))


def test_weights_in_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(MODELS / "bert.onnx"),
        path,
        save_as_external_data=True,
        location="w",
        size_threshold=512,
    )
    held = ir.load(path)
    every = [v.const_value for v in held.graph.initializers.values()]
    lazy = [each for each in every if isinstance(each, ir.ExternalTensor)]
    assert lazy
    result = graphfuse.fuse(held)
    assert len(result.fused) == 5
    assert all(each.raw is None for each in lazy)
    # The result's own model is whole, wherever it is written.
    (tmp_path / "elsewhere").mkdir()
    result.save(tmp_path / "elsewhere" / "fused.onnx")
    assert_passes(path, onnx.load(tmp_path / "elsewhere" / "fused.onnx"), level="fast")
    # As the model is saved by onnx_ir itself.
    ir.save(held, tmp_path / "fused.onnx")
    assert_passes(path, tmp_path / "fused.onnx", level="fast")


def test_weights_that_are_gone_or_cut(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = onnx.load(MODELS / "bert.onnx")
    onnx.save(proto, path, save_as_external_data=True, location="w", size_threshold=512)
    for change in (lambda: os.truncate(tmp_path / "w", 1000), (tmp_path / "w").unlink):
        change()
        held = ir.load(path)
        before = ir.to_proto(held)
        with pytest.raises(ModelError, match="cannot be read"):
            FuseResidualNorms(level="fast")(held)
        assert ir.to_proto(held) == before
    # Where nothing is run, nothing of them is read.
    assert FuseResidualNorms()(held).modified


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    held = ir.load(MODELS / "bert.onnx")
    with pytest.raises(WriteError, match="cannot be written for its validation"):
        FuseResidualNorms(level="fast")(held)


def test_lazy_weights_are_not_evaluated() -> None:
    def never() -> ir.Tensor:
        raise AssertionError("a large weight was evaluated")

    body = "h = MatMul(a, w)\nx = Add(h, b)\ny = LayerNormalization(x, scale, bias)"
    held = ir.from_proto(model(body, inputs="float[B,S,40000] a, float[B,S,8] b"))
    weight = ir.LazyTensor(never, dtype=ir.DataType.FLOAT, shape=ir.Shape((40000, 8)), name="w")
    (matmul,) = [node for node in held.graph if node.op_type == "MatMul"]
    value = ir.Value(name="w", shape=weight.shape, type=ir.TensorType(weight.dtype))
    value.const_value = weight
    held.graph.register_initializer(value)
    matmul.replace_input_with(1, value)
    result = graphfuse.fuse(held)
    assert len(result.fused) == 1
    assert value.const_value is weight
    with pytest.raises(ModelError, match="'w' cannot be read"):
        _ = result.model
    # It has to run for a validation: the error names the tensor, and nothing changed.
    with pytest.raises(ModelError, match="'w' cannot be read"):
        FuseResidualNorms("cuda", level="fast")(held)
    assert value.const_value is weight


def test_initializers_without_values() -> None:
    """Their shapes and types are enough where no number is needed."""
    held = ir.from_proto(model("x = Add(a, b)\ny = LayerNormalization(x, scale, bias)"))
    for value in held.graph.initializers.values():
        value.const_value = None
    assert len(graphfuse.fuse(held).fused) == 1
    assert all(value.const_value is None for value in held.graph.initializers.values())
    held = ir.from_proto(model("x = Add(a, b)\ny = LayerNormalization(x, scale, bias)"))
    scale = held.graph.initializers["scale"]
    scale.const_value = scale.shape = None
    with pytest.raises(UsageError, match="'scale' has no value"):
        graphfuse.fuse(held)


def test_large_constants_stay_where_they_are() -> None:
    """A Constant node's tensor is left out of what is handed over, and comes back the same."""
    body = "w = Constant<value = float[1] {1}>()\nh = MatMul(a, w)\nx = Add(h, b)\n"
    body += "y = LayerNormalization(x, scale, bias)"
    proto = model(body, inputs="float[2,3,4000] a, float[2,3,8] b", outputs="float[2,3,8] y")
    array = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    proto.graph.node[0].attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(array))
    held = ir.from_proto(proto)
    attribute = next(iter(held.graph)).attributes["value"]
    for level in ("none", "fast"):
        copy = ir.from_proto(proto) if level == "fast" else held
        fuse = FuseResidualNorms(level=level)
        assert fuse(copy).modified
        assert fuse.result is not None
        assert_same(proto, fuse.result.model)
        assert_same(proto, ir.to_proto(copy))
    assert next(iter(held.graph)).attributes["value"] is attribute


def test_a_failure_leaves_the_model_as_it_was() -> None:
    held = ir.load(MODELS / "bert.onnx")
    before, nodes, values = ir.to_proto(held), nodes_of(held), values_of(held)
    tensors = tensors_of(held)
    wrong: list[tuple[FuseResidualNorms, type[GraphfuseError]]] = [
        (FuseResidualNorms(min_fused=6), GateError),
        (FuseResidualNorms("abacus"), UsageError),
        (FuseResidualNorms(runtime="0"), UsageError),
        (FuseResidualNorms(limits=graphfuse.Limits(nodes=3)), ModelError),
        (FuseResidualNorms(level="fast", feeds={"other": np.zeros(3)}), UsageError),
        (FuseResidualNorms(selection=graphfuse.Selection(include="nothing")), UsageError),
    ]
    for fuse, error in wrong:
        with pytest.raises(error):
            fuse(held)
        assert fuse.result is None
        with pytest.raises(ir.passes.PassError) as caught:
            ir.passes.Sequential(fuse)(held)
        assert isinstance(caught.value.__cause__, error)
    assert ir.to_proto(held) == before
    assert all(nodes[key] is node for key, node in nodes_of(held).items())
    assert all(values[key] is value for key, value in values_of(held).items())
    assert all(tensors[key] is tensor for key, tensor in tensors_of(held).items())
    assert_consistent(held)


def test_a_site_that_fails_validation_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused node that is wrong, by a planner that writes another epsilon."""
    from graphfuse.planning import plan as planning

    right = planning.plan

    def wrong(*args: object, **options: object) -> object:
        from dataclasses import replace

        made = right(*args, **options)  # type: ignore[arg-type]
        changed = [
            replace(
                fusion,
                attributes=tuple((n, 0.5 if n == "epsilon" else v) for n, v in fusion.attributes),
            )
            for fusion in made.fusions
        ]
        return replace(made, fusions=tuple(changed))

    monkeypatch.setattr("graphfuse.steps.fusing.make_plan", wrong)
    held = ir.load(MODELS / "bert.onnx")
    before = ir.to_proto(held)
    with pytest.raises(ValidationError):
        FuseResidualNorms(level="fast", strict=True)(held)
    assert ir.to_proto(held) == before
    fuse = FuseResidualNorms(level="fast")
    assert not fuse(held).modified
    assert fuse.result is not None
    assert len(fuse.result.put_back) == 5
    assert ir.to_proto(held) == before


def test_names_that_are_two_values() -> None:
    def held() -> ir.Model:
        body = "x = Add(a, b)\nn = LayerNormalization(x, scale, bias)\ny = Neg(n)"
        return ir.from_proto(model(body))

    twice = held()
    twice.graph[0].outputs[0].name = "n"
    with pytest.raises(UsageError, match=r"two values are named 'n'.*NameFixPass"):
        graphfuse.fuse(twice)
    common.NameFixPass()(twice)
    assert len(graphfuse.fuse(twice).fused) == 1
    astray = held()
    astray.graph[0].replace_input_with(0, ir.Value(name="nowhere"))
    with pytest.raises(UsageError, match="reads 'nowhere', which is in no graph"):
        graphfuse.fuse(astray)
    shadowing = held()
    shadowing.graph[0].replace_input_with(0, ir.Value(name="a"))
    with pytest.raises(UsageError, match="two values are named 'a'"):
        graphfuse.fuse(shadowing)
    strange = held()
    strange.graph[0].outputs[0].name = "\udcff"
    with pytest.raises(UsageError, match="cannot be serialized"):
        graphfuse.fuse(strange)
    nameless = held()
    nameless.graph.inputs.append(ir.Value(name=None))
    with pytest.raises(UsageError, match="has no name"):
        graphfuse.fuse(nameless)


@pytest.mark.parametrize(
    "options",
    [
        {"level": "slow"},
        {"strict": "yes"},
        {"min_fused": -1},
        {"certify": 1},
        {"selection": "s1"},
        {"limits": 3},
        {"progress": print},
        {"ep": 3},
        {"feeds": 5},
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(options: dict[str, object]) -> None:
    held = ir.from_proto(model("x = Add(a, b)\ny = LayerNormalization(x, scale, bias)"))
    with pytest.raises(UsageError) as caught:
        FuseResidualNorms(**options)(held)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_other_functions_say_how_to_hand_a_model_over() -> None:
    held = ir.load(MODELS / "bert.onnx")
    with pytest.raises(UsageError, match=r"onnx_ir.to_proto of an onnx_ir.Model"):
        graphfuse.scan(held)
    assert len(graphfuse.scan(ir.to_proto(held)).sites) == 5


def test_without_onnx_ir_there_is_one_line() -> None:
    code = """
import sys
sys.modules["onnx_ir"] = None
import graphfuse
assert len(graphfuse.fuse("models/bert.onnx").fused) == 5
try:
    from graphfuse.integrations.onnx_ir import FuseResidualNorms
except graphfuse.ProviderError as error:
    print(error)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=MODELS.parent)
    assert done.stdout.count("\n") == 1
    assert "onnx_ir cannot be imported" in done.stdout
    assert "pip install 'graphfuse[ir]'" in done.stdout


def test_fusing_a_file_imports_no_onnx_ir() -> None:
    code = (
        "import graphfuse, sys; graphfuse.fuse('models/bert.onnx'); print('onnx_ir' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=MODELS.parent)
    assert done.stdout.strip() == "False"

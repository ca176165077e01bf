"""The pass in the pipelines of onnxscript, and on the models that PyTorch's exporter holds."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from tests.conftest import MODELS
from tests.support.graphs import assert_passes

ir = pytest.importorskip("onnx_ir", reason="onnx_ir is not installed")
optimizer = pytest.importorskip("onnxscript.optimizer", reason="onnxscript is not installed")
from onnx_ir.passes import common  # noqa: E402
from onnxscript import rewriter  # noqa: E402

from graphfuse.integrations.onnx_ir import FuseResidualNorms  # noqa: E402
from tests.support.ir_models import assert_consistent  # noqa: E402
from tests.support.silence import silence  # noqa: E402

FILES = {"bert.onnx": 5, "llama.onnx": 4, "gpt2.onnx": 5, "vit.onnx": 5}


def counted(held: ir.Model) -> int:
    return sum(node.domain == "graphfuse" for node in held.graph)


@pytest.mark.parametrize("name", FILES)
def test_between_onnxscripts_passes(name: str) -> None:
    """What stands before and after in a Sequential, as onnxscript's own optimizer has it."""
    held = ir.load(MODELS / name)
    fuse = FuseResidualNorms(min_fused=FILES[name])
    before = [
        common.InlinePass(),
        rewriter.RewritePass(rewriter._DEFAULT_REWRITE_RULES),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ]
    after = [
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.NameFixPass(),
    ]
    assert ir.passes.Sequential(*before, fuse, *after)(held).modified
    assert counted(held) == FILES[name]
    assert_consistent(held)
    # It is judged by what the other passes alone make: they change constants as well.
    original = ir.load(MODELS / name)
    ir.passes.Sequential(*before, *after)(original)
    assert_passes(ir.to_proto(original), ir.to_proto(held), level="fast")
    onnx.checker.check_model(ir.to_proto(held), full_check=True)
    assert not fuse(held).modified


def test_in_a_pass_manager_that_runs_to_the_end() -> None:
    held = ir.load(MODELS / "bert.onnx")
    fuse = FuseResidualNorms()
    manager = ir.passes.PassManager([fuse, common.RemoveUnusedNodesPass()], steps=4)
    assert manager(held).modified
    assert fuse.result is not None
    # The step before the last one was the last to find anything.
    assert (len(fuse.result.fused), fuse.result.kept) == (0, 5)
    assert not manager(held).modified


@pytest.mark.parametrize("name", FILES)
def test_after_the_optimizer(name: str) -> None:
    held = ir.load(MODELS / name)
    optimizer.optimize_ir(held)
    before = ir.to_proto(held)
    result = graphfuse.fuse(held)
    assert len(result.fused) == FILES[name]
    assert_consistent(held)
    assert_passes(before, ir.to_proto(held), level="fast")


@pytest.mark.parametrize("inline", [True, False])
def test_before_the_optimizer(inline: bool) -> None:
    """It inlines every function, graphfuse's as well: then the model is right, and not fused."""
    held = ir.load(MODELS / "bert.onnx")
    graphfuse.fuse(held)
    optimizer.optimize_ir(held, inline=inline)
    assert counted(held) == (0 if inline else 5)
    assert_passes(MODELS / "bert.onnx", ir.to_proto(held), level="fast")
    assert len(graphfuse.fuse(held).fused) == (5 if inline else 0)


def test_a_fused_file_through_onnx_ir() -> None:
    """onnx_ir writes no nameless output at the end of a node; names keep the file whole."""
    fused = graphfuse.fuse(MODELS / "bert.onnx").model
    held = ir.from_proto(fused)
    plain = graphfuse.session_options(False)
    with pytest.raises(Exception, match="output index 1 is out of range"):
        ort.InferenceSession(ir.to_proto(held).SerializeToString(), plain)
    common.NameFixPass()(held)
    after = ir.to_proto(held)
    ort.InferenceSession(after.SerializeToString(), plain)
    assert len(graphfuse.unfuse(after).unfused) == 5
    assert_passes(MODELS / "bert.onnx", after, level="fast")


def test_a_copy_is_fused_where_the_model_is_to_stay() -> None:
    held = ir.load(MODELS / "llama.onnx")
    before = ir.to_proto(held)
    result = ir.passes.functionalize(FuseResidualNorms())(held)
    assert result.modified
    assert counted(result.model) == 4
    assert ir.to_proto(held) == before


def test_the_model_of_pytorchs_exporter(tmp_path: Path) -> None:
    """ONNXProgram.model is an onnx_ir.Model whose weights are the module's own."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    module = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x = torch.randn(2, 7, 128)
    shapes = ({0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("length", min=2)},)
    with silence(), warnings.catch_warnings():
        # They are PyTorch's, about its own internals.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=shapes)
    weights = {name: value.const_value for name, value in program.model.graph.initializers.items()}
    before = program.model_proto
    fuse = FuseResidualNorms(level="fast", min_fused=6)
    assert fuse(program.model).modified
    assert fuse.result is not None
    assert fuse.result.validation is not None
    assert fuse.result.validation.passed
    now = program.model.graph.initializers
    assert all(
        value.const_value is weights.get(name, value.const_value) for name, value in now.items()
    )
    program.save(tmp_path / "fused.onnx")
    assert_passes(before, onnx.load(tmp_path / "fused.onnx"), level="fast")
    x = torch.randn(3, 5, 128)
    session = ort.InferenceSession(tmp_path / "fused.onnx", graphfuse.session_options())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)

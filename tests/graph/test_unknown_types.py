"""Types behind operators that onnx knows nothing of, as other tools save them: no site is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.rewriting import proof
from graphfuse.types.inference import infer_types
from graphfuse.views.view import views
from tests.campaigns.peers import by_onnxruntime
from tests.conftest import MODELS, Export
from tests.support.graphs import VERSION, assert_passes, check, model
from tests.support.silence import silence

CONTRIB = ', "com.microsoft" : 1'


def sites(source: onnx.ModelProto | Path) -> int:
    return len(graphfuse.scan(source).sites)


def untyped(name: str, folder: Path) -> Path:
    """A committed model without what its exporter said of types."""
    proto = onnx.load(MODELS / f"{name}.onnx")
    del proto.graph.value_info[:]
    path = folder / "untyped.onnx"
    onnx.save(proto, path)
    return path


def contrib(body: str, **options: object) -> onnx.ModelProto:
    """A graph whose nodes that ONNX does not have are onnxruntime's."""
    proto = model(body, extra_imports=CONTRIB, **options)  # type: ignore[arg-type]
    for node in proto.graph.node:
        if not onnx.defs.has(node.op_type):
            node.domain = "com.microsoft"
    return proto


@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("name", ["bert", "bert-opset11", "encoder-post", "gpt2", "llama", "vit"])
def test_what_onnxruntime_saves_keeps_its_sites(name: str, level: str, tmp_path: Path) -> None:
    source, saved = untyped(name, tmp_path), tmp_path / "saved.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(saved)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    assert sites(saved) == sites(source)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2"])
def test_weights_of_four_bits_keep_the_sites(name: str, tmp_path: Path) -> None:
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    source, saved = untyped(name, tmp_path), tmp_path / "saved.onnx"
    made = quantizer.MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=True)
    made.process()
    made.model.save_model_to_file(str(saved))
    assert "MatMulNBits" in {node.op_type for node in onnx.load(saved).graph.node}
    assert sites(saved) == sites(source)


def test_what_onnxruntimes_optimizer_fuses_keeps_its_sites(export: Export, tmp_path: Path) -> None:
    """Attention and EmbedLayerNormalization; the norm behind the embedding is gone with it."""
    source, fused = export("hf-bert", "torchscript", 17), tmp_path / "fused.onnx"
    with silence():
        by_onnxruntime(source, fused, "hf-bert")
    kinds = {node.op_type for node in onnx.load(fused).graph.node}
    assert {"Attention", "EmbedLayerNormalization"} <= kinds
    assert (sites(source), sites(fused)) == (5, 4)


@pytest.mark.parametrize("name", ["hf-opt", "hf-bert"])
def test_a_saved_inference_loses_no_site(name: str, export: Export) -> None:
    source = export(name, "torchscript", 17)
    saved = onnx.shape_inference.infer_shapes(onnx.load(source))
    assert any("unk__" in str(value) for value in saved.graph.value_info)
    assert sites(saved) == sites(source)


def test_saved_symbols_are_not_those_of_the_next_inference() -> None:
    """Concat gives an extent that inference numbers; files number others the same."""
    proto = model("c = Concat<axis = 1>(a, b) y = Identity(c)", outputs="float[B,T,8] y")
    fresh = infer_types(proto)["c"].shape
    assert fresh is not None
    assert str(fresh[1]).startswith("unk__")
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = str(fresh[1])
    proto.graph.value_info.append(helper.make_tensor_value_info("c", 1, ["B", str(fresh[1]), 8]))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = str(fresh[1])
    [view] = views(Model(proto))
    for name in ("c", "y"):
        shape = view.type(name).shape
        assert shape is not None
        assert shape[1] not in {view.type("a").shape[1], None}  # type: ignore[index]
    assert view.type("c") == view.type("y")


def test_two_inputs_with_a_saved_symbol_need_not_be_equal() -> None:
    proto = model("y = Add(a, b)", inputs="float[unk__0,8] a, float[unk__0,8] b")
    [view] = views(Model(proto))
    assert view.type("a").shape != view.type("b").shape
    # Each is one number all the same, however often it is read.
    assert view.type("a") == view.type("a")
    assert None not in (view.type("a").shape or (None,))


def test_a_declared_symbol_hides_no_number() -> None:
    proto = model(
        "x = Add(a, b) y = LayerNormalization(x, scale, bias)",
        outputs="float[d0,d1,d2] x, float[d3,d4,d5] y",
    )
    assert [site.extents for site in graphfuse.scan(proto).sites] == [(8,)]
    assert len(check(proto).fused) == 1


def test_a_symbol_in_value_info_hides_no_number() -> None:
    proto = model("x = Add(a, b) y = LayerNormalization(x, scale, bias)")
    proto.graph.value_info.append(helper.make_tensor_value_info("x", 1, ["d0", "d1", "d2"]))
    assert [site.extents for site in graphfuse.scan(proto).sites] == [(8,)]


NO_IMPORT = "g = Gelu(a) x = Add(g, b) y = LayerNormalization(x, scale, bias)"


@pytest.mark.parametrize("operator", ["Gelu", "Mystery"])
def test_a_domain_without_an_import_leaves_the_rest_inferred(operator: str) -> None:
    body = f"""
        x = Add(a, b) y0 = LayerNormalization(x, scale, bias) g = {operator}(y0)
        m = MatMul(y0, w) x1 = Add(m, y0) y = LayerNormalization(x1, scale, bias)
    """
    proto = model(body, constants={"w": np.eye(8, dtype=np.float32)})
    proto.graph.node[2].domain = "com.microsoft"
    found = graphfuse.scan(proto)
    assert len(found.sites) == 2
    assert found.unimported == ("com.microsoft",)
    assert any("imports no opset" in note for note in graphfuse.fuse(proto).notes)


def test_without_an_import_a_model_is_fused_and_right() -> None:
    proto = model(NO_IMPORT)
    proto.graph.node[0].domain = "com.microsoft"
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


def test_an_imported_domain_is_not_said_to_be_missing() -> None:
    assert graphfuse.scan(contrib(NO_IMPORT)).unimported == ()


def test_a_function_of_the_model_means_its_own_body() -> None:
    """Under the name of an operator that keeps its input's type, one that does not."""
    proto = contrib(
        "g = QuickGelu(a) c = Concat<axis = -1>(b, b) x = Add(g, c) y = LayerNormalization(x, w)",
        outputs="float[B,S,16] y",
        constants={"w": np.ones(16, np.float32)},
    )
    nodes = [helper.make_node("Concat", ["v", "v"], ["z"], axis=-1)]
    imports = [helper.make_opsetid("", 17)]
    proto.functions.append(
        helper.make_function("com.microsoft", "QuickGelu", ["v"], ["z"], nodes, imports)
    )
    assert [site.extents for site in graphfuse.scan(proto).sites] == [(16,)]
    assert infer_types(proto)["g"].shape == ("B", "S", 16)


def test_group_normalization_before_the_sum() -> None:
    proto = model(
        "t = Transpose<perm = [0, 2, 1]>(a) g = GroupNormalization<num_groups = 2>(t, scale, bias)"
        " h = Transpose<perm = [0, 2, 1]>(g) x = Add(h, b) y = LayerNormalization(x, scale, bias)",
        opset=21,
        ir=10,
    )
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


@pytest.mark.parametrize("ep", ["cpu", "cuda", "portable"])
@pytest.mark.parametrize(
    ("norm", "opset"), [("LayerNormalization", 14), ("SimplifiedLayerNormalization", 17)]
)
def test_an_unregistered_norm_that_stays_is_no_fault_of_the_fused_one(
    norm: str, opset: int, ep: str
) -> None:
    """The checker stops at one of them by name: at another one when the first is fused."""
    bias = ", bias" if norm == "LayerNormalization" else ""
    proto = model(
        f"x = Add(a, b) n = {norm}(x, scale{bias}) h = Tanh(n) y = {norm}(h, scale{bias})",
        opset=opset,
    )
    for number, node in enumerate(proto.graph.node):
        node.name = f"node {number}"
    result = graphfuse.fuse(proto, ep=ep)
    assert len(result.fused) == 1
    if VERSION >= (1, 24):
        assert_passes(proto, result.model, ep=["cpu"])


def test_the_checker_still_refuses_what_is_new() -> None:
    proto = model("x = Add(a, b) y = SimplifiedLayerNormalization(x, scale)")
    good, bad = proto.graph.node
    assert proof._checker_says_of(proto, [good]) == ""
    assert "SimplifiedLayerNormalization" in proof._checker_says_of(proto, [good, bad])

"""fuse_graph: onnx_graphsurgeon graphs edited in place, users' objects kept."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import graphfuse
from graphfuse.errors import UsageError
from graphfuse.records.reasons import Reason
from models.committed import COMMITTED
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, assert_passes, model, needs_opset


def imported(name: str) -> gs.Graph:
    return gs.import_onnx(onnx.load(MODELS / name))


def objects(graph: gs.Graph) -> dict[tuple[str, ...], gs.Node]:
    return {tuple(tensor.name for tensor in node.outputs): node for node in graph.nodes}


@pytest.mark.parametrize("each", COMMITTED, ids=lambda each: each.file)
def test_the_same_fusions_as_of_the_file(each: object) -> None:
    name = each.file  # type: ignore[attr-defined]
    needs_opset(each.opset)  # type: ignore[attr-defined]
    graph = imported(name)
    nodes, tensors = objects(graph), dict(graph.tensors())
    result = graphfuse.fuse_graph(graph)
    of_file = graphfuse.fuse(MODELS / name)
    assert [f.output for f in result.fused] == [f.output for f in of_file.fused]
    exported = gs.export_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    # Every node of the fused file is there, in its place; all but the fused ones are the user's.
    assert [list(n.output) for n in exported.graph.node] == [
        list(n.output) for n in result.model.graph.node
    ]
    after = objects(graph)
    fused = {(f.output, f.site.sum if f.site.sum_is_read else "") for f in result.fused}
    assert {key for key, node in after.items() if nodes.get(key) is not node} == fused
    for tensor_name, tensor in graph.tensors().items():
        assert tensor_name not in tensors or tensors[tensor_name] is tensor
    assert_passes(MODELS / name, exported, level="fast")


def test_removed_nodes_are_disconnected_and_tensors_know_their_nodes() -> None:
    graph = imported("bert.onnx")
    nodes = list(graph.nodes)
    graphfuse.fuse_graph(graph)
    stay = {id(node) for node in graph.nodes}
    gone = [node for node in nodes if id(node) not in stay]
    assert gone
    assert all(not node.inputs and not node.outputs for node in gone)
    for node in graph.nodes:
        for tensor in node.inputs:
            assert any(reader is node for reader in tensor.outputs)
            assert all(id(producer) in stay for producer in tensor.inputs)
        for tensor in node.outputs:
            assert [producer is node for producer in tensor.inputs] == [True]


def test_users_edits_count_and_the_graph_can_be_edited_on() -> None:
    """The graph as it is in memory is what is fused, and toposort and cleanup find it in order."""
    graph = imported("gpt2.onnx")
    for node in graph.nodes:
        node.name = f"mine/{node.name}"
    weight = next(
        t for t in graph.tensors().values() if isinstance(t, gs.Constant) and t.values.ndim == 2
    )
    weight.values = weight.values * 2
    before = onnx.ModelProto.FromString(gs.export_onnx(graph).SerializeToString())
    result = graphfuse.fuse_graph(graph, selection=graphfuse.Selection(exclude=["s1"]))
    assert len(result.fused) == 4
    assert [miss.reason for miss in result.left] == [Reason.EXCLUDED]
    graph.cleanup().toposort()
    after = gs.export_onnx(graph)
    assert any(node.name.startswith("mine/") for node in after.graph.node)
    assert_passes(before, after, level="fast")


def test_a_graph_without_sites_is_left_as_it_is() -> None:
    graph = gs.import_onnx(model("y = Add(a, b)"))
    nodes = list(graph.nodes)
    assert not graphfuse.fuse_graph(graph).fused
    assert all(one is other for one, other in zip(graph.nodes, nodes, strict=True))
    assert not graph.functions


def test_twice_changes_nothing_more() -> None:
    graph = imported("llama.onnx")
    graphfuse.fuse_graph(graph)
    nodes = list(graph.nodes)
    again = graphfuse.fuse_graph(graph)
    assert not again.fused
    assert again.scan.already_fused == 4
    assert all(one is other for one, other in zip(graph.nodes, nodes, strict=True))


def test_sites_in_branches() -> None:
    """A body of an If is edited in place; the If is the user's own node."""
    body = model(f"x = Add(a, b)\n{DECOMPOSED_LAYER_NORM}").graph
    branches = []
    for name in ("then", "else"):
        branch = onnx.GraphProto()
        branch.name = name
        branch.node.extend(body.node)
        for node in branch.node:
            for field in (node.input, node.output):
                for index, each in enumerate(field):
                    if each not in ("a", "b", "scale", "bias", "eps"):
                        field[index] = f"{name}.{each}"
        branch.output.append(helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None))
        branches.append(branch)
    outer = model(f"x = Add(a, b)\n{DECOMPOSED_LAYER_NORM}")
    outer.graph.node.append(
        helper.make_node("If", ["which"], ["z"], then_branch=branches[0], else_branch=branches[1])
    )
    outer.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    outer.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", "S", 8]))
    graph = gs.import_onnx(outer)
    branch = next(node for node in graph.nodes if node.op == "If")
    then = branch.attrs["then_branch"]
    result = graphfuse.fuse_graph(graph)
    assert len(result.fused) == 3
    assert next(node for node in graph.nodes if node.op == "If") is branch
    assert branch.attrs["then_branch"] is then
    assert [node.op for node in then.nodes] == ["AddLayerNormalization"]
    after = gs.export_onnx(graph)
    assert_passes(outer, after, level="fast")


def test_sites_in_functions() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[B,S,8] a, float[B,S,8] b, float[8] scale, float[8] bias) => (float[B,S,8] y)
        { y = local.block(a, b, scale, bias) }
        <domain: "local", opset_import: ["" : 17]>
        block (a, b, scale, bias) => (y)
        {
            x = Add(a, b)
            n = LayerNormalization<axis = -1, epsilon = 1e-5>(x, scale, bias)
            y = Add(x, n)
        }
    """
    proto = onnx.parser.parse_model(text)
    for name, value in (("scale", 1.5), ("bias", 0.5)):
        array = np.linspace(value, value + 1, 8, dtype=np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    while len(proto.graph.input) > 2:
        del proto.graph.input[-1]
    of_file = graphfuse.fuse(proto)
    graph = gs.import_onnx(proto)
    function = graph.functions[0]
    result = graphfuse.fuse_graph(graph)
    assert len(result.fused) == len(of_file.fused) == 1
    assert any(each is function for each in graph.functions)
    after = gs.export_onnx(graph)
    feeds = {n: np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32) for n in "ab"}
    one, other = (
        ort.InferenceSession(each.SerializeToString()).run(None, feeds)[0]
        for each in (proto, after)
    )
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
@pytest.mark.parametrize("where", ["graph", "function"])
def test_scales_that_are_computed(where: str, ep: str) -> None:
    """New nodes read each other, not only tensors that were there."""
    body = "x = Add(a, b)\nn = LayerNormalization(x, scale, bias)\ny = Mul(n, two)"
    if where == "graph":
        proto = model(body, constants={"two": np.array(2, np.float32)})
    else:
        proto = model("y = local.block(a, b, scale, bias)")
        proto.opset_import.append(helper.make_opsetid("local", 1))
        text = f"""<domain: "local", opset_import: ["" : 17]>
            block (a, b, scale, bias) => (y) {{ two = Constant<value = float {{2}}>()\n{body} }}"""
        proto.functions.append(onnx.parser.parse_function(text))
    graph = gs.import_onnx(proto)
    assert len(graphfuse.fuse_graph(graph, ep).fused) == 1
    for node in (*graph.nodes, *(n for function in graph.functions for n in function.nodes)):
        for tensor in node.inputs:
            assert any(reader is node for reader in tensor.outputs)
        for tensor in node.outputs:
            assert [producer is node for producer in tensor.inputs] == [True]
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    feeds = {n: np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32) for n in "ab"}
    one, other = (
        ort.InferenceSession(each.SerializeToString()).run(None, feeds)[0]
        for each in (proto, after)
    )
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_a_new_weight_that_two_branches_read() -> None:
    """An RMSNorm without a scale is written with ones, which both fused nodes read."""

    def branch(name: str) -> str:
        return f"""{name} = {name} () => (float[B,S,8] {name}_y) {{
            {name}_x = Add(a, b)
            {name}_s = Mul({name}_x, {name}_x)
            {name}_m = ReduceMean<axes = [-1], keepdims = 1>({name}_s)
            {name}_v = Add({name}_m, eps)
            {name}_r = Sqrt({name}_v)
            {name}_y = Div({name}_x, {name}_r)
        }}"""

    proto = model(
        f"y = If (c) <{branch('then_branch')}, {branch('else_branch')}>",
        inputs="bool c, float[B,S,8] a, float[B,S,8] b",
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e-5), "eps"))
    graph = gs.import_onnx(proto)
    assert len(graphfuse.fuse_graph(graph).fused) == 2
    after = gs.export_onnx(graph)
    onnx.checker.check_model(after)
    assert_passes(proto, after, level="fast")


def test_external_weights_are_not_loaded(tmp_path: object) -> None:
    path = tmp_path / "model.onnx"  # type: ignore[operator]
    onnx.save(
        onnx.load(MODELS / "bert.onnx"),
        path,
        save_as_external_data=True,
        location="w",
        size_threshold=512,
    )
    graph = gs.import_onnx(onnx.load(path, load_external_data=False))
    assert len(graphfuse.fuse_graph(graph, folder=path.parent).fused) == 5
    lazy = [t for t in graph.tensors().values() if isinstance(t, gs.Constant) and t.data_location]
    assert lazy
    assert all(type(tensor._values).__name__ == "LazyValues" for tensor in lazy)


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(UsageError, match="ModelProto, not an onnx_graphsurgeon"):
        graphfuse.fuse_graph(onnx.load(MODELS / "bert.onnx"))
    graph = gs.import_onnx(model("y = Add(a, b)"))
    graph.inputs[0].dtype = None
    with pytest.raises(UsageError, match="cannot be exported"):
        graphfuse.fuse_graph(graph)

"""onnx_ir models edited in place, by graphfuse.fuse and by the pass: users' objects are kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphfuse
from graphfuse.records.reasons import Reason
from models.committed import COMMITTED
from tests.conftest import MODELS
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    assert_passes,
    model,
    needs_opset,
)

ir = pytest.importorskip("onnx_ir", reason="onnx_ir is not installed")

from graphfuse.integrations.onnx_ir import FuseResidualNorms  # noqa: E402
from tests.support.ir_models import assert_consistent, assert_same, nodes_of, tensors_of, values_of  # noqa: E402


def imports(proto: onnx.ModelProto) -> dict[str, int]:
    return {each.domain: each.version for each in proto.opset_import}


@pytest.mark.parametrize("each", COMMITTED, ids=lambda each: each.file)
def test_the_same_fusions_as_of_the_file(each: object) -> None:
    name = each.file  # type: ignore[attr-defined]
    needs_opset(each.opset)  # type: ignore[attr-defined]
    held = ir.load(MODELS / name)
    nodes, values, tensors = nodes_of(held), values_of(held), tensors_of(held)
    inputs, outputs = list(held.graph.inputs), list(held.graph.outputs)
    result = graphfuse.fuse(held)
    of_file = graphfuse.fuse(MODELS / name)
    assert [f.output for f in result.fused] == [f.output for f in of_file.fused]
    after = ir.to_proto(held)
    onnx.checker.check_model(after, full_check=True)
    # The sum that nobody reads has a name here: onnx_ir writes no empty output at the end.
    assert [(node.op_type, node.input, node.attribute) for node in after.graph.node] == [
        (node.op_type, node.input, node.attribute) for node in of_file.model.graph.node
    ]
    assert list(after.functions) == list(of_file.model.functions)
    assert imports(after) == imports(of_file.model)
    # All nodes but the fused ones are the user's, and so is every value that is still there.
    now = {key: node for key, node in nodes_of(held).items() if key[0] == id(held.graph)}
    assert {key[1] for key, node in now.items() if nodes.get(key) is not node} == {
        fusion.output for fusion in result.fused
    }
    for key, value in values_of(held).items():
        assert key not in values or values[key] is value
    for key, tensor in tensors_of(held).items():
        assert key not in tensors or tensors[key] is tensor
    pairs = zip((inputs, outputs), (held.graph.inputs, held.graph.outputs), strict=True)
    assert all(a is b for one, other in pairs for a, b in zip(one, other, strict=True))
    assert_consistent(held)
    assert_passes(MODELS / name, after, level="fast")


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_outputs_that_are_not_asked_for_stay_nameless(name: str) -> None:
    """Between the norm and the sum, that is; a name would ask onnxruntime for them."""
    held = ir.load(MODELS / f"{name}.onnx")
    graphfuse.fuse(held, "cuda", runtime="1.32")
    of_file = graphfuse.fuse(MODELS / f"{name}.onnx", "cuda", runtime="1.32").model
    after = ir.to_proto(held)
    assert [node.output for node in after.graph.node] == [
        node.output for node in of_file.graph.node
    ]
    assert any("" in node.output for node in after.graph.node) == (name == "llama")


def test_what_is_said_of_values_and_nodes_stays() -> None:
    held = ir.load(MODELS / "bert.onnx")
    output = held.graph.outputs[0]
    output.doc_string, output.metadata_props["mine"], output.meta["seen"] = "hidden", "yes", 3
    for node in held.graph:
        node.doc_string, node.metadata_props["mine"], node.meta["seen"] = node.op_type, "yes", 3
    held.metadata_props["whose"], held.doc_string = "mine", "a model"
    held.graph.metadata_props["graph"] = "mine"
    graphfuse.fuse(held)
    assert held.graph.outputs[0] is output
    assert output.producer().domain == "graphfuse"
    assert (output.doc_string, output.metadata_props["mine"], output.meta["seen"]) == (
        "hidden",
        "yes",
        3,
    )
    ours = [node for node in held.graph if node.domain == "graphfuse"]
    assert len(ours) == 5
    for node in held.graph:
        if node not in ours:
            assert (node.doc_string, node.meta["seen"]) == (node.op_type, 3)
            assert node.metadata_props["mine"] == "yes"
    assert (held.metadata_props["whose"], held.doc_string) == ("mine", "a model")
    assert held.graph.metadata_props["graph"] == "mine"


def test_nodes_that_go_are_taken_out_whole() -> None:
    held = ir.load(MODELS / "bert.onnx")
    before = list(held.graph)
    graphfuse.fuse(held)
    gone = [node for node in before if node.graph is None]
    assert gone
    assert all(not any(node.inputs) and not node.outputs for node in gone)
    assert_consistent(held)


def test_a_model_without_sites_is_left() -> None:
    held = ir.from_proto(model("y = Add(a, b)"))
    nodes = list(held.graph)
    assert not FuseResidualNorms()(held).modified
    assert all(one is other for one, other in zip(held.graph, nodes, strict=True))
    assert not held.functions
    assert list(held.opset_imports) == [""]


def test_users_edits_count() -> None:
    """The model as it is in memory is what is fused."""
    held = ir.load(MODELS / "gpt2.onnx")
    for node in held.graph:
        node.name = f"mine/{node.name}"
    weight = next(v for v in held.graph.initializers.values() if len(v.shape) == 2)
    weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
    before = ir.to_proto(held)
    result = graphfuse.fuse(held, selection=graphfuse.Selection(exclude=["s1"]))
    assert len(result.fused) == 4
    assert [miss.reason for miss in result.left] == [Reason.EXCLUDED]
    assert_passes(before, ir.to_proto(held), level="fast")


def with_branches() -> onnx.ModelProto:
    """A model with a site in its graph and one in each branch of an If."""
    body = model(f"x = Add(a, b)\n{DECOMPOSED_LAYER_NORM}").graph
    branches = []
    for name in ("then", "else"):
        branch = onnx.GraphProto(name=name)
        branch.node.extend(body.node)
        for node in branch.node:
            for field in (node.input, node.output):
                for index, each in enumerate(field):
                    if each not in ("a", "b", "scale", "bias"):
                        field[index] = f"{name}.{each}"
        # Only the norm reads it: it goes with the nodes that it is for.
        branch.initializer.append(onnx.numpy_helper.from_array(np.float32(1e-5), f"{name}.eps"))
        branch.node.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.z"]))
        branch.node[-1].metadata_props.add(key="mine", value=name)
        branch.output.append(helper.make_tensor_value_info(f"{name}.z", TensorProto.FLOAT, None))
        branches.append(branch)
    outer = model(f"x = Add(a, b)\n{DECOMPOSED_LAYER_NORM}")
    outer.graph.node.append(
        helper.make_node("If", ["which"], ["z"], then_branch=branches[0], else_branch=branches[1])
    )
    outer.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    outer.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", "S", 8]))
    return outer


def test_sites_in_branches() -> None:
    """A body of an If is edited in place; the If is the user's own node."""
    outer = with_branches()
    held = ir.from_proto(outer)
    branch = next(node for node in held.graph if node.op_type == "If")
    then = branch.attributes["then_branch"]
    last = list(then.as_graph())[-1]
    values = values_of(held)
    assert len(graphfuse.fuse(held).fused) == 3
    assert next(node for node in held.graph if node.op_type == "If") is branch
    assert branch.attributes["then_branch"] is then
    inner = then.as_graph()
    assert [node.op_type for node in inner] == ["AddLayerNormalization", "Relu"]
    assert list(inner)[-1] is last
    assert last.metadata_props["mine"] == "then"
    assert not inner.initializers
    assert all(values.get(key, value) is value for key, value in values_of(held).items())
    assert_consistent(held)
    after = ir.to_proto(held)
    onnx.checker.check_model(after, full_check=True)
    assert_passes(outer, after, level="fast")
    # The bodies of an If that goes read nothing any more.
    assert not FuseResidualNorms()(held).modified


def test_sites_in_loops() -> None:
    body = model("x = Add(c, b)\ny = LayerNormalization(x, scale, bias)").graph
    loop = onnx.GraphProto(name="loop")
    loop.node.extend(body.node)
    loop.node.append(helper.make_node("Identity", ["go"], ["on"]))
    loop.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, []))
    loop.input.append(helper.make_tensor_value_info("go", TensorProto.BOOL, []))
    loop.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 3, 8]))
    loop.output.append(helper.make_tensor_value_info("on", TensorProto.BOOL, []))
    loop.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 8]))
    whole = model(
        "out = Add(a, b)\nn = LayerNormalization(out, scale, bias)",
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[2,3,8] n",
        constants={"count": np.array(3, np.int64), "true": np.array(True)},
    )
    for name, value in (("count", np.array(3, np.int64)), ("true", np.array(True))):
        if name not in [each.name for each in whole.graph.initializer]:
            whole.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    whole.graph.node.append(helper.make_node("Loop", ["count", "true", "n"], ["z"], body=loop))
    whole.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3, 8]))
    held = ir.from_proto(whole)
    inner = list(held.graph)[-1].attributes["body"].as_graph()
    assert len(graphfuse.fuse(held).fused) == 2
    assert list(held.graph)[-1].attributes["body"].as_graph() is inner
    assert [node.domain for node in inner] == ["graphfuse", ""]
    assert inner.outputs[1].producer() is next(iter(inner))
    assert_consistent(held)
    assert_same(whole, ir.to_proto(held))


def with_function() -> onnx.ModelProto:
    proto = model("y = local.block(a, b, scale, bias)", extra_imports=', "local" : 1')
    text = """<domain: "local", opset_import: ["" : 17]>
        block (a, b, scale, bias) => (y) {
            two = Constant<value = float {2}>()
            c = Pow(a, two)
            x = Add(c, b)
            n = LayerNormalization<axis = -1, epsilon = 1e-5>(x, scale, bias)
            y = Relu(n)
        }"""
    proto.functions.append(onnx.parser.parse_function(text))
    proto.functions[0].doc_string = "a block"
    return proto


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
def test_sites_in_functions(ep: str) -> None:
    proto = with_function()
    held = ir.from_proto(proto)
    (function,) = held.functions.values()
    constant = next(iter(function))
    result = graphfuse.fuse(held, ep)
    assert len(result.fused) == 1
    assert held.functions[function.identifier()] is function
    assert next(iter(function)) is constant
    assert function.doc_string == "a block"
    assert ("com.microsoft" if ep == "cuda" else "graphfuse") in function.opset_imports
    assert_consistent(held)
    after = ir.to_proto(held)
    onnx.checker.check_model(after)
    assert [each.name for each in after.functions] == [
        each.name for each in graphfuse.fuse(proto, ep).model.functions
    ]
    assert_same(proto, after)


def test_another_provider_takes_the_functions_away() -> None:
    held = ir.load(MODELS / "llama.onnx")
    graphfuse.fuse(held, "cpu")
    assert {key[0] for key in held.functions} == {"graphfuse"}
    result = graphfuse.fuse(held, "cuda", runtime="1.32")
    assert len(result.fused) == 4
    assert not held.functions
    assert "graphfuse" not in {node.domain for node in held.graph}
    assert "graphfuse" not in held.opset_imports
    assert_passes(MODELS / "llama.onnx", ir.to_proto(held), level="fast")


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
    held = ir.from_proto(proto)
    assert len(graphfuse.fuse(held).fused) == 2
    new = set(held.graph.initializers) - {each.name for each in proto.graph.initializer}
    assert len(new) == 1
    assert_consistent(held)
    assert_passes(proto, ir.to_proto(held), level="fast")


def test_nodes_out_of_order() -> None:
    proto = model("x = Add(a, b)\nn = LayerNormalization(x, scale, bias)\ny = Relu(n)")
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    held = ir.from_proto(proto)
    result = graphfuse.fuse(held)
    assert len(result.fused) == 1
    assert any("out of order" in note for note in result.notes)
    assert [node.op_type for node in held.graph] == ["AddLayerNormalization", "Relu"]
    assert_consistent(held)
    onnx.checker.check_model(ir.to_proto(held), full_check=True)

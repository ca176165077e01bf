"""The rewrite: the right node in the right place, and nothing else in the file changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import graphfuse
from graphfuse import ops
from graphfuse.records import NormKind
from graphfuse.records.reasons import Reason
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    DECOMPOSED_RMS_NORM,
    feeds,
    kinds,
    model,
    needs_opset,
    residual,
)

NORM = "y = LayerNormalization(x, scale, bias)"


def run(proto: onnx.ModelProto, seed: int = 0, **sizes: int) -> list[np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds(proto, seed, **sizes))


def same_results(before: onnx.ModelProto, after: onnx.ModelProto, **sizes: int) -> None:
    for old, new in zip(run(before, **sizes), run(after, **sizes), strict=True):
        np.testing.assert_allclose(new, old, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 14, 15, 17, 18, 21, 23, 25])
@pytest.mark.parametrize("kind", [NormKind.LAYER_NORM, NormKind.RMS_NORM])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_functions_are_the_operators(opset: int, kind: str, dtype: type) -> None:
    """Every function body passes the checker and computes the definition, at every opset."""
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    epsilon = 2.0**-10
    rng = np.random.default_rng(opset)
    values = {
        "A": rng.normal(3, 1, (2, 3, 8)).astype(dtype),
        "B": rng.normal(0, 1, (3, 8)).astype(dtype),
        "Scale": rng.normal(1, 0.2, 8).astype(dtype),
        "Bias": rng.normal(0, 0.2, 8).astype(dtype),
    }
    function = ops.function(kind, opset, ops.Variant(elem_type, elem_type))
    names = list(function.input)
    node = helper.make_node(
        ops.OPERATOR[kind],
        names,
        ["Y", "Sum"],
        domain=ops.DOMAIN,
        epsilon=epsilon,
        axis=-1,
        stash_type=ops.stash_type(elem_type),
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, elem_type, values[n].shape) for n in names],
        [helper.make_tensor_value_info(n, elem_type, [2, 3, 8]) for n in ("Y", "Sum")],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, 1)],
        functions=[function],
        ir_version=10 if opset >= 21 else 8,
    )
    onnx.checker.check_model(proto, full_check=True)
    needs_opset(opset)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    y, total = session.run(None, {name: values[name] for name in names})
    h = values["A"].astype(np.float64) + values["B"].astype(np.float64)
    mu = h.mean(-1, keepdims=True) if kind == NormKind.LAYER_NORM else 0.0
    root = np.sqrt(((h - mu) ** 2).mean(-1, keepdims=True) + epsilon)
    expected = (h - mu) / root * values["Scale"]
    if kind == NormKind.LAYER_NORM:
        expected = expected + values["Bias"]
    tolerance = {np.float16: 1e-2, np.float32: 1e-5, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(total, h, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("norm", [DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM])
def test_decomposed_norms_become_one_node(opset: int, norm: str) -> None:
    proto = residual(norm, opset=opset, ir=7 if opset < 13 else 8)
    result = graphfuse.fuse(proto)
    assert len(kinds(result.model)) == 1
    assert result.nodes_after == 1
    assert result.model.ir_version == 8
    same_results(proto, result.model)


def test_below_opset_15_one_function_serves_one_type() -> None:
    half = np.ones(8, np.float16)
    proto = model(
        "x = Add(a, b)"
        + DECOMPOSED_RMS_NORM
        + """
        t = Add(c, d) w = Cast<to=1>(t) p = Mul(w, w) u = ReduceMean<axes=[-1]>(p)
        f = Add(u, eps) g = Sqrt(f) h = Div(w, g) i = Cast<to=10>(h) z = Mul(i, half)
        """,
        inputs="float[B,8] a, float[B,8] b, float16[B,8] c, float16[B,8] d",
        outputs="float[B,8] y, float16[B,8] z",
        opset=13,
        constants={"half": half},
    )
    result = graphfuse.fuse(proto)
    assert [fusion.site.output for fusion in result.fused] == ["y"]
    assert [miss.reason for miss in result.left] == [Reason.MIXED_TYPES]
    same_results(proto, result.model)


def test_the_input_is_not_changed() -> None:
    proto = residual(NORM)
    before = proto.SerializeToString(deterministic=True)
    graphfuse.fuse(proto)
    assert proto.SerializeToString(deterministic=True) == before


def test_every_input_is_passed() -> None:
    """onnxruntime crashes on a function that is called with an input missing."""
    proto = residual("y = LayerNormalization(x, scale)")
    result = graphfuse.fuse(proto).model
    (node,) = result.graph.node
    assert len(node.input) == 4
    assert all(node.input)
    zeros = {t.name: onnx.numpy_helper.to_array(t) for t in result.graph.initializer}
    assert not zeros[node.input[3]].any()
    same_results(proto, result)


def test_absent_vectors_are_shared() -> None:
    body = "\n".join(
        f"x{i} = Add(a, {b}) y{i} = LayerNormalization(x{i}, scale)"
        for i, b in enumerate(("b", "a"))
    )
    proto = model(body, outputs="float[B,S,8] y0, float[B,S,8] y1")
    result = graphfuse.fuse(proto).model
    assert len(result.graph.initializer) == len(proto.graph.initializer) + 1
    assert result.graph.node[0].input[3] == result.graph.node[1].input[3]


def test_sum_read_elsewhere_is_yielded() -> None:
    proto = residual(NORM + " z = Mul(x, a)", outputs="float[B,S,8] z, float[B,S,8] y")
    result = graphfuse.fuse(proto).model
    assert kinds(result) == ["AddLayerNormalization", "Mul"]
    assert list(result.graph.node[0].output) == ["y", "x"]
    same_results(proto, result)


def test_sum_as_graph_output_is_yielded() -> None:
    proto = residual(NORM, outputs="float[B,S,8] x, float[B,S,8] y")
    result = graphfuse.fuse(proto).model
    assert [v.name for v in result.graph.output] == ["x", "y"]
    same_results(proto, result)


def test_reader_of_the_sum_before_the_norm_is_complete() -> None:
    """The fused node moves up to the first reader, and what it needs moves with it."""
    proto = residual(
        "z = Mul(x, a) w = Add(scale, one) " + DECOMPOSED_RMS_NORM.replace("scale", "w"),
        outputs="float[B,S,8] z, float[B,S,8] y",
        constants={"one": np.array(1, np.float32)},
    )
    result = graphfuse.fuse(proto).model
    assert kinds(result) == ["Add", "AddRMSNormalization", "Mul"]
    same_results(proto, result)


def test_interior_values_with_readers_stay() -> None:
    proto = residual(DECOMPOSED_LAYER_NORM, outputs="float[B,S,8] y, float[B,S,1] m")
    result = graphfuse.fuse(proto).model
    assert sorted(kinds(result)) == ["AddLayerNormalization", "ReduceMean"]
    same_results(proto, result)


def test_two_norms_on_one_sum() -> None:
    proto = residual(
        NORM + " z = LayerNormalization(x, bias, scale)",
        outputs="float[B,S,8] y, float[B,S,8] z",
    )
    result = graphfuse.fuse(proto).model
    assert kinds(result) == ["AddLayerNormalization", "LayerNormalization"]
    assert result.graph.node[1].input[0] == "x"
    same_results(proto, result)


def test_sum_captured_by_a_subgraph_is_read() -> None:
    proto = residual(
        NORM
        + """
        c = Constant<value = bool {1}>()
        z = If (c) <
            then_branch = t () => (float[B,S,8] t1) { t1 = Identity(x) },
            else_branch = e () => (float[B,S,8] e1) { e1 = Neg(x) }
        >
        """,
        outputs="float[B,S,8] y, float[B,S,8] z",
    )
    result = graphfuse.fuse(proto)
    assert result.scan.sites[0].sum_is_read
    same_results(proto, result.model)


@pytest.mark.parametrize(
    ("inputs", "first"),
    [("float[B,S,8] a, float[S,8] b", "a"), ("float[S,8] a, float[B,S,8] b", "b")],
)
def test_larger_operand_first(inputs: str, first: str) -> None:
    proto = residual(NORM, inputs=inputs)
    result = graphfuse.fuse(proto).model
    assert result.graph.node[0].input[0] == first
    same_results(proto, result, B=2, S=5)


def test_both_operands_broadcast() -> None:
    proto = residual(NORM, inputs="float[B,1,8] a, float[1,S,8] b")
    same_results(proto, graphfuse.fuse(proto).model, B=2, S=5)


def test_names_do_not_collide() -> None:
    proto = residual(
        "y = LayerNormalization(x, graphfuse_zeros_8)",
        constants={"graphfuse_zeros_8": np.ones(8, np.float32)},
    )
    proto.graph.node[0].name, proto.graph.node[1].name = "n", "graphfuse/n"
    result = graphfuse.fuse(proto).model
    names = [t.name for t in result.graph.initializer]
    assert len(names) == len(set(names)) == 2
    same_results(proto, result)


def test_fusing_again_is_a_no_op() -> None:
    once = graphfuse.fuse(residual(NORM)).model
    twice = graphfuse.fuse(once)
    assert not twice.changed
    assert twice.scan.already_fused == 1
    assert twice.model.SerializeToString() == once.SerializeToString()


def test_fusing_the_rest_later_reuses_the_function() -> None:
    body = """
        x0 = Add(a, b) y0 = LayerNormalization(x0, scale, bias)
        x1 = Add(y0, a) y1 = LayerNormalization(x1, scale, bias)
    """
    proto = model(body, outputs="float[B,S,8] y1")
    first = graphfuse.fuse(proto, selection=graphfuse.Selection(include=["s1"]))
    assert [m.reason for m in first.left] == [Reason.EXCLUDED]
    second = graphfuse.fuse(first.model)
    assert kinds(second.model) == ["AddLayerNormalization"] * 2
    assert len(second.model.functions) == 1
    same_results(proto, second.model)


def test_another_function_of_our_name_is_left() -> None:
    proto = residual(NORM)
    proto.functions.append(
        helper.make_function(
            "graphfuse",
            "AddLayerNormalization",
            ["i"],
            ["o"],
            [helper.make_node("Neg", ["i"], ["o"])],
            [helper.make_opsetid("", 17)],
        )
    )
    proto.opset_import.append(helper.make_opsetid("graphfuse", 1))
    assert [m.reason for m in graphfuse.fuse(proto).left] == [Reason.NAME_TAKEN]

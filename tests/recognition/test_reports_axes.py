"""ONNX's own expansion of LayerNormalization over several axes, which flattens them: it was 0 of 24."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import assert_passes, kinds, model, residual

NAMES = {"X": "x", "Scale": "scale", "B": "bias", "Y": "y"}


def expanded(axis: int, shape: list[int | str], bias: bool = True) -> onnx.ModelProto:
    """x = a + b and ONNX's function body of LayerNormalization, written out, its statistics left."""
    given = ["x", "scale", "bias"] if bias else ["x", "scale"]
    node = helper.make_node("LayerNormalization", given, ["y"], axis=axis)
    extents = shape[axis:]
    types = [helper.make_tensor_type_proto(1, each) for each in (shape, extents, extents)]
    body = onnx.defs.get_schema(
        "LayerNormalization", 17
    ).get_context_dependent_function_with_opset_version(
        17, node.SerializeToString(), [each.SerializeToString() for each in types[: len(given)]]
    )
    nodes = [helper.make_node("Add", ["a", "b"], ["x"])]
    for source in onnx.FunctionProto.FromString(body).node:
        if set(source.output) & {"Mean", "InvStdDev", "InvStdDev2D"}:
            continue
        for names in (source.input, source.output):
            for at, name in enumerate(names):
                names[at] = NAMES.get(name, f"f_{name}" if name else "")
        nodes.append(source)
    rng = np.random.default_rng(axis % 7)
    weights = [
        numpy_helper.from_array(rng.normal(1, 0.3, extents).astype(np.float32), name)
        for name in given[1:]
    ]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "aby"]
    graph = helper.make_graph(nodes, "g", value[:2], value[2:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SHAPES: list[list[int | str]] = [[2, 3, 4, 8], ["B", 3, 4, 8]]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axis", [-1, -2, -3, 1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_expanded_operator_over_several_axes_fuses(
    shape: list[int | str], axis: int, bias: bool
) -> None:
    proto = expanded(axis, shape, bias)
    result = graphfuse.fuse(proto)
    assert [f.site.axis for f in result.fused] == [axis if axis < 0 else axis - 4], result.left
    assert result.nodes_after < result.nodes_before
    assert kinds(result.model).count("AddLayerNormalization") == 1
    assert "ReduceMean" not in kinds(result.model)
    assert_passes(proto, result.model, certify=True)


def test_axes_that_a_reshape_takes_apart_are_no_rows() -> None:
    """Of [3, 4] columns 6 are no whole rows: the norm is over parts of them."""
    proto = model(
        "x = Add(a, b) f = Reshape(x, k) y = LayerNormalization(f, w)",
        inputs="float[2,3,4] a, float[2,3,4] b",
        outputs="float[4,6] y",
        constants={"k": np.array([4, 6], np.int64), "w": np.ones(6, np.float32)},
    )
    found = graphfuse.scan(proto)
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.SUM_RESHAPED]


def test_rows_that_were_moved_before_are_not_merged() -> None:
    proto = model(
        "x = Add(a, b) t = Transpose<perm=[1,0,2]>(x) f = Reshape(t, k) y = LayerNormalization(f, w)",
        inputs="float[2,3,4] a, float[2,3,4] b",
        outputs="float[3,8] y",
        constants={"k": np.array([3, 8], np.int64), "w": np.ones(8, np.float32)},
    )
    assert [miss.reason for miss in graphfuse.scan(proto).near_misses] == [Reason.SUM_RESHAPED]


def test_the_advice_works() -> None:
    """Normalise before reshaping."""
    norm = "n = LayerNormalization(x, scale, bias) y = Transpose<perm=[0,2,1]>(n)"
    assert len(graphfuse.scan(residual(norm, outputs="float[B,8,S] y")).sites) == 1

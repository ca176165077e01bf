"""Validation where models branch, call and fix their extents."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import graphfuse
from tests.graph.test_scopes import FUNCTION, scoped
from tests.support.graphs import assert_passes, residual

LN = "y = LayerNormalization(x, scale, bias)"


def branches() -> onnx.ModelProto:
    return scoped(
        """g (float[B,S,8] a, float[B,S,8] b, bool c) => (float[B,S,8] z) {
            z = If (c) <
              then_branch = t () => (float[B,S,8] y1)
                { x1 = Add(a, b) y1 = LayerNormalization(x1, scale, bias) },
              else_branch = e () => (float[B,S,8] y2)
                { h = Relu(a) x2 = Add(h, b) y2 = LayerNormalization(x2, bias, scale) }>
        }"""
    )


def damage_operand(node: onnx.NodeProto) -> None:
    node.input[1] = node.input[0]


def damage_epsilon(node: onnx.NodeProto) -> None:
    next(a for a in node.attribute if a.name == "epsilon").f *= 1.5


def damage_scale(node: onnx.NodeProto) -> None:
    node.input[2], node.input[3] = node.input[3], node.input[2]


def damage_stash_type(node: onnx.NodeProto) -> None:
    next(a for a in node.attribute if a.name == "stash_type").i = onnx.TensorProto.FLOAT16


DAMAGES = [damage_operand, damage_epsilon, damage_scale, damage_stash_type]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("branch", [0, 1])
def test_damage_in_either_branch_is_caught(damage: object, branch: int) -> None:
    """Both ways are run: a branch that is not taken would pass."""
    proto = branches()
    fused = graphfuse.fuse(proto).model
    assert_passes(proto, fused)
    bodies = sorted((a for a in fused.graph.node[-1].attribute), key=lambda a: a.name)
    damage(bodies[branch].g.node[-1])  # type: ignore[operator]
    assert not graphfuse.validate(proto, fused).passed


def test_a_node_beside_the_site_in_a_branch() -> None:
    proto = branches()
    fused = graphfuse.fuse(proto).model
    for attribute in fused.graph.node[-1].attribute:
        for node in attribute.g.node:
            if node.op_type == "Relu":
                node.op_type = "Neg"
    assert not graphfuse.validate(proto, fused).passed


def test_defaults_of_function_attributes() -> None:
    proto = scoped(
        f"""g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {{
              x = Add(a, b) h = my.n(x, scale, bias) x2 = Add(x, h) y = my.n<e = 0.5>(x2, scale, bias) }}
            {FUNCTION} n <e: float = 0.25> (x, w, v) => (y)
              {{ y = LayerNormalization<epsilon: float = @e>(x, w, v) }}"""
    )
    result = graphfuse.fuse(proto)
    assert [f.site.epsilon for f in result.fused] == [0.25, 0.5]
    assert_passes(proto, result.model)


def test_a_function_of_another_opset() -> None:
    proto = scoped(
        f"""g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {{ y = my.block(a, b) }}
            {FUNCTION} block (p, q) => (y) {{ x = Add(p, q)
              one = Constant<value = float[8] {{1,1,1,1,1,1,1,2}}>() m = ReduceMean<axes = [-1]>(x)
              d = Sub(x, m) k = Mul(d, d) v = ReduceMean<axes = [-1]>(k)
              eps = Constant<value = float {{1e-5}}>() e = Add(v, eps) r = Sqrt(e) n = Div(d, r)
              y = Mul(n, one) }}"""
    )
    proto.functions[0].opset_import[0].version = 13
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


def test_a_number_through_an_integer() -> None:
    proto = residual(
        "w1 = Cast<to=7>(k) wf = Cast<to=1>(w1) n = LayerNormalization(x, ones) y = Mul(n, wf)",
        constants={"k": np.array(2.7, np.float32), "ones": np.ones(8, np.float32)},
    )
    result = graphfuse.fuse(proto)
    assert result.changed
    assert_passes(proto, result.model)


FIXED = {
    "one row": ("float[8] a, float[8] b", "float[8] y", "y = LayerNormalization<axis=0>(x, scale)"),
    "all axes": (
        "float[4,8] a, float[4,8] b",
        "float[4,8] y",
        """m = ReduceMean(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q) e = Add(v, eps)
           r = Sqrt(e) y = Div(d, r)""",
    ),
    "another extent": (
        "float[8,4,8] a, float[8,4,8] b",
        "float[8,4,8] y",
        """s = Shape(x) g = Gather(s, at) n1 = Cast<to=1>(g) q = Mul(x, x)
           t = ReduceSum(q, ax) v = Div(t, n1) e = Add(v, eps) r = Sqrt(e) n = Div(x, r)
           y = Mul(n, scale)""",
    ),
}


@pytest.mark.parametrize("case", FIXED)
def test_sites_alone_keep_fixed_extents(case: str) -> None:
    inputs, outputs, norm = FIXED[case]
    constants = {"at": np.array(0), "ax": np.array([-1])}
    proto = residual(norm, inputs=inputs, outputs=outputs, constants=constants)
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)

"""Constants that a model computes: a scale by ConstantOfShape, axes behind a Cast, CastLike.

From public reports: microsoft/onnxruntime#26367 (PyTorch's exporter at opset 23), and what
converters write. What they compute from is a constant, or a shape, so the value is one.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    DECOMPOSED_RMS_NORM,
    assert_passes,
    model,
    residual,
)

LN, RMS = DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM
SCALED = RMS.replace("Mul(n, scale)", "Mul(n, o)")
OVER_AXES = RMS.replace("ReduceMean<axes=[-1], keepdims=1>(q)", "ReduceMean(q, axes)")
ONES = "o = ConstantOfShape<value = float[1] {1.0}>(sh)"
TYPED = "o = CastLike(w, x) u = CastLike(c, x) y = LayerNormalization(x, o, u)"
HALF = {"inputs": "float16[B,S,8] a, float16[B,S,8] b", "outputs": "float16[B,S,8] y"}

CASES = {
    "r23: ones in the shape of the sum": (
        f"sh = Shape(x) {ONES} y = RMSNormalization(x, o)",
        {"opset": 23, "ir": 11},
    ),
    "ones in the shape of the last axis": (
        f"sh = Shape<start=-1>(x) {ONES} y = LayerNormalization(x, o)",
        {},
    ),
    "zeros, by the default value": (
        f"sh = Shape<start=-1>(x) {ONES} z = ConstantOfShape(sh) y = LayerNormalization(x, o, z)",
        {},
    ),
    "twos that are multiplied with": (
        f"sh = Shape(x) o = ConstantOfShape<value = float[1] {{2.0}}>(sh) {SCALED}",
        {},
    ),
    "a number that is tiled": (
        f"c = Constant<value = float[1] {{2.0}}>() k = Constant<value_ints=[8]>() o = Tile(c, k) "
        f"{SCALED}",
        {},
    ),
    "arithmetic of filled tensors": (
        f"sh = Shape(x) p = ConstantOfShape<value = float[1] {{2.0}}>(sh) o = Add(p, p) {SCALED}",
        {},
    ),
    "CastLike of a weight": (TYPED, {"constants": {"w": np.ones(8, "f"), "c": np.ones(8, "f")}}),
    "CastLike that widens": (
        TYPED,
        {"constants": {"w": np.full(8, 1.5, "e"), "c": np.ones(8, "e")}},
    ),
    "CastLike of the scale alone": (f"o = CastLike(scale, x) {SCALED}", {}),
    "axes: Cast of a float": (
        f"f = Constant<value_floats=[-1.0]>() axes = Cast<to=7>(f) {OVER_AXES}",
        {"opset": 18},
    ),
    "axes: Cast of an int32 initializer": (
        f"axes = Cast<to=7>(i) {OVER_AXES}",
        {"opset": 18, "constants": {"i": np.array([-1], np.int32)}},
    ),
    "axes: a difference, reshaped": (
        f"p = Constant<value_int=1>() k = Constant<value_int=2>() j = Sub(p, k) "
        f"one = Constant<value_ints=[1]>() axes = Reshape(j, one) {OVER_AXES}",
        {"opset": 18},
    ),
    "axes: a Range": (
        f"p = Constant<value_int=2>() k = Constant<value_int=3>() j = Constant<value_int=1>() "
        f"axes = Range(p, k, j) {OVER_AXES}",
        {"opset": 18},
    ),
    "axes: ConstantOfShape": (
        f"one = Constant<value_ints=[1]>() axes = ConstantOfShape<value = int64[1] {{-1}}>(one) "
        f"{OVER_AXES}",
        {"opset": 18},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_computed_constants_fuse(case: str) -> None:
    norm, options = CASES[case]
    proto = residual(norm, **options)
    result = graphfuse.fuse(proto)
    assert [f.site.output for f in result.fused] == ["y"], result.left
    assert_passes(proto, result.model)


def test_two_norms_in_one_file_both_fuse() -> None:
    """r23_f32_23.onnx has one norm with a weight and one without: 2 of 2."""
    proto = model(
        f"""x = Add(a, b) sh = Shape(x) {ONES} n = RMSNormalization(x, o)
            x2 = Add(x, n) y = RMSNormalization(x2, scale)""",
        opset=23,
        ir=11,
    )
    assert len(graphfuse.fuse(proto).fused) == 2


def test_a_filled_tensor_that_enlarges_is_no_scale() -> None:
    proto = residual(
        RMS.replace("y = Mul(n, scale)", "o = ConstantOfShape(k) y = Mul(n, o)"),
        inputs="float[1,4,8] a, float[1,4,8] b",
        outputs="float[3,4,8] y",
        constants={"k": np.array([3, 4, 8], np.int64)},
    )
    # The quotient before it is a norm, of the sum's own shape.
    assert [site.output for site in graphfuse.scan(proto).sites] == ["n"]


def test_axes_of_an_input_are_not_known() -> None:
    proto = residual(
        f"axes = Cast<to=7>(i) {OVER_AXES}",
        inputs="float[B,S,8] a, float[B,S,8] b, int32[1] i",
        opset=18,
    )
    found = graphfuse.scan(proto)
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.UNKNOWN_SHAPE]


BOMBS = {
    "Range": "p = Constant<value_int=0>() k = Constant<value_int=4000000000000>() "
    "j = Constant<value_int=1>() axes = Range(p, k, j)",
    "ConstantOfShape": "p = Constant<value_ints=[4000000000000]>() "
    "axes = ConstantOfShape<value = int64[1] {-1}>(p)",
    "Tile": "p = Constant<value_ints=[-1]>() k = Constant<value_ints=[4000000000000]>() "
    "axes = Tile(p, k)",
    "Concat": "p0 = Constant<value_ints=[-1]>() "
    + " ".join(f"p{n + 1} = Concat<axis=0>(p{n}, p{n})" for n in range(40))
    + " axes = Identity(p40)",
}


@pytest.mark.parametrize("case", BOMBS)
def test_axes_that_ask_for_all_memory_are_not_computed(case: str) -> None:
    started = time.monotonic()
    assert not graphfuse.scan(residual(f"{BOMBS[case]} {OVER_AXES}", opset=18)).sites
    assert time.monotonic() - started < 20


def test_axes_in_a_body_come_from_around_it() -> None:
    body = f"""
        f = Constant<value_floats=[-1.0]>()
        axes = Cast<to=7>(f)
        y = If(c) <
            then_branch = t () => (float[B,S,8] p) {{ x = Add(a, b) {OVER_AXES} p = Identity(y) }},
            else_branch = e () => (float[B,S,8] q) {{ q = Identity(a) }}
        >
    """.replace("y = Mul(n", "y1 = Mul(n").replace("Identity(y)", "Identity(y1)")
    proto = model(body, inputs="float[B,S,8] a, float[B,S,8] b, bool c", opset=18)
    proto.graph.initializer.extend(residual(RMS).graph.initializer)
    assert len(graphfuse.scan(proto).sites) == 1
    onnx.checker.check_model(proto)

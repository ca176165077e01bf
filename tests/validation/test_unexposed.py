"""What a comparison on drawn numbers shows and what it does not, and that right models still pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphfuse
from tests.conftest import MODELS
from tests.validation.test_attacked import (
    BOTH,
    CONTRIB,
    LEVELS,
    NORM,
    RNG,
    RUNS,
    SKIP,
    A,
    changed,
    graph,
    never,
    verdict,
)


def both_ways(one: onnx.ModelProto, other: onnx.ModelProto, level: str) -> list[str]:
    return [verdict(one, other, level), verdict(other, one, level)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_is_equal_to_itself(level: str) -> None:
    """At `sites` nothing is judged then, and nothing needs to be."""
    proto = graph("x = Add(a, b) y = MatMul(x, w)")
    assert verdict(proto, proto, level) == "pass"


def test_where_nothing_else_is_judged_large_weights_are_compared() -> None:
    weight = RNG.normal(size=(8, 10_000)).astype(np.float32)
    proto = graph("y = MatMul(a, t)", A, "float[B,S,10000] y", t=weight)
    other = weight.copy()
    other[3, 5] *= 2
    assert verdict(proto, changed(proto, "t", other), "sites") != "pass"


@pytest.mark.parametrize("level", LEVELS)
def test_an_input_with_a_default_beside_a_site_passes(level: str) -> None:
    """It is fed numbers of its own where it is read, and left out of the feeds of a run."""
    proto = graph(NORM + "y = Mul(h, d)", f"{BOTH}, float[8] d")
    default = numpy_helper.from_array(RNG.normal(size=8).astype(np.float32), "d")
    proto.graph.initializer.append(default)
    assert both_ways(proto, graphfuse.fuse(proto).model, level) == ["pass", "pass"]


def test_another_default_of_an_input_is_not_shown_without_a_run() -> None:
    proto = graph("x = Add(a, b) y = Mul(x, d)", f"{BOTH}, float[1] d")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([3], np.float32), "d"))
    other = changed(proto, "d", np.array([4], np.float32))
    assert verdict(proto, other, "sites") == "not shown"
    assert verdict(proto, other, "fast") == "fail"


WRITTEN = {
    "a default written out": ("y = Softmax(a)", "y = Softmax<axis = -1>(a)"),
    "an axis from the front": ("y = Softmax<axis = -1>(a)", "y = Softmax<axis = 2>(a)"),
    "another operator": ("y = Mul(a, two)", "y = Add(a, a)"),
    "a constant of another name": ("y = Mul(a, two)", "y = Mul(a, deux)"),
    "a Constant node": ("y = Mul(a, two)", "t = Constant<value_float = 2.0>() y = Mul(a, t)"),
    "a folded constant": ("s = Mul(two, two) y = Mul(a, s)", "y = Mul(a, four)"),
    "an integer input": ("z = Cast<to = 1>(i) y = Add(a, z)", "q = Identity(i) z = Cast<to = 1>(q) y = Add(a, z)"),
}  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_otherwise_and_agrees_passes(kind: str, level: str) -> None:
    inputs = f"{A}, int64[B,S,8] i" if "integer" in kind else A
    one, other = (graph(body, inputs, two=[2.0], deux=2.0, four=[4.0]) for body in WRITTEN[kind])
    assert both_ways(one, other, level) == ["pass", "pass"]


@pytest.mark.parametrize("level", LEVELS)
def test_another_opset_import_that_changes_types_alone_passes(level: str) -> None:
    body = f"{NORM} q = MatMul(h, w) y = Relu(q)"
    one, other = (graph(body, opset=version) for version in (17, 18))
    one.graph.node[1].op_type = other.graph.node[1].op_type = "Mul"
    del one.graph.node[1].input[2:], other.graph.node[1].input[2:]
    one.opset_import[0].version = 12
    assert both_ways(one, other, level) == ["pass", "pass"]


@pytest.mark.parametrize("level", ["fast", "sites"])
def test_an_input_that_takes_fewer_shapes_is_named(level: str) -> None:
    original = graph(NORM + "y = Relu(h)")
    fused = graphfuse.fuse(original).model
    fused.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    report = graphfuse.validate(original, fused, level=level)
    assert "the fused model takes fewer shapes of input 'a'" in [c.subject for c in report.failures]
    assert verdict(fused, original, level) == "pass"


def twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(proto.graph.node[-1])


def nothing(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[1] = "nothing"


def circle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[1] = proto.graph.node[1].output[0]


@pytest.mark.parametrize("damage", [twice, nothing, circle])
def test_a_fused_model_that_is_no_graph_fails_at_level_sites(
    damage: Callable[[onnx.ModelProto], None],
) -> None:
    original = graph("x = Add(a, b) q = Relu(x) y = Mul(q, a)")
    fused = onnx.ModelProto.FromString(original.SerializeToString())
    damage(fused)
    report = graphfuse.validate(original, fused, level="sites")
    assert any("no session loads" in check.subject for check in report.failures)


@pytest.mark.parametrize("level", RUNS)
def test_another_number_of_trips_of_a_loop_that_ends_before(level: str) -> None:
    """What has a body is never compared alone; a run that agrees shows nothing of a constant."""
    loop = """y = Loop (n, one_c, a) <body = l (int64 i, bool go, float[B,S,8] s)
        => (bool on, float[B,S,8] t) { f = Less(i, two) on = Identity(f) t = Mul(s, s) }>"""
    one, other = (
        graph(loop, A, n=np.array(n), one_c=np.array(True), two=np.array(2)) for n in (50, 60)
    )
    assert verdict(one, other, level) != "pass"


@pytest.mark.parametrize("level", ["sites"])
def test_a_rounding_before_a_fused_node_is_not_shown(level: str) -> None:
    plain = graph(NORM + "y = Relu(h)")
    fused = graph(
        f"r = Cast<to = 16>(a) c = Cast<to = 1>(r) h = {SKIP}(c, b, scale, bias) y = Relu(h)",
        more=CONTRIB,
    )
    assert "pass" not in both_ways(plain, fused, level)


def test_a_scale_that_is_rounded_beside_a_fused_node_is_not_shown() -> None:
    plain = graph(NORM + "y = Relu(h)")
    fused = graph(
        f"r = Cast<to = 16>(scale) s = Cast<to = 1>(r) h = {SKIP}(a, b, s, bias) y = Relu(h)",
        more=CONTRIB,
    )
    assert "pass" not in both_ways(plain, fused, "sites")


def test_a_constant_sum_of_other_extents_is_compared_alone() -> None:
    """Position embeddings of 18 rows, and an extent that inference leaves open."""
    positions = RNG.normal(size=(1, 18, 8)).astype(np.float32)
    proto = graph(
        "n = Neg(b) d = Concat<axis = 1>(a, n) x = Add(d, p) y = LayerNormalization(x, scale, bias)",
        "float[B,S,8] a, float[B,T,8] b",
        "float[B,18,8] y",
        p=positions,
    )
    assert both_ways(proto, graphfuse.fuse(proto).model, "sites") == ["pass", "pass"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_difference_on_a_tie_fails(level: str) -> None:
    one, other = (
        graph(f"y = {op}(a, b)", BOTH, "bool[B,S,8] y") for op in ("Greater", "GreaterOrEqual")
    )
    assert both_ways(one, other, level) == ["fail", "fail"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_bound_that_nothing_drawn_reaches_is_not_shown_and_named(level: str) -> None:
    one, other = (never("z = Clip(a, low, high)", low=-high, high=high) for high in (1e4, 1e6))
    report = graphfuse.validate(one, other, level=level)
    assert report.verdict == "not shown"
    assert "no numbers that were drawn show it" in report.not_shown[0].why


def test_an_initializer_in_place_of_what_was_computed_at_level_sites() -> None:
    """The output has no node in the second model that could differ."""
    original = graph("y = Relu(a)", A)
    fused = graph("", A)
    fused.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 7, 8), np.float32), "y"))
    assert verdict(original, fused, "sites") != "pass"


@pytest.mark.parametrize("level", ["fast", "sites"])
def test_float16_norms_in_float32_pass_both_ways(level: str) -> None:
    """The casts around them are what a fused node does inside."""
    proto = onnx.ModelProto.FromString((MODELS / "llama-float16.onnx").read_bytes())
    assert {node.op_type for node in proto.graph.node} >= {"Cast"}
    assert both_ways(proto, graphfuse.fuse(proto).model, level) == ["pass", "pass"]


def test_a_weight_of_a_norm_that_is_too_large_to_compare_is_not_shown() -> None:
    """Its epsilon is a number that no activation shows."""
    weight = np.full((8, 2**19), 0.001, np.float32)
    one, other = (
        graph(
            f"q{n} = MatMul(a, t) r{n} = MatMul(q{n}, u) "
            f"h = LayerNormalization<epsilon = {e}>(r{n}, scale, bias) y = Relu(h)",
            A,
            t=weight,
            u=weight.T,
        )
        for n, e in ((1, "1e-12"), (2, "1e-11"))
    )
    assert verdict(one, other, "fast") == "not shown"


def test_helper_domains() -> None:
    """ai.onnx is the default domain under its other name: no node differs."""
    one = graph("x = Add(a, b) y = Softmax(x)")
    other = onnx.ModelProto.FromString(one.SerializeToString())
    other.graph.node[1].domain = "ai.onnx"
    del other.opset_import[:]
    other.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    assert verdict(one, other, "sites") == "pass"

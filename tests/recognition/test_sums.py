"""Sums that reach their norm in another shape, or through operators of unknown type."""

from __future__ import annotations

import numpy as np
import pytest

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import assert_passes, check, kinds, model, needs_opset, residual

RESHAPED = "r = Reshape(x, flat) y = LayerNormalization(r, scale, bias)"


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
def test_a_reshape_that_keeps_the_last_axis(ep: str) -> None:
    """OPT: the norm of a reshaped sum is the reshaped norm of the sum."""
    options = {"constants": {"flat": np.array([-1, 8])}, "outputs": "float[N,8] y"}
    proto = residual(RESHAPED, **options)
    result = graphfuse.fuse(proto, ep=ep)
    assert [node.op_type for node in result.model.graph.node][1:] == ["Reshape"]
    assert_passes(proto, result.model)


def test_a_reshape_that_others_read_stays() -> None:
    proto = residual(
        RESHAPED + " z = Relu(r)",
        constants={"flat": np.array([-1, 8])},
        outputs="float[N,8] y, float[N,8] z",
    )
    result = check(proto)
    assert sorted(kinds(result.model)) == ["AddLayerNormalization", "Relu", "Reshape", "Reshape"]


def test_a_sum_that_is_read_both_ways_fuses_once() -> None:
    proto = residual(
        RESHAPED + " z = LayerNormalization(x, bias, scale)",
        constants={"flat": np.array([-1, 8])},
        outputs="float[N,8] y, float[B,S,8] z",
    )
    result = check(proto)
    assert len(result.fused) == 1
    assert [miss.reason for miss in result.left] == [Reason.SUM_TAKEN]


def test_a_cast_of_unknown_type_is_not_called_narrowing() -> None:
    proto = model(
        "f = Foo(a) s = Add(f, f) c = Cast<to=1>(s) y = LayerNormalization(c, scale, bias)",
        extra_imports=', "custom" : 1',
    )
    proto.graph.node[0].domain = "custom"
    assert [m.reason for m in graphfuse.scan(proto).near_misses] == [Reason.UNKNOWN_SHAPE]


BROADCASTS = {
    1: ("8", "8", "1"),
    2: ("S,8", "8", "S,1"),
    3: ("B,S,8", "S,8", "B,1,8"),
    4: ("B,2,S,8", "1,1,S,8", "S,1"),
    5: ("B,2,3,S,8", "2,1,1,8", "B,1,1,1,1"),
}


@pytest.mark.parametrize("rank", BROADCASTS)
@pytest.mark.parametrize(
    "kind", ["LayerNormalization(x, scale, bias)", "RMSNormalization(x, scale)"]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_broadcasts_of_every_rank(rank: int, kind: str, swapped: bool) -> None:
    """Over batch, sequence or hidden, in either operand; proven sites have the larger one first."""
    needs_opset(23)
    large, *small = BROADCASTS[rank]
    for other in (large, *small):
        shapes = (other, large) if swapped else (large, other)
        proto = model(
            f"x = Add(a, b) y = {kind}",
            inputs=f"float[{shapes[0]}] a, float[{shapes[1]}] b",
            outputs=f"float[{large}] y",
            opset=23,
            ir=10,
        )
        result = check(proto)
        assert [fusion.site.b_shape is not None for fusion in result.fused] == [True]
        assert result.fused[0].site.order_proven
        assert result.fused[0].site.a == ("b" if swapped and other != large else "a")
        assert_passes(proto, result.model)

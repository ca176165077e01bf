"""Sums that reach their norm in another shape, or through operators of unknown type."""

from __future__ import annotations

import numpy as np
import pytest

import graphfuse
from graphfuse.reasons import Reason
from tests.graphs import check, kinds, model, residual

RESHAPED = "r = Reshape(x, flat) y = LayerNormalization(r, scale, bias)"


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
def test_a_reshape_that_keeps_the_last_axis(ep: str) -> None:
    """OPT: the norm of a reshaped sum is the reshaped norm of the sum."""
    options = {"constants": {"flat": np.array([-1, 8])}, "outputs": "float[N,8] y"}
    proto = residual(RESHAPED, **options)
    result = graphfuse.fuse(proto, ep=ep)
    assert [node.op_type for node in result.model.graph.node][1:] == ["Reshape"]
    assert graphfuse.validate(proto, result.model).passed


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

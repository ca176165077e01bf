"""Keras 2's LayerNormalization, which is a BatchNormalization of rows (onnx/tensorflow-onnx#2183)."""

from __future__ import annotations

import numpy as np
import pytest

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import model

ROWS = {
    "k": np.array([1, 14, 8, 1], np.int64),
    "back": np.array([2, 7, 8], np.int64),
    "one": np.ones(14, np.float32),
    "none": np.zeros(14, np.float32),
}
SIZES = {"inputs": "float[2,7,8] a, float[2,7,8] b", "outputs": "float[2,7,8] y"}


def keras(batch_norm: str, total: str = "x = Add(a, b)") -> graphfuse.Scan:
    body = f"""
        {total}
        r = Reshape(x, k)
        {batch_norm}
        f = Reshape(n, back)
        s = Mul(f, scale)
        y = Add(s, bias)
    """
    return graphfuse.scan(model(body, constants=ROWS, **SIZES))


def test_r31_a_batch_normalization_of_rows_is_named() -> None:
    found = keras(
        "n, m, v = BatchNormalization<epsilon = 0.001, training_mode = 1>(r, one, none, none, one)"
    )
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.BATCH_STATISTICS]
    assert found.near_misses[0].culprit.op_type == "BatchNormalization"
    assert found.near_misses[0].add.op_type == "Add"


@pytest.mark.parametrize(
    ("batch_norm", "total"),
    [
        ("n = BatchNormalization(r, one, none, none, one)", "x = Add(a, b)"),
        (
            "n, m, v = BatchNormalization<training_mode = 1>(r, one, none, none, one)",
            "x = Mul(a, b)",
        ),
        (
            "n, m, v = BatchNormalization<training_mode = 1>(r, one, none, none, one)",
            "x = Add(a, bias)",
        ),
    ],
)
def test_what_is_no_norm_of_a_residual_is_nothing(batch_norm: str, total: str) -> None:
    """A BatchNormalization at inference, as ResNets have it; no sum; a bias."""
    assert not keras(batch_norm, total).near_misses

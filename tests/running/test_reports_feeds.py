"""Ids that stay inside their tables, outputs without a type, attributes that no operator has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphfuse
from graphfuse.records import FuseResult
from graphfuse.running.random_feeds import random_feeds
from tests.support.graphs import model, residual

RNG = np.random.default_rng(3)
TABLES = {
    name: RNG.normal(0, 1, shape).astype(np.float32)
    for name, shape in {"w": (20, 8), "p": (16, 8), "s": (2, 8), "t": (8, 20), "k": (3, 5)}.items()
}
NORM = "x = Add(e, b) y = LayerNormalization(x, scale, bias)"
EMBEDDED = f"""
    e, m = com.microsoft.EmbedLayerNormalization(i, j, w, p, s, scale, bias)
    {NORM}
"""

CASES = {
    "EmbedLayerNormalization": (EMBEDDED, "int32[B,S] i, int32[B,S] j", {"i": 20, "j": 2}),
    "Gather": (f"e = Gather(w, i) {NORM}", "int64[B,S] i", {"i": 20}),
    "Gather along another axis": (
        f"g = Gather<axis=1>(k, j) h = ReduceSum<keepdims=0>(g) e = Add(b, h) {NORM}",
        "int64[B] j",
        {"j": 5},
    ),
    "Gather of a table that is computed": (
        f"u = Transpose<perm=[1,0]>(t) e = Gather(u, i) {NORM}",
        "int64[B,S] i",
        {"i": 20},
    ),
    "Gather with an offset (OPT's positions)": (
        f"two = Constant<value_int=2>() i2 = Add(i, two) e = Gather(w, i2) {NORM}",
        "int64[B,S] i",
        {"i": 18},
    ),
    "Gather behind casts": (
        f"i2 = Cast<to=6>(i) i3 = Cast<to=7>(i2) e = Gather(w, i3) {NORM}",
        "int64[B,S] i",
        {"i": 20},
    ),
    "Gather of ids that are picked": (
        f"at = Constant<value_int=0>() i2 = Gather(i, at) e = Gather(w, i2) {NORM}",
        "int64[1,B,S] i",
        {"i": 20},
    ),
    "Gather of ids of which some are replaced": (
        f"""at = Constant<value = int64[1,1] {{0}}>() zero = Constant<value = int64[1,1] {{0}}>()
            i2 = ScatterElements<axis=1>(i, at, zero) e = Gather(w, i2) {NORM}""",
        "int64[B,S] i",
        {"i": 20},
    ),
}


def optimized(proto: onnx.ModelProto, folder: Path, level: str = "fast") -> FuseResult:
    onnx.save(proto, folder / "before.onnx")
    return graphfuse.optimize(folder / "before.onnx", folder / "after.onnx", level=level)


@pytest.mark.parametrize("case", CASES)
def test_ids_stay_inside_their_tables(case: str, tmp_path: Path) -> None:
    body, inputs, rows = CASES[case]
    proto = model(
        body,
        inputs=f"{inputs}, float[B,S,8] b",
        constants=TABLES,
        extra_imports=', "com.microsoft" : 1',
    )
    declared = helper.make_tensor_value_info("e", TensorProto.FLOAT, ["B", "S", 8])
    proto.graph.value_info.append(declared)
    for seed in range(20):
        feeds = random_feeds(proto, seed)
        assert all(0 <= feeds[name].min() <= feeds[name].max() < n for name, n in rows.items())
    result = optimized(proto, tmp_path, "full")
    assert len(result.fused) == 1
    assert result.validation is not None
    assert result.validation.passed


def test_what_does_not_run_names_the_range_of_feeds(tmp_path: Path) -> None:
    """A way of indexing that is not seen through: the advice is to bound what is drawn."""
    body = f"two = Constant<value_int=3>() i2 = Mul(i, two) e = Gather(w, i2) {NORM}"
    proto = model(body, inputs="int64[B,S] i, float[B,S,8] b", constants=TABLES)
    with pytest.raises(graphfuse.OriginalModelError, match="out of data bounds") as caught:
        optimized(proto, tmp_path)
    assert "--val-range" in caught.value.remedy
    bounded = graphfuse.optimize(
        tmp_path / "before.onnx",
        tmp_path / "after.onnx",
        feeds=graphfuse.Feeds(val_range={"i": (0, 6)}),
    )
    assert bounded.validation is not None
    assert bounded.validation.passed


@pytest.mark.parametrize("level", ["fast", "full"])
def test_untyped_outputs_have_the_type_of_their_arrays(level: str, tmp_path: Path) -> None:
    proto = residual(
        "y = LayerNormalization(x, scale, bias) z = ArgMax<axis=-1>(y)",
        outputs="float[B,S,8] y, int64[B,S,1] z",
    )
    for value in proto.graph.output:
        value.ClearField("type")
    result = optimized(proto, tmp_path, level)
    assert len(result.fused) == 1
    assert result.validation is not None
    assert result.validation.passed
    gates = {(check.gate, check.subject) for check in result.validation.checks}
    assert {("G2", "y"), ("G3", "y"), ("G4", "z")} <= gates
    assert ("G2", "z") not in gates


def test_an_untyped_output_that_differs_is_caught() -> None:
    proto = residual("y = LayerNormalization(x, scale, bias)")
    proto.graph.output[0].ClearField("type")
    fused = graphfuse.fuse(proto).model
    next(n for n in fused.graph.node if n.output[0] == "y").attribute[1].f = 1e-2
    assert not graphfuse.validate(proto, fused).passed


def test_an_attribute_that_the_operator_does_not_have_is_ignored(tmp_path: Path) -> None:
    proto = residual("y = LayerNormalization(x, scale, bias)")
    proto.graph.node[1].attribute.append(helper.make_attribute("momentum", 0.9))
    result = optimized(proto, tmp_path, "full")
    assert len(result.fused) == 1
    assert result.validation is not None
    assert result.validation.passed
    assert any("'momentum' of LayerNormalization" in note for note in result.validation.notes)

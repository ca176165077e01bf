"""Nodes out of order (microsoft/onnxruntime's own test data; huggingface/setfit#467).

onnxruntime runs such models, so they are sorted; what is defined twice or missing is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

import graphfuse
from graphfuse.cli import app
from graphfuse.graph.order import stable_order
from tests.support.graphs import DECOMPOSED_LAYER_NORM, feeds, kinds, model, residual

CAST_BLOCK = """
    x = Add(a32, b32)
    n = LayerNormalization(x, scale, bias)
    y = Cast<to=10>(n)
    a32 = Cast<to=1>(a)
    b32 = Cast<to=1>(b)
"""
"""onnxruntime's float16 converter with a block list appends its casts (setfit#467)."""


def shuffled(proto: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with its nodes in another order."""
    nodes = list(proto.graph.node)
    order = np.random.default_rng(seed).permutation(len(nodes))
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del result.graph.node[:]
    result.graph.node.extend(nodes[at] for at in order)
    return result


def outputs(proto: onnx.ModelProto) -> list[np.ndarray]:
    made = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return made.run(None, feeds(proto))


def test_r27_casts_at_the_end_of_the_file_are_sorted(tmp_path: Path) -> None:
    proto = model(
        CAST_BLOCK, inputs="float16[B,S,8] a, float16[B,S,8] b", outputs="float16[B,S,8] y"
    )
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(proto, before)
    result = graphfuse.optimize(before, after)
    assert len(result.fused) == 1
    assert any("out of order" in note and "2 were moved up" in note for note in result.notes)
    onnx.checker.check_model(after)
    assert result.validation is not None
    assert result.validation.passed


@pytest.mark.parametrize("seed", range(6))
def test_unsorted_nodes_fuse_as_sorted_ones_do(seed: int) -> None:
    proto = residual(DECOMPOSED_LAYER_NORM)
    mixed = shuffled(proto, seed)
    text = mixed.SerializeToString()
    result = graphfuse.fuse(mixed)
    assert kinds(result.model) == ["AddLayerNormalization"]
    assert any("out of order" in note for note in result.notes)
    assert graphfuse.scan(mixed).notes == result.scan.notes
    assert mixed.SerializeToString() == text
    report = graphfuse.validate(mixed, result.model)
    assert report.passed
    assert any("out of order" in note for note in report.notes)
    for one, other in zip(outputs(mixed), outputs(proto), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_in_order_has_no_note() -> None:
    assert graphfuse.fuse(residual(DECOMPOSED_LAYER_NORM)).notes == ()


def test_sorting_is_stable() -> None:
    """Only what comes too late moves: 4 is read by 1, 5 by 4."""
    reads = [[], ["d"], [], [], ["e"], []]
    writes = [["a"], ["b"], ["c"], ["x"], ["d"], ["e"]]
    assert stable_order(reads, writes) == [0, 5, 4, 1, 2, 3]


def test_unsorted_bodies_and_functions_are_sorted() -> None:
    body = """
        z = If(c) <
            then_branch = t () => (float[B,S,8] p) {
                p = LayerNormalization(x, scale, bias)
                x = Add(a, b)
            },
            else_branch = e () => (float[B,S,8] q) { q = Identity(a) }
        >
        y = Identity(z)
    """
    proto = model(body, inputs="float[B,S,8] a, float[B,S,8] b, bool c")
    proto.graph.initializer.extend(
        residual("y = LayerNormalization(x, scale, bias)").graph.initializer
    )
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert any("1 was moved up" in note for note in result.notes)


def test_what_is_not_fused_is_written_byte_for_byte(tmp_path: Path) -> None:
    proto = model("y = Relu(x) x = Add(a, b)")
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(proto, before)
    graphfuse.optimize(before, after)
    assert after.read_bytes() == before.read_bytes()


def test_scan_says_that_it_sorted(tmp_path: Path) -> None:
    path = tmp_path / "unsorted.onnx"
    onnx.save(shuffled(residual(DECOMPOSED_LAYER_NORM), 1), path)
    shown = CliRunner().invoke(app, ["scan", str(path), "--json"])
    assert shown.exit_code == 0
    assert any("out of order" in note for note in json.loads(shown.stdout)["notes"])


WRONG = {
    "twice": (
        "y = Identity(x) x = Add(a, b) x = Sub(a, b)",
        r"'x' is defined twice.*1.*Add.*2.*Sub",
    ),
    "an input again": ("a = Identity(b) y = Add(a, b)", "'a' is defined twice: by an input"),
    "missing": ("y = Add(a, nowhere)", "'nowhere' is read, but nothing defines it.*Add"),
    "circle": ("y = Add(a, z) z = Neg(y)", "in a circle, through tensor"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_no_order_is_refused_by_name(name: str) -> None:
    body, words = WRONG[name]
    with pytest.raises(graphfuse.ModelError, match=words):
        graphfuse.scan(model(body))

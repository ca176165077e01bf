"""Weights in Constant nodes of large files: they stay in the file, as initializers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import graphfuse
from graphfuse.files import model_file
from tests.support.graphs import HIDDEN, residual


def with_constant(path: Path) -> onnx.ModelProto:
    """x = a W + b, with W in a Constant node."""
    proto = residual("y = LayerNormalization(x, scale, bias)")
    weight = np.random.default_rng(5).normal(0, 1, (HIDDEN, HIDDEN)).astype(np.float32)
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight))
    product = helper.make_node("MatMul", ["a", "w"], ["h"])
    nodes = [constant, product, *proto.graph.node]
    nodes[2].input[0] = "h"
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, path)
    return proto


@pytest.mark.parametrize("weights", ["auto", "embed", "copy"])
def test_weights_in_constant_nodes_are_neither_parsed_nor_lost(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "LARGE", 1)
    monkeypatch.setattr(model_file, "LEAST_INLINE", 200)
    before = tmp_path / "before.onnx"
    proto = with_constant(before)
    loaded = model_file.load(before)
    assert len(loaded.inline) == 1
    held = loaded.proto.graph.node[0].attribute[0].t
    assert not held.raw_data
    np.testing.assert_array_equal(
        loaded.read(held), numpy_helper.to_array(proto.graph.node[0].attribute[0].t)
    )
    (tmp_path / "other").mkdir()
    after = tmp_path / "other" / "after.onnx"
    result = graphfuse.optimize(
        before, graphfuse.Output(after, weights=weights), certify=True, level="full"
    )
    assert len(result.fused) == 1
    assert result.validation is not None
    assert result.validation.passed
    written = onnx.load(after)
    constant = next(node for node in written.graph.node if node.op_type == "Constant")
    assert constant == proto.graph.node[0]
    ort.InferenceSession(after, providers=["CPUExecutionProvider"])

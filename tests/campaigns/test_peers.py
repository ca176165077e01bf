"""Models that other tools fused are judged like our own; python -m tests.campaigns.peers has them all."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import graphfuse
from tests.campaigns.peers import TOOLS, verdict
from tests.conftest import ROOT

BERT = ROOT / "models" / "bert.onnx"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_correct_fusion_by_another_tool_passes(tool: str, tmp_path: Path) -> None:
    fused = tmp_path / "fused.onnx"
    TOOLS[tool](BERT, fused, "hf-bert")
    passed, text = verdict(BERT, fused)
    assert passed, text
    assert "4 SkipLayerNormalization" in text


def test_a_wrong_epsilon_by_another_tool_is_named(tmp_path: Path) -> None:
    fused = tmp_path / "fused.onnx"
    TOOLS["onnxruntime.transformers"](BERT, fused, "hf-bert")
    model = onnx.load(fused)
    node = [node for node in model.graph.node if node.op_type == "SkipLayerNormalization"][1]
    epsilon = next(each for each in node.attribute if each.name == "epsilon")
    epsilon.f *= 2
    report = graphfuse.validate(BERT, model, level="fast")
    assert report.wrong == (node.output[0],)
    assert {check.gate for check in report.failures} == {"G0"}

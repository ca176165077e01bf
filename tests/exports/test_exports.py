"""Real exports: sites counted in eager PyTorch, every one fused, results right."""

from __future__ import annotations

import onnx
import pytest
import torch

import graphfuse
from graphfuse.records.reasons import Reason
from models.huggingface import ARCHITECTURES
from tests.conftest import Export
from tests.support.eager import count_sites, sites_of

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

D18, D23 = ("dynamo", 18), ("dynamo", 23)
SAMPLE = {
    "hf-bert": (D18, ("torchscript", 11)),
    "hf-gpt2": (("torchscript", 13),),
    "hf-llama": (D23,),
    "hf-mistral": (D23,),
    "hf-gemma": (("torchscript", 18),),
    "hf-t5": (D18,),
    "hf-opt": (("torchscript", 11),),
    "hf-vit": (("torchscript", 17),),
    "hf-whisper": (D18,),
    "torch-encoder-pre": (D23,),
    "torch-encoder-post": (("torchscript", 17),),
    "torch-transformer-pre": (D23,),
    "torch-transformer-post": (("torchscript", 17),),
}
"""Every architecture, every exporter at every opset; where other tests make an export, that one."""

SAMPLE_FLOAT16 = {
    "hf-bert": (D18,),
    "hf-gpt2": (("torchscript", 13),),
    "hf-llama": (("torchscript", 13),),
    "hf-vit": (("torchscript", 18),),
    "torch-encoder-post": (("torchscript", 18),),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The exports of `pytest tests/exports --every-export`, or a sample of them."""
    every = {"sampled": (EXPORTS, SAMPLE), "sampled_float16": (FLOAT16, SAMPLE_FLOAT16)}
    for fixture, (exports, sample) in every.items():
        if fixture in metafunc.fixturenames:
            whole = metafunc.config.getoption("--every-export")
            chosen = [each for each in exports if whole or each[1:] in sample.get(each[0], ())]
            metafunc.parametrize(fixture, chosen, ids=["-".join(map(str, c)) for c in chosen])


# TorchScript bakes the example's target length into nn.Transformer's decoder.
FIXED_SHAPES = {
    "torch-transformer-pre": {"source": (2, 7, 32), "target": (2, 5, 32)},
    "torch-transformer-post": {"source": (2, 7, 32), "target": (2, 5, 32)},
}


def test_every_site_is_fused_and_right(sampled: tuple[str, str, int], export: Export) -> None:
    name, exporter, opset = sampled
    path = export(name, exporter, opset)
    result = graphfuse.fuse(path)
    assert len(result.fused) == sites_of(name), [m.reason for m in result.left]
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
    assert len(result.fused) == sites_of(name)
    assert {fusion.site.elem_type for fusion in result.fused} == {onnx.TensorProto.FLOAT16}
    report = graphfuse.validate(path, result.model)
    assert report.passed, report.failures


@pytest.mark.parametrize("name", ["hf-bert", "hf-gpt2", "hf-llama", "hf-gemma", "hf-t5"])
def test_cuda_target_is_right_on_the_cpu(name: str, export: Export) -> None:
    """The contrib operators exist on the CPU provider as well: same meaning, same results."""
    path = export(name, "dynamo", 18)
    result = graphfuse.fuse(path, ep="cuda")
    assert len(result.fused) + len(result.left) == sites_of(name)
    # BERT's position table is cut to Min(64, sequence) rows: that it has all is not proven.
    unproven = [Reason.TARGET_BROADCAST] if name == "hf-bert" else []
    assert [miss.reason for miss in result.left] == unproven
    domains = {node.domain for node in result.model.graph.node}
    assert "com.microsoft" in domains
    report = graphfuse.validate(path, result.model, ep=["cpu"])
    assert report.passed, report.failures


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

"""Norms as people write them, in eager PyTorch, through both exporters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphfuse
from graphfuse.records import NormKind
from graphfuse.records.reasons import Reason
from models.example import Example
from models.export import export as write
from tests.support.graphs import assert_passes

HIDDEN, EPSILON = 16, 1e-5
Spelling = Callable[[Tensor, Tensor, Tensor], Tensor]


def last(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def by_sums(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    d = x - x.sum(-1, keepdim=True) / x.shape[-1]
    return scale * d / torch.sqrt((d * d).sum(-1, keepdim=True) / x.shape[-1] + EPSILON) + bias


def by_var_mean(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, unbiased=False, keepdim=True)
    return scale * (x - mean) / torch.sqrt(variance + EPSILON) + bias


def by_rsqrt(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    d = x - last(x)
    return scale * d * torch.rsqrt(last(d * d) + EPSILON) + bias


LAYER_NORMS: dict[str, Spelling] = {
    "the textbook's": lambda x, g, b: (
        g * (x - last(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + EPSILON) + b
    ),
    "variance over n-1": lambda x, g, b: (
        g * (x - last(x)) / torch.sqrt(x.var(-1, keepdim=True) + EPSILON) + b
    ),
    "pow 2": lambda x, g, b: (
        g * (x - last(x)) / torch.sqrt(last((x - last(x)).pow(2)) + EPSILON) + b
    ),
    "raw moments": lambda x, g, b: (
        g * (x - last(x)) / torch.sqrt(last(x**2) - last(x) ** 2 + EPSILON) + b
    ),
    "unsqueezed statistics": lambda x, g, b: (
        g
        * (x - x.mean(-1).unsqueeze(-1))
        / torch.sqrt(x.var(-1, unbiased=False).unsqueeze(-1) + EPSILON)
        + b
    ),
    "rsqrt": by_rsqrt,
    "sums": by_sums,
    "var_mean": by_var_mean,
    "functional": lambda x, g, b: functional.layer_norm(x, (HIDDEN,), g, b, EPSILON),
    "functional, plain": lambda x, g, b: functional.layer_norm(x, (HIDDEN,)),
}

RMS_NORMS: dict[str, Spelling] = {
    "the textbook's": lambda x, g, b: g * x / torch.sqrt(last(x**2) + EPSILON),
    "rsqrt": lambda x, g, b: x * torch.rsqrt(last(x.pow(2)) + EPSILON) * g,
    "power -0.5": lambda x, g, b: g * x * (last(x.pow(2)) + EPSILON) ** -0.5,
    "1 + weight": lambda x, g, b: x * torch.rsqrt(last(x * x) + EPSILON) * (1 + g),
    "sum times 1/n": lambda x, g, b: (
        g * x * torch.rsqrt((x * x).sum(-1, keepdim=True) * (1 / HIDDEN) + EPSILON)
    ),
    "length": lambda x, g, b: (
        g * x / torch.sqrt((x.norm(2, dim=-1, keepdim=True) / HIDDEN**0.5) ** 2 + EPSILON)
    ),
    "vector_norm": lambda x, g, b: (
        g
        * x
        / torch.sqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 2 / HIDDEN + EPSILON)
    ),
}

NOT_NORMS: dict[str, Spelling] = {
    "epsilon outside, LayerNorm": lambda x, g, b: (
        g * (x - last(x)) / (x.std(-1, keepdim=True) + EPSILON) + b
    ),
    "epsilon outside, RMSNorm": lambda x, g, b: g * x / (torch.sqrt(last(x.pow(2))) + EPSILON),
}

EXPORTERS = [("dynamo", 18), ("torchscript", 11), ("torchscript", 17)]


class Block(nn.Module):
    """A residual sum, a norm of it, and something that reads the norm."""

    def __init__(self, norm: Spelling) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm
        self.scale, self.bias = (
            nn.Parameter(torch.rand(HIDDEN) + 0.5),
            nn.Parameter(torch.rand(HIDDEN)),
        )
        self.linear = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x + self.linear(x), self.scale, self.bias))


def exported(norm: Spelling, exporter: str, opset: int, path: Path) -> Path:
    axes = {"x": {0: "batch", 1: "sequence"}}
    example = Example(Block(norm).eval(), {"x": torch.randn(2, 5, HIDDEN)}, ["y"], axes)
    write(example, path, exporter, opset)
    return path


@pytest.mark.parametrize(("exporter", "opset"), EXPORTERS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((NormKind.LAYER_NORM, name) for name in LAYER_NORMS),
        *((NormKind.RMS_NORM, name) for name in RMS_NORMS),
    ],
)
def test_spellings_are_fused(
    kind: str, name: str, exporter: str, opset: int, tmp_path: Path
) -> None:
    norm = (LAYER_NORMS if kind == NormKind.LAYER_NORM else RMS_NORMS)[name]
    path = exported(norm, exporter, opset, tmp_path / "block.onnx")
    result = graphfuse.fuse(path, selection=graphfuse.Selection(costs="none"))
    assert [fusion.site.kind for fusion in result.fused] == [kind], result.left
    assert_passes(path, result.model)


@pytest.mark.parametrize(("exporter", "opset"), EXPORTERS)
@pytest.mark.parametrize("name", NOT_NORMS)
def test_what_is_no_norm_is_left(name: str, exporter: str, opset: int, tmp_path: Path) -> None:
    path = exported(NOT_NORMS[name], exporter, opset, tmp_path / "block.onnx")
    result = graphfuse.fuse(path)
    assert not result.changed
    assert [miss.reason for miss in result.left] == [Reason.EPSILON_OUTSIDE_ROOT]

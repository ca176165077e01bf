"""A fast part of the zoo, and the eager oracle that it counts with. All: python -m tests.campaigns.zoo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.campaigns.zoo import known
from tests.campaigns.zoo.__main__ import EXPORTS
from tests.campaigns.zoo.architectures import FAMILIES, ZOO
from tests.campaigns.zoo.trial import Trial, run
from tests.support.eager import count_sites

FAST = [
    ("deberta", "torchscript", 17),
    ("gemma2", "torchscript", 17),
    ("swin", "torchscript", 17),
    ("whisper", "torchscript", 17),
    ("cohere", "dynamo", 18),
]


@pytest.mark.parametrize(("name", "exporter", "opset"), FAST)
def test_every_site_of_the_zoo_is_fused(
    name: str, exporter: str, opset: int, tmp_path: Path
) -> None:
    trial = Trial(name, exporter, opset)
    outcome = run(trial, tmp_path)
    assert not outcome.difference, outcome
    if not trial.known(known.NOT_EXPORTED, ""):
        assert outcome.status == "validated"
        assert outcome.fused == outcome.sites - trial.known(known.UNFUSED, 0) > 0


def test_the_zoo_holds_what_it_promises() -> None:
    assert len(ZOO) == sum(map(len, FAMILIES.values())) >= 150
    promised = """opt olmo mpt cohere gemma2 gemma3 falcon gpt-neox swin deberta deberta-v2 whisper
        t5 modernbert bloom phi qwen3 stablelm nemotron"""
    assert set(promised.split()) <= ZOO.keys()


@pytest.mark.parametrize(
    "table", [known.NOT_EXPORTED, known.NOT_RUN, known.NOT_JUDGED, known.LEFT, known.UNFUSED]
)
def test_what_is_known_is_about_the_zoo(table: dict[tuple[str, str], object]) -> None:
    exporters = {
        "*",
        "float16",
        *(e for e, _ in EXPORTS),
        *(f"{e} {opset}" for e, opset in EXPORTS),
    }
    assert {name for name, _ in table} <= ZOO.keys()
    assert {exporter for _, exporter in table} <= exporters


class NoNorm(nn.LayerNorm):
    """A norm by its ancestor, not by its name: MobileBERT has one that only scales."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class IntLayerNorm(nn.Module):
    """A norm with a child, as I-BERT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.activation = nn.Parameter(torch.ones(8)), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x / (x * x).mean(-1, keepdim=True).add(1e-6).sqrt() * self.weight)


class Model(nn.Module):
    """One way for a norm to read a sum, or to look as if it did."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.batch = nn.LayerNorm(8), nn.BatchNorm1d(3).eval()
        self.scale, self.other, self.none = nn.Parameter(torch.ones(())), IntLayerNorm(), NoNorm(8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return getattr(self, self.kind)(a, b)

    def functional(self, a: Tensor, b: Tensor) -> Tensor:
        return nn.functional.layer_norm(a + b, (8,))

    def keyword(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(input=a + b)

    def with_children(self, a: Tensor, b: Tensor) -> Tensor:
        return self.other(a + b)

    def flattened(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm((a + b).flatten(0, 1))

    def plus_zero(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(a + b + 0)

    def twice_in_place(self, a: Tensor, b: Tensor) -> Tensor:
        x = a * b
        x += a
        n = self.norm(x)
        x += b
        return n * self.norm(x)

    def overwritten(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm((a + b).mul_(b))

    def sliced(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm((a + b)[:1])

    def unread(self, a: Tensor, b: Tensor) -> Tensor:
        x = a + b
        self.norm(x)
        return x

    def over_the_batch(self, a: Tensor, b: Tensor) -> Tensor:
        return self.batch(a + b)

    def no_norm(self, a: Tensor, b: Tensor) -> Tensor:
        return self.none(a + b)


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        ("functional", 1),
        ("keyword", 1),
        ("with_children", 1),
        ("flattened", 1),
        ("plus_zero", 1),
        ("twice_in_place", 2),
        ("overwritten", 0),
        ("sliced", 0),
        ("unread", 0),
        ("over_the_batch", 0),
        ("no_norm", 0),
    ],
)
def test_what_the_oracle_counts(kind: str, sites: int) -> None:
    inputs = {"a": torch.randn(2, 3, 8), "b": torch.randn(2, 3, 8)}
    assert count_sites(Model(kind), inputs) == sites

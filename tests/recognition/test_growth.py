"""Large graphs: no recursion, every site found, and work that grows with the nodes.

Nothing is timed here; tests/campaigns/benchmarks/scan_growth.py is for that.
"""

from __future__ import annotations

import cProfile
import pstats

import onnx
import pytest

import graphfuse
from tests.campaigns.benchmarks.growing import STYLES, chain, decoder

LAYERS = 2000


def calls(model: onnx.ModelProto) -> int:
    """How many function calls a scan makes: its work, but for what single C calls do."""
    profile = cProfile.Profile()
    profile.runcall(graphfuse.scan, model)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


def test_a_deep_chain_is_scanned_to_its_end() -> None:
    model = chain(LAYERS)

    found = graphfuse.scan(model)

    norms = [f"layers.{layer}.norm" for layer in range(LAYERS)]
    assert [site.output for site in found.sites] == norms
    assert not found.near_misses


@pytest.mark.parametrize("style", STYLES)
def test_every_site_of_a_decoder_is_found(style: str) -> None:
    # The benchmark's count: a norm behind each sum, and the last behind the last layer.
    layers = 7

    result = graphfuse.fuse(decoder(layers, style))

    assert len(result.fused) == 2 * layers
    assert not result.left


@pytest.mark.parametrize("style", STYLES)
def test_ten_times_the_layers_are_ten_times_the_work(style: str) -> None:
    graphfuse.scan(decoder(1, style))  # what is imported or cached once is no part of either

    small, large = calls(decoder(10, style)), calls(decoder(100, style))

    assert large <= 10.5 * small

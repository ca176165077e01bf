"""The rounded twin: what G2 allows a model by rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from graphfuse.feeds import random_feeds
from graphfuse.pipeline import as_model
from graphfuse.validation.reference import Twin, jittered
from graphfuse.validation.tolerance import distance

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize(("name", "roundoff"), [("bert", 2.0**-24), ("llama-float16", 2.0**-11)])
def test_samples_of_rounding_differ_and_are_as_far_from_float64(name: str, roundoff: float) -> None:
    model = as_model(MODELS / f"{name}.onnx")
    twin, feeds = Twin(model), random_feeds(model.proto)
    output = twin.outputs[0]
    exact = twin.run(feeds)[output]
    samples = [twin.run_rounded(feeds, sample)[output] for sample in range(4)]
    far = [distance(sample, exact) for sample in samples]
    assert all(roundoff / 4 < value < 64 * roundoff for value in far)
    assert max(far) < 2 * min(far)
    assert not any(np.array_equal(samples[0], sample) for sample in samples[1:])
    assert np.array_equal(samples[1], twin.run_rounded(feeds, 1)[output])


def test_jitter_stays_within_half_a_unit_and_leaves_integers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=1000)
    moved = jittered(x, TensorProto.FLOAT16, rng)
    assert 0 < np.abs(moved / x - 1).max() <= 2.0**-11
    ids = np.arange(5)
    assert jittered(ids, TensorProto.FLOAT16, rng) is ids

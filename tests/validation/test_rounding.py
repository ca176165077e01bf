"""The rounded twin: what G2 allows a model by rounding."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from graphfuse.running.random_feeds import random_feeds
from graphfuse.steps.opening import as_model
from graphfuse.validation.reference import Twin
from graphfuse.validation.rounding import rounded_by_chance
from graphfuse.validation.tolerance import distance
from tests.conftest import ROOT

MODELS = ROOT / "models"


@pytest.mark.parametrize(("name", "roundoff"), [("bert", 2.0**-24), ("llama-float16", 2.0**-11)])
def test_samples_of_rounding_differ_and_are_as_far_from_float64(name: str, roundoff: float) -> None:
    model = as_model(MODELS / f"{name}.onnx")
    twin, feeds = Twin(model), random_feeds(model.proto)
    output = twin.outputs[0]
    exact = twin.run(feeds)[output]
    samples = [twin.run_rounded(feeds, sample)[output] for sample in range(4)]
    far = [distance(sample, exact) for sample in samples]
    assert all(roundoff / 4 < value < 64 * roundoff for value in far)
    assert max(far) < 1.5 * min(far)
    assert not any(np.array_equal(samples[0], sample) for sample in samples[1:])
    assert np.array_equal(samples[1], twin.run_rounded(feeds, 1)[output])


def test_chance_has_the_errors_of_rounding_with_either_sign() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=1000), [0.0, 1.0, 65504.0, np.inf, np.nan, 1e6]])
    nearest = rounded_by_chance(x, TensorProto.FLOAT16, None)
    moved = rounded_by_chance(x, TensorProto.FLOAT16, rng)
    errors = [np.abs(rounded[:1000] - x[:1000]) for rounded in (nearest, moved)]
    assert np.allclose(*errors, rtol=1e-9, atol=0)
    assert 400 < np.count_nonzero(nearest[:1000] != moved[:1000]) < 600
    assert np.array_equal(nearest[1000:], moved[1000:], equal_nan=True)
    ids = np.arange(5)
    assert rounded_by_chance(ids, TensorProto.INT64, rng) is ids

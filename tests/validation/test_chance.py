"""G2 by chance: how many rounding errors of an output are independent, and what that allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphfuse
from graphfuse.validation import whole_model
from graphfuse.validation.chance import Spread, as_accurate, spread
from graphfuse.validation.tolerance import end_to_end
from tests.campaigns.calibration import outcome, stack


def samples(directions: int, elements: int, count: int, seed: int) -> list[np.ndarray]:
    """Runs around ones whose errors of 1e-6 lie in a space of few directions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(elements, directions)))[0]
    errors = rng.normal(size=(count, directions)) @ basis.T * np.sqrt(elements / directions)
    return list(1.0 + 1e-6 * errors)


@pytest.mark.parametrize("directions", [3, 10, 40, 160])
def test_independent_errors_are_counted(directions: int) -> None:
    found = [spread(samples(directions, 320, 16, seed), np.ones(320), np.inf) for seed in range(10)]
    counts = [each.independent for each in found if each is not None]
    assert len(counts) == 10
    assert np.median(counts) == pytest.approx(directions, rel=0.3)
    assert np.mean([each.size for each in found if each]) == pytest.approx(1e-6, rel=0.2)


def test_what_tells_nothing_has_no_spread() -> None:
    exact = np.ones(8)
    assert spread([exact], exact, np.inf) is None
    assert spread([exact, exact], exact, np.inf) is None
    assert spread([exact * np.nan, exact], exact, np.inf) is None
    assert spread([exact, exact * 2], np.zeros(8), np.inf) is None
    one = spread(samples(1, 8, 16, 0), exact, np.inf)
    assert one is not None
    assert 2.0 <= one.independent < 2.5


def test_masks_are_left_out() -> None:
    exact = np.append(np.ones(320), np.finfo(np.float32).min)
    runs = [np.append(sample, exact[-1]) for sample in samples(10, 320, 16, 0)]
    found = spread(runs, exact, np.inf)
    assert found == spread(samples(10, 320, 16, 0), np.ones(320), np.inf)


@pytest.mark.parametrize("independent", [4, 10, 40])
def test_an_equally_accurate_model_is_no_further_but_by_rare_chance(independent: int) -> None:
    """Three feeds, kernels three times as far off as the samples; the last feed is judged."""
    rng = np.random.default_rng(independent)
    counts, trials = (100, 150, independent), 20_000
    original, fused = (
        3e-7 * np.sqrt([rng.chisquare(nu, trials) / nu for nu in counts]) for _ in range(2)
    )
    spreads = [Spread(1e-7, nu) for nu in counts]
    bounds = np.array(
        [as_accurate(spreads[-1], list(zip(spreads, far, strict=True))) for far in original.T]
    )
    alarms = np.mean(fused[-1] > bounds)
    assert alarms < 1e-4
    # Elements instead of independent errors, and one feed: what was taken before.
    if independent == 10:
        assert np.mean(fused[-1] > end_to_end(64) * original[-1]) > 0.02
    # And it has teeth, the more there is to see.
    times = {4: 10, 10: 5, 40: 3}[independent]
    assert np.mean(times * fused[-1] > bounds) > 0.9


@pytest.mark.parametrize(
    ("blocks", "weights", "seed"),
    [(24, "tied", 1), (24, "tied", 17), (24, "tied", 27), (24, "untied", 16), (48, "tied", 0)],
)
def test_deep_narrow_stacks_are_no_false_alarm(blocks: int, weights: str, seed: int) -> None:
    """A sample of `python -m tests.campaigns.calibration`; the first four failed when elements were taken."""
    assert outcome(blocks, 64, weights, seed).failures == ()


@pytest.mark.parametrize("weights", ["tied", "untied"])
def test_three_times_as_far_is_no_chance(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = stack(24, 64, weights, 17)
    fused = graphfuse.fuse(original).model
    run, rng = whole_model.run, np.random.default_rng(0)

    def further(made: Any, feeds: Any, *rest: Any) -> Any:
        outputs = run(made, feeds, *rest)
        if made not in worse:
            return outputs
        return {k: v * (1 + 2.5e-6 * rng.normal(size=v.shape)) for k, v in outputs.items()}

    worse: list[Any] = []
    session = whole_model.session

    def remember(proto: Any, *arguments: Any, **options: Any) -> Any:
        made = session(proto, *arguments, **options)
        if any(node.domain == "graphfuse" for node in proto.graph.node):
            worse.append(made)
        return made

    monkeypatch.setattr(whole_model, "session", remember)
    monkeypatch.setattr(whole_model, "run", further)
    report = graphfuse.validate(original, fused, feeds=graphfuse.Feeds(seed=17))
    assert {check.gate for check in report.failures} == {"G2"}

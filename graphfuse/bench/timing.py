"""Paired timing: contenders take turns, so what disturbs the machine disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

SAMPLE_SECONDS = 1e-3
"""A sample repeats its call until it lasts this long, far above what the clock resolves."""

SETTLE_SECONDS = 30e-3
"""Rest before a sample: onnxruntime's threads spin on after a run, on the next one's cores."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call of one contender: one median per contender, all samples kept."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the samples, in seconds."""
        return float(np.median(self.samples))

    def ratio(self, other: Timing) -> tuple[float, float, float]:
        """How many times faster this one is than `other`, with the quartiles of the pairs."""
        pairs = np.asarray(other.samples) / np.asarray(self.samples)
        low, middle, high = np.quantile(pairs, (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)


def paired(
    calls: Mapping[str, Callable[[], object]], seconds: float = 1.0, rounds: int = 15
) -> dict[str, Timing]:
    """Time calls in turns for about `seconds` each, at least `rounds` rounds.

    The order turns by one in each round, so none is always first.
    """
    names = list(calls)
    repeats = {name: _repeats(calls[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds * len(names)
    done = 0
    while done < rounds or time.perf_counter() < end:
        for name in names[done % len(names) :] + names[: done % len(names)]:
            samples[name].append(_sample(calls[name], repeats[name]))
        done += 1
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _sample(call: Callable[[], object], repeats: int) -> float:
    time.sleep(SETTLE_SECONDS)
    call()  # wakes the threads again
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object]) -> int:
    """How often a call is repeated in a sample; also the warm-up."""
    once = min(_sample(call, 3) for _ in range(3))
    return max(1, round(SAMPLE_SECONDS / once))

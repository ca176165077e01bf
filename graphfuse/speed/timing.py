"""Paired timing: contenders take turns, so what disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from graphfuse.system import libraries

SAMPLE_SECONDS = 1e-3
"""A sample repeats its call until it lasts this long, far above what the clock resolves."""

SETTLE_SECONDS = 30e-3
"""Rest before a sample: onnxruntime's threads spin on after a run, on the next one's cores."""


AFFINITIES_KEY = "session.intra_op_thread_affinities"
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with the ends of its confidence interval."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads a session has, and the processors of those beside the calling one.

    `others` is empty where threads cannot be pinned.
    """

    count: int
    others: str = ""

    def apply(self, options: libraries.SessionOptions) -> None:
        """Give a session's options these threads."""
        options.intra_op_num_threads = self.count
        if self.others:
            options.add_session_config_entry(AFFINITIES_KEY, self.others)


@contextmanager
def pinned(count: int) -> Generator[Threads]:
    """Keep the calling thread on one processor, and say which ones `count` threads are to have.

    Unpinned, the scheduler puts two threads on one core now and then, and figures have two modes.
    Does nothing where the system cannot, or has fewer processors than threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield Threads(count)
        return
    allowed = os.sched_getaffinity(0)
    processors = sorted(allowed)
    if len(processors) < count or len(processors) == 1:
        yield Threads(count)
        return
    os.sched_setaffinity(0, {processors[0]})
    try:
        # onnxruntime counts processors from 1.
        yield Threads(count, ";".join(str(index + 1) for index in processors[1:count]))
    finally:
        os.sched_setaffinity(0, allowed)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call of one contender: one median per contender, all samples kept."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the samples, in seconds."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the samples, in seconds."""
        low, high = np.quantile(self.samples, (0.25, 0.75))
        return float(low), float(high)

    def speedup(self, other: Timing) -> Interval:
        """How many times faster this one is than `other`: the median of the pairs.

        The interval holds the median of all pairs with a probability of 95 %, whatever their
        distribution: its ends are pairs, by rank (the sign test turned around).
        """
        pairs = sorted(b / a for a, b in zip(self.samples, other.samples, strict=True))
        rank = _rank(len(pairs))
        return Interval(pairs[rank], float(np.median(pairs)), pairs[-1 - rank])

    def ratio(self, other: Timing) -> tuple[float, float, float]:
        """How many times faster this one is than `other`, with the quartiles of the pairs."""
        pairs = np.asarray(other.samples) / np.asarray(self.samples)
        low, middle, high = np.quantile(pairs, (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)


def _rank(count: int) -> int:
    """The rank, from either end, of the sample that bounds the median of `count` samples.

    The chance that fewer than `rank + 1` of them are below the median is at most (1 - 0.95) / 2.
    """
    chance, rank = 0.0, 0
    for below in range(count // 2):
        chance += math.comb(count, below) / 2**count
        if chance > (1 - CONFIDENCE) / 2:
            break
        rank = below
    return rank


CLOCKS: Mapping[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}
"""What is measured: time that passes, or time that the processors work for this process. The latter
hardly depends on who else uses the machine; with several threads it counts their waiting too."""


def paired(
    calls: Mapping[str, Callable[[], object]],
    seconds: float = 1.0,
    rounds: int = 15,
    clock: str = "wall",
    settle: float | None = None,
    told: Callable[[float], object] | None = None,
) -> dict[str, Timing]:
    """Time calls in turns for about `seconds` each, at least `rounds` rounds.

    The order turns by one in each round, so none is always first. `clock` is one of CLOCKS, and
    `settle` the rest before each sample, in seconds: SETTLE_SECONDS if not given. `told` is called
    between rounds, with the share that is done.
    """
    names, now = list(calls), CLOCKS[clock]
    rest = SETTLE_SECONDS if settle is None else settle
    repeats = {name: _repeats(calls[name], now, rest) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    begun, whole = time.perf_counter(), seconds * len(names)
    end = begun + whole
    done = 0
    while done < rounds or time.perf_counter() < end:
        for name in names[done % len(names) :] + names[: done % len(names)]:
            samples[name].append(_sample(calls[name], repeats[name], now, rest))
        done += 1
        if told is not None:
            passed = (time.perf_counter() - begun) / whole if whole else 1.0
            told(min(passed, done / rounds, 1.0))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _sample(
    call: Callable[[], object], repeats: int, now: Callable[[], float], rest: float
) -> float:
    time.sleep(rest)
    call()  # wakes the threads again
    start = now()
    for _ in range(repeats):
        call()
    return (now() - start) / repeats


def _repeats(call: Callable[[], object], now: Callable[[], float], rest: float) -> int:
    """How often a call is repeated in a sample; also the warm-up."""
    once = min(_sample(call, 3, now, rest) for _ in range(3))
    # A clock of coarse steps can show nothing at all.
    return max(1, round(SAMPLE_SECONDS / max(once, 1e-7)))

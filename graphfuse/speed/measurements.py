"""The records of measurements. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphfuse.errors import UsageError
from graphfuse.records import HashedFile, arguments
from graphfuse.records.element_types import ElementType
from graphfuse.records.requests import Clock, chosen
from graphfuse.running.random_feeds import Sizes
from graphfuse.speed.timing import Interval

ORIGINAL, BEST = "original", "original, slow fusions off"
FUSED, PLAIN = "fused", "fused, plain session"
"""The contenders of a comparison."""


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` measures.

    Args:
        seconds: For each contender, and each number of threads and size.
        threads: Numbers of threads.
        sizes: What unknown extents are, batch and others; empty: the first of several that fits.
        kernels: False gives the fused model the default session only, as one without graphfuse.
        look_inside: Whether the profiler says where the time goes.
        memory: Whether processes of their own measure load time and memory.
        clock: `wall`, or `processor`: the work of this process, on a busy machine (`Clock`).

    Raises:
        UsageError: For a clock that there is not.
    """

    seconds: float = 5.0
    threads: tuple[int, ...] = (1,)
    sizes: tuple[Sizes, ...] = ()
    kernels: bool = True
    look_inside: bool = True
    memory: bool = True
    clock: Clock | str = Clock.WALL

    def __post_init__(self) -> None:
        """A clock by its name is that clock; a number of threads alone is one."""
        arguments.seconds("seconds", self.seconds, or_none=True)
        threads = (self.threads,) if isinstance(self.threads, int) else tuple(self.threads)
        counts = tuple(arguments.count("threads", each, 1) for each in threads)
        if not counts:
            raise UsageError("no number of threads is given", "give one, such as (1,)")
        object.__setattr__(self, "threads", counts)
        for size in self.sizes:
            arguments.expect("a size", size, Sizes, "give running.random_feeds.Sizes(1, 128)")
        for name in ("kernels", "look_inside", "memory"):
            arguments.flag(name, getattr(self, name))
        object.__setattr__(self, "clock", chosen(Clock, self.clock, "clock"))


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a session's time goes, by onnxruntime's profiler.

    `shares` are the operators' shares of the time of all nodes, `norms` that of every norm and of
    the sums that feed them, fused or not. `providers` are the execution providers that ran each
    fused node, by the node's name.
    """

    shares: Mapping[str, float]
    norms: float
    providers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process of its own needed: to make the session, and at most while it ran.

    `load` is the median of several processes; `memory` is the most that one had in memory, and
    `grown` how much of that came after onnxruntime was imported; `device` is what a GPU lost, None
    without one.
    """

    load: float
    memory: int
    grown: int
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """One model on one feed: seconds of a run (median, quartiles), and what else was looked at."""

    median: float
    quartiles: tuple[float, float]
    profile: Profile | None = None
    footprint: Footprint | None = None


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster `of` is than `beside`, by their names: the median of pairs."""

    of: str
    beside: str
    times: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one provider, with one number of threads, on one feed.

    `original` is the original in onnxruntime's default session, `fused` the fused model in
    graphfuse's (or a default one, where that is asked for). `speedup` is how many times faster the
    second is, the median of `pairs` pairs with the ends of its 95 % confidence interval. On the CPU
    more sessions are timed in the same rounds: `best` is the original without the fusions that
    are slow in this onnxruntime, None where none is; `plain` the fused model in a default session.
    `speedups` are all pairs of sessions that say something.
    """

    ep: str
    provider: str
    threads: int
    feed: str
    shapes: Mapping[str, tuple[int, ...]]
    original: Figures
    fused: Figures
    speedup: Interval
    pairs: int
    best: Figures | None = None
    plain: Figures | None = None
    speedups: tuple[Speedup, ...] = ()

    @property
    def beside_best(self) -> Interval:
        """How many times faster the fused model is than the original at its best."""
        beside = (one for one in self.speedups if (one.of, one.beside) == (FUSED, BEST))
        return next((one.times for one in beside), self.speedup)


@dataclass(frozen=True, slots=True)
class SiteTiming:
    """A distinct site alone: seconds of one run of it in each form, and how often the model has it.

    `forms` are `original` (a default session), and the fused ones; `speedups` say how many times
    faster each of these is. `best` is the form to take: the fastest that beats the original by more
    than the noise, or `original`.
    """

    sites: tuple[str, ...]
    kind: str
    elem_type: ElementType
    shape: tuple[int, ...]
    sum_is_read: bool
    forms: Mapping[str, float]
    speedups: Mapping[str, Interval]
    best: str


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What `graphfuse bench` measured, on what machine, and of which files."""

    environment: Mapping[str, str]
    comparisons: tuple[Comparison, ...] = ()
    sites: tuple[SiteTiming, ...] = ()
    notes: tuple[str, ...] = ()
    read: tuple[HashedFile, ...] = ()

"""Two models against each other: per provider, number of threads and feed, in paired runs.

The original gets onnxruntime's default session, the fused model the one of
`graphfuse.session_options()`, both at ORT_ENABLE_ALL: what a user has before and after. On the CPU
two more take part: the original without those of onnxruntime's fusions that are slow in the
installed version, which anybody could have without graphfuse, and the fused model in a default
session, which is what those have who do not register the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from graphfuse.errors import GateError, OriginalModelError, UsageError, ValidationError, in_one_line
from graphfuse.files.model_file import Model
from graphfuse.graph.bodies import strange, strange_names
from graphfuse.planning import advice, runtimes
from graphfuse.planning.targets import Target
from graphfuse.records.progress import Progress, tell_part
from graphfuse.running.feeding import Feed, Feeding
from graphfuse.running.fitting import Fitting
from graphfuse.running.profiler import ProfiledNode, profile, require_fused_on
from graphfuse.running.random_feeds import Sizes
from graphfuse.running.sessions import CPU, run
from graphfuse.speed.bound_runs import Contender, SessionKind, caller, environment
from graphfuse.speed.footprint import footprints
from graphfuse.speed.measurements import (
    BEST,
    FUSED,
    ORIGINAL,
    PLAIN,
    BenchOptions,
    BenchReport,
    Comparison,
    Figures,
    Speedup,
)
from graphfuse.speed.shares import shares, site_nodes
from graphfuse.speed.timing import Threads, Timing, paired, pinned
from graphfuse.system import libraries, machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PAIRS = ((FUSED, ORIGINAL), (FUSED, BEST), (PLAIN, ORIGINAL), (PLAIN, BEST), (BEST, ORIGINAL))
"""What is told of each comparison: who, beside whom."""

ROUNDS = 16
"""The least rounds of a comparison. All sessions are made anew for a part of them, as often as
there are contenders, each first once: where the weights of one happen to lie in memory, and which
was made before the other, is worth 3 % of the time of a model that does not fit the caches."""

PROFILED_RUNS = 10
BENCH_SIZES = (Sizes(1, 128), Sizes(1, 64), Sizes(1, 16), Sizes(2, 7))
"""What unknown extents are where the user says nothing: the first of these that the model takes."""


def compare(
    original: Model,
    fused: Model,
    target: Target,
    feeding: Feeding,
    options: BenchOptions,
    progress: Progress,
) -> BenchReport:
    """Measure both models on each provider of a target.

    Raises OriginalModelError when the original runs on no feed, ValidationError when the fused one
    does not, and ProviderError when fused nodes ran on another provider.
    """
    found: list[Comparison] = []
    for ep, provider in target.providers.items():
        contenders = _contenders(original, fused, provider, options)
        feeds = _feeds(original, provider, feeding, options, len(contenders))
        for count in options.threads:
            with pinned(count) as threads:
                trial = _Trial(contenders, ep, provider, threads, options, progress)
                found += trial.comparisons(feeds, feeding.run_limit)
    notes = advice.of_bodies(fused.proto, runtimes.runtime())
    notes += advice.of_strange(strange_names(fused.proto))
    return BenchReport(environment(), tuple(found), notes=tuple(notes))


def _contenders(
    original: Model, fused: Model, provider: str, options: BenchOptions
) -> tuple[Contender, ...]:
    # A function of the model's own under one of our names is not to be run by our kernels.
    kernels = options.kernels and not strange(fused.proto)
    kind = SessionKind.GRAPHFUSE if kernels else SessionKind.DEFAULT
    found = [Contender(ORIGINAL, original, SessionKind.DEFAULT), Contender(FUSED, fused, kind)]
    if provider == CPU and runtimes.runtime().slow_fusions:
        found.append(Contender(BEST, original, SessionKind.BEST))
    if provider == CPU and kernels:
        found.append(Contender(PLAIN, fused, SessionKind.DEFAULT))
    return tuple(found)


def _feeds(
    model: Model, provider: str, feeding: Feeding, options: BenchOptions, sessions: int
) -> list[list[Feed]]:
    """Sets of feeds; raises TooLargeError where the sessions do not fit into memory on one."""
    sizes = [(size,) for size in options.sizes] or [BENCH_SIZES]
    groups = feeding.sized(model.proto, sizes)
    if provider != CPU:
        # Other providers have memory of their own, of which the system does not tell.
        return groups
    doing = f"timing {sessions} sessions together"
    fitting = Fitting(model, needs=feeding.needs, doing=doing, sessions=sessions)
    return [fitting.those_that_fit(group) for group in groups]


@dataclass
class _Trial:
    """One provider and number of threads."""

    contenders: tuple[Contender, ...]
    ep: str
    provider: str
    threads: Threads
    options: BenchOptions
    progress: Progress

    def comparisons(self, groups: Sequence[Sequence[Feed]], limit: float) -> list[Comparison]:
        """A comparison for each set of feeds, on the first that the original runs on."""
        sessions = self._sessions(0)
        feeds = [_first_that_runs(sessions[ORIGINAL], g, self.provider, limit) for g in groups]
        samples: list[dict[str, list[float]]] = [
            {c.name: [] for c in self.contenders} for _ in feeds
        ]
        for turn in range(len(self.contenders)):
            if turn:
                # The old ones go first: two sets of weights may be more than there is room for.
                sessions.clear()
                sessions = self._sessions(turn)
            for number, (feed, found) in enumerate(zip(feeds, samples, strict=True)):
                done, every = turn * len(feeds) + number, len(self.contenders) * len(feeds)
                for name, timing in self._timed(sessions, feed, (done, every)).items():
                    found[name] += timing.samples
        sessions.clear()
        timings = [{name: Timing(tuple(s)) for name, s in found.items()} for found in samples]
        return [self._compare(*one) for one in zip(feeds, timings, strict=True)]

    def _sessions(self, turn: int) -> dict[str, libraries.Session]:
        """A session for each contender, made in another order at each turn."""
        self.progress.stage(f"loading both models on {self.provider}")
        turned = (*self.contenders[turn:], *self.contenders[:turn])
        made = {contender.name: self._session(contender) for contender in turned}
        return {contender.name: made[contender.name] for contender in self.contenders}

    def _session(self, contender: Contender) -> libraries.Session:
        try:
            return contender.session(self.provider, self.threads)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            remedy = "load it in onnxruntime alone first; no feed can help"
            raise _does_not_run(contender.name, self.provider, error, remedy) from error

    def _where(self, feed: Feed) -> str:
        return f"on {self.provider}, {self.threads.count} threads, {feed.label}"

    def _timed(
        self, sessions: Mapping[str, libraries.Session], feed: Feed, told: tuple[int, int]
    ) -> dict[str, Timing]:
        """Timings of each contender; `told` are the parts that are done, and all of them."""
        self.progress.stage(f"timing {self._where(feed)}")
        tell_part(self.progress, float(told[0]), told[1])
        try:
            run(sessions[FUSED], feed.values)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            raise _does_not_run(FUSED, self.provider, error) from error
        calls = {name: caller(made, feed.values, self.provider) for name, made in sessions.items()}
        turns = len(self.contenders)
        return paired(
            calls,
            self.options.seconds / turns,
            ROUNDS // turns,
            self.options.clock,
            told=lambda share: tell_part(self.progress, told[0] + share, told[1]),
        )

    def _compare(self, feed: Feed, timings: Mapping[str, Timing]) -> Comparison:
        where = self._where(feed)
        figures = {name: _figures(timing) for name, timing in timings.items()}
        if self.options.look_inside:
            self.progress.stage(f"profiling {where}")
            figures = self._with_profiles(figures, feed)
        if self.options.memory:
            self.progress.stage(f"measuring memory {where}")
            needed = footprints(self.contenders[:2], self.provider, self.threads, feed.values)
            for name, footprint in needed.items():
                figures[name] = replace(figures[name], footprint=footprint)
        return Comparison(
            self.ep,
            self.provider,
            self.threads.count,
            feed.label,
            {name: tuple(array.shape) for name, array in feed.values.items()},
            figures[ORIGINAL],
            figures[FUSED],
            timings[FUSED].speedup(timings[ORIGINAL]),
            len(timings[FUSED].samples),
            figures.get(BEST),
            figures.get(PLAIN),
            tuple(
                Speedup(of, beside, timings[of].speedup(timings[beside]))
                for of, beside in PAIRS
                if of in timings and beside in timings
            ),
        )

    def _with_profiles(self, figures: Mapping[str, Figures], feed: Feed) -> dict[str, Figures]:
        spent: dict[str, dict[ProfiledNode, float]] = {}
        for c in self.contenders[:2]:
            options = c.options(self.provider, self.threads)
            make = partial(c.session, self.provider, self.threads)
            spent[c.name] = profile(make, options, feed.values, PROFILED_RUNS)
        require_fused_on(spent[FUSED], self.provider)
        before, after = spent[ORIGINAL], spent[FUSED]
        names = site_nodes(self.contenders[0].model)
        profiles = {ORIGINAL: shares(before, names), FUSED: shares(after, names)}
        return dict(figures) | {
            name: replace(figures[name], profile=profile) for name, profile in profiles.items()
        }


def _figures(timing: Timing) -> Figures:
    return Figures(timing.median, timing.quartiles)


def _first_that_runs(
    made: libraries.Session, feeds: Sequence[Feed], provider: str, limit: float
) -> Feed:
    failure: Exception | None = None
    for feed in feeds:
        values = feed.values
        try:
            run(made, values, limit)
        except TimeoutError as error:
            # The sizes that are tried next are smaller, but what ran so long may have no end.
            remedy = (
                "give it smaller feeds with --input-shapes or --sizes, or more time with "
                "--run-limit"
            )
            raise _does_not_run(ORIGINAL, provider, error, remedy) from error
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            failure = failure or error
            continue
        return feed
    if failure is None:
        raise UsageError("there is nothing to feed", "give feeds with --load-inputs")
    raise _does_not_run(ORIGINAL, provider, failure) from failure


def _does_not_run(
    name: str,
    provider: str,
    error: Exception,
    remedy: str = "give other feeds with --input-shapes, --sizes or --load-inputs",
) -> Exception:
    if isinstance(error, (UsageError, OriginalModelError)) or hasattr(error, "exit_code"):
        return error
    text, doing = in_one_line(error), f"running the {name} model on {provider}"
    if name == ORIGINAL:
        remedy = machine.remedy(error, doing, remedy)
    else:
        machine.check(error, doing)
    kind = OriginalModelError if name == ORIGINAL else ValidationError
    return kind(
        f"the {name} model does not run on {provider}: {text}",
        remedy,
    )


def missed_speedup(report: BenchReport, wanted: float) -> GateError | None:
    """The error of a fused model that is less than `wanted` times as fast anywhere.

    It is judged beside the original at its best, and by the upper end of the interval: what noise
    alone can explain is no failure.
    """
    slow = [found for found in report.comparisons if found.beside_best.high < wanted]
    if not slow:
        return None
    worst = min(slow, key=lambda found: found.beside_best.high)
    speedup = worst.beside_best
    return GateError(
        f"the fused model is {speedup.median:.3f} times as fast as the original at its best "
        f"({speedup.low:.3f} to {speedup.high:.3f}) on {worst.ep}, {worst.threads} threads, "
        f"{worst.feed}; --require-speedup asks for {wanted:g}",
        "`graphfuse fuse --autotune` keeps only what wins on this machine",
    )

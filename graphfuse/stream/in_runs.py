"""How large the residual stream gets: its sums in the model's own runs on the user's feeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.errors import OriginalModelError, UsageError, in_one_line
from graphfuse.files.model_file import Model
from graphfuse.records.residual_stream import Reading, StreamSum
from graphfuse.running.feeding import Feed, Feeding
from graphfuse.running.fitting import Fitting
from graphfuse.running.sessions import CPU, require_provider, run, session
from graphfuse.system import machine
from graphfuse.views.exposing import CHUNK, chunks, exposed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass
class _Pool:
    """Mean and squared deviation of arrays that come one after the other.

    Chan, Golub and LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances, 1979, equation 2.1.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, array: Array) -> None:
        values = array.astype(np.float64)
        finite = values[np.isfinite(values)]
        if finite.size:
            mean, total = float(finite.mean()), self.count + finite.size
            apart = mean - self.mean
            with np.errstate(over="ignore"):  # Beyond 1e154, which only float64 holds.
                self.squares += float(np.square(finite - mean).sum())
            if self.count:
                self.squares += apart * apart * self.count * finite.size / total
            self.mean += apart * finite.size / total
            self.count = total
            self.largest = max(self.largest, float(np.abs(finite).max()))
        if finite.size < values.size:
            self.largest = math.inf

    def reading(self, of: StreamSum) -> Reading:
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        seen = (of.sum, of.site, of.kind, of.layer, of.squares_in_type)
        return Reading(*seen, self.mean, std, self.largest)


def read(model: Model, sums: Sequence[StreamSum], feeding: Feeding) -> list[Reading]:
    """Run a model on the CPU, optimizations off, and measure sums of its main graph.

    Raises OriginalModelError when it does not run on the feeds, or does not fit into memory on
    them, UsageError for feeds that do not
    fit or leave every sum empty, and ProviderError when onnxruntime is missing.
    """
    require_provider(CPU)
    groups = _fitting(model, sums, feeding) if sums else []
    feeds: list[Feed] | None = None
    readings: list[Reading] = []
    measured = False
    for chunk in chunks(sums):
        wider = exposed(model, [each.sum for each in chunk])
        pools = [_Pool() for _ in chunk]
        try:
            made = session(wider.proto, wider.folder, CPU, False)
        except Exception as error:
            # onnxruntime raises its own classes, one per failure code.
            raise _does_not_run(error) from error
        if feeds is None:
            feeds = _runnable(made, groups, feeding.run_limit)
        for feed in feeds:
            values = _values(made, feed)
            for each, pool in zip(chunk, pools, strict=True):
                pool.add(np.asarray(values[each.sum]))
        measured |= any(pool.count or pool.largest for pool in pools)
        readings += [pool.reading(each) for each, pool in zip(chunk, pools, strict=True)]
    if sums and not measured:
        raise UsageError(
            "no sum of the residual stream has an element on these feeds: nothing was measured",
            "give larger feeds with --load-inputs or --input-shapes",
        )
    return readings


def _values(made: Any, feed: Feed) -> dict[str, Array]:
    try:
        return run(made, feed.values)
    except Exception as error:
        # It ran with the sums before it as outputs: memory may be short, or a thread.
        raise _does_not_run(error) from error


def _fitting(model: Model, sums: Sequence[StreamSum], feeding: Feeding) -> list[list[Feed]]:
    """Sets of feeds, of each those that fit. Raises TooLargeError where none does."""
    captured = [each.sum for each in sums[:CHUNK]]
    fitting = Fitting(model, captured, doing="running the model", sessions=1)
    return [fitting.those_that_fit(group) for group in feeding.feeds(model.proto, 1)]


def _runnable(made: Any, groups: Sequence[Sequence[Feed]], limit: float) -> list[Feed]:
    """Of each set of feeds the first that the model runs on; what the user gives must run."""
    found: list[Feed] = []
    for alternatives in groups:
        failure: Exception | None = None
        for feed in alternatives:
            values = feed.values
            try:
                run(made, values, limit)
            except Exception as error:
                # As above; another size may run.
                failure = failure or error
                continue
            found.append(feed)
            failure = None
            break
        if failure is not None:
            raise _does_not_run(failure) from failure
    return found


def _does_not_run(error: Exception) -> OriginalModelError:
    usual = (
        "say sizes that it takes with --symbol or --input-shapes, or give feeds with --load-inputs"
    )
    remedy = machine.remedy(error, f"running the model on {CPU}", usual)
    return OriginalModelError(f"the model does not run on {CPU}: {in_one_line(error)}", remedy)

"""Measuring, on this machine, which sites of a model win by being fused, and in which form."""

from __future__ import annotations

import os

from graphfuse.files.model_file import Model
from graphfuse.planning.targets import Target
from graphfuse.records import Cost, Scan
from graphfuse.records.progress import Progress
from graphfuse.records.requests import Feeds
from graphfuse.speed.measurements import BenchOptions, SiteTiming
from graphfuse.speed.site_timing import SITE_SIZES, SiteForm, Tuner, symbols_of
from graphfuse.speed.timing import pinned


def autotune(
    model: Model,
    scan: Scan,
    target: Target,
    feeds: Feeds,
    progress: Progress,
) -> dict[str, Cost]:
    """The cost of each site by id, each distinct one timed in its original and every fused form.

    Of `feeds` are taken the shapes of inputs and the extents by symbol; what they leave open is a
    batch of 1 and 128 positions. A site that cannot be cut out of its model is not in the result.
    """
    with pinned(os.cpu_count() or 1) as threads:
        symbols = symbols_of(model.proto, feeds.input_shapes, feeds.symbols)
        tuner = Tuner(model, target, threads, SITE_SIZES, symbols, BenchOptions(seconds=0.0))
        timings = tuner.timings(scan.sites, progress)
    return {cost.site: cost for timing in timings for cost in _costs(timing)}


def _costs(timing: SiteTiming) -> list[Cost]:
    wins = timing.best != SiteForm.ORIGINAL
    # What a site that is left would have been.
    form = timing.best if wins else max(timing.speedups, key=lambda f: timing.speedups[f].median)
    speedup = timing.speedups[form]
    shape = "x".join(map(str, timing.shape))
    where = f"{shape} on this machine, {speedup.low:.2f} to {speedup.high:.2f}"
    folds = timing.best == SiteForm.FOLDED
    return [Cost(site, "autotune", speedup.median, where, wins, folds) for site in timing.sites]

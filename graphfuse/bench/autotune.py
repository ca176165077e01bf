"""Measuring, on this machine, which sites of a model win by being fused, and in which form."""

from __future__ import annotations

import os
from collections.abc import Mapping

from graphfuse.bench.measurements import SiteTiming
from graphfuse.bench.site_timing import SITE_SIZES, SiteForm, Tuner, symbols_of
from graphfuse.bench.timing import pinned
from graphfuse.files.model_file import Model
from graphfuse.records import Cost, Scan
from graphfuse.records.progress import Progress


def autotune(
    model: Model,
    scan: Scan,
    ep: str,
    provider: str,
    shapes: Mapping[str, tuple[int, ...]],
    progress: Progress,
    named: Mapping[str, int] | None = None,
) -> dict[str, Cost]:
    """The cost of each site by id, each distinct one timed in its original and every fused form.

    `shapes` are those of the model's inputs, `named` extents by symbol, where the user gives them;
    what they leave open is a batch of 1 and 128 positions. A site that cannot be cut out of its
    model is not in the result.
    """
    with pinned(os.cpu_count() or 1) as threads:
        symbols = symbols_of(model.proto, shapes, named or {})
        tuner = Tuner(model, ep, provider, threads, SITE_SIZES, 0.0, symbols)
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

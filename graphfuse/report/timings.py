"""Views of measurements: the JSON document, and tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from graphfuse.report.console import SafeConsole
from graphfuse.report.document import file_document
from graphfuse.report.head import head
from graphfuse.report.sheet import Sheet
from graphfuse.speed.measurements import (
    BEST,
    FUSED,
    ORIGINAL,
    PLAIN,
    BenchReport,
    Comparison,
    Figures,
    Footprint,
    SiteTiming,
)
from graphfuse.speed.timing import Interval

SHOWN = 6
"""How many operators are listed."""


def bench_document(original: str, fused: str | None, report: BenchReport) -> dict[str, Any]:
    """What `graphfuse bench` measured, in seconds and bytes."""
    return {
        **head("bench"),
        "original": original,
        "fused": fused,
        "environment": dict(report.environment),
        "comparisons": [asdict(found) for found in report.comparisons],
        "sites": [{**asdict(site), "elem_type": site.elem_type.text} for site in report.sites],
        "read": [file_document(file) for file in report.read],
        "notes": list(report.notes),
    }


def print_bench(console: SafeConsole, report: BenchReport) -> None:
    """One row for each comparison or site, and below it what was seen inside."""
    console.say(", ".join(f"{key} {value}" for key, value in report.environment.items()))
    if report.comparisons:
        _print_comparisons(console, report)
    if report.sites:
        _print_sites(console, report.sites)
    for note in report.notes:
        console.say(f"note: {note}")


def _print_comparisons(console: SafeConsole, report: BenchReport) -> None:
    for found in report.comparisons:
        console.say(_head(found))
        table = Sheet(("session", "median (quartiles)", *_besides(found)))
        for name, figures in _sessions(found).items():
            table.add_row(name, _time(figures), *_speedups(found, name))
        console.table(table)
        console.say(f"times faster: median of {found.pairs} pairs, 95 % interval")
        _print_inside(console, found)


def _head(found: Comparison) -> str:
    return f"{found.ep}, {found.threads} threads, {_shapes(found.shapes)}"


def _sessions(found: Comparison) -> dict[str, Figures]:
    known = {
        ORIGINAL: found.original,
        BEST: found.best,
        PLAIN: found.plain,
        FUSED: found.fused,
    }
    return {name: figures for name, figures in known.items() if figures is not None}


def _besides(found: Comparison) -> list[str]:
    return [f"beside {name}" for name in (ORIGINAL, BEST) if name in _sessions(found)]


def _speedups(found: Comparison, of: str) -> list[str]:
    """How many times faster one session is than each original."""
    known = {(one.of, one.beside): one.times for one in found.speedups}
    texts: list[str] = []
    for beside in (ORIGINAL, BEST):
        if beside in _sessions(found):
            times = known.get((of, beside))
            texts.append("" if times is None else f"{times.median:.3f} ({interval(times)})")
    return texts


def _print_inside(console: SafeConsole, found: Comparison) -> None:
    for name, figures in (("original", found.original), ("fused", found.fused)):
        words: list[str] = []
        if figures.profile is not None:
            shares = list(figures.profile.shares.items())[:SHOWN]
            words.append(f"sums and norms {figures.profile.norms:.1%}")
            words.append(" ".join(f"{op} {share:.1%}" for op, share in shares))
        if figures.footprint is not None:
            words.append(_needs(figures.footprint))
        if words:
            console.say(f"{name}: {'; '.join(words)}")


def _needs(footprint: Footprint) -> str:
    text = f"load {footprint.load * 1e3:.0f} ms, peak memory {footprint.memory / 2**20:.0f} MiB"
    if footprint.device is not None:
        text += f", device {footprint.device / 2**20:.0f} MiB"
    return text


def _print_sites(console: SafeConsole, sites: tuple[SiteTiming, ...]) -> None:
    console.say("times faster than the original's nodes in the best session without graphfuse")
    table = Sheet(("sites", "norm", "type", "shape", "sum read", "original", "forms", "best"))
    for site in sites:
        first, more = site.sites[0], len(site.sites) - 1
        forms = [
            f"{name} {speedup.median:.2f}x ({interval(speedup)})"
            for name, speedup in site.speedups.items()
        ]
        table.add_row(
            f"{first} and {more} more" if more else first,
            site.kind,
            site.elem_type.text,
            "x".join(map(str, site.shape)),
            "yes" if site.sum_is_read else "no",
            f"{site.forms['original'] * 1e6:.2f} us",
            forms,
            site.best,
        )
    console.table(table)


def interval(speedup: Interval) -> str:
    """The ends of a confidence interval."""
    return f"{speedup.low:.3f} to {speedup.high:.3f}"


def _time(figures: Figures) -> str:
    low, high = (part * 1e3 for part in figures.quartiles)
    return f"{figures.median * 1e3:.3f} ms ({low:.3f} to {high:.3f})"


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Inputs with their shapes, such as `input_ids 1x128`; of those that are alike the first."""
    first: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        first.setdefault("x".join(map(str, shape)) or "scalar", []).append(name)
    texts = (
        f"{names[0]} {shape}" + (f" and {len(names) - 1} more such" if names[1:] else "")
        for shape, names in first.items()
    )
    return ", ".join(texts)

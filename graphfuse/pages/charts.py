"""Figures on log scales: gates against their bounds, speed-ups with intervals, residual streams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphfuse.records.residual_stream import FLOAT16_LARGEST, FLOAT16_LARGEST_SQUARED

LEAST_SHARE = 1e-6
"""Share of a bound at which the gates' scale begins: what is smaller, 0 among it, stands there."""
WIDTH = 640.0
MOST_POINTS = 400
"""Points of a stream: of more, the largest of each stretch is drawn."""


@dataclass(frozen=True)
class Tick:
    """A line of a scale with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """A log scale: from numbers to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a number; those off the scale stand at its ends."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def powers(self, most: int = 8) -> list[Tick]:
        """Ticks at powers of ten, no more than that."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high))
        step = max(1, math.ceil((last - first + 1) / most))
        return [Tick(self.at(10.0**n), power(n)) for n in range(first, last + 1, step)]


def power(exponent: int) -> str:
    """A power of ten as it is read."""
    return f"{10.0**exponent:g}" if -3 < exponent < 6 else f"1e{exponent}"


@dataclass(frozen=True)
class Mark:
    """A point, or several that cannot be told apart; `title` says which."""

    x: float
    y: float
    style: str
    title: str
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class ChartRow:
    """One line of a chart with marks on a common scale."""

    label: str
    y: float
    marks: tuple[Mark, ...]
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """Rows on one scale, or points along an axis; `words` says what it shows."""

    width: float
    height: float
    rows: tuple[ChartRow, ...]
    ticks: tuple[Tick, ...]
    words: str
    lines: tuple[Tick, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict[str, str])


def gates(checks: Sequence[Mapping[str, Any]], meanings: Mapping[str, str]) -> Chart | None:
    """Each check as a share of its bound, a row for each gate."""
    shares = [(check, share_of_bound(check)) for check in checks]
    if not shares:
        return None
    worst = max((share for _, share in shares if math.isfinite(share)), default=1.0)
    # Up to the next power of ten beyond the bound, and beyond what is worst.
    top = 10.0 ** max(1, math.ceil(math.log10(max(worst, 1.0)) + 0.01))
    scale = Scale(LEAST_SHARE, top, 60.0, WIDTH - 20.0)
    rows: list[ChartRow] = []
    words: list[str] = []
    for gate, meaning in meanings.items():
        of_gate = [(check, share) for check, share in shares if check["gate"] == gate]
        if not of_gate:
            continue
        y = 34.0 + 44.0 * len(rows)
        marks: dict[tuple[float, str], Mark] = {}
        for check, share in sorted(of_gate, key=lambda each: -each[1]):
            x = scale.at(share if math.isfinite(share) else top)
            style = "pass" if check["passed"] else "fail"
            marks.setdefault((x, style), Mark(x, y, style, _said(check)))
        most = max(share for _, share in of_gate)
        failed = sum(not check["passed"] for check, _ in of_gate)
        said = f"{len(of_gate)} checks, " + (f"{failed} failed" if failed else "all pass")
        rows.append(ChartRow(f"{gate} {meaning}", y, tuple(marks.values()), said))
        words.append(f"{gate}: {said}, worst {most:.3g} of its bound")
    ticks = (Tick(scale.at(LEAST_SHARE), f"{LEAST_SHARE:g} and less"), *scale.powers(5)[1:])
    lines = (Tick(scale.at(1.0), "bound"),)
    height = 34.0 + 44.0 * len(rows)
    return Chart(WIDTH, height, tuple(rows), ticks, "; ".join(words), lines)


def share_of_bound(check: Mapping[str, Any]) -> float:
    """A figure as a share of its bound; null stands for infinity, and a bound may be 0."""
    value, bound = check["value"], check["bound"]
    if value is None:
        return math.inf
    if bound > 0:
        return value / bound
    return 0.0 if value <= bound else math.inf


def _said(check: Mapping[str, Any]) -> str:
    value = "infinity" if check["value"] is None else f"{check['value']:.3g}"
    return f"{check['gate']} {check['subject']}: {value} of {check['bound']:.3g} ({check['where']})"


def speedups(intervals: Iterable[tuple[str, Mapping[str, Any]]]) -> Chart | None:
    """How many times faster, each with its 95 % interval, beside 1."""
    known = [each for each in intervals if all(each[1][end] > 0 for end in ("low", "high"))]
    if not known:
        return None
    low = min(1.0, *(each["low"] for _, each in known)) / 1.05
    high = max(1.0, *(each["high"] for _, each in known)) * 1.05
    scale = Scale(low, high, 40.0, WIDTH - 40.0)
    rows: list[ChartRow] = []
    words: list[str] = []
    for label, each in known:
        y = 34.0 + 44.0 * len(rows)
        style = "slower" if each["high"] < 1 else "faster" if each["low"] > 1 else "level"
        said = f"{each['median']:.3f} ({each['low']:.3f} to {each['high']:.3f})"
        ends = scale.at(each["low"]), scale.at(each["high"])
        mark = Mark(scale.at(each["median"]), y, style, f"{label}: {said}", *ends)
        rows.append(ChartRow(label, y, (mark,), f"{said}, {style}"))
        words.append(f"{label}: {said}")
    ticks = tuple(Tick(scale.at(value), f"{value:g}") for value in _ratios(low, high))
    lines = (Tick(scale.at(1.0), "as fast"),)
    return Chart(WIDTH, 34.0 + 44.0 * len(rows), tuple(rows), ticks, "; ".join(words), lines)


def _ratios(low: float, high: float) -> list[float]:
    """Round numbers between two that are a few apart."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0):
        numbers = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(numbers) <= 8:
            return [round(number, 3) for number in numbers if number > 0]
    return []


STYLES = {
    "healthy": "healthy",
    "drifting": "drifting",
    "squares overflow in float16": "squares",
    "overflows float16": "overflows",
}


def stream(readings: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The largest magnitude and the standard deviation of each sum, in order of depth."""
    if not readings:
        return None
    finite = [
        number
        for each in readings
        for number in (each["largest"], each["std"])
        if number is not None and number > 0
    ]
    top = max(10 * FLOAT16_LARGEST, *(finite or [1.0]))
    low = 10.0 ** math.floor(math.log10(min([1.0, *finite])))
    height, left = 320.0, 64.0
    scale = Scale(max(low, 1e-6), top, height - 30.0, 16.0)
    wide = (WIDTH - left - 110.0) / max(len(readings) - 1, 1)
    marks: list[Mark] = []
    for group in _stretches(len(readings)):
        number = max(group, key=lambda n: _number(readings[n]["largest"]))
        each = readings[number]
        y = scale.at(_number(each["largest"]) or low)
        title = f"sum {number}{_layer(each)}: {_largest(each)}, {each['verdict']}"
        marks.append(
            Mark(round(left + wide * number, 1), y, STYLES.get(each["verdict"], "healthy"), title)
        )
    path = "M" + " L".join(f"{mark.x} {mark.y}" for mark in marks)
    deviation = "M" + " L".join(
        f"{left + wide * group[0]:.1f} {scale.at(max(_number(readings[group[0]]['std']), low))}"
        for group in _stretches(len(readings))
    )
    limits = (
        Tick(scale.at(FLOAT16_LARGEST), "float16: 65,504"),
        Tick(scale.at(FLOAT16_LARGEST_SQUARED), "its square: 255"),
    )
    verdicts = [each["verdict"] for each in readings]
    words = ", ".join(f"{verdicts.count(v)} {v}" for v in (*STYLES,) if v in verdicts)
    return Chart(
        WIDTH,
        height,
        (ChartRow("largest magnitude", 0, tuple(marks)),),
        tuple(scale.powers(9)),
        f"{len(readings)} sums in order of depth: {words}",
        limits,
        {"largest": path, "deviation": deviation},
    )


def _stretches(count: int) -> list[range]:
    step = max(1, math.ceil(count / MOST_POINTS))
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def _number(value: float | None) -> float:
    """What is null is infinite; it stands at the scale's end."""
    return math.inf if value is None else float(value)


def _largest(each: Mapping[str, Any]) -> str:
    if each["largest"] is None:
        return "largest not finite"
    return f"largest {each['largest']:.4g}, standard deviation {_number(each['std']):.4g}"


def _layer(each: Mapping[str, Any]) -> str:
    return "" if each["layer"] is None else f", layer {each['layer']}"

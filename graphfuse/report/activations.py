"""The terminal view of a model's residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from graphfuse.records.residual_stream import Reading, StreamVerdict
from graphfuse.report.console import SafeConsole
from graphfuse.report.scan_view import EVERY_ONE, FEW_LINES
from graphfuse.report.sheet import Sheet

WORSE = (StreamVerdict.DRIFTING, StreamVerdict.SQUARES_OVERFLOW, StreamVerdict.OVERFLOWS)


def print_readings(
    console: SafeConsole,
    readings: Sequence[Reading],
    fused: int,
    notes: Sequence[str] = (),
    every: bool = False,
) -> None:
    """A row for each sum of the stream, where it first leaves a range, and what else is to say.

    The sums of nodes that were `fused` before are none of the graph's, and not looked at. On a
    terminal neighbours of one reading are one row where there are many, but for `every`.
    """
    many = len(readings) > FEW_LINES and not every and console.columns is not None
    table = Sheet(("sum", "site", "layer", "mean", "std", "largest", "of float16", "reading"))
    for group in _runs(readings) if many else ([each] for each in enumerate(readings)):
        (first, found), (last, _) = group[0], group[-1]
        largest = max((each for _, each in group), key=lambda each: each.largest)
        table.add_row(
            _span(first, last),
            f"{found.site} {found.kind}" if found.site else "no norm",
            _layers([each for _, each in group]),
            f"{found.mean:.3g}",
            f"{found.std:.3g}",
            f"{largest.largest:.3g}",
            f"{largest.float16_share:.2%}"
            if largest.float16_share < 10
            else f"{largest.float16_share:.3g}x",
            found.verdict,
        )
    if readings:
        console.table(table)
    if many:
        console.say("of several sums the first, and what is largest in them")
        console.say(EVERY_ONE)
    console.say(summary(readings))
    if fused and not readings:
        console.say(f"{fused} nodes are fused already: scan the original model for their sums")
    for note in notes:
        console.say(f"note: {note}")


def _runs(readings: Sequence[Reading]) -> Iterator[list[tuple[int, Reading]]]:
    """Neighbours of one reading."""
    for _, group in groupby(enumerate(readings), key=lambda pair: pair[1].verdict):
        yield list(group)


def _span(first: object, last: object) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _layers(group: Sequence[Reading]) -> str:
    known = [each.layer for each in group if each.layer is not None]
    return _span(min(known), max(known)) if known else "-"


def summary(readings: Sequence[Reading]) -> str:
    """How many sums have each reading, and which is the first of each."""
    if not readings:
        return "no sums of a residual stream"
    words = [f"{sum(found.verdict == StreamVerdict.HEALTHY for found in readings)} healthy"]
    for verdict in WORSE:
        those = [n for n, found in enumerate(readings) if found.verdict == verdict]
        if those:
            words.append(f"{len(those)} {verdict} (first sum {those[0]})")
    return f"{len(readings)} sums: {', '.join(words)}"

"""The terminal view of a model's residual stream."""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.records.residual_stream import Reading, StreamVerdict
from graphfuse.report.console import SafeConsole, table_of

WORSE = (StreamVerdict.DRIFTING, StreamVerdict.SQUARES_OVERFLOW, StreamVerdict.OVERFLOWS)


def print_readings(
    console: SafeConsole, readings: Sequence[Reading], fused: int, notes: Sequence[str] = ()
) -> None:
    """A row for each sum of the stream, where it first leaves a range, and what else is to say.

    The sums of nodes that were `fused` before are none of the graph's, and not looked at.
    """
    table = table_of("sum", "site", "layer", "mean", "std", "largest", "of float16", "reading")
    for number, found in enumerate(readings):
        table.add_row(
            str(number),
            f"{found.site} {found.kind}" if found.site else "no norm",
            "-" if found.layer is None else str(found.layer),
            f"{found.mean:.3g}",
            f"{found.std:.3g}",
            f"{found.largest:.3g}",
            f"{found.float16_share:.2%}"
            if found.float16_share < 10
            else f"{found.float16_share:.3g}x",
            found.verdict,
        )
    if readings:
        console.table(table)
    console.print(summary(readings))
    if fused and not readings:
        console.print(f"{fused} nodes are fused already: scan the original model for their sums")
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


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

"""What comes of a batch: as the JSON document, and as tables."""

from __future__ import annotations

from dataclasses import asdict

from graphfuse.records.batch_rows import BatchResult, BatchRow
from graphfuse.report.console import SafeConsole
from graphfuse.report.head import Document, head
from graphfuse.report.sheet import Sheet, Whole

SHOWN = 40
"""Failures that are listed; the ledger has all."""


def batch_document(destination: str, result: BatchResult) -> Document:
    """What `graphfuse batch` did: the rows of the ledger, the worst first."""
    return {
        **head("batch"),
        "destination": destination,
        "ledger": result.ledger,
        "seconds": result.seconds,
        "stopped": result.stopped,
        "counts": {outcome.value: number for outcome, number in result.counts.items()},
        "rows": [
            {**_row(row), "skipped": row.source in result.skipped}
            for row in sorted(result.rows, key=lambda row: row.is_good)
        ],
    }


def _row(row: BatchRow) -> Document:
    told = asdict(row)
    return {**told, "input": list(told["input"]), "written": list(told["written"]),
            "options": list(row.options), "message": row.message or None,
            "remedy": row.remedy or None}  # fmt: skip


def print_batch(console: SafeConsole, result: BatchResult) -> None:
    """How many came out how, and each that failed."""
    table = Sheet(("outcome", "models", "sites", "fused", "skipped"))
    for outcome, number in sorted(result.counts.items()):
        rows = [row for row in result.rows if row.outcome == outcome]
        table.add_row(
            outcome,
            str(number),
            str(sum(row.sites for row in rows)),
            str(sum(row.fused for row in rows)),
            str(sum(row.source in result.skipped for row in rows)),
        )
    console.table(table)
    for row in result.failed[:SHOWN]:
        why = "; ".join(each for each in (row.message, row.remedy) if each)
        console.say(f"{row.outcome} ({row.exit_code}): ", Whole(row.source), f": {why}")
    if len(result.failed) > SHOWN:
        console.say(f"and {len(result.failed) - SHOWN} more")
    if result.stopped:
        console.say("stopped at the first that failed; the same command goes on")
    console.say(
        f"{len(result.rows)} models in {result.seconds:.0f} s, ledger ", Whole(result.ledger)
    )

"""The terminal view of a folder of models: a row for each, then what failed."""

from __future__ import annotations

from collections import Counter

from graphfuse.records.folder_results import FolderModel, FolderResult
from graphfuse.records.reasons import Reason
from graphfuse.report.console import SafeConsole
from graphfuse.report.sheet import Sheet, Whole


def print_folder(console: SafeConsole, result: FolderResult) -> None:
    """The table that ends `graphfuse fuse FOLDER`."""
    table = Sheet((result.folder, "found", "fused", "verdict", "file"))
    for model in result.models:
        found = "-" if model.result is None else str(len(model.result.scan.sites))
        fused = "-" if model.result is None else str(model.fused)
        table.add_row(model.name, found, fused, _verdict(model), model.written or "-")
    console.table(table)
    left = Counter[Reason]()
    for model in result.models:
        left.update(model.result.reasons() if model.result else ())
    for reason, count in sorted(left.items(), key=lambda item: item[0].value):
        console.say(f"not fused: {count} x {reason.sentence} ({reason.value})")
        console.say(f"  would help: {reason.remedy}", indent=4)
    for model in result.failed:
        console.say("failed: ", Whole(model.name), f": {model.error}")
    for model in result.models:
        for note in model.result.notes if model.result else ():
            console.say("note: ", Whole(model.name), f": {note}")
    for note in result.notes:
        console.say(f"note: {note}")
    if result.output:
        count = sum(bool(model.written) for model in result.models)
        more = f" and {_several(len(result.copied), 'other file')}" if result.copied else ""
        console.say(f"wrote {_several(count, 'model')}{more} to ", Whole(result.output))


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _verdict(model: FolderModel) -> str:
    """What is to be said of a model in a word or two."""
    if model.result is None:
        return "FAILED"
    if model.result.put_back and not model.result.changed:
        return "all put back"
    if not model.result.changed:
        return "unchanged"
    report = model.result.validation
    return "not validated" if report is None else report.verdict

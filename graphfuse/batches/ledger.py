"""The ledger of a batch: a line of JSON for each model, and what a run goes on from.

Lines are only ever added, each in one write, by the one run that holds the ledger's lock. One that
was killed leaves whole lines, and at most one that is cut short: it is not read, and the next line
begins anew. The last line of a source and output holds. In a storage each line is an object.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from graphfuse.batches.places import RemotePlace, is_url, joined, place_of
from graphfuse.batches.stamps import is_same
from graphfuse.errors import UsageError, WriteError
from graphfuse.files.leftovers import lock
from graphfuse.records.batch_rows import BatchOutcome, BatchRow, Stamp, Task

LEDGER_NAME = "graphfuse-batch.jsonl"

SourceAndOutput = tuple[str, str]
"""A source and its output."""


class Ledger:
    """A ledger that this run writes to; a context, which lets go of it."""

    def __init__(self, path: str) -> None:
        """Open it, made where there is none.

        Raises UsageError when another run holds it, or what is there is no ledger.
        """
        self.path = path
        self._lines: Lines = StoredLines(path) if is_url(path) else FileLines(Path(path))
        self._rows, self._begun = _read(path, self._lines.content)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def row(self, task: Task) -> BatchRow | None:
        """What is known of a task: its last row."""
        return self._rows.get((task.source, task.output))

    def is_done(self, task: Task, key: str) -> bool:
        """Whether a task came out well of the same input, options and versions, and is there."""
        row = self.row(task)
        if row is None or not row.is_good or row.key != key:
            return False
        stamps = (*row.input, *row.written)
        return all(is_same(each, place_of(each.path).stamp(each.path)) for each in stamps)

    def was_begun(self, task: Task) -> bool:
        """Whether some run of this ledger began to write a task's output."""
        return (task.source, task.output) in self._begun

    def begin(self, task: Task) -> None:
        """Say that a task's output is this ledger's from now on."""
        if not self.was_begun(task):
            self._begun.add((task.source, task.output))
            self._lines.add(task, {"begun": task.output, "source": task.source})

    def add(self, row: BatchRow) -> None:
        """Add a row. Raises WriteError when it cannot be written."""
        self._rows[row.source, row.output] = row
        self._lines.add(Task(row.source, row.output), asdict(row))


class Lines(Protocol):
    """Where the lines of a ledger are; `content` is what was there at first."""

    content: bytes

    def add(self, task: Task, told: Mapping[str, Any]) -> None:
        """Add a line about a task, to stay."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class FileLines:
    """A file that one run holds a lock on, and adds lines to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise WriteError(
                f"the ledger {path} cannot be written ({error.strerror})",
                "name another with --ledger",
            ) from error
        if not lock(self._file):
            os.close(self._file)
            raise UsageError(
                f"another batch is writing to {path}",
                "wait for it, or name another ledger with --ledger",
            )
        try:
            self.content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"the ledger {path} cannot be read ({error.strerror})") from error
        if self.content and not self.content.endswith(b"\n"):
            self._append(b"\n")

    def add(self, task: Task, told: Mapping[str, Any]) -> None:
        """Add a line, in one write."""
        self._append(_encoded(told))

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, os.strerror(28))
            os.fsync(self._file)
        except OSError as error:
            raise WriteError(
                f"the ledger {self._path} cannot be written ({error.strerror})",
                "free space and run the same again: it goes on where it was",
            ) from error


class StoredLines:
    """A folder in a storage that has no appending and no locks: two objects for each task.

    One says that its output was begun, one is its row; each is written whole, and what is written
    again takes its place. So two runs at once do the same work, and harm nothing.
    """

    def __init__(self, url: str) -> None:
        self._url, self._place = url, RemotePlace(url)
        self.content = b"".join(self._place.lines(url))

    def add(self, task: Task, told: Mapping[str, Any]) -> None:
        """Write the object of a task."""
        name = hashlib.sha256(json.dumps([task.source, task.output]).encode()).hexdigest()[:32]
        kind = "begun" if "begun" in told else "row"
        self._place.tell(joined(self._url, f"{name}.{kind}.json"), _encoded(told))

    def close(self) -> None:
        """Nothing is held."""


def _encoded(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, allow_nan=False).encode() + b"\n"


def _read(
    path: str, content: bytes
) -> tuple[dict[SourceAndOutput, BatchRow], set[SourceAndOutput]]:
    """The last row of each task, and what was begun. Raises UsageError for what is no ledger."""
    rows: dict[SourceAndOutput, BatchRow] = {}
    begun: set[SourceAndOutput] = set()
    for number, told in _lines(path, content):
        try:
            if "begun" in told:
                begun.add((told["source"], told["begun"]))
            else:
                row = _row(told)
                rows[row.source, row.output] = row
        except (KeyError, TypeError, ValueError) as error:
            raise _foreign(path, number) from error
    return rows, begun


def _lines(path: str, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
        except ValueError as error:
            if line.startswith(b'{"'):
                continue  # Cut short, when a run was killed.
            raise _foreign(path, number) from error
        if not isinstance(found, dict):
            raise _foreign(path, number)
        yield number, found


def _foreign(path: str, number: int) -> UsageError:
    return UsageError(
        f"line {number} of {path} is none of a ledger of graphfuse",
        "name another file with --ledger",
    )


def _row(told: Mapping[str, Any]) -> BatchRow:
    names = {each.name for each in fields(BatchRow)}
    known: dict[str, Any] = {name: value for name, value in told.items() if name in names}
    for name in ("input", "written"):
        known[name] = tuple(Stamp(**each) for each in told[name])
    known["outcome"], known["options"] = BatchOutcome(told["outcome"]), tuple(told["options"])
    return BatchRow(**known)

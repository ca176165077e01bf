"""What comes of many models: a task for each, a row for each in the ledger, and all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from graphfuse.records.folder_results import SEVERITY


class BatchOutcome(StrEnum):
    """What became of a model: UNCHANGED is a copy, PUT_BACK one whose sites all failed."""

    FUSED = "fused"
    UNCHANGED = "unchanged"
    PUT_BACK = "put back"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Task:
    """A model, or the folder of an export, where its result goes, and the options of `fuse`.

    Both are paths or URLs; `size` is the bytes of its files, as far as they were listed.
    """

    source: str
    output: str
    words: tuple[str, ...] = ()
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was: what changes when its content does.

    `sha256` is empty where it is large. `mark` is what a storage has for a content, such as the
    ETag of S3.
    """

    path: str
    size: int
    changed: int
    sha256: str = ""
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """A line of the ledger: what came of a task.

    `key` is the hash of the options and versions that it was run with, `input` and `written` the
    files as they were then: a task with the same of all three need not be run again. `sites` were
    found and `fused` are one node. `figures` are the worst of each gate, as shares of the bounds.
    `seconds` is wall time.
    """

    source: str
    output: str
    outcome: BatchOutcome
    exit_code: int
    key: str
    message: str = ""
    remedy: str = ""
    sites: int = 0
    fused: int = 0
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    options: tuple[str, ...] = ()
    graphfuse: str = ""
    runtime: str = ""
    input: tuple[Stamp, ...] = ()
    written: tuple[Stamp, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether the result is what was asked for."""
        return self.exit_code == 0


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The outcome of `fuse_batch`: the rows in the order of the tasks, and how many were there.

    `skipped` are the sources that nothing was done for, as the ledger had a row of the same input,
    options and versions. `stopped` says that tasks are left: one failed, and that was to end it.
    """

    rows: tuple[BatchRow, ...]
    skipped: frozenset[str] = frozenset()
    ledger: str = ""
    seconds: float = 0.0
    stopped: bool = False

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.counts.items())
        return f"<BatchResult: {len(self.rows)} models, {counts or 'none'}>"

    @property
    def counts(self) -> Mapping[BatchOutcome, int]:
        """How many have each outcome."""
        return Counter(row.outcome for row in self.rows)

    @property
    def failed(self) -> Sequence[BatchRow]:
        """The rows that are not good."""
        return [row for row in self.rows if not row.is_good]

    @property
    def exit_code(self) -> int:
        """The worst of the rows' (`SEVERITY`), 0 when all are good."""
        codes = {row.exit_code for row in self.failed}
        return next((code for code in SEVERITY if code in codes), max(codes, default=0))

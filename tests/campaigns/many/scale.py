"""What the machine that starts a batch does for each model: the ground for a batch of ten thousand."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from graphfuse.batches.cluster_nodes import Disks, Errand, run_on_node, versions
from graphfuse.batches.ledger import Ledger
from graphfuse.batches.stamps import key_of
from graphfuse.batches.tasks import tasks_of
from graphfuse.batches.working import ChildBounds
from graphfuse.records.batch_rows import BatchOutcome, BatchRow, Task
from tests.campaigns.many.broken import BROKEN

MANY = 10_000


def scale(options: argparse.Namespace, paths: Sequence[Path]) -> list[str]:
    """Milliseconds for each model: finding, beginning, a row, and what is done on the next run."""
    folder = options.folder / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    good = next(path for path in paths if path.stem not in BROKEN)
    for number in range(MANY):
        place = folder / "in" / f"{number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(good, place / f"{number}.onnx")
    tasks: list[Task] = []
    _timed("finding", lambda: tasks.extend(tasks_of([str(folder / "in")], str(folder / "out"), ())))
    book = Ledger(str(folder / "out" / "ledger.jsonl"))
    with book:
        _timed("beginning", lambda: [book.begin(task) for task in tasks])
        rows = [_row(task, good) for task in tasks]
        _timed("a row", lambda: [book.add(row) for row in rows])
    again = Ledger(str(folder / "out" / "ledger.jsonl"))
    with again:
        _timed("known on the next run", lambda: [again.is_done(t, key_of((), "")) for t in tasks])
    size = Path(again.path).stat().st_size
    print(f"ledger: {size / MANY:.0f} bytes for each model")
    disks = Disks(str(folder))
    asked: list[str] = []

    def ask(method: str, *given: object) -> object:
        asked.append(method)
        return disks.call(method, *given)

    task = tasks[0]
    errand = Errand(task, True, ChildBounds(), "", "token", versions())
    start = time.monotonic()
    row = run_on_node(errand, ask, lambda: False)  # type: ignore[arg-type]
    print(f"one model on a node: {time.monotonic() - start:.2f} s, {len(asked)} messages to "
          f"the disks, {row.outcome}: {', '.join(asked)}")  # fmt: skip
    return [] if row.is_good else [row.message]


def _timed(what: str, call: Callable[[], object]) -> None:
    start = time.monotonic()
    call()
    print(f"{what}: {(time.monotonic() - start) / MANY * 1000:.3f} ms for each of {MANY} models")


def _row(task: Task, good: Path) -> BatchRow:
    from graphfuse.batches.places import LocalPlace

    stamp = LocalPlace().stamp(task.source)
    return BatchRow(source=task.source, output=task.output, outcome=BatchOutcome.FUSED,
                    exit_code=0, key=key_of((), ""), input=(stamp,), written=(stamp,),
                    figures={"G0": 1e-5, "G1": 0.99, "G2": 0.5})  # fmt: skip

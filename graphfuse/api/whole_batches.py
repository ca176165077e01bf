"""The function for many models: each in a process of its own, told of in a ledger."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from graphfuse.batches.cluster import OnRay
from graphfuse.batches.ledger import LEDGER_NAME, Ledger
from graphfuse.batches.moving import Carrier, scratch_folder, token_of
from graphfuse.batches.places import joined, place_of, plain
from graphfuse.batches.scheduling import Begun, Local, Scheduler, processors
from graphfuse.batches.stamps import key_of
from graphfuse.batches.tasks import tasks_of, words_of
from graphfuse.batches.working import ChildBounds, Worker, check_words
from graphfuse.errors import UsageError
from graphfuse.records import arguments
from graphfuse.records.batch_rows import BatchResult, BatchRow, Task
from graphfuse.records.progress import SILENT, Progress, tell_part
from graphfuse.system import libraries

SHOWN_AT_ONCE = 4
"""Models that are named while they are run."""

NOT_FOR_MANY = (
    "output", "in-place", "dry-run", "json", "html", "markdown", "isolate", "memory-limit",
    "time-limit", "only-if-changed", "load-inputs", "data-loader-script", "include", "exclude",
)  # fmt: skip
"""Options of `fuse` that a batch has itself, or that are about one model."""


def fuse_batch(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | Sequence[str] = (),
    workers: int | None = None,
    ledger: str | os.PathLike[str] | None = None,
    fail_fast: bool = False,
    only_failed: bool = False,
    memory_limit: float = 0,
    time_limit: float = 600,
    ray: str | None = None,
    ray_install: bool = False,
    progress: Progress = SILENT,
) -> BatchResult:
    """Fuse many models as the command `fuse` does, several at once, and go on where a run ended.

    Each model is fused in a process of its own: one that crashes onnxruntime, eats all memory or
    never ends is one failed row. A model that the ledger has a good row of, with the same input,
    options and versions, is skipped.

    Args:
        sources: Folders (searched for models; an export of Hugging Face is one unit), .onnx files,
            patterns, or manifests (.jsonl: path, output, ep, options in each line); paths, or URLs
            that fsspec knows (s3://, gs://, ...).
        output: The folder of the results, or its URL; they are called as below the source.
        options: Those of the command `fuse`, such as {"ep": "cpu", "validate": "full"}.
        workers: How many run at once; as many as processors if not said, and as memory allows.
        ledger: Its file; graphfuse-batch.jsonl in `output` if not said.
        fail_fast: Whether the first row that is not good ends the run.
        only_failed: Whether only what has a row that is not good is run again.
        memory_limit: GiB of address space for each; 0 for the machine's memory.
        time_limit: Seconds for each.
        ray: The address of a cluster of Ray that runs them, such as `auto`; this machine if not
            said. Files of this machine go there and come back; a large cluster is given URLs.
        ray_install: Whether its nodes install the versions of this environment by pip.
        progress: Is told how many are done, and which are run.

    Returns:
        A row for each model, in order.

    Raises:
        UsageError: For two results of one name, another run with this ledger, and for other wrong
            arguments.
        ModelError: For a source that names nothing.
        WriteError: When the ledger cannot be written.

    Example:
        >>> result = graphfuse.fuse_batch(["models/bert.onnx"], "many", workers=1)
        >>> result.rows[0].outcome, result.rows[0].fused, result.exit_code
        (<BatchOutcome.FUSED: 'fused'>, 5, 0)
    """
    if os.name != "posix":
        raise UsageError("a batch needs a POSIX system", "fuse the models one by one")
    words = _checked(options)
    count = len(processors()) if workers is None else arguments.whole("workers", workers)
    if count < 1:
        raise UsageError(f"{count} workers were asked for", "ask for 1 or more")
    arguments.seconds("time_limit", time_limit)
    arguments.told(progress)
    flags = {"fail_fast": fail_fast, "only_failed": only_failed, "ray_install": ray_install}
    for name, flag in flags.items():
        arguments.flag(name, flag)
    start = time.monotonic()
    destination = plain(os.fspath(output))
    tasks = tasks_of([os.fspath(source) for source in sources], destination, words)
    runtime = libraries.version_of("onnxruntime")
    path = joined(destination, LEDGER_NAME) if ledger is None else plain(os.fspath(ledger))
    bounds = ChildBounds(int(memory_limit * 2**30), time_limit)
    check_words({task.words for task in tasks})
    token = token_of(path)
    with Ledger(path) as book, scratch_folder() as scratch:
        if ray is None:
            worker = Worker(bounds, runtime, Carrier(place_of, token, scratch))
            scheduler: Scheduler = Local(worker, count)
        else:
            scheduler = OnRay(ray, bounds, runtime, token, workers, ray_install)
        done = {task for task in tasks if book.is_done(task, key_of(task.words, runtime))}
        todo = [task for task in tasks if task not in done]
        if only_failed:
            todo = [task for task in todo if (row := book.row(task)) and not row.is_good]
        left = {*tasks} - {*todo}
        rows = {task: row for task in left if (row := book.row(task))}
        stopped = False
        # Closed whatever happens: a full disk under the ledger ends the children as well.
        telling = _Telling(scheduler, len(todo), progress)
        run = scheduler.run(todo, lambda task: _begin(book, task), telling.tick)
        with closing(run) as found:
            for row in telling.each(found):
                book.add(row)
                rows[Task(row.source, row.output, row.options)] = row
                if fail_fast and not row.is_good:
                    stopped = len(rows) < len(tasks)
                    break
    return BatchResult(
        rows=tuple(rows[task] for task in tasks if task in rows),
        skipped=frozenset(task.source for task in done),
        ledger=path,
        seconds=round(time.monotonic() - start, 3),
        stopped=stopped,
    )


def _checked(options: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Options as words; UsageError for those that a batch has itself."""
    is_named = isinstance(options, Mapping)
    words = words_of(options, "options") if is_named else tuple(options)
    for word in words:
        name = word.removeprefix("--").split("=")[0]
        if word.startswith("-") and name in NOT_FOR_MANY:
            raise UsageError(
                f"--{name} is no option for many models", "leave it out, or fuse that model alone"
            )
    return words


def _begin(book: Ledger, task: Task) -> Begun:
    before = book.was_begun(task)
    if before or place_of(task.output).kind(task.output) is not None:
        return Begun(before, before)
    book.begin(task)
    return Begun(before, True)


@dataclass
class _Telling:
    """Tells how many are done, and which are run."""

    scheduler: Scheduler
    count: int
    progress: Progress
    done: int = 0
    _told: tuple[int, str] = (-1, "")

    def tick(self) -> None:
        names = [self._name(source) for source in self.scheduler.now()]
        more = f" and {len(names) - SHOWN_AT_ONCE} more" if len(names) > SHOWN_AT_ONCE else ""
        said = f" ({', '.join(names[:SHOWN_AT_ONCE])}{more})" if names else ""
        if self._told == (self.done, said):
            return
        self._told = (self.done, said)
        self.progress.stage(f"fusing models{said}")
        tell_part(self.progress, self.done, self.count)

    def _name(self, source: str) -> str:
        return source.rstrip("/").rpartition("/")[2]

    def each(self, found: Iterator[BatchRow]) -> Iterator[BatchRow]:
        self.tick()
        for row in found:
            self.done += 1
            yield row
            self.tick()

"""Who runs next on this machine: as many at once as processors and memory allow."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol

from graphfuse.batches.working import Worker
from graphfuse.records.batch_rows import BatchRow, Task
from graphfuse.system.memory import available

LIBRARIES_TAKE = 2**28
"""Bytes that a run takes with its libraries, whatever the model; half of it was measured."""
TIMES = {"none": 0.5, "sites": 1.0, "fast": 2.0, "full": 4.0}
"""How many times a model's size a run takes at a level: weights, sessions, the float64 twin.

About twice what was measured of BERT-base in float32 and int8: 0, 0, 1.1 and 2.3.
"""


class Begun(NamedTuple):
    """Whether a task's output is this batch's: it was before, or is now that nothing is there."""

    before: bool
    now: bool


Begin = Callable[[Task], Begun]
"""Told of a task that starts."""

OnTick = Callable[[], None]
"""Called about once a second while nothing else happens."""


class Scheduler(Protocol):
    """Who runs tasks: threads of this machine, or a cluster."""

    def now(self) -> Mapping[str, str]:
        """The sources that are worked on, and how far or where each is."""
        ...

    def run(self, tasks: Sequence[Task], begin: Begin, tick: OnTick) -> Generator[BatchRow]:
        """The rows as they come. Closing the generator ends what runs."""
        ...


def processors() -> list[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def needs(task: Task) -> int:
    """Bytes of memory that a task is expected to take, by the size of its files and its level."""
    words = " ".join(task.words).replace("=", " ").split()
    level = next((b for a, b in pairwise(words) if a == "--validate"), "fast")
    return int(LIBRARIES_TAKE + TIMES.get(level, TIMES["full"]) * task.size)


@dataclass
class Local:
    """Threads of this process, each with a child; one more starts where memory is left."""

    worker: Worker
    workers: int
    room: int = field(default_factory=lambda: ((found := available()) and found.size) or 2**62)

    def now(self) -> Mapping[str, str]:
        """The sources that are worked on, and the stage that each is at."""
        return self.worker.now()

    def run(self, tasks: Sequence[Task], begin: Begin, tick: OnTick) -> Generator[BatchRow]:
        """The rows as they come. Closing the generator ends what runs."""
        cores, free = processors(), list(range(self.workers))
        share = max(1, len(cores) // self.workers)
        waiting, running = list(tasks), dict[Future[BatchRow], tuple[int, int]]()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while waiting or running:
                    taken = sum(size for _, size in running.values())
                    while waiting and free:
                        size = needs(waiting[0])
                        if running and taken + size > self.room:
                            break
                        task, slot = waiting.pop(0), free.pop(0)
                        mine = [cores[(slot * share + n) % len(cores)] for n in range(share)]
                        future = pool.submit(self.worker.run, task, mine, begin(task).before)
                        running[future] = (slot, size)
                        taken += size
                    for future in wait(running, 1.0, FIRST_COMPLETED).done:
                        slot, _ = running.pop(future)
                        free.append(slot)
                        yield future.result()
                    tick()
            finally:
                # Ctrl-C, a row that ends the run, a full disk: nobody waits for what is left.
                self.worker.stop()

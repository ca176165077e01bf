"""Progress of long stages, on standard error, only when that is a terminal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from graphfuse.errors import printable

DELAY = 1.0
"""Seconds before anything is shown: short runs stay silent."""

GROUND = 1.0
"""Seconds of work that an estimate rests on."""

PIECES, SHARE = 3, 0.05
"""It rests on so many pieces that are done, or on this share of the whole."""

LONGEST_ESTIMATE = 48 * 3600
"""An estimate of more seconds is a guess, and not shown."""


class Pace:
    """How fast the pieces of a stage are done, and so how long the others will take."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun: float = now()
        self._last: float = self._begun
        self._first: float = 0
        self.done: float = 0
        self.total: float = 0
        self._reports = 0
        self.known = False
        """Whether the stage that runs says how much there is to do."""

    def stage(self) -> None:
        """A stage begins: it may go on with the pieces of the one before, or say nothing."""
        self.known = False

    def part(self, done: float, total: float) -> None:
        """So many pieces are done. Where they begin anew, so does the estimate."""
        if done <= 0 or done < self.done or total != self.total:
            self._begun, self._first, self._reports = self._now(), done, 0
        else:
            self._reports += 1
        self.done, self.total, self.known, self._last = done, total, True, self._now()

    def left(self) -> float | None:
        """Seconds until the last piece is done; None where nothing is known, or too little."""
        done, elapsed = self.done - self._first, self._last - self._begun
        if not self.known or not self._reports or elapsed < GROUND:
            return None
        if done <= 0 or (done < PIECES and done < SHARE * self.total):
            return None
        since, rest = self._now() - self._last, self.total - self.done
        left = elapsed / done * rest - since
        if since > 2 * elapsed / self._reports:
            # This piece takes longer than those before: they are no measure of it.
            left = (elapsed + since) / done * rest
        return left if 0 < left <= LONGEST_ESTIMATE else None


def in_words(seconds: float | None) -> str:
    """`about 8 s left`; an empty text for None."""
    if seconds is None:
        return ""
    if seconds < 59.5:
        return f"about {max(1, round(seconds))} s left"
    if seconds < 59.5 * 60:
        return f"about {round(seconds / 60)} min left"
    return f"about {round(seconds / 3600)} h left"


class PaceColumn(ProgressColumn):
    """How many pieces are done, and how long the rest will take."""

    def __init__(self, pace: Pace, said: Callable[[], str]) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._pace, self._said = pace, said

    def render(self, task: Task) -> Text:
        """The text of now."""
        words = (self._said(), in_words(self._pace.left()))
        return Text(", ".join(each for each in words if each))


class StageProgress:
    """A context that shows each stage as it begins."""

    def __init__(
        self,
        console: Console,
        descriptor: int | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`descriptor` is where each stage is also written, a line each."""
        self._descriptor = descriptor
        self.now = "starting"
        self.pace, self._count = Pace(now), ""
        cut = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=16),
            TimeElapsedColumn(),
            PaceColumn(self.pace, lambda: self._count),
            TextColumn("{task.description}", markup=False, table_column=cut),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._bar = self._progress.tasks[0]
        self._timer = threading.Timer(DELAY, self._progress.start)
        self._timer.daemon = True

    def stage(self, name: str) -> None:
        """Show that a stage begins."""
        self.now = name
        self.pace.stage()
        self._count = ""
        # rich's own way to change them takes None for what is to stay.
        self._bar.completed, self._bar.total = 0, None
        self._progress.update(self._task, description=printable(name))
        if self._descriptor is not None:
            os.write(self._descriptor, f"{printable(name)}\n".encode())

    def part(self, done: float, total: float) -> None:
        """Show how many pieces of the stage are done."""
        self.pace.part(done, total)
        whole = isinstance(done, int) and isinstance(total, int)
        self._count = f"{done} of {total}" if whole and total > 1 else ""
        self._progress.update(self._task, completed=done, total=total)

    def portion(self, what: str, done: int, total: int) -> None:
        """Show how much of a file is written, in bytes."""
        self.pace.part(done, total)
        self._count = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB" if total > 10**8 else ""
        text = printable(f"writing {what}")
        self._progress.update(self._task, description=text, completed=done, total=total)

    def __enter__(self) -> StageProgress:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        if not self._progress.disable:
            # Before rich 14 one that is disabled prints an empty line here.
            self._progress.stop()

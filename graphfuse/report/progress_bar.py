"""Progress of long stages, on standard error, only when that is a terminal."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from graphfuse.errors import printable

DELAY = 1.0
"""Seconds before anything is shown: short runs stay silent."""


class StageProgress:
    """A context that shows each stage as it begins."""

    def __init__(self, console: Console, descriptor: int | None = None) -> None:
        """`descriptor` is where each stage is also written, a line each."""
        self._descriptor = descriptor
        self.now = "starting"
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._timer = threading.Timer(DELAY, self._progress.start)
        self._timer.daemon = True

    def stage(self, name: str) -> None:
        """Show that a stage begins."""
        self.now = name
        self._progress.update(self._task, description=printable(name))
        if self._descriptor is not None:
            os.write(self._descriptor, f"{printable(name)}\n".encode())

    def portion(self, what: str, done: int, total: int) -> None:
        """Show how much of a file is written, in bytes."""
        size = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB" if total > 10**8 else ""
        text = printable(f"writing {what} {size}".rstrip())
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

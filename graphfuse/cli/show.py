"""Where output goes: results to stdout, progress to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graphfuse.system import machine

if TYPE_CHECKING:
    from rich.console import Console

    from graphfuse.report.progress_bar import StageProgress

_stages: int | None = None


def send_stages_to(descriptor: int | None) -> None:
    """Write the stages there as well: an isolated process tells its parent where it is."""
    global _stages  # noqa: PLW0603
    _stages = descriptor


def console(stderr: bool = False) -> Console:
    """A console; piped output is not folded."""
    from graphfuse.report.console import SafeConsole

    # Before rich 14 an empty FORCE_COLOR was as good as any other.
    terminal = False if os.environ.get("FORCE_COLOR") == "" else None
    made = SafeConsole(
        stderr=stderr, highlight=False, soft_wrap=False, markup=False, force_terminal=terminal
    )
    if not made.is_terminal and "COLUMNS" not in made._environ:  # pyright: ignore[reportPrivateUsage]
        # Piped output is read by programs and logs: do not fold it at 80 columns.
        made.width = 240
    return made


@contextmanager
def progress() -> Generator[StageProgress]:
    """The stages of a run on stderr; a context that yields what is told of each.

    Raises MachineError, naming the stage, when memory, threads or files give out in it.
    """
    from graphfuse.report.progress_bar import StageProgress

    made = StageProgress(console(stderr=True), _stages)
    try:
        with made:
            yield made
    except Exception as error:
        machine.check(error, made.now)
        raise


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout: ASCII, control characters escaped."""
    # JSON itself lets DEL stand.
    print(json.dumps(document, indent=2, allow_nan=False).replace("\x7f", "\\u007f"))

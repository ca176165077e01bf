"""Where output goes: results to stdout, progress to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graphfuse.cli.invocation import invocation
from graphfuse.system import machine

if TYPE_CHECKING:
    from graphfuse.report.console import SafeConsole
    from graphfuse.report.progress_bar import StageProgress


def console(stderr: bool = False) -> SafeConsole:
    """A console; piped output is not folded."""
    from graphfuse.report.console import SafeConsole

    # Before rich 14 an empty FORCE_COLOR was as good as any other.
    terminal = False if os.environ.get("FORCE_COLOR") == "" else None
    made = SafeConsole(
        stderr=stderr, highlight=False, soft_wrap=False, markup=False, force_terminal=terminal
    )
    if not made.is_terminal and "COLUMNS" not in os.environ:
        # Piped output is read by programs and logs: do not fold it at 80 columns.
        made.width = 240
    return made


@contextmanager
def progress() -> Generator[StageProgress]:
    """The stages of a run on stderr; a context that yields what is told of each.

    Raises MachineError, naming the stage, when memory, threads or files give out in it.
    """
    from graphfuse.report.progress_bar import StageProgress

    made = StageProgress(console(stderr=True), invocation.stages)
    try:
        with made:
            yield made
    except Exception as error:
        machine.check(error, made.now)
        raise


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout: ASCII, control characters escaped."""
    invocation.printed = True
    # JSON itself lets DEL stand.
    print(json.dumps(document, indent=2, allow_nan=False).replace("\x7f", "\\u007f"))

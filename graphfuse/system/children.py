"""A command in a process of its own, with limits on memory and time; it ends when its parent does.

What a model does to such a child (a crash, endless work, all memory) ends the child alone. The
stages that it is at come back through a pipe. Another pipe is the parent's: when that closes, as
the kernel does for whoever is killed, the child ends too, and its temporary files go.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphfuse.errors import GraphfuseError, OriginalModelError, ValidationError

LIMITS = "GRAPHFUSE_ISOLATION"
"""The environment variable that tells a child its limits: bytes, seconds, two file descriptors."""

REMEDY = "raise --memory-limit or --time-limit, or take the model for broken"

LAST_WORDS = 5.0
"""Seconds that a child without a parent has to remove its temporary files."""


@dataclass
class ChildStages:
    """The names of the stages that a child says it is at; the last one is kept."""

    descriptor: int
    _lines: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Read them as they come."""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self.descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._lines[:] = [line.strip()[:200]]

    @property
    def now(self) -> str:
        """The stage that the child is at."""
        return self._lines[0] if self._lines else ""

    def last(self) -> str:
        """The stage that a child was at that has ended."""
        self._thread.join(timeout=1.0)
        return self.now


class Child:
    """A running command line of graphfuse."""

    def __init__(
        self,
        arguments: Sequence[str],
        memory: int,
        seconds: float,
        stdout: int | None = None,
        scratch: str = "",
    ) -> None:
        """Start it. `memory` bounds its address space in bytes, 0 by the machine's memory.

        `seconds` times the processors bounds its processor time; wall time is for `wait` to bound.
        `stdout` is as for subprocess.Popen, and so is what happens to standard error then.
        `scratch` is where its temporary files go, if not where this process has them.
        """
        size = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        reading, writing = os.pipe()
        listening, self._lifeline = os.pipe()
        told = f"{size},{int(seconds) + 1},{writing},{listening}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graphfuse", *arguments],
            env={**os.environ, LIMITS: told, **({"TMPDIR": scratch} if scratch else {})},
            pass_fds=(writing, listening),
            start_new_session=True,
            stdin=None if stdout is None else subprocess.DEVNULL,
            stdout=stdout,
            stderr=None if stdout is None else subprocess.PIPE,
        )
        os.close(writing)
        os.close(listening)
        self.stages = ChildStages(reading)

    def kill(self) -> None:
        """End the child and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self._lifeline = -1


def stopped_by(number: int, stage: str) -> GraphfuseError:
    """The error for a child that a signal ended while it was at a stage."""
    if number == getattr(signal, "SIGBUS", 0):
        # onnxruntime maps weight files; what was cut off is not there when it is needed.
        return ValidationError(
            f"the isolated process was stopped by SIGBUS while {stage or 'starting'}: a "
            "weight file became shorter, or its disk failed",
            "nothing was written; run it again when nobody writes to the model's files",
        )
    return died(f"was stopped by {_signal_name(number)}", stage)


def died(how: str, stage: str) -> GraphfuseError:
    """The error for a child that ended without a word."""
    kind = OriginalModelError if stage.startswith("running the original") else ValidationError
    return kind(f"the isolated process {how} while {stage or 'starting'}", REMEDY)


def _signal_name(number: int) -> str:
    """A signal as the system calls it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def begin() -> int | None:
    """In the child: take on the limits; gives the descriptor that stages are written to."""
    text = os.environ.pop(LIMITS, "")
    if not text:
        return None
    import resource

    size, seconds, descriptor, lifeline = (int(part) for part in text.split(","))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    processor = seconds * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    return descriptor


def _end_with_parent(lifeline: int) -> None:
    """Wait until the parent is gone; then stop as for SIGTERM, which removes temporary files."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LAST_WORDS)
    os._exit(128 + signal.SIGTERM)

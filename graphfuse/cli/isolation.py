"""Running graphfuse in a child process with limits on memory, processor time and wall time.

A model is input: onnx's shape inference and onnxruntime are C++ that runs on it. Whatever a model
does to them (a crash, endless work, all memory) ends the child, and is one line in the parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from graphfuse.errors import GraphfuseError, OriginalModelError, UsageError, ValidationError

LIMITS = "GRAPHFUSE_ISOLATION"
"""The environment variable that tells the child its limits: bytes, seconds, a file descriptor."""

REMEDY = "raise --memory-limit or --time-limit, or take the model for broken"


def run_isolated(arguments: Sequence[str], memory_gib: float, seconds: float) -> int:
    """Run the command line in a child, its streams passed through, and give its exit code.

    `memory_gib` bounds the child's address space, 0 by the machine's memory; `seconds` bounds its
    wall time, and that times the processors its processor time. Raises OriginalModelError when the
    child died while the original ran, ValidationError when it died at anything else.
    """
    if os.name != "posix":
        raise UsageError("--isolate needs a POSIX system", "run graphfuse in a container instead")
    size = int(memory_gib * 2**30) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    reading, writing = os.pipe()
    environment = {**os.environ, LIMITS: f"{size},{int(seconds) + 1},{writing}"}
    command = [sys.executable, "-m", "graphfuse", *arguments]
    child = subprocess.Popen(command, env=environment, pass_fds=(writing,), start_new_session=True)
    os.close(writing)
    _forward_signals(child)
    stages = _Stages(reading)
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        # First of all: while its last words are waited for it could finish, and write.
        _kill(child)
        raise _died(f"took more than {seconds:g} s", stages.last()) from None
    finally:
        _kill(child)
    if code == -getattr(signal, "SIGBUS", 0):
        # onnxruntime maps weight files; what was cut off is not there when it is needed.
        raise ValidationError(
            f"the isolated process was stopped by SIGBUS while {stages.last() or 'starting'}: a "
            "weight file became shorter, or its disk failed",
            "nothing was written; run it again when nobody writes to the model's files",
        )
    if code < 0:
        raise _died(f"was stopped by {_signal_name(-code)}", stages.last())
    return code


def _died(how: str, stage: str) -> GraphfuseError:
    kind = OriginalModelError if stage.startswith("running the original") else ValidationError
    return kind(f"the isolated process {how} while {stage or 'starting'}", REMEDY)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _forward_signals(child: subprocess.Popen[bytes]) -> None:
    """Whoever stops the parent stops the child: it removes its temporary files."""

    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)


class _Stages:
    """The names of the stages that the child says it is at; the last one is kept."""

    def __init__(self, descriptor: int) -> None:
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(descriptor,), daemon=True)
        self._thread.start()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._lines[:] = [line.strip()[:200]]

    def last(self) -> str:
        """The stage that the child was at."""
        self._thread.join(timeout=1.0)
        return self._lines[0] if self._lines else ""


def begin() -> int | None:
    """In the child: take on the limits; gives the descriptor that stages are written to."""
    text = os.environ.pop(LIMITS, "")
    if not text:
        return None
    import resource

    size, seconds, descriptor = (int(part) for part in text.split(","))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    processor = seconds * (os.cpu_count() or 1)
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return descriptor

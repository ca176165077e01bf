"""`--isolate`: the whole command in a child process with limits on memory and time.

A model is input: onnx's shape inference and onnxruntime are C++ that runs on it. Whatever a model
does to them is one line in the parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from graphfuse.errors import UsageError
from graphfuse.system.children import Child, died, stopped_by


def run_isolated(arguments: Sequence[str], memory_gib: float, seconds: float) -> int:
    """Run the command line in a child, its streams passed through, and give its exit code.

    `memory_gib` bounds the child's address space, 0 by the machine's memory; `seconds` bounds its
    wall time, and that times the processors its processor time. Raises OriginalModelError when the
    child died while the original ran, ValidationError when it died at anything else.
    """
    if os.name != "posix":
        raise UsageError("--isolate needs a POSIX system", "run graphfuse in a container instead")
    child = Child(arguments, int(memory_gib * 2**30), seconds)
    _forward_signals(child.process)
    try:
        code = child.process.wait(seconds)
    except subprocess.TimeoutExpired:
        # First of all: while its last words are waited for it could finish, and write.
        child.kill()
        raise died(f"took more than {seconds:g} s", child.stages.last()) from None
    finally:
        child.kill()
    if code < 0:
        raise stopped_by(-code, child.stages.last())
    return code


def _forward_signals(child: subprocess.Popen[bytes]) -> None:
    """Whoever stops the parent stops the child: it removes its temporary files."""

    def forward(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)

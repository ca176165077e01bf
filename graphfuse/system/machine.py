"""The line between what the machine lacks and what a model gets wrong.

A fused node is judged by numbers, and by faults of its own: a shape that does not fit, a type or a
node that no kernel takes. Memory, threads, files and folders that give out are none of these. They
hit whichever run comes next, the original's as well as the fused model's, and would be gone on
another day; so they end the run, and no site is put back for them. Whoever catches what onnxruntime
raises asks `check` first.

The line is drawn by the kind of exception:

- MemoryError: pybind11 makes one of std::bad_alloc, numpy of an array that finds no room.
- OSError: a file, a folder (the working one too), a process or a pipe. But for a TimeoutError
  without a number, which is a run that took longer than it may (runtime.run).
- UnicodeEncodeError: a path that is not UTF-8, and onnxruntime takes no other.
- onnxruntime's NoSuchFile: what was there when the model was loaded is gone.
- onnxruntime's other classes name the stage that failed (Fail, RuntimeException, InvalidGraph), not
  why: FAIL is a shape that does not fit as well as an allocation that failed. So for these, for
  Python's RuntimeError (threads; C++ exceptions without a class) and for ImportError (a library
  that finds no room) the words decide: those of allocators, of the system and of threads, as below.
  Names of a model stand in quotes or behind `Node` there, and are not looked at.
- An error of graphfuse's own was judged where it was raised.

All else (InvalidArgument, NotImplemented, InvalidGraph, Fail with other words) is the model's.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass

from graphfuse.errors import GraphfuseError, MachineError, ProviderError


@dataclass(frozen=True, slots=True)
class Lack:
    """What gave out, in words, and what to do about it."""

    what: str
    remedy: str


MEMORY = Lack(
    "out of memory",
    "give it more (`ulimit -v`, a container's limit, --memory-limit), or smaller feeds with "
    "--input-shapes",
)
THREADS = Lack(
    "a thread cannot be started",
    "allow more threads or memory (`ulimit -u`, `ulimit -v`, a container's limits)",
)
FILES = Lack(
    "a file or folder cannot be used",
    "look at the path, the disk, the working folder and `ulimit -n`, then run it again",
)
NAME = Lack(
    "onnxruntime takes no path that is not UTF-8",
    "rename the folder, or copy the model into another",
)

WORDS = (
    # Threads come first: what they lack may be memory.
    ("pthread_create", THREADS),  # onnxruntime, core/platform/posix/env.cc
    ("start new thread", THREADS),  # Python's threading
    ("thread constructor failed", THREADS),  # libc++ and libstdc++
    (os.strerror(errno.EAGAIN).lower(), THREADS),  # std::system_error of std::thread
    ("memoryerror", MEMORY),  # the last line of another Python
    ("bad_alloc", MEMORY),  # the C++ library; "bad allocation" is that of Windows
    ("bad allocation", MEMORY),
    ("failed to allocate memory", MEMORY),  # onnxruntime, core/framework/bfc_arena.cc
    ("is smaller than requested bytes", MEMORY),  # the same, of an arena with a limit
    ("out of memory", MEMORY),  # CUDA's error 2, DirectX, WebGPU
    ("alloc_failed", MEMORY),  # cuBLAS and cuDNN: *_STATUS_ALLOC_FAILED
    ("failed to map segment", MEMORY),  # glibc, loading a library
    ("thread-local data", MEMORY),  # the same
    (os.strerror(errno.ENOMEM).lower(), MEMORY),
    (os.strerror(errno.EMFILE).lower(), FILES),
    (os.strerror(errno.ENFILE).lower(), FILES),
    (os.strerror(errno.ENOSPC).lower(), FILES),
    (os.strerror(errno.EIO).lower(), FILES),
)
"""What onnxruntime, C++, the loader and the system say, and what it means."""

LONGEST = 120
"""Characters of what was said that are shown."""

QUOTED = re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|Node \([^)]*\)")


def lack(error: BaseException | None) -> Lack | None:
    """What the machine lacks, if that is what an error or a cause of it says; None if not."""
    while error is not None and not isinstance(error, GraphfuseError):
        found = _lack(error)
        if found is not None:
            return found
        error = error.__cause__
    return None


def _lack(error: BaseException) -> Lack | None:
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, UnicodeEncodeError):
        return NAME
    if isinstance(error, OSError):
        if isinstance(error, TimeoutError) and error.errno is None:
            return None
        return MEMORY if error.errno == errno.ENOMEM else FILES
    module = type(error).__module__
    if module.startswith("onnxruntime") and type(error).__name__ == "NoSuchFile":
        return FILES
    if module.startswith("onnxruntime") or isinstance(error, (RuntimeError, ImportError)):
        return lack_in(str(error))
    return None


def lack_in(text: str) -> Lack | None:
    """The same, of what another process or library says; names in quotes aside."""
    said = QUOTED.sub("", text.replace("can't", "cannot")).lower()
    return next((meant for words, meant in WORDS if words in said), None)


def check(error: Exception, doing: str) -> None:
    """Raise MachineError, naming what was being done, when an error is not the model's.

    MachineError and ProviderError say so already, and are raised as they are.
    """
    if isinstance(error, (MachineError, ProviderError)):
        raise error
    found = lack(error)
    if found is not None:
        raise failure(found, doing, error) from error


def remedy(error: Exception, doing: str, usual: str) -> str:
    """What helps an original that does not run; raises MachineError when the fault is not its own.

    Memory is: an original that needs more than there is does not run here, whatever is made of it.
    """
    if lack(error) is MEMORY:
        return MEMORY.remedy
    check(error, doing)
    return usual


def failure(found: Lack, doing: str, error: BaseException) -> MachineError:
    """The error that ends the run: what is lacking, where, what was said, and what to do."""
    said = " ".join(str(error).split()) or type(error).__name__
    if len(said) > LONGEST:
        # onnxruntime begins with a place in its sources, and ends with what happened.
        said = f"...{said[-LONGEST:]}"
    return MachineError(
        f"{found.what} while {doing} ({said}): this says nothing of the model", found.remedy
    )

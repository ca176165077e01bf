"""The CPU kernels of the fused operators: a custom-op library for onnxruntime.

    options = onnxruntime.SessionOptions()
    graphfuse.kernels.register(options)

`graphfuse.session_options()` does both. Other languages register the library by its path, which
`graphfuse env --kernels-path` prints. A session without the library runs fused nodes through the
functions that every fused model carries: right, at the speed of the original.

The kernels are CPU kernels. onnxruntime gives a node to whichever execution provider has a kernel
for it, and inlines a function only if none has: register them for a session whose first provider is
a GPU, and its fused nodes run on the CPU, with copies to and fro. So register them for CPU
sessions only; GPU providers run fused nodes through their functions (or use `--ep cuda`).

The environment variable GRAPHFUSE_KERNEL_ISA (avx512, avx2, portable) names the instruction set to
use, in place of the best one of the processor.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from graphfuse.errors import ProviderError, in_one_line
from graphfuse.system import libraries, machine

__all__ = ["library_path", "register", "why_not"]

LIBRARY_NAMES = {"win32": "graphfuse_kernels.dll", "darwin": "libgraphfuse_kernels.dylib"}
"""By sys.platform, where it is not as on Linux."""
_FILE = LIBRARY_NAMES.get(sys.platform, "libgraphfuse_kernels.so")

MISSING = (
    "this installation of graphfuse has no CPU kernels: no wheel with them is for this machine, "
    "and no C++17 compiler was there to build it"
)
REMEDY = (
    "install g++ or clang++, then "
    "`pip install --force-reinstall --no-deps --no-cache-dir --no-binary graphfuse graphfuse`; "
    "until then fused models run through their functions"
)


def find() -> Path | None:
    """The library's path; None when it was not built."""
    # In an editable installation the library is not beside the sources.
    for folder in __path__:
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    return None


def library_path() -> Path:
    """The path of the library that onnxruntime loads; ProviderError when it was not built."""
    path = find()
    if path is None:
        raise ProviderError(MISSING, REMEDY)
    return path


@cache
def why_not() -> str:
    """Why the kernels cannot be used here, in one sentence; '' when they can.

    Raises MachineError where there is no room for them now: that is not for all of the process.
    """
    try:
        register(libraries.onnxruntime().SessionOptions())
    except ProviderError as error:
        return str(error)
    return ""


def register(options: libraries.SessionOptions) -> None:
    """Register the kernels with an onnxruntime.SessionOptions, of a session on the CPU.

    Options that have them already stay as they are, whoever registered them.

    Raises ProviderError when the library was not built, or when onnxruntime cannot load it (it must
    be 1.17 or later).
    """
    path = library_path()
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        # onnxruntime raises its own classes, one per failure code.
        machine.check(error, "loading graphfuse's kernels")
        raise ProviderError(
            f"onnxruntime cannot load graphfuse's kernels from {path}: {in_one_line(error)}",
            "fused models run without them: `graphfuse.session_options(kernels=False)`",
        ) from error

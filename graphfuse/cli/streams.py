"""Standard streams and memory as a run finds them: closed, full, or next to nothing."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from graphfuse.errors import GraphfuseError

if TYPE_CHECKING:
    from graphfuse.records import HashedFile

NEEDS_RUNTIME = ("fuse", "export", "validate", "bench")

LIBRARIES = "import graphfuse.api.verdicts, rich.console"
"""What every command needs; below, what those that run models need besides."""
RUNTIME = """
import resource
limit, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (max(limit - {reserve}, 0), hard))
try:
    import onnxruntime
except ModuleNotFoundError:
    pass
else:
    from onnx import TensorProto, helper
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
    node = helper.make_node("Abs", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x")], [value("y")])
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset)
    onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
"""

RESERVE = 2**26
"""Bytes that a run needs besides: where it has none, libraries end it without a word to Python."""

PLENTY = 2**30 + 2**27 * (os.cpu_count() or 1)
"""Bytes of address space that the libraries are loaded in, with their threads, on any machine."""


class ReportError(GraphfuseError):
    """Standard output, or the file of a page, does not take the report."""

    exit_code = 1

    def __init__(
        self, error: Exception, written: Sequence[HashedFile], place: str = "standard output"
    ) -> None:
        what = f"{place} cannot be written ({getattr(error, 'strerror', '') or error})"
        if written:
            self.exit_code = 7
            super().__init__(f"{what}; {written[0].path} is written, and whole")
        else:
            super().__init__(what, "nothing was written")


@contextlib.contextmanager
def reporting(written: Sequence[HashedFile] = ()) -> Generator[None, None, None]:
    """For printing a report; `written` are the files that are there whatever comes of it.

    Raises ReportError when standard output is closed, full, or read by nobody.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Or the interpreter says so once more when it ends.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        raise ReportError(error, written) from error


def prepare() -> None:
    """Have all three streams, and let no name that one of them cannot show be a failure.

    A closed one would be the next file that is opened: what any library prints would go there. So
    its place is taken by what cannot be written to.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free: this one.
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_memory(arguments: Sequence[str]) -> None:
    """Raise MemoryError when a limit on memory (ulimit -v) does not let the libraries load.

    They end the process where they get none, some with a signal: so a child tries it before.
    """
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError):
        return
    if limit == resource.RLIM_INFINITY or limit > PLENTY:
        return
    runs = set(arguments) & {*NEEDS_RUNTIME, "--activations"}
    code = LIBRARIES + (RUNTIME.format(reserve=RESERVE) if runs else "")
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError:
        raise MemoryError from None
    if child.returncode:
        raise MemoryError

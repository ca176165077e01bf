"""The command line: thin over `graphfuse.api`, a file per command.

Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from graphfuse.cli.command_batch import batch
from graphfuse.cli.command_bench import bench
from graphfuse.cli.command_env import env
from graphfuse.cli.command_explain import explain
from graphfuse.cli.command_export import export
from graphfuse.cli.command_fuse import fuse
from graphfuse.cli.command_report import report
from graphfuse.cli.command_scan import scan
from graphfuse.cli.command_unfuse import unfuse
from graphfuse.cli.command_validate import validate
from graphfuse.cli.invocation import invocation
from graphfuse.cli.parsing import with_values
from graphfuse.cli.show import print_json
from graphfuse.cli.streams import ReportError, check_memory, prepare, reporting
from graphfuse.errors import GraphfuseError, UsageError, printable
from graphfuse.system import machine
from graphfuse.system.children import begin

app = typer.Typer(
    name="graphfuse",
    help="Fuse residual Adds with the LayerNorms and RMSNorms that read them, in ONNX models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (scan, explain, fuse, batch, export, unfuse, validate, bench, report, env):
    app.command()(command)


OUTPUT_FAULTS = frozenset(
    getattr(errno, name)
    for name in ("EPIPE", "ENOSPC", "EIO", "EFBIG", "EBADF", "EDQUOT", "EINVAL", "ECONNRESET")
    if hasattr(errno, name)
)
"""How writing to standard output fails: it has no name, and whatever else has."""

NO_ROOM = (
    b"graphfuse: error: out of memory, also to say where; give it more (`ulimit -v`, "
    b"a container's limit, --memory-limit)\n"
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from graphfuse import __version__

        with reporting():
            print(f"graphfuse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Fuse residual Adds with the LayerNorms and RMSNorms that read them, in ONNX models."""


def main() -> None:
    """The entry point: errors become one line on stderr and their exit code."""
    try:
        _run()
    except MemoryError:
        os.write(2, NO_ROOM)
        raise SystemExit(1) from None


def _run() -> None:
    prepare()
    _handle_signals()
    invocation.words, invocation.stages = sys.argv[1:] or ["--help"], begin()
    invocation.printed = False
    try:
        check_memory(invocation.words)
        code = app(with_values(invocation.words), prog_name="graphfuse", standalone_mode=False)
        with reporting():
            pass
    except GraphfuseError as error:
        _let_go(error)
        _fail(error)
    except KeyboardInterrupt:
        _stopped("interrupted", 130)
    except OSError as error:
        if error.errno not in OUTPUT_FAULTS or error.filename is not None:
            _fail_of_machine(error)
        # Of the report only: what reads and writes models has errors of its own.
        _fail(ReportError(error, ()))
    except Exception as error:
        _fail_of_machine(error)
        # typer's own errors (wrong options, missing arguments), whichever click it brings.
        message = getattr(error, "format_message", None)
        if type(error).__name__ == "Abort":
            _stopped("interrupted", 130)
        if message is None:
            raise
        text = message().rstrip(".").replace("Value error, ", "")
        _fail(UsageError(text, "`graphfuse --help` lists the commands"))
    if code == 130:
        # typer turns an interrupt into this code.
        _stopped("interrupted", 130)
    raise SystemExit(code if isinstance(code, int) else 0)


def _let_go(error: BaseException | None) -> None:
    """Drop the frames that an error holds: with them go the arrays and sessions of the run.

    Where memory gave out there is no room for a line else.
    """
    known: set[int] = set()
    # An error may be raised from itself.
    while error is not None and id(error) not in known:
        known.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _fail_of_machine(error: Exception) -> None:
    """End with one line when memory, threads or files gave out where no stage was named."""
    found = machine.lack(error)
    if found is not None:
        _let_go(error)
        _fail(machine.failure(found, "running graphfuse", error))


def _fail(error: GraphfuseError) -> NoReturn:
    """End with an error: a line, and with --json the one document, where none is printed yet."""
    if invocation.wants_json and not invocation.printed:
        from graphfuse.report.head import ended, head

        with contextlib.suppress(ReportError), reporting():
            print_json(ended(head(invocation.command), error))
    _stopped(str(error), error.exit_code)


def _stopped(message: str, code: int) -> NoReturn:
    line = printable(" ".join(message.split()))
    # Where nobody reads it, the code says it.
    with contextlib.suppress(OSError):
        print(f"graphfuse: error: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _handle_signals() -> None:
    """Let SIGTERM and SIGHUP unwind the stack, so that temporary files are removed."""

    def stop(number: int, _: FrameType | None) -> None:
        _stopped(f"stopped by {signal.Signals(number).name}", 128 + number)

    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


if __name__ == "__main__":
    main()

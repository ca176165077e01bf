"""The command line: thin over `graphfuse.pipeline`. Results go to stdout, progress to stderr."""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from graphfuse.cli import change, look, measure
from graphfuse.cli.show import send_stages_to
from graphfuse.cli.streams import ReportError, check_memory, prepare, reporting
from graphfuse.errors import GraphfuseError, lacks_memory, printable
from graphfuse.isolation import begin

app = typer.Typer(
    name="graphfuse",
    help="Fuse residual Adds with the LayerNorms and RMSNorms that read them, in ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (look.scan, look.explain, change.fuse, change.validate, measure.bench, look.env):
    app.command()(command)


OUT_OF_MEMORY = (
    "out of memory; raise the limit (ulimit -v, --memory-limit), or give smaller feeds with "
    "--input-shapes"
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
    prepare()
    _handle_signals()
    send_stages_to(begin())
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        check_memory(sys.argv[1:])
        code = app(standalone_mode=False)
        with reporting():
            pass
    except GraphfuseError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except MemoryError:
        _fail(OUT_OF_MEMORY, 1)
    except OSError as error:
        # Of the report only: what reads and writes models has errors of its own.
        _fail(str(ReportError(error, ())), 1)
    except Exception as error:
        if lacks_memory(error):
            _fail(OUT_OF_MEMORY, 1)
        # typer's own errors (wrong options, missing arguments), whichever click it brings.
        message = getattr(error, "format_message", None)
        if type(error).__name__ == "Abort":
            _fail("interrupted", 130)
        if message is None:
            raise
        _fail(f"{message()}; `graphfuse --help` lists the commands", 2)
    if code == 130:
        # typer turns an interrupt into this code.
        _fail("interrupted", 130)
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    line = printable(" ".join(message.split()))
    # Where nobody reads it, the code says it.
    with contextlib.suppress(OSError):
        print(f"graphfuse: error: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def _handle_signals() -> None:
    """Let SIGTERM and SIGHUP unwind the stack, so that temporary files are removed."""

    def stop(number: int, _: FrameType | None) -> None:
        _fail(f"stopped by {signal.Signals(number).name}", 128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


if __name__ == "__main__":
    main()

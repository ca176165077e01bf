"""The command line: thin over `graphfuse.pipeline`. Results go to stdout, progress to stderr."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from graphfuse.cli import change, look, measure
from graphfuse.cli.show import send_stages_to
from graphfuse.errors import GraphfuseError
from graphfuse.isolation import begin

app = typer.Typer(
    name="graphfuse",
    help="Fuse residual Adds with the LayerNorms and RMSNorms that read them, in ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    look.scan,
    look.explain,
    change.fuse,
    change.unfuse,
    change.validate,
    measure.bench,
    look.env,
):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from graphfuse import __version__

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    _handle_signals()
    send_stages_to(begin())
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except GraphfuseError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except MemoryError:
        _fail("out of memory; give smaller feeds with --input-shapes", 1)
    except OSError as error:
        # The model is written by now, or needed no writing: only the report cannot be shown.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        _fail(f"standard output cannot be written ({error.strerror})", 1)
    except Exception as error:
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
    line = " ".join(message.split())
    print(f"graphfuse: error: {line}", file=sys.stderr)
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

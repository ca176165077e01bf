"""The command line: thin over `graphfuse.pipeline`. Results go to stdout, progress to stderr."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from graphfuse.errors import GraphfuseError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="graphfuse",
    help="Fuse residual Adds with the LayerNorms and RMSNorms that read them, in ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the random feeds.")]
IterationsOption = Annotated[
    int | None, typer.Option(min=1, help="How many feeds to draw, each with its own seed.")
]
ShapesOption = Annotated[
    list[str] | None,
    typer.Option(help="Shape of an input, such as ids:[1,128]. May be repeated."),
]
InputsOption = Annotated[
    str | None, typer.Option("--load-inputs", help="Feeds: an .npz file with an array per input.")
]


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


@app.command()
def scan(model: ModelArgument, as_json: JsonOption = False) -> None:
    """List the sites of a model, and what is not fused and why."""
    from graphfuse import pipeline

    found = pipeline.scan(model)
    if as_json:
        from graphfuse.report.document import scan_document

        _print_json(scan_document(model, found))
    else:
        from graphfuse.report.terminal import print_scan

        print_scan(_console(), found)


@app.command()
def explain(
    model: ModelArgument,
    site: Annotated[
        str, typer.Argument(metavar="SITE", help="An id (s1, m1) or an output, as scan shows them.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Show why a site is or is not fused: what was seen, beside the definition."""
    from graphfuse import pipeline

    found = pipeline.explain(model, site)
    if as_json:
        from graphfuse.report.document import explain_document

        _print_json(explain_document(model, found))
    else:
        from graphfuse.report.explain import print_explanation

        print_explanation(_console(), found)


@app.command()
def fuse(
    model: ModelArgument,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The fused model.")] = None,
    ep: Annotated[str, typer.Option(help="cpu, cuda or portable.")] = "cpu",
    include: Annotated[
        list[str] | None, typer.Option(help="Only this site: an id or a pattern of outputs.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not this site: an id or a pattern of outputs.")
    ] = None,
    fold_bias: Annotated[
        bool, typer.Option(help="Let the fused node add a bias vector before the residual.")
    ] = False,
    validation: Annotated[str, typer.Option("--validate", help="fast, full or none.")] = "fast",
    input_shapes: ShapesOption = None,
    load_inputs: InputsOption = None,
    seed: SeedOption = 0,
    iterations: IterationsOption = None,
    min_fused: Annotated[
        int, typer.Option(min=0, help="Exit with 6 and write nothing when fewer sites are fused.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option(help="Do everything but write.")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite an existing output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fuse every site of a model, validate the result, and write it."""
    from graphfuse import pipeline

    if output is None and not dry_run:
        raise UsageError("no output is named", "pass -o FILE, or --dry-run")
    shapes, feeds = _parse_shapes(input_shapes), _load_feeds(load_inputs)
    with _progress() as stage:
        result = pipeline.optimize(
            model,
            output or model,
            ep,
            include=include or (),
            exclude=exclude or (),
            fold_bias=fold_bias,
            validation=validation,
            seed=seed,
            iterations=iterations,
            inputs=feeds,
            input_shapes=shapes,
            min_fused=min_fused,
            force=force,
            dry_run=dry_run,
            stage=stage,
        )
    if as_json:
        from graphfuse.report.document import fuse_document

        _print_json(fuse_document(model, result))
    else:
        from graphfuse.report.terminal import print_summary

        print_summary(_console(), model, result)


@app.command()
def validate(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    fused: Annotated[str, typer.Argument(metavar="FUSED")],
    ep: Annotated[str, typer.Option(help="Execution providers, such as cpu,cuda.")] = "cpu",
    input_shapes: ShapesOption = None,
    load_inputs: InputsOption = None,
    seed: SeedOption = 0,
    iterations: IterationsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models with each other and with float64. Exits with 1 when a gate fails."""
    from graphfuse import pipeline

    shapes, feeds = _parse_shapes(input_shapes), _load_feeds(load_inputs)
    with _progress() as stage:
        report = pipeline.validate(
            original,
            fused,
            ep.split(","),
            seed=seed,
            iterations=iterations or 1,
            inputs=feeds,
            input_shapes=shapes,
            stage=stage,
        )
    if as_json:
        from graphfuse.report.document import validation_document

        _print_json(validation_document(original, fused, report))
    else:
        from graphfuse.report.terminal import print_checks

        print_checks(_console(), report)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def env(
    kernels_path: Annotated[
        bool, typer.Option("--kernels-path", help="Print the path of the kernel library alone.")
    ] = False,
) -> None:
    """Show versions, execution providers, and what is missing."""
    import platform

    from graphfuse import __version__, foreign, kernels

    if kernels_path:
        print(kernels.library_path())
        return
    console = _console()
    console.print(f"graphfuse {__version__}, Python {platform.python_version()}")
    for package in ("onnx", "onnx_graphsurgeon", "numpy", "onnxruntime", "torch"):
        console.print(f"{package}: {_version(package)}")
    try:
        runtime = foreign.onnxruntime()
    except GraphfuseError as error:
        console.print(str(error))
    else:
        console.print(f"execution providers: {', '.join(runtime.get_available_providers())}")
    missing = kernels.why_not()
    console.print(f"kernels: {missing or kernels.library_path()}", soft_wrap=True)


def main() -> None:
    """The entry point: errors become one line on stderr and their exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    _handle_signals()
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


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, soft_wrap=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:  # pyright: ignore[reportPrivateUsage]
        # Piped output is read by programs and logs: do not fold it at 80 columns.
        console.width = 240
    return console


def _progress() -> Any:
    from graphfuse.report.progress import StageProgress

    return StageProgress(_console(stderr=True))


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    names = ("onnxruntime", "onnxruntime-gpu") if package == "onnxruntime" else (package,)
    for name in names:
        try:
            return f"{version(name)} ({name})" if name == "onnxruntime-gpu" else version(name)
        except PackageNotFoundError:
            continue
    return "not installed"


SHAPE = re.compile(r"(\S+?):\[\s*((?:\d+\s*(?:,\s*\d+\s*)*)?)\]")
HINT = "write it as name:[1,128]"


def _parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """`name:[1,128]`, polygraphy's spelling; several may stand in one argument."""
    if not texts:
        return None
    text = " ".join(texts)
    shapes: dict[str, tuple[int, ...]] = {}
    for match in SHAPE.finditer(text):
        extents = [extent.strip() for extent in match[2].split(",") if extent.strip()]
        if match[1] in shapes or any(len(extent) > 12 for extent in extents):
            raise UsageError(f"shape {match[0].strip()[:80]!r} is too large or given twice", HINT)
        shapes[match[1]] = tuple(map(int, extents))
    rest = SHAPE.sub("", text).strip()
    if rest:
        raise UsageError(f"cannot read the shape {rest[:80]!r}", HINT)
    return shapes


def _load_feeds(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(Path(path), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        # numpy, zipfile and zlib each raise their own classes on damaged archives.
        raise UsageError(
            f"{path} cannot be read as feeds ({' '.join(str(error).split())})",
            "write it with numpy.savez(file, input_name=array)",
        ) from error


if __name__ == "__main__":
    main()

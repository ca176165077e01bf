"""The command line: thin over `graphfuse.pipeline`. Results go to stdout, progress to stderr."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from graphfuse.errors import GraphfuseError, UsageError
from graphfuse.isolation import begin, run_isolated
from graphfuse.options import parse_ranges, parse_shapes

if TYPE_CHECKING:
    from rich.console import Console

_stages: int | None = None
"""Where an isolated process writes its stages."""

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
LoaderOption = Annotated[
    str | None,
    typer.Option(help="Feeds: a function that yields them, such as file.py:load_data."),
]
RangeOption = Annotated[
    list[str] | None,
    typer.Option(help="Range of drawn numbers, [0,1] or name:[0,1]. May be repeated."),
]
IsolateOption = Annotated[
    bool, typer.Option("--isolate", help="Run in a child process with limits.")
]
MemoryOption = Annotated[
    float, typer.Option(min=0, help="GiB that --isolate allows; 0: the machine's memory.")
]
TimeOption = Annotated[float, typer.Option(min=1, help="Seconds that --isolate allows.")]


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
def scan(
    model: ModelArgument,
    isolate: IsolateOption = False,
    memory_limit: MemoryOption = 0,
    time_limit: TimeOption = 600,
    as_json: JsonOption = False,
) -> None:
    """List the sites of a model, and what is not fused and why."""
    _isolate(isolate, memory_limit, time_limit)
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
    validation: Annotated[
        str, typer.Option("--validate", help="fast, full, sites (each fused node alone) or none.")
    ] = "fast",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when a site does, instead of putting it back.")
    ] = False,
    input_shapes: ShapesOption = None,
    val_range: RangeOption = None,
    load_inputs: InputsOption = None,
    data_loader_script: LoaderOption = None,
    seed: SeedOption = 0,
    iterations: IterationsOption = None,
    isolate: IsolateOption = False,
    memory_limit: MemoryOption = 0,
    time_limit: TimeOption = 600,
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
    _isolate(isolate, memory_limit, time_limit)
    feeds = _feeds(load_inputs, data_loader_script, iterations)
    with _progress() as stage:
        result = pipeline.optimize(
            model,
            output or model,
            ep,
            include=include or (),
            exclude=exclude or (),
            fold_bias=fold_bias,
            validation=validation,
            strict=strict,
            seed=seed,
            iterations=iterations,
            inputs=feeds,
            input_shapes=parse_shapes(input_shapes),
            val_range=parse_ranges(val_range),
            min_fused=min_fused,
            force=force,
            dry_run=dry_run,
            stage=stage,
        )
    if as_json:
        from graphfuse.report.document import fuse_document

        _print_json(fuse_document(model, result, _data_options()))
    else:
        from graphfuse.report.terminal import print_summary

        print_summary(_console(), model, result)


@app.command()
def validate(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL")],
    fused: Annotated[str, typer.Argument(metavar="FUSED")],
    ep: Annotated[str, typer.Option(help="Execution providers, such as cpu,cuda.")] = "cpu",
    level: Annotated[
        str, typer.Option("--validate", help="fast, full or sites (each fused node alone).")
    ] = "full",
    site: Annotated[
        list[str] | None,
        typer.Option(help="Only the fused node with this output, alone. May be repeated."),
    ] = None,
    input_shapes: ShapesOption = None,
    val_range: RangeOption = None,
    load_inputs: InputsOption = None,
    data_loader_script: LoaderOption = None,
    seed: SeedOption = 0,
    iterations: IterationsOption = None,
    isolate: IsolateOption = False,
    memory_limit: MemoryOption = 0,
    time_limit: TimeOption = 600,
    as_json: JsonOption = False,
) -> None:
    """Compare two models with each other and with float64. Exits with 1 when a gate fails."""
    from graphfuse import pipeline

    _isolate(isolate, memory_limit, time_limit)
    feeds = _feeds(load_inputs, data_loader_script, iterations)
    with _progress() as stage:
        report = pipeline.validate(
            original,
            fused,
            ep.split(","),
            level=level,
            sites=site or (),
            seed=seed,
            iterations=iterations,
            inputs=feeds,
            input_shapes=parse_shapes(input_shapes),
            val_range=parse_ranges(val_range),
            stage=stage,
        )
    if as_json:
        from graphfuse.report.document import validation_document

        _print_json(validation_document(original, fused, report, _data_options()))
    else:
        from graphfuse.report.terminal import print_checks

        repeat = shlex.join(["graphfuse", "validate", original, fused, *_data_options()])
        print_checks(_console(), report, repeat)
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
        console.print(f"{package}: {foreign.version_of(package)}")
    try:
        runtime = foreign.onnxruntime()
    except GraphfuseError as error:
        console.print(str(error))
    else:
        console.print(f"execution providers: {', '.join(runtime.get_available_providers())}")
    missing = kernels.why_not()
    console.print(f"kernels: {missing or kernels.library_path()}", soft_wrap=True)


def _isolate(wanted: bool, memory_limit: float, time_limit: float) -> None:
    """Do the same in a child process, and end with its exit code."""
    if not wanted:
        return
    arguments = [argument for argument in sys.argv[1:] if argument != "--isolate"]
    raise typer.Exit(run_isolated(arguments, memory_limit, time_limit))


def _feeds(path: str | None, script: str | None, iterations: int | None) -> Any:
    """The feeds that the user gives, or None."""
    from graphfuse.feeding import load_inputs, load_script

    if path is not None and script is not None:
        raise UsageError(
            "feeds come from --load-inputs or from --data-loader-script", "pass one of them"
        )
    if script is not None:
        return load_script(script, iterations)
    return None if path is None else load_inputs(path)


def _data_options() -> list[str]:
    """The options that name the user's own feeds: a command that repeats a check needs them."""
    words: list[str] = []
    for position, word in enumerate(sys.argv):
        name, _, value = word.partition("=")
        if name in ("--load-inputs", "--data-loader-script"):
            words += [name, value or sys.argv[position + 1]]
    return words


def main() -> None:
    """The entry point: errors become one line on stderr and their exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    _handle_signals()
    global _stages  # noqa: PLW0603
    _stages = begin()
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

    return StageProgress(_console(stderr=True), _stages)


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()

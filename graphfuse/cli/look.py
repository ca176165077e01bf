"""The commands that only look: scan, explain, env."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.options import (
    FeedOptions,
    JsonOption,
    ModelArgument,
    can_isolate,
    is_gated,
    takes_feeds,
)
from graphfuse.cli.show import console, print_json, progress
from graphfuse.cli.streams import reporting
from graphfuse.errors import GraphfuseError, MachineError, UsageError
from graphfuse.files.limits import Limits


@can_isolate
@is_gated
@takes_feeds
def scan(
    model: ModelArgument,
    feeds: FeedOptions,
    limits: Limits,
    activations: Annotated[
        bool,
        typer.Option(
            "--activations", help="Run the model on the feeds: how large its residual stream gets."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the sites of a model, and what is not fused and why."""
    from graphfuse import pipeline
    from graphfuse.planning import advice, runtimes

    if not activations and feeds.given:
        raise UsageError("feeds are given, and nothing is run", "pass --activations as well")
    found = pipeline.scan(model, limits=limits)
    right = [*found.notes, *advice.of_scan(found)]
    notes = advice.of_sites(found.sites, runtimes.runtime()) + right
    readings = None
    if activations:
        with progress() as shown:
            readings = pipeline.activations(model, limits=limits, progress=shown, **feeds.arguments)
    with reporting():
        if as_json:
            from graphfuse.report.document import scan_document

            print_json(scan_document(model, found, readings, notes))
        elif readings is None:
            from graphfuse.report.terminal import print_scan

            print_scan(console(), found, notes)
        else:
            from graphfuse.report.activations import print_readings

            print_readings(console(), readings, found.already_fused, right)


@is_gated
def explain(
    model: ModelArgument,
    site: Annotated[
        str, typer.Argument(metavar="SITE", help="An id (s1, m1) or an output, as scan shows them.")
    ],
    limits: Limits,
    as_json: JsonOption = False,
) -> None:
    """Show why a site is or is not fused: what was seen, beside the definition."""
    from graphfuse import pipeline

    found = pipeline.explain(model, site, limits=limits)
    with reporting():
        if as_json:
            from graphfuse.report.document import explain_document

            print_json(explain_document(model, found))
        else:
            from graphfuse.report.explanation import print_explanation

            print_explanation(console(), found)


def env(
    kernels_path: Annotated[
        bool, typer.Option("--kernels-path", help="Print the path of the kernel library alone.")
    ] = False,
) -> None:
    """Show versions, execution providers, and what is missing."""
    from graphfuse import kernels

    with reporting():
        if kernels_path:
            print(kernels.library_path())
        else:
            _show_environment()


def _show_environment() -> None:
    import platform

    from graphfuse import __version__, kernels
    from graphfuse.planning import advice, runtimes
    from graphfuse.system import libraries

    lines = [f"graphfuse {__version__}, Python {platform.python_version()}"]
    for package in ("onnx", "onnx_graphsurgeon", "numpy", "onnxruntime", "torch"):
        lines.append(f"{package}: {libraries.version_of(package)}")
    try:
        runtime = libraries.onnxruntime()
    except MachineError:
        raise
    except GraphfuseError as error:
        lines.append(str(error))
    else:
        lines.append(f"execution providers: {', '.join(runtime.get_available_providers())}")
        lines += [f"note: {note}" for note in advice.of_runtime(runtimes.runtime())]
    lines.append(f"kernels: {kernels.why_not() or kernels.library_path()}")
    # Only now: where memory gives out on the way there is one line, the error's.
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)

"""graphfuse env."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from graphfuse.cli.options import JsonOption
from graphfuse.cli.show import console, print_json
from graphfuse.cli.streams import reporting
from graphfuse.errors import GraphfuseError, MachineError, UsageError

if TYPE_CHECKING:
    from graphfuse.records.environment import Environment

VERSIONED = (
    "onnx",
    "onnx_graphsurgeon",
    "numpy",
    "onnxruntime",
    "torch",
    "onnxscript",
    "transformers",
    "mpmath",
)
"""Those that graphfuse needs, and those that its extras bring."""


def env(
    kernels_path: Annotated[
        bool, typer.Option("--kernels-path", help="Print the path of the kernel library alone.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show versions, execution providers, and what is missing."""
    from graphfuse import kernels

    if kernels_path and as_json:
        raise UsageError("--kernels-path prints a path, no document", "leave one of them out")
    if kernels_path:
        with reporting():
            print(kernels.library_path())
        return
    found = _environment()
    # Only now: where memory gives out on the way there is one line, the error's.
    with reporting():
        if as_json:
            from graphfuse.report.machine_view import env_document

            print_json(env_document(found))
        else:
            from graphfuse.report.machine_view import print_environment

            print_environment(console(), found)


def _environment() -> Environment:
    import platform

    from graphfuse import kernels
    from graphfuse.planning import advice, runtimes
    from graphfuse.records.environment import Environment
    from graphfuse.system import libraries

    found = {package: libraries.version_of(package) for package in VERSIONED}
    versions = {n: None if each == libraries.NOT_INSTALLED else each for n, each in found.items()}
    providers: list[str] = []
    notes: list[str] = []
    try:
        providers = libraries.available_providers()
        notes = advice.of_runtime(runtimes.runtime())
    except MachineError:
        raise
    except GraphfuseError as error:
        notes = [str(error)]
    missing = kernels.why_not()
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        versions=versions,
        providers=tuple(providers),
        kernels=None if missing else str(kernels.library_path()),
        kernels_missing=missing,
        notes=tuple(notes),
    )

"""graphfuse env."""

from __future__ import annotations

from typing import Annotated

import typer

from graphfuse.cli.show import console
from graphfuse.cli.streams import reporting
from graphfuse.errors import GraphfuseError, MachineError


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

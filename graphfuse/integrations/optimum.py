"""`optimum-cli onnxruntime graphfuse`: an export fused by the command line of optimum.

    python -m graphfuse.integrations.optimum            install it into the optimum of this Python
    python -m graphfuse.integrations.optimum --remove   take it away again

optimum-cli imports every file of optimum/commands/register when it starts. One of these is ours: it
adds a command to those of optimum-onnx (optimize, quantize), which runs `graphfuse fuse`.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from importlib import import_module, util
from pathlib import Path
from typing import Any

from graphfuse.errors import GraphfuseError, ProviderError, WriteError
from graphfuse.records.requests import Level

REGISTER = "optimum.commands.register"
REGISTRATION = "register_graphfuse.py"

CONTENT = '''"""optimum-cli onnxruntime graphfuse; written by graphfuse.integrations.optimum."""

REGISTER_COMMANDS = []

try:
    from graphfuse.integrations.optimum import add_command
except ImportError:
    # graphfuse is gone; the other commands stay.
    pass
else:
    add_command()
'''


def add_command() -> None:
    """Add the command to those of optimum-onnx, if that is installed.

    It is added to its parent's class: a parent has no object yet when files are imported, and
    optimum registers commands below those alone that have one.
    """
    try:
        base: Any = import_module("optimum.commands.base")
        parent: Any = import_module("optimum.commands.onnxruntime.base").ONNXRuntimeCommand
    except ImportError:
        return
    if any(each.name == "graphfuse" for each in parent.SUBCOMMANDS):
        return

    class GraphfuseCommand(base.BaseOptimumCLICommand):
        """Fuses residual Adds with norms in every model of a folder."""

        @staticmethod
        def parse_args(parser: ArgumentParser) -> None:
            """The options, named as those of `optimize`."""
            _add_options(parser)

        def run(self) -> None:
            """Run `graphfuse fuse`, and end with its exit code."""
            raise SystemExit(subprocess.run(_command(self.args), check=False).returncode)

    info = base.CommandInfo(
        name="graphfuse",
        help="Fuse residual Adds with LayerNorms and RMSNorms.",
        subcommand_class=GraphfuseCommand,
    )
    parent.SUBCOMMANDS = (*parent.SUBCOMMANDS, info)


def _add_options(parser: ArgumentParser) -> None:
    required = parser.add_argument_group("Required arguments")
    required.add_argument(
        "--onnx_model", type=Path, required=True, help="The folder of the ONNX models."
    )
    required.add_argument("-o", "--output", type=Path, required=True, help="The folder to write.")
    optional = parser.add_argument_group("Optional arguments")
    optional.add_argument(
        "--ep", default="cpu", help="Who will run the models: cpu, cuda, portable, auto."
    )
    optional.add_argument(
        "--validate",
        choices=[each.value for each in Level],
        default=Level.FAST.value,
        help="How much each fused model is compared with its original.",
    )
    optional.add_argument("--force", action="store_true", help="Replace the folder to write.")


def _command(options: Any) -> list[str]:
    words = [str(options.onnx_model), "-o", str(options.output), "--ep", options.ep]
    force = ["--force"] if options.force else []
    return [
        sys.executable,
        "-m",
        "graphfuse",
        "fuse",
        *words,
        "--validate",
        options.validate,
        *force,
    ]


def registration() -> Path:
    """Where the file goes: beside those of optimum-onnx.

    Raises ProviderError when it is not installed.
    """
    try:
        spec = util.find_spec(REGISTER)
    except ModuleNotFoundError:
        spec = None
    places = [] if spec is None else [Path(each) for each in spec.submodule_search_locations or ()]
    found = [each for each in places if (each / "register_onnxruntime.py").is_file()]
    if not found:
        raise ProviderError(
            "optimum-onnx 0.1 or later is not installed, so optimum-cli has no command onnxruntime",
            "pip install 'optimum-onnx[onnxruntime]', in the environment of graphfuse",
        )
    return found[0] / REGISTRATION


def main(arguments: list[str] | None = None) -> int:
    """The command line: install the command, or remove it."""
    parser = ArgumentParser(
        prog="python -m graphfuse.integrations.optimum",
        description="Let optimum-cli have the command `onnxruntime graphfuse`.",
    )
    parser.add_argument("--remove", action="store_true", help="take it away again")
    given = parser.parse_args(arguments)
    try:
        path = registration()
        try:
            if given.remove:
                path.unlink(missing_ok=True)
            else:
                path.write_text(CONTENT)
        except OSError as error:
            text = f"{path} cannot be written ({error.strerror})"
            raise WriteError(text, "use an environment that is yours") from error
    except GraphfuseError as error:
        print(f"graphfuse: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{path}: {'removed' if given.remove else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command of optimum-cli: how it is installed, and what it runs.

optimum is not installed here (it wants a transformers before 5): a stand-in has its classes as far as
the command uses them. `python -m tests.campaigns.optimum` tries it with optimum itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import MODELS, ROOT, files_of

BASE = """
from argparse import ArgumentParser
from dataclasses import dataclass

@dataclass(frozen=True)
class CommandInfo:
    name: str
    help: str
    subcommand_class: type | None = None

class BaseOptimumCLICommand:
    SUBCOMMANDS = ()
    def __init__(self, args):
        self.args = args
"""

PARENT = """
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

class ONNXRuntimeCommand(BaseOptimumCLICommand):
    SUBCOMMANDS = (CommandInfo("optimize", "", BaseOptimumCLICommand),)
"""

# As optimum_cli.main does: every file of the folder is imported, then parents are made.
RUN = """
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path
import optimum.commands.register as place
for path in sorted(Path(next(iter(place.__path__))).glob("*.py")):
    assert import_module(f"optimum.commands.register.{path.stem}").REGISTER_COMMANDS == []
import_module("optimum.commands.register.register_graphfuse").add_command()
found = import_module("optimum.commands.onnxruntime.base").ONNXRuntimeCommand.SUBCOMMANDS
print([each.name for each in found])
parser = ArgumentParser()
found[-1].subcommand_class.parse_args(parser)
found[-1].subcommand_class(parser.parse_args(sys.argv[1:])).run()
"""


@pytest.fixture
def optimum(tmp_path: Path) -> Path:
    """A folder for the path of Python, with the stand-in."""
    commands = tmp_path / "packages" / "optimum" / "commands"
    for name, text in (
        ("base.py", BASE),
        ("onnxruntime/base.py", PARENT),
        ("register/register_onnxruntime.py", "REGISTER_COMMANDS = []\n"),
    ):
        (commands / name).parent.mkdir(parents=True, exist_ok=True)
        (commands / name).write_text(text)
    return tmp_path / "packages"


def python(packages: Path | None, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(each) for each in (packages, ROOT) if each)
    command, env = [sys.executable, *words], {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_command_fuses_a_folder(optimum: Path, tmp_path: Path) -> None:
    install = ("-m", "graphfuse.integrations.optimum")
    register = optimum / "optimum" / "commands" / "register"
    for _ in range(2):
        made = python(optimum, *install, cwd=tmp_path)
        assert (made.returncode, made.stdout) == (
            0,
            f"{register / 'register_graphfuse.py'}: written\n",
        )
    (tmp_path / "export").mkdir()
    shutil.copy(MODELS / "bert.onnx", tmp_path / "export" / "model.onnx")
    words = ("-c", RUN, "--onnx_model", "export", "-o", "fused", "--validate", "none")
    run = python(optimum, *words, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("['optimize', 'graphfuse']\n")
    assert files_of(tmp_path / "fused") == ["model_graphfuse.onnx"]
    again = python(optimum, *words, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("graphfuse: error: the folder fused is not empty")
    assert python(optimum, *words, "--force", cwd=tmp_path).returncode == 0
    assert python(optimum, *install, "--remove", cwd=tmp_path).returncode == 0
    assert [path.name for path in register.glob("*.py")] == ["register_onnxruntime.py"]


def test_it_starts_no_heavy_library(optimum: Path, tmp_path: Path) -> None:
    """optimum-cli imports the file whatever it is asked for."""
    code = "import graphfuse.integrations.optimum as o, sys; o.add_command(); print(*sys.modules)"
    loaded = python(optimum, "-c", code, cwd=tmp_path).stdout.split()
    assert "optimum.commands.base" in loaded
    assert not {"onnx", "numpy", "torch", "onnxruntime", "rich"} & set(loaded)


def test_the_file_does_no_harm_without_graphfuse(tmp_path: Path) -> None:
    from graphfuse.integrations.optimum import CONTENT

    blocked = f"import sys; sys.modules['graphfuse'] = None\n{CONTENT}\nprint(REGISTER_COMMANDS)"
    run = python(None, "-c", blocked, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr


@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_without_optimum_it_says_so(tmp_path: Path) -> None:
    run = python(None, "-m", "graphfuse.integrations.optimum", cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (5, "", 1)
    assert "optimum-onnx 0.1 or later is not installed" in run.stderr

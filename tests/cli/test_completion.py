"""Completion: what shells ask while a command line is typed, and what it costs the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Shell

COMMAND = f"#!{sys.executable}\nfrom graphfuse.cli import main\n\nmain()\n"
"""What pip writes as `graphfuse`."""


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `graphfuse` is a command, such as an installation makes it."""
    command = tmp_path / "bin" / "graphfuse"
    command.parent.mkdir()
    command.write_text(COMMAND)
    command.chmod(0o755)
    folders = f"{command.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": folders, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


def said(words: list[str], env: dict[str, str], **more: str) -> str:
    run = subprocess.run(
        words, env={**env, **more}, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.stderr == ""
    return run.stdout


BASH = """
eval "$(_GRAPHFUSE_COMPLETE=source_bash graphfuse)"
complete -p graphfuse
COMP_WORDS=({words}); COMP_CWORD={place}
_graphfuse_completion graphfuse
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "place", "completed"),
    [
        ("graphfuse fu", 1, "fuse"),
        ("graphfuse un", 1, "unfuse"),
        ("graphfuse fuse --validate ''", 3, "fast full sites none"),
        ("graphfuse fuse --min", 2, "--min-fused"),
        # A file: bash's own completion is the default where there is none here.
        ("graphfuse fuse mod", 2, ""),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash(words: str, place: int, completed: str, path: dict[str, str]) -> None:
    lines = said(["bash", "-c", BASH.format(words=words, place=place)], path).splitlines()
    assert lines == ["complete -o default -F _graphfuse_completion graphfuse", completed]


def test_zsh_as_its_script_asks(path: dict[str, str]) -> None:
    script = said(["graphfuse"], path, _GRAPHFUSE_COMPLETE="source_zsh")
    assert "compdef _graphfuse_completion graphfuse" in script
    assert "_GRAPHFUSE_COMPLETE=complete_zsh graphfuse" in script
    asked = {"_GRAPHFUSE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "graphfuse fu"}
    answer = said(["graphfuse"], path, **asked)
    assert answer.startswith("""_arguments '*: :(("fuse":"Fuse every site""")
    assert "unfuse" not in answer


ZSH = """
compdef() { :; }
_arguments() { print -r -- "$@"; }
eval "$(_GRAPHFUSE_COMPLETE=source_zsh graphfuse)"
words=(graphfuse fu); CURRENT=2
_graphfuse_completion
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(path: dict[str, str]) -> None:
    """The script in zsh itself; only what draws the menu is not there without a terminal."""
    assert said(["zsh", "-f", "-c", ZSH], path).startswith('*: :(("fuse":"Fuse every site')


def test_the_script_is_that_of_the_command_however_it_was_started(path: dict[str, str]) -> None:
    words = [sys.executable, "-m", "graphfuse"]
    script = said(words, path, _GRAPHFUSE_COMPLETE="source_bash")
    assert "complete -o default -F _graphfuse_completion graphfuse\n" in script


def test_help_pays_nothing_for_it(shell: Shell, tmp_path: Path) -> None:
    check = (
        "import sys; from graphfuse.cli import main; sys.argv = ['graphfuse', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = ('rich', 'onnx', 'numpy', 'torch', 'jinja2')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", check], env=env, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert run.stdout.count("completion") == shell("--help").stdout.count("completion")
    assert "completion" not in shell("fuse", "--help").stdout

"""A wheel in a fresh environment where there is no compiler: it installs, and fuses a model."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import MODELS, ROOT
from tests.support import environments

NOWHERE = {"CC": "/nowhere/cc", "CXX": "/nowhere/c++"}
PYTHONS = ("3.11", "3.12", "3.13")
RUN = """
import numpy as np, graphfuse
from graphfuse.kernels import why_not
session = graphfuse.session("fused.onnx")
feeds = {each.name: np.ones((2, 8), np.int64) for each in session.get_inputs()}
assert all(np.isfinite(result).all() for result in session.run(None, feeds))
print("kernels" if why_not() == "" else "functions")
"""
"""The fused model in a session of graphfuse's, and what its fused nodes run with there."""


def tracked(folder: Path, *names: str) -> Path:
    """A copy of what git tracks of these folders, away from the package of this checkout."""
    command = ["git", "ls-files", "-z", *names]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def fused_with_kernels(
    python: Path, environment: Mapping[str, str], folder: Path, kernels: bool
) -> str:
    """The README's main job; a line about it, or SystemExit where it went otherwise."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python, *arguments]
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    lines = run("-m", "graphfuse", "env").stdout.splitlines()
    said = [line for line in lines if line.startswith("kernels: ")]
    fused = run("-m", "graphfuse", "fuse", MODELS / "bert.onnx", "-o", "fused.onnx")
    ran = run("-c", RUN)
    has = bool(said) and said[0].endswith((".so", ".dylib", ".dll"))
    right = fused.returncode == 0 and ran.returncode == 0 and has == kernels
    if not right or (ran.stdout.strip() == "kernels") != kernels:
        raise SystemExit(f"{python}: {said}\n{fused.stdout}{fused.stderr}{ran.stdout}{ran.stderr}")
    return f"bert.onnx fused {'with' if kernels else 'without'} kernels"


def try_out(python: Path, wheel: Path, folder: Path, kernels: bool) -> str:
    """Install the wheel for this Python, fuse, and ask for help; what was seen."""
    home = folder / "venv"
    subprocess.run([python, "-m", "venv", home], check=True)
    made = home / "bin" / "python"
    environment = {**os.environ, **NOWHERE, "PATH": str(made.parent)}
    environment.pop("PYTHONPATH", None)
    install = [made, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--only-binary=:all:"]
    subprocess.run([*install, f"{wheel}[cpu]"], check=True, env=environment)
    line = fused_with_kernels(made, environment, folder, kernels)
    seconds: list[float] = []
    for _ in range(7):
        start = time.perf_counter()
        command = [home / "bin" / "graphfuse", "--help"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return f"{line}; --help in {statistics.median(seconds):.2f} s"


def every_python(wheel: Path, folder: Path, kernels: bool = True) -> list[str]:
    """On each Python that this machine has."""
    lines: list[str] = []
    for version in PYTHONS:
        python = environments.interpreter(version)
        if python is None:
            lines.append(f"Python {version}: is not on this machine")
            continue
        place = folder / version
        place.mkdir(parents=True)
        lines.append(f"Python {version}: {try_out(python, wheel, place, kernels)}")
    return lines


def from_source(folder: Path) -> list[str]:
    """`pip install .` goes on as it was: with a compiler with kernels, without one without them."""
    lines: list[str] = []
    for label, environment in (("with a compiler", {}), ("without a compiler", NOWHERE)):
        place = folder / label.replace(" ", "-")
        place.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
        subprocess.run(
            [*command, "--wheel-dir", place, ROOT], check=True, env={**os.environ, **environment}
        )
        (wheel,) = place.glob("*.whl")
        said = try_out(Path(sys.executable), wheel, place, kernels=not environment)
        lines.append(f"{label}: {wheel.name}: {said}")
    return lines

"""The wheel with kernels works without a compiler, and there is a wheel without kernels.

    python -m tests.campaigns.kernels.wheels

Builds the wheel twice, once as it is and once with CC and CXX pointing nowhere, installs each into a
virtual environment of its own with no compiler on the path, and fuses a model there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tests.conftest import MODELS, ROOT

NOWHERE = {"CC": "/nowhere/cc", "CXX": "/nowhere/c++"}


def build(folder: Path, environment: dict[str, str]) -> Path:
    """The wheel of this checkout; pip's own cache would give back an older one."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
    subprocess.run(
        [*command, "--wheel-dir", folder, ROOT], check=True, env={**os.environ, **environment}
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def try_out(wheel: Path, folder: Path) -> tuple[str, subprocess.CompletedProcess[str]]:
    """What `graphfuse env` says of the kernels there, and a fuse."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"{wheel}[cpu]"]
    environment = {**os.environ, **NOWHERE, "PATH": str(python.parent)}
    subprocess.run(install, check=True, env=environment)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "graphfuse", *arguments]
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    said = [line for line in run("env").stdout.splitlines() if line.startswith("kernels: ")]
    return said[0], run("fuse", MODELS / "bert.onnx", "-o", "fused.onnx")


def main() -> int:
    passed = True
    for label, environment in (("as it is", {}), ("without a compiler", NOWHERE)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            start = time.perf_counter()
            wheel = build(folder / "wheels", environment)
            seconds = time.perf_counter() - start
            kernels, fused = try_out(wheel, folder)
            has_kernels = kernels.endswith((".so", ".dylib"))
            right = has_kernels == (environment == {}) and fused.returncode == 0
            right &= ("graphfuse kernel" in fused.stdout) == has_kernels
            passed &= right
            verdict = "right" if right else f"WRONG\n{fused.stdout}{fused.stderr}"
            print(f"{label}: {wheel.name}, built in {seconds:.0f} s; {kernels}; {verdict}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

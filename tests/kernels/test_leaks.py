"""The kernel library comes and goes with sessions: no memory is kept, nothing is called too late."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphfuse import kernels
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    kernels.find() is None or not Path("/proc/self/status").exists(),
    reason="the kernels were not built, or the system does not say what memory is resident",
)

HOST = ROOT / "tests" / "campaigns" / "kernels" / "unloading.cc"
EXPORTS = "{ global: base; options; local: *; };"
"""Without it libstdc++ uses what the stand-in exports, and so keeps it loaded."""


@pytest.mark.parametrize(
    ("part", "count"), [("options", 1000), ("sessions", 200), ("validations", 30)]
)
def test_sessions_that_come_and_go_keep_no_memory(part: str, count: int) -> None:
    """A sample of `python -m tests.campaigns.kernels.leaks`."""
    command = [
        sys.executable,
        "-m",
        "tests.campaigns.kernels.leaks",
        "--part",
        part,
        f"--{part}",
        str(count),
    ]
    run = subprocess.run(
        [*command, "--level", "fast"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_host_that_unloads_onnxruntime_first(tmp_path: Path) -> None:
    """The library stays loaded, so at its end it must call nothing of an onnxruntime that went."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    exports, runtime, host = (tmp_path / name for name in ("exports.map", "runtime.so", "host"))
    exports.write_text(EXPORTS)
    shared = ["-DRUNTIME", "-shared", "-fPIC", f"-Wl,--version-script={exports}"]
    for target, flags in ((runtime, shared), (host, ["-ldl"])):
        command = [compiler, "-std=c++17", str(HOST), "-o", str(target), *flags]
        subprocess.run(command, check=True)

    library = str(kernels.library_path())
    run = subprocess.run([host, runtime, library], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout, run.stderr) == (0, "unloaded\n", "")

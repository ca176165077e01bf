"""The AArch64 wheel under qemu: Debian's Python and onnxruntime's own wheel, both for that processor.

qemu knows nothing of speed, so nothing here is timed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.campaigns.kernels.wheels.trials import fused_with_kernels, tracked

NEEDED = {"qemu-aarch64": "qemu-user", "debootstrap": "debootstrap", "dpkg-deb": "dpkg"}
PACKAGES = ("python3", "python3-pip", "libstdc++6")
PROCESSOR = """processor\t: 0
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd07
CPU revision\t: 0
"""
TESTS = ("tests/kernels/test_kernels.py", "tests/kernels/test_narrow_rows.py")
LEFT_OUT = "not exported and not process and not outlives and not every_element and not 6553"
"""What needs a compiler for AArch64 or starts other processes, and the longest rows: the reference has
128 bits here, in software."""
ACCURACY = """
from tests.campaigns.kernels.accuracy import campaign
for name, total in campaign(1e5, 1, hidden=(1, 7, 24, 64, 768)).items():
    assert total.worst <= 1, total
    print(f"{name}: {total.elements:,} elements, worst {total.worst:.3f} of their bounds")
"""


def missing() -> str:
    """What apt has to install, or ''."""
    return " ".join(package for name, package in NEEDED.items() if shutil.which(name) is None)


def _said(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def root(folder: Path) -> Path:
    """Debian for arm64, of the release and the mirror that this machine has; unpacked, never set up."""
    made = folder / "root"
    words = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    suite = words["VERSION_CODENAME"]
    mirror = _said("apt-get", "indextargets", "--format", "$(REPO_URI)").splitlines()[0]
    command = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase"]
    command += [f"--include={','.join(PACKAGES)}", suite, str(made), mirror]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for package in sorted((made / "var" / "cache" / "apt" / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, made], check=True)
    # onnxruntime (1.32) asks the system for its processors, and has no answer to those of an x86-64 one.
    processors = made / "sys" / "devices" / "system" / "cpu"
    processors.mkdir(parents=True)
    for name in ("possible", "present"):
        (processors / name).write_text("0\n")
    (made / "proc").mkdir(exist_ok=True)
    (made / "proc" / "cpuinfo").write_text(PROCESSOR)
    return made


def interpreter(made: Path, folder: Path) -> Path:
    """A script that starts the root's Python."""
    script = folder / "python"
    python = made / "usr" / "bin" / "python3"
    script.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L {made} {python.resolve()} "$@"\n')
    script.chmod(0o755)
    return script


def installed(python: Path, tools: Path, wheel: Path, folder: Path) -> Path:
    """The wheel with its dependencies, put in place by the pip of that Python.

    What is to be had for AArch64 is fetched by this machine's pip, which is faster by far.
    """
    wanted = [f"{wheel}[cpu]", "pytest", "hypothesis"]
    fetch: list[str | Path] = [tools, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    for version in ("manylinux_2_28", "manylinux_2_27", "manylinux2014"):
        fetch += ["--platform", f"{version}_aarch64"]
    fetch += ["--python-version", "3.11", "--dest", folder / "fetched", *wanted]
    subprocess.run(fetch, check=True)
    site = folder / "site"
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--no-compile", "--find-links", folder / "fetched", "--target", site, *wanted]
    subprocess.run(command, check=True)
    # The script starts children as well: what this Python calls itself is no program here.
    (site / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(python)!r}\n")
    return site


def try_out(tools: Path, wheel: Path, folder: Path) -> list[str]:
    """What was right, a line each; raises SystemExit or CalledProcessError where something is not."""
    folder.mkdir()
    python = interpreter(root(folder), folder)
    site = installed(python, tools, wheel, folder)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    lines = [fused_with_kernels(python, environment, folder, kernels=True)]
    checkout = tracked(folder / "checkout", "tests", "models")
    for command in (
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            LEFT_OUT,
            *TESTS,
        ],
        ["-c", ACCURACY],
    ):
        done = subprocess.run(
            [python, *command], cwd=checkout, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"AArch64: {command}\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
        lines.append(done.stdout.strip().splitlines()[-1])
    return lines

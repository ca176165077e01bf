"""One command builds every wheel, looks into it, and tries it where that can be done here.

    python -m tests.campaigns.kernels.wheels --output FOLDER
    python -m tests.campaigns.kernels.wheels --output FOLDER --only linux-x86_64 any --skip arm windows
    python -m tests.campaigns.kernels.wheels --output FOLDER --skip twice x86 source arm windows

Everything is built twice, in two folders, and must have the same bytes. zig, CMake and what looks
into the libraries come from PyPI, into an environment of the command's own. AArch64 is tried under
qemu, Windows under wine; what apt has to install for them is named where it is missing, and the
exit code is then 1. macOS can be tried nowhere here: its library is built and looked into only.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.campaigns.kernels.wheels import arm, building, inspecting, trials, windows
from tests.campaigns.kernels.wheels.platforms import GLIBC, MACOS, PLATFORMS, Platform

MOST_BYTES = 2_000_000
PARTS = ("twice", "x86", "source", "arm", "windows")
MACHINES = {"x86_64": "X86_64", "aarch64": "AARCH64", "arm64": "ARM64", "AMD64": "AMD64"}
ENTRY = "RegisterCustomOps"
BESIDE = re.compile(r"_?_Z[dn][alw].*|___dso_handle|__mh_dylib_header")
"""What zig's linker exports from a Mach-O library too: operators new and delete, and its own."""


def faults(platform: Platform, seen: dict[str, object]) -> list[str]:
    """What a library has that it must not have; none when it is as it should be."""
    exports = {str(name) for name in seen["exports"]}  # type: ignore[union-attr]
    needs = {str(name) for name in seen["needs"]}  # type: ignore[union-attr]
    wrong: list[str] = []
    if str(seen["machine"]) != MACHINES[platform.processor]:
        wrong.append(f"it is for {seen['machine']}")
    entry = ENTRY
    if platform.system == "Darwin":
        exports = {name for name in exports if not BESIDE.fullmatch(name)}
        entry = f"_{ENTRY}"
    if exports != {entry}:
        wrong.append(f"it exports {sorted(exports)[:5]}")
    own = {name for name in needs if not name.lower().startswith("api-ms-win-crt-")}
    own = {name.lower() for name in own} if platform.system == "Windows" else own
    if not own <= platform.needs:
        wrong.append(f"it needs {sorted(own - platform.needs)}")
    wanted: dict[str, dict[str, object]] = {
        "Linux": {"paths": [], "stays": True, "executable stack": False},
        "Darwin": {"minos": list(MACOS), "platform": "MACOS", "signed": True},
        "Windows": {},
    }
    for name, value in wanted[platform.system].items():
        if seen[name] != value:
            wrong.append(f"{name}: {seen[name]}")
    if platform.system == "Linux" and tuple(seen["glibc"]) > GLIBC:  # type: ignore[arg-type]
        wrong.append(f"it needs glibc {seen['glibc']}")
    return wrong


def inspect(python: Path, platform: Platform, wheel: Path) -> str:
    """A line about a wheel; SystemExit where it is not as it should be."""
    size = wheel.stat().st_size
    if size >= MOST_BYTES:
        raise SystemExit(f"{wheel.name} has {size:,} bytes")
    if not platform.target:
        return f"{size:,} bytes, no library"
    command = [python, inspecting.__file__, wheel]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if wrong := faults(platform, seen):
        raise SystemExit(f"{wheel.name}: {'; '.join(wrong)}")
    words = f"{size:,} bytes, needs {', '.join(seen['needs'])}"
    if platform.system == "Linux":
        command = [python, "-m", "auditwheel", "show", wheel]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = " ".join(done.stdout.split())
        if platform.tag.split(".")[0] not in told:
            raise SystemExit(f"auditwheel of {wheel.name}: {told}{done.stderr}")
        words += f"; auditwheel: {platform.tag.split('.')[0]}"
    return words


def made(python: Path, chosen: tuple[Platform, ...], folder: Path, twice: bool) -> list[Path]:
    """The wheels; SystemExit where building them again gives other bytes."""
    wheels = building.build(python, chosen, folder / "first")
    if twice:
        again = building.build(python, chosen, folder / "a second folder")
        for one, other in zip(wheels, again, strict=True):
            if building.digest(one) != building.digest(other):
                raise SystemExit(f"{one.name}: built twice, it has other bytes")
    return wheels


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kernels.wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="a folder for the wheels")
    names = [platform.name for platform in PLATFORMS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--skip", nargs="*", choices=PARTS, default=())
    parser.add_argument("--tools", type=Path, help="keeps the environment that builds")
    given = parser.parse_args(arguments)
    chosen = tuple(platform for platform in PLATFORMS if platform.name in given.only)
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = building.tools(given.tools or folder / "tools")
        wheels: dict[str, Path] = {}
        found = made(python, chosen, folder, "twice" not in given.skip)
        for platform, wheel in zip(chosen, found, strict=True):
            kept = given.output / wheel.name
            shutil.copyfile(wheel, kept)
            wheels[platform.name] = kept.resolve()
            print(f"{wheel.name}\n  {building.digest(wheel)}", flush=True)
            print(f"  {inspect(python, platform, kept)}", flush=True)
        return _tried(python, wheels, set(given.skip), folder)


def _tried(python: Path, wheels: dict[str, Path], skip: set[str], folder: Path) -> int:
    linux = wheels.get("linux-x86_64")
    tries: list[tuple[str, str, str, Callable[[Path, Path], list[str]]]] = [
        ("x86", "linux-x86_64", "", trials.every_python),
        ("x86", "any", "", lambda wheel, place: trials.every_python(wheel, place, kernels=False)),
        ("source", "any", "", lambda _, place: trials.from_source(place)),
        ("arm", "linux-aarch64", arm.missing(), lambda *given: arm.try_out(python, *given)),
        (
            "windows", "windows-amd64", windows.missing(),
            lambda wheel, place: windows.try_out(python, wheel, linux, place) if linux else [],
        ),
    ]  # fmt: skip
    code = 0
    for part, name, missing, attempt in tries:
        if part in skip or name not in wheels:
            continue
        if missing:
            print(f"{name}: not tried: apt-get install {missing}", flush=True)
            code = 1
            continue
        for line in attempt(wheels[name], folder / f"{part} {name}".replace(" ", "-")):
            print(f"{name}: {line}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

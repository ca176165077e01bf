"""The kernels under sanitizers, in a host of their own (driver.cc) and in onnxruntime.

    python -m tests.campaigns.kernels.sanitize --calls 1000000
    python -m tests.campaigns.kernels.sanitize --pytest

Without --pytest: the driver under AddressSanitizer with UndefinedBehaviorSanitizer, and under
ThreadSanitizer, on every instruction set of this machine, as an old and as a new onnxruntime. With it:
tests/kernels/test_kernels.py on a library that is built with AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.campaigns.kernels.node import ISA, instruction_sets
from tests.conftest import ROOT

SOURCES = ROOT / "graphfuse" / "kernels" / "src"
FLAGS = {
    "portable": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
}
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
VERSIONS = ("1.17.0", "1.31.1")
SAMPLE = ("-O0", "-fsanitize-undefined-trap-on-error")
ABSENT = """#include "rows.h"
namespace graphfuse {{ const InstructionSet {symbol} = {{"{name}", nullptr}}; }}
"""
COMMON = ("-std=c++17", "-O1", "-g", "-fPIC", "-Wno-psabi", "-ffp-contract=fast", "-pthread")


def compiler() -> str:
    return os.environ.get("CXX", "c++")


def build(
    target: Path, sanitizer: str, extra: list[str], sets: Sequence[str] | None = None
) -> Path:
    """Compile the library's sources, and `extra` ones, with a sanitizer.

    With `sets` it is a sample, as compiling is what takes long: not optimized, undefined behaviour
    ends the driver without a message, and other instruction sets have a name and no code.
    """
    kinds = [f"-fsanitize={SANITIZERS[sanitizer]}", "-fno-sanitize-recover=all"]
    sources = sorted(SOURCES.glob("*.cc"))
    objects: list[str] = []
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in [*sources, *map(Path, extra)]:
            made = Path(folder) / f"{source.stem}.o"
            name = source.stem.removeprefix("isa_")
            how = [*COMMON, *kinds, *(SAMPLE if sets is not None else ()), *FLAGS.get(name, ())]
            what = source
            if name in FLAGS and sets is not None and name not in sets:
                what = Path(folder) / source.name
                what.write_text(ABSENT.format(name=name, symbol=f"k{name.capitalize()}"))
            command = [compiler(), *how, f"-I{SOURCES}", "-c", str(what), "-o", str(made)]
            running.append(subprocess.Popen(command))
            objects.append(str(made))
        if any(process.wait() for process in running):
            raise SystemExit("the kernels do not compile with a sanitizer")
        shared = [] if extra else ["-shared"]
        command = [compiler(), *COMMON, *kinds, *shared, *objects, "-o", str(target)]
        subprocess.run(command, check=True)
    return target


def drive(
    sanitizer: str, calls: int, seed: int, folder: Path, sets: Sequence[str] | None = None
) -> int:
    """Run the driver in every way; the number of calls that were clean."""
    sets = instruction_sets() if sets is None else sets
    driver = str(Path(__file__).parent / "driver.cc")
    binary = build(folder / f"driver_{sanitizer}", sanitizer, [driver], sets)
    ways = [(name, version) for name in sets for version in VERSIONS]
    for index, (name, version) in enumerate(ways):
        share = str(max(1, calls // len(ways)))
        command = [str(binary), share, str(seed + index), version]
        done = subprocess.run(
            command, env={**os.environ, ISA: name}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{sanitizer}, {name}, as {version}:\n{done.stdout}\n{done.stderr}")
    return max(1, calls // len(ways)) * len(ways)


def in_onnxruntime(folder: Path) -> int:
    """The exit code of the kernels' tests on a library with the sanitizers in it."""
    from graphfuse.kernels import library_path

    build(folder / library_path().name, "address", [])
    # The sanitizer must find the C++ library before the interpreter loads any extension.
    runtime = " ".join(library_of_compiler(name) for name in ("libasan.so", "libstdc++.so"))
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "GRAPHFUSE_TEST_KERNELS": str(folder),
    }
    files = [
        "tests/kernels/test_kernels.py",
        "tests/kernels/test_kernel_sessions.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", *files, "-k", "not exported"]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def library_of_compiler(name: str) -> str:
    command = [compiler(), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kernels.sanitize", description=__doc__
    )
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pytest", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.pytest:
            return in_onnxruntime(Path(folder))
        for sanitizer, kinds in SANITIZERS.items():
            calls = drive(sanitizer, given.calls, given.seed, Path(folder))
            print(f"{kinds}: {calls:,} calls, clean", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

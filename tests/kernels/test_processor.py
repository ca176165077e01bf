"""Which instruction sets the kernels find: read from CPUID, as the compiler's builtins say."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.campaigns.kernels.sanitize import SOURCES, compiler
from tests.conftest import ROOT

SOURCE = ROOT / "tests" / "campaigns" / "kernels" / "cpuid.cc"
MODELS = {
    # qemu has no AVX-512, and Haswell without XSAVE is one whose system saves no YMM.
    "Nehalem": "portable",
    "Haswell": "avx2, portable",
    "Haswell,-xsave": "portable",
    "Haswell,-fma": "portable",
    "Haswell,-f16c": "portable",
    "Haswell,-popcnt": "portable",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(compiler()) is None:
        pytest.skip("there is no C++ compiler")
    target = tmp_path_factory.mktemp("cpuid") / "cpuid"
    command = [compiler(), "-std=c++17", f"-I{SOURCES}", SOURCE, SOURCES / "processor.cc"]
    subprocess.run([*command, "-o", target], check=True)
    return target


def lines(*command: str | Path) -> list[str]:
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.rsplit("it can be ", 1)[-1] for line in run.stdout.splitlines()]


def test_it_is_what_the_compiler_says_of_this_processor(program: Path) -> None:
    ours, builtin = lines(program)
    assert ours == builtin


@pytest.mark.parametrize("model", MODELS)
def test_other_processors(program: Path, model: str) -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("there is no qemu-x86_64")
    ours, _ = lines(emulator, "-cpu", model, program)
    assert ours == MODELS[model]

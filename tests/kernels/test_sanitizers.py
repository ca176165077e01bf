"""A sample of `python -m tests.campaigns.kernels.sanitize`: the kernels in a host of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graphfuse import kernels
from tests.campaigns.kernels.node import instruction_sets
from tests.campaigns.kernels.sanitize import SANITIZERS, compiler, drive, library_of_compiler


@pytest.mark.parametrize(
    "sanitizer",
    [
        each if each == "address" else pytest.param(each, marks=pytest.mark.every)
        for each in SANITIZERS
    ],
)
def test_the_driver_is_clean(sanitizer: str, tmp_path: Path) -> None:
    if shutil.which(compiler()) is None or kernels.find() is None:
        pytest.skip("there is no C++ compiler")
    needed = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer]
    if not Path(library_of_compiler(needed)).is_absolute():
        pytest.skip(f"the compiler has no {needed}")
    # One set each, as compiling is what takes long; `python -m` above has all of them.
    sets = {"address": instruction_sets()[:1], "thread": ["portable"]}[sanitizer]
    assert drive(sanitizer, 1200, seed=5, folder=tmp_path, sets=sets) >= 1200

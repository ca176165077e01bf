"""How fast one build of the kernels is beside another: zig's beside g++'s.

    python -m tests.campaigns.kernels.compared FOLDER OTHER
    python -m tests.campaigns.kernels.compared FOLDER OTHER --isa avx2 --type float16 --seconds 1

FOLDER and OTHER hold one library each. Both are in one process and take turns, and what is counted
is the processor's time for this process, so that others on the machine disturb little. Each figure
is the time of OTHER divided by that of FOLDER, so below 1 FOLDER is the slower one. The first line
of each set is OTHER beside itself: what the machine moves figures by. It ends with exit code 1
where the middle of an instruction set's ratios is under LEAST, or one of them under LEAST_OF_ONE.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graphfuse import kernels
from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.speed.kernel_timing import NORMS, SHAPES, Case, Contestant, caller
from graphfuse.speed.timing import Interval, paired, pinned
from tests.campaigns.kernels.node import instruction_sets, isa

NARROW = ((1, 4096, 8), (1, 4096, 24), (1, 1024, 48))
"""Rows as vision models have them, which have code of their own."""
LEAST = 0.97
"""Of the middle of all ratios of one instruction set."""
LEAST_OF_ONE = 0.9
"""Of each line: they move by up to a tenth where others use the machine."""


@contextmanager
def library_in(folder: Path) -> Iterator[None]:
    """What registers the kernels inside takes those of this folder."""
    kernels.__path__.insert(0, str(folder))
    try:
        yield
    finally:
        kernels.__path__.remove(str(folder))


def ratio(case: Case, folder: Path, other: Path, seconds: float) -> Interval:
    """How many times faster `folder` is than `other`, with the interval that its median lies in."""
    calls: dict[str, Callable[[], object]] = {}
    with pinned(case.threads) as threads:
        for name, place in (("folder", folder), ("other", other)):
            with library_in(place):
                calls[name] = caller(case, Contestant.OWN, threads)
        timings = paired(calls, seconds, rounds=31, clock="processor", settle=0)
    return timings["folder"].speedup(timings["other"])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kernels.compared", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--type", nargs="+", choices=FLOATS_BY_NAME, default=["float32", "float16"])
    parser.add_argument("--shape", nargs="+", help="such as 1,128,768")
    parser.add_argument("--isa", nargs="+", default=instruction_sets())
    parser.add_argument("--seconds", type=float, default=0.3, help="per library and line")
    given = parser.parse_args(arguments)
    passed = True
    shapes = [tuple(map(int, text.split(","))) for text in given.shape or ()]
    for name in given.isa:
        found: list[float] = []
        with isa(name):
            same = Case("LN", given.type[0], SHAPES[3], True, 1)
            itself = ratio(same, given.other, given.other, given.seconds)
            print(f"{name:9} itself  {itself.median:5.2f} ({itself.low:.2f} to {itself.high:.2f})")
            for kind in given.type:
                for shape in shapes or (*NARROW, *SHAPES[:-1]):
                    for norm in NORMS:
                        case = Case(norm, kind, shape, True, 1)
                        each = ratio(case, given.folder, given.other, given.seconds)
                        found.append(each.median)
                        where = f"{norm:3} {kind:8} {','.join(map(str, shape)):11}"
                        print(
                            f"{name:9} {where} {each.median:5.2f} "
                            f"({each.low:.2f} to {each.high:.2f})",
                            flush=True,
                        )
        middle = statistics.median(found)
        passed &= middle >= LEAST and min(found) >= LEAST_OF_ONE
        slow = sum(each < LEAST_OF_ONE for each in found)
        print(f"{name:9} {slow} of {len(found)} lines under {LEAST_OF_ONE}")
        print(f"{name:9} median {middle:.3f}, lowest {min(found):.2f}, highest {max(found):.2f}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

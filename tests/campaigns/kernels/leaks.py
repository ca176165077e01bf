"""Memory of a process that makes sessions, and validates, again and again.

    python -m tests.campaigns.kernels.leaks
    python -m tests.campaigns.kernels.leaks --sessions 200 --validations 40 --level fast

onnxruntime loads the library with each session's options and unloads it with the session, so what a
load keeps adds up. Each part runs in a process of its own, and ends with exit code 1 where
more memory is kept than measuring it moves by.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

import graphfuse
from tests.conftest import MODELS, ROOT

MODEL = MODELS / "bert.onnx"
WARM = {"options": 50, "sessions": 50, "validations": 10}
"""Turns before the first look: modules that load late, caches, the allocator's arenas."""
ALLOWED_KB = 1
"""A turn. A load kept 71 KB, of which options alone touch 4; a validation 350 (fast) to 450 (full)."""
SLACK_MB = {"options": 1, "sessions": 1, "validations": 3}
"""What the allocator moves by: a validation has arrays of megabytes, and threads."""


def resident_mb() -> float:
    """Memory of this process that is in use."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line[:5] == "VmRSS") / 1024


def turn(part: str, level: str) -> Callable[[], object]:
    """What is done again and again."""
    fused = graphfuse.fuse(MODEL).model
    data = fused.SerializeToString()
    providers = ["CPUExecutionProvider"]

    def validation() -> None:
        assert graphfuse.validate(MODEL, fused, level=level).passed

    return {
        "options": lambda: graphfuse.session_options(kernels=True),
        "sessions": lambda: ort.InferenceSession(
            data, graphfuse.session_options(kernels=True), providers=providers
        ),
        "validations": validation,
    }[part]


def watch(part: str, count: int, level: str) -> bool:
    """Do it `count` times and print the memory before and after; whether it stayed."""
    once = turn(part, level)
    for _ in range(WARM[part]):
        once()
    gc.collect()
    before = resident_mb()
    for _ in range(count):
        once()
    gc.collect()
    after = resident_mb()
    kept = after - before
    what = f"{part} ({level})" if part == "validations" else part
    print(
        f"{count:>6,} {what:<19} {before:7.1f} MB before {after:7.1f} after "
        f"{kept / count * 1024:8.2f} KB each",
        flush=True,
    )
    return kept <= SLACK_MB[part] + count * ALLOWED_KB / 1024


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--options", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--validations", type=int, default=500)
    parser.add_argument("--level", choices=("fast", "full", "sites"), default="full")
    parser.add_argument("--part", choices=WARM, help="one of them, in this process")
    options = parser.parse_args()
    if options.part:
        return 0 if watch(options.part, getattr(options, options.part), options.level) else 1
    command = [sys.executable, "-m", "tests.campaigns.kernels.leaks", *sys.argv[1:], "--part"]
    parts = [part for part in WARM if getattr(options, part)]
    codes = [subprocess.run([*command, part], check=False, cwd=ROOT).returncode for part in parts]
    return max(codes, default=0)


if __name__ == "__main__":
    raise SystemExit(main())

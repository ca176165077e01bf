"""Time and peak memory of validation, beside a session of the original alone.

    python -m tests.campaigns.benchmarks.validation_cost --model bert
    python -m tests.campaigns.benchmarks.validation_cost --model llama
    python -m tests.campaigns.benchmarks.validation_cost --model huge --levels sites

bert is BERT-base; llama a LLaMA-shaped model of 1.2 billion parameters and huge one of 3.4 billion
(13 GB), both with external weights. Every row is a process of its own; what it takes to import the
packages is a row too. llama's weights are drawn and written to disk (5 GB); huge's file is sparse.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import graphfuse
from tests.campaigns.benchmarks.large_model import build

CHILD = """
import json, sys, time
from pathlib import Path
import numpy, onnx, onnxruntime, graphfuse.api.verdicts, graphfuse.validation.judge
from graphfuse.running.random_feeds import random_feeds
from graphfuse.steps.opening import as_model
from graphfuse.running.sessions import run, session
what, original, fused = sys.argv[1:]
start = time.perf_counter()
passed = True
if what == "session":
    model = as_model(original)
    run(session(Path(original), model.folder), random_feeds(model.proto))
elif what != "imports":
    report = graphfuse.validate(original, fused, level=what)
    passed = report.passed
seconds = time.perf_counter() - start
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "passed": passed}))
"""

SIZES = {"llama": (24, 2048, 5632, 32000), "huge": (32, 4096, 11008, 32000)}
"""Layers, hidden size, inner size, vocabulary."""


def bert(folder: Path) -> Path:
    """BERT-base, exported."""
    from models.export import export
    from tests.campaigns.benchmarks.zoo_speed import ROWS, build_row

    path = folder / "bert.onnx"
    export(build_row(ROWS["bert"]), path)
    return path


def llama(folder: Path, name: str) -> Path:
    """A LLaMA-shaped model; the weights of `llama` are numbers."""
    path = build(folder, *SIZES[name])
    if name == "llama":
        block = np.random.default_rng(0).normal(0, 0.02, 2**24 + 1).astype(np.float32).tobytes()
        [data] = [file for file in folder.iterdir() if file != path]
        size = data.stat().st_size
        with data.open("wb") as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
    return path


def measure(what: str, original: Path, fused: Path) -> dict[str, float]:
    """One row, in a fresh process."""
    command = [sys.executable, "-c", CHILD, what, str(original), str(fused)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("bert", "llama", "huge"), default="bert")
    parser.add_argument("--levels", nargs="+", default=["session", "fast", "full", "sites"])
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        name = options.model
        path = bert(Path(folder)) if name == "bert" else llama(Path(folder), name)
        fused = path.with_name("fused.onnx")
        result = graphfuse.optimize(path, fused, level="none")
        print(f"{name}: {len(result.fused)} sites, {result.nodes_before} nodes")
        print(f"{'what':10} {'seconds':>8} {'peak MB':>8} verdict")
        for what in ("imports", *options.levels):
            row = measure(what, path, fused)
            failed |= not row["passed"]
            verdict = "passed" if row["passed"] else "FAILED"
            print(f"{what:10} {row['seconds']:8.2f} {row['peak_mb']:8.0f} {verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""graphfuse beside onnxruntime.transformers and onnxscript's ort_fusions on 1.2 billion parameters.

    python -m tests.campaigns.benchmarks.peers --runs 3

A LLaMA-shaped graph with 5 GB of external float32 weights, read and written by each tool in a fresh
process: wall time, peak memory of the process, and how many of its sites are fused nodes afterwards.
The peers read and write the weights: that takes up to 24 GB of memory and 10 GB of disk; with
`--memory-gib` a process that asks for more is stopped. The weights are zeros, which no tool looks at.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.campaigns.benchmarks.large_model import build

SHAPE = (20, 2048, 5632, 32000)
"""Layers, hidden size, inner size, vocabulary."""

FUSED = ("SkipSimplifiedLayerNormalization", "SkipLayerNormalization", "AddRMSNormalization")

PROGRAMS = {
    "graphfuse": """
import sys
from graphfuse.cli import main
sys.argv = ["graphfuse", "fuse", sys.argv[1], "-o", sys.argv[2], "--validate", "none"]
main()
""",
    "graphfuse, weights copied": """
import sys
from graphfuse.cli import main
sys.argv = ["graphfuse", "fuse", sys.argv[1], "-o", sys.argv[2], "--validate", "none"]
sys.argv += ["--weights", "copy"]
main()
""",
    "onnxscript ort_fusions": """
import sys, onnx_ir
from onnxscript.rewriter import ort_fusions
model = onnx_ir.load(sys.argv[1])
result = ort_fusions.optimize_for_ort(model)
model = result[0] if isinstance(result, tuple) else result
onnx_ir.save(model, sys.argv[2], external_data="peer.onnx_data")
""",
    "onnxruntime.transformers": """
import sys
from onnxruntime.transformers import optimizer
model = optimizer.optimize_model(sys.argv[1], model_type="gpt2", opt_level=0, num_heads=16,
                                 hidden_size=2048)
model.save_model_to_file(sys.argv[2], use_external_data_format=True)
""",
}


@dataclass(frozen=True)
class Run:
    """What a process took, and how it ended."""

    seconds: float
    processor: float
    gigabytes: float
    fused: int
    said: str


def run(program: str, model: Path, memory_gib: float) -> Run:
    """One tool, once; its output is removed."""
    output = model.with_name("fused.onnx")
    before = {path.name for path in model.parent.iterdir()}

    if memory_gib:
        size = int(memory_gib * 2**30)
        limit = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({size}, {size}))\n"
        program = limit + program
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(model), str(output)],
            stdout=log,
            stderr=log,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    seconds = time.perf_counter() - start
    fused, said = 0, ""
    if child.returncode:
        said = f"exit {child.returncode}: {lines[-1][:120] if lines else ''}"
    else:
        nodes = onnx.load(output, load_external_data=False).graph.node
        fused = sum(node.op_type in FUSED for node in nodes)
    for path in model.parent.iterdir():
        if path.name not in before:
            path.unlink()
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, usage.ru_maxrss / 2**20 * 1.073741824, fused, said)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory-gib", type=float, default=0)
    parser.add_argument("--only", action="append", choices=list(PROGRAMS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = build(Path(folder), *SHAPE)
        for name in options.only or PROGRAMS:
            found = [run(PROGRAMS[name], model, options.memory_gib) for _ in range(options.runs)]
            print(
                f"{name}: median {statistics.median(r.seconds for r in found):.1f} s "
                f"({statistics.median(r.processor for r in found):.1f} s of processor time), "
                f"peak {max(r.gigabytes for r in found):.2f} GB, "
                f"{found[0].fused} of {2 * SHAPE[0]} sites fused {found[0].said}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""How the time and memory of `graphfuse.scan` grow with the number of nodes.

    python -m tests.benchmarks.scan_growth
    python -m tests.benchmarks.scan_growth --task fuse --nodes 1000 10000 --style computed

Makes decoders of 1,000, 10,000 and 100,000 nodes with tiny weights, so that only the graph counts,
and a chain 2,000 layers deep. Each is scanned (or fused) in fresh processes; the table has the
median time, what ten times the nodes cost, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.benchmarks.growing import STYLES, chain, decoder, layers_of

DEEP = 2000
"""Layers of the chain."""

# VmHWM, not getrusage: the latter counts what the parent held when it started the child.
CHILD = """
import json, sys, time
import graphfuse
task, small, model = getattr(graphfuse, sys.argv[1]), sys.argv[2], sys.argv[3]
task(small)  # modules that load late, and caches, are not the graph's
start = time.perf_counter()
result = task(model)
seconds = time.perf_counter() - start
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
found = result.sites if sys.argv[1] == "scan" else result.fused
print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "sites": len(found)}))
"""


@dataclass(frozen=True)
class Row:
    """One graph's figures; `seconds` is the median of the runs."""

    name: str
    nodes: int
    sites: int
    seconds: float
    peak_mb: float


def measure(name: str, model: onnx.ModelProto, sites: int, task: str, runs: int) -> Row:
    """Run the task on a model in fresh processes; every one must find `sites` sites."""
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder, "model.onnx"), Path(folder, "small.onnx")
        path.write_bytes(model.SerializeToString())
        small.write_bytes(decoder(1).SerializeToString())
        reports = []
        for _ in range(runs):
            command = [sys.executable, "-c", CHILD, task, str(small), str(path)]
            child = subprocess.run(command, capture_output=True, text=True, check=False)
            assert child.returncode == 0, child.stderr[-2000:]
            reports.append(json.loads(child.stdout))
    found = {report["sites"] for report in reports}
    assert found == {sites}, f"{name}: {found} sites, {sites} were built"
    return Row(
        name,
        len(model.graph.node),
        sites,
        statistics.median(report["seconds"] for report in reports),
        max(report["peak_mb"] for report in reports),
    )


def tenfold(before: Row, after: Row) -> float:
    """The factor in time for ten times the nodes, between two graphs whatever their sizes."""
    growth = math.log(after.seconds / before.seconds) / math.log(after.nodes / before.nodes)
    return 10**growth


def show(row: Row, before: Row | None) -> None:
    """One line of the table."""
    ratio = f"{tenfold(before, row):.1f}" if before else ""
    each = row.seconds / row.nodes * 1e6
    print(
        f"{row.name:<12} {row.nodes:>8,} {row.sites:>7,} {row.seconds:>9.3f} {each:>9.1f} "
        f"{ratio:>8} {row.peak_mb:>8.0f}",
        flush=True,
    )


def table(styles: Sequence[str], sizes: Sequence[int], task: str, runs: int) -> None:
    """Measure and print everything."""
    print(f"graphfuse.{task}, median of {runs} fresh processes")
    print("graph           nodes   sites   seconds   us/node  tenfold  peak MB")
    for style in styles:
        before = None
        for size in sizes:
            layers = layers_of(size, style)
            row = measure(style, decoder(layers, style), 2 * layers, task, runs)
            show(row, before)
            before = row
    row = measure(f"{DEEP} deep", chain(DEEP), DEEP, task, runs)
    show(row, None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("scan", "fuse"), default="scan")
    parser.add_argument("--style", choices=STYLES, action="append", help="default: every style")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    table(options.style or STYLES, options.nodes, options.task, options.runs)


if __name__ == "__main__":
    main()

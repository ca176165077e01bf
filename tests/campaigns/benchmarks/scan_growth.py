"""How the time and memory of `graphfuse.scan` grow with the number of nodes.

    python -m tests.campaigns.benchmarks.scan_growth
    python -m tests.campaigns.benchmarks.scan_growth --task fuse --nodes 1000 10000 --style computed

Makes decoders of 1,000, 10,000 and 100,000 nodes with tiny weights, so that only the graph counts,
and a chain 2,000 layers deep. Each is scanned (or fused) in fresh processes, the sizes in turn, so
that a slow minute of the machine meets all of them; the table has the median time, what ten times
the nodes cost (median of the turns, and the least and most), and the peak memory of the process.
Memory is touched and given back before each: a page that a hypervisor has to find first takes five
times as long, and large graphs meet more of those than small ones (`--cold` leaves it out).
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from tests.campaigns.benchmarks.growing import STYLES, chain, decoder, layers_of

DEEP = 2000
"""Layers of the chain."""

TOUCHED = 2**30
"""Bytes that are made warm: more than any of the processes takes."""

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


@dataclass
class Row:
    """One graph's figures, the seconds of each turn."""

    name: str
    nodes: int
    sites: int
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0

    def measure(self, path: Path, small: Path, task: str) -> None:
        """Run the task in a fresh process, which must find the sites that were built."""
        command = [sys.executable, "-c", CHILD, task, str(small), str(path)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        assert child.returncode == 0, child.stderr[-2000:]
        report = json.loads(child.stdout)
        assert report["sites"] == self.sites, f"{self.name}: {report['sites']} sites"
        self.seconds.append(report["seconds"])
        self.peak_mb = max(self.peak_mb, report["peak_mb"])


def measured(
    name: str, models: Sequence[tuple[onnx.ModelProto, int]], task: str, runs: int, cold: bool
) -> list[Row]:
    """Run the task on each model, with the number of its sites, in turn."""
    rows = [Row(name, len(model.graph.node), sites) for model, sites in models]
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small.onnx")
        small.write_bytes(decoder(1).SerializeToString())
        paths = [Path(folder, f"{number}.onnx") for number in range(len(rows))]
        for path, (model, _) in zip(paths, models, strict=True):
            path.write_bytes(model.SerializeToString())
        for _ in range(runs):
            for row, path in zip(rows, paths, strict=True):
                if not cold:
                    touch_memory()
                row.measure(path, small, task)
    return rows


def touch_memory() -> None:
    """Write to every page of a large piece of memory, and give it back."""
    with mmap.mmap(-1, TOUCHED) as memory:
        for offset in range(0, TOUCHED, mmap.PAGESIZE):
            memory[offset] = 1


def tenfold(before: Row, after: Row) -> list[float]:
    """The factors in time for ten times the nodes, turn by turn, whatever the sizes."""
    decades = math.log10(after.nodes / before.nodes)
    turns = zip(before.seconds, after.seconds, strict=True)
    return [(more / less) ** (1 / decades) for less, more in turns]


def show(row: Row, before: Row | None) -> None:
    """One line of the table."""
    factors = tenfold(before, row) if before else []
    ratio = f"{statistics.median(factors):.1f}" if factors else ""
    spread = f"{min(factors):.1f} to {max(factors):.1f}" if factors else ""
    seconds = statistics.median(row.seconds)
    print(
        f"{row.name:<12} {row.nodes:>8,} {row.sites:>7,} {seconds:>9.3f} "
        f"{seconds / row.nodes * 1e6:>9.1f} {ratio:>8} {spread:>13} {row.peak_mb:>8.0f}",
        flush=True,
    )


def table(styles: Sequence[str], sizes: Sequence[int], task: str, runs: int, cold: bool) -> None:
    """Measure and print everything."""
    print(f"graphfuse.{task}, median of {runs} fresh processes")
    print("graph           nodes   sites   seconds   us/node  tenfold  least to most  peak MB")
    for style in styles:
        layers = [layers_of(size, style) for size in sizes]
        models = [(decoder(count, style), 2 * count) for count in layers]
        rows = measured(style, models, task, runs, cold)
        for before, row in zip([None, *rows], rows, strict=False):
            show(row, before)
    [row] = measured(f"{DEEP} deep", [(chain(DEEP), DEEP)], task, runs, cold)
    show(row, None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("scan", "fuse"), default="scan")
    parser.add_argument("--style", choices=STYLES, action="append", help="default: every style")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="do not touch memory before each run")
    options = parser.parse_args()
    table(options.style or STYLES, options.nodes, options.task, options.runs, options.cold)


if __name__ == "__main__":
    main()

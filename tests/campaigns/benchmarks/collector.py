"""What the garbage collector costs a scan: scans with it on, beside scans with it off.

    python -m tests.campaigns.benchmarks.collector
    python -m tests.campaigns.benchmarks.collector --nodes 10000 --turns 9

One process scans a decoder with tiny weights in turn both ways. Off is what `graphfuse.scan` did
itself until a library was no longer to touch a switch of the whole process: gc.disable(), and then
what was made counted as old. Seconds are of the processor, so that what else runs on the
machine hardly counts.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path

import graphfuse
from tests.campaigns.benchmarks.growing import STYLES, decoder, layers_of


def timed(path: Path, collector: bool) -> float:
    """Scan once and give the processor's seconds."""
    gc.collect()
    start = time.process_time()
    if not collector:
        gc.disable()
    graphfuse.scan(path)
    if not collector:
        gc.freeze()
        gc.unfreeze()
        gc.enable()
    return time.process_time() - start


def collecting(path: Path) -> tuple[float, list[int]]:
    """The processor's seconds that collections take in one scan, and how many there are by age."""
    spent: list[float] = []
    counts = [0, 0, 0]
    started = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.process_time()
        else:
            spent.append(time.process_time() - started)
            counts[info["generation"]] += 1

    gc.collect()
    gc.callbacks.append(note)
    try:
        graphfuse.scan(path)
    finally:
        gc.callbacks.remove(note)
    return sum(spent), counts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--style", choices=STYLES, action="append", help="default: every style")
    options = parser.parse_args()
    for style in options.style or STYLES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(decoder(layers_of(options.nodes, style), style).SerializeToString())
            timed(path, True)  # what is imported and allocated once
            pairs = [(timed(path, False), timed(path, True)) for _ in range(options.turns)]
            seconds, counts = collecting(path)
        off, on = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratios = sorted(on / off for off, on in pairs)
        print(
            f"{style}, {options.nodes:,} nodes: off {off:.2f} s, on {on:.2f} s, on/off "
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}); "
            f"{sum(counts)} collections {counts} take {seconds:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

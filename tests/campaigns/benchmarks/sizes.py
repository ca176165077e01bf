"""`graphfuse fuse` on models of 2.2 GB inline, 13 GB and 466 GB external: time and memory.

    python -m tests.campaigns.benchmarks.sizes --runs 5
    python -m tests.campaigns.benchmarks.sizes --case inline --weights auto

The weights are holes of sparse files, so no disk is used; every other thing is as in a real file. The
whole process is measured, in the same folder, without validation. Inline weights stay in their file
(`--weights keep`) unless asked otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from tests.campaigns.benchmarks.large_model import CHILD, build


@dataclass(frozen=True)
class Case:
    """A model's shape, and the most that its fusing may take: seconds, megabytes."""

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    seconds: float
    megabytes: int


CASES = {
    # 2.2 GB, 13 GB (16-bit would be LLaMA 7B's), and 96 layers of GPT-3's width.
    "inline": Case(10, 2048, 5632, 16000, 1.5, 250),
    "13 GB": Case(16, 4096, 11008, 16000, 2.5, 250),
    "466 GB": Case(96, 12288, 16384, 51200, 4.0, 300),
}


def make_inline(path: Path) -> None:
    """Move external weights into the model's own file, as holes of it."""
    model = onnx.load(path, load_external_data=False)
    external = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    kept = [t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    copies = onnx.GraphProto(initializer=kept).initializer
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    sizes = [int(next(e.value for e in t.external_data if e.key == "length")) for t in external]
    heads: list[tuple[bytes, int]] = []
    for tensor, size in zip(external, sizes, strict=True):
        plain = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        body = plain.SerializeToString() + b"\x4a" + varint(size)
        heads.append((b"\x2a" + varint(len(body) + size) + body, size))
    total = len(graph) + sum(len(head) + size for head, size in heads)
    with path.open("wb") as file:
        file.write(model.SerializeToString() + b"\x3a" + varint(total) + graph)
        for head, size in heads:
            file.write(head)
            file.seek(size, 1)
        file.truncate()
    path.with_name("model.onnx_data").unlink()


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def fuse(model: Path, weights: str) -> dict[str, float]:
    """One run in a fresh process."""
    output = model.with_name("fused.onnx")
    command = ["fuse", str(model), "-o", str(output), "--validate", "none", "--force"]
    start = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *command, "--weights", weights],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    result = json.loads(child.stderr.splitlines()[-1])
    assert result["code"] == 0, child.stderr + child.stdout
    return {"seconds": seconds, **result}


def measure(name: str, case: Case, runs: int, weights: str) -> bool:
    """Make a case, fuse it a few times, and print whether it stays within its budget."""
    with tempfile.TemporaryDirectory() as folder:
        shape = (case.layers, case.hidden, case.inner, case.vocabulary)
        model = build(Path(folder), *shape)
        if name == "inline":
            make_inline(model)
            weights = "keep" if weights == "auto-or-keep" else weights
        weights = "auto" if weights == "auto-or-keep" else weights
        results = [fuse(model, weights) for _ in range(runs)]
        size = sum(path.stat().st_size for path in (model, *Path(folder).glob("model.onnx_data")))
    seconds = statistics.median(result["seconds"] for result in results)
    peak = max(result["peak_mb"] for result in results)
    read = max(result["read_mb"] for result in results)
    cpu = statistics.median(result["cpu"] for result in results)
    within = seconds <= case.seconds and peak <= case.megabytes
    print(
        f"{name} ({size / 1e9:.1f} GB, --weights {weights}): median {seconds:.2f} s of "
        f"{case.seconds:g} s ({cpu:.2f} s of processor time), peak {peak:.0f} of {case.megabytes} MB, {read:.0f} MB read: "
        f"{'within' if within else 'OVER'} its budget",
        flush=True,
    )
    return within


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--weights", default="auto-or-keep")
    options = parser.parse_args()
    chosen = options.case or list(CASES)
    within = [measure(name, CASES[name], options.runs, options.weights) for name in chosen]
    sys.exit(not all(within))


if __name__ == "__main__":
    main()

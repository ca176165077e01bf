"""One model beside the best that it can be without graphfuse, and beside norms that cost nothing.

    python -m tests.campaigns.benchmarks.fair model.onnx
    python -m tests.campaigns.benchmarks.fair model.onnx --size 8x128 --threads 2 --clock wall --json

The model is fused for the installed onnxruntime, and timed in paired runs (`graphfuse bench`): the
original in a default session and without onnxruntime's slow fusions, the fused model in a plain
default session and with graphfuse's kernels. Then beside the fused model with every fused node taken
out: no fusion of sums and norms can be faster. `norms 5 % -> 2 %` are the shares of the time that
they cost in the original at its best, and in the fused model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

import graphfuse
from graphfuse.ops import DOMAIN, OPERATORS
from graphfuse.records import FuseResult
from graphfuse.running.random_feeds import Sizes
from graphfuse.speed.measurements import BEST, FUSED, ORIGINAL, PLAIN, BenchOptions, Comparison
from graphfuse.speed.timing import Interval
from graphfuse.system import libraries

SHOWN = {
    "plain": (PLAIN, ORIGINAL),
    "kernels": (FUSED, ORIGINAL),
    "option": (BEST, ORIGINAL),
    "plain/best": (PLAIN, BEST),
    "kernels/best": (FUSED, BEST),
}
"""Who beside whom, by the name in the table."""


def without_norms(result: FuseResult) -> onnx.ModelProto:
    """A fused model whose sums and norms cost nothing: each fused node passes an operand on.

    It is the branch, where that has the shape of the sum: so everything else is still computed.
    """
    model = onnx.ModelProto()
    model.CopyFrom(result.model)
    outputs = {value.name for value in model.graph.output}
    passed = {
        fusion.output: int(fusion.site.b_shape == fusion.site.shape) for fusion in result.fused
    }
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.domain != DOMAIN or node.op_type not in OPERATORS:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            nodes.append(copy)
            continue
        kept = inputs[passed[node.output[0]]]
        for name in node.output:
            renamed[name] = kept
            if name in outputs:
                nodes.append(helper.make_node("Identity", [kept], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def measure(original: Path, options: BenchOptions, limit: bool = True) -> dict[str, Any]:
    """The figures of one model, as the table has them; `limit` adds what norms could cost."""
    with tempfile.TemporaryDirectory() as folder:
        fused, bare = Path(folder) / "fused.onnx", Path(folder) / "bare.onnx"
        result = graphfuse.optimize(original, fused, level="none")
        onnx.save(without_norms(result), bare)
        (found,) = graphfuse.bench(original, fused, options=options).comparisons
        free = None
        if limit:
            # It has nothing that a library could run.
            without = replace(options, kernels=False)
            (free,) = graphfuse.bench(original, bare, options=without).comparisons
    shares: dict[str, float] = {}
    if free is not None:
        least = free.beside_best.median
        shares = {"could": 1 - 1 / least, "left": 1 - found.beside_best.median / least}
    pairs = {name: times for name, pair in SHOWN.items() if (times := _times(found, *pair))}
    return {
        "model": original.stem,
        "onnxruntime": libraries.onnxruntime().__version__,
        "sites": len(result.fused),
        "milliseconds": found.original.median * 1e3,
        **{name: [times.low, times.median, times.high] for name, times in pairs.items()},
        **shares,
    }


def _times(found: Comparison, of: str, beside: str) -> Interval | None:
    return next((one.times for one in found.speedups if (one.of, one.beside) == (of, beside)), None)


def line(figures: dict[str, Any]) -> str:
    """One row of the table."""
    words = [f"{figures['model']:24} {figures['onnxruntime']:8} {figures['sites']:>3} sites"]
    words.append(f"{figures['milliseconds']:9.2f} ms")
    for name in SHOWN:
        if name in figures:
            low, median, high = figures[name]
            words.append(f"{name} {median:.3f} ({low:.3f} to {high:.3f})")
    if "left" in figures:
        words.append(f"norms {figures['could']:.1%} -> {figures['left']:.1%}")
    return "  ".join(words)


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a timing."""
    made = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seconds", type=float, default=5, help="per contender")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--size", help="batch and positions [1x128, or less where that does not run]")
    made.add_argument("--clock", choices=("wall", "processor"), default="processor")
    made.add_argument("--no-limit", action="store_true", help="leave out what norms could cost")
    made.add_argument("--json", action="store_true", help="one JSON document a model")
    return made


def main(arguments: list[str] | None = None) -> int:
    made = parser("python -m tests.campaigns.benchmarks.fair", __doc__)
    made.add_argument("models", type=Path, nargs="+")
    given = made.parse_args(arguments)
    sizes = [Sizes(*map(int, given.size.split("x")))] if given.size else []
    options = BenchOptions(
        given.seconds,
        (given.threads,),
        tuple(sizes),
        look_inside=False,
        memory=False,
        clock=given.clock,
    )
    for model in given.models:
        figures = measure(model, options, not given.no_limit)
        print(json.dumps(figures) if given.json else line(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

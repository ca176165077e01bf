"""One model beside the best that it can be without graphfuse, and beside norms that cost nothing.

    python -m tests.benchmarks.fair model.onnx
    python -m tests.benchmarks.fair model.onnx --size 8x128 --threads 2 --clock wall --json

The model is fused for the installed onnxruntime, and timed in paired runs (`graphfuse bench`): the
original in a default session and without onnxruntime's slow fusions, the fused model in a plain
default session and with graphfuse's kernels. Then beside the fused model with every norm taken out
(its sums stay): no fusion of norms can be faster. `left` is what the norms still cost, as a share of
the fused model's time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import onnx
from onnx import helper

import graphfuse
from graphfuse import foreign, pipeline
from graphfuse.bench.compare import BenchOptions
from graphfuse.bench.records import BEST, FUSED, ORIGINAL, PLAIN, Comparison
from graphfuse.bench.timing import Interval
from graphfuse.feeds import Sizes
from graphfuse.ops import BIAS_OPERATOR, DOMAIN, OPERATORS

SHOWN = {
    "plain": (PLAIN, ORIGINAL),
    "kernels": (FUSED, ORIGINAL),
    "option": (BEST, ORIGINAL),
    "plain/best": (PLAIN, BEST),
    "kernels/best": (FUSED, BEST),
}
"""Who beside whom, by the name in the table."""


def without_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """A fused model in which every fused node only adds."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.domain != DOMAIN or node.op_type not in OPERATORS:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            nodes.append(copy)
            continue
        y, sum_ = node.output[0], node.output[1] if len(node.output) > 1 else f"{node.output[0]}+"
        second = inputs[1]
        if node.op_type in BIAS_OPERATOR.values():
            second = f"{y}/biased"
            nodes.append(helper.make_node("Add", [inputs[1], inputs[-1]], [second]))
        nodes.append(helper.make_node("Add", [inputs[0], second], [sum_]))
        if y in outputs:
            nodes.append(helper.make_node("Identity", [sum_], [y]))
        else:
            renamed[y] = sum_
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def measure(original: Path, options: BenchOptions) -> dict[str, object]:
    """The figures of one model, as the table has them."""
    with tempfile.TemporaryDirectory() as folder:
        fused, bare = Path(folder) / "fused.onnx", Path(folder) / "bare.onnx"
        result = graphfuse.optimize(original, fused, validation="none")
        onnx.save(without_norms(onnx.load(fused)), bare)
        (found,) = pipeline.bench(original, fused, options=options).comparisons
        (limit,) = pipeline.bench(original, bare, options=options).comparisons
    best = _times(found, FUSED, BEST) or found.speedup
    free = _times(limit, FUSED, BEST) or limit.speedup
    pairs = {name: times for name, pair in SHOWN.items() if (times := _times(found, *pair))}
    return {
        "model": original.stem,
        "onnxruntime": foreign.onnxruntime().__version__,
        "sites": len(result.fused),
        "milliseconds": found.original.median * 1e3,
        **{name: [times.low, times.median, times.high] for name, times in pairs.items()},
        "left": 1 - best.median / free.median,
        "could": 1 - 1 / free.median,
    }


def _times(found: Comparison, of: str, beside: str) -> Interval | None:
    return next(
        (one.times for one in found.speedups if (one.of, one.beside) == (of, beside)), None
    )


def line(figures: dict[str, object]) -> str:
    """One row of the table."""
    words = [f"{figures['model']:24} {figures['onnxruntime']:8} {figures['sites']:>3} sites"]
    words.append(f"{figures['milliseconds']:9.2f} ms")
    for name in SHOWN:
        if name in figures:
            low, median, high = figures[name]
            words.append(f"{name} {median:.3f} ({low:.3f} to {high:.3f})")
    words.append(f"norms {figures['could']:.1%} -> {figures['left']:.1%}")
    return "  ".join(words)


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a timing."""
    made = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seconds", type=float, default=5, help="per contender")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--size", default="1x128", help="batch and positions")
    made.add_argument("--clock", choices=("wall", "processor"), default="processor")
    made.add_argument("--json", action="store_true", help="one JSON document a model")
    return made


def main(arguments: list[str] | None = None) -> int:
    made = parser("python -m tests.benchmarks.fair", __doc__)
    made.add_argument("models", type=Path, nargs="+")
    given = made.parse_args(arguments)
    batch, positions = map(int, given.size.split("x"))
    options = BenchOptions(
        given.seconds,
        (given.threads,),
        (Sizes(batch, positions),),
        look_inside=False,
        memory=False,
        clock=given.clock,
    )
    for model in given.models:
        figures = measure(model, options)
        print(json.dumps(figures) if given.json else line(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

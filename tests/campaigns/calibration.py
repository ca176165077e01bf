"""False alarms on deep, narrow models: python -m tests.campaigns.calibration [--blocks 12,24,48].

Residual stacks of post-norm feed-forward blocks (models/stacks.py has them in PyTorch), with one
set of weights for all blocks or one for each, are fused and validated with as many seeds as are
asked for, each for weights and feeds. Nothing is wrong with any, so every failure is a false alarm.
For each cell the table has the failures, the largest share of its bound that G2 and G1 used, and
seconds of processor time a model. Rounding errors grow along few directions there, which makes
distances from float64 vary more than the number of elements says (validation/chance.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphfuse

WEIGHTS = ("tied", "untied")


@dataclass(frozen=True)
class Outcome:
    """One model: what failed, and the largest shares of their bounds that G1 and G2 used."""

    failures: tuple[str, ...]
    share: dict[str, float]
    seconds: float


def stack(blocks: int, hidden: int, weights: str, seed: int) -> onnx.ModelProto:
    """x = LayerNorm(x + W2 relu(W1 x + b1) + b2), `blocks` times; weights keep variance."""
    rng = np.random.default_rng(seed)
    initializers: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, *shape: int) -> str:
        if all(tensor.name != name for tensor in initializers):
            spread = shape[0] ** -0.5 if len(shape) > 1 else 0.1
            array = rng.normal(float(name.startswith("scale")), spread, shape)
            initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(op_type: str, *inputs: str, output: str) -> str:
        nodes.append(helper.make_node(op_type, inputs, [output]))
        return output

    value = "x"
    for number in range(blocks):
        end, own = f"_{number}", "" if weights == "tied" else f"_{number}"
        up = add("MatMul", value, weight(f"up{own}", hidden, 4 * hidden), output=f"u{end}")
        up = add("Add", up, weight(f"b1{own}", 4 * hidden), output=f"v{end}")
        up = add("Relu", up, output=f"w{end}")
        down = add("MatMul", up, weight(f"down{own}", 4 * hidden, hidden), output=f"d{end}")
        down = add("Add", down, weight(f"b2{own}", hidden), output=f"f{end}")
        total = add("Add", value, down, output=f"s{end}")
        vectors = weight(f"scale{own}", hidden), weight(f"bias{own}", hidden)
        value = add("LayerNormalization", total, *vectors, output=f"y{end}")
    shape = ["batch", "sequence", hidden]
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        initializers,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def outcome(blocks: int, hidden: int, weights: str, seed: int, level: str = "full") -> Outcome:
    """Fuse one stack and validate it: every site must be there, and nothing fail."""
    start = time.process_time()
    original = stack(blocks, hidden, weights, seed)
    result = graphfuse.fuse(original, selection=graphfuse.Selection(costs="none"))
    assert len(result.fused) == blocks, "a site was not fused"
    report = graphfuse.validate(
        original, result.model, level=level, feeds=graphfuse.Feeds(seed=seed)
    )
    worst = {gate: report.worst(gate) for gate in ("G1", "G2")}
    share = {gate: check.value / check.bound for gate, check in worst.items() if check is not None}
    said = tuple(f"{c.gate} {c.value:.3g} of {c.bound:.3g} ({c.where})" for c in report.failures)
    return Outcome(said, share, time.process_time() - start)


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _cells(options: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    for blocks in options.blocks:
        for hidden in options.widths:
            for weights in options.weights.split(","):
                yield blocks, hidden, weights


def main() -> int:
    """The command line; 1 where there was a false alarm."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.calibration", description=__doc__
    )
    parser.add_argument("--blocks", type=_numbers, default=[12, 24, 48])
    parser.add_argument("--widths", type=_numbers, default=[64, 384])
    parser.add_argument("--weights", default=",".join(WEIGHTS))
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--level", default="full")
    options = parser.parse_args()
    alarms = 0
    print(f"{'blocks':>6} {'wide':>5} {'weights':8} {'seeds':>6} {'failed':>6}", end=" ")
    print(f"{'G2 max':>7} {'median':>7} {'G1 max':>7} {'s each':>7}")
    for blocks, hidden, weights in _cells(options):
        found: list[Outcome] = []
        for seed in range(options.first, options.first + options.seeds):
            found.append(outcome(blocks, hidden, weights, seed, options.level))
            for failure in found[-1].failures:
                print(f"  seed {seed}: {failure}", flush=True)
        failed = sum(bool(each.failures) for each in found)
        alarms += failed
        shares = [each.share["G2"] for each in found]
        print(
            f"{blocks:6} {hidden:5} {weights:8} {len(found):6} {failed:6} {max(shares):7.2f} "
            f"{np.median(shares):7.2f} {max(each.share['G1'] for each in found):7.2f} "
            f"{np.mean([each.seconds for each in found]):7.1f}",
            flush=True,
        )
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())

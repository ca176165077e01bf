"""Time and memory of `graphfuse fuse` on a model with gigabytes of external weights.

    python -m tests.campaigns.benchmarks.large_model --layers 32 --hidden 4096 --runs 5

Makes a LLaMA-shaped graph whose weights are one sparse file (no disk is used for them), fuses it
in a fresh process without validation, and prints wall time, peak memory and the bytes that the
process read from files (Python's own modules are some 10 MB of them).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from onnx import TensorProto, helper

CHILD = """
import json, resource, sys
from graphfuse.cli import main
sys.argv = ["graphfuse", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
usage = resource.getrusage(resource.RUSAGE_SELF)
with open("/proc/self/io") as file:
    read = int(file.readline().split()[1])
cpu = usage.ru_utime + usage.ru_stime
report = {"code": code, "peak_mb": usage.ru_maxrss / 1024, "read_mb": read / 1e6, "cpu": cpu}
print(json.dumps(report), file=sys.stderr)
"""


class Builder:
    """Collects nodes and external weights at increasing offsets of one file."""

    def __init__(self, data_name: str) -> None:
        self.data_name = data_name
        self.offset = 0
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        """An external float32 weight; nothing is written."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        length = 4
        for extent in shape:
            length *= extent
        for key, value in (
            ("location", self.data_name),
            ("offset", self.offset),
            ("length", length),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self.offset += length
        self.weights.append(tensor)
        return name

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> str:
        """A node of one output."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        """x @ W."""
        return self.op("MatMul", [x, self.weight(f"{name}.weight", rows, columns)], name)

    def rms_norm(self, x: str, name: str, hidden: int) -> str:
        """RMSNorm in the primitives that exporters write."""
        square = self.op("Pow", [x, "two"], f"{name}.square")
        mean = self.op("ReduceMean", [square, "last"], f"{name}.mean", keepdims=1)
        root = self.op("Sqrt", [self.op("Add", [mean, "epsilon"], f"{name}.add")], f"{name}.root")
        inverse = self.op("Reciprocal", [root], f"{name}.inverse")
        normal = self.op("Mul", [x, inverse], f"{name}.normal")
        return self.op("Mul", [normal, self.weight(f"{name}.weight", hidden)], name)


def build(folder: Path, layers: int, hidden: int, inner: int, vocabulary: int) -> Path:
    """Write the graph and its sparse weight file; gives the model's path."""
    b = Builder("model.onnx_data")
    x = b.op("Gather", [b.weight("embedding", vocabulary, hidden), "ids"], "embedded")
    for layer in range(layers):
        p = f"layers.{layer}"
        h = b.rms_norm(x, f"{p}.input_norm", hidden)
        q, k, v = (b.linear(h, f"{p}.{name}", hidden, hidden) for name in "qkv")
        heads = [b.op("Reshape", [t, "heads"], f"{t}.heads") for t in (q, k, v)]
        q, k, v = (
            b.op("Transpose", [t], f"{t}.t", perm=p_)
            for t, p_ in zip(heads, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scores = b.op("Mul", [b.op("MatMul", [q, k], f"{p}.qk"), "scale"], f"{p}.scores")
        weights = b.op("Softmax", [scores], f"{p}.softmax", axis=-1)
        context = b.op("MatMul", [weights, v], f"{p}.context")
        context = b.op("Transpose", [context], f"{p}.context.t", perm=[0, 2, 1, 3])
        context = b.op("Reshape", [context, "joined"], f"{p}.joined")
        x = b.op("Add", [x, b.linear(context, f"{p}.o", hidden, hidden)], f"{p}.attention.sum")
        h = b.rms_norm(x, f"{p}.post_norm", hidden)
        gate = b.linear(h, f"{p}.gate", hidden, inner)
        gate = b.op("Mul", [gate, b.op("Sigmoid", [gate], f"{p}.sigmoid")], f"{p}.silu")
        up = b.op("Mul", [gate, b.linear(h, f"{p}.up", hidden, inner)], f"{p}.product")
        x = b.op("Add", [x, b.linear(up, f"{p}.down", inner, hidden)], f"{p}.sum")
    h = b.rms_norm(x, "norm", hidden)
    b.op("MatMul", [h, b.weight("head", hidden, vocabulary)], "logits")
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("epsilon", TensorProto.FLOAT, [], [1e-6]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [128**-0.5]),
        helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("heads", TensorProto.INT64, [4], [0, 0, hidden // 128, 128]),
        helper.make_tensor("joined", TensorProto.INT64, [3], [0, 0, hidden]),
    ]
    axes = ["batch", "sequence"]
    graph = helper.make_graph(
        b.nodes,
        "llama",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, axes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*axes, vocabulary])],
        [*constants, *b.weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with (folder / b.data_name).open("wb") as file:
        file.truncate(b.offset)
    print(f"{len(b.nodes)} nodes, {b.offset / 1e9:.1f} GB of weights, {2 * layers} sites")
    return path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=11008)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = build(
            Path(folder), options.layers, options.hidden, options.inner, options.vocabulary
        )
        times, peaks, reads = [], [], []
        for _ in range(options.runs):
            output = model.with_name("fused.onnx")
            command = ["fuse", str(model), "-o", str(output), "--validate", "none", "--force"]
            start = time.perf_counter()
            child = subprocess.run(
                [sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=True
            )
            times.append(time.perf_counter() - start)
            result = json.loads(child.stderr.splitlines()[-1])
            assert result["code"] == 0, child.stderr
            peaks.append(result["peak_mb"])
            reads.append(result["read_mb"])
        print(child.stdout)
        print(
            f"whole process: median {statistics.median(times):.2f} s "
            f"(least {min(times):.2f}, most {max(times):.2f}), peak {max(peaks):.0f} MB, "
            f"{max(reads):.0f} MB read in all, Python's modules included"
        )


if __name__ == "__main__":
    main()

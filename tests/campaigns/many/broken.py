"""Models that cannot be fused, each for a reason of its own: twenty ways, which a row has to name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, numpy_helper

from tests.support.graphs import residual

NORM = "y = LayerNormalization(x, scale, bias)"

HEAD = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 8] x, float[2, 8] r, float[8] s) => (float[2, 8] y, float[a, b] z) {
        t = Add (r, x)
        y = LayerNormalization (t, s)
        most = Constant <value = int64 {9223372036854775807}> ()
        yes = Constant <value = bool {1}> ()
"""


@dataclass(frozen=True)
class Broken:
    """How a file is made, and a part of what is to be said of it."""

    make: Callable[[Path], object]
    said: str


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(residual(NORM).SerializeToString()[:-40])


def _apart(location: str, length: int | None = None) -> Callable[[Path], object]:
    """A scale in another file, of which `length` bytes are there, or none."""

    def make(path: Path) -> None:
        proto = residual("y = LayerNormalization(x, w, bias)")
        scale = numpy_helper.from_array(np.ones(8, np.float32), "w")
        scale.ClearField("raw_data")
        scale.data_location = TensorProto.EXTERNAL
        scale.external_data.add(key="location", value=location)
        scale.external_data.add(key="length", value="32")
        proto.graph.initializer.append(scale)
        onnx.save(proto, path)
        if length is not None:
            (path.parent / location).write_bytes(bytes(length))

    return make


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: onnx.save(onnx.parser.parse_model(text), path)


def _loop(step: str) -> Callable[[Path], object]:
    """A loop that nothing ends; each round makes w of v."""
    body = f"d = Identity(c)  {step}"
    return _text(f"""{HEAD}
        z = Loop (most, yes, x) <body = b (int64 i, bool c, float[p, q] v)
            => (bool d, float[u, o] w) {{ {body} }}>
    }}""")


def _whole(kind: str, least: int, folded: bool, alone: bool = False) -> Callable[[Path], object]:
    """The least whole number, divided by -1: onnxruntime lets the processor stop the process.

    `folded` says that it does so while it loads the model, `alone` that one number divides all.
    """
    right = "right = Identity (minus)" if alone else "right = Add (none, minus)"
    none = f"none = Constant <value = {kind} {{0}}> ()" if folded else "none = Sub (whole, whole)"
    return _text(f"""{HEAD}
        whole = Cast <to = {TensorProto.DataType.Value(kind.upper())}> (x)
        low = Constant <value = {kind} {{{least}}}> ()
        minus = Constant <value = {kind} {{-1}}> ()
        {none}
        left = Add (none, low)
        {right}
        over = Div (left, right)
        both = Add (whole, over)
        z = Cast <to = 1> (both)
    }}""")


ENDLESS = "took more than"
CRASH = "was stopped by SIGFPE"
MEMORY = "memory"

BROKEN: Mapping[str, Broken] = {
    "garbage-text": Broken(_bytes(b"no model at all"), "is not an ONNX model"),
    "garbage-empty": Broken(_bytes(b""), "is empty"),
    "garbage-zip": Broken(_bytes(b"PK\x03\x04" + bytes(range(256)) * 8), "is not an ONNX model"),
    "garbage-cut": Broken(_cut, "is not an ONNX model"),
    "weights-missing": Broken(_apart("lost.bin"), "lost.bin"),
    "weights-short": Broken(_apart("short.bin", 8), "short.bin"),
    "weights-outside": Broken(_apart("../outside.bin"), "leaves the model's folder"),
    "weights-in-root": Broken(_apart("/etc/hostname"), "leaves the model's folder"),
    "crash-by-one": Broken(_whole("int64", -(2**63), False, True), CRASH),
    "crash-int64": Broken(_whole("int64", -(2**63), False), CRASH),
    "crash-loading-int32": Broken(_whole("int32", -(2**31), True), CRASH),
    "crash-loading-int64": Broken(_whole("int64", -(2**63), True), CRASH),
    "endless-add": Broken(_loop("w = Add(v, v)"), ENDLESS),
    "endless-neg": Broken(_loop("w = Neg(v)"), ENDLESS),
    "endless-matmul": Broken(_loop("u = Transpose(v)  m = MatMul(v, u)  w = Sub(v, v)"), ENDLESS),
    "endless-sin": Broken(_loop("w = Sin(v)"), ENDLESS),
    "memory-grows": Broken(_loop("w = Concat<axis=0>(v, v)"), MEMORY),
    "memory-wide": Broken(_loop("w = Concat<axis=1>(v, v)"), MEMORY),
    "memory-both": Broken(_loop("u = Concat<axis=0>(v, v)  w = Concat<axis=1>(u, u)"), MEMORY),
    "memory-sums": Broken(_loop("u = Concat<axis=1>(v, v)  w = Add(u, u)"), MEMORY),
}  # fmt: skip

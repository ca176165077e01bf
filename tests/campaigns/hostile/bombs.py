"""Small files that ask for endless work or all memory, through the command line.

Each ends within 60 s and 4 GiB, with a result or one line that names what is wrong. Counted is the
process's own time: others may be at work on the machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx import helper as h

from tests.support.graphs import residual

SECONDS, MEMORY = 60, 4 * 2**30
WAITED = 300
"""Seconds after which a process is stopped that does not use its processor."""
NORM = "y = LayerNormalization(x, scale, bias)"
LIMITED = ("--isolate", "--memory-limit", "3.5", "--time-limit", "40")


def with_nodes(*nodes: NodeProto, body: str = NORM) -> ModelProto:
    proto = residual(body)
    proto.graph.node.extend(nodes)
    return proto


def nested_if(depth: int) -> ModelProto:
    inner = h.make_graph([h.make_node("Neg", ["a"], ["r0"])], "g", [], [_value("r0")])
    for level in range(1, depth + 1):
        node = h.make_node("If", ["c"], [f"r{level}"], then_branch=inner)
        inner = h.make_graph([node], "g", [], [_value(f"r{level}")])
    proto = with_nodes(*inner.node)
    proto.graph.input.append(h.make_tensor_value_info("c", TensorProto.BOOL, []))
    return proto


def _value(name: str) -> onnx.ValueInfoProto:
    return h.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "S", 8])


def deep_bytes(levels: int) -> bytes:
    """A graph in an attribute in a node, again and again; protobuf's own writers do not."""
    parts: list[bytes] = []
    size = 0
    for level in range(levels):
        number = (6, 5, 1)[level % 3]
        head = bytes([number << 3 | 2]) + _varint(size)
        parts.append(head)
        size += len(head)
    data = b"".join(reversed(parts))
    return b"\x3a" + _varint(len(data)) + data + b"\x42\x02\x10\x11"


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def calls(levels: int, twice: bool, cycle: bool = False) -> ModelProto:
    proto = residual(NORM)
    proto.opset_import.add(domain="bomb", version=1)
    imports = [h.make_opsetid("", 17), h.make_opsetid("bomb", 1)]
    for level in range(levels):
        name = f"F{(level - 1) % levels}" if level or cycle else "Neg"
        domain = "bomb" if level or cycle else ""
        pairs = (("i", "m"), ("m", "o")) if twice else (("i", "o"),)
        nodes = [h.make_node(name, [a], [b], domain=domain) for a, b in pairs]
        proto.functions.append(h.make_function("bomb", f"F{level}", ["i"], ["o"], nodes, imports))
    proto.graph.node.append(h.make_node(f"F{levels - 1}", ["a"], ["unused"], domain="bomb"))
    return proto


def loop(trips: int) -> ModelProto:
    """The result of the loop is read: a run cannot leave it out."""
    values = [
        h.make_tensor_value_info("n", TensorProto.INT64, []),
        h.make_tensor_value_info("k", TensorProto.BOOL, []),
        _value("s"),
    ]
    nodes = [h.make_node("Neg", ["s"], ["t"]), h.make_node("Identity", ["k"], ["k2"])]
    out = [h.make_tensor_value_info("k2", TensorProto.BOOL, []), _value("t")]
    body = h.make_graph(nodes, "body", values, out)
    proto = with_nodes(h.make_node("Loop", ["trips", "", "y"], ["z"], body=body))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(trips), "trips"))
    proto.graph.output.append(_value("z"))
    return proto


def huge_input() -> ModelProto:
    proto = residual(NORM)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = 2**40
    return proto


def huge_constant() -> ModelProto:
    shape = numpy_helper.from_array(np.array([2**36]), "shape")
    nodes = (
        h.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        h.make_node("ReduceSum", ["zeros"], ["total"], keepdims=0),
        h.make_node("Add", ["y", "total"], ["z"]),
    )
    proto = with_nodes(*nodes)
    proto.graph.initializer.append(shape)
    proto.graph.output.append(_value("z"))
    return proto


def hollow_weight() -> ModelProto:
    proto = residual(NORM)
    proto.graph.initializer.append(
        TensorProto(name="hollow", data_type=TensorProto.FLOAT, dims=[2**31, 2**31])
    )
    return proto


def many_dims() -> ModelProto:
    proto = residual(NORM)
    proto.graph.initializer.append(
        TensorProto(name="dims", data_type=TensorProto.FLOAT, dims=[2**62] * 1_000_000)
    )
    return proto


def chain(count: int, op: str = "Neg") -> ModelProto:
    proto = residual(NORM)
    name = "a"
    for number in range(count):
        proto.graph.node.add(op_type=op, input=[name], output=[f"n{number}"])
        name = f"n{number}"
    return proto


def doubling(op: str) -> ModelProto:
    """Each node reads the one before twice: 2^200 terms when written out."""
    nodes: list[NodeProto] = []
    name = "x"
    for number in range(200):
        nodes.append(h.make_node(op, [name, name], [f"d{number}"]))
        name = f"d{number}"
    nodes.append(h.make_node("LayerNormalization", [name, "scale", "bias"], ["y"]))
    proto = residual(NORM)
    del proto.graph.node[1:]
    proto.graph.node.extend(nodes)
    return proto


def big_powers() -> ModelProto:
    """Numbers that a constant folder would raise to ever higher powers."""
    nodes = [
        h.make_node("Constant", [], ["p0"], value_float=1e30),
        *(h.make_node("Pow", [f"p{n}", f"p{n}"], [f"p{n + 1}"]) for n in range(60)),
        h.make_node("Pow", ["x", "p60"], ["q"]),
        h.make_node("ReduceMean", ["q"], ["m"], axes=[-1]),
        h.make_node("Div", ["x", "m"], ["z"]),
    ]
    return with_nodes(*nodes)


def long_names(mebibytes: int) -> ModelProto:
    proto = residual(NORM)
    for number in range(mebibytes):
        proto.graph.node.add(op_type="Neg", input=["a"], output=[f"{number}" + "n" * 2**20])
    return proto


def wide(inputs: int) -> ModelProto:
    return with_nodes(h.make_node("Concat", ["a"] * inputs, ["wide"], axis=0))


def many_readers() -> ModelProto:
    return with_nodes(*(h.make_node("Relu", ["x"], [f"r{n}"]) for n in range(100_000)))


def many_attributes() -> ModelProto:
    node = NodeProto(op_type="Neg", input=["a"], output=["unused"])
    node.attribute.extend(h.make_attribute(f"k{n}", n) for n in range(300_000))
    return with_nodes(node)


def many_weights() -> ModelProto:
    proto = residual(NORM)
    for number in range(300_000):
        proto.graph.initializer.add(name=f"w{number}", data_type=1, dims=[1], raw_data=bytes(4))
    return proto


def deep_type() -> ModelProto:
    proto = residual(NORM)
    kind = proto.graph.value_info.add(name="x").type
    for _ in range(45):
        kind = kind.sequence_type.elem_type
    kind.tensor_type.elem_type = 1
    return proto


def circle() -> ModelProto:
    return with_nodes(h.make_node("Neg", ["p"], ["q"]), h.make_node("Neg", ["q"], ["p"]))


def odd_versions() -> ModelProto:
    proto = residual(NORM)
    proto.opset_import[0].version = 2**62
    proto.ir_version = 2**62
    return proto


def shape_chain() -> ModelProto:
    nodes = [h.make_node("Shape", ["a"], ["s0"])]
    for n in range(2000):
        nodes.append(h.make_node("Concat", [f"s{n}", f"s{n}"], [f"s{n + 1}"], axis=0))
    nodes.append(h.make_node("Reshape", ["a", "s2000"], ["unused"]))
    return with_nodes(*nodes)


def many_sums() -> ModelProto:
    """One sum that 5,000 norms read, in float32."""
    norms = (
        h.make_node("LayerNormalization", ["x", "scale", "bias"], [f"z{n}"]) for n in range(5000)
    )
    return with_nodes(*norms)


def graphs_in_row() -> ModelProto:
    """A thousand branches, each with a site."""
    proto = residual(NORM)
    inner = residual(NORM).graph
    body = h.make_graph(list(inner.node), "g", [], [_value("y")], list(inner.initializer))
    body.node[0].output[0] = body.node[1].input[0] = "inner_x"
    body.node[1].output[0] = body.output[0].name = "inner_y"
    proto.graph.input.append(h.make_tensor_value_info("c", TensorProto.BOOL, []))
    for n in range(1000):
        node = h.make_node("If", ["c"], [f"i{n}"], then_branch=body, else_branch=body)
        proto.graph.node.append(node)
    return proto


@dataclass(frozen=True)
class Bomb:
    """A model, and the ways it is run: the arguments before and after its path."""

    make: Callable[[], ModelProto | bytes]
    says: str = ""
    ways: tuple[tuple[str, ...], ...] = (("scan",), ("fuse", "--dry-run", "--validate", "none"))


PLAIN = (("fuse", "--dry-run"),)
RUN = (("fuse", "--dry-run", *LIMITED),)

BOMBS: Mapping[str, Bomb] = {
    "If nested 30 deep": Bomb(lambda: nested_if(30)),
    "graphs nested 40 deep": Bomb(lambda: deep_bytes(120), "nested"),
    "graphs nested 100,000 deep": Bomb(lambda: deep_bytes(300_000), "nested"),
    "25 functions that call twice": Bomb(lambda: calls(25, True), "--max-expanded-nodes"),
    "18 functions that call twice": Bomb(lambda: calls(18, True)),
    "3,000 functions in a chain": Bomb(lambda: calls(3000, False)),
    "functions in a circle": Bomb(lambda: calls(5, False, True)),
    "a loop of 2^62 trips": Bomb(lambda: loop(2**62), "took more than 40", RUN),
    "the same without a child": Bomb(lambda: loop(2**62), "did not end within 45", PLAIN),
    "a loop of 2^62 trips, not run": Bomb(lambda: loop(2**62)),
    "an input of 2^40 rows": Bomb(huge_input, "", (*RUN, ("scan",))),
    "a constant of 2^36 elements": Bomb(huge_constant, "", (*RUN, ("scan",))),
    "a weight without its bytes": Bomb(hollow_weight),
    "a weight of a million axes": Bomb(many_dims),
    "a million nodes": Bomb(lambda: chain(1_000_000), "", (("scan",),)),
    "two million nodes and one": Bomb(lambda: chain(2_000_001), "--max-nodes", (("scan",),)),
    "sums doubled 200 times": Bomb(lambda: doubling("Add")),
    "products doubled 200 times": Bomb(lambda: doubling("Mul")),
    "powers of powers": Bomb(big_powers),
    "names of 50 MiB": Bomb(lambda: long_names(50)),
    "names of 70 MiB": Bomb(lambda: long_names(70), "--max-names-mib"),
    "a node of a million inputs": Bomb(lambda: wide(1_000_000)),
    "a tensor with 100,000 readers": Bomb(many_readers),
    "a node of 300,000 attributes": Bomb(many_attributes),
    "300,000 weights": Bomb(many_weights),
    "a type 45 sequences deep": Bomb(deep_type),
    "nodes in a circle": Bomb(circle, "in a circle"),
    "versions of 2^62": Bomb(odd_versions),
    "shapes doubled 2,000 times": Bomb(shape_chain),
    "one sum and 5,000 norms": Bomb(many_sums),
    "a thousand branches with sites": Bomb(graphs_in_row),
}


@dataclass(frozen=True)
class Outcome:
    """How a run of the command line ended."""

    problem: str
    code: int
    seconds: float
    gibibytes: float
    said: str


def attempt(path: Path, way: tuple[str, ...], says: str) -> Outcome:
    """One run, in a process of its own, stopped after a minute."""
    command = [sys.executable, "-m", "graphfuse", way[0], str(path), *way[1:]]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if done:
                break
            if seconds > WAITED:
                os.killpg(child.pid, signal.SIGKILL)
                os.wait4(child.pid, 0)
                child.returncode = -9
                return Outcome(f"took more than {WAITED} s", -9, seconds, 0.0, "")
            time.sleep(0.05)
        child.returncode = code = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
    gibibytes = usage.ru_maxrss / 2**20
    seconds = min(seconds, usage.ru_utime + usage.ru_stime)
    problem = ""
    if not 0 <= code <= 6 or "Traceback" in said or said.count("\n"):
        problem = f"exit code {code}"
    elif "internal error" in said or says not in said:
        problem = f"does not say {says!r}"
    elif seconds > SECONDS:
        problem = f"took {seconds:.0f} s"
    elif gibibytes * 2**30 > MEMORY:
        problem = f"took {gibibytes:.1f} GiB"
    return Outcome(problem, code, seconds, gibibytes, said)


def report(only: str = "") -> int:
    """Try all, or those with `only` in their name; print what came of each."""
    bad = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, bomb in BOMBS.items():
            if only not in name:
                continue
            path = Path(folder) / "bomb.onnx"
            made = bomb.make()
            path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
            del made
            for way in bomb.ways:
                says = bomb.says if way == bomb.ways[0] or bomb.says.startswith("--") else ""
                found = attempt(path, way, says)
                bad += bool(found.problem)
                total += 1
                print(
                    f"{'FAILED ' + found.problem if found.problem else 'ok'}: {name}, {way[0]}: "
                    f"exit {found.code}, {found.seconds:.1f} s, {found.gibibytes:.2f} GiB: "
                    f"{found.said[-200:]}",
                    flush=True,
                )
    print(f"{total - bad} of {total} runs of {len(BOMBS)} bombs end as they should")
    return bool(bad)

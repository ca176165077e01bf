"""The fused operators' kernels against Add and norm, onnxruntime's contrib op, and a plain copy.

    python -m graphfuse.speed.kernel_timing
    python -m graphfuse.speed.kernel_timing --type float16 --norm RMS --shape 8,512,4096 --isa avx2

One line per shape and norm: microseconds per node of graphfuse's kernel; how many times faster it
is than Add followed by the norm (onnxruntime's own kernels; through float32 in bfloat16, where it
has none), and than the contrib op; and its share of copy bandwidth: the time in which the same
bytes are copied, half of them read and half written, divided by the kernel's. Each ratio is the
median of pairs, with its quartiles.

Small nodes are timed in a chain of several, each reading what the one before wrote, as in a model,
so that the cost of entering onnxruntime does not hide theirs. Threads are pinned where the system
can: otherwise the scheduler puts two of them on one core now and then, and every figure has two
modes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from graphfuse.kernels import library_path, register
from graphfuse.ops import BIAS_OPERATOR, CONTRIB_OPERATOR, DOMAIN, OPERATOR
from graphfuse.records import NormKind
from graphfuse.records.element_types import FLOATS_BY_NAME, ElementType
from graphfuse.speed.timing import Threads, Timing, paired, pinned
from graphfuse.system import libraries, machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SHAPES = (
    (1, 1, 256),
    (1, 1, 4096),
    (1, 128, 384),
    (1, 128, 768),
    (8, 128, 768),
    (1, 512, 4096),
    (8, 512, 4096),
)
NORMS = {"LN": NormKind.LAYER_NORM, "RMS": NormKind.RMS_NORM}


class Contestant(StrEnum):
    """What is timed beside what."""

    OWN = "graphfuse"
    PAIR = "Add + norm"
    CONTRIB = "contrib"
    COPY = "copy"
    """What moving the bytes costs."""
    BIAS = "bias"
    """An Add of a vector by itself."""
    FOLDED = "folded"
    """graphfuse's node that adds a vector as well."""


CHAIN_ELEMENTS = 2**21
LONGEST_CHAIN = 20
EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Case:
    """One line: a norm, the type and shape of its operands, and whether the sum is read."""

    norm: str
    type: str
    shape: tuple[int, ...]
    sum_is_read: bool
    threads: int

    @property
    def elements(self) -> int:
        """Elements of one operand."""
        return int(np.prod(self.shape))

    @property
    def length(self) -> int:
        """Nodes in the chain that is timed."""
        return max(1, min(LONGEST_CHAIN, CHAIN_ELEMENTS // self.elements))

    @property
    def bytes(self) -> int:
        """Bytes that one node reads and writes, scale and bias aside."""
        size = FLOATS_BY_NAME[self.type].bits // 8
        return self.elements * size * (4 if self.sum_is_read else 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or one JSON document."""
    given = _parser().parse_args(arguments)
    with pinned(given.threads) as threads:
        return _report(given, threads)


def _report(given: argparse.Namespace, threads: Threads) -> int:
    if not given.json:
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
        print(f"onnxruntime {libraries.onnxruntime().__version__}, {given.threads} threads", end="")
        print(f", {os.environ.get(ISA) or 'best'} instruction set")
    rows: list[dict[str, Any]] = []
    for case in _cases(given):
        timings = paired(_contenders(case, threads, given.isa), given.seconds)
        rows.append({**asdict(case), **_figures(case, timings)})
        if not given.json:
            print(_line(case, timings), flush=True)
    if given.json:
        print(json.dumps({"library": str(library_path()), "cases": rows}, indent=2))
    return 0


ISA = "GRAPHFUSE_KERNEL_ISA"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m graphfuse.speed.kernel_timing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", action="append", help="such as 1,128,768; repeat for several")
    parser.add_argument("--type", choices=FLOATS_BY_NAME, default="float32")
    parser.add_argument("--norm", choices=NORMS, help="both when not given")
    parser.add_argument("--isa", help=f"instruction set ({ISA})")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=2.0, help="per contender and line")
    parser.add_argument("--json", action="store_true")
    return parser


def _cases(given: argparse.Namespace) -> Iterator[Case]:
    shapes = [tuple(map(int, text.split(","))) for text in given.shape or ()] or SHAPES
    for shape in shapes:
        for norm in [given.norm] if given.norm else NORMS:
            for sum_is_read in (True, False):
                yield Case(norm, given.type, shape, sum_is_read, given.threads)


def _contenders(
    case: Case, threads: Threads, isa: str | None = None
) -> dict[str, Callable[[], object]]:
    if isa:
        os.environ[ISA] = isa
    calls: dict[str, Callable[[], object]] = {}
    for name in (Contestant.OWN, Contestant.PAIR, Contestant.CONTRIB):
        try:
            calls[name] = caller(case, name, threads)
        except Exception as error:
            # onnxruntime raises its own classes: it has no such kernel for this type.
            machine.check(error, "measuring nodes")
            if name == Contestant.OWN:
                raise
            text = " ".join(str(error).split())
            print(f"{name} does not run in {case.type}: {text[:120]}", file=sys.stderr)
    calls[Contestant.COPY] = _copy(case.bytes * case.length, case.threads)
    return calls


def caller(case: Case, contender: str, threads: Threads) -> Callable[[], object]:
    """A call that runs a chain of nodes once, on memory that is bound beforehand."""
    runtime = libraries.onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    threads.apply(options)
    # The optimiser would turn Add and norm into the contrib op.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if contender in (Contestant.OWN, Contestant.FOLDED):
        register(options)
    model = chain(case, contender)
    made = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = made.io_binding()
    rng = np.random.default_rng(0)
    elem_type = FLOATS_BY_NAME[case.type]
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    kept: list[Array] = []
    for argument in model.graph.input:
        shape = [dim.dim_value for dim in argument.type.tensor_type.shape.dim]
        array = aligned(shape, dtype)
        array[...] = rng.standard_normal(shape).astype(dtype)
        binding.bind_input(argument.name, "cpu", 0, elem_type, shape, array.ctypes.data)
        kept.append(array)
    for value in model.graph.output:
        array = aligned(case.shape, dtype)
        binding.bind_output(value.name, "cpu", 0, elem_type, case.shape, array.ctypes.data)
        kept.append(array)

    def call() -> object:
        made.run_with_iobinding(binding)
        return kept

    return call


def aligned(shape: Sequence[int], dtype: Any, offset: int = 0) -> Array:
    """An array that begins `offset` bytes after a multiple of 64, as onnxruntime's do at 0."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    return room[start : start + size].view(dtype).reshape(shape)


def chain(case: Case, contender: str) -> onnx.ModelProto:
    """A model of `case.length` nodes, each reading what the one before wrote."""
    kind, elem_type = NORMS[case.norm], FLOATS_BY_NAME[case.type]
    parameters = ["scale", "bias"] if kind == NormKind.LAYER_NORM else ["scale"]
    parameters += ["vector"] if contender in (Contestant.BIAS, Contestant.FOLDED) else []
    nodes: list[onnx.NodeProto] = []
    a, b, y, total = "x", "branch", "", ""
    for index in range(case.length):
        y, total = f"y{index}", f"sum{index}"
        nodes += _nodes(case, contender, [a, b, *parameters], y, total)
        a, b = (total, y) if case.sum_is_read and contender != Contestant.BIAS else (y, "branch")
    outputs = [y, total] if case.sum_is_read and contender != Contestant.BIAS else [y]
    inputs = [
        helper.make_tensor_value_info(name, elem_type, case.shape) for name in ("x", "branch")
    ]
    inputs += [
        helper.make_tensor_value_info(name, elem_type, case.shape[-1:]) for name in parameters
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        inputs,
        [helper.make_tensor_value_info(name, elem_type, case.shape) for name in outputs],
    )
    domains = {"": 17, DOMAIN: 1, "com.microsoft": 1}
    return helper.make_model(
        graph,
        ir_version=8,
        opset_imports=[helper.make_opsetid(name, number) for name, number in domains.items()],
    )


def _nodes(
    case: Case, contender: str, inputs: list[str], y: str, total: str
) -> list[onnx.NodeProto]:
    kind = NORMS[case.norm]
    if contender == Contestant.BIAS:
        return _vector_added(case, [inputs[0], inputs[-1]], y)
    if contender in (Contestant.OWN, Contestant.FOLDED):
        outputs = [y, total] if case.sum_is_read else [y]
        operator = (OPERATOR if contender == Contestant.OWN else BIAS_OPERATOR)[kind]
        return [helper.make_node(operator, inputs, outputs, domain=DOMAIN, epsilon=EPSILON)]
    if contender == Contestant.CONTRIB:
        outputs = [y, "", "", total] if case.sum_is_read else [y]
        operator = CONTRIB_OPERATOR[kind]
        return [
            helper.make_node(operator, inputs, outputs, domain="com.microsoft", epsilon=EPSILON)
        ]
    operator = (
        "LayerNormalization" if kind == NormKind.LAYER_NORM else "SimplifiedLayerNormalization"
    )
    if FLOATS_BY_NAME[case.type] != ElementType.BFLOAT16:
        return [
            helper.make_node("Add", inputs[:2], [total]),
            helper.make_node(operator, [total, *inputs[2:]], [y], epsilon=EPSILON, axis=-1),
        ]
    # onnxruntime's CPU provider has neither in bfloat16: a model has to go through float32.
    wide = [f"{y}/{name}" for name in inputs]
    nodes = [
        helper.make_node("Cast", [name], [to], to=ElementType.FLOAT)
        for name, to in zip(inputs, wide, strict=True)
    ]
    nodes.append(helper.make_node("Add", wide[:2], [f"{total}/wide"]))
    parts = [f"{total}/wide", *wide[2:]]
    nodes.append(helper.make_node(operator, parts, [f"{y}/wide"], epsilon=EPSILON, axis=-1))
    outputs = [y, total] if case.sum_is_read else [y]
    nodes += [
        helper.make_node("Cast", [f"{name}/wide"], [name], to=ElementType.BFLOAT16)
        for name in outputs
    ]
    return nodes


def _vector_added(case: Case, inputs: list[str], y: str) -> list[onnx.NodeProto]:
    if FLOATS_BY_NAME[case.type] != ElementType.BFLOAT16:
        return [helper.make_node("Add", inputs, [y])]
    return [
        *(
            helper.make_node("Cast", [name], [f"{y}/{name}"], to=ElementType.FLOAT)
            for name in inputs
        ),
        helper.make_node("Add", [f"{y}/{name}" for name in inputs], [f"{y}/wide"]),
        helper.make_node("Cast", [f"{y}/wide"], [y], to=ElementType.BFLOAT16),
    ]


def _copy(size: int, threads: int) -> Callable[[], object]:
    """A call that moves `size` bytes, half of them read and half written, in several threads."""
    part = size // 2 // threads
    source, target = aligned([part * threads], np.uint8), aligned([part * threads], np.uint8)
    source[...] = 1
    free = iter(range(threads))
    can_pin = hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) >= threads

    def pin() -> None:
        if can_pin:
            os.sched_setaffinity(0, {next(free)})

    pool = ThreadPoolExecutor(threads, initializer=pin)

    def move(index: int) -> None:
        ctypes.memmove(target.ctypes.data + index * part, source.ctypes.data + index * part, part)

    return lambda: list(pool.map(move, range(threads)))


def _figures(case: Case, timings: dict[str, Timing]) -> dict[str, Any]:
    own = timings[Contestant.OWN]
    figures: dict[str, Any] = {"microseconds": own.median / case.length * 1e6}
    for name, timing in timings.items():
        if name != Contestant.OWN:
            low, middle, high = own.ratio(timing)
            figures[name] = {"ratio": middle, "quartiles": [low, high]}
    return figures


def _line(case: Case, timings: dict[str, Timing]) -> str:
    figures = _figures(case, timings)
    shape = ",".join(map(str, case.shape))
    line = f"{case.norm:3} {case.type:8} {shape:11} {'sum' if case.sum_is_read else '':3} "
    line += f"{figures['microseconds']:9.2f} us"
    for name in (Contestant.PAIR, Contestant.CONTRIB, Contestant.COPY):
        if name in figures:
            low, high = figures[name]["quartiles"]
            line += f"   {name} {figures[name]['ratio']:6.2f} ({low:.2f} to {high:.2f})"
    return line


if __name__ == "__main__":
    sys.exit(main())

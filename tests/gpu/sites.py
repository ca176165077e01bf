"""One node against what it replaces, on a provider: times, share of copy bandwidth, accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphfuse
from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.running.sessions import plain_options, session
from graphfuse.speed.bound_runs import DEVICES
from graphfuse.speed.kernel_timing import NORMS, Case, Contestant, chain
from graphfuse.speed.timing import paired
from graphfuse.system import libraries

SHAPES = ((1, 1, 4096), (8, 128, 768), (8, 512, 4096), (32, 2048, 4096))
SMALL_SHAPES = ((1, 1, 64), (2, 8, 64))
GPU_TYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class SiteRow:
    """Microseconds of one contrib node; how many times faster it is; its share of the copy."""

    norm: str
    type: str
    shape: tuple[int, ...]
    microseconds: float
    speedup: tuple[float, float, float]
    copy_share: float
    gigabytes_per_second: float


def time_site(norm: str, type_: str, shape: tuple[int, ...], provider: str) -> SiteRow | str:
    """Times of one case, sum read; a sentence when the provider runs neither."""
    case = Case(norm, type_, shape, True, 1)
    calls: dict[str, Callable[[], object]] = {}
    try:
        calls = {
            name: _caller(chain(case, name), case, provider)
            for name in (Contestant.PAIR, Contestant.CONTRIB)
        }
        calls[Contestant.COPY] = _copier(case, provider)
    except Exception as error:
        # onnxruntime raises its own classes: this provider has no such kernel in this type.
        return f"{norm} {type_} {shape}: {' '.join(str(error).split())[:160]}"
    timings = paired(calls, 0.5)
    contrib = timings[Contestant.CONTRIB]
    seconds = contrib.median / case.length
    speedup = contrib.speedup(timings[Contestant.PAIR])
    return SiteRow(
        norm,
        type_,
        shape,
        seconds * 1e6,
        (speedup.low, speedup.median, speedup.high),
        contrib.speedup(timings[Contestant.COPY]).median * case.length,
        case.bytes / seconds / 1e9,
    )


def _caller(model: onnx.ModelProto, case: Case, provider: str) -> Callable[[], object]:
    """A call that runs a chain once; its operands are on the device beforehand."""
    made = session(model, Path(), provider, optimize=False, options=plain_options())
    binding = made.io_binding()
    kept = []
    rng = np.random.default_rng(0)
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32)
        kept.append(_on_device(array, value.type.tensor_type.elem_type, provider))
        binding.bind_ortvalue_input(value.name, kept[-1])
    for value in model.graph.output:
        binding.bind_output(value.name, DEVICES.get(provider, "cpu"))

    def call() -> object:
        made.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return kept

    call()
    return call


def _copier(case: Case, provider: str) -> Callable[[], object]:
    """A call that copies as many bytes as one node moves: half of them read and half written."""
    shape = [case.bytes // 8]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "copy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return _caller(model, case, provider)


def _on_device(array: np.ndarray, elem_type: int, provider: str) -> object:
    """A tensor of any type on the provider's device; numpy has no bfloat16, so it is cast there."""
    device = DEVICES.get(provider, "cpu")
    source = libraries.onnxruntime().OrtValue.ortvalue_from_numpy(array, device, 0)
    if elem_type == TensorProto.FLOAT:
        return source
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=elem_type)],
        "cast",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, array.shape)],
        [helper.make_tensor_value_info("y", elem_type, array.shape)],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    made = session(model, Path(), provider, options=plain_options())
    binding = made.io_binding()
    binding.bind_ortvalue_input("x", source)
    binding.bind_output("y", device)
    made.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return binding.get_outputs()[0]


def judge_site(norm: str, type_: str, hidden: int, ep: str, target: str) -> list[str]:
    """G0, G1 and G3 of one site on hard inputs, on a provider: large rows, zero rows, NaN.

    `target` is whose nodes are judged, `ep` where they run. Returns what failed, and '' for a pass.
    """
    proto = site_model(norm, type_, hidden)
    fused = graphfuse.fuse(proto, ep=target)
    if not fused.changed:
        return [f"not fused: {fused.left[0].reason.value}"]
    try:
        report = graphfuse.validate(proto, fused.model, level="sites", ep=[ep])
    except graphfuse.GraphfuseError as error:
        return [str(error)]
    worst = report.worst("G1")
    if report.passed and worst is not None:
        return []
    return [f"{c.gate} {c.value:.3g} > {c.bound:.3g} ({c.where})" for c in report.failures]


def site_model(norm: str, type_: str, hidden: int) -> onnx.ModelProto:
    """A graph of one Add and its norm, whose sum is an output as well."""
    elem_type, centred = FLOATS_BY_NAME[type_], NORMS[norm] == "LayerNorm"
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.normal(mean, 0.2, hidden).astype(dtype), name)
        for name, mean in (("scale", 1.0), ("bias", 0.0))
    ]
    operator = "LayerNormalization" if centred else "RMSNormalization"
    inputs = ["x", "scale", "bias"] if centred else ["x", "scale"]
    shape = ["batch", "sequence", hidden]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["x"]),
            helper.make_node(operator, inputs, ["y"], epsilon=1e-5, axis=-1),
        ],
        "site",
        [helper.make_tensor_value_info(name, elem_type, shape) for name in "ab"],
        [helper.make_tensor_value_info(name, elem_type, shape) for name in "yx"],
        weights[: len(inputs) - 1],
    )
    opset = 17 if centred else 23
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])

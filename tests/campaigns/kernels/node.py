"""One fused node in a session of its own, in any type, at any address."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from graphfuse.kernels import register
from graphfuse.records.element_types import FLOATS_BY_NAME
from graphfuse.speed.kernel_timing import aligned

ISA = "GRAPHFUSE_KERNEL_ISA"
OPERATORS = (
    "AddLayerNormalization",
    "AddRMSNormalization",
    "AddBiasLayerNormalization",
    "AddBiasRMSNormalization",
)
Arrays = dict[str, np.ndarray]


def instruction_sets() -> list[str]:
    """Those of this processor, in the words of the library's own error."""
    with isa("none"):
        try:
            Node("AddRMSNormalization").session()
        except Exception as error:
            # The remedy follows behind a semicolon.
            return str(error).rsplit("it can be ", 1)[1].split(";")[0].split(", ")
    raise AssertionError("an instruction set that does not exist was accepted")


@contextmanager
def isa(name: str | None) -> Iterator[None]:
    """Kernels that are made inside run with this instruction set."""
    before = os.environ.pop(ISA, None)
    if name is not None:
        os.environ[ISA] = name
    try:
        yield
    finally:
        os.environ.pop(ISA, None)
        if before is not None:
            os.environ[ISA] = before


@dataclass(frozen=True)
class Node:
    """A model of one node. `outputs` are names, "" for one that the node does not yield."""

    operator: str
    type: str = "float32"
    parameters: str = ""
    outputs: Sequence[str] = ("Y", "Sum")
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[str]:
        names = ["A", "B", "Scale"]
        names += ["Bias"] if "Layer" in self.operator else []
        return names + (["AddBias"] if "AddBias" in self.operator else [])

    def elem_type(self, name: str) -> int:
        mixed = self.parameters and name in ("Scale", "Bias")
        return FLOATS_BY_NAME[self.parameters if mixed else self.type]

    def dtype(self, name: str = "A") -> np.dtype:
        return helper.tensor_dtype_to_np_dtype(self.elem_type(name))

    def model(
        self, shapes: Mapping[str, Sequence[int | str] | None] | None = None
    ) -> onnx.ModelProto:
        attributes = {"stash_type": 11} if self.type == "float64" else {}
        node = helper.make_node(
            self.operator,
            self.inputs,
            list(self.outputs),
            domain="graphfuse",
            **{**attributes, **self.attributes},
        )

        def value(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(
                name, self.elem_type(name), (shapes or {}).get(name)
            )

        graph = helper.make_graph(
            [node],
            "node",
            [value(name) for name in self.inputs],
            [value(name) for name in self.outputs if name],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("graphfuse", 1)]
        return helper.make_model(graph, ir_version=8, opset_imports=opsets)

    def session(self, threads: int = 1, kernels: bool = True) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if kernels:
            register(options)
        return ort.InferenceSession(
            self.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, feeds: Arrays, threads: int = 1, offset: int = 0, session: Any = None) -> Arrays:
        """Outputs by name; operands and results lie `offset` bytes past a multiple of 64."""
        made = session or self.session(threads)
        binding = made.io_binding()
        kept = []
        for name in self.inputs:
            array = aligned(feeds[name].shape, self.dtype(name), offset)
            array[...] = feeds[name]
            shape = list(array.shape)
            binding.bind_input(name, "cpu", 0, self.elem_type(name), shape, array.ctypes.data)
            kept.append(array)
        shape = np.broadcast_shapes(feeds["A"].shape, feeds["B"].shape)
        results = {}
        for name in filter(None, self.outputs):
            results[name] = aligned(shape, self.dtype(), offset)
            # What is not written shows.
            results[name].view(np.uint8)[...] = 0xA5
            where = results[name].ctypes.data
            binding.bind_output(name, "cpu", 0, self.elem_type(name), list(shape), where)
        made.run_with_iobinding(binding)
        return results

    def feeds(self, rng: np.random.Generator, a: Sequence[int], b: Sequence[int] = ()) -> Arrays:
        """Random operands; vectors have the shape of the normalised axes."""
        total = np.broadcast_shapes(tuple(a), tuple(b or a))
        axis = self.attributes.get("axis", -1)
        shapes = {"A": tuple(a), "B": tuple(b or a), "AddBias": total[-1:]}
        return {
            name: rng.standard_normal(shapes.get(name, total[axis:])).astype(self.dtype(name))
            for name in self.inputs
        }

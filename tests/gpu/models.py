"""BERT-base, GPT-2 and a LLaMA-shaped model as ONNX graphs with random weights, without PyTorch.

The machine with the GPU may have neither PyTorch nor transformers. The graphs are those of the
papers: post-norm encoder, pre-norm decoder, pre-norm decoder with RMSNorm and a gated unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 1024


@dataclass(frozen=True)
class Shape:
    """A model's sizes: how wide, how deep, how many heads; which norm stands where."""

    hidden: int
    layers: int
    heads: int
    inner: int
    pre_norm: bool
    rms: bool


MODELS = {
    "bert-base": Shape(768, 12, 12, 3072, pre_norm=False, rms=False),
    "gpt2": Shape(768, 12, 12, 3072, pre_norm=True, rms=False),
    "llama-shaped": Shape(1024, 12, 16, 2816, pre_norm=True, rms=True),
}
SMALL = {name: Shape(64, 2, 4, 128, shape.pre_norm, shape.rms) for name, shape in MODELS.items()}


@dataclass
class _Graph:
    shape: Shape
    elem_type: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def dtype(self) -> np.dtype:
        return helper.tensor_dtype_to_np_dtype(self.elem_type)

    def weight(self, *shape: int, mean: float = 0.0, scale: float = 0.02) -> str:
        array = (self.rng.standard_normal(shape) * scale + mean).astype(self.dtype)
        return self.constant(array)

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name, **attributes))
        return name

    def linear(self, x: str, rows: int, columns: int, bias: bool = True) -> str:
        product = self.add("MatMul", x, self.weight(rows, columns))
        return self.add("Add", self.weight(columns), product) if bias else product

    def norm(self, x: str) -> str:
        hidden = self.shape.hidden
        if not self.shape.rms:
            inputs = (x, self.weight(hidden, mean=1.0), self.weight(hidden))
            return self.add("LayerNormalization", *inputs, epsilon=1e-5)
        wide = self.add("Cast", x, to=TensorProto.FLOAT)
        square = self.add("Pow", wide, self.constant(np.float32(2)))
        axes = self.constant(np.array([-1], np.int64))
        mean = self.add("ReduceMean", square, axes, keepdims=1)
        root = self.add("Sqrt", self.add("Add", mean, self.constant(np.float32(1e-5))))
        normal = self.add("Cast", self.add("Div", wide, root), to=self.elem_type)
        return self.add("Mul", normal, self.weight(hidden, mean=1.0))

    def attention(self, x: str) -> str:
        hidden, heads = self.shape.hidden, self.shape.heads
        split = self.constant(np.array([0, 0, heads, hidden // heads], np.int64))
        parts = []
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            part = self.linear(x, hidden, hidden, not self.shape.rms)
            parts.append(self.add("Transpose", self.add("Reshape", part, split), perm=order))
        factor = self.constant(np.asarray((hidden // heads) ** -0.5, self.dtype))
        scores = self.add("Mul", self.add("MatMul", parts[0], parts[1]), factor)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), parts[2])
        joined = self.constant(np.array([0, 0, hidden], np.int64))
        rows = self.add("Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        return self.linear(rows, hidden, hidden, not self.shape.rms)

    def feed_forward(self, x: str) -> str:
        hidden, inner = self.shape.hidden, self.shape.inner
        up = self.linear(x, hidden, inner, not self.shape.rms)
        if self.shape.rms:
            gate = self.add("Mul", up, self.add("Sigmoid", up))
            up = self.add("Mul", gate, self.linear(x, hidden, inner, False))
        else:
            up = self.add("Relu", up)
        return self.linear(up, inner, hidden, not self.shape.rms)


def build(shape: Shape, elem_type: int) -> onnx.ModelProto:
    """A model that takes `input_ids` (batch, sequence) and gives `last_hidden_state`."""
    graph = _Graph(shape, elem_type)
    table = graph.weight(VOCABULARY, shape.hidden, scale=1.0)
    x = graph.add("Gather", table, "input_ids")
    if not shape.pre_norm:
        x = graph.norm(x)
    for _ in range(shape.layers):
        for part in (graph.attention, graph.feed_forward):
            if shape.pre_norm:
                x = graph.add("Add", x, part(graph.norm(x)))
            else:
                x = graph.norm(graph.add("Add", x, part(x)))
    if shape.pre_norm:
        x = graph.norm(x)
    graph.nodes[-1].output[0] = "last_hidden_state"
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    output = helper.make_tensor_value_info(
        "last_hidden_state", elem_type, ["batch", "sequence", shape.hidden]
    )
    made = helper.make_graph(graph.nodes, "model", [ids], [output], graph.weights)
    return helper.make_model(made, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])

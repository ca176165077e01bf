"""Graphs of any size for the growth benchmark: decoders as exporters write them, and a chain.

Weights are tiny, so that only the graph counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, INNER, VOCABULARY = 8, 2, 16, 32

STYLES = ("shared", "computed")
"""shared: constants are initializers that every layer reads, shapes are constants (opset 18).
computed: every constant is a node of its own and shapes are computed from Shape (opset 13)."""

OPSETS = {"shared": 18, "computed": 13}


class Builder:
    """Collects nodes and weights; constants are shared initializers or nodes, by style."""

    def __init__(self, style: str) -> None:
        self.computed = style == "computed"
        self.opset = OPSETS[style]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def op(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """A node of one output."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        """A float32 weight of ones."""
        self.weights[name] = numpy_helper.from_array(np.ones(shape, np.float32), name)
        return name

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.float32) -> str:
        """A constant: a node of its own, or the one initializer that has the value."""
        array = np.asarray(value, dtype)
        if self.computed:
            return self.op("Constant", [], name, value=numpy_helper.from_array(array))
        shared = f"constant.{dtype.__name__}.{array.tolist()}"
        self.weights[shared] = numpy_helper.from_array(array, shared)
        return shared

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        """x @ W."""
        return self.op("MatMul", [x, self.weight(f"{name}.weight", rows, columns)], name)

    def mean(self, x: str, name: str) -> str:
        """The mean over the last axis, which is an attribute below opset 18."""
        if self.opset < 18:
            return self.op("ReduceMean", [x], name, axes=[-1], keepdims=1)
        axes = self.constant(f"{name}.axes", [-1], np.int64)
        return self.op("ReduceMean", [x, axes], name, keepdims=1)

    def root(self, square: str, name: str) -> str:
        """sqrt(mean(square) + epsilon)."""
        mean = self.mean(square, f"{name}.variance")
        epsilon = self.constant(f"{name}.epsilon", 1e-5)
        return self.op("Sqrt", [self.op("Add", [mean, epsilon], f"{name}.add")], f"{name}.root")

    def rms_norm(self, x: str, name: str) -> str:
        """RMSNorm in primitives."""
        square = self.op("Pow", [x, self.constant(f"{name}.two", 2.0)], f"{name}.square")
        inverse = self.op("Reciprocal", [self.root(square, name)], f"{name}.inverse")
        normal = self.op("Mul", [x, inverse], f"{name}.normal")
        return self.op("Mul", [self.weight(f"{name}.weight", HIDDEN), normal], name)

    def layer_norm(self, x: str, name: str) -> str:
        """LayerNorm in primitives."""
        deviation = self.op("Sub", [x, self.mean(x, f"{name}.mean")], f"{name}.deviation")
        square = self.op("Pow", [deviation, self.constant(f"{name}.two", 2.0)], f"{name}.square")
        normal = self.op("Div", [deviation, self.root(square, name)], f"{name}.normal")
        scaled = self.op("Mul", [normal, self.weight(f"{name}.weight", HIDDEN)], f"{name}.scaled")
        return self.op("Add", [scaled, self.weight(f"{name}.bias", HIDDEN)], name)

    def extent(self, x: str, axis: int, name: str) -> str:
        """One extent of x as a vector of one, in the nodes that TorchScript writes."""
        shape = self.op("Shape", [x], f"{name}.shape")
        index = self.constant(f"{name}.index", axis, np.int64)
        extent = self.op("Gather", [shape, index], f"{name}.extent", axis=0)
        axes = self.constant(f"{name}.axes", [0], np.int64)
        return self.op("Unsqueeze", [extent, axes], f"{name}.vector")

    def reshape(self, x: str, like: str, name: str, tail: Sequence[int]) -> str:
        """x reshaped to (batch, sequence, *tail); the first two extents are those of `like`."""
        if not self.computed:
            target = self.constant(f"{name}.target", [0, 0, *tail], np.int64)
            return self.op("Reshape", [x, target], name)
        parts = [self.extent(like, axis, f"{name}.{axis}") for axis in (0, 1)]
        parts += [self.constant(f"{name}.tail.{i}", [n], np.int64) for i, n in enumerate(tail)]
        return self.op("Reshape", [x, self.op("Concat", parts, f"{name}.target", axis=0)], name)

    def attention(self, h: str, name: str) -> str:
        """Attention of all heads at once."""
        parts: list[str] = []
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            x = self.linear(h, f"{name}.{part}", HIDDEN, HIDDEN)
            x = self.reshape(x, h, f"{name}.{part}.heads", (HEADS, HIDDEN // HEADS))
            parts.append(self.op("Transpose", [x], f"{name}.{part}.turned", perm=order))
        q, k, v = parts
        scale = self.constant(f"{name}.factor", 0.5)
        scores = self.op("Mul", [self.op("MatMul", [q, k], f"{name}.qk"), scale], f"{name}.scores")
        weights = self.op("Softmax", [scores], f"{name}.softmax", axis=-1)
        context = self.op("MatMul", [weights, v], f"{name}.context")
        context = self.op("Transpose", [context], f"{name}.turned", perm=[0, 2, 1, 3])
        context = self.reshape(context, h, f"{name}.joined", (HIDDEN,))
        return self.linear(context, f"{name}.o", HIDDEN, HIDDEN)

    def feed_forward(self, h: str, name: str) -> str:
        """A gated pair of linear layers."""
        gate = self.linear(h, f"{name}.gate", HIDDEN, INNER)
        gate = self.op("Mul", [gate, self.op("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
        up = self.op("Mul", [gate, self.linear(h, f"{name}.up", HIDDEN, INNER)], f"{name}.product")
        return self.linear(up, f"{name}.down", INNER, HIDDEN)

    def model(self, inputs: Sequence[onnx.ValueInfoProto], output: str) -> onnx.ModelProto:
        """The graph that ends in `output`, of as many axes as its readers expect."""
        graph = helper.make_graph(
            self.nodes,
            "growing",
            inputs,
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            list(self.weights.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def decoder(layers: int, style: str = "shared") -> onnx.ModelProto:
    """A pre-norm decoder: RMSNorms in even layers, LayerNorms in odd ones; two sites a layer.

    The first norm reads the embedding; the last site's norm is the one behind the last layer.
    """
    b = Builder(style)
    x = b.op("Gather", [b.weight("embedding", VOCABULARY, HIDDEN), "ids"], "embedded")
    for layer in range(layers):
        norm = b.layer_norm if layer % 2 else b.rms_norm
        name = f"layers.{layer}"
        attended = b.attention(norm(x, f"{name}.norm1"), f"{name}.attention")
        x = b.op("Add", [x, attended], f"{name}.sum1")
        fed = b.feed_forward(norm(x, f"{name}.norm2"), f"{name}.feed")
        x = b.op("Add", [x, fed], f"{name}.sum2")
    logits = b.linear(b.rms_norm(x, "norm"), "logits", HIDDEN, VOCABULARY)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])
    return b.model([ids], logits)


def chain(layers: int) -> onnx.ModelProto:
    """One post-norm site a layer and little else: each sum is of the norm before it."""
    b = Builder("shared")
    x = "x"
    for layer in range(layers):
        h = b.linear(x, f"layers.{layer}.linear", HIDDEN, HIDDEN)
        x = b.op("Add", [x, h], f"layers.{layer}.sum")
        x = b.layer_norm(x, f"layers.{layer}.norm")
    shape = ["batch", "sequence", HIDDEN]
    return b.model([helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], x)


def layers_of(nodes: int, style: str) -> int:
    """The number of layers that makes a decoder of about so many nodes."""
    one, two = (len(decoder(layers, style).graph.node) for layers in (2, 4))
    return max(1, round((nodes - (2 * one - two)) * 2 / (two - one)))

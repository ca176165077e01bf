"""Models that show a reason, and what its advice makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper

from tests.support.graphs import (
    DECOMPOSED_RMS_NORM,
    model,
    needs_opset,
    residual,
)

Proto = onnx.ModelProto

LN = "y = LayerNormalization(x, scale, bias)"
RMS = DECOMPOSED_RMS_NORM
ONES = {"ones": np.ones(8, np.float32)}
HALF = {
    "inputs": "float16[B,S,8] a, float16[B,S,8] b",
    "outputs": "float16[B,S,8] y",
    "constants": {"scale": np.ones(8, np.float16), "bias": np.zeros(8, np.float16)},
}
DOUBLE = {
    "inputs": "double[B,S,8] a, double[B,S,8] b",
    "outputs": "double[B,S,8] y",
    "constants": {"scale": np.ones(8), "bias": np.zeros(8), "eps": np.array(1e-5)},
}
CUSTOM = {"extra_imports": ', "custom" : 1'}
PARTS = {"zero": np.array([0]), "one": np.array([1]), "at": np.array(0)}
SHORT = {
    "inputs": "float[2,3,8] a, float[2,3,8] b",
    "outputs": "float[N,3,8] y",
    "constants": PARTS,
}


@dataclass(frozen=True)
class Case:
    """A refused model, the advised one, options of `graphfuse.fuse` for each; `same` numbers."""

    before: Callable[[], Proto]
    after: Callable[[Proto], Proto]
    same: bool = False
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    advised: Mapping[str, Any] | None = None
    runs: bool = True
    fused: int = 1

    @property
    def then(self) -> Mapping[str, Any]:
        """The options with which the advised model is fused."""
        return self.options if self.advised is None else self.advised


def texts(before: str, after: str, same: bool = False, **options: Any) -> Case:
    """Two spellings of what follows x = a + b."""
    return Case(
        lambda: residual(before, **options), lambda _: residual(after, **options), same=same
    )


def heads(before: str, after: str, same: bool = False, norm: str = LN, **options: Any) -> Case:
    """Two spellings of what gives x."""
    return Case(
        lambda: model(before + norm, **options),
        lambda _: model(after + norm, **options),
        same=same,
    )


def chosen(proto: Callable[[], Proto], options: dict[str, Any], advised: dict[str, Any]) -> Case:
    """The same model, planned otherwise."""
    return Case(proto, lambda given: given, options=options, advised=advised)


def called(graph: str, function: str, outputs: str = "float[B,S,8] y") -> Callable[[], Proto]:
    """A model with a function of the domain `my`."""

    def make() -> Proto:
        proto = onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
            g (float[B,S,8] a, float[B,S,8] b) => ({outputs}) {{ {graph} }}
            <domain: "my", opset_import: ["" : 17]> {function}"""
        )
        for number, name in enumerate(("scale", "bias")):
            values = np.linspace(number, 1, 8).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return proto

    return make


def inlined(proto: Proto) -> Proto:
    """The tool that the advice names."""
    return onnx.inliner.inline_local_functions(proto)


def custom(body: str, **options: Any) -> Callable[[], Proto]:
    """A model with an operator Foo that ONNX does not know."""

    def make() -> Proto:
        proto = model(body, **{**CUSTOM, **options})
        for node in proto.graph.node:
            node.domain = "custom" if node.op_type == "Foo" else node.domain
        return proto

    return make


def told(name: str, elem_type: int = TensorProto.FLOAT) -> Callable[[Proto], Proto]:
    """Say in value_info what a tensor is."""

    def edit(proto: Proto) -> Proto:
        value = helper.make_tensor_value_info(name, elem_type, ["B", "S", 8])
        proto.graph.value_info.append(value)
        return proto

    return edit


def in_branch(outside: str, inside: str) -> Proto:
    """An If whose first branch has the norm."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[B,S,8] a, float[B,S,8] b, bool c) => (float[B,S,8] z) {{
            {outside}
            z = If (c) <
              then_branch = t () => (float[B,S,8] y) {{ {inside} {LN} }},
              else_branch = e () => (float[B,S,8] w) {{ w = Neg(a) }}>
        }}"""
    )
    for name in ("scale", "bias"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(ONES["ones"], name))
    return proto


def overridden(proto: Proto) -> Proto:
    proto.graph.input.append(helper.make_tensor_value_info("eps", TensorProto.FLOAT, []))
    return proto


def without_input(name: str) -> Callable[[Proto], Proto]:
    def edit(proto: Proto) -> Proto:
        kept = [value for value in proto.graph.input if value.name != name]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        return proto

    return edit


def two_types(opset: int) -> Proto:
    """Two RMSNorms, one of float16 in float32."""
    if opset > 20:
        needs_opset(opset)
    mean = "ReduceMean<axes=[-1]>({})" if opset < 18 else "ReduceMean({}, last)"
    norm = RMS.replace("ReduceMean<axes=[-1], keepdims=1>(q)", mean.format("q"))
    return model(
        f"""x = Add(a, b) {norm}
        t = Add(c, d) w = Cast<to=1>(t) p = Mul(w, w) u = {mean.format("p")}
        f = Add(u, eps) g = Sqrt(f) h = Div(w, g) i = Cast<to=10>(h) z = Mul(i, half)""",
        inputs="float[B,8] a, float[B,8] b, float16[B,8] c, float16[B,8] d",
        outputs="float[B,8] y, float16[B,8] z",
        opset=opset,
        ir=10 if opset > 20 else 8,
        constants={"half": np.ones(8, np.float16), "last": np.array([-1])},
    )


def named_like_ours(name: str = "AddLayerNormalization") -> Proto:
    proto = residual(LN + " z = other.fn(y)", outputs="float[B,S,8] z")
    node = proto.graph.node[-1]
    node.domain, node.op_type = "graphfuse", name
    neg = helper.make_node("Neg", ["i"], ["o"])
    imports = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("graphfuse", name, ["i"], ["o"], [neg], imports))
    proto.opset_import.append(helper.make_opsetid("graphfuse", 1))
    return proto


def renamed(proto: Proto) -> Proto:
    proto.functions[0].name = proto.graph.node[-1].op_type = "Other"
    return proto


STATISTIC = RMS.replace("Add(v, eps)", "Max(v, eps)")
NO_SCALE = RMS.replace("y = Mul(n, scale)", "y = Identity(n)")
COMPUTED = "g = ReduceMean<axes=[0, 1], keepdims=0>({}) y = LayerNormalization(x, g, bias)"
BEHIND = """g = ReduceMean<axes=[0, 1], keepdims=0>({}) n = LayerNormalization(x, ones)
            m = Mul(n, g) y = Add(m, bias)"""
SLICE = "Slice({}, zero, one, zero)"
ROWS = {
    "inputs": "float[2,3,4,8] a, float[2,3,4,8] b",
    "outputs": "float[6,4,8] y",
    "constants": {"k": np.array([6, 4, 8]), "s": np.ones((4, 8), np.float32)},
}
KERAS = {
    "inputs": "float[2,7,8] a, float[2,7,8] b",
    "outputs": "float[2,7,8] y",
    "constants": {
        "k": np.array([1, 14, 8, 1]),
        "back": np.array([2, 7, 8]),
        "one": np.ones(14, np.float32),
        "none": np.zeros(14, np.float32),
    },
}
MORE = "more (x, scale, bias) => (y) { n = LayerNormalization(x, scale, bias) y = Relu(n) }"
SHAPELESS = {"inputs": "float[] a, float[] b", "outputs": "float[] y"}
SYMBOLIC = {"inputs": "float[B,S,H] a, float[B,S,H] b", "outputs": "float[B,S,H] y"}
FLOAT16_IN_FLOAT32 = residual(
    """c = Cast<to=1>(x) q = Mul(c, c) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e)
       n = Div(c, r) h = Cast<to=10>(n) y = Mul(h, scale)""",
    **{**HALF, "constants": {"scale": np.ones(8, np.float16)}},
)

NESTED = " ".join(
    f"e{n} = Add({f'r{n}' if n else 'r'}, eps) r{n + 1} = Sqrt(e{n})" for n in range(4)
)
MANY = " ".join(f"t{n + 1} = Add({f't{n}' if n else 't'}, c{n})" for n in range(40))


def skip(**options: Any) -> Proto:
    """onnxruntime's fused node."""
    proto = model(
        "y = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(a, b, scale, bias)",
        extra_imports=', "com.microsoft" : 1',
        **options,
    )
    proto.graph.node[0].domain = "com.microsoft"
    return proto

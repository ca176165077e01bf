"""Models that are refused for a reason, and the same after what the reason advises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper

from graphfuse.reasons import Reason
from tests.graphs import (
    DECOMPOSED_LAYER_NORM,
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


CASES: dict[tuple[Reason, str], Case] = {
    (Reason.EPSILON_OUTSIDE_ROOT, ""): texts(
        RMS.replace("e = Add(v, eps)", "").replace("r = Sqrt(e)", "t = Sqrt(v) r = Add(t, eps)"),
        RMS,
    ),
    (Reason.EPSILON_NOT_CONSTANT, "an input"): Case(
        lambda: residual(RMS, inputs="float[B,S,8] a, float[B,S,8] b, float[1] eps"),
        lambda _: residual(RMS),
    ),
    (Reason.EPSILON_NOT_CONSTANT, "overridden"): Case(
        lambda: overridden(residual(RMS)), without_input("eps"), same=True
    ),
    (Reason.EPSILON_NOT_CONSTANT, "of calls"): Case(
        called(
            """eps = Constant<value = float {1e-5}>() more = Constant<value = float {0.25}>()
            h = my.block(a, b, scale, eps) y = my.block(h, b, scale, more)""",
            f"block (p, t, scale, eps) => (y) {{ x = Add(p, t) {RMS} }}",
        ),
        inlined,
        same=True,
        fused=2,
    ),
    (Reason.EPSILON_NOT_POSITIVE, "none"): texts(RMS.replace("Add(v, eps)", "Identity(v)"), RMS),
    (Reason.EPSILON_NOT_POSITIVE, "zero"): texts(
        "y = LayerNormalization<epsilon=0.0>(x, scale)", LN
    ),
    (Reason.EPSILON_PRECISION, "float64"): Case(
        lambda: residual(RMS, **DOUBLE),
        lambda _: residual(
            RMS,
            **{**DOUBLE, "constants": {**DOUBLE["constants"], "eps": np.array(2.0**-17)}},
        ),
    ),
    (Reason.EXPONENT, "no root"): texts(RMS.replace("Sqrt(e)", "Identity(e)"), RMS),
    (Reason.EXPONENT, "fourth root"): texts(
        RMS.replace("Sqrt(e)", "Pow(e, quarter)"),
        RMS,
        constants={"quarter": np.array(0.25, np.float32)},
    ),
    (Reason.NOT_THE_DEFINITION, ""): texts(
        DECOMPOSED_LAYER_NORM.replace("d = Sub(x, m)", "mh = Mul(m, half) d = Sub(x, mh)"),
        DECOMPOSED_LAYER_NORM,
        constants={"half": np.array(0.5, np.float32)},
    ),
    (Reason.STATISTIC_CLAMPED, "an epsilon in its place"): texts(STATISTIC, RMS),
    (Reason.STATISTIC_CLAMPED, "no more than the epsilon"): texts(
        RMS.replace("e = Add(v, eps)", "k = Max(v, eps) e = Add(k, eps)"),
        RMS.replace("e = Add(v, eps)", "k = Add(v, eps) e = Max(k, eps)"),
    ),
    (Reason.BATCH_STATISTICS, ""): texts(
        """r = Reshape(x, k)
        n, m, v = BatchNormalization<training_mode = 1>(r, one, none, none, one)
        f = Reshape(n, back) p = Mul(f, scale) y = Add(p, bias)""",
        LN,
        **KERAS,
    ),
    (Reason.OTHER_AXES, "another"): texts(
        NO_SCALE.replace("axes=[-1]", "axes=[1]"),
        NO_SCALE,
        inputs="float[B,8,8] a, float[B,8,8] b",
        outputs="float[B,8,8] y",
    ),
    (Reason.OTHER_AXES, "several, of a target"): chosen(
        lambda: residual(
            NO_SCALE.replace("axes=[-1]", "axes=[-2, -1]"),
            inputs="float[B,4,8] a, float[B,4,8] b",
            outputs="float[B,4,8] y",
        ),
        {"ep": "cuda"},
        {"ep": "portable"},
    ),
    (Reason.AXIS_NOT_PUT_BACK, ""): texts(
        RMS.replace("keepdims=1", "keepdims=0"),
        RMS,
        inputs="float[8,8] a, float[8,8] b",
        outputs="float[8,8] y",
    ),
    (Reason.PARAMETER_VARIES, "scale"): texts(
        "y = LayerNormalization(x, scale)",
        "n = LayerNormalization(x, ones) y = Mul(n, scale)",
        same=True,
        inputs="float[B,3,8] a, float[B,3,8] b",
        outputs="float[B,3,8] y",
        constants={**ONES, "scale": np.linspace(1, 2, 24).reshape(3, 8).astype(np.float32)},
    ),
    (Reason.PARAMETER_ENLARGES, ""): Case(
        lambda: residual(
            "y = LayerNormalization(x, scale)",
            constants={"scale": np.ones((1, 1, 1, 8), np.float32)},
        ),
        lambda _: residual("y = LayerNormalization(x, scale)"),
    ),
    (Reason.PARAMETER_TYPE, "a wider one"): Case(
        lambda: residual(
            "c = Cast<to=11>(x) n = LayerNormalization(c, wide, wide) y = Cast<to=1>(n)",
            constants={"wide": np.full(8, 0.1)},
        ),
        lambda _: residual(
            "c = Cast<to=11>(x) w = Cast<to=11>(scale) n = LayerNormalization(c, w, w) y = Cast<to=1>(n)",
            constants={"scale": np.full(8, 0.1, np.float32)},
        ),
    ),
    (Reason.PARAMETER_TYPE, "of a target"): Case(
        lambda: residual(
            "c = Cast<to=1>(x) n = LayerNormalization(c, scale, bias) y = Cast<to=10>(n)",
            inputs="float16[B,S,8] a, float16[B,S,8] b",
            outputs="float16[B,S,8] y",
        ),
        lambda _: residual(LN, **HALF),
        options={"ep": "cuda", "runtime": "1.32"},
    ),
    (Reason.PARAMETER_COMPUTED, ""): texts(
        COMPUTED.format("a"), BEHIND.format("a"), same=True, constants=ONES
    ),
    (Reason.PARAMETER_OF_SUM, ""): texts(
        COMPUTED.format("x"), BEHIND.format("x"), same=True, constants=ONES
    ),
    (Reason.FUNCTION_ATTRIBUTE, ""): Case(
        called(
            "y = my.block<e = 0.25>(a, b, scale, bias)",
            """block <e> (p, q, scale, bias) => (y)
            { x = Add(p, q) y = LayerNormalization<epsilon: float = @e>(x, scale, bias) }""",
        ),
        inlined,
        same=True,
    ),
    (Reason.NORM_IN_FUNCTION, ""): Case(
        called("x = Add(a, b) y = my.more(x, scale, bias)", MORE), inlined, same=True
    ),
    (Reason.TOO_COMPLEX, "nested roots"): texts(
        f"q = Mul(x, x) r = ReduceMean<axes=[-1]>(q) {NESTED} y = Div(x, r4)", NO_SCALE
    ),
    (Reason.TOO_COMPLEX, "many terms"): texts(
        f"q = Mul(x, x) t = ReduceMean<axes=[-1]>(q) {MANY} r = Sqrt(t40) y = Div(x, r)",
        NO_SCALE,
        constants={f"c{n}": np.ones(8, np.float32) for n in range(40)},
    ),
    (Reason.PRECISION_LOST, ""): texts(
        RMS.replace("n = Div(x, r)", "h = Cast<to=10>(r) w = Cast<to=1>(h) n = Div(x, w)"), RMS
    ),
    (Reason.OUTPUT_TYPE, ""): Case(
        lambda: residual(
            "c = Cast<to=1>(x) y = LayerNormalization(c, scale, bias)",
            inputs="float16[B,S,8] a, float16[B,S,8] b",
        ),
        lambda _: residual(
            "c = Cast<to=1>(x) n = LayerNormalization(c, scale, bias) y = Cast<to=10>(n)",
            inputs="float16[B,S,8] a, float16[B,S,8] b",
            outputs="float16[B,S,8] y",
        ),
    ),
    (Reason.ELEMENT_TYPE, "another target"): chosen(
        lambda: residual(LN, **DOUBLE), {"ep": "cuda"}, {"ep": "cpu"}
    ),
    (Reason.ELEMENT_TYPE, "converted"): Case(
        lambda: residual(LN, **DOUBLE), lambda _: residual(LN), options={"ep": "cuda"}
    ),
    (Reason.UNKNOWN_SHAPE, "of inputs"): Case(
        lambda: residual(RMS, **SHAPELESS), lambda _: residual(RMS)
    ),
    (Reason.UNKNOWN_SHAPE, "a symbol"): Case(
        lambda: residual(LN, **SYMBOLIC), lambda _: residual(LN)
    ),
    (Reason.UNKNOWN_SHAPE, "what an operator gives"): Case(
        custom("f = custom.Foo(a) x = Add(f, b) " + LN), told("f"), runs=False
    ),
    (Reason.UNKNOWN_SHAPE, "the sum"): Case(
        custom("f = custom.Foo(a) x = Add(f, b) " + LN), told("x"), runs=False
    ),
    (Reason.UNKNOWN_SHAPE, "CastLike of the sum"): Case(
        custom("f = custom.Foo(a) x = Add(a, b) c = CastLike(x, f) " + LN.replace("(x", "(c")),
        told("f"),
        runs=False,
    ),
    (Reason.UNKNOWN_SHAPE, "CastLike in the norm"): Case(
        custom(
            "f = custom.Foo(a) x = Add(a, b) "
            + RMS.replace("n = Div(x, r)", "h = CastLike(r, f) n = Div(x, h)")
        ),
        told("f"),
        runs=False,
    ),
    (Reason.UNKNOWN_SHAPE, "in a function"): Case(
        called(
            "h = my.block(a, b, scale, bias) s = Relu(h) y = my.block(h, b, s, bias)",
            f"block (p, q, scale, bias) => (y) {{ x = Add(p, q) {LN} }}",
        ),
        inlined,
        runs=False,
    ),
    (Reason.UNKNOWN_SHAPE, "of a fused node"): Case(
        lambda: skip(**SHAPELESS), lambda _: skip(), options={"ep": "cpu"}
    ),
    (Reason.SUM_RESHAPED, "rows as they were"): texts(
        "r = Reshape(x, k) y = LayerNormalization<axis=-2>(r, s, s)",
        "n = LayerNormalization<axis=-2>(x, s, s) y = Reshape(n, k)",
        same=True,
        **ROWS,
    ),
    (Reason.SUM_RESHAPED, "another norm"): Case(
        lambda: residual(
            "t = Transpose<perm=[0, 2, 1]>(x) y = LayerNormalization(t, s3, s3)",
            inputs="float[2,3,8] a, float[2,3,8] b",
            outputs="float[2,8,3] y",
            constants={"s3": np.ones(3, np.float32)},
        ),
        lambda _: residual(
            "n = LayerNormalization(x, scale, bias) y = Transpose<perm=[0, 2, 1]>(n)",
            inputs="float[2,3,8] a, float[2,3,8] b",
            outputs="float[2,8,3] y",
        ),
    ),
    (Reason.SUM_NARROWED, ""): Case(
        lambda: residual(
            "h = Cast<to=10>(x) n = LayerNormalization(h, s, s) y = Cast<to=1>(n)",
            constants={"s": np.ones(8, np.float16)},
        ),
        lambda _: model(
            """h = Cast<to=10>(a) k = Cast<to=10>(b) x = Add(h, k)
            n = LayerNormalization(x, s, s) y = Cast<to=1>(n)""",
            constants={"s": np.ones(8, np.float16)},
        ),
    ),
    (Reason.SUM_SLICED, ""): heads(
        f"s = Add(a, b) x = {SLICE.format('s')} ",
        f"p = {SLICE.format('a')} q = {SLICE.format('b')} x = Add(p, q) ",
        same=True,
        **SHORT,
    ),
    (Reason.SUM_IN_SEQUENCE, ""): heads(
        "s = Add(a, b) q = SequenceConstruct(s, a) x = SequenceAt(q, at) ",
        "x = Add(a, b) ",
        same=True,
        **SHORT,
    ),
    (Reason.SUM_IN_OTHER_SCOPE, "a function"): Case(
        called(
            "x = my.sum(a, b) y = LayerNormalization(x, scale, bias)",
            "sum (a, b) => (x) { x = Add(a, b) }",
        ),
        inlined,
        same=True,
    ),
    (Reason.SUM_IN_OTHER_SCOPE, "a branch"): Case(
        lambda: in_branch("x = Add(a, b)", ""), lambda _: in_branch("", "x = Add(a, b)")
    ),
    (Reason.SUM_OF_MANY, ""): heads("x = Sum(a, b, a) ", "s = Sum(a, b) x = Add(s, a) ", same=True),
    (Reason.INTEGER_SUM, ""): heads(
        "i = Cast<to=7>(a) j = Cast<to=7>(b) k = Add(i, j) x = Cast<to=1>(k) ",
        "i = Cast<to=7>(a) j = Cast<to=7>(b) k = Cast<to=1>(i) l = Cast<to=1>(j) x = Add(k, l) ",
        same=True,
    ),
    (Reason.STATISTICS_READ, "dropped"): Case(
        lambda: residual(
            "y, m = LayerNormalization(x, scale, bias)",
            outputs="float[B,S,8] y, float[B,S,1] m",
        ),
        lambda _: residual(LN),
    ),
    (Reason.STATISTICS_READ, "of a function"): Case(
        called(
            "x = Add(a, b) y, z = my.more(x, scale, bias)",
            "more (x, scale, bias) => (n, r) { n = LayerNormalization(x, scale, bias) r = Relu(x) }",
            "float[B,S,8] y, float[B,S,8] z",
        ),
        inlined,
        same=True,
    ),
    (Reason.TARGET_RANK, ""): chosen(
        lambda: residual(LN, inputs="float[8] a, float[8] b", outputs="float[8] y"),
        {"ep": "cuda"},
        {"ep": "portable"},
    ),
    (Reason.TARGET_BROADCAST, "another target"): chosen(
        lambda: residual(LN, inputs="float[B,S,8] a, float[B,1,8] b"), {"ep": "cuda"}, {"ep": "cpu"}
    ),
    (Reason.TARGET_BROADCAST, "known shapes"): Case(
        lambda: residual(LN, inputs="float[B,S,8] a, float[B,T,8] b"),
        lambda _: residual(LN),
        options={"ep": "cuda"},
    ),
    (Reason.RUNTIME_FAULT, "another version"): chosen(
        lambda: residual(LN, **HALF),
        {"ep": "cuda", "runtime": "1.26"},
        {"ep": "cuda", "runtime": "1.27"},
    ),
    (Reason.RUNTIME_FAULT, "portable"): chosen(
        lambda: residual(LN, **HALF),
        {"ep": "cuda", "runtime": "1.26"},
        {"ep": "portable", "runtime": "1.26"},
    ),
    (Reason.RUNTIME_PRECISION, ""): chosen(
        lambda: FLOAT16_IN_FLOAT32, {"ep": "directml"}, {"ep": "portable"}
    ),
    (Reason.OPSET, ""): Case(
        lambda: residual(RMS.replace("axes=[-1]", "axes=[2]"), opset=6, ir=3),
        lambda _: residual(RMS.replace("axes=[-1]", "axes=[2]")),
    ),
    (Reason.MIXED_TYPES, ""): Case(lambda: two_types(13), lambda _: two_types(23), fused=2),
    (Reason.NAME_TAKEN, "renamed"): Case(named_like_ours, renamed, same=True),
    (Reason.NAME_TAKEN, "before it is added"): Case(named_like_ours, lambda _: residual(LN)),
    (Reason.EXCLUDED, ""): chosen(lambda: residual(LN), {"exclude": ["s1"]}, {"include": ["s1"]}),
}

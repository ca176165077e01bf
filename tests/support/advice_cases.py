"""Models that are refused for a reason, and the same after what the reason advises."""

from __future__ import annotations

import numpy as np

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.advice_models import (
    BEHIND,
    COMPUTED,
    DOUBLE,
    FLOAT16_IN_FLOAT32,
    HALF,
    KERAS,
    LN,
    MANY,
    MORE,
    NESTED,
    NO_SCALE,
    ONES,
    RMS,
    ROWS,
    SHAPELESS,
    SHORT,
    SLICE,
    STATISTIC,
    SYMBOLIC,
    Case,
    called,
    chosen,
    custom,
    heads,
    in_branch,
    inlined,
    named_like_ours,
    overridden,
    renamed,
    skip,
    texts,
    told,
    two_types,
    without_input,
)
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    model,
    residual,
)

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
    (Reason.EXCLUDED, ""): chosen(
        lambda: residual(LN),
        {"selection": graphfuse.Selection(exclude="s1")},
        {"selection": graphfuse.Selection(include="s1")},
    ),
}

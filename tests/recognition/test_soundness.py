"""Graphs that once were fused wrongly, or broke a stage. Each is compared with onnx.reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import graphfuse
from tests.graph.test_scopes import scoped
from tests.support.graphs import assert_passes, feeds, kinds, model, residual

TAIL = "e = Add(v,eps) r = Sqrt(e) n = Div(x,r) y = Mul(n,scale)"
AX = {"ax": np.array([-1]), "n8": np.array(8, np.float32), "two": np.array([2])}
CUBE = {
    "inputs": "float[8,8,8] a, float[8,8,8] b",
    "outputs": "float[8,8,8] y",
}
STATIC = {"inputs": "float[8,4,8] a, float[8,4,8] b", "outputs": "float[8,4,8] y"}
DROPPED = "q = Mul(x,x) v0 = ReduceMean<axes=[-1],keepdims=0>(q) "

WRONG = {
    "a sum of a statistic": (
        "q = Mul(x,x) v0 = ReduceMean<axes=[-1]>(q) v1 = ReduceSum(v0, ax) v = Div(v1, n8)" + TAIL,
        {},
    ),
    "a length of a statistic": (
        """q = Mul(x,x) v0 = ReduceMean<axes=[-1]>(q) v1 = ReduceL2<axes=[-1]>(v0)
           v = Div(v1, n8)"""
        + TAIL,
        {"constants": {"n8": np.sqrt(8).astype(np.float32)}},
    ),
    "Expand that aligns from the right": (
        DROPPED + "v = Expand(v0, t)" + TAIL,
        {**CUBE, "constants": {"t": np.array([8, 8, 1])}},
    ),
    "a number with axes": (
        DROPPED
        + """e = Add(v0, eps3) u = Unsqueeze(e, two) r = Sqrt(u) n = Div(x,r) y = Mul(n,scale)""",
        {
            "inputs": "float[8,8,8] a, float[8,8,8] b",
            "outputs": "float[A,B,C,D] y",
            "constants": {"eps3": np.full((1, 1, 1), 1e-5, np.float32)},
        },
    ),
    "an extent through uint8 and bool": (
        """s = Shape(x) g0 = Cast<to=9>(s) g1 = Cast<to=7>(g0) g = Gather(g1, last)
           n1 = Cast<to=1>(g) q = Mul(x,x) v0 = ReduceSum(q, ax) v = Div(v0, n1)"""
        + TAIL,
        {**STATIC, "constants": {"last": np.array(-1)}},
    ),
    "an extent out of a matrix": (
        """h = Gather(c2, i1) k = Gather(h, i0) n1 = Cast<to=1>(k)
           q = Mul(x,x) v0 = ReduceSum(q, ax) v = Div(v0, n1)"""
        + TAIL,
        {
            **STATIC,
            "constants": {
                "c2": np.array([[2, 8], [4, 8]]),
                "i1": np.array(1),
                "i0": np.array(0),
            },
        },
    ),
    "a root on the variance": (
        """l = ReduceL2<axes=[-1]>(x) q = Mul(x,x) v0 = ReduceMean<axes=[-1]>(q) s = Sqrt(v0)
           p = Mul(l,s) v = Div(p,n8)"""
        + TAIL,
        {"constants": {"n8": np.sqrt(8).astype(np.float32)}},
    ),
    "a statistic as the bias of a LayerNormalization": (
        """m0 = ReduceMean<axes=[-1],keepdims=0>(x) m = ReduceMean<axes=[-1]>(x)
           y0 = LayerNormalization(x,scale,m0) y = Sub(y0,m)""",
        {"inputs": "float[8,8] a, float[8,8] b", "outputs": "float[8,8] y"},
    ),
    "axes through a boolean": (
        """ab = Cast<to=9>(ax) ai = Cast<to=7>(ab) q = Mul(x,x) v = ReduceMean(q,ai)""" + TAIL,
        {**CUBE, "opset": 18, "ir": 8, "constants": {"ax": np.array([2])}},
    ),
    "an extent that wraps": (
        """ci = Cast<to=6>(c) g = Gather(ci,i0) nf = Cast<to=1>(g) q = Mul(x,x)
           v0 = ReduceSum<axes=[-1]>(q) v = Div(v0,nf)"""
        + TAIL,
        {
            "inputs": "float[2,3,8] a, float[2,3,8] b",
            "outputs": "float[2,3,8] y",
            "opset": 12,
            "constants": {"c": np.array([2**32 + 8, 4]), "i0": np.array(0)},
        },
    ),
    "a number that enlarges a statistic": (
        DROPPED
        + """ex = Expand(eps,t) e0 = Add(v0,ex) e = Unsqueeze(e0,two) r = Sqrt(e) n = Div(x,r)
             y = Mul(n,scale)""",
        {
            "inputs": "float[4,1,8] a, float[4,1,8] b",
            "outputs": "float[P,Q,R] y",
            "constants": {"t": np.array([8])},
        },
    ),
    "an exponent made of x": (
        DROPPED
        + """z = Sub(v0,v0) p = Add(z,half) v = ReduceMean<axes=[-1]>(q) e = Add(v,eps)
             r = Pow(e,p) n = Div(x,r) y = Mul(n,scale)""",
        {
            "inputs": "float[4,1,8] a, float[4,1,8] b",
            "outputs": "float[P,Q,R] y",
            "constants": {"half": np.array(0.5, np.float32)},
        },
    ),
    "a number that CastLike rounds": (
        """k0 = CastLike(c,x) k = Sub(k0,one) k1 = Mul(k,big) n = LayerNormalization(x,ones)
           y = Mul(n,k1)""",
        {
            "inputs": "float[2,3,8] a, float[2,3,8] b",
            "outputs": "float[2,3,8] y",
            "constants": {
                "c": np.array([[[1 + 1e-9]]]),
                "one": np.array(1, np.float32),
                "big": np.array(1e9, np.float32),
                "ones": np.ones(8, np.float32),
            },
        },
    ),
    "a power that does not expand": (
        """q = Mul(x,x) v = ReduceMean<axes=[-1]>(q) e = Add(v,eps) z = Pow(e,p) r = Sqrt(e)
           n = Div(x,r) y0 = Mul(n,scale) y = Mul(y0,z)""",
        {"constants": {"p": np.array(6, np.float32)}},
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_fused_means_the_same(case: str) -> None:
    body, options = WRONG[case]
    constants = {**AX, **options.get("constants", {})}
    compared(residual(body, **{**options, "constants": constants}))


def compared(proto: onnx.ModelProto, **values: object) -> graphfuse.FuseResult:
    """Fuse, and compare what is fused with the original, in onnx.reference and by `validate`."""
    result = graphfuse.fuse(proto)
    given = {**feeds(proto, B=2, S=3), **{k: np.asarray(v) for k, v in values.items()}}
    if result.changed:
        onnx.checker.check_model(result.model, full_check=True)
        old = ReferenceEvaluator(proto).run(None, given)
        new = ReferenceEvaluator(result.model).run(None, given)
        for before, after in zip(old, new, strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return result


def test_dropout_in_training_mode_on_the_way() -> None:
    proto = residual(
        "d = Dropout<seed=3>(x, half, yes) t = Reshape(d, rows) y = LayerNormalization(t, scale)",
        inputs="float[2,3,8] a, float[2,3,8] b",
        outputs="float[6,8] y",
        constants={
            "half": np.array(0.5, np.float32),
            "yes": np.array(True),
            "rows": np.array([6, 8]),
        },
    )
    assert not graphfuse.fuse(proto).changed


ADD_NORM = """addnorm (p,q,scale) => (y) { x = Add(p,q) eps = Constant<value = float {1e-5}>()
    q2 = Mul(x,x) v = ReduceMean<axes=[2]>(q2) e = Add(v,eps) r = Sqrt(e) n = Div(x,r)
    y = Mul(n,scale) }"""
HEAD = '<domain: "my", opset_import: ["": 17, "my": 1]>'
FOUR = "float[2,3,8] a, float[2,3,8] b, float[2,3,8,8] c, bool k"


def test_calls_at_the_same_place_of_two_graphs() -> None:
    """Axis 2 is the last of one call's tensors, and not of the other's."""
    proto = scoped(
        f"""g ({FOUR}) => (float[2,3,8] y, float[2,3,8,8] z) {{ y = my.addnorm(a,b, scale)
            z = If (k) <then_branch = t () => (float[2,3,8,8] z1) {{ z1 = my.addnorm(c,c, scale) }},
                else_branch = e () => (float[2,3,8,8] z2) {{ z2 = Add(c,c) }}> }} {HEAD} {ADD_NORM}"""
    )
    assert not graphfuse.fuse(proto).changed


def test_a_call_in_a_body_in_a_function() -> None:
    proto = scoped(
        f"""g ({FOUR}) => (float[2,3,8] y, float[2,3,8,8] z)
            {{ y = my.addnorm(a,b, scale) z = my.f(c,c, scale,k) }}
            {HEAD} f (c,d,scale,k) => (z) {{
              z = If (k) <then_branch = t () => (z1) {{ z1 = my.addnorm(c,d,scale) }},
                  else_branch = e () => (z2) {{ z2 = Add(c,d) }}> }}
            {HEAD} {ADD_NORM}"""
    )
    assert not graphfuse.fuse(proto).changed


def test_a_call_in_a_function_too_large_to_see_through() -> None:
    relus = "r0 = Relu(c) " + " ".join(f"r{n + 1} = Relu(r{n})" for n in range(300))
    proto = scoped(
        f"""g ({FOUR}) => (float[2,3,8] y, float[2,3,8,8] z)
            {{ y = my.addnorm(a,b, scale) z = my.f(c, scale) }}
            {HEAD} f (c,scale) => (z) {{ {relus} z = my.addnorm(r300,c,scale) }}
            {HEAD} {ADD_NORM}"""
    )
    assert not graphfuse.fuse(proto).changed


def test_a_call_that_is_one_too_many() -> None:
    """Beyond the bound calls stay opaque: what the others agree on is not what all do."""
    relus = "".join(f"u{n + 1} = Relu(u{n}) " for n in range(240))
    norm = "q2 = Mul(x,x) v = ReduceMean<axes=[2]>(q2) e = Add(v,eps) r = Sqrt(e) n = Div(x,r)"
    calls = "".join(f"h{n + 1} = my.f(h{n}, b, eps) " for n in range(419))
    proto = scoped(
        f"""g (float[2,3,8] a, float[2,3,8] b) => (float[2,3,8] y) {{
            eps = Constant<value = float {{1e-5}}>() more = Constant<value = float {{2.0}}>()
            h0 = Relu(a) {calls} y = my.f(h419, b, more) }}
            {HEAD} f (p,q,eps) => (y) {{ x = Add(p,q) {norm} u0 = Relu(n) {relus} y = Relu(u240) }}"""
    )
    assert not graphfuse.fuse(proto).changed


def test_an_extent_that_the_caller_chooses() -> None:
    proto = scoped(
        f"""g (float[8,4,8] a, float[8,4,8] b) => (float[8,4,8] y) {{ y = my.f<s = 1>(a, b, scale) }}
            {HEAD} f <s> (p,q,scale) => (y) {{ x = Add(p,q) q2 = Mul(x,x)
              sh = Shape<start: int = @s>(x) i = Constant<value = int64 {{0}}>() n0 = Gather(sh,i)
              nf = Cast<to=1>(n0) ax = Constant<value = int64[1] {{-1}}>() v0 = ReduceSum(q2, ax)
              v = Div(v0, nf) eps = Constant<value = float {{1e-5}}>() {TAIL} }}"""
    )
    assert not graphfuse.fuse(proto).changed


def test_a_large_function_under_the_name_of_an_operator() -> None:
    relus = "u0 = Relu(x) " + "".join(f"u{n + 1} = Relu(u{n}) " for n in range(260))
    proto = scoped(
        f"""g (float[2,3,8] a, float[2,3,8] b) => (float[2,3,8] y)
            {{ x = Add(a, b) y = my.SimplifiedLayerNormalization(x, scale) }}
            {HEAD} SimplifiedLayerNormalization (x, scale) => (y) {{ {relus} y = Mul(u260, scale) }}"""
    )
    for holder in (proto.graph.node[1], proto.functions[0]):
        holder.domain = "com.microsoft"
    proto.opset_import[1].domain = "com.microsoft"
    assert not graphfuse.fuse(proto).changed


def test_a_weight_that_is_rounded_on_the_way() -> None:
    w16 = np.random.default_rng(0).normal(0, 1e-3, 8).astype(np.float16)
    proto = residual(
        """n = LayerNormalization(x, ones) w1 = Add(w, one) wf = Cast<to=1>(w1) y = Mul(n, wf)""",
        constants={"w": w16, "one": np.array(1, np.float16), "ones": np.ones(8, np.float32)},
    )
    assert compared(proto).changed


def test_a_scale_made_in_a_called_function() -> None:
    proto = scoped(
        f"""g (float[2,3,8] a, float[2,3,8] b) => (float[2,3,8] y) {{ x = Add(a, b) y = my.norm(x) }}
            {HEAD} norm (x) => (y) {{ one = Constant<value = float[8] {{1,2,1,1,3,1,1,1}}>()
              y = LayerNormalization(x, one) }}"""
    )
    assert [m.reason.value for m in graphfuse.fuse(proto).left] == ["norm-in-function"]


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
def test_the_bias_of_a_fused_norm_is_not_folded_again(ep: str) -> None:
    proto = model(
        """x1 = Add(a,b) n1 = LayerNormalization(x1, scale) y1 = Add(n1, bias) x2 = Add(a, y1)
           y = LayerNormalization(x2, scale, bias)"""
    )
    result = graphfuse.fuse(proto, ep=ep, selection=graphfuse.Selection(fold_bias=True))
    assert len(result.fused) == 2
    assert_passes(proto, result.model)


def test_a_bias_on_an_operand_that_broadcasts_is_not_folded() -> None:
    proto = model(
        "h = Add(b, bias) x = Add(a, h) y = LayerNormalization(x, scale)",
        inputs="float[B,S,8] a, float[B,S,1] b",
    )
    result = graphfuse.fuse(proto, ep="cuda", selection=graphfuse.Selection(fold_bias=True))
    assert len(result.fused[0].inputs) == 4
    assert_passes(proto, result.model)


def test_added_vectors_at_a_low_ir_version() -> None:
    proto = residual(
        "y = LayerNormalization(x, scale)",
        opset=17,
        ir=3,
        inputs="float[2,8] a, float[2,8] b",
        outputs="float[2,8] y",
    )
    proto.graph.input.append(helper.make_tensor_value_info("scale", 1, [8]))
    result = graphfuse.fuse(proto, ep="cuda")
    assert result.changed
    assert result.model.ir_version == 4
    onnx.checker.check_model(result.model)


def test_roots_of_huge_numbers_have_no_form() -> None:
    factors = [f"t{n + 1} = Mul(t{n}, big)" for n in range(14)]
    proto = residual(
        "q = Mul(x,x) t0 = ReduceMean<axes=[-1]>(q) "
        + " ".join(factors)
        + " v = Identity(t14) e = Add(v,eps) r = Sqrt(e) n = Div(x,r) y = Mul(n,scale)",
        inputs="double[B,S,8] a, double[B,S,8] b",
        outputs="double[B,S,8] y",
        constants={
            "big": np.array(1.2345678901234567e9),
            "eps": np.array(2.0**-17),
            "scale": np.ones(8),
        },
    )
    assert kinds(graphfuse.fuse(proto).model)


def test_a_function_under_the_name_of_an_operator_that_keeps_shapes() -> None:
    relus = "u0 = Relu(z) " + "".join(f"u{n + 1} = Relu(u{n}) " for n in range(260))
    proto = scoped(
        f"""g (float[4,8] z, float[1,1] b) => (float[P,Q] y) {{ h = my.FastGelu(z) x = Add(h, b)
              q = Mul(x,x) v = ReduceMean<axes=[-1]>(q) eps = Constant<value = float {{1e-5}}>()
              e = Add(v,eps) r = Sqrt(e) y = Div(x,r) }}
            {HEAD} FastGelu (z) => (y) {{ {relus} y = Transpose<perm = [1, 0]>(u260) }}"""
    )
    proto.graph.node[0].domain = proto.functions[0].domain = "com.microsoft"
    proto.opset_import[1].domain = "com.microsoft"
    # Its shape is the function's: transposed.
    result = compared(proto)
    assert [fusion.site.extents for fusion in result.fused] == [(4,)]


@pytest.mark.parametrize("opset", [7, 8])
def test_a_computed_scale_at_a_low_opset_is_left(opset: int) -> None:
    proto = residual(
        """q = Mul(x,x) v = ReduceMean<axes=[2]>(q) e = Add(v,eps) r = Sqrt(e) n = Div(x,r)
           y0 = Mul(n,scale) y = Mul(y0,two)""",
        opset=opset,
        ir=3,
        constants={"two": np.array(2, np.float32)},
    )
    assert [miss.reason.value for miss in graphfuse.fuse(proto).left] == ["opset"]


def test_a_reader_without_outputs() -> None:
    proto = scoped(
        f"""g (float[2,8] a, float[2,8] b) => (float[2,8] y)
            {{ x = Add(a,b) t = LayerNormalization(x, scale) w = my.log(t) y = Relu(t) }}
            {HEAD} log (t) => (w) {{ w = Relu(t) }}"""
    )
    del proto.graph.node[2].output[:], proto.functions[0].output[:]
    assert len(graphfuse.fuse(proto).fused) == 1


def test_a_sum_of_weights_is_no_residual() -> None:
    proto = model(
        """a1 = Relu(wa) b1 = Relu(wb) x = Add(a1,b1) s = ReduceMax<axes=[0,1],keepdims=0>(x)
           y0 = LayerNormalization(x,s) y = Add(y0,c)""",
        inputs="float[2,3,8] c",
        outputs="float[2,3,8] y",
        constants={"wa": np.ones((2, 3, 8), np.float32), "wb": np.ones((2, 3, 8), np.float32)},
    )
    assert not graphfuse.fuse(proto).changed


def test_many_paths_are_not_walked_one_by_one() -> None:
    """16 layers of 6 tensors, each made of all before: 6^16 paths, and as many to an extent."""
    layers, names = [], ["x"] * 6
    for layer in range(16):
        outputs = [f"t{layer}_{n}" for n in range(6)]
        layers += [f"{name} = Max({', '.join(names)})" for name in outputs]
        names = outputs
    shapes = ["k0 = Shape(x)"]
    for level in range(12):
        shapes.append(f"c{level} = Concat<axis=0>({', '.join([f'k{level}'] * 5)})")
        shapes.append(f"k{level + 1} = Slice(c{level}, zero, one, zero)")
    proto = residual(
        " ".join([*layers, *shapes])
        + f" y0 = LayerNormalization({names[0]}, scale) f = Cast<to=1>(k12) y = Mul(y0, f)",
        constants={"zero": np.array([0]), "one": np.array([1])},
    )
    assert not graphfuse.scan(proto).sites

"""Sites in the bodies of If, Loop and Scan, and in functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import graphfuse
from graphfuse.records.reasons import Reason
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, assert_passes, feeds

LN = "y = LayerNormalization(x, scale, bias)"
HEAD = '<ir_version: 10, opset_import: ["": 17, "my": 1]>'
FUNCTION = '<domain: "my", opset_import: ["": 17]>'
EPS = "eps = Constant<value = float {1e-5}>()"


def scoped(text: str) -> onnx.ModelProto:
    """A model whose scale and bias are initializers of the main graph, where it reads them."""
    proto = parser.parse_model(HEAD + text)
    rng = np.random.default_rng(3)
    for name, centre in (("scale", 1.0), ("bias", 0.0)):
        if f" {name}" in text.split("g (")[1].split("function:", maxsplit=1)[0]:
            array = rng.normal(centre, 0.3, 8).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    return proto


def run(proto: onnx.ModelProto, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, values)


def check(proto: onnx.ModelProto, **values: object) -> graphfuse.FuseResult:
    """Fuse, validate, compare with the original in onnxruntime; a second fuse does nothing."""
    result = graphfuse.fuse(proto)
    given = {**feeds(proto, B=2, S=3), **{k: np.asarray(v) for k, v in values.items()}}
    for old, new in zip(run(proto, given), run(result.model, given), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    assert_passes(proto, result.model)
    assert not graphfuse.fuse(result.model).changed
    return result


INPUTS = "float[B,S,8] a, float[B,S,8] b, bool c"
BRANCHES = {
    "norm operator": (LN, ""),
    "decomposed": (EPS + DECOMPOSED_LAYER_NORM, ""),
    "epsilon outside": (DECOMPOSED_RMS_NORM, EPS),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_a_site_in_a_branch(case: str) -> None:
    body, before = BRANCHES[case]
    proto = scoped(
        f"""g ({INPUTS}) => (float[B,S,8] z) {{
            {before}
            z = If (c) <
              then_branch = t () => (float[B,S,8] y) {{ x = Add(a, b) {body} }},
              else_branch = e () => (float[B,S,8] w) {{ w = Sub(a, b) }}>
        }}"""
    )
    for flag in (True, False):
        result = check(proto, c=flag)
    assert len(result.fused) == 1
    assert result.fused[0].site.scope.text.endswith("then_branch")
    branch = result.model.graph.node[-1].attribute[0].g
    kept = ["Constant"] if case == "decomposed" else []
    assert [n.op_type for n in branch.node if n.op_type not in kept][-1].startswith("Add")


def test_both_branches_and_the_main_graph() -> None:
    proto = scoped(
        f"""g ({INPUTS}) => (float[B,S,8] out) {{
            x = Add(a, b) {LN}
            z = If (c) <
              then_branch = t () => (float[B,S,8] z1)
                {{ s = Add(y, a) z1 = LayerNormalization(s, scale, bias) }},
              else_branch = e () => (float[B,S,8] z2)
                {{ s = Add(x, y) z2 = LayerNormalization(s, scale) }}>
            o = Add(z, y) out = LayerNormalization(o, scale, bias)
        }}"""
    )
    for flag in (True, False):
        result = check(proto, c=flag)
    assert len(result.fused) == 4
    # The missing bias is one vector, and it is in the main graph.
    assert [t.name for t in result.model.graph.initializer][2:] == ["graphfuse_zeros_8"]
    # The sum x is read in a branch alone, so the first node yields it.
    assert result.fused[0].site.sum_is_read


def test_a_body_in_a_body() -> None:
    proto = scoped(
        f"""g ({INPUTS}) => (float[B,S,8] z) {{
            z = If (c) <
              then_branch = t () => (float[B,S,8] z1) {{
                 k = Relu(a)
                 z1 = If (c) <
                   then_branch = tt () => (float[B,S,8] y) {{ x = Add(k, b) {LN} }},
                   else_branch = te () => (float[B,S,8] y2) {{ y2 = Neg(k) }}>
              }},
              else_branch = e () => (float[B,S,8] z2) {{ z2 = Neg(a) }}>
        }}"""
    )
    result = check(proto, c=True)
    assert len(result.fused) == 1
    assert result.fused[0].site.scope.text.count("/") == 3


def test_a_loop_body() -> None:
    proto = scoped(
        f"""g (float[B,S,8] a, float[B,S,8] b, int64 trips) => (float[B,S,8] z) {{
            go = Constant<value = bool {{1}}>()
            z = Loop (trips, go, a) <body = l (int64 i, bool more, float[B,S,8] h)
              => (bool again, float[B,S,8] y) {{
                again = Identity(more) x = Add(h, b) {EPS} {DECOMPOSED_LAYER_NORM} }}>
        }}"""
    )
    result = check(proto, trips=3)
    assert len(result.fused) == 1


def test_a_scan_body() -> None:
    proto = scoped(
        f"""g (float[B,8] a, float[S,B,8] b) => (float[B,8] last, float[S,B,8] z) {{
            last, z = Scan <num_scan_inputs = 1, body = l (float[B,8] h, float[B,8] v)
              => (float[B,8] x, float[B,8] y) {{ x = Add(h, v) {LN} }}> (a, b)
        }}"""
    )
    result = check(proto)
    assert len(result.fused) == 1
    assert result.fused[0].site.sum_is_read


def test_a_shadowed_name_is_another_value() -> None:
    """The branch has its own x and scale: what the main graph calls so is not read there."""
    proto = scoped(
        f"""g ({INPUTS}) => (float[B,S,8] out) {{
            x = Add(a, b) {LN}
            z = If (c) <
              then_branch = t () => (float[B,S,8] q) {{ p = Mul(a, b) q = Relu(p) }},
              else_branch = e () => (float[B,S,8] w) {{ w = Sub(a, b) }}>
            out = Add(z, y)
        }}"""
    )
    branch = proto.graph.node[2].attribute[0].g
    branch.node[0].output[0] = branch.node[1].input[0] = "x"
    result = graphfuse.fuse(proto)
    assert not result.fused[0].site.sum_is_read
    # onnxruntime refuses such a graph; onnx.reference runs it.
    values = {**feeds(proto, B=2, S=3), "c": np.array(True)}
    old, new = (ReferenceEvaluator(p).run(None, values)[0] for p in (proto, result.model))
    np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_a_shadowed_scale_is_no_weight() -> None:
    proto = scoped(
        f"""g ({INPUTS}) => (float[B,S,8] out) {{
            k = Mul( scale, bias)
            out = If (c) <
              then_branch = t () => (float[B,S,8] y) {{
                 sc = ReduceMean<axes = [0, 1], keepdims = 0>(a) x = Add(a, b)
                 y = LayerNormalization(x, sc, bias) }},
              else_branch = e () => (float[B,S,8] w) {{ w = Sub(a, b) }}>
        }}"""
    )
    branch = proto.graph.node[-1].attribute[0].g
    branch.node[0].output[0] = branch.node[2].input[1] = "scale"
    # onnx's inference gives up on such a graph: the local scale has no known shape.
    assert [m.reason for m in graphfuse.fuse(proto).left] == [Reason.UNKNOWN_SHAPE]


def test_sum_outside_and_norm_in_a_branch() -> None:
    proto = scoped(
        f"""g ({INPUTS}) => (float[B,S,8] z) {{
            x = Add(a, b)
            z = If (c) <
              then_branch = t () => (float[B,S,8] y) {{ {LN} }},
              else_branch = e () => (float[B,S,8] w) {{ w = Neg(x) }}>
        }}"""
    )
    result = graphfuse.fuse(proto)
    assert not result.changed
    assert [m.reason for m in result.left] == [Reason.SUM_IN_OTHER_SCOPE]
    assert result.left[0].culprit.scope.text.endswith("then_branch")
    assert not result.left[0].add.scope.text


FUNCTIONS = {
    "sum and norm": (
        "y = my.block(a, b, scale, bias)",
        f"block (p, q, scale, bias) => (y) {{ x = Add(p, q) {LN} }}",
    ),
    "decomposed": (
        "y = my.block(a, b, scale, bias)",
        f"block (p, t, scale, bias) => (y) {{ x = Add(p, t) {EPS} {DECOMPOSED_LAYER_NORM} }}",
    ),
    "epsilon handed in": (
        f"{EPS} y = my.block(a, b, scale, eps)",
        f"block (p, t, scale, eps) => (y) {{ x = Add(p, t) {DECOMPOSED_RMS_NORM} }}",
    ),
    "no scale": (
        "y = my.block(a, b)",
        """block (p, q) => (y) { x = Add(p, q) one = Constant<value = float[8] {1,1,1,1,1,1,1,1}>()
           y = LayerNormalization(x, one) }""",
    ),
    "called twice": (
        "h = my.block(a, b, scale, bias) y = my.block(h, b, scale, bias)",
        f"block (p, q, scale, bias) => (y) {{ x = Add(p, q) {LN} }}",
    ),
    "the norm alone": (
        "x = Add(a, b) y = my.norm(x, scale, bias)",
        f"norm (x, scale, bias) => (y) {{ {EPS} {DECOMPOSED_LAYER_NORM} }}",
    ),
    "an attribute of the call": (
        "x = Add(a, b) y = my.norm<e = 0.25>(x, scale, bias)",
        """norm <e> (x, scale, bias) => (y)
           { y = LayerNormalization<epsilon: float = @e>(x, scale, bias) }""",
    ),
    "a function in a function": (
        "y = my.block(a, b, scale, bias)",
        "block (p, q, scale, bias) => (y) { x = Add(p, q) y = my.norm(x, scale, bias) }"
        + FUNCTION.replace("17", '17, "my": 1')
        + f"norm (x, scale, bias) => (y) {{ {EPS} {DECOMPOSED_LAYER_NORM} }}",
    ),
    "half of the norm": (
        f"""x = Add(a, b) d = my.deviation(x) q = Mul(d, d) {EPS}
            v = ReduceMean<axes = [-1]>(q) e = Add(v, eps)
            r = Sqrt(e) n = Div(d, r) y = Mul(n, scale)""",
        """deviation (x) => (d)
           { m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) }""",
    ),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions(case: str) -> None:
    graph, function = FUNCTIONS[case]
    head = FUNCTION.replace("17", '17, "my": 1')
    proto = scoped(
        f"g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {{ {graph} }} {head} {function}"
    )
    result = check(proto)
    assert len(result.fused) == 1
    site = result.fused[0].site
    # Functions stand in the order that onnx.reference needs: callees first.
    ReferenceEvaluator(result.model).run(None, feeds(proto, B=2, S=3))
    inside = case not in ("the norm alone", "an attribute of the call", "half of the norm")
    assert (site.scope.function is not None) == inside
    if case == "an attribute of the call":
        assert site.epsilon == 0.25


LEFT = {
    "the norm and more": (
        "x = Add(a, b) y = my.more(x, scale, bias)",
        "more (x, scale, bias) => (y) { n = LayerNormalization(x, scale, bias) y = Relu(n) }",
        Reason.NORM_IN_FUNCTION,
    ),
    "the sum alone": (
        "x = my.sum(a, b) y = LayerNormalization(x, scale, bias)",
        "sum (a, b) => (x) { x = Add(a, b) }",
        Reason.SUM_IN_OTHER_SCOPE,
    ),
    "an attribute of the function": (
        "y = my.block<e = 0.25>(a, b, scale, bias)",
        """block <e> (p, q, scale, bias) => (y)
           { x = Add(p, q) y = LayerNormalization<epsilon: float = @e>(x, scale, bias) }""",
        Reason.FUNCTION_ATTRIBUTE,
    ),
    "epsilons that differ": (
        f"""{EPS} more = Constant<value = float {{0.25}}>()
            h = my.block(a, b, scale, eps) y = my.block(h, b, scale, more)""",
        f"block (p, t, scale, eps) => (y) {{ x = Add(p, t) {DECOMPOSED_RMS_NORM} }}",
        Reason.EPSILON_NOT_CONSTANT,
    ),
    "a scale that is an activation once": (
        "h = my.block(a, b, scale, bias) s = Relu(h) y = my.block(h, b, s, bias)",
        f"block (p, q, scale, bias) => (y) {{ x = Add(p, q) {LN} }}",
        Reason.UNKNOWN_SHAPE,
    ),
    "two outputs": (
        "x = Add(a, b) y, z = my.more(x, scale, bias)",
        "more (x, scale, bias) => (n, r) { n = LayerNormalization(x, scale, bias) r = Relu(x) }",
        Reason.STATISTICS_READ,
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_functions_that_are_left(case: str) -> None:
    graph, function, reason = LEFT[case]
    more = ", float[B,S,8] z" if "z = " in graph or "y, z" in graph else ""
    proto = scoped(
        f"""g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y{more}) {{ {graph} }}
            {FUNCTION} {function}"""
    )
    result = graphfuse.fuse(proto)
    assert not result.changed
    assert reason in [miss.reason for miss in result.left]


def test_recursive_functions_are_left_alone() -> None:
    proto = scoped(
        f"""g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {{ x = Add(a, b) {LN} }}
            {FUNCTION} loop (x) => (y) {{ y = Relu(x) }}"""
    )
    proto.functions[0].node[0].domain, proto.functions[0].node[0].op_type = "my", "loop"
    assert len(graphfuse.fuse(proto).fused) == 1


def test_an_overridden_operator_is_not_what_it_says() -> None:
    """A function under the name of a standard operator: which one runs is not certain."""
    proto = scoped(
        f"g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {{ x = Add(a, b) {LN} }}"
    )
    body = [helper.make_node("Relu", ["x"], ["y"])]
    proto.functions.append(
        helper.make_function(
            "", "LayerNormalization", ["x", "s", "b"], ["y"], body, [helper.make_opsetid("", 17)]
        )
    )
    assert not graphfuse.fuse(proto).changed


def test_many_functions_deep() -> None:
    """A chain longer than Python's stack, and a bomb: seen through within bounds."""
    functions = []
    for depth in range(2000):
        call = helper.make_node(f"f{depth + 1}", ["x"], ["y"], domain="my")
        last = helper.make_node("Relu", ["x"], ["y"])
        body = [call if depth < 1999 else last]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        functions.append(helper.make_function("my", f"f{depth}", ["x"], ["y"], body, imports))
    proto = scoped(
        f"g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {{ x = Add(a, b) {LN} }}"
    )
    proto.functions.extend(functions)
    proto.graph.node[0].input[0] = "h"
    proto.graph.node.insert(0, helper.make_node("f1990", ["a"], ["h"], domain="my"))
    found = graphfuse.scan(proto)
    assert len(found.sites) == 1
    assert found.sites[0].elem_type == TensorProto.FLOAT


def test_a_merged_decoder() -> None:
    """Two decoders in the branches of one If, their weights shared in the main graph."""
    source = onnx.load(MODELS / "llama.onnx")
    merged = onnx.ModelProto()
    merged.CopyFrom(source)
    graph = merged.graph
    nodes, values = list(source.graph.node), list(source.graph.value_info)
    del graph.node[:], graph.value_info[:], graph.output[:]
    branches = {}
    for name in ("then_branch", "else_branch"):
        body = onnx.GraphProto(name=name, node=nodes, value_info=values)
        for node in body.node:
            for names in (node.input, node.output):
                for at, tensor in enumerate(names):
                    computed = any(tensor in other.output for other in nodes)
                    names[at] = f"{name}/{tensor}" if tensor and computed else tensor
        for value in body.value_info:
            value.name = f"{name}/{value.name}"
        for value in source.graph.output:
            output = body.output.add()
            output.CopyFrom(value)
            output.name = f"{name}/{value.name}"
        branches[name] = body
    outputs = [f"{value.name}" for value in source.graph.output]
    graph.node.append(helper.make_node("If", ["use_cache"], outputs, **branches))
    graph.output.extend(source.graph.output)
    graph.input.append(helper.make_tensor_value_info("use_cache", TensorProto.BOOL, []))
    onnx.checker.check_model(merged)
    result = graphfuse.fuse(merged)
    assert len(result.fused) == 2 * len(graphfuse.scan(source).sites) == 8
    assert {f.site.scope.text.split("/")[-1] for f in result.fused} == {
        "then_branch",
        "else_branch",
    }
    report = graphfuse.validate(merged, result.model)
    assert report.passed, report.failures
    through = [c for c in report.checks if c.gate == "G1" and "kernel" not in c.where]
    assert len(through) == 4
    assert all("1 more alike" in check.where for check in through)

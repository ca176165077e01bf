"""Pairs of models that compute something else, and pass: each test asserts what is right.

Both orders of the arguments are judged, but where only one is wrong. What is in a branch that no
feed takes is no dead code: a larger input takes it. That a session shows the difference is asserted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import graphfuse

LEVELS = ("fast", "full", "sites")
RUNS = LEVELS[:2]
BOTH = "float[B,S,8] a, float[B,S,8] b"
A = "float[B,S,8] a"
NORM = "x = Add(a, b) h = LayerNormalization(x, scale, bias) "
SKIP = "com.microsoft.SkipLayerNormalization<epsilon = 1e-5>"
CONTRIB = ', "com.microsoft" : 1'
MY = ', "my" : 1'
RNG = np.random.default_rng(7)
KNOWN = {
    "scale": RNG.normal(1, 0.3, 8).astype(np.float32),
    "bias": RNG.normal(0, 0.3, 8).astype(np.float32),
    "w": RNG.normal(size=(8, 8)).astype(np.float32),
    "huge": np.array(5000, np.int64),
    "one": np.array(1, np.int64),
    **{f"c{n}": np.array(n, np.float32) for n in (1, 2, 3)},
}


def names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from names(attribute.g)


def graph(
    body: str,
    inputs: str = BOTH,
    outputs: str = "float[B,S,8] y",
    opset: int = 17,
    more: str = "",
    functions: str = "",
    **constants: object,
) -> onnx.ModelProto:
    """A model as text; the constants that it or a body reads become initializers."""
    head = f'<ir_version: 10, opset_import: ["" : {opset}{more}]>'
    proto = onnx.parser.parse_model(f"{head} g ({inputs}) => ({outputs}) {{ {body} }} {functions}")
    read = set(names(proto.graph))
    for name, value in {**KNOWN, **constants}.items():
        if name in read:
            array = np.asarray(value)
            array = array.astype(np.float32) if array.dtype == np.float64 else array
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def never(body: str, **options: object) -> onnx.ModelProto:
    """The body computes z in a branch that only inputs of over 5,000 elements take."""
    return graph(
        f"""n = Size(a) never = Greater(n, huge)
        y = If (never) <then_branch = t () => (float[B,S,8] z) {{ {body} }},
            else_branch = e () => (float[B,S,8] z2) {{ z2 = Add(a, b) }}>""",
        **options,  # type: ignore[arg-type]
    )


def branch(proto: onnx.ModelProto, name: str = "then_branch") -> onnx.GraphProto:
    node = next(node for node in proto.graph.node if node.op_type == "If")
    return next(a.g for a in node.attribute if a.name == name)


def sparse(name: str, value: float) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([value], np.float32), name)
    places = numpy_helper.from_array(np.array([2], np.int64), f"{name}_places")
    return helper.make_sparse_tensor(values, places, [8])


def changed(proto: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    result = onnx.ModelProto.FromString(proto.SerializeToString())
    tensor = next(t for t in result.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return result


def verdict(one: object, other: object, level: str) -> str:
    return graphfuse.validate(one, other, level=level).verdict  # type: ignore[arg-type]


def outputs(proto: onnx.ModelProto) -> list[np.ndarray]:
    """What a plain session gives for a large input: every branch of this file is taken."""
    made = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        value.name: rng.normal(size=(2, 400, 8)).astype(np.float32)
        if "float" in value.type
        else np.array(True)
        for value in made.get_inputs()
    }
    return made.run(None, feeds)


def assert_differ(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    pairs = zip(outputs(one), outputs(other), strict=True)
    assert not all(np.allclose(*pair, rtol=1e-5, atol=1e-6) for pair in pairs)


def is_not_passed(one: onnx.ModelProto, other: onnx.ModelProto, level: str) -> None:
    assert_differ(one, other)
    assert verdict(one, other, level) != "pass"
    assert verdict(other, one, level) != "pass"


@pytest.mark.parametrize("level", LEVELS)
def test_another_opset_import_in_a_branch_that_no_feed_takes(level: str) -> None:
    """Softmax over axis 1 is over axes 1 and 2 in opset 11: the node says the same, not the model."""
    body = "x = Add(a, b) z = Softmax<axis = 1>(x)"
    is_not_passed(never(body, opset=11), never(body, opset=13), level)


def test_another_opset_import_at_level_sites() -> None:
    """At `sites` no node differs, nothing is judged, and the verdict is pass."""
    body = "x = Add(a, b) y = Softmax<axis = 1>(x)"
    is_not_passed(graph(body, opset=11), graph(body, opset=13), "sites")


@pytest.mark.parametrize("level", LEVELS)
def test_an_initializer_that_is_the_output_of_a_branch(level: str) -> None:
    """No node reads it, so its values are never compared."""

    def made(value: float) -> onnx.ModelProto:
        proto = graph(
            """n = Size(a) never = Greater(n, huge)
            r = If (never) <then_branch = t () => (float[1] z) { z = Identity(c1) },
                else_branch = e () => (float[1] z2) { z2 = Identity(c1) }> y = Mul(a, r)""",
            A,
        )
        for name, number in (("then_branch", value), ("else_branch", 1.0)):
            body = branch(proto, name)
            del body.node[:]
            array = np.array([number], np.float32)
            body.initializer.append(numpy_helper.from_array(array, body.output[0].name))
        return proto

    is_not_passed(made(2.0), made(3.0), level)


def test_an_initializer_that_is_an_output_of_the_model_at_level_sites() -> None:
    """The same of the main graph."""

    def made(value: float) -> onnx.ModelProto:
        proto = graph("y = Relu(a)", A, "float[B,S,8] y, float[1] c")
        array = np.array([value], np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, "c"))
        return proto

    is_not_passed(made(2.0), made(3.0), "sites")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_sparse_initializer_in_a_branch_that_no_feed_takes(level: str, inside: bool) -> None:
    """Sparse initializers are no weights for what compares nodes."""

    def made(value: float) -> onnx.ModelProto:
        proto = never("z = Mul(a, thin)")
        (branch(proto) if inside else proto.graph).sparse_initializer.append(sparse("thin", value))
        return proto

    is_not_passed(made(2.0), made(3.0), level)


def test_a_sparse_initializer_at_level_sites() -> None:
    """The same in the main graph, where it is always read."""

    def made(value: float) -> onnx.ModelProto:
        proto = graph("y = Mul(a, thin)", A)
        proto.graph.sparse_initializer.append(sparse("thin", value))
        return proto

    is_not_passed(made(2.0), made(3.0), "sites")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("own", [False, True])
def test_the_scale_of_a_fused_node_that_both_models_have(level: str, own: bool) -> None:
    """The node is no new site, and as a fused one no difference: nobody looks at its scale."""
    plain = never("x = Add(a, b) z = LayerNormalization(x, scale, bias)")
    skip = never(f"z = {SKIP}(a, b, scale, bias)", more=CONTRIB)
    fused = graphfuse.fuse(plain).model if own else skip
    is_not_passed(fused, changed(fused, "scale", KNOWN["scale"] * 1.5), level)


def test_the_scale_of_a_fused_node_that_both_models_have_at_level_sites() -> None:
    """The same in the main graph, for a scale of 8 elements."""
    fused = graphfuse.fuse(graph(NORM + "y = Relu(h)")).model
    is_not_passed(fused, changed(fused, "scale", KNOWN["scale"] * 1.5), "sites")


@pytest.mark.parametrize("level", LEVELS)
def test_a_sum_that_stands_for_another_tensor(level: str) -> None:
    """The fourth output of the fused node takes the name of a * b: only the first is compared."""
    original = never(
        "x = Add(a, b) p = Mul(a, b) h = LayerNormalization(x, scale, bias) z = Add(h, p)"
    )
    fused = never(f"h, _0, _1, p = {SKIP}(a, b, scale, bias) z = Add(h, p)", more=CONTRIB)
    assert_differ(original, fused)
    assert verdict(original, fused, level) != "pass"


def test_a_sum_that_stands_for_another_tensor_at_level_sites() -> None:
    """The same in the main graph."""
    original = graph(NORM + "p = Mul(a, b) y = Add(h, p)")
    fused = graph(f"h, _0, _1, p = {SKIP}(a, b, scale, bias) y = Add(h, p)", more=CONTRIB)
    assert_differ(original, fused)
    assert verdict(original, fused, "sites") != "pass"


@pytest.mark.parametrize("level", LEVELS)
def test_a_constant_that_is_changed_and_made_good_at_the_site_only(level: str) -> None:
    """What took part in a site's comparison counts as shown, and its other reader is not seen."""
    norm = "x = Add(a, b) h = LayerNormalization(x, s, bias) "
    original = never(f"s = Mul(scale, c2) {norm} z = Mul(h, s)")
    fused = never(
        f"s = Mul(scale, c3) s2 = Div(s, half) h = {SKIP}(a, b, s2, bias) z = Mul(h, s)",
        more=CONTRIB,
        half=1.5,
    )
    assert_differ(original, fused)
    assert verdict(original, fused, level) != "pass"


FUNCTION = '<domain: "my", opset_import: ["" : {opset}]> F{attributes} (X, Z) => (Y) {{ {body} }}'
ONLY_THERE = {
    "integers": [
        FUNCTION.format(
            opset=17,
            attributes="",
            body=f"s = Shape(X) t = {op}(s, s) f = Cast<to = 1>(t) "
            "m = ReduceMax<keepdims = 0>(f) Y = Mul(X, m)",
        )
        for op in ("Add", "Mul")
    ],
    "default": [
        FUNCTION.format(
            opset=17,
            attributes=f" <alpha: float = {alpha}>",
            body="s = Add(X, Z) Y = LeakyRelu<alpha: float = @alpha>(s)",
        )
        for alpha in ("0.1", "0.2")
    ],
}


@pytest.mark.parametrize("level", RUNS)
@pytest.mark.parametrize("kind", ONLY_THERE)
def test_a_function_that_only_a_branch_calls_that_no_feed_takes(level: str, kind: str) -> None:
    """The function counts as reached, as something calls it, wherever that is."""
    one, other = (never("z = my.F(a, b)", more=MY, functions=text) for text in ONLY_THERE[kind])
    is_not_passed(one, other, level)


@pytest.mark.parametrize("level", RUNS)
def test_a_loop_whose_body_no_feed_runs(level: str) -> None:
    """The bodies of Loop and Scan count as reached; this one runs no time on small inputs."""

    def made(op: str) -> onnx.ModelProto:
        return graph(
            f"""n = Size(a) never = Greater(n, huge) trips = Cast<to = 7>(never)
            c = Cast<to = 9>(one) y = Loop (trips, c, a) <
                body = l (int64 i, bool go, float[B,S,8] s) => (bool on, float[B,S,8] t) {{
                    on = Identity(go) j = {op}(i, one) f = Cast<to = 1>(j) t = Mul(s, f) }}>""",
            A,
        )

    is_not_passed(made("Add"), made("Sub"), level)


@pytest.mark.parametrize("level", RUNS)
def test_a_branch_that_shares_the_name_of_its_if_with_one_that_is_taken(level: str) -> None:
    """Branches taken are kept by the outputs of their If, which two bodies may have in common."""

    def inner(op: str, n: int, condition: str) -> str:
        return f"""n{n} = Size(a) c{n} = {condition}(n{n}, huge) q = If (c{n}) <
            then_branch = t{n} () => (float[B,S,8] u) {{ s = Shape(a) t = {op}(s, s)
                f = Cast<to = 1>(t) m = ReduceMax<keepdims = 0>(f) u = Mul(a, m) }},
            else_branch = e{n} () => (float[B,S,8] v) {{ v = Neg(a) }}>"""

    def made(op: str) -> onnx.ModelProto:
        return graph(
            f"""y = If (c) <
            then_branch = t () => (float[B,S,8] z) {{ {inner(op, 4, "Greater")} z = Identity(q) }},
            else_branch = e () => (float[B,S,8] z2) {{ {inner("Add", 5, "Less")} z2 = Identity(q) }}>""",
            f"bool c, {A}",
        )

    is_not_passed(made("Add"), made("Mul"), level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_rounding_to_float16_that_was_added_in_a_branch(level: str) -> None:
    """Casts are lifted in the comparison alone, so it shows nothing of what they round."""
    fused = never("x = Add(a, b) h = Cast<to = 10>(x) z = Cast<to = 1>(h)")
    assert_differ(never("z = Add(a, b)"), fused)
    assert verdict(never("z = Add(a, b)"), fused, level) != "pass"


def test_a_rounding_to_bfloat16_that_was_added_at_level_sites() -> None:
    """The same in the main graph: 3 digits are left, where there were 7."""
    fused = graph("s = Add(a, b) r = Cast<to = 16>(s) x = Cast<to = 1>(r) y = Relu(x)")
    original = graph("x = Add(a, b) y = Relu(x)")
    assert_differ(original, fused)
    assert verdict(original, fused, "sites") != "pass"


@pytest.mark.parametrize("level", LEVELS)
def test_a_computation_in_float64_that_is_dropped_in_a_branch(level: str) -> None:
    """1e8 is added and taken away again: in float64 nothing happens, in float32 all digits go."""
    wide = "h = Cast<to = 11>(a) g = Add(h, k) s = Sub(g, k) z = Cast<to = 1>(s)"
    original = never(wide, k=1e8)
    fused = never("g = Add(a, k) z = Sub(g, k)", k=np.array(1e8))
    tensor = next(t for t in original.graph.initializer if t.name == "k")
    tensor.CopyFrom(numpy_helper.from_array(np.array(1e8), "k"))
    assert_differ(original, fused)
    assert verdict(original, fused, level) != "pass"

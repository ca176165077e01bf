"""What evaluates nodes in float64, and bodies trip by trip, beside what a session gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.running.sessions import is_operator
from graphfuse.validation import formulas
from graphfuse.validation.evaluator import REFERENCE, RUNTIME, SINGLE, UnsupportedModelError
from graphfuse.validation.lifting import ADDED, added_to, lifted
from graphfuse.validation.reference import Twin
from tests.validation.test_attacked import BOTH, CONTRIB, MY, A, graph

RNG = np.random.default_rng(11)
SQUARE = "float[2,4,4] a, float[2,4,4] b"


def session_outputs(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return made.run(None, feeds)


def assert_twin_is_like_a_session(
    proto: onnx.ModelProto, feeds: dict[str, np.ndarray], near: float = 2e-6
) -> Twin:
    twin = Twin(Model(proto))
    found = twin.run(feeds)
    for name, array in zip(twin.outputs, session_outputs(proto, feeds), strict=True):
        assert found[name].shape == array.shape, name
        np.testing.assert_allclose(found[name], array, rtol=near, atol=near)
    return twin


FORMULAS = {
    "Gelu": "(a)",
    "BiasGelu": "(a, c)",
    "FastGelu": "(a)",
    "FastGelu with a bias": "(a, c)",
    "QuickGelu": "(a)",
    "QuickGelu of alpha": "<alpha = 0.7>(a)",
    "FusedMatMul": "(a, b)",
    "FusedMatMul transposed": "<alpha = 0.3, transA = 1, transB = 1>(a, b)",
    "FusedMatMul of B transposed": "<transB = 1>(a, b)",
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_formula_of_a_contrib_operator_is_what_its_kernel_computes(kind: str) -> None:
    body = f"y = com.microsoft.{kind.split(maxsplit=1)[0]}{FORMULAS[kind]}"
    c = RNG.normal(size=4).astype(np.float32)
    proto = graph(body, SQUARE, "float[2,4,4] y", more=CONTRIB, c=c)
    feeds = {name: RNG.normal(size=(2, 4, 4)).astype(np.float32) * 2 for name in "ab"}
    twin = assert_twin_is_like_a_session(proto, feeds)
    assert SINGLE not in twin.used


def test_a_matmul_with_transposed_batches_is_left_to_its_kernel() -> None:
    body = "y = com.microsoft.FusedMatMul<transBatchA = 1>(a, b)"
    proto = graph(body, "float[3,2,4] a, float[2,4,5] b", "float[2,3,5] y", more=CONTRIB)
    feeds = {
        "a": RNG.normal(size=(3, 2, 4)).astype(np.float32),
        "b": RNG.normal(size=(2, 4, 5)).astype(np.float32),
    }
    assert assert_twin_is_like_a_session(proto, feeds).used == {SINGLE: {"FusedMatMul"}}


LSTM = "q, _h = LSTM<hidden_size = 8{}>(a, p, r) y = Squeeze(q, k)"
RECURRENT = {
    "p": RNG.normal(size=(1, 32, 8)).astype(np.float32),
    "r": RNG.normal(size=(1, 32, 8)).astype(np.float32),
    "k": np.array([1]),
}


@pytest.mark.parametrize(("more", "means"), [("", REFERENCE), (", clip = 0.3", SINGLE)])
def test_onnx_reference_is_taken_only_where_a_kernel_agrees(more: str, means: str) -> None:
    proto = graph(LSTM.format(more), A, **RECURRENT)
    feeds = {"a": RNG.normal(size=(2, 7, 8)).astype(np.float32)}
    twin = assert_twin_is_like_a_session(proto, feeds, 1e-5)
    assert "LSTM" in twin.used[means]


STEP = "(int64 i, bool go, float[B,S,8] s) => (bool on, float[B,S,8] t{})"
LOOPS = {
    "trips": ("y = Loop (n, , a)", "on = Identity(go) t = Mul(s, half)", ""),
    "a condition": (
        "y = Loop (, c, a)",
        "l = Less(i, n) on = Identity(l) t = Add(s, s)",
        "",
    ),
    "a condition that ends what has none": (
        "y = Loop (n, , a)",
        "on = Less(i, one) t = Add(s, s)",
        "",
    ),
    "no trip": ("y = Loop (none, c, a)", "on = Identity(go) t = Add(s, s)", ""),
    "what trips yield": (
        "s1, y = Loop (n, c, a)",
        "on = Identity(go) t = Add(s, s) o = ReduceSum<keepdims = 0>(t)",
        ", float o",
    ),
    "rows that trips yield": (
        "s1, y = Loop (n, c, a)",
        "on = Identity(go) t = Add(s, s) o = ReduceSum<keepdims = 0>(t, axes)",
        ", float[8] o",
    ),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_is_evaluated_as_a_session_runs_it(kind: str) -> None:
    call, body, more = LOOPS[kind]
    step = f"<body = l {STEP.format(more)} {{ {body} }}>"
    proto = graph(
        f"c = Cast<to = 9>(one) {call} {step}",
        A,
        "float[T] y" if more == ", float o" else "float[B,S,8] y" if not more else "float[T,8] y",
        n=np.array(3),
        none=np.array(0),
        half=0.5,
        axes=np.array([0, 1]),
    )
    feeds = {"a": RNG.normal(size=(2, 7, 8)).astype(np.float32)}
    twin = assert_twin_is_like_a_session(proto, feeds)
    ran = any("body" in bodies for bodies in twin.taken.values())
    assert ran == (kind != "no trip")


SCANS = {
    "forwards": "",
    "backwards": ", scan_input_directions = [1]",
    "turned": ", scan_output_directions = [1]",
    "another axis": ", scan_input_axes = [1], scan_output_axes = [1]",
    "the last axis out": ", scan_input_axes = [-2], scan_output_axes = [-1]",
}


@pytest.mark.parametrize("kind", SCANS)
def test_a_scan_is_evaluated_as_a_session_runs_it(kind: str) -> None:
    proto = graph(
        f"""r, y = Scan<num_scan_inputs = 1{SCANS[kind]},
            body = step (float[B,8] s, float[B,8] e) => (float[B,8] t, float[B,8] o) {{
                t = Add(s, e) o = Mul(t, half) }}>(i, a)""",
        "float[3,8] i, float[3,3,8] a",
        "float[3,8] r, float[U,V,W] y",
        half=0.5,
    )
    feeds = {
        "i": RNG.normal(size=(3, 8)).astype(np.float32),
        "a": RNG.normal(size=(3, 3, 8)).astype(np.float32),
    }
    assert_twin_is_like_a_session(proto, feeds)


def long_loop(body: str) -> onnx.ModelProto:
    return graph(
        f"""c = Cast<to = 9>(one) y = Loop (n, c, a) <body = l (int64 i, bool go, float[B,S,8] s)
            => (bool on, float[B,S,8] t) {{ on = Identity(go) q = Mul(s, half) {body} }}>""",
        n=np.array(20_000),
        half=0.5,
    )


def test_a_loop_of_many_trips_is_handed_on_to_a_session() -> None:
    feeds = {name: RNG.normal(size=(1, 2, 8)).astype(np.float32) for name in "ab"}
    twin = assert_twin_is_like_a_session(long_loop("t = Add(q, b)"), feeds)
    assert "Loop" in twin.used[RUNTIME]


def test_a_loop_that_does_not_end_in_time_is_one_clear_error() -> None:
    """What no session has in float64 goes trip by trip, as long as --run-limit lets it."""
    proto = long_loop("e = Elu(q) t = Add(e, b)")
    feeds = {name: np.ones((1, 2, 8), np.float32) for name in "ab"}
    with pytest.raises(UnsupportedModelError, match="'y' takes long in float64") as raised:
        Twin(Model(proto), 0.3).run(feeds)
    assert "--run-limit" in raised.value.remedy
    assert "--validate sites" in raised.value.remedy
    with pytest.raises(graphfuse.GraphfuseError, match="takes long in float64"):
        graphfuse.validate(proto, proto, level="fast", feeds=graphfuse.Feeds(run_limit=1.5))


@pytest.mark.parametrize(
    ("domain", "name", "version", "there"),
    [
        ("", "Relu", 17, True),
        ("", "Mish", 17, False),
        ("", "Mish", 18, True),
        ("com.microsoft", "Gelu", 1, True),
        ("com.microsoft", "Grlu", 1, False),
        ("my", "Gelu", 1, False),
    ],
)
def test_what_onnxruntime_has_an_operator_for(
    domain: str, name: str, version: int, there: bool
) -> None:
    assert is_operator(domain, name, version) == there


def test_an_original_that_is_not_its_own_twin_shows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the twin gets wrong: what both twins agree on is then not what sessions run."""
    original = graph("x = Add(a, b) y = Softplus(x)", opset=20)
    report = graphfuse.validate(original, original, level="fast")
    assert report.verdict == "pass"
    monkeypatch.setattr(
        "graphfuse.validation.evaluator.upcast",
        lambda array: -formulas.round_to(np.asarray(array, np.float64), 0),
    )
    report = graphfuse.validate(original, original, level="fast")
    assert report.verdict == "not shown"
    assert "from its own meaning in float64" in report.not_shown[0].why


def test_a_layer_norm_that_leaves_its_bias_out_is_no_rms_norm() -> None:
    """Judged as one, each row was lost, as in the original, and the verdict said nothing."""
    original = graph("x = Add(a, b) y = LayerNormalization<epsilon = 1e-5>(x, scale)")
    node = "com.microsoft.SkipLayerNormalization<epsilon = 1e-5>"
    fused = graph(f"y = {node}(a, b, scale)", more=CONTRIB)
    report = graphfuse.validate(original, fused, level="sites")
    assert report.verdict == "pass"
    assert not report.notes
    assert all(check.value < 8 for check in report.checks if check.gate == "G1")


def test_a_parameter_of_a_fused_node_is_exact_and_nothing_else_of_that_name() -> None:
    """graphfuse's casts compute scales; the same name in front of an Add rounds as ever."""
    body = """s = Cast<to = 10>(k) t = Cast<to = 1>(s) x = Add(a, t) q = Cast<to = 10>(k)
        u = Cast<to = 1>(q) v = Expand(u, e) y = com.microsoft.SkipLayerNormalization(x, b, v)"""
    proto = graph(body, BOTH, more=CONTRIB, k=np.array(1 / 3, np.float32), e=np.array([8]))
    for node in proto.graph.node:
        for listed in (node.input, node.output):
            listed[:] = [f"/graphfuse_{n}" if n in ("s", "t", "q", "u") else n for n in listed]
    twin = Twin(Model(proto), added={f"/graphfuse_{name}" for name in ("s", "t", "q", "u")})
    constants = [node for node in twin.proto.graph.node if node.op_type == "Constant"]
    assert {node.output[0] for node in constants} == {"/graphfuse_s", "/graphfuse_t"}
    constants = [node for node in Twin(Model(proto)).proto.graph.node if node.op_type == "Constant"]
    assert len(constants) == 4


@pytest.mark.parametrize("level", ["full", "sites"])
def test_a_tensor_of_the_user_with_a_name_of_graphfuse_is_the_same_in_both_models(
    level: str,
) -> None:
    """Its cast rounds in the original, so it does where a fused node reads it as a scale."""
    cast = "s = Cast<to = 10>(k) t = Cast<to = 1>(s) v = Expand(t, e) "
    norm = "x = Add(a, b) n = LayerNormalization<epsilon = 1e-5>(x, o) y = Mul(n, v)"
    node = "y = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(a, b, v)"
    weights = {
        "k": np.array(1 / 3, np.float32), "e": np.array([8]), "o": np.ones(8, np.float32)
    }  # fmt: skip
    original = graph(cast + norm, BOTH, **weights)
    fused = graph(cast + node, BOTH, more=CONTRIB, **weights)
    for proto in (original, fused):
        for each in proto.graph.node:
            for names in (each.input, each.output):
                names[:] = [f"y/graphfuse_scale/{n}" if n in ("s", "t") else n for n in names]
    report = graphfuse.validate(original, fused, level=level)
    assert report.verdict == "pass", report.checks
    # One that is rounded otherwise is another scale.
    next(n for n in fused.graph.node if n.op_type == "Cast").attribute[0].i = 16
    assert graphfuse.validate(original, fused, level=level).verdict == "fail"


def test_what_one_of_two_models_has_under_a_name_of_graphfuse_was_added_to_it() -> None:
    """Inside of a function as well, whose tensors have other names once it is inlined."""
    function = """<domain: "my", opset_import: ["" : 17]> F (z, k) => (w)
        {{ {name} = Cast<to = 10>(k) t = Cast<to = 1>({name}) w = Add(z, t) }}"""
    one, other = (
        Model(
            graph(
                "q = my.F(a, scale) y = my.F(q, scale)",
                A,
                more=MY,
                functions=function.format(name=name),
            )
        )
        for name in ("s", "s_0")
    )
    for node in other.proto.functions[0].node:
        for names in (node.input, node.output):
            names[:] = [name.replace("s_0", "w/graphfuse_scale/cast") for name in names]
    assert added_to(other, one) == {"w/graphfuse_scale/cast"}
    assert added_to(one, other) == added_to(other, other) == set()
    for each in one.proto.functions[0].node:
        each.doc_string = ADDED
    found = ((other, one, 2), (other, other, 0), (one, other, 0))
    for model, beside, count in found:
        nodes = lifted(model, added_to(model, beside)).graph.node
        assert sum(node.doc_string == ADDED for node in nodes) == count

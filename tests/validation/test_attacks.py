"""Wrong models that once passed validation, and right ones that failed it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphfuse
from graphfuse.running.random_feeds import PADDED, random_feeds
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, assert_passes, model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
LOWEST = np.float32(np.finfo(np.float32).min)
ROWS = np.random.default_rng(0).normal(size=(9000, 8)).astype(np.float32)


def failing(original: onnx.ModelProto, fused: onnx.ModelProto, **options: object) -> set[str]:
    report = graphfuse.validate(original, fused, **options)  # type: ignore[arg-type]
    return {check.gate for check in report.failures}


def masked(function: str) -> onnx.ModelProto:
    """Beside the lowest float32 the other elements count nothing in one L2 norm."""
    hide = np.arange(8) == 3
    return model(
        f"h = MatMul(a, w) \n g = {function}(h) \n y = Where(hide, lowest, g)",
        inputs="float[B,S,8] a",
        constants={"w": ROWS[:8], "hide": hide, "lowest": LOWEST},
    )


def sparse(epsilon: float) -> onnx.ModelProto:
    proto = model(
        "h = Mul(a, a) \n y = Add(h, weight)",
        inputs="float[B,S,8] a",
        constants={"weight": np.zeros(8, np.float32)},
    )
    del proto.graph.initializer[:]
    values = numpy_helper.from_array(np.array([epsilon], np.float32), "weight")
    indices = numpy_helper.from_array(np.array([2], np.int64), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    return proto


def shadowing(factor: float) -> onnx.ModelProto:
    """A branch with a large table of its own, under the name of one outside."""
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (int64[B] ids, bool c) => (float[B,8] y, float[B,8] w) {
            w = Gather(table, ids)
            y = If (c) <
                then_branch = t () => (float[B,8] z) { z = Gather(table, ids) },
                else_branch = e () => (float[B,8] z2) { z2 = Gather(table, ids) }
            >
        }
    """)
    proto.graph.initializer.append(numpy_helper.from_array(ROWS, "table"))
    for attribute in proto.graph.node[1].attribute:
        inner = numpy_helper.from_array(ROWS * np.float32(factor), "table")
        attribute.g.initializer.append(inner)
    return proto


def softmax_of(opset: int) -> onnx.ModelProto:
    """Below opset 13 a Softmax is over all axes from its axis on."""
    return model("y = Softmax<axis=1>(a)", inputs="float[B,S,8] a", opset=opset)


def held(value: float, computed: bool) -> onnx.ModelProto:
    """An output that is a weight, or computed from one."""
    body = "y = Relu(a) \n w = Identity(other)" if computed else "y = Relu(a)"
    proto = model(body, inputs="float[B,S,8] a", outputs="float[B,S,8] y, float16[4] w")
    array = np.array([value, 1, 1, 100], np.float16)
    name = "other" if computed else "w"
    proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize(
    ("original", "fused"),
    [
        (lambda: masked("Identity"), lambda: masked("Exp")),
        (lambda: sparse(1e-3), lambda: sparse(2e-3)),
        (lambda: shadowing(2.0), lambda: shadowing(1.5)),
        (lambda: softmax_of(11), lambda: softmax_of(13)),
        (lambda: held(1.5, False), lambda: held(1.501, True)),
    ],
    ids=["masked", "sparse", "shadowed", "opsets", "weight as output"],
)
def test_a_difference_is_seen(
    original: Callable[[], onnx.ModelProto], fused: Callable[[], onnx.ModelProto]
) -> None:
    assert failing(original(), original()) == set()
    assert "G0" in failing(original(), fused())


def test_a_mask_that_is_not_read_any_more_is_seen() -> None:
    original = onnx.load(MODELS / "bert.onnx")
    fused = onnx.ModelProto()
    fused.CopyFrom(original)
    for node in fused.graph.node:
        for position, name in enumerate(node.input):
            if name == "attention_mask":
                node.input[position] = "ones"
    for node in (
        helper.make_node(
            "ConstantOfShape", ["shape"], ["ones"],
            value=numpy_helper.from_array(np.ones(1, np.int64)),
        ),
        helper.make_node("Shape", ["attention_mask"], ["shape"]),
    ):  # fmt: skip
        fused.graph.node.insert(0, node)
    assert "G0" in failing(original, fused)


def test_of_three_seeds_one_draws_padding() -> None:
    proto = onnx.load(MODELS / "bert.onnx")
    masks = [random_feeds(proto, seed)["attention_mask"] for seed in range(2 * PADDED)]
    assert [bool((mask == 0).any()) for mask in masks] == [False, False, True] * 2
    assert all((mask[:, 0] == 1).all() for mask in masks)


def test_feeds_reach_an_initializer_that_is_an_input() -> None:
    """onnxruntime lists it apart from inputs."""
    proto = model(
        "y = Mul(a, weight)",
        inputs="float[B,S,8] a, float[8] weight",
        constants={"weight": np.ones(8, np.float32)},
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "weight"))
    rng = np.random.default_rng(0)
    feeds = {
        "a": rng.normal(size=(2, 3, 8)).astype(np.float32),
        "weight": rng.normal(size=8).astype(np.float32),
    }
    report = graphfuse.validate(proto, proto, feeds=feeds)
    assert report.passed
    worst = report.worst("G2")
    assert worst is not None
    assert worst.value < 1e-6


def test_types_of_outputs_are_compared() -> None:
    wide = model("y = Cast<to=11>(a)", inputs="float[B,S,8] a", outputs="double[B,S,8] y")
    narrow = model("y = Cast<to=1>(a)", inputs="float[B,S,8] a")
    with pytest.raises(graphfuse.UsageError, match=r"'y' is float.* and "):
        graphfuse.validate(narrow, wide)


def test_a_fused_node_of_which_too_little_is_known_is_compared() -> None:
    proto = residual(
        "keep = GreaterOrEqual(long, zero) \n s = Compress<axis=0>(long, keep) \n"
        "y = LayerNormalization(x, s, bias)",
        constants={"long": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)},
    )
    fused = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[B,S,8] a, float[B,S,8] b) => (float[B,S,8] y) {
            keep = GreaterOrEqual(long, zero)
            s = Compress<axis=0>(long, keep)
            y = com.microsoft.SkipLayerNormalization <epsilon = 1e-5> (a, b, s, bias)
        }
    """)
    fused.graph.initializer.extend(proto.graph.initializer)
    report = graphfuse.validate(proto, fused, level="sites")
    assert report.passed
    assert [check.gate for check in report.checks] == ["G0"]
    fused.graph.node[-1].attribute[0].f = 1e-6
    assert graphfuse.validate(proto, fused, level="sites").verdict == "fail"


@pytest.mark.parametrize("form", ["value=float {1e-5}", "value_float=1e-5"])
def test_an_epsilon_that_is_cast_in_a_branch_is_no_difference(form: str) -> None:
    """1e-5 in float16 is another number, in a body as well as outside."""
    norm = DECOMPOSED_LAYER_NORM.replace("Add(v, eps)", "Add(v, narrow)")
    proto = model(
        f"""
        y = If (c) <
            then_branch = t () => (float16[B,8] y1) {{
                x = Add(a, b)
                wide = Constant<{form}>()
                narrow = Cast<to=10>(wide)
                {norm.replace("y = Add(s, bias)", "y1 = Add(s, bias)")}
            }},
            else_branch = f () => (float16[B,8] y2) {{ y2 = Relu(a) }}
        >
        """,
        inputs="bool c, float16[B,8] a, float16[B,8] b",
        outputs="float16[B,8] y",
        constants={},
    )
    for name, value in (("scale", 1), ("bias", 0)):
        array = np.full(8, value, np.float16)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none"))
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


def test_an_output_that_is_listed_twice() -> None:
    proto = residual(NORM)
    proto.graph.output.append(proto.graph.output[0])
    assert failing(proto, proto) == set()


def test_an_empty_batch_alone_proves_nothing() -> None:
    proto = residual(NORM)
    shapes = {"a": (0, 3, 8), "b": (0, 3, 8)}
    with pytest.raises(graphfuse.UsageError, match="other than empty"):
        graphfuse.validate(proto, proto, feeds=graphfuse.Feeds(input_shapes=shapes))


def test_outputs_that_are_no_numbers() -> None:
    proto = model("y = SplitToSequence(a)", inputs="float[B,S,8] a", outputs="seq(float[]) y")
    assert failing(proto, proto) == set()


def test_what_no_feed_reaches_is_said() -> None:
    proto = shadowing(2.0)
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    table = ROWS.copy()
    table[8999] += 1
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    report = graphfuse.validate(proto, other)
    assert any("'table'" in note and "weights differ" in note for note in report.notes)


def test_nodes_in_another_order() -> None:
    """onnxruntime sorts them."""
    proto = residual(DECOMPOSED_LAYER_NORM)
    unsorted = onnx.ModelProto()
    unsorted.CopyFrom(proto)
    del unsorted.graph.node[:]
    unsorted.graph.node.extend(reversed(proto.graph.node))
    assert failing(unsorted, unsorted) == set()
    assert_passes(unsorted, graphfuse.fuse(proto).model)


def test_a_branch_that_needs_one_condition_true_and_one_false() -> None:
    def nested(operator: str) -> onnx.ModelProto:
        return model(
            f"""
            y = If (c) <
                then_branch = t () => (float[B,8] y1) {{
                    y1 = If (d) <
                        then_branch = t2 () => (float[B,8] y2) {{ y2 = Relu(a) }},
                        else_branch = e2 () => (float[B,8] y3) {{ y3 = {operator}(a) }}
                    >
                }},
                else_branch = e () => (float[B,8] y4) {{ y4 = Neg(a) }}
            >
            """,
            inputs="bool c, bool d, float[B,8] a",
            outputs="float[B,8] y",
        )

    assert "G0" in failing(nested("Abs"), nested("Exp"), feeds=graphfuse.Feeds(iterations=8))

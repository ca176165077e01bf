"""Verdicts that could be fooled: what is wrong and was passed, at every level and either way round.

The mutants (tests/mutants) have the kinds that real exports can have; here are those that need a
graph of their own: branches that no feed takes, functions, nodes outside of the sites.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphfuse
from graphfuse import ops
from graphfuse.records import ValidationReport
from graphfuse.running.random_feeds import random_feeds
from tests.support.graphs import assert_passes, model, residual

LEVELS = ("fast", "full", "sites")
NORM = "y = LayerNormalization(x, scale, bias)"

BRANCHES = """
    <ir_version: 9, opset_import: ["" : 17]>
    g (float[B,S,8] a, float[B,S,8] b, float[B,S,8] d) => (float[B,S,8] y) {
        n = Size(a)
        never = Greater(n, huge)
        y = If (never) <
            then_branch = t () => (float[B,S,8] z) {
                x = Add(a, b)
                z0 = LayerNormalization<epsilon = 1e-12>(x, scale, bias)
                w = Add(z0, d)
                z = LayerNormalization<epsilon = 1e-12>(w, scale, bias)
            },
            else_branch = e () => (float[B,S,8] z2) { z2 = Add(a, b) }
        >
    }
"""


def branches() -> onnx.ModelProto:
    """Two sites in a branch that no feed takes."""
    proto = onnx.parser.parse_model(BRANCHES)
    rng = np.random.default_rng(7)
    constants = {
        "scale": rng.normal(1, 0.3, 8).astype(np.float32),
        "bias": rng.normal(0, 0.3, 8).astype(np.float32),
        "huge": np.array(2**40, np.int64),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    return proto


def branch(proto: onnx.ModelProto) -> onnx.GraphProto:
    node = next(node for node in proto.graph.node if node.op_type == "If")
    return next(a.g for a in node.attribute if a.name == "then_branch")


def operand_twice(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.domain == "graphfuse")
    node.input[1] = node.input[0]


def operand_of_another(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.domain == "graphfuse")
    node.input[1] = "d"


def node_added(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["once" if name == "z" else name for name in node.output]
    graph.node.append(helper.make_node("Add", ["once", "once"], ["z"]))


def other_output(graph: onnx.GraphProto) -> None:
    graph.output[0].name = "z0"


def epsilon_of_a_plain_norm(graph: onnx.GraphProto) -> None:
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    for attribute in norms[0].attribute:
        if attribute.name == "epsilon":
            attribute.f = 1e-11


def verdict(one: onnx.ModelProto, other: onnx.ModelProto, level: str) -> str:
    return graphfuse.validate(one, other, level=level).verdict


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "damage",
    [operand_twice, operand_of_another, node_added, other_output, epsilon_of_a_plain_norm],
)
def test_what_is_wrong_in_a_branch_that_no_feed_takes_does_not_pass(
    damage: Callable[[onnx.GraphProto], None], level: str
) -> None:
    proto = branches()
    fused = graphfuse.fuse(
        proto, selection=graphfuse.Selection(exclude=["z0"] if "plain" in damage.__name__ else ())
    ).model
    assert verdict(proto, fused, level) == "pass"
    assert verdict(fused, proto, level) == "pass"
    damage(branch(fused))
    assert verdict(proto, fused, level) in ("fail", "not shown")
    assert verdict(fused, proto, level) in ("fail", "not shown")


@pytest.mark.parametrize("level", LEVELS)
def test_an_epsilon_of_a_plain_norm_that_changed_fails_and_is_named(level: str) -> None:
    """1e-11 in place of 1e-12 is nothing beside activations; in rows around epsilon it is all."""
    made = "h = LayerNormalization<epsilon = {}>(a, scale, bias) \n x = Add(h, b) \n {}"
    original, other = (model(made.format(eps, NORM)) for eps in ("1e-12", "1e-11"))
    fused = graphfuse.fuse(other).model
    report = graphfuse.validate(original, fused, level=level)
    assert {check.subject for check in report.failures if check.gate == "G0"} >= {"h"}
    assert [(change.output, change.operator, change.how) for change in report.changes] == [
        ("h", "LayerNormalization", "changed")
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_a_node_that_was_added_outside_of_the_sites_is_named(level: str) -> None:
    """Also where it changes nothing."""
    proto = residual(f"{NORM} \n z = Relu(y)", outputs="float[B,S,8] z")
    fused = graphfuse.fuse(proto).model
    fused.graph.node[-1].input[0] = "same"
    fused.graph.node.insert(1, helper.make_node("Identity", ["y"], ["same"]))
    report = graphfuse.validate(proto, fused, level=level)
    assert report.passed, (report.failures, report.not_shown)
    assert {change.output for change in report.changes} == {"same", "z"}


def _body(proto: onnx.ModelProto) -> onnx.FunctionProto:
    return next(function for function in proto.functions if function.domain == ops.DOMAIN)


def scaled_body(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same nodes, and a function whose result is twice what it says."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in _body(changed).node:
        node.output[:] = ["once" if name == "Y" else name for name in node.output]
    _body(changed).node.append(helper.make_node("Add", ["once", "once"], ["Y"]))
    return changed


@pytest.mark.parametrize("level", LEVELS)
def test_two_fused_models_whose_bodies_differ_do_not_pass(level: str) -> None:
    fused = graphfuse.fuse(residual(NORM)).model
    assert verdict(fused, fused, level) == "pass"
    assert verdict(fused, scaled_body(fused), level) == "fail"
    assert verdict(scaled_body(fused), fused, level) == "fail"


def test_an_original_with_our_nodes_is_run_without_our_kernels_too() -> None:
    """Where it then fails, the report says so; where it is right, both are held to their like."""
    fused = graphfuse.fuse(residual(NORM)).model
    report = graphfuse.validate(fused, residual(NORM), level="full")
    assert report.passed, report.failures
    kernels = [check.where for check in report.checks if check.gate == "G2"]
    assert kernels


@pytest.mark.parametrize("level", LEVELS)
def test_a_body_that_is_wrong_only_for_many_rows_is_not_shown_to_be_right(level: str) -> None:
    proto = residual(NORM)
    fused = graphfuse.fuse(proto).model
    function = _body(fused)
    for node in function.node:
        node.output[:] = ["right" if name == "Y" else name for name in node.output]
    four = helper.make_tensor("", onnx.TensorProto.INT64, [], [4 * 64])
    function.node.extend(
        [
            helper.make_node("Constant", [], ["many"], value=four),
            helper.make_node("Size", ["A"], ["elements"]),
            helper.make_node("Less", ["elements", "many"], ["few"]),
            helper.make_node("CastLike", ["few", "A"], ["factor"]),
            helper.make_node("Mul", ["right", "factor"], ["Y"]),
        ]
    )
    report = graphfuse.validate(proto, fused, level=level)
    assert report.verdict != "pass"
    assert [item.subject for item in report.not_shown] == [
        "function graphfuse::AddLayerNormalization"
    ]


def test_an_operand_that_is_not_the_original_s_is_named() -> None:
    proto = model(
        f"g = Relu(a) \n h = Tanh(b) \n k = Mul(h, c) \n x = Add(g, k) \n {NORM}",
        inputs="float[B,S,8] a, float[B,S,8] b, float[B,S,8] c",
    )
    fused = graphfuse.fuse(proto).model
    node = next(node for node in fused.graph.node if node.domain == ops.DOMAIN)
    node.input[1] = "h"
    report = graphfuse.validate(proto, fused, level="sites")
    assert report.verdict == "not shown"
    assert "reads 'g', 'h', and the original's 'g', 'k'" in report.not_shown[0].why


def does_not_run(report: ValidationReport) -> list[str]:
    return [check.subject for check in report.failures if "does not run" in check.subject]


def test_a_fused_model_that_runs_on_one_size_only_is_said_not_to_run() -> None:
    proto = residual(NORM)
    first = random_feeds(proto, 0)["a"].shape
    fused = graphfuse.fuse(proto).model
    node = next(node for node in fused.graph.node if node.domain == ops.DOMAIN)
    node.input[0] = "reshaped"
    shape = numpy_helper.from_array(np.array(first, np.int64), "shape")
    fused.graph.initializer.append(shape)
    fused.graph.node.insert(0, helper.make_node("Reshape", ["a", "shape"], ["reshaped"]))
    assert graphfuse.validate(proto, fused, level="fast").verdict == "pass"
    found = does_not_run(graphfuse.validate(proto, fused, level="full"))
    assert found
    assert "the original does" in found[0]


def test_a_function_under_an_operator_s_name_is_its_nodes() -> None:
    """Whatever domain it is of, a function that graphfuse did not write means its body."""
    fused = graphfuse.fuse(residual(NORM)).model
    node = next(node for node in fused.graph.node if node.domain == ops.DOMAIN)
    function = _body(fused)
    node.domain = function.domain = "com.microsoft"
    node.op_type = function.name = "LayersOfMine"
    fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert_passes(residual(NORM), fused, level="fast")

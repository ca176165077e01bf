"""The gates: what is right passes, every mutant of the numbers fails, and at which site."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.running.random_feeds import random_feeds
from graphfuse.running.sessions import CPU, has_kernels
from graphfuse.validation import tolerance
from graphfuse.validation.reference import Twin
from tests.conftest import MODELS, Shell
from tests.support.graphs import DECOMPOSED_RMS_NORM, model, needs_opset, residual

NORM = "y = LayerNormalization(x, scale, bias)"


def fused_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.domain == "graphfuse"]


def epsilon(proto: onnx.ModelProto, factor: float) -> None:
    for attribute in fused_nodes(proto)[1].attribute:
        if attribute.name == "epsilon":
            attribute.f *= factor


def double_epsilon_of(proto: onnx.ModelProto) -> None:
    next(a for a in fused_nodes(proto)[0].attribute if a.name == "epsilon").f *= 2


def double_epsilon(proto: onnx.ModelProto) -> None:
    epsilon(proto, 2.0)


def one_percent_epsilon(proto: onnx.ModelProto) -> None:
    epsilon(proto, 1.01)


def scale_of_another_site(proto: onnx.ModelProto) -> None:
    first, second = fused_nodes(proto)[:2]
    first.input[2] = second.input[2]


def scale_and_bias_swapped(proto: onnx.ModelProto) -> None:
    node = fused_nodes(proto)[1]
    if len(node.input) < 4:
        # An RMSNorm has no bias: its scale takes the place of an operand's instead.
        node.input[2] = fused_nodes(proto)[2].input[2]
        return
    node.input[2], node.input[3] = node.input[3], node.input[2]


def doubled_operand(proto: onnx.ModelProto) -> None:
    node = fused_nodes(proto)[1]
    node.input[1] = node.input[0]


def changed_weight(proto: onnx.ModelProto) -> None:
    name = fused_nodes(proto)[1].input[2]
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array[3] *= np.array(1.01, array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def sum_of_another_site(proto: onnx.ModelProto) -> None:
    first, second = fused_nodes(proto)[:2]
    # Post-norm, the one operand is that sum's norm already.
    slot = 1 if second.input[0] == first.output[0] else 0
    second.input[slot] = first.output[0]


MUTANTS: list[Callable[[onnx.ModelProto], None]] = [
    double_epsilon,
    one_percent_epsilon,
    scale_of_another_site,
    scale_and_bias_swapped,
    doubled_operand,
    changed_weight,
    sum_of_another_site,
]


NAMES = ["bert", "gpt2", "llama", "llama-float16", "gemma"]
SAMPLE = [(mutate, NAMES[(k + step) % 5]) for k, mutate in enumerate(MUTANTS) for step in (0, 2)]
"""Each mutant in two models; `python -m tests.campaigns.mutants` makes all of them, and more."""


@pytest.mark.parametrize(("mutate", "name"), SAMPLE)
def test_mutants_are_caught(name: str, mutate: Callable[[onnx.ModelProto], None]) -> None:
    path = MODELS / f"{name}.onnx"
    result = graphfuse.fuse(path)
    mutate(result.model)
    report = graphfuse.validate(path, result.model)
    assert not report.passed
    assert "G0" in {check.gate for check in report.failures}
    damaged = {name for node in fused_nodes(result.model)[:2] for name in node.output}
    assert report.first_difference in damaged


@pytest.mark.parametrize(
    "mutate", [double_epsilon, scale_of_another_site, scale_and_bias_swapped, doubled_operand]
)
def test_the_command_line_fails_mutants(
    mutate: Callable[[onnx.ModelProto], None], shell: Shell, tmp_path: object
) -> None:
    result = graphfuse.fuse(MODELS / "bert.onnx")
    mutate(result.model)
    path = f"{tmp_path}/mutant.onnx"
    onnx.save(result.model, path)
    run = shell("validate", MODELS / "bert.onnx", path)
    assert run.returncode == 1
    assert "G0 failed" in run.stdout
    assert "the first fused node that is wrong" in run.stdout


def test_what_is_right_passes_on_other_seeds() -> None:
    for seed in range(1, 6):
        path = MODELS / "bert.onnx"
        assert graphfuse.validate(
            path, graphfuse.fuse(path).model, feeds=graphfuse.Feeds(seed=seed)
        ).passed


def test_gates_are_all_there() -> None:
    path = MODELS / "llama.onnx"
    report = graphfuse.validate(path, graphfuse.fuse(path).model)
    assert {check.gate for check in report.checks} == {"G0", "G1", "G2", "G3", "G4"}
    hard = {c.subject for c in report.checks if c.gate == "G1" and "real" not in c.where}
    real = {c.subject for c in report.checks if c.gate == "G1" and "real" in c.where}
    assert (len(hard), len(real)) == (4, 4)
    ways = {c.where.split("optimizations ")[1] for c in report.checks if c.gate == "G2"}
    own = {"on, graphfuse kernels", "off, graphfuse kernels"}
    assert ways == ({"on"} | own if has_kernels([CPU]) else {"on", "off"})


def test_a_wrong_kernel_fails_alone() -> None:
    """G1 runs the node's own function: a body that drops the epsilon is caught on hard rows."""
    path = MODELS / "bert-opset11.onnx"
    proto = graphfuse.fuse(path).model
    for node in proto.functions[0].node:
        if node.op_type == "Add" and "Epsilon" in node.input:
            node.input[1] = "Variance"
    report = graphfuse.validate(path, proto)
    assert {check.gate for check in report.failures} >= {"G1", "G2"}


def test_an_original_that_does_not_run_is_told_apart() -> None:
    proto = residual(
        NORM + " w = Reshape(y, five)",
        outputs="float[5] w",
        constants={"five": np.array([5], np.int64)},
    )
    with pytest.raises(graphfuse.OriginalModelError, match="does not run") as caught:
        graphfuse.validate(proto, graphfuse.fuse(proto).model)
    assert caught.value.exit_code == 4


def test_models_of_another_signature_are_refused() -> None:
    other = residual(NORM, outputs="float[B,S,8] x, float[B,S,8] y")
    with pytest.raises(graphfuse.UsageError, match="outputs differ"):
        graphfuse.validate(residual(NORM), other)


def test_hugely_different_magnitudes_have_a_distance() -> None:
    big = np.array([1e200, 2e200])
    assert tolerance.distance(big, big) == 0.0
    assert tolerance.distance(big * (1 + 1e-9), big) == pytest.approx(1e-9, rel=1e-3)
    assert tolerance.distance(np.array([np.nan, 1.0]), np.array([1.0, 1.0])) == np.inf
    assert tolerance.distance(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == 0.0
    assert tolerance.distance(np.array([np.inf]), np.array([-np.inf])) == np.inf
    assert tolerance.distance(np.zeros(3), np.zeros(3)) == 0.0
    assert tolerance.distance(np.ones(3), np.zeros(3)) == np.inf


def test_the_rounding_bound_holds_for_a_careful_float32_norm() -> None:
    """numpy in float32 with a float64 mean is within K = 1; the naive variance is far outside."""
    rng = np.random.default_rng(0)
    a = rng.normal(1000, 1, (64, 256)).astype(np.float32)
    b = np.zeros_like(a)
    scale, bias = rng.normal(1, 0.2, 256), rng.normal(0, 0.2, 256)
    exact = tolerance.reference_rows(
        a.astype(float),
        b.astype(float),
        {"Scale": scale, "Bias": bias},
        1e-5,
        True,
        onnx.TensorProto.FLOAT,
    )
    x = a - a.mean(-1, keepdims=True, dtype=np.float64).astype(np.float32)
    x -= x.mean(-1, keepdims=True)
    careful = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5))
    careful = careful * scale.astype(np.float32) + bias.astype(np.float32)
    assert tolerance.least_factor(careful, exact.output, exact.bound) <= 1
    square = (a * a).mean(-1, keepdims=True) - a.mean(-1, keepdims=True) ** 2
    naive = (a - a.mean(-1, keepdims=True)) / np.sqrt(np.abs(square) + np.float32(1e-5))
    naive = naive * scale.astype(np.float32) + bias.astype(np.float32)
    assert tolerance.least_factor(naive, exact.output, exact.bound) > 8


def test_least_factor_notices_non_finite_values() -> None:
    exact, bound = np.array([1.0, np.nan]), np.array([0.1, 0.1])
    assert tolerance.least_factor(np.array([1.05, np.nan]), exact, bound) == pytest.approx(0.5)
    assert tolerance.least_factor(np.array([1.0, 1.0]), exact, bound) == np.inf
    assert tolerance.least_factor(np.array([np.inf, np.nan]), exact, bound) == np.inf


def test_feeds_respect_symbols_ids_and_masks() -> None:
    proto = model(
        """
        e = Gather(table, ids)
        f = Cast<to=1>(attention_mask)
        y = Add(e, past)
        z = Mul(f, f)
        """,
        inputs="int64[batch,seq] ids, int64[batch,seq] attention_mask, float[batch,seq,8] past",
        outputs="float[batch,seq,8] y, float[batch,seq] z",
        constants={"table": np.zeros((5, 8), np.float32)},
    )
    feeds = random_feeds(proto, seed=3)
    assert feeds["ids"].shape == feeds["attention_mask"].shape == feeds["past"].shape[:2]
    assert feeds["ids"].min() >= 0
    assert feeds["ids"].max() < 5
    assert (feeds["attention_mask"] == 1).all()
    again = random_feeds(proto, seed=3)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
    assert not np.array_equal(random_feeds(proto, seed=4)["past"], feeds["past"])
    fixed = random_feeds(proto, shapes={"ids": (1, 4)})
    assert fixed["past"].shape == (1, 4, 8)


def test_feeds_evaluate_expressions_of_symbols() -> None:
    proto = model(
        "y = Identity(total)",
        inputs="float[past] p, float[new] n, float[total_length] total",
        outputs="float[T] y",
    )
    proto.graph.input[2].type.tensor_type.shape.dim[0].dim_param = "past + new"
    feeds = random_feeds(proto, shapes={"p": (3,), "n": (4,)})
    assert feeds["total"].shape == (7,)


def test_unknown_input_shape_is_a_usage_error() -> None:
    with pytest.raises(graphfuse.UsageError, match="no input 'q'"):
        random_feeds(residual(NORM), shapes={"q": (1,)})


def test_the_twin_lifts_casts_and_constants() -> None:
    """A float16 detour and a float32 constant leave no rounding in the twin."""
    proto = model(
        """
        h = Cast<to=10>(a)
        c = Constant<value_float = 0.1>()
        w = Cast<to=1>(h)
        y = Mul(w, c)
        """,
        inputs="float[8] a",
        outputs="float[8] y",
    )
    a = np.random.default_rng(0).normal(size=8).astype(np.float32)
    y = Twin(Model(proto)).run({"a": a})["y"]
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, a.astype(float) * float(np.float32(0.1)), rtol=1e-15)


def test_the_rounded_twin_rounds_each_edge() -> None:
    proto = residual(DECOMPOSED_RMS_NORM)
    a, b = (np.random.default_rng(i).normal(size=(2, 3, 8)).astype(np.float32) for i in (0, 1))
    twin = Twin(Model(proto))
    exact, rounded = twin.run({"a": a, "b": b})["y"], twin.run_rounded({"a": a, "b": b})["y"]
    assert np.array_equal(rounded, rounded.astype(np.float32).astype(np.float64))
    assert 0 < tolerance.distance(rounded, exact) < 1e-6


def test_operators_without_a_reference_are_evaluated_in_float32() -> None:
    """They are alike in both models, so the rest can be judged; the report says which they are."""
    proto = residual(
        NORM + " z = SampleOp(y)", outputs="float[B,S,8] z", extra_imports=', "com.microsoft" : 1'
    )
    proto.graph.node[-1].domain = "com.microsoft"
    fused = graphfuse.fuse(proto).model
    report = graphfuse.validate(proto, fused)
    assert report.passed, report.failures
    assert report.evaluated["onnxruntime in float32"] == ("SampleOp",)
    double_epsilon_of(fused)
    assert not graphfuse.validate(proto, fused).passed


def test_swapped_arguments_hide_nothing() -> None:
    """A fused model given as the original is judged at its fused nodes all the same."""
    path = MODELS / "bert.onnx"
    fused = graphfuse.fuse(path).model
    double_epsilon(fused)
    original = onnx.load(path)
    report = graphfuse.validate(fused, original)
    assert "G0" in {check.gate for check in report.failures}


def test_nothing_to_compare_is_no_pass() -> None:
    proto = residual(NORM)
    fused = graphfuse.fuse(proto).model
    nothing = {"a": np.full((2, 3, 8), np.nan, np.float32), "b": np.zeros((2, 3, 8), np.float32)}
    with pytest.raises(graphfuse.UsageError, match="nothing can be compared"):
        graphfuse.validate(proto, fused, feeds=nothing)
    with pytest.raises(graphfuse.UsageError, match="nothing can be compared"):
        graphfuse.validate(proto, fused, feeds=graphfuse.Feeds(input_shapes={"a": (0, 3, 8)}))


def test_odd_extents_are_drawn() -> None:
    proto = residual(NORM)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "n - 10"
    feeds = random_feeds(proto)
    assert feeds["a"].shape == feeds["b"].shape == (2, 7, 8)


@pytest.mark.parametrize("norm", [NORM, "y = RMSNormalization(x, scale)"])
def test_a_bfloat16_site_is_validated_by_its_kernel(norm: str) -> None:
    if not has_kernels([CPU]):
        pytest.skip("graphfuse's kernels are not built; onnxruntime has no bfloat16 Add on the CPU")
    needs_opset(23)
    ones = np.ones(8, helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    proto = residual(
        norm,
        inputs="bfloat16[B,S,8] a, bfloat16[B,S,8] b",
        outputs="bfloat16[B,S,8] y",
        constants={"scale": ones, "bias": ones},
        opset=23,
    )
    fused = graphfuse.fuse(proto).model
    report = graphfuse.validate(proto, fused, level="sites")
    assert report.passed
    assert [check.bound for check in report.checks if check.gate == "G1"] == [tolerance.OWN_KERNEL]
    double_epsilon_of(fused)
    assert {c.gate for c in graphfuse.validate(proto, fused, level="sites").failures} == {"G0"}

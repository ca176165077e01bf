"""A site whose fused node is wrong is found, named and put back; the rest is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse import fusing
from graphfuse.reasons import Reason
from graphfuse.records import Plan
from graphfuse.runtime import run, session
from graphfuse.validation import exposed, whole_model
from tests.graphs import model

LAYERS = 12
DAMAGED = 7

Damage = Callable[[onnx.NodeProto], None]


def stack() -> onnx.ModelProto:
    """Twelve pre-norm layers, scales and biases of their own."""
    rng = np.random.default_rng(0)
    text = ["x0 = Identity(a)"]
    constants: dict[str, np.ndarray] = {}
    for n in range(LAYERS):
        text += [
            f"f{n} = MatMul(x{n}, w{n})",
            f"x{n + 1} = Add(x{n}, f{n})" if n % 2 else f"x{n + 1} = Add(f{n}, x{n})",
            f"y{n} = LayerNormalization<epsilon=1e-5>(x{n + 1}, scale{n}, bias{n})",
            f"g{n} = Relu(y{n})",
        ]
        text.append(f"z{n} = Add(g{n}, {'a' if n == 0 else f'z{n - 1}'})")
        constants[f"w{n}"] = rng.normal(0, 0.3, (16, 16)).astype(np.float32)
        constants[f"scale{n}"] = rng.normal(1, 0.2, 16).astype(np.float32)
        constants[f"bias{n}"] = rng.normal(0, 0.2, 16).astype(np.float32)
    return model(
        "\n".join(text),
        inputs="float[B,S,16] a",
        outputs=f"float[B,S,16] z{LAYERS - 1}, float[B,S,16] x{LAYERS}",
        constants=constants,
    )


def epsilon(node: onnx.NodeProto) -> None:
    next(a for a in node.attribute if a.name == "epsilon").f *= 1.01


def scale(node: onnx.NodeProto) -> None:
    node.input[2], node.input[3] = node.input[3], node.input[2]


def operand(node: onnx.NodeProto) -> None:
    node.input[1] = node.input[0]


DAMAGES: list[Damage] = [epsilon, scale, operand]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "stack.onnx"
    onnx.save(stack(), path)
    return path


def damaging(monkeypatch: pytest.MonkeyPatch, damage: Damage, *outputs: str) -> None:
    """Let the rewriter be wrong at some sites."""
    sound = fusing.rewrite

    def wrong(proto: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
        result = sound(proto, plan)
        for node in result.graph.node:
            if node.domain == "graphfuse" and node.output[0] in outputs:
                damage(node)
        return result

    monkeypatch.setattr(fusing, "rewrite", wrong)


@pytest.mark.parametrize("level", ["fast", "full", "sites"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_wrong_site_alone_is_put_back(
    damage: Damage, level: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaging(monkeypatch, damage, f"y{DAMAGED}")
    output = stored.with_name("fused.onnx")
    result = graphfuse.optimize(stored, output, validation=level)
    assert len(result.fused) == LAYERS - 1
    [left] = [miss for miss in result.left if miss.reason is Reason.PUT_BACK]
    assert left.site == f"s{DAMAGED + 1}"
    assert "bound" in left.got
    assert result.validation is not None
    assert result.validation.passed
    written = onnx.load(output)
    kept = [node.output[0] for node in written.graph.node if node.domain == "graphfuse"]
    assert kept == [f"y{n}" for n in range(LAYERS) if n != DAMAGED]
    feeds = {"a": np.random.default_rng(1).normal(size=(2, 3, 16)).astype(np.float32)}
    for name, array in run(session(onnx.load(stored), Path()), feeds).items():
        found = run(session(written, Path()), feeds)[name]
        np.testing.assert_allclose(found, array, rtol=1e-4, atol=1e-5)


def test_several_are_put_back(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaging(monkeypatch, scale, "y2", "y3", "y9")
    result = graphfuse.optimize(stored, stored.with_name("fused.onnx"))
    assert len(result.fused) == LAYERS - 3


def test_strict_fails_and_writes_nothing(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaging(monkeypatch, epsilon, f"y{DAMAGED}")
    output = stored.with_name("fused.onnx")
    with pytest.raises(graphfuse.ValidationError, match=f"first site that differs is y{DAMAGED}"):
        graphfuse.optimize(stored, output, strict=True)
    assert not output.exists()


def test_what_is_put_back_counts_for_min_fused(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaging(monkeypatch, epsilon, "y0")
    with pytest.raises(graphfuse.GateError, match="11 of 12 sites"):
        graphfuse.optimize(stored, stored.with_name("o.onnx"), min_fused=LAYERS)


def test_all_of_them_wrong_leaves_the_model_as_it_was(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaging(monkeypatch, scale, *(f"y{n}" for n in range(LAYERS)))
    output = stored.with_name("fused.onnx")
    result = graphfuse.optimize(stored, output)
    assert not result.changed
    assert output.read_bytes() == stored.read_bytes()


def test_a_failure_that_no_site_is_to_blame_for_fails(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = fusing.rewrite

    def wrong(proto: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
        result = sound(proto, plan)
        for node in result.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Neg"
        return result

    monkeypatch.setattr(fusing, "rewrite", wrong)
    with pytest.raises(graphfuse.ValidationError, match="validation failed at"):
        graphfuse.optimize(stored, stored.with_name("o.onnx"))


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_node_that_goes_wrong_only_in_the_run_is_found(
    level: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No gate fails at any node alone: the first whose output leaves its bound is to blame."""

    def session_of_damaged(proto: onnx.ModelProto, *rest: Any, **options: Any) -> Any:
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        for node in copy.graph.node:
            if node.domain == "graphfuse" and node.output[0] == f"y{DAMAGED}":
                scale(node)
        return session(copy, *rest, **options)

    monkeypatch.setattr(whole_model, "session", session_of_damaged)
    monkeypatch.setattr(exposed, "session", session_of_damaged)
    result = graphfuse.optimize(stored, stored.with_name("fused.onnx"), validation=level)
    assert [miss.site for miss in result.left if miss.reason is Reason.PUT_BACK] == ["s8"]
    assert [miss.got[:2] for miss in result.left if miss.reason is Reason.PUT_BACK] == ["G2"]
    assert len(result.fused) == LAYERS - 1

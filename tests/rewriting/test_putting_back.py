"""A site whose fused node is wrong is found, named and put back; the rest is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.records import Check, FuseResult, Fusion, Plan, ValidationReport
from graphfuse.records.reasons import Reason
from graphfuse.rewriting.putting_back import Attempt, PuttingBack, most_validations
from graphfuse.running.sessions import run, session
from graphfuse.steps import fusing
from graphfuse.validation import inside, whole_model
from tests.support.graphs import model
from tests.support.stages import Stages

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
    result = graphfuse.optimize(stored, output, level=level)
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
    monkeypatch.setattr(inside, "session", session_of_damaged)
    result = graphfuse.optimize(stored, stored.with_name("fused.onnx"), level=level)
    assert [miss.site for miss in result.left if miss.reason is Reason.PUT_BACK] == ["s8"]
    assert [miss.got[:2] for miss in result.left if miss.reason is Reason.PUT_BACK] == ["G2"]
    assert len(result.fused) == LAYERS - 1


class Sites:
    """Stands for a model with many sites, some of which are wrong in the whole model alone.

    A validation names the first of the wrong ones that are fused, as `first_beyond` does.
    """

    def __init__(self, count: int, wrong: set[int], names: bool = True) -> None:
        self.ids = [f"s{n}" for n in range(count)]
        self.wrong = {f"s{n}" for n in wrong}
        self.names = names
        self.validations = 0
        self.progress = Stages()

    def result(self, put_back: Mapping[str, str]) -> FuseResult:
        fused = tuple(
            Fusion(SimpleNamespace(id=site), "", "", (), site)  # type: ignore[arg-type]
            for site in self.ids
            if site not in put_back
        )
        left = tuple(SimpleNamespace(site=site, got=why) for site, why in put_back.items())
        return FuseResult(
            proto=onnx.ModelProto(),
            target="cpu",
            scan=None,  # type: ignore[arg-type]
            fused=fused,
            left=left,
            nodes_before=0,
            nodes_after=0,
        )

    def failed(self, report: ValidationReport) -> graphfuse.ValidationError:
        return graphfuse.ValidationError("no site to blame")

    def judge(self, put_back: Mapping[str, str]) -> Attempt:
        self.validations += 1
        result = self.result(put_back)
        there = [f.site.id for f in result.fused if f.site.id in self.wrong]
        first = there[:1] if self.names or self.validations <= 4 else []
        checks = tuple(Check("G2", site, 2.0, 1.0, "", False) for site in there)
        report = ValidationReport(checks, ("cpu",), 0)
        if not there:
            result = replace(result, validation=report)
        return Attempt(result, report if result.fused else None, dict.fromkeys(first, "G2 is 2"))


def searched(sites: Sites) -> tuple[list[str], FuseResult]:
    result = PuttingBack(sites, sites.judge, strict=False).run()
    return [fusion.site.id for fusion in result.fused], result


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("wrong", [{700}, {3, 700}, {0, 5, 600, 1199}, {7, 8, 9, 10, 11}])
def test_a_few_wrong_sites_of_1200_are_found_in_few_validations(
    wrong: set[int], names: bool
) -> None:
    sites = Sites(1200, wrong, names)
    kept, result = searched(sites)
    assert sites.validations <= most_validations(1200) <= 40
    assert not set(kept) & sites.wrong
    assert result.validation is not None
    assert result.validation.passed
    assert any("sites were put back in" in note for note in result.notes)
    if names:
        assert set(kept) == set(sites.ids) - sites.wrong


def test_1200_sites_that_all_fail_are_put_back_in_a_bounded_number_of_validations() -> None:
    """One at a time they took 1,200 validations: over 11 minutes of a spinner without a count."""
    sites = Sites(1200, set(range(1200)))
    kept, result = searched(sites)
    assert kept == []
    assert sites.validations <= most_validations(1200) <= 40
    unjudged = [miss for miss in result.left if "not judged: the limit of" in miss.got]
    assert len(unjudged) > 1000
    assert f"{len(unjudged)} of them were put back unjudged" in result.notes[-1]
    assert any(f"of {most_validations(1200)}" in stage for stage in sites.progress.names)


def test_many_wrong_sites_leave_only_what_passed() -> None:
    sites = Sites(1200, set(range(0, 1200, 40)))
    kept, result = searched(sites)
    assert sites.validations <= most_validations(1200)
    assert not set(kept) & sites.wrong
    assert not kept or (result.validation is not None and result.validation.passed)


@pytest.mark.parametrize("level", ["fast"])
def test_sites_that_are_wrong_only_together_with_others_are_found_in_a_run(
    level: str, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five that no check of a node alone finds, one named by each validation of the whole."""
    bad = {f"y{n}" for n in (1, 2, 4, 7, 10)}

    def session_of_damaged(proto: onnx.ModelProto, *rest: Any, **options: Any) -> Any:
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        for node in copy.graph.node:
            if node.domain == "graphfuse" and node.output[0] in bad:
                scale(node)
        return session(copy, *rest, **options)

    monkeypatch.setattr(whole_model, "session", session_of_damaged)
    monkeypatch.setattr(inside, "session", session_of_damaged)
    result = graphfuse.optimize(stored, stored.with_name("fused.onnx"), level=level)
    assert {miss.site for miss in result.put_back} == {f"s{int(y[1:]) + 1}" for y in bad}
    assert len(result.fused) == LAYERS - len(bad)
    assert result.validation is not None
    assert result.validation.passed

"""G1 asks the original: what a provider gets wrong fused or not is no fault of the fused node.

onnxruntime's results are changed on their way back, so that these tests hold on every version.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.records import ValidationReport
from graphfuse.running.sessions import CPU, has_kernels
from graphfuse.system import libraries
from graphfuse.validation import alone, whole_model
from tests.conftest import MODELS
from tests.support.graphs import DECOMPOSED_RMS_NORM, model, residual

Damage = Callable[[np.ndarray], None]

ROW = 12
RMS_NORM = residual(DECOMPOSED_RMS_NORM)


class Runtime:
    """A provider with faults: in nodes run through their functions, in the original's, in ours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: dict[str, Damage] = {}
        self.originals = 0
        session, run = alone.session, alone.run

        def remember(*arguments: Any, kernels: bool, **options: Any) -> Any:
            return kernels, session(*arguments, kernels=kernels, **options)

        def damaged(made: Any, feeds: Any) -> Any:
            kernels, inner = made
            outputs = {name: array.copy() for name, array in run(inner, feeds).items()}
            if "Y" not in outputs:
                self.originals += 1
            which = next(iter(outputs)) if "Y" not in outputs else "own" if kernels else "fused"
            fault = self.faults.get(which) or self.faults.get("original" if "y" in which else "")
            if fault is not None:
                for name, array in outputs.items():
                    if name == "Y" or name.startswith("y"):
                        fault(array.reshape(-1, array.shape[-1]))
            return outputs

        monkeypatch.setattr(alone, "session", remember)
        monkeypatch.setattr(alone, "run", damaged)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    return Runtime(monkeypatch)


def lost(rows: np.ndarray) -> None:
    rows[ROW : ROW + 2] = np.nan


def half_lost(rows: np.ndarray) -> None:
    rows[ROW : ROW + 2, :4] = np.nan


def off(by: float, elements: slice = slice(None)) -> Damage:
    def damage(rows: np.ndarray) -> None:
        rows[ROW, elements] *= 1 + by

    return damage


def validated(proto: onnx.ModelProto = RMS_NORM) -> ValidationReport:
    return graphfuse.validate(proto, graphfuse.fuse(proto).model, level="sites")


def test_what_the_original_loses_as_well_is_a_note(runtime: Runtime) -> None:
    runtime.faults = {"fused": lost, "original": lost}
    report = validated()
    assert report.passed, report.failures
    [note] = report.notes
    assert f"onnxruntime {libraries.onnxruntime().__version__} loses 2 of 36 hard rows" in note
    assert "fused or not, at y" in note
    assert ("graphfuse's kernels do not" in note) == has_kernels([CPU])
    assert "2 rows lost, as in the original" in report.checks[-1].where


def test_what_only_the_fused_node_loses_fails(runtime: Runtime) -> None:
    runtime.faults = {"fused": lost}
    report = validated()
    assert [(c.gate, c.bound, c.value) for c in report.failures] == [("G1", 8.0, np.inf)]
    assert report.wrong == ("y",)
    assert report.notes == ()
    # The same rows, and more of their kind: none that it loses.
    assert runtime.originals == 1 + alone.LEAST_DRAWS


def test_what_the_original_loses_now_and_then_is_a_note(runtime: Runtime) -> None:
    """A difference of two sums is negative or not as they happen to be rounded."""

    def now_and_then(rows: np.ndarray) -> None:
        if runtime.originals % 5 == 4:
            lost(rows)

    runtime.faults = {"fused": lost, "original": now_and_then}
    report = validated()
    assert report.passed, report.failures
    assert runtime.originals == 4
    assert len(report.notes) == 1


def test_the_original_is_asked_only_then(runtime: Runtime) -> None:
    assert validated().passed
    assert runtime.originals == 0


@pytest.mark.parametrize(
    ("fused", "original", "passes"),
    [
        (lost, half_lost, False),
        (half_lost, lost, True),
        (off(0.0110), off(0.01), True),
        (off(0.0150), off(0.01), False),
        (off(0.01), off(0.0001), False),
        # As large, but everywhere: the original has one element wrong.
        (off(0.01), off(0.01, slice(1)), False),
        (off(0.01, slice(1)), off(0.01), True),
        (off(0.01), lost, True),
    ],
)
def test_rows_are_compared_one_by_one(
    fused: Damage, original: Damage, passes: bool, runtime: Runtime
) -> None:
    runtime.faults = {"fused": fused, "original": original}
    assert validated().passed == passes


def test_another_row_that_the_original_loses_excuses_nothing(runtime: Runtime) -> None:
    def another(rows: np.ndarray) -> None:
        rows[ROW + 5] = np.nan

    runtime.faults = {"fused": lost, "original": another}
    assert not validated().passed


def test_our_own_kernel_is_never_excused(runtime: Runtime) -> None:
    if not has_kernels([CPU]):
        pytest.skip("graphfuse's kernels are not built")
    runtime.faults = {"own": lost, "fused": lost, "original": lost}
    report = validated()
    assert [(check.gate, check.bound) for check in report.failures] == [("G1", 1.0)]
    assert not any("kernels do not" in note for note in report.notes)


def test_another_meaning_is_never_excused(runtime: Runtime) -> None:
    runtime.faults = {"fused": lost, "original": lost}
    fused = graphfuse.fuse(RMS_NORM).model
    next(a for n in fused.graph.node for a in n.attribute if a.name == "epsilon").f *= 2
    report = graphfuse.validate(RMS_NORM, fused, level="sites")
    assert {check.gate for check in report.failures} == {"G0", "G1"}
    assert runtime.originals == 0


def test_an_original_that_does_not_run_leaves_the_bound(runtime: Runtime) -> None:
    def fails(_: np.ndarray) -> None:
        raise RuntimeError("no kernel")

    runtime.faults = {"fused": lost, "original": fails}
    assert not validated().passed


def test_sites_that_are_alike_are_compared_with_their_own_originals(runtime: Runtime) -> None:
    """One run of the kernel speaks for both; what they replaced may differ."""
    norms = "".join(
        f"""
        x{n} = Add(a, {operand}) q{n} = Mul(x{n}, x{n})
        v{n} = ReduceMean<axes=[-1], keepdims=1>(q{n})
        e{n} = Add(v{n}, eps) r{n} = Sqrt(e{n}) n{n} = Div(x{n}, r{n}) y{n} = Mul(n{n}, scale)
        """
        for n, operand in ((0, "b"), (1, "y0"))
    )
    proto = model(norms, outputs="float[B,S,8] y1")
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 2
    runtime.faults = {"fused": lost, "y0": lost}
    report = graphfuse.validate(proto, result.model, level="sites")
    assert report.wrong == ("y1",)
    runtime.faults["y1"] = lost
    report = graphfuse.validate(proto, result.model, level="sites")
    assert report.passed
    assert "at 2 sites, such as y0" in report.notes[0]


def test_a_constant_operand_is_given_the_hard_rows_too(runtime: Runtime) -> None:
    constants = {"places": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}
    proto = model(
        "x = Add(a, places)" + DECOMPOSED_RMS_NORM, inputs="float[B,3,8] a", constants=constants
    )
    runtime.faults = {"fused": lost, "original": lost}
    report = validated(proto)
    assert report.passed, report.failures
    assert runtime.originals == 1


def test_activations_are_asked_of_the_original_too(runtime: Runtime) -> None:
    def all_lost(rows: np.ndarray) -> None:
        rows[:] = np.nan

    runtime.faults = {"fused": all_lost, "original": all_lost}
    fused = graphfuse.fuse(RMS_NORM).model
    report = graphfuse.validate(RMS_NORM, fused, level="full")
    assert report.passed, report.failures
    assert any("rows of the original's own run" in note for note in report.notes)
    runtime.faults["original"] = lost
    assert not graphfuse.validate(RMS_NORM, fused, level="full").passed


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "llama-float16", "gemma", "vit"])
@pytest.mark.parametrize("level", ["fast", "full"])
def test_no_site_is_put_back_on_any_onnxruntime(name: str, level: str, tmp_path: Path) -> None:
    path = MODELS / f"{name}.onnx"
    result = graphfuse.optimize(path, tmp_path / "o.onnx", strict=True, level=level)
    assert len(result.fused) == len(result.scan.sites)


def test_only_our_own_faults_are_to_be_reported(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(RMS_NORM, tmp_path / "m.onnx")

    def strict() -> str:
        with pytest.raises(graphfuse.ValidationError) as caught:
            graphfuse.optimize(tmp_path / "m.onnx", tmp_path / "o.onnx", strict=True)
        return caught.value.remedy

    runtime.faults = {"fused": lost}
    assert "report" not in strict()
    assert f"onnxruntime {libraries.onnxruntime().__version__} runs the node worse" in strict()
    if has_kernels([CPU]):
        runtime.faults = {"own": lost}
        assert "please report it" in strict()
    runtime.faults = {}
    run = whole_model.run

    def rounded_badly(*arguments: Any, **options: Any) -> Any:
        # The fused model's: the original's are run elsewhere.
        return {k: array * np.float32(1 + 1e-5) for k, array in run(*arguments, **options).items()}

    monkeypatch.setattr(whole_model, "run", rounded_badly)
    assert "--load-inputs" in strict()


@pytest.mark.parametrize("shape", ["float[B,S,8]", "float[2,3,8]"])
def test_a_last_reshape_that_changes_nothing_is_no_hindrance(shape: str) -> None:
    """PyTorch's exporter writes one whose shape is read from an input of the model."""
    proto = residual(
        "n = LayerNormalization(x, scale, bias) s = Shape(c) y = Reshape(n, s)",
        inputs=f"{shape} a, {shape} b, {shape} c",
        outputs=f"{shape} y",
    )
    fused = graphfuse.fuse(proto).model
    assert [node.op_type for node in fused.graph.node] == ["AddLayerNormalization"]
    report = graphfuse.validate(proto, fused, level="sites")
    assert report.passed
    assert report.unpaired == ()
    assert {check.gate for check in report.checks} == {"G0", "G1"}
    next(a for a in fused.graph.node[0].attribute if a.name == "epsilon").f *= 1.01
    assert not graphfuse.validate(proto, fused, level="sites").passed

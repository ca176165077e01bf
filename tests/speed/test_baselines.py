"""What a fused model is timed beside: the default session, and the best that anybody can have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import graphfuse
from graphfuse.kernels import why_not
from graphfuse.planning import runtimes
from graphfuse.running.random_feeds import Sizes
from graphfuse.speed import timing
from graphfuse.speed.contests import missed_speedup
from graphfuse.speed.measurements import (
    BEST,
    FUSED,
    ORIGINAL,
    PLAIN,
    BenchOptions,
    BenchReport,
    Comparison,
    Figures,
    Speedup,
)
from graphfuse.speed.timing import Interval
from tests.campaigns.benchmarks.fair import measure, without_norms
from tests.conftest import MODELS, Shell


def _report(median: float) -> BenchReport:
    figures = Figures(1.0, (1.0, 1.0))
    interval = Interval(median - 0.01, median, median + 0.01)
    cases = [
        Comparison("cpu", "CPUExecutionProvider", 1, "seed 0", {}, figures, figures, speedup, 15)
        for speedup in (Interval(2.0, 2.0, 2.0), interval)
    ]
    return BenchReport({}, tuple(cases))


def test_the_gate_judges_the_worst_case() -> None:
    assert missed_speedup(_report(1.0), 1.0) is None
    missed = missed_speedup(_report(0.98), 1.0)
    assert missed is not None
    assert "0.980 times as fast" in str(missed)
    assert missed.exit_code == 6


def test_the_gate_fails_nothing_that_noise_explains() -> None:
    """An identical file is at 0.99 as often as at 1.01: the interval holds 1."""
    assert missed_speedup(_report(0.991), 1.0) is None


def test_the_gate_judges_beside_the_original_at_its_best() -> None:
    """Twice the speed of a default session is nothing where an option alone gives that."""
    (_, found) = _report(2.0).comparisons
    pairs = (
        Speedup(FUSED, ORIGINAL, found.speedup),
        Speedup(FUSED, BEST, Interval(0.9, 0.95, 0.98)),
    )
    report = BenchReport({}, (replace(found, speedups=pairs),))
    assert "0.950 times as fast as the original at its best" in str(missed_speedup(report, 1.0))


@pytest.mark.parametrize("version", ["1.29.0", "1.32.0"])
def test_the_original_runs_at_its_best_too(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an onnxruntime has slow fusions, the original is timed without them; never silently."""
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(runtimes, "installed", lambda: version)
    fused = tmp_path / "fused.onnx"
    graphfuse.optimize(MODELS / "bert.onnx", fused, level="none")
    pair = (MODELS / "bert.onnx", fused)
    options = BenchOptions(0.0, sizes=(Sizes(1, 4),), look_inside=False, memory=False)
    (found,) = graphfuse.bench(*pair, options=options).comparisons
    beside = {(one.of, one.beside) for one in found.speedups}
    assert (found.best is not None) == bool(runtimes.runtime(version).slow_fusions)
    assert ((FUSED, BEST) in beside) == (found.best is not None)
    assert {(FUSED, ORIGINAL), (PLAIN, ORIGINAL)} <= beside
    (plain,) = graphfuse.bench(*pair, options=replace(options, kernels=False)).comparisons
    assert plain.plain is None, "it is `fused` itself"


def test_the_limit_is_a_model_whose_sums_and_norms_are_free() -> None:
    result = graphfuse.fuse(MODELS / "bert.onnx")
    bare = without_norms(result)
    onnx.checker.check_model(bare, full_check=True)
    left = {node.op_type for node in bare.graph.node}
    assert not any("Normalization" in name for name in left)
    # Nothing else goes, or it would be no limit of what a fusion can bring.
    before = [node.op_type for node in result.model.graph.node]
    after = [node.op_type for node in bare.graph.node]
    for name in ("MatMul", "Softmax", "Tanh", "Gather"):
        assert before.count(name) == after.count(name) > 0


def test_the_fair_benchmark_has_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    options = BenchOptions(0.0, sizes=(Sizes(1, 4),), look_inside=False, memory=False)
    figures = measure(MODELS / "bert.onnx", options)
    assert figures["sites"] == 5
    assert {"plain", "left", "could"} <= set(figures)


def test_the_report_names_what_each_figure_is_beside(shell: Shell, tmp_path: Path) -> None:
    if why_not():
        pytest.skip(why_not())
    graphfuse.optimize(MODELS / "bert.onnx", tmp_path / "fused.onnx", level="none")
    options = ("--sizes", "1x4", "--seconds", "0", "--threads", "1", "--no-memory")
    run = shell("bench", MODELS / "bert.onnx", "fused.onnx", *options)
    assert run.returncode == 0, run.stderr
    assert "beside original" in run.stdout
    assert "fused, plain session" in run.stdout
    assert ("original, slow fusions off" in run.stdout) == bool(runtimes.runtime().slow_fusions)

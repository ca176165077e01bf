"""graphfuse bench: what is measured and reported. No test depends on how fast anything is."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.planning.targets import target
from graphfuse.running import profiler
from graphfuse.running.random_feeds import Sizes
from graphfuse.speed import contests, site_timing, timing
from graphfuse.speed.measurements import BenchOptions
from graphfuse.speed.timing import Timing, pinned
from tests.conftest import MODELS, Shell
from tests.support.graphs import model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
QUICK = BenchOptions(0.0, (1,), (Sizes(1, 8),), look_inside=True, memory=False)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures do not matter here, so nothing has to settle."""
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    original, fused = folder / "original.onnx", folder / "fused.onnx"
    onnx.save(onnx.load(MODELS / "bert.onnx"), original)
    graphfuse.optimize(original, fused, level="none")
    return original, fused


def test_speedup_is_the_median_of_the_pairs_with_an_interval_by_rank() -> None:
    ratios = [1.0 + 0.01 * k for k in range(25)]
    fast = Timing(tuple(1.0 for _ in ratios))
    found = fast.speedup(Timing(tuple(ratios)))
    assert found.median == pytest.approx(statistics.median(ratios))
    # The sign test at 95 % with 25 pairs: the 8th smallest and the 8th largest.
    assert (found.low, found.high) == (pytest.approx(ratios[7]), pytest.approx(ratios[-8]))


@pytest.mark.parametrize("count", [6, 9, 15, 40, 101])
def test_the_interval_holds_the_median_with_the_promised_probability(count: int) -> None:
    pairs = tuple(float(k) for k in range(1, count + 1))
    rank = round(Timing(tuple(1.0 for _ in pairs)).speedup(Timing(pairs)).low) - 1
    outside = 2 * sum(math.comb(count, below) for below in range(rank + 1)) / 2**count
    assert outside <= 0.05
    assert outside + 2 * math.comb(count, rank + 1) / 2**count > 0.05


def test_contenders_take_turns_in_a_turning_order() -> None:
    seen: list[str] = []
    calls = {name: lambda name=name: seen.append(name) for name in "abc"}
    timings = timing.paired(calls, 0.0, rounds=6)
    assert {name: len(found.samples) for name, found in timings.items()} == dict.fromkeys("abc", 6)
    firsts = [
        name for name, other in zip(seen[-36:], ["", *seen[-36:]], strict=False) if name != other
    ]
    assert firsts[-9:] != sorted(firsts[-9:])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no threads")
def test_pinning_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pinned(min(2, len(before))) as threads:
        inside = os.sched_getaffinity(0)
        assert threads.count == min(2, len(before))
        assert len(inside) == 1 or len(before) == 1
        if threads.others:
            assert int(threads.others) - 1 in before - inside
    assert os.sched_getaffinity(0) == before


def test_more_threads_than_processors_are_not_pinned() -> None:
    with pinned(4096) as threads:
        assert threads.others == ""


# Two models.


def test_a_comparison_has_what_is_promised(pair: tuple[Path, Path]) -> None:
    report = graphfuse.bench(*pair, options=QUICK)
    (found,) = report.comparisons
    assert found.provider == "CPUExecutionProvider"
    assert found.shapes["input_ids"] == (1, 8)
    assert found.pairs >= 15
    assert 0 < found.speedup.low <= found.speedup.median <= found.speedup.high
    for figures in (found.original, found.fused):
        assert figures.quartiles[0] <= figures.median <= figures.quartiles[1]
        assert figures.profile is not None
        assert sum(figures.profile.shares.values()) == pytest.approx(1)
        assert 0 < figures.profile.norms < 1
    assert found.original.profile is not None
    assert found.fused.profile is not None
    assert not {"AddLayerNormalization"} & set(found.original.profile.shares)
    if report.environment["kernels"] == "registered":
        assert "AddLayerNormalization" in found.fused.profile.shares
        assert set(found.fused.profile.providers.values()) == {"CPUExecutionProvider"}


def test_without_kernels_the_functions_run(pair: tuple[Path, Path]) -> None:
    options = BenchOptions(0.0, (1,), (Sizes(1, 8),), kernels=False, memory=False)
    (found,) = graphfuse.bench(*pair, options=options).comparisons
    assert found.fused.profile is not None
    assert "AddLayerNormalization" not in found.fused.profile.shares


def test_load_time_and_memory_are_those_of_processes_of_their_own(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphfuse.speed.footprint.PROCESSES", 1)
    options = BenchOptions(0.0, (1,), (Sizes(1, 8),), look_inside=False)
    (found,) = graphfuse.bench(*pair, options=options).comparisons
    for figures in (found.original, found.fused):
        assert figures.footprint is not None
        assert 0 < figures.footprint.load < 600
        assert 2**24 < figures.footprint.memory < 2**34
        assert 0 <= figures.footprint.grown < figures.footprint.memory
        assert figures.footprint.device is None


def test_an_input_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeds travel to the processes in a file whose writer has arguments of its own."""
    monkeypatch.setattr("graphfuse.speed.footprint.PROCESSES", 1)
    from graphfuse.files.model_file import Model
    from graphfuse.speed.bound_runs import Contender, SessionKind
    from graphfuse.speed.footprint import footprints
    from graphfuse.speed.timing import Threads

    proto = residual("y = LayerNormalization(x, scale, bias)")
    for value, name in zip(proto.graph.input, ("file", "allow_pickle"), strict=True):
        proto.graph.node[0].input[:] = ["file", "allow_pickle"]
        value.name = name
    feeds = {name: np.ones((1, 2, 8), np.float32) for name in ("file", "allow_pickle")}
    contender = Contender("one", Model(proto), SessionKind.DEFAULT)
    (found,) = footprints([contender], "CPUExecutionProvider", Threads(1), feeds).values()
    assert found.load > 0


def test_the_peak_is_that_of_the_process_and_not_of_its_parent() -> None:
    """What a process had when it started another is in the other's ru_maxrss."""
    import subprocess
    import sys

    ballast = np.ones(2**25)  # 256 MiB
    code = "from graphfuse.speed.footprint import peak_memory; print(peak_memory())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**20 < int(told.stdout) < ballast.nbytes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "bool", "int64", "object"])
def test_feeds_of_any_type_reach_the_processes(dtype: str, tmp_path: Path) -> None:
    from graphfuse.speed.footprint import feed_type, read_feeds, write_feeds

    number = 16 if dtype == "bfloat16" else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    array = np.array([["1", ""], ["0", "1"]], object)
    if dtype != "object":
        array = np.eye(2).astype(onnx.helper.tensor_dtype_to_np_dtype(number))
    write_feeds(tmp_path / "feeds.npz", [array, array[0, 0:1]])
    whole, part = read_feeds(tmp_path / "feeds.npz", [feed_type(array)] * 2)
    assert whole.dtype == part.dtype == array.dtype
    assert whole.tolist() == array.tolist()
    assert part.tolist() == array[0, 0:1].tolist()


def test_given_feeds_are_measured(pair: tuple[Path, Path]) -> None:
    inputs = [
        {name: np.ones((1, size), np.int64) for name in ("input_ids", "attention_mask")}
        for size in (3, 5)
    ]
    report = graphfuse.bench(*pair, options=QUICK, feeds=inputs)
    assert [found.shapes["input_ids"] for found in report.comparisons] == [(1, 3), (1, 5)]


def test_each_iteration_has_its_own_seed(pair: tuple[Path, Path]) -> None:
    report = graphfuse.bench(*pair, options=QUICK, feeds=graphfuse.Feeds(seed=4, iterations=2))
    assert [found.feed.partition(",")[0] for found in report.comparisons] == ["seed 4", "seed 5"]


def test_sizes_that_the_model_does_not_take_are_passed_over(pair: tuple[Path, Path]) -> None:
    """models/bert.onnx has 64 positions; 128 are tried first."""
    options = BenchOptions(0.0, (1,), look_inside=False, memory=False)
    (found,) = graphfuse.bench(*pair, options=options).comparisons
    assert found.shapes["input_ids"] == (1, 64)


def test_sizes_that_are_asked_for_must_run(pair: tuple[Path, Path]) -> None:
    options = BenchOptions(0.0, (1,), (Sizes(1, 4000),), look_inside=False, memory=False)
    with pytest.raises(graphfuse.OriginalModelError, match="does not run") as caught:
        graphfuse.bench(*pair, options=options)
    assert caught.value.exit_code == 4


def test_an_original_without_an_end_is_stopped() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[B,8] a) => (float[B,8] y) <bool yes = {1}> {
            y = Loop(, yes, a) <body = body (int64 i, bool c, float[B,8] s) => (bool d, float[B,8] t)
                { d = Identity(c) t = Neg(s) }>
        }
    """
    proto = onnx.parser.parse_model(text)
    with pytest.raises(graphfuse.OriginalModelError, match="did not end within 1 seconds"):
        graphfuse.bench(proto, proto, options=QUICK, feeds=graphfuse.Feeds(run_limit=1))


def test_a_fused_model_that_does_not_run_is_the_fused_models_fault(tmp_path: Path) -> None:
    inputs = "float[B,S,8] a, float[B,S,8] b"
    broken = model("n = NonZero(a)\nx = Reshape(b, n)\ny = Identity(x)", inputs=inputs)
    with pytest.raises(graphfuse.ValidationError, match="the fused model does not run"):
        graphfuse.bench(residual(NORM), broken, options=QUICK)


def test_fused_nodes_that_fell_back_are_an_error_that_names_them() -> None:
    nodes = {
        profiler.ProfiledNode("mine", "AddLayerNormalization", "CPUExecutionProvider"): 1.0,
        profiler.ProfiledNode("other", "MatMul", "CPUExecutionProvider"): 1.0,
    }
    profiler.require_fused_on(nodes, "CPUExecutionProvider")
    with pytest.raises(graphfuse.ProviderError, match="'mine', ran on CPU") as caught:
        profiler.require_fused_on(nodes, "CUDAExecutionProvider")
    assert caught.value.exit_code == 5


def test_time_in_a_loop_is_counted_once_and_the_first_run_not_at_all() -> None:
    def event(name: str, start: int, duration: int) -> dict[str, object]:
        arguments = {"op_name": name, "provider": "here"}
        name += profiler.SUFFIX
        return {"cat": "Node", "name": name, "ts": start, "dur": duration, "args": arguments}

    events: list[dict[str, object]] = []
    for run, slow in ((0, 10), (1000, 1), (2000, 1)):
        events += [event("Add", run + 5 + 20 * k, 2 * slow) for k in range(3)]
        events += [event("Loop", run, 80), event("Add", run + 80, 0), event("Relu", run + 80, 7)]
    found = {node.op_type: time for node, time in profiler.spent(events, 2).items()}
    assert found == {"Loop": 2 * (80 - 3 * 2), "Add": 2 * 3 * 2, "Relu": 2 * 7}


def test_one_run_that_is_interrupted_does_not_count() -> None:
    assert profiler._typical([50.0, 50.0, 1.0, 2.0, 1.0, 900.0, 2.0, 1.0], 3) == 3 * 3.0
    assert profiler._typical([5.0, 1.0], 2) == 6.0  # a branch that not every run takes


# Sites alone.


def test_each_distinct_site_is_timed_once() -> None:
    options = BenchOptions(0.0, (1,), (Sizes(1, 8),))
    report = graphfuse.bench(MODELS / "bert.onnx", None, options=options)
    ids = [site for found in report.sites for site in found.sites]
    assert sorted(ids) == sorted(site.id for site in graphfuse.scan(MODELS / "bert.onnx").sites)
    assert len(report.sites) < len(ids)
    for found in report.sites:
        assert found.shape == (1, 8, 32)
        assert found.forms["original"] > 0
        assert set(found.speedups) == set(found.forms) - {"original"}
        assert found.best in found.forms
    assert any("folded" in found.forms for found in report.sites)


def test_sites_have_the_extents_that_the_user_gives() -> None:
    options = BenchOptions(0.0, (1,))
    proto = residual(NORM)
    report = graphfuse.bench(
        proto, None, options=options, feeds=graphfuse.Feeds(input_shapes={"a": (2, 3, 8)})
    )
    assert [found.shape for found in report.sites] == [(2, 3, 8)]
    for wrong in ({"nosuch": (1,)}, {"a": (2, 3)}):
        with pytest.raises(graphfuse.UsageError, match=r"no input 'nosuch'|has 3 axes"):
            graphfuse.bench(proto, None, options=options, feeds=graphfuse.Feeds(input_shapes=wrong))


@pytest.mark.parametrize("sequence", [7, 64])
def test_an_operand_has_the_extents_of_its_sum(sequence: int) -> None:
    given = graphfuse.Feeds(input_shapes={"input_ids": (3, sequence)})
    report = graphfuse.bench(MODELS / "bert.onnx", None, options=QUICK, feeds=given)
    assert not report.notes
    assert {found.shape for found in report.sites} == {(3, sequence, 32)}


def test_a_part_that_does_not_run_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = site_timing.Tuner._fused

    def breaks(self: site_timing.Tuner, cut: site_timing.SiteModel, forms: Sequence[str]) -> Any:
        if cut.site.id == "s1":
            raise RuntimeError("no such kernel")
        return fused(self, cut, forms)

    monkeypatch.setattr(site_timing.Tuner, "_fused", breaks)
    report = graphfuse.bench(MODELS / "bert.onnx", None, options=QUICK)
    assert report.notes == ("s1 cannot be timed alone: no such kernel",)
    assert report.sites


def test_a_model_without_sites_says_so() -> None:
    report = graphfuse.bench(model("y = Relu(a)", inputs="float[B,S,8] a"), None, options=QUICK)
    assert report.notes == ("the model has no sites",)


@pytest.mark.parametrize("outputs", ["float[B,S,8] y", "float[B,S,8] y, float[B,S,8] x"])
def test_a_chain_computes_what_its_links_do_in_turn(outputs: str) -> None:
    """What is timed is the site's own arithmetic, several times over."""
    import onnxruntime as ort

    from graphfuse.files.model_file import Model
    from graphfuse.speed.timing import Threads

    proto = residual(NORM, outputs=outputs)
    (site,) = graphfuse.scan(proto).sites
    tuner = site_timing.Tuner(Model(proto), target("cpu"), Threads(1), Sizes(1, 3))
    cut = tuner._cut(site, {site.a: site.shape, site.b: site.shape})
    assert cut is not None
    chained = site_timing._chain(cut.part.proto, cut)
    assert cut.length == len(chained.graph.node) / 2 == site_timing.LONGEST_CHAIN
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((1, 3, 8)).astype(np.float32) for _ in "ab")
    one, many = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        for m in (proto, chained)
    )
    wanted = one.run(None, {"a": a, "b": b})
    for _ in range(cut.length - 1):
        y, *total = wanted
        wanted = one.run(None, {"a": total[0], "b": y} if total else {"a": y, "b": b})
    got = many.run([value.name for value in proto.graph.output], {"a": a, "b": b})
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_site_in_a_function_is_left_to_the_table() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[B,S,8] a, float[B,S,8] b, float[8] scale, float[8] bias) => (float[B,S,8] y) {
            y = own.norm(a, b, scale, bias)
        }
        <domain: "own", opset_import: ["" : 17]>
        norm (a, b, scale, bias) => (y) {
            x = Add(a, b)
            z = Identity(x)
            w = LayerNormalization(z, scale, bias)
            y = Relu(w)
        }
    """
    proto = onnx.parser.parse_model(text)
    report = graphfuse.bench(proto, None, options=QUICK)
    inside = [site for site in graphfuse.scan(proto).sites if site.scope.function is not None]
    assert len([note for note in report.notes if "cannot be timed" in note]) == len(inside)


# The command.


def test_the_command_prints_json_and_gates(pair: tuple[Path, Path], shell: Shell) -> None:
    options = ("--seconds", "0", "--sizes", "1x4,2x4", "--threads", "1", "--no-memory")
    run = shell("bench", *pair, *options, "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["command"] == "bench"
    assert [case["shapes"]["input_ids"] for case in document["comparisons"]] == [[1, 4], [2, 4]]
    gated = shell("bench", *pair, *options, "--no-profile", "--require-speedup", "1000")
    assert gated.returncode == 6
    assert "--require-speedup asks for 1000" in gated.stderr
    assert "times faster" in gated.stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("a.onnx",), "name two models, or one with --sites"),
        (("a.onnx", "b.onnx", "--sites"), "name two models, or one with --sites"),
        (("a.onnx", "--sites", "--require-speedup", "1"), "--sites goes without --require-speedup"),
        (("a.onnx", "--sites", "--no-kernels"), "--sites goes without --no-kernels"),
        (("a.onnx", "--sites", "--val-range", "[0,1]"), "--sites goes without an option for feeds"),
        (("a.onnx", "b.onnx", "--sizes", "1,128"), "cannot read the size"),
        (("a.onnx", "b.onnx", "--threads", "0"), "cannot read the numbers of threads"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...], what: str, shell: Shell) -> None:
    run = shell("bench", *arguments)
    assert run.returncode == 2
    assert what in run.stderr


def test_usual_sizes_begin_with_128_positions() -> None:
    assert (contests.BENCH_SIZES[0].batch, contests.BENCH_SIZES[0].later) == (1, 128)

"""What a plan knows of costs: the table, autotuning, and what is left because it would not win."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.planning import costs, runtimes, targets
from graphfuse.planning.plan import plan
from graphfuse.records import Cost
from graphfuse.records.progress import SILENT
from graphfuse.records.reasons import Reason
from graphfuse.speed import autotune, site_timing, timing
from graphfuse.speed import cost_tables as measuring
from graphfuse.speed.measurements import SiteTiming
from graphfuse.speed.timing import Interval
from tests.conftest import MODELS, Shell
from tests.support.graphs import DECOMPOSED_RMS_NORM, model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
ONES = ((1.0, 1.0), (1.0, 1.0))
CURVE = costs.Curve((1, 100), (8, 512), ((2.0, 4.0), (8.0, 32.0)), ONES, ONES, ONES)
NEWEST = runtimes.table()[-1]["onnxruntime"]


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures do not matter here, so nothing has to settle."""
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)


# The table.


@pytest.mark.parametrize(
    ("rows", "hidden", "speedup"),
    [
        (1, 8, 2.0),
        (100, 512, 32.0),
        (10, 8, 4.0),  # halfway in the logarithm of rows: the geometric mean
        (1, 64, math.sqrt(2.0 * 4.0)),
        (10, 64, (2.0 * 4.0 * 8.0 * 32.0) ** 0.25),
        (10**6, 10**6, 32.0),  # beyond the grid the last point holds
        (1, 1, 2.0),
    ],
)
def test_speedups_are_interpolated_in_logarithms(rows: int, hidden: int, speedup: float) -> None:
    assert CURVE.speedup(rows, hidden) == pytest.approx(speedup)


def test_unknown_rows_are_judged_by_the_worst_number_of_them() -> None:
    (site,) = graphfuse.scan(residual(NORM)).sites
    runtime = runtimes.runtime(NEWEST)
    cost = costs.predict(targets.target("cpu"), site, runtime)
    assert cost is not None
    curves = costs.tables()[costs.family(runtime)]["cpu"]["LayerNorm float32 no sum"]
    least = min(curve.speedup(rows, 8) for curve in curves for rows in curve.rows)
    assert cost.speedup == pytest.approx(least)
    assert cost.where == "any rows of 8"


def test_the_table_that_ships_covers_every_type_and_norm() -> None:
    """Measured by `python -m graphfuse.speed.cost_tables`, with one thread at the least."""
    document = json.loads((Path(costs.__file__).parent / costs.FILE).read_text())
    names = {
        costs.case(kind, elem_type, read)
        for kind in ("LayerNorm", "RMSNorm")
        for elem_type in targets.target("cpu").rows[kind].elem_types
        for read in (True, False)
    }
    for family in document["families"]:
        assert family["environment"]["onnxruntime"] == family["onnxruntime"]
        assert {curve["threads"] for curve in family["curves"]} >= {1}
        assert set(costs.tables()[family["onnxruntime"]]["cpu"]) == names
    assert {runtimes.parse_version(name) for name in costs.tables()} >= {(1, 24), (1, 29)}


@pytest.mark.parametrize(
    ("version", "family"),
    [("1.20", (1, 24)), ("1.26", (1, 24)), ("1.27", (1, 29)), ("1.30", (1, 32)), ("1.99", (1, 32))],
)
def test_a_version_is_judged_by_the_table_that_is_most_like_it(
    version: str, family: tuple[int, int]
) -> None:
    found = costs.family(runtimes.runtime(version))
    assert runtimes.parse_version(found) == family
    (site,) = graphfuse.scan(residual(NORM)).sites
    cost = costs.predict(targets.target("cpu"), site, runtimes.runtime(version))
    assert cost is not None
    assert cost.runtime == found


def test_narrow_rows_are_looked_up_among_narrow_rows() -> None:
    """The grid that is measured by default begins at 8 elements: 24 lie between 16 and 32."""
    hidden = list(measuring.HIDDEN)
    assert hidden == sorted(set(hidden))
    assert {8, 16, 32, 64, 512, 4096} <= set(hidden)
    pair = [[float(width) for width in hidden]] * len(measuring.ROWS)
    fused = [[1.0] * len(hidden)] * len(measuring.ROWS)
    grids = {"pair": pair, "fused": fused, "bias": fused, "folded": fused}
    family = {
        "onnxruntime": NEWEST,
        "rows": list(measuring.ROWS),
        "hidden": hidden,
        "curves": [{"target": "cpu", "case": "c", **grids}],
    }
    (curve,) = costs.parse({"schema": costs.SCHEMA, "families": [family]})[NEWEST]["cpu"]["c"]
    # A curve that is a straight line in logarithms is met everywhere between its ends.
    for width in (8, 12, 24, 48, 63, 64, 4096):
        assert curve.speedup(100, width) == pytest.approx(width)
    assert curve.speedup(100, 3) == pytest.approx(8)


def test_a_table_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 99"):
        costs.parse({"schema": 99})


GOOD = {
    "onnxruntime": "1.32.0",
    "rows": [1, 8],
    "hidden": [8],
    "curves": [
        {
            "target": "cpu",
            "case": "c",
            **{key: [[1.0], [1.0]] for key in ("pair", "fused", "bias", "folded")},
        }
    ],
}


def _document(**changes: object) -> str:
    return json.dumps({"schema": costs.SCHEMA, "families": [GOOD | changes]})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'schema'"),
        ('{"schema": 99}', "schema 99"),
        (f'{{"schema": {costs.SCHEMA}, "families": []}}', "no family"),
        (_document(rows=[8, 1]), "do not increase"),
        (_document(rows=[1, 2, 3]), "no time for each point"),
        (_document().replace("[1.0]", "[0.0]"), "no time for each point"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(
    text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / costs.FILE).write_text(text)
    monkeypatch.setattr(costs, "files", lambda _: tmp_path)
    monkeypatch.setattr(costs, "tables", costs.tables.__wrapped__)
    with pytest.raises(graphfuse.GraphfuseError, match=what) as caught:
        graphfuse.fuse(residual(NORM))
    assert "--no-costs" in str(caught.value)
    assert graphfuse.fuse(residual(NORM), selection=graphfuse.Selection(costs="none")).changed


def test_a_file_for_several_targets_wins_on_each_that_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _table(0.9, monkeypatch)
    for ep in ("cpu,cuda", "cuda,cpu", "portable,cpu"):
        assert graphfuse.fuse(residual(NORM), ep=ep).reasons() == {Reason.SLOWER: 1}
    assert graphfuse.fuse(residual(NORM), ep="cuda").changed


def test_nothing_is_known_of_a_target_that_was_not_measured() -> None:
    (site,) = graphfuse.scan(residual(NORM)).sites
    assert costs.predict(targets.target("cuda"), site) is None
    assert graphfuse.fuse(residual(NORM), ep="cuda").changed


def test_the_command_measures_a_table_that_can_be_read(tmp_path: Path, no_rest: None) -> None:
    if measuring.environment()["kernels"] != "registered":
        pytest.skip("graphfuse's kernels are not built")
    path = tmp_path / "costs.json"
    options = ["--type", "float32", "--threads", "1", "--rows", "2", "1", "--hidden", "8", "16"]
    assert measuring.main(["-o", str(path), *options]) == 0
    (tables,) = costs.parse(json.loads(path.read_text())).values()
    found = tables["cpu"]
    assert len(found) == 4
    assert all(len(curves) == 1 for curves in found.values())


def test_the_command_needs_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "why_not", lambda: "no compiler was there")
    with pytest.raises(SystemExit) as caught:
        measuring.main(["-o", str(tmp_path / "costs.json")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: no compiler was there\n")


# The plan.


def _table(speedup: float, monkeypatch: pytest.MonkeyPatch, folding: float = 2.0) -> None:
    """A table in which a fused node is so many times faster everywhere, and one with its bias."""
    ten = ((10.0,),)
    curve = costs.Curve((1,), (8,), ((10 * speedup,),), ten, ((10 * folding - 10.0,),), ten)
    names = {
        f"{kind} float32 {read}" for kind in ("LayerNorm", "RMSNorm") for read in ("sum", "no sum")
    }
    found = {NEWEST: {"cpu": {key: [curve] for key in names}}}
    monkeypatch.setattr(costs, "tables", lambda: found)


@pytest.mark.parametrize("norm", [NORM, DECOMPOSED_RMS_NORM])
def test_a_site_that_would_be_slower_is_left(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _table(0.9, monkeypatch)
    result = graphfuse.fuse(residual(norm))
    assert not result.changed
    assert [miss.reason for miss in result.left] == [Reason.SLOWER]
    assert "0.90 times as fast" in result.left[0].got
    assert graphfuse.fuse(residual(norm), selection=graphfuse.Selection(costs="none")).changed
    assert graphfuse.fuse(residual(norm), ep="portable").changed
    _table(1.1, monkeypatch)
    assert graphfuse.fuse(residual(norm)).changed


def test_what_no_model_shows_is_no_loss() -> None:
    """One row of eight elements: 0.3 in place of 0.2 microseconds; 4,096 rows are another thing."""
    grids = [((0.2,), (20.0,)), ((0.3,), (30.0,)), ((1.0,), (1.0,)), ((1.0,), (1.0,))]
    curve = costs.Curve((1, 4096), (8,), *grids)
    assert curve.speedup(1, 8) == pytest.approx(curve.speedup(4096, 8)) == pytest.approx(2 / 3)
    assert curve.wins(1, 8)
    assert not curve.wins(4096, 8)


def test_other_refusals_come_before_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    _table(0.9, monkeypatch)
    result = graphfuse.fuse(residual(NORM), selection=graphfuse.Selection(exclude=["s1"]))
    assert [miss.reason for miss in result.left] == [Reason.EXCLUDED]


def test_what_was_measured_here_comes_before_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    _table(0.5, monkeypatch)
    source = Model(residual(NORM))
    scan = graphfuse.scan(source.proto)
    wins = Cost("s1", "autotune", 1.5, "here")
    assert plan(source, scan, targets.target("cpu"), measured={"s1": wins}).costs == (wins,)
    loses = Cost("s1", "autotune", 1.0, "here", wins=False)
    (left,) = plan(source, scan, targets.target("cpu"), measured={"s1": loses}).left
    assert left.reason is Reason.SLOWER


def test_a_bias_is_folded_where_that_was_measured_to_win() -> None:
    source = Model(model(f"c = Add(b, bias)\nx = Add(a, c)\n{NORM}"))
    scan = graphfuse.scan(source.proto)
    for folds in (True, False):
        cost = Cost("s1", "autotune", 1.5, "here", folds=folds)
        (fusion,) = plan(source, scan, targets.target("cpu"), measured={"s1": cost}).fusions
        assert fusion.op_type == f"Add{'Bias' if folds else ''}LayerNormalization"


BIASED = f"p = MatMul(b, weight)\nc = Add(p, bias)\nx = Add(a, c)\n{NORM}"
WEIGHT = {"weight": np.eye(8, dtype=np.float32)}


@pytest.mark.parametrize(
    ("text", "inputs", "folding", "folds"),
    [
        (BIASED, "float[B,S,8] a, float[B,S,8] b", 1.2, True),
        (BIASED, "float[B,S,8] a, float[B,S,8] b", 0.9, False),
        # onnxruntime makes a Gemm of the MatMul and the bias.
        (BIASED, "float[2,3,8] a, float[2,3,8] b", 1.2, False),
        (BIASED, "float[B,8] a, float[B,8] b", 1.2, False),
        # The product of a quantized model takes the bias in.
        (BIASED.replace("p = MatMul(b, weight)", "p = Mul(b, b)"), "float[B,S,8] a, float[B,S,8] b", 1.2, False),
    ],
)  # fmt: skip
def test_a_bias_is_folded_by_default_where_the_table_says_that_it_wins(
    text: str, inputs: str, folding: float, folds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _table(1.5, monkeypatch, folding)
    shape = inputs.split(maxsplit=1)[0]
    proto = model(text, inputs=inputs, outputs=f"{shape} y", constants=WEIGHT)
    (fusion,) = graphfuse.fuse(proto).fused
    assert fusion.op_type == f"Add{'Bias' if folds else ''}LayerNormalization"
    for wanted in (True, False):
        (fusion,) = graphfuse.fuse(proto, selection=graphfuse.Selection(fold_bias=wanted)).fused
        assert fusion.op_type == f"Add{'Bias' if wanted else ''}LayerNormalization"
    (fusion,) = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none")).fused
    assert fusion.op_type == "AddLayerNormalization"


# Autotuning.


def _timing(best: str, **speedups: float) -> SiteTiming:
    intervals = {form: Interval(s - 0.1, s, s + 0.1) for form, s in speedups.items()}
    forms = dict.fromkeys(("original", *speedups), 1e-6)
    return SiteTiming(("s1", "s2"), "LayerNorm", 1, (1, 8, 8), False, forms, intervals, best)


@pytest.mark.parametrize(
    ("timed", "wins", "folds", "speedup"),
    [
        (_timing("fused", fused=2.0, folded=1.5), True, False, 2.0),
        (_timing("folded", fused=2.0, folded=2.5), True, True, 2.5),
        (_timing("original", fused=0.9, folded=0.8), False, False, 0.9),
    ],
)
def test_every_site_gets_the_verdict_of_those_alike(
    timed: SiteTiming, wins: bool, folds: bool, speedup: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_timing.Tuner, "timings", lambda self, found, stage: [timed])
    monkeypatch.setattr(autotune, "Tuner", site_timing.Tuner)
    source = Model(residual(NORM))
    scan, cpu = graphfuse.scan(source.proto), targets.target("cpu")
    found = autotune.autotune(source, scan, cpu, graphfuse.Feeds(), SILENT)
    assert list(found) == ["s1", "s2"]
    for cost in found.values():
        assert (cost.wins, cost.folds, cost.speedup) == (wins, folds, speedup)


def test_autotuning_times_every_site_of_a_model(no_rest: None) -> None:
    scan = graphfuse.scan(MODELS / "bert.onnx")
    result = graphfuse.fuse(MODELS / "bert.onnx", selection=graphfuse.Selection(costs="autotune"))
    known = {cost.site for cost in result.costs} | {miss.site for miss in result.left}
    assert known == {site.id for site in scan.sites}
    assert {cost.source for cost in result.costs} <= {"autotune"}
    assert {miss.reason for miss in result.left} <= {Reason.SLOWER}
    assert graphfuse.validate(MODELS / "bert.onnx", result.model, level="fast").passed


def test_symbols_are_bound_by_the_shapes_that_the_user_gives() -> None:
    proto = residual(NORM)
    assert site_timing.symbols_of(proto, {"a": (3, 5, 8)}, {}) == {"B": 3, "S": 5}
    assert site_timing.symbols_of(proto, {}, {}) == {}


def test_a_site_is_cut_out_with_the_matmul_that_its_bias_belongs_to() -> None:
    weight = np.eye(4, 8, dtype=np.float32)
    proto = model(
        f"p = MatMul(b, weight)\nc = Add(p, bias)\nx = Add(a, c)\n{NORM}",
        inputs="float[B,S,8] a, float[B,S,4] b",
        constants={"weight": weight},
    )
    (site,) = graphfuse.scan(proto).sites
    tuner = site_timing.Tuner(Model(proto), targets.target("cpu"), timing.Threads(1))
    cut = tuner._cut(site, site_timing._sources(tuner._parts[site.scope], site))
    assert cut is not None
    assert [node.op_type for node in cut.part.proto.graph.node][:2] == ["MatMul", "Add"]
    inputs = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in cut.part.proto.graph.input
    }
    assert inputs == {"a": [1, 128, 8], "b": [1, 128, 4]}
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(cut.part.proto))


def test_the_command_says_what_was_left_and_why(tmp_path: Path, shell: Shell) -> None:
    onnx.save(residual(NORM), tmp_path / "model.onnx")
    run = shell("fuse", "model.onnx", "-o", "fused.onnx", "--autotune", "--validate", "none")
    assert run.returncode == 0, run.stderr
    assert "on this machine" in run.stdout
    both = shell("fuse", "model.onnx", "--dry-run", "--autotune", "--no-costs")
    assert both.returncode == 2


def test_unknown_costs_are_wrong_usage() -> None:
    with pytest.raises(graphfuse.UsageError, match="table, autotune, none"):
        graphfuse.fuse(residual(NORM), selection=graphfuse.Selection(costs="guess"))

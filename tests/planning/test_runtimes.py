"""The table of runtimes: what it says of a version, and who asks it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import ops
from graphfuse.graph import bodies
from graphfuse.planning import advice, runtimes
from graphfuse.planning.runtimes import Choice
from graphfuse.records.element_types import ElementType
from graphfuse.running.sessions import DISABLED_KEY, plain_options
from graphfuse.speed import runtime_tables as measuring
from graphfuse.speed import timing
from graphfuse.speed.timing import Threads
from tests.conftest import MODELS, Shell
from tests.support.graphs import DECOMPOSED_LAYER_NORM, assert_passes, feeds, residual

NORM = "y = LayerNormalization(x, scale, bias)"
LAYER_NORM, RMS_NORM = "LayerNorm", "RMSNorm"
FLOAT = ElementType.FLOAT


def test_every_minor_version_is_measured() -> None:
    versions = [runtimes.parse_version(entry["onnxruntime"]) for entry in runtimes.table()]
    assert versions[0] == runtimes.MINIMUM
    assert versions == [(1, minor) for minor in range(20, 20 + len(versions))]
    assert runtimes.parse_version(ort.__version__) <= versions[-1], "measure it: one more run"


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.29", (1, 29)), ("1.29.0", (1, 29)), ("1.33.0.dev20261101", (1, 33)), ("2.0", (2, 0))],
)
def test_versions_are_read(text: str, version: tuple[int, int]) -> None:
    assert runtimes.parse_version(text) == version
    assert runtimes.runtime(text).version == version


@pytest.mark.parametrize("text", ["new", "", "1", "1.x", "v1.29"])
def test_what_is_no_version_is_wrong_usage(text: str) -> None:
    with pytest.raises(graphfuse.UsageError, match=r"no version of onnxruntime.*1\.29"):
        runtimes.parse_version(text)


def test_an_old_version_is_wrong_usage() -> None:
    with pytest.raises(graphfuse.UsageError, match=r"1\.19 is older than 1\.20"):
        graphfuse.fuse(residual(NORM), runtime="1.19")


def test_what_was_not_measured_is_taken_for_the_nearest_older_one() -> None:
    newest = runtimes.table()[-1]["onnxruntime"]
    found = runtimes.runtime("7.1")
    assert (found.name, found.version, found.measured) == ("7.1", (7, 1), newest)
    (said, *_) = advice.of_runtime(found)
    assert said == f"onnxruntime 7.1 was not measured: that of {newest} is taken"
    assert not any("not measured" in text for text in advice.of_runtime(runtimes.runtime(newest)))


def test_the_installed_version_is_the_default() -> None:
    assert runtimes.runtime().version == runtimes.parse_version(ort.__version__)
    assert graphfuse.fuse(residual(NORM)).runtime == runtimes.runtime().name


def test_without_onnxruntime_it_is_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "PACKAGES", ("no-such-package",))
    assert runtimes.installed() is None
    assert runtimes.runtime().name == runtimes.table()[-1]["onnxruntime"]


@pytest.mark.parametrize(
    ("version", "slow", "adds"),
    [
        ("1.20", (), ops.BodyForm.ADD),
        ("1.26", (), ops.BodyForm.ADD),
        ("1.29", (), ops.BodyForm.ADD),
        ("1.30", ("SkipLayerNormFusion",), ops.BodyForm.SUM),
        ("1.32", ("SkipLayerNormFusion",), ops.BodyForm.SUM),
    ],
)
def test_which_node_is_slow_flips_between_1_29_and_1_30(
    version: str, slow: tuple[str, ...], adds: str
) -> None:
    """Measured beforehand, by others and by hand: shared knowledge, not this table's own."""
    found = runtimes.runtime(version)
    assert found.slow_fusions == slow
    for opset in (7, 11, 13, 17, 18, 23):
        assert found.form(Choice(LAYER_NORM, FLOAT, opset)) == adds
        # onnxruntime fuses no RMSNorm with its sum, nor any in another type.
        assert found.form(Choice(RMS_NORM, FLOAT, opset)) == ops.BodyForm.ADD
        assert found.form(Choice(LAYER_NORM, ElementType.FLOAT16, opset)) == ops.BodyForm.ADD
        assert found.form(Choice(LAYER_NORM, ElementType.BFLOAT16, opset)) == ops.BodyForm.ADD


def test_a_file_says_for_which_versions_it_is_made() -> None:
    layer_norm, rms_norm = Choice(LAYER_NORM, FLOAT, 17), Choice(RMS_NORM, FLOAT, 17)
    assert runtimes.made_for("1.29", [layer_norm]) == "onnxruntime up to 1.29"
    assert runtimes.made_for("1.20", [layer_norm, rms_norm]) == "onnxruntime up to 1.29"
    assert runtimes.made_for("1.31", [layer_norm, rms_norm]) == "onnxruntime 1.30 and later"
    assert runtimes.made_for("9.9", [layer_norm]) == "onnxruntime 1.30 and later"
    assert runtimes.made_for("1.29", [rms_norm]) == "every onnxruntime"


def test_versions_that_are_like_others_on_both_sides_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An entry between two of another kind: 1.23 to 1.24 among 1.20 to 1.27."""
    slow, fast = {"Add": 10.0, "Sum": 1.0}, {"Add": 1.0, "Sum": 1.0}
    entries = [
        {
            **runtimes.table()[0],
            "onnxruntime": f"1.{minor}.0",
            "bodies": {"LayerNorm float32 opset 17": slow if minor in (23, 24) else fast},
        }
        for minor in range(20, 28)
    ]
    monkeypatch.setattr(runtimes, "table", lambda: tuple(entries))
    made_for = [
        runtimes.made_for(f"1.{minor}", [Choice(LAYER_NORM, FLOAT, 17)]) for minor in (22, 24, 25)
    ]
    assert made_for == [
        "onnxruntime up to 1.22",
        "onnxruntime 1.23 to 1.24",
        "onnxruntime 1.25 and later",
    ]


def test_the_same_runtime_gives_the_same_bytes() -> None:
    def made(version: str) -> bytes:
        return graphfuse.fuse(residual(NORM), runtime=version).model.SerializeToString()

    assert made("1.30") == made("1.30") == made("1.32")
    assert made("1.24") == made("1.29") != made("1.30")


@pytest.mark.parametrize("opset", [7, 8, 11, 13, 17])
def test_bodies_for_all_versions_mean_the_same(opset: int) -> None:
    proto = residual(NORM if opset == 17 else DECOMPOSED_LAYER_NORM, opset=opset)
    results = []
    for version in ("1.29", "1.30"):
        fused = graphfuse.fuse(proto, runtime=version)
        onnx.checker.check_model(fused.model, full_check=True)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        made = ort.InferenceSession(fused.model.SerializeToString(), options)
        results.append(made.run(None, feeds(proto))[0])
    # A + B is one rounding, whatever operator adds.
    np.testing.assert_array_equal(*results)
    for version in ("1.29", "1.30"):
        assert_passes(proto, graphfuse.fuse(proto, runtime=version).model)


def test_a_fused_file_for_another_version_stays_as_it_is() -> None:
    there = graphfuse.fuse(residual(NORM), runtime="1.29").model
    again = graphfuse.fuse(there, runtime="1.30")
    assert not again.changed
    # A site that is left joins those that are there: one function serves them all.
    text = f"x = Add(a, b)\n{NORM}\nv = Add(y, b)\nz = LayerNormalization(v, scale, bias)"
    two = residual(text.removeprefix("x = Add(a, b)\n"), outputs="float[B,S,8] z")
    half = graphfuse.fuse(two, runtime="1.29", selection=graphfuse.Selection(include=["s1"])).model
    whole = graphfuse.fuse(half, runtime="1.30")
    assert len(whole.fused) == 1
    assert [bodies.form_of(function) for function in whole.model.functions] == [ops.BodyForm.ADD]
    assert graphfuse.validate(two, whole.model, level="fast").passed


def test_what_a_file_for_another_version_costs_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proto = residual(NORM)
    older = graphfuse.fuse(proto, runtime="1.29").model
    newer = graphfuse.fuse(proto, runtime="1.30").model
    (said,) = advice.of_bodies(older, runtimes.runtime("1.30"))
    assert "AddLayerNormalization is made for another onnxruntime" in said
    assert "--runtime 1.30" in said
    assert advice.of_bodies(newer, runtimes.runtime("1.30")) == []
    (said,) = advice.of_bodies(newer, runtimes.runtime("1.29"))
    assert "--runtime 1.29" in said
    wrong = older if runtimes.runtime().version >= (1, 30) else newer
    notes = graphfuse.validate(proto, wrong, level="fast").notes
    # Before 1.27 either body takes much the same time, and there is nothing to say.
    assert [n for n in notes if "another onnxruntime" in n] == advice.of_bodies(
        wrong, runtimes.runtime()
    )
    assert notes or runtimes.runtime().version < (1, 27)


def test_scan_says_when_a_session_option_alone_would_help() -> None:
    sites = graphfuse.scan(residual(NORM)).sites
    (said,) = advice.of_sites(sites, runtimes.runtime("1.32"))
    assert "1 of these sums and norms" in said
    assert "disabled_optimizers=['SkipLayerNormFusion']" in said
    assert advice.of_sites(sites, runtimes.runtime("1.29")) == []


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        (NORM, {"outputs": "float[B,S,8] y, float[B,S,8] x"}),
        (NORM, {"inputs": "float[S,8] a, float[S,8] b", "outputs": "float[S,8] y"}),
        (NORM, {"inputs": "float[B,S,8] a, float[1,S,8] b"}),
        ("y = SimplifiedLayerNormalization(x, scale)", {}),
    ],
)  # fmt: skip
def test_sites_that_onnxruntime_leaves_alone_are_not_counted(
    norm: str, options: dict[str, str], tmp_path: Path
) -> None:
    proto = residual(norm, **options)
    sites = graphfuse.scan(proto).sites
    assert sites
    assert advice.of_sites(sites, runtimes.runtime("1.32")) == []
    session = ort.SessionOptions()
    session.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(proto.SerializeToString(), session)
    found = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "SkipLayerNormalization" not in found


@pytest.mark.parametrize("version", ["1.29.0", "1.32.0"])
def test_session_options_ask_the_table(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "installed", lambda: version)
    slow = runtimes.runtime(version).slow_fusions
    for options in (graphfuse.session_options(), plain_options(best=True)):
        disabled = options.get_session_config_entry(DISABLED_KEY).split(";")
        assert ("SkipLayerNormFusion" in disabled) == bool(slow)
    assert "SkipLayerNormFusion" not in plain_options().get_session_config_entry(DISABLED_KEY)


def test_the_command_line_takes_a_runtime(shell: Shell, tmp_path: Path) -> None:
    run = shell("fuse", MODELS / "bert.onnx", "-o", "old.onnx", "--runtime", "1.29", "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert (document["runtime"], document["made_for"]) == ("1.29", "onnxruntime up to 1.29")
    functions = onnx.load(tmp_path / "old.onnx").functions
    assert {bodies.form_of(function) for function in functions} == {ops.BodyForm.ADD}
    run = shell("fuse", MODELS / "bert.onnx", "-o", "x.onnx", "--runtime", "newest")
    assert run.returncode == 2
    assert "'newest' is no version of onnxruntime" in run.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_env_says_what_the_installed_version_does(shell: Shell) -> None:
    run = shell("env")
    assert run.returncode == 0
    slow = runtimes.runtime().slow_fusions
    assert ("SkipLayerNormFusion" in run.stdout) == bool(slow)


# Measuring.


def test_an_entry_is_measured_and_put_into_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "ROUNDS", 1)
    monkeypatch.setattr(measuring, "SHAPE", (1, 2, 8))
    monkeypatch.setattr(measuring, "MEASURED_TYPES", (FLOAT,))
    monkeypatch.setattr(measuring, "OPSETS", {LAYER_NORM: (17,), RMS_NORM: (13,)})
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    path = tmp_path / runtimes.FILE
    older = {**runtimes.table()[0], "onnxruntime": "1.0.0"}
    path.write_text(measuring._text([older]))
    assert measuring.main(["-o", str(path)]) == 0
    assert measuring.main(["-o", str(path)]) == 0
    monkeypatch.setattr(runtimes, "files", lambda _: tmp_path)
    entries = runtimes.table.__wrapped__()
    assert [entry["onnxruntime"] for entry in entries] == ["1.0.0", ort.__version__]
    entry = entries[1]
    assert set(entry["bodies"]) == {"LayerNorm float32 opset 17", "RMSNorm float32 opset 13"}
    assert all(set(times) == set(ops.BodyForm) for times in entry["bodies"].values())
    assert entry["errors"]["RMSNorm float32"]["pair"] < 1


def test_rows_that_a_kernel_loses_have_no_error() -> None:
    """The contrib operator squares in float32 and subtracts; null says that it lost a value."""
    old = runtimes.runtime("1.26").errors["LayerNorm float32"]
    assert old["pair"] is None
    new = runtimes.runtime("1.32").errors["LayerNorm float32"]
    assert new["pair"] is not None
    assert new["pair"] < 8


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema": 1, "runtimes": []}', '{"schema": 9, "runtimes": []}']
)
def test_a_table_that_cannot_be_read_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / runtimes.FILE).write_text(text)
    monkeypatch.setattr(runtimes, "files", lambda _: tmp_path)
    with pytest.raises(graphfuse.GraphfuseError, match=r"table of runtimes.*measure it again"):
        runtimes.table.__wrapped__()


def test_bodies_are_timed_without_the_kernels() -> None:
    function = ops.function(LAYER_NORM, 17, ops.Variant())
    call = measuring._plain(measuring._chain(LAYER_NORM, FLOAT, 17, function), Threads(1))
    assert call()


# Norms that are written out.

WRITTEN_OUT = """
    m = ReduceMean<axes = [2]>(x)
    d = Sub(x, m)
    dd = Mul(d, d)
    v = ReduceMean<axes = [2]>(dd)
    e = Add(v, eps)
    r = Sqrt(e)
    n = Div(d, r)
    s = Mul(n, scale)
    y = Add(s, bias)
"""


@pytest.mark.parametrize("opset", [7, 11, 13, 17])
def test_a_norm_that_is_left_alone_stays_so_where_the_operator_loses_rows(
    opset: int, tmp_path: Path
) -> None:
    """Up to 1.26 LayerNormalization takes E[x^2] - E[x]^2; the model's own nodes do not."""
    proto = residual(WRITTEN_OUT, opset=opset)
    old = graphfuse.fuse(proto, runtime="1.26")
    assert [bodies.form_of(function) for function in old.model.functions] == [ops.BodyForm.APART]
    assert old.made_for == "onnxruntime up to 1.26"
    onnx.checker.check_model(old.model, full_check=True)
    assert graphfuse.validate(proto, old.model).passed
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(old.model.SerializeToString(), options)
    found = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert not any("Normalization" in name for name in found)
    new = graphfuse.fuse(proto, runtime="1.27")
    assert [bodies.form_of(function) for function in new.model.functions] == [ops.BodyForm.ADD]


def test_one_norm_that_onnxruntime_folds_decides_for_all() -> None:
    """One function serves both; the slower one would slow the model down."""
    text = f"{WRITTEN_OUT}\nv2 = Add(y, b)\nz = LayerNormalization(v2, scale, bias)"
    proto = residual(text, outputs="float[B,S,8] z")
    result = graphfuse.fuse(proto, runtime="1.26")
    assert len(result.fused) == 2
    assert [bodies.form_of(function) for function in result.model.functions] == [ops.BodyForm.ADD]


def test_an_rms_norm_is_right_in_every_version() -> None:
    for version in ("1.20", "1.26", "1.29", "1.32"):
        choice = Choice(RMS_NORM, FLOAT, 17, written_out=True)
        assert runtimes.runtime(version).form(choice) == ops.BodyForm.ADD


def test_norms_over_several_axes_are_kept_from_a_fusion_that_breaks_them() -> None:
    choice = Choice(LAYER_NORM, FLOAT, 17, several_axes=True)
    assert runtimes.runtime("1.23").form(choice) == ops.BodyForm.SUM
    assert runtimes.runtime("1.24").form(choice) == ops.BodyForm.ADD


def test_a_version_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version would be another file: it is not guessed."""

    def version(_: str) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("importlib.metadata.version", version)
    with pytest.raises(graphfuse.ProviderError, match=r"--runtime 1\.32"):
        graphfuse.fuse(residual(NORM))
    assert graphfuse.fuse(residual(NORM), runtime="1.29").changed

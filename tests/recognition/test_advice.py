"""The advice of each reason, followed to the letter: the site then fuses.

Each case is a model that is refused for a reason, and the same model after what the reason says
would help. Where the advice keeps the model's meaning, both give the same numbers in onnxruntime.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
from typer.main import get_command

import graphfuse
from graphfuse.api.looking import explain
from graphfuse.cli import app
from graphfuse.files.model_file import Model
from graphfuse.planning.plan import plan
from graphfuse.planning.targets import target
from graphfuse.records import Cost
from graphfuse.records.reasons import Reason
from tests.conftest import Shell
from tests.support.advice_cases import CASES
from tests.support.advice_models import HALF, LN, RMS, SHAPELESS, called, custom, skip
from tests.support.graphs import feeds, model, residual

Proto = onnx.ModelProto

ELSEWHERE = {
    Reason.SUM_QUANTIZED: "test_reports_quantized.py::test_the_advice_works",
    Reason.SLOWER: "test_a_slower_site_is_fused_all_the_same",
    Reason.NORM_QUANTIZED: "test_reports_more_norms.py::test_a_norm_that_is_quantized_behind_is_a_site",
    Reason.NORM_UNKNOWN: "test_reports_exporters_left.py::test_a_function_of_that_name_makes_a_site",
    Reason.SUM_JOINED: "test_reports_exporters_left.py::test_what_is_advised_makes_a_site",
}
"""Advice that needs a tool, and the test that follows it."""

NOTHING = {
    Reason.HIDDEN_SIZE: "no norm is meant",
    Reason.VECTOR_OPERAND: "a bias is no residual",
    Reason.CONSTANT_SUM: "a sum of constants is no residual: test_a_folded_sum_is_no_miss",
    Reason.SUM_CLAMPED: "the norm is of another value",
    Reason.INSIDE_A_NORM: "it adds no residual",
    Reason.SUM_TAKEN: "one Add fuses once",
}
"""Reasons whose advice is that nothing is to be done, and why."""

NOT_FOLLOWED = {
    Reason.PUT_BACK: "another onnxruntime, or a report",
}
"""Advice that no edit of a model follows."""


PACKAGE = Path(graphfuse.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHERS = (
    *("--help", "--version", "--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary"),
    *("--query-gpu", "--format", "--id"),
    *("--config", "--package-config"),
)
"""Options of every command, of pip, of nvidia-smi and of Olive."""


def run(proto: Proto) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given = feeds(proto)
    wanted = {value.name for value in made.get_inputs()}
    return made.run(None, {name: array for name, array in given.items() if name in wanted})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].value} {case[1]}".strip())
def test_the_advice_works(case: tuple[Reason, str]) -> None:
    reason, item = case[0], CASES[case]
    before = item.before()
    refused = graphfuse.fuse(before, **item.options)
    assert reason in [miss.reason for miss in refused.left]
    copy = onnx.ModelProto()
    copy.CopyFrom(before)
    advised = item.after(copy)
    result = graphfuse.fuse(advised, **item.then)
    assert len(result.fused) == item.fused, result.left
    assert len(result.fused) > len(refused.fused)
    assert reason not in [miss.reason for miss in result.left]
    if item.same:
        for old, new in zip(run(before), run(advised), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    elif item.runs and not {"cuda", "directml"} & {str(item.then.get("ep"))}:
        onnx.checker.check_model(advised)


def test_every_reason_is_followed_or_says_why_not() -> None:
    followed = {reason for reason, _ in CASES} | set(ELSEWHERE)
    assert not followed & (NOTHING.keys() | NOT_FOLLOWED.keys())
    assert followed | NOTHING.keys() | NOT_FOLLOWED.keys() == set(Reason), (
        "follow the advice of each reason in tests/support/advice_cases.py, or list the reason here: "
        "in NOTHING (its remedy begins with 'nothing: '), ELSEWHERE or NOT_FOLLOWED"
    )
    for reason in NOTHING:
        assert reason.remedy.startswith("nothing: "), reason
    for reason in followed:
        alone = reason.remedy.startswith("nothing: ")
        assert not alone or reason is Reason.SLOWER, reason


def test_a_folded_sum_is_no_miss() -> None:
    """Folding constants computes the sum, and the Add is gone."""
    rows = np.linspace(0, 1, 16).reshape(2, 8).astype(np.float32)
    proto = model(
        f"x = Add(u, w) {LN} z = Add(y, a)",
        inputs="float[2,8] a",
        outputs="float[2,8] z",
        constants={"u": rows, "w": rows},
    )
    assert [miss.reason for miss in graphfuse.scan(proto).near_misses] == [Reason.CONSTANT_SUM]
    del proto.graph.node[0]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(rows + rows, "x"))
    assert not graphfuse.scan(proto).near_misses


def test_a_slower_site_is_fused_all_the_same() -> None:
    """--no-costs."""
    source = Model(residual(LN))
    loses = Cost("s1", "autotune", 0.9, "here", wins=False)
    (left,) = plan(source, graphfuse.scan(source.proto), target("cpu"), measured={"s1": loses}).left
    assert left.reason is Reason.SLOWER
    assert "--no-costs" in left.reason.remedy
    assert len(graphfuse.fuse(source.proto, selection=graphfuse.Selection(costs="none")).fused) == 1


NAMED = {
    "a part of a function": (
        called(
            "x = Add(a, b) y = my.norm(x, scale, bias)",
            """norm (x, scale, bias) => (y) {
            g = ReduceMean<axes = [0, 1], keepdims = 0>(x) y = LayerNormalization(x, g, bias) }""",
        ),
        "LayerNormalization in norm #1",
        "g",
    ),
    "a fused node": (
        lambda: skip(**SHAPELESS),
        "SkipLayerNormalization #0",
        "rank of the sum of SkipLayerNormalization that gives y",
    ),
    "a cast of unknown type": (
        custom("f = custom.Foo(a) x = Add(a, b) c = CastLike(x, f) " + LN.replace("(x", "(c")),
        "CastLike #2",
        "the type that CastLike #2 casts to",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_what_was_seen_is_named_as_the_model_names_it(case: str) -> None:
    """No tensor or node that graphfuse made on its way, and no type that nobody knows."""
    make, culprit, got = NAMED[case]
    (miss,) = graphfuse.scan(make()).near_misses
    assert (str(miss.culprit), miss.got) == (culprit, got)


def test_functions_are_explained_in_their_own_names() -> None:
    proto = called(
        "x = Add(a, b) y = my.norm(x, scale, bias)",
        """norm (x, scale, bias) => (y) {
        w = Constant<value = float[8] {1,2,3,4,5,6,7,8}>() m = ReduceMean<axes = [-1]>(x)
        d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) r = Sqrt(v) n = Div(d, r)
        y = Mul(n, w) }""",
    )()
    found = explain(proto, "m1")
    assert "w*" in found.seen
    assert "#" not in found.seen + found.definition + "".join((*found.extra, *found.missing))


def test_a_plan_says_what_it_saw_and_what_would_help(shell: Shell, tmp_path: Path) -> None:
    """A scan knows no target: its reasons are told where a model is fused for one."""
    onnx.save(residual(LN, **HALF), tmp_path / "half.onnx")
    command = ("fuse", "half.onnx", "-o", "fused.onnx", "--validate", "none", "--ep")
    done = shell(*command, "cuda", "--runtime", "1.26")
    assert done.returncode == 0, done.stderr
    assert f"would help: {Reason.RUNTIME_FAULT.remedy}" in done.stdout
    assert "right from 1.27 on" in done.stdout
    advised = shell(*command, "cuda", "--runtime", "1.27", "--force")
    assert advised.returncode == 0, advised.stderr
    assert "not fused" not in advised.stdout


# Errors: the command that they name is run.


def test_a_missed_count_says_why_where_a_scan_would_not(shell: Shell, tmp_path: Path) -> None:
    proto = residual(LN, inputs="float[8] a, float[8] b", outputs="float[8] y")
    onnx.save(proto, tmp_path / "flat.onnx")
    onnx.save(residual(RMS.replace("Sqrt(e)", "Identity(e)")), tmp_path / "rootless.onnx")
    options = ("--min-fused", "1", "--validate", "none", "-o", "fused.onnx")
    missed = shell("fuse", "flat.onnx", *options, "--ep", "cuda")
    assert missed.returncode == 6
    assert Reason.TARGET_RANK.remedy in missed.stderr
    assert "graphfuse scan" not in missed.stderr
    assert shell("fuse", "flat.onnx", *options, "--ep", "portable").returncode == 0
    missed = shell("fuse", "rootless.onnx", *options, "--force")
    assert "`graphfuse scan rootless.onnx` says why" in missed.stderr
    assert (
        Reason.EXPONENT.value.split("-")[0] in missed.stderr + shell("scan", "rootless.onnx").stdout
    )


def _quoted(text: str, start: str) -> list[str]:
    """The words of the command in backquotes that begins so."""
    command = next(part for part in text.split("`")[1::2] if part.startswith(start))
    return shlex.split(command)[1:]


def test_sizes_that_a_model_takes_are_said_as_the_errors_say(shell: Shell, tmp_path: Path) -> None:
    """Eight rows are what a Reshape takes, and no size that is made up has as many."""
    proto = residual(
        "r = Reshape(x, k) y = LayerNormalization(r, scale, bias)",
        outputs="float[2,4,8] y",
        constants={"k": np.array([2, 4, 8])},
    )
    onnx.save(proto, tmp_path / "eight.onnx")
    refused = shell("fuse", "eight.onnx", "--dry-run")
    assert refused.returncode == 4
    assert (
        shell(*_quoted(refused.stderr, "graphfuse fuse eight.onnx --dry-run --symbol")).returncode
        == 0
    )
    symbols = ("--symbol", "B=1", "--symbol", "S=8")
    shapes = ("--input-shapes", "a:[2,4,8]", "--input-shapes", "b:[2,4,8]")
    refused = shell("scan", "eight.onnx", "--activations")
    assert (refused.returncode, "--symbol or --input-shapes" in refused.stderr) == (4, True)
    for sizes in (symbols, shapes):
        assert shell("scan", "eight.onnx", "--activations", *sizes).returncode == 0
    quick = ("--seconds", "0", "--threads", "1", "--no-memory", "--no-profile")
    refused = shell("bench", "eight.onnx", "eight.onnx", *quick)
    assert (refused.returncode, "--sizes" in refused.stderr) == (4, True)
    for sizes in (shapes, ("--sizes", "1x8")):
        assert shell("bench", "eight.onnx", "eight.onnx", *quick, *sizes).returncode == 0


def test_strings_are_loaded_where_none_can_be_drawn(shell: Shell, tmp_path: Path) -> None:
    proto = residual(
        LN + " t = Identity(s)",
        inputs="float[B,S,8] a, float[B,S,8] b, string[B] s",
        outputs="float[B,S,8] y, string[B] t",
    )
    onnx.save(proto, tmp_path / "words.onnx")
    refused = shell("fuse", "words.onnx", "-o", "fused.onnx")
    assert (refused.returncode, "give one with --load-inputs" in refused.stderr) == (4, True)
    rows = np.random.default_rng(0).normal(0, 1, (2, 3, 8)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", a=rows, b=rows[::-1], s=np.array(["one", "two"]))
    done = shell("fuse", "words.onnx", "-o", "fused.onnx", "--load-inputs", "feeds.npz")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="links are made as on POSIX")
def test_every_command_that_refuses_links_takes_what_it_advises(
    shell: Shell, tmp_path: Path
) -> None:
    for folder in ("own", "linked", "copied"):
        (tmp_path / folder).mkdir()
    own = tmp_path / "own" / "model.onnx"
    options: dict[str, Any] = {"location": "model.data", "size_threshold": 0}
    onnx.save(residual(LN), own, save_as_external_data=True, **options)
    for folder in ("linked", "copied"):
        shutil.copy(own, tmp_path / folder)
    (tmp_path / "linked" / "model.data").symlink_to(tmp_path / "own" / "model.data")
    shutil.copy(tmp_path / "own" / "model.data", tmp_path / "copied")
    quick = ("--seconds", "0", "--threads", "1")
    linked = "linked/model.onnx"
    for command in (
        ("scan", linked),
        ("explain", linked, "s1"),
        ("fuse", linked, "--dry-run"),
        ("unfuse", linked, "--dry-run"),
        ("validate", linked, linked, "--validate", "sites"),
        ("bench", linked, "--sites", *quick),
    ):
        refused = shell(*command)
        assert (refused.returncode, "pass --allow-links" in refused.stderr) == (3, True), command
        allowed = shell(*command, "--allow-links")
        assert allowed.returncode == 0, (command, allowed.stderr)
        copied = [word.replace("linked", "copied") for word in command]
        assert shell(*copied).returncode == 0, command


def test_options_that_errors_name_are_options() -> None:
    """Each option that a text of the package names is one of the command line."""
    named: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if "argparse" in text:
            # A module that measures, with a command line of its own.
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for option in OPTION.findall(node.value):
                    named.setdefault(option, set()).add(path.name)
    known = set(OTHERS)
    for command in get_command(app).commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            known.update((*parameter.opts, *parameter.secondary_opts))
    assert not {option: where for option, where in named.items() if option not in known}

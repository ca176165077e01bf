"""Certificates: what has one, what must have none, and what the command says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphfuse
from graphfuse.certificate import exact
from graphfuse.records import Certificate, CertificateVerdict
from graphfuse.records.reasons import Reason
from models.committed import COMMITTED
from tests.campaigns.certificates import mutants, spellings
from tests.campaigns.certificates.tally import Tally, certificates, of_file
from tests.conftest import MODELS, Shell
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, model, residual

BERT = MODELS / "bert.onnx"

VARIANCE = """
    m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
"""
REST = "e = Add({}, eps) r = Sqrt(e) n = Div(d, r) s = Mul(n, scale) y = Add(s, bias)"


def fused(proto: onnx.ModelProto) -> onnx.ModelProto:
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none"))
    assert len(result.fused) == 1
    return result.model


def epsilon_of(proto: onnx.ModelProto) -> onnx.AttributeProto:
    (node,) = [n for n in proto.graph.node if n.domain == "graphfuse"]
    return next(attribute for attribute in node.attribute if attribute.name == "epsilon")


def only(before: onnx.ModelProto, after: onnx.ModelProto, seed: int = 0) -> Certificate:
    (found,) = certificates(before, after, seed)
    return found


def of(proto: onnx.ModelProto) -> Certificate:
    return only(proto, fused(proto))


@pytest.mark.parametrize("each", COMMITTED, ids=lambda each: each.file)
def test_every_site_of_the_exports_has_a_certificate(each: object) -> None:
    tally, file = Tally(), next(c for c in COMMITTED if c == each)
    sites = of_file(MODELS / file.file, tally)
    assert sites == file.layer_norms + file.rms_norms
    assert tally.sites == {CertificateVerdict.IDENTICAL: sites}, list(tally.lines())
    assert tally.records < sites


def test_generated_spellings_have_certificates() -> None:
    tally = spellings.run(seed=31, count=30)
    assert not tally.failed, list(tally.lines())
    assert tally.sites[CertificateVerdict.IDENTICAL] > 20
    assert tally.sites[CertificateVerdict.ROUNDED] > 2


@pytest.mark.parametrize(
    ("file", "family"), [("bert.onnx", "graphfuse"), ("llama.onnx", "onnxruntime")]
)
def test_no_mutant_of_the_numbers_has_a_certificate(file: str, family: str) -> None:
    found = dict(mutants.verdicts(MODELS / file, family))
    assert len(found) >= 11
    assert [kind for kind, said in found.items() if not said] == []
    assert all(
        found[kind].startswith(CertificateVerdict.DIFFERENT)
        for kind in mutants.LAST_BITS
        if kind in found
    )
    if family == "graphfuse":
        assert "the function that the file has" in found["body_with_another_epsilon"]


def test_a_clamp_that_float64_does_not_see() -> None:
    """1e-20 beside an epsilon of 1e-5 is nothing in float64, and acts on rows of one number."""
    least = {"least": np.float32(1e-20)}
    proto = residual(VARIANCE + "c = Max(v, least)" + REST.format("c"), constants=least)
    sound = fused(residual(VARIANCE + REST.format("v")))
    assert graphfuse.validate(proto, sound, level="sites").passed
    found = only(proto, sound)
    assert found.verdict == CertificateVerdict.DIFFERENT
    assert "in the original" in found.detail


@pytest.mark.parametrize("hidden", [8, 200])
def test_a_variance_over_n_minus_1_shows(hidden: int) -> None:
    shape = f"float[B,S,{hidden}]"
    frame = {"inputs": f"{shape} a, {shape} b", "outputs": f"{shape} y"}
    vectors = {"scale": np.ones(hidden, np.float32), "bias": np.zeros(hidden, np.float32)}
    sound = residual(VARIANCE + REST.format("v"), constants=vectors, **frame)
    other = residual(
        VARIANCE + "u = Mul(v, n1) w = Div(u, n2)" + REST.format("w"),
        constants={**vectors, "n1": np.float32(hidden), "n2": np.float32(hidden - 1)},
        **frame,
    )
    assert only(other, fused(sound)).verdict == CertificateVerdict.DIFFERENT


@pytest.mark.parametrize(
    ("clamp", "acts"),
    [
        ("c = Max(v, zero)", False),
        ("c = Max(v, least)", True),
        ("c = Clip(v, least)", True),
        ("c = Clip(v, zero, most)", True),
        ("k = Greater(v, least) c = Where(k, v, least)", True),
    ],
)
def test_a_clamp_shows_where_it_acts_and_only_there(clamp: str, acts: bool) -> None:
    proto = residual(
        VARIANCE + clamp + REST.format("c"),
        constants={
            "zero": np.float32(0),
            "least": np.float32(1e-20),
            "most": np.float32(3e38),
        },
    )
    sound = fused(residual(VARIANCE + REST.format("v")))
    assert only(proto, sound).verdict == (
        CertificateVerdict.DIFFERENT if acts else CertificateVerdict.IDENTICAL
    )


def test_a_limit_of_the_sum_shows() -> None:
    limit = {"high": np.float32(65504), "low": np.float32(-65504)}
    proto = residual(
        "c = Clip(x, low, high) y = LayerNormalization(c, scale, bias)", constants=limit
    )
    sound = fused(residual("y = LayerNormalization(x, scale, bias)"))
    assert only(proto, sound).verdict == CertificateVerdict.DIFFERENT


def test_a_row_of_zero_variance_without_a_finite_norm_is_no_difference() -> None:
    """Without an epsilon both are NaN there, and the other rows say what is the same."""
    body = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)"
    proto = residual(body + "r = Sqrt(v) y = Div(d, r)")
    sound = fused(residual("y = LayerNormalization(x, ones, zeros)", constants={
        "ones": np.ones(8, np.float32), "zeros": np.zeros(8, np.float32),
    }))  # fmt: skip
    epsilon_of(sound).f = 0.0
    assert only(proto, sound).verdict == CertificateVerdict.IDENTICAL


def test_an_operator_that_is_not_known_is_never_a_pass() -> None:
    proto = residual("t = Tanh(x) y = LayerNormalization(t, scale, bias)")
    sound = fused(residual("y = LayerNormalization(x, scale, bias)"))
    report = graphfuse.validate(proto, sound, level="none", certify=True)
    assert not report.passed
    assert report.certificates[0].verdict == CertificateVerdict.UNCERTIFIED
    assert report.certificates[0].detail == "operator Tanh"
    assert report.first_difference == "y"


def test_an_epsilon_that_the_attribute_rounds_is_its_own_verdict() -> None:
    """float32 has no 1e-5; float64 has another one. What is off by one bit more is different."""
    proto = residual(
        "w = Cast<to=11>(x)" + DECOMPOSED_RMS_NORM.replace("(x, x)", "(w, w)").replace("(x, r)", "(x, p)")
        .replace("r = Sqrt(e)", "r = Sqrt(e) p = Cast<to=1>(r)"),
        constants={"eps": np.array(1e-5, np.float64)},
    )  # fmt: skip
    after = fused(proto)
    found = only(proto, after)
    assert (found.verdict, found.detail) == (CertificateVerdict.ROUNDED, "epsilon to float32")
    assert found.passed
    epsilon = epsilon_of(after)
    epsilon.f = float(np.nextafter(np.float32(epsilon.f), np.float32(0)))
    assert only(proto, after).verdict == CertificateVerdict.DIFFERENT


def folded(proto: onnx.ModelProto, ulps: int) -> onnx.ModelProto:
    """As a tool that folds 1 + w does it: one stored vector, rounded, or off by some bits."""
    after = fused(proto)
    weight = next(t for t in proto.graph.initializer if t.name == "w")
    scale = (1 + numpy_helper.to_array(weight).astype(np.float64)).astype(np.float32)
    scale[3] = scale[3] + ulps * np.spacing(scale[3])
    node = next(n for n in after.graph.node if n.domain == "graphfuse")
    after.graph.initializer.append(numpy_helper.from_array(scale, "folded"))
    node.input[2] = "folded"
    return after


def test_a_folded_scale_is_the_same_but_for_one_rounding() -> None:
    weight = np.random.default_rng(3).normal(0, 0.3, 8).astype(np.float32)
    norm = DECOMPOSED_RMS_NORM.replace("scale", "g")
    proto = residual("g = Add(one, w)" + norm, constants={"w": weight, "one": np.float32(1)})
    assert of(proto).verdict == CertificateVerdict.IDENTICAL
    found = only(proto, folded(proto, 0))
    assert (found.verdict, found.detail) == (CertificateVerdict.ROUNDED, "scale to float32")
    assert only(proto, folded(proto, 1)).verdict == CertificateVerdict.DIFFERENT


def test_a_cast_of_a_number_rounds_and_a_cast_of_an_activation_does_not() -> None:
    """An epsilon that a model casts to float16 is the one that every run adds."""
    halves = {"inputs": "float16[B,S,8] a, float16[B,S,8] b", "outputs": "float16[B,S,8] y"}
    body = """
        w = Cast<to=1>(x) q = Mul(w, w) v = ReduceMean<axes=[-1]>(q)
        small = Cast<to=10>(eps) back = Cast<to=1>(small)
        e = Add(v, back) r = Sqrt(e) n = Div(w, r) y = Cast<to=10>(n)
    """
    proto = residual(body, **halves)
    after = fused(proto)
    epsilon = epsilon_of(after)
    assert epsilon.f == float(np.float16(1e-5))
    assert only(proto, after).verdict == CertificateVerdict.IDENTICAL
    epsilon.f = 1e-5
    assert only(proto, after).verdict == CertificateVerdict.DIFFERENT


def test_one_certificate_stands_for_sites_that_differ_in_their_weights() -> None:
    proto = onnx.load(BERT)
    found = certificates(
        BERT, graphfuse.fuse(BERT, selection=graphfuse.Selection(costs="none")).model
    )
    assert sorted(len(each.sites) for each in found) == [1, 4]
    node = next(n for n in proto.graph.node if n.output[0] == "layer_norm_3")
    next(a for a in node.attribute if a.name == "epsilon").f *= 2
    found = certificates(
        proto, graphfuse.fuse(BERT, selection=graphfuse.Selection(costs="none")).model
    )
    assert [each.sites for each in found if not each.passed] == [("layer_norm_3",)]


def test_static_extents_of_a_file_decide() -> None:
    """A Reshape to numbers takes no other extents than those."""
    proto = residual(
        "f = Reshape(x, rows) n = LayerNormalization(f, scale, bias) y = Reshape(n, whole)",
        inputs="float[2,7,8] a, float[2,7,8] b",
        outputs="float[2,7,8] y",
        constants={"rows": np.array([14, 8]), "whole": np.array([2, 7, 8])},
    )
    found = of(proto)
    assert (found.verdict, found.extents, found.rows) == (
        CertificateVerdict.IDENTICAL,
        "2x7x8 + 2x7x8",
        14,
    )


def test_rows_that_move_by_a_shape_from_elsewhere() -> None:
    """OPT adds up its tokens flat and norms them in the shape that the ids have."""
    proto = model(
        """k = Shape(ids) h = Shape(scale) t = Concat<axis=0>(k, h) x = Add(a, b)
           z = Reshape(x, t) y = LayerNormalization(z, scale, bias)""",
        inputs="float[N,8] a, float[N,8] b, float[B,S] ids",
        outputs="float[B,S,8] y, float[N,8] x",
    )
    found = of(proto)
    assert (found.verdict, found.extents) == (CertificateVerdict.IDENTICAL, "3x8 + 3x8")
    after = fused(proto)
    epsilon_of(after).f *= 2
    assert only(proto, after).verdict == CertificateVerdict.DIFFERENT


def test_an_output_of_a_fused_node_that_nothing_can_be_compared_with_is_not_passed_over() -> None:
    """The sum goes on as something that the original never computes."""
    proto = residual(
        "y = LayerNormalization(x, scale, bias)", outputs="float[B,S,8] y, float[B,S,8] z"
    )
    proto.graph.node.append(onnx.helper.make_node("Relu", ["x"], ["z"]))
    after = fused(proto)
    assert only(proto, after).verdict == CertificateVerdict.IDENTICAL
    node = next(n for n in after.graph.node if n.domain == "graphfuse")
    node.output[1] = "other"
    twice = onnx.helper.make_node("Add", ["other", "other"], ["x"])
    after.graph.node.insert(list(after.graph.node).index(node) + 1, twice)
    assert only(proto, after).verdict == CertificateVerdict.DIFFERENT
    twice.output[0] = "elsewhere"
    after.graph.node[1].CopyFrom(twice)
    next(n for n in after.graph.node if n.op_type == "Relu").input[0] = "y"
    found = only(proto, after)
    assert found.verdict == CertificateVerdict.UNCERTIFIED
    assert "made of 'other'" in found.detail


def test_the_same_seed_gives_the_same_certificate() -> None:
    proto = residual(DECOMPOSED_LAYER_NORM)
    after = fused(proto)
    one, again, other = (only(proto, after, seed) for seed in (3, 3, 4))
    assert one == again
    assert one.seed == 3
    assert one.difference != other.difference
    assert replace(other, seed=3, difference=one.difference, repeat=one.repeat) == one


def test_fuse_puts_back_what_it_cannot_certify(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking = {name: rule for name, rule in exact.OPERATORS.items() if name != "Sqrt"}
    monkeypatch.setattr(exact, "OPERATORS", lacking)
    path = tmp_path / "model.onnx"
    onnx.save(residual(DECOMPOSED_LAYER_NORM), path)
    every = graphfuse.Selection(costs="none")
    options = {"certify": True, "level": "none", "selection": every}
    result = graphfuse.optimize(path, tmp_path / "fused.onnx", **options)
    assert not result.fused
    assert [(miss.reason, miss.got) for miss in result.left] == [
        (Reason.PUT_BACK, "certificate: not certified, operator Sqrt")
    ]
    with pytest.raises(graphfuse.ValidationError, match=r"not certified \(operator Sqrt\)"):
        graphfuse.optimize(path, tmp_path / "strict.onnx", strict=True, **options)
    assert not (tmp_path / "strict.onnx").exists()


def test_the_command_says_what_holds_and_fails_where_it_does_not(
    shell: Shell, tmp_path: Path
) -> None:
    run = shell("fuse", BERT, "-o", "fused.onnx", "--certify", "--validate", "none", "--no-costs")
    assert run.returncode == 0, run.stderr
    assert "certified: 5 of 5 sites equal to 1e-90" in run.stdout
    arguments = ("validate", BERT, "fused.onnx", "--certify", "--validate", "none", "--json")
    run = shell(*arguments)
    document = json.loads(run.stdout)
    assert (run.returncode, document["passed"], document["checks"]) == (0, True, [])
    assert [len(each["sites"]) for each in document["certificates"]] == [1, 4]
    proto = onnx.load(tmp_path / "fused.onnx")
    mutants.DAMAGES["epsilon up by its last bit"](proto)
    onnx.save(proto, tmp_path / "fused.onnx")
    run = shell(*arguments, "--seed", "5")
    document = json.loads(run.stdout)
    assert (run.returncode, document["passed"]) == (1, False)
    (failed,) = [each for each in document["certificates"] if not each["passed"]]
    assert failed["verdict"] == CertificateVerdict.DIFFERENT
    assert document["first_difference"] == failed["site"]
    again = shell(*failed["repeat"].split()[1:])
    assert again.returncode == 1
    assert failed["detail"] in again.stdout


def test_without_mpmath_one_line_names_the_extra(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mpmath.py").write_text("raise ImportError('No module named mpmath')\n")
    path = {"PYTHONPATH": f"{tmp_path}:{Path(graphfuse.__file__).parent.parent}"}
    for arguments in (
        ("validate", BERT, BERT, "--certify"),
        ("fuse", BERT, "-o", "fused.onnx", "--certify"),
    ):
        run = shell(*arguments, env=path)
        assert run.returncode == 5
        lines = [line for line in run.stderr.splitlines() if "mpmath" in line]
        assert len(lines) == 1
        assert "pip install 'graphfuse[certify]'" in lines[0]
    assert not (tmp_path / "fused.onnx").exists()


def test_the_level_none_is_for_certificates(shell: Shell) -> None:
    run = shell("validate", BERT, BERT, "--validate", "none")
    assert run.returncode == 2
    run = shell("validate", BERT, BERT, "--validate", "none", "--certify")
    assert (run.returncode, "nothing to certify" in run.stdout) == (0, True)
    run = shell("validate", BERT, BERT, "--validate", "none", "--certify", "--site", "nowhere")
    assert (run.returncode, "no fused node computes 'nowhere'" in run.stderr) == (2, True)

"""`graphfuse scan` and `explain`: what is said of a site, and of a near miss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.api.looking import explain
from tests.conftest import MODELS, Shell
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, model, residual


def test_explain_shows_the_normal_form_beside_the_definition(shell: Shell, tmp_path: Path) -> None:
    done = shell("explain", MODELS / "gemma.onnx", "s2")
    assert done.returncode == 0
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines() if " " in line)
    assert lines["seen"] == lines["RMSNorm"]
    assert "sum read by" in done.stdout
    outside = tmp_path / "outside.onnx"
    norm = DECOMPOSED_RMS_NORM.replace(
        "e = Add(v, eps)\n    r = Sqrt(e)", "t = Sqrt(v) r = Add(t, eps)"
    )
    onnx.save(residual(norm), outside)
    miss = shell("explain", outside, "m1")
    assert miss.returncode == 0
    assert "epsilon-outside-root" in miss.stdout
    assert "where the definition has" in miss.stdout
    assert "write sqrt(variance + epsilon)" in miss.stdout
    document = json.loads(shell("explain", outside, "m1", "--json").stdout)
    assert document["near_miss"]["reason"] == "epsilon-outside-root"
    assert document["extra"]
    assert document["seen"] != document["definition"]


def test_explain_of_an_unknown_site_is_one_line(shell: Shell) -> None:
    done = shell("explain", MODELS / "gemma.onnx", "s99")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "s1, s2, s3, ..." in done.stderr


LAYOUTS = {
    "encoder-post.onnx": ["post-norm"],
    "bert.onnx": ["post-norm"],
    "gpt2.onnx": ["pre-norm"],
    "llama.onnx": ["pre-norm"],
    "vit.onnx": ["pre-norm"],
}


@pytest.mark.parametrize("file", LAYOUTS)
def test_layouts_of_real_models(file: str) -> None:
    found = graphfuse.scan(MODELS / file)
    assert sorted({site.layout for site in found.sites}) == LAYOUTS[file]


def test_layers_are_read_from_names() -> None:
    layers = [site.layer for site in graphfuse.scan(MODELS / "bert.onnx").sites]
    assert layers == [None, 0, 0, 1, 1]


LN = "LayerNormalization({}, scale, bias)"


def test_a_sandwich() -> None:
    """x + norm(F(x)), whose sum goes on and is normalised for the next layer."""
    proto = model(
        f"""m = MatMul(a, w) n = {LN.format("m")} x = Add(a, n) y = {LN.format("x")}
            k = MatMul(y, w) p = {LN.format("k")} z = Add(x, p) out = {LN.format("z")}""",
        inputs="float[B,S,8] a",
        outputs="float[B,S,8] out",
        constants={"w": np.ones((8, 8), np.float32)},
    )
    assert [site.layout for site in graphfuse.scan(proto).sites] == ["sandwich", "sandwich"]


SPELLINGS = {
    DECOMPOSED_LAYER_NORM: "(x - mean(x))/sqrt(mean((x - mean(x))*(x - mean(x))) + 1e-05)*scale + bias",
    DECOMPOSED_RMS_NORM: "x/sqrt(mean(x*x) + 1e-05)*scale",
    "y = LayerNormalization(x, scale)": "LayerNormalization(x, scale)",
}


@pytest.mark.parametrize("norm", SPELLINGS)
def test_spellings_are_lines_of_algebra(norm: str) -> None:
    site = graphfuse.scan(residual(norm)).sites[0]
    assert site.notation == SPELLINGS[norm]


def test_an_explanation_differs_where_the_norm_does() -> None:
    norm = DECOMPOSED_LAYER_NORM.replace("d = Sub(x, m)", "m2 = Add(m, m) d = Sub(x, m2)")
    proto = residual(norm)
    found = explain(proto, "m1")
    assert found.kind == "LayerNorm"
    assert found.extra
    assert found.missing
    assert explain(residual(DECOMPOSED_LAYER_NORM), "y").extra == ()

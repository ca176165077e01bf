"""Valid models that onnxruntime's optimiser makes another model of, and files that need it to run.

From NVIDIA/TransformerEngine#174, microsoft/onnxruntime#30513 and open-mmlab/mmdeploy#2169.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import graphfuse
from graphfuse.records.reasons import Reason
from graphfuse.running.sessions import OPTIMIZATION_LEVELS
from tests.support.graphs import HIDDEN, VERSION, model, residual
from tests.support.levels import assert_right_everywhere, optimized, outputs

FIXED = {"inputs": "float[2,3,8] a, float[2,3,8] b", "outputs": "float[2,3,8] y"}
RNG = np.random.default_rng(13)
WEIGHTS = {
    "scale": RNG.normal(1, 0.3, HIDDEN).astype(np.float32),
    "bias": RNG.normal(0, 0.3, HIDDEN).astype(np.float32),
    "two": np.array(2, np.float32),
}
NORM = """
    m = ReduceMean<axes=[-1]{more}>(x) d = Sub(x, m) q = Pow(d, two)
    v = ReduceMean<axes=[-1]{more}>(q) e = Add(v, eps) r = Sqrt(e) n = Div(d, r)
    s = Mul(n, scale)
"""


def declared_too_large() -> onnx.ModelProto:
    """open-mmlab/mmdeploy#2169, pytorch/pytorch#84563: the statistics are declared as large as x."""
    body = NORM.format(more="") + "y = Add(s, bias)"
    proto = residual(body, opset=11, ir=6, constants=WEIGHTS, **FIXED)
    for name in ("m", "v", "e", "r"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, 1, [2, 3, 8]))
    return proto


def test_statistics_that_are_declared_too_large_fuse(tmp_path: Path) -> None:
    """onnxruntime runs such a file optimized only; what is written runs at every level."""
    proto = declared_too_large()
    result = optimized(proto, tmp_path, "fast")
    assert len(result.fused) == 1
    written = onnx.load(tmp_path / "after.onnx")
    onnx.checker.check_model(written, full_check=True)
    del proto.graph.value_info[:]
    assert_right_everywhere(proto, written)


def test_what_runs_optimized_only_is_said(tmp_path: Path) -> None:
    onnx.save(declared_too_large(), tmp_path / "before.onnx")
    with pytest.raises(graphfuse.OriginalModelError) as caught:
        graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx", level="full")
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith("with optimizations off ")
    assert "--validate fast" in caught.value.remedy


def over_two_axes(readers: str = "") -> onnx.ModelProto:
    """NVIDIA/TransformerEngine#174: all axes but the first are normalised, gamma has the last."""
    return residual(f"y = LayerNormalization<axis=-2>(x, scale, bias) {readers}", **FIXED)


@pytest.mark.parametrize("level", ["fast", "full"])
def test_what_the_optimiser_misreads_is_judged_below_it(level: str, tmp_path: Path) -> None:
    """SkipLayerNormFusion looks at no axis: what a plain session gives for the original is wrong."""
    proto = over_two_axes()
    wanted, *others = (
        outputs(proto, each, False, ort.SessionOptions())[0] for each in OPTIMIZATION_LEVELS
    )
    apart = [np.abs(wanted - other).max() > 0.1 for other in others]
    if not any(apart):
        pytest.skip(f"onnxruntime {ort.__version__} reads the axis")
    result = optimized(proto, tmp_path, level)
    assert len(result.fused) == 1
    assert result.validation is not None
    (said,) = (note for note in result.validation.notes if "makes another model" in note)
    assert ort.__version__ in said
    assert "the model is not at fault" in said
    written = onnx.load(tmp_path / "after.onnx")
    assert_right_everywhere(proto, written)
    for each in OPTIMIZATION_LEVELS:
        found = outputs(written, each, False, ort.SessionOptions())[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6)


def test_a_wrong_epsilon_is_caught_below_the_optimiser_as_well() -> None:
    proto = over_two_axes()
    fused = graphfuse.fuse(proto).model
    for attribute in fused.graph.node[0].attribute:
        if attribute.name == "epsilon":
            attribute.f *= 2
    assert not graphfuse.validate(proto, fused).passed


def test_a_misread_norm_that_stays_is_judged_alike(tmp_path: Path) -> None:
    """Of two such norms one is left out: a plain session reads it wrong in both files."""
    proto = model(
        "x = Add(a, b) n = LayerNormalization<axis=-2>(x, scale, bias) z = Add(n, a) "
        "y = LayerNormalization<axis=-2>(z, scale, bias)",
        constants=WEIGHTS,
        **FIXED,
    )
    onnx.save(proto, tmp_path / "before.onnx")
    result = graphfuse.optimize(
        tmp_path / "before.onnx",
        tmp_path / "after.onnx",
        level="full",
        selection=graphfuse.Selection(include=["s2"]),
    )
    assert [f.site.output for f in result.fused] == ["y"]
    assert result.validation is not None
    assert result.validation.passed
    if VERSION >= (1, 24):
        assert any("so it does to the fused model" in note for note in result.validation.notes)


def test_a_norm_that_the_optimiser_invents_is_no_fault_of_the_model(tmp_path: Path) -> None:
    """microsoft/onnxruntime#30513: axes that are dropped meet others, and a LayerNorm is made of it.

    Beside it a sum and its norm fuse; a plain session misreads the rest in both files.
    """
    body = NORM.format(more=", keepdims=0")
    proto = residual(
        f"{body} t = Add(s, bias) u = Add(t, a) y = LayerNormalization(u, scale, bias)",
        constants=WEIGHTS,
        inputs="float[8,8] a, float[8,8] b",
        outputs="float[8,8] y",
    )
    right, misread = (
        outputs(proto, level, kernels=False)[0]
        for level in (OPTIMIZATION_LEVELS[0], OPTIMIZATION_LEVELS[-1])
    )
    if np.abs(right - misread).max() < 0.1:
        pytest.skip(f"onnxruntime {ort.__version__} looks at keepdims")
    result = optimized(proto, tmp_path)
    assert [f.site.output for f in result.fused] == ["y"]
    assert [miss.reason for miss in result.left] == [Reason.AXIS_NOT_PUT_BACK]
    assert result.validation is not None
    notes = " ".join(result.validation.notes)
    assert "makes another model of the original" in notes
    assert "so it does to the fused model" in notes

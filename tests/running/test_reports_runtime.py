"""Models that onnxruntime runs otherwise than the file says: microsoft/onnxruntime#31980 and others.

A valid model that onnxruntime's own optimiser breaks is judged at the levels that leave it whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.errors import in_one_line
from graphfuse.running.sessions import OPTIMIZATION_LEVELS
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, feeds, model

WIDE = {
    "w": np.array([1.5, 2.5], np.float32),
    "u": np.array([0.5, -2.5], np.float32),
    "two": np.array(2, np.float32),
}
LN = DECOMPOSED_LAYER_NORM.split("s = Mul")[0].replace("Mul(d, d)", "Pow(d, two)")
RMS = DECOMPOSED_RMS_NORM.split("y = Mul")[0].replace("Mul(x, x)", "Pow(x, two)")
GROWN = {
    "LayerNorm": f"x = Add(a, b) {LN} y = Mul(n, w)",
    "LayerNorm and bias": f"x = Add(a, b) {LN} k = Mul(n, w) y = Add(k, u)",
    "RMSNorm": f"x = Add(a, b) {RMS} y = Mul(n, w)",
}


def grown(case: str) -> onnx.ModelProto:
    sizes = {"inputs": "float[N,1] a, float[N,1] b", "outputs": "float[N,2] y"}
    return model(GROWN[case], constants=WIDE, **sizes)


def levels_that_run(proto: onnx.ModelProto, kernels: bool = False) -> list[str]:
    """The levels of optimization at which onnxruntime runs a model."""
    found: list[str] = []
    for level in OPTIMIZATION_LEVELS:
        options = graphfuse.session_options(kernels=kernels)
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.log_severity_level = 4
        try:
            made = ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            made.run(None, feeds(proto))
        except Exception as error:
            if "Scale and (optional) bias" not in str(error):
                raise
        else:
            found.append(level)
    return found


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("case", GROWN)
def test_r03_a_model_that_the_optimiser_breaks_is_fused(
    case: str, level: str, tmp_path: Path
) -> None:
    proto = grown(case)
    onnx.checker.check_model(proto, full_check=True)
    runs = levels_that_run(proto)
    if runs == list(OPTIMIZATION_LEVELS):
        pytest.skip(f"onnxruntime {ort.__version__} does not break it")
    assert OPTIMIZATION_LEVELS[0] in runs
    onnx.save(proto, tmp_path / "before.onnx")
    result = graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx", level=level)
    assert len(result.fused) == 1
    assert not result.put_back
    assert result.validation is not None
    assert result.validation.passed
    broken = [each for each in OPTIMIZATION_LEVELS if each not in runs]
    (said,) = (note for note in result.validation.notes if "by its own optimiser" in note)
    assert ort.__version__ in said
    assert f"at {' and '.join(broken)} by" in said
    assert f"runs it at {' and '.join(runs)}," in said
    written = onnx.load(tmp_path / "after.onnx")
    assert levels_that_run(written, kernels=True) == list(OPTIMIZATION_LEVELS)
    if case != "RMSNorm":
        assert levels_that_run(written) == list(OPTIMIZATION_LEVELS)


def test_a_model_that_runs_at_no_level_is_at_fault(tmp_path: Path) -> None:
    proto = model(
        "x = Add(a, b) n = LayerNormalization(x, scale, bias) r = Reshape(n, k) y = Identity(r)",
        constants={"k": np.array([5, 7], np.int64)},
        outputs="float[5,7] y",
    )
    onnx.save(proto, tmp_path / "before.onnx")
    with pytest.raises(graphfuse.OriginalModelError) as caught:
        graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx")
    assert caught.value.exit_code == 4
    # The cause stands at the end of onnxruntime's message.
    assert "{5,7}" in caught.value.message
    assert not (tmp_path / "after.onnx").exists()


def test_a_long_message_keeps_its_cause() -> None:
    text = in_one_line(ValueError(f"what failed: {'in a long place, ' * 100}the cause"))
    assert text.startswith("what failed")
    assert text.endswith("the cause")
    assert len(text) == 300
    assert in_one_line(ValueError("short")) == "short"

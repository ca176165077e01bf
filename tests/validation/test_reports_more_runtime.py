"""Models of which onnxruntime's optimiser makes others, without a word, and norms beside them.

microsoft/onnxruntime#30513 (a reduction without its axis), #12917 and #18184 (a LayerNormalization
over several axes), #31147 (one axis in all), #25855 (a scale of one number), #18967 (a bias that is
there and empty, which ends the process). What runs is wrong at some levels, so the model is judged
at those that run what it says.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import graphfuse
from graphfuse.records import NotShown
from graphfuse.records.reasons import Reason
from graphfuse.running import empty_inputs
from graphfuse.running.sessions import OPTIMIZATION_LEVELS, plain_options
from graphfuse.validation.whole_model import WholeModel
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, feeds, model, residual

TWO = {"two": np.array(2, np.float32)}
POWERS = DECOMPOSED_LAYER_NORM.replace("Mul(d, d)", "Pow(d, two)")
NO_AXIS = POWERS.replace("keepdims=1", "keepdims=0")
SQUARE = {"inputs": "float[8,8] a, float[8,8] b", "outputs": "float[8,8] y"}
SEVERAL = {"inputs": "float[4,3,8] a, float[4,3,8] b", "outputs": "float[4,3,8] y"}
WIDER = {"inputs": "float[N,8] a, float[N,8] b", "outputs": "float[N,2] y"}


def renamed(norm: str, x: str, mark: str) -> str:
    """A decomposed norm of another tensor, with names of its own for what is inside."""
    for name in "mdqvernsy":
        norm = norm.replace(f" {name} = ", f" {name}{mark} = ")
        for end in (",", ")"):
            norm = norm.replace(f"({name}{end}", f"({name}{mark}{end}")
            norm = norm.replace(f", {name}{end}", f", {name}{mark}{end}")
    return norm.replace("(x,", f"({x},").replace("(x)", f"({x})").replace(f"y{mark} =", "y =")


FUSED = "x = Add(a, b) h = LayerNormalization(x, scale, bias)"
"""A site, behind which something stands that onnxruntime's optimiser changes."""

CASES = {
    "no axis": (f"{FUSED} {renamed(NO_AXIS, 'h', '_k')}", SQUARE),
    "several axes": ("x = Add(a, b) y = LayerNormalization<axis = 1>(x, scale, bias)", SEVERAL),
    "several axes, elsewhere": (
        f"{FUSED} g = Mul(h, b) z = Add(g, h) y = LayerNormalization<axis = 1>(z, scale, bias)",
        SEVERAL,
    ),
    "a wider scale, elsewhere": (
        f"{FUSED} u = ReduceSum<keepdims = 1>(h, last) "
        f"{renamed(POWERS.split('s = Mul')[0], 'u', '_k')} y = Mul(n_k, w)",
        WIDER,
    ),
}
CONSTANTS = {**TWO, "w": np.array([1.5, 2.5], np.float32), "last": np.array([-1])}


def made(case: str) -> onnx.ModelProto:
    body, sizes = CASES[case]
    return model(body, constants=CONSTANTS, **sizes)


def outputs(
    proto: onnx.ModelProto, level: str, kernels: bool = False
) -> list[NDArray[np.float32]] | None:
    """What a session gives at a level of optimization; None where it does not run."""
    options = graphfuse.session_options(kernels=True) if kernels else plain_options()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds(proto))
    except Exception as error:
        # onnxruntime raises classes of its own.
        if "INVALID_ARGUMENT" not in str(error):
            raise
        return None


def right_levels(proto: onnx.ModelProto, kernels: bool = False) -> list[str]:
    """The levels at which a model gives what it gives unoptimized."""
    wanted = outputs(proto, OPTIMIZATION_LEVELS[0], kernels)
    assert wanted is not None
    found = [(level, outputs(proto, level, kernels)) for level in OPTIMIZATION_LEVELS]
    return [
        level
        for level, given in found
        if given is not None and all(map(np.allclose, given, wanted))
    ]


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize("case", CASES)
def test_what_the_optimiser_changes_is_judged_where_it_does_not(
    case: str, level: str, tmp_path: Path
) -> None:
    proto = made(case)
    onnx.checker.check_model(proto, full_check=True)
    right = right_levels(proto)
    if right == list(OPTIMIZATION_LEVELS):
        pytest.skip(f"onnxruntime {ort.__version__} runs what it says")
    onnx.save(proto, tmp_path / "before.onnx")
    result = graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx", level=level)
    assert result.fused
    assert not result.put_back
    assert result.validation is not None
    assert result.validation.passed
    (said,) = (note for note in result.validation.notes if "by its own optimiser" in note)
    assert f"at {' and '.join(right)}, so it is judged there" in said
    written = onnx.load(tmp_path / "after.onnx")
    wanted, given = (
        outputs(proto, OPTIMIZATION_LEVELS[0]),
        outputs(written, OPTIMIZATION_LEVELS[0], kernels=True),
    )
    assert wanted is not None
    assert given is not None
    np.testing.assert_allclose(given[0], wanted[0], rtol=1e-5, atol=1e-5)
    # What it breaks of the fused model, and no more, it broke of the original.
    assert set(right) <= set(right_levels(written)) & set(right_levels(written, kernels=True))


def test_a_wrong_epsilon_is_found_where_the_optimiser_changes_the_model() -> None:
    proto = made("several axes, elsewhere")
    fused = graphfuse.fuse(proto).model
    assert graphfuse.validate(proto, fused).passed
    node = next(n for n in fused.graph.node if n.op_type == "AddLayerNormalization")
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-2
    report = graphfuse.validate(proto, fused)
    assert report.verdict == "fail"


def test_a_reduction_without_its_axis_is_no_norm() -> None:
    """Here [8, 8] - [8] broadcasts along another axis than the mean is over."""
    found = graphfuse.scan(residual(NO_AXIS, constants=TWO, **SQUARE))
    assert [miss.reason for miss in found.near_misses] == [Reason.AXIS_NOT_PUT_BACK]
    back = NO_AXIS.replace("d = Sub(x, m)", "m2 = Unsqueeze(m, last) d = Sub(x, m2)")
    back = back.replace("r = Sqrt(e)", "r0 = Sqrt(e) r = Unsqueeze(r0, last)")
    proto = residual(back, constants=CONSTANTS, **SQUARE)
    assert len(graphfuse.scan(proto).sites) == 1


ONE_AXIS = {"inputs": "float[8] a, float[8] b", "outputs": "float[8] y"}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("vector", [8, 1])
@pytest.mark.parametrize("norm", [POWERS, DECOMPOSED_RMS_NORM.replace("Mul(x, x)", "Pow(x, two)")])
def test_one_axis_in_all_fuses(norm: str, vector: int, opset: int, tmp_path: Path) -> None:
    """onnxruntime takes the quotient for the scale there, and makes no session (#31147)."""
    values = {**TWO, "scale": np.full(vector, 1.5, np.float32)}
    values["bias"] = np.linspace(0, 1, vector, dtype=np.float32)
    proto = residual(norm, constants=values, opset=opset, **ONE_AXIS)
    onnx.save(proto, tmp_path / "before.onnx")
    result = graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx", level="full")
    assert len(result.fused) == 1
    written = onnx.load(tmp_path / "after.onnx")
    assert right_levels(written) == right_levels(written, kernels=True) == list(OPTIMIZATION_LEVELS)


@pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
def test_a_scale_of_one_number_fuses(shape: tuple[int, ...], tmp_path: Path) -> None:
    """onnxruntime's SkipLayerNormalization refuses what its optimiser gives it there (#25855)."""
    values = {"scale": np.full(shape, 1.5, np.float32), "bias": np.full(shape, 0.5, np.float32)}
    sizes = {"inputs": "float[B,3,8] a, float[B,3,8] b", "outputs": "float[B,3,8] y"}
    proto = residual(POWERS, constants={**TWO, **values}, **sizes)
    onnx.save(proto, tmp_path / "before.onnx")
    result = graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx", level="full")
    assert len(result.fused) == 1
    written = onnx.load(tmp_path / "after.onnx")
    assert right_levels(written) == right_levels(written, kernels=True) == list(OPTIMIZATION_LEVELS)


def test_the_advice_for_an_original_that_runs_otherwise_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no level runs what the model says, no feed helps: the fused nodes can be judged."""

    def find(self: WholeModel) -> None:
        self.strays = {"y": NotShown("output 'y'", "it is not what onnxruntime runs")}

    monkeypatch.setattr(WholeModel, "_look_for_strays", find)
    onnx.save(model(FUSED.replace("h =", "y =")), tmp_path / "before.onnx")
    with pytest.raises(graphfuse.ValidationError, match="not what onnxruntime runs") as caught:
        graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx")
    assert "--validate sites" in caught.value.remedy
    assert "--load-inputs" not in caught.value.remedy
    result = graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx", level="sites")
    assert result.validation is not None
    assert result.validation.passed


EMPTY_BIAS = "x = Add(a, b) h = LayerNormalization(x, scale)"


@pytest.mark.parametrize("level", ["fast", "full"])
@pytest.mark.parametrize(
    "rest", ["y = Identity(h)", "k = Mul(h, b) y = LayerNormalization(k, scale)"]
)
def test_an_empty_bias_does_not_end_the_process(rest: str, level: str, tmp_path: Path) -> None:
    """PyTorch's exporter wrote it for LayerNorm(bias=False): microsoft/onnxruntime#18967."""
    proto = model(f"{EMPTY_BIAS} {rest}")
    for node in proto.graph.node:
        if node.op_type == "LayerNormalization":
            node.input.append("")
    onnx.save(proto, tmp_path / "before.onnx")
    command = [sys.executable, "-m", "graphfuse", "fuse", "before.onnx", "-o", "after.onnx"]
    # onnxruntime's crash would be this process's.
    done = subprocess.run(
        [*command, "--validate", level], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "third input that is empty" in " ".join(done.stdout.split())
    written = onnx.load(tmp_path / "after.onnx")
    left = [node for node in written.graph.node if node.op_type == "LayerNormalization"]
    assert [list(node.input) for node in left] == [["k", "scale", ""]] * len(left)
    if not left:
        assert (
            right_levels(written)
            == right_levels(written, kernels=True)
            == list(OPTIMIZATION_LEVELS)
        )


def test_such_a_model_can_be_timed(tmp_path: Path) -> None:
    proto = model(f"{EMPTY_BIAS} y = Identity(h)")
    proto.graph.node[1].input.append("")
    onnx.save(proto, tmp_path / "before.onnx")
    graphfuse.optimize(tmp_path / "before.onnx", tmp_path / "after.onnx")
    command = [sys.executable, "-m", "graphfuse", "bench", "before.onnx", "after.onnx"]
    command += ["--seconds", "0.1", "--threads", "1", "--no-profile"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_session_of_such_a_model_leaves_it_as_it_is() -> None:
    proto = model(f"{EMPTY_BIAS} y = Identity(h)")
    assert empty_inputs.without(proto) is proto
    proto.graph.node[1].input.append("")
    assert [list(n.input) for n in empty_inputs.without(proto).graph.node][1] == ["x", "scale"]
    assert list(proto.graph.node[1].input) == ["x", "scale", ""]


@pytest.mark.parametrize("axis", [-9, 7])
def test_an_axis_that_is_not_there_is_named(axis: int) -> None:
    """onnx/onnx#6187: attributes that a fuzzer made; nothing that shape inference would help."""
    body = f"y = LayerNormalization<axis = {axis}>(x, scale, bias)"
    (miss,) = graphfuse.scan(residual(body)).near_misses
    assert miss.reason is Reason.OTHER_AXES
    assert miss.got == f"axis {axis} of 3 axes"

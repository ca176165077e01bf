"""What each target takes, and that its nodes compute the same thing."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse import ops
from graphfuse.planning import targets
from graphfuse.records import NormKind
from graphfuse.records.reasons import Reason
from graphfuse.system import libraries
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, kinds, model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
NEWEST = "1.32"
"""Where no kernel is known to refuse a skip that broadcasts, or bfloat16 (test_runtime_plans.py)."""
HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()

TAKEN = {
    "same shape": ("float[B,S,8] a, float[B,S,8] b", "float[B,S,8] y"),
    "rank 2": ("float[B,8] a, float[B,8] b", "float[B,8] y"),
    "skip (S, H)": ("float[B,S,8] a, float[S,8] b", "float[B,S,8] y"),
    "skip (1, S, H)": ("float[B,S,8] a, float[1,S,8] b", "float[B,S,8] y"),
    "skip first": ("float[1,S,8] a, float[B,S,8] b", "float[B,S,8] y"),
}

REFUSED = {
    "rank 4": ("float[B,T,S,8] a, float[B,T,S,8] b", "float[B,T,S,8] y", Reason.TARGET_RANK),
    "rank 1": ("float[8] a, float[8] b", "float[8] y", Reason.TARGET_RANK),
    "skip (H)": ("float[B,S,8] a, float[8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "skip (1, 1, H)": ("float[B,S,8] a, float[1,1,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "skip (B, 1, H)": ("float[B,S,8] a, float[B,1,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "both broadcast": ("float[B,1,8] a, float[1,S,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "not proven": ("float[B,S,8] a, float[B,T,8] b", "float[B,S,8] y", Reason.TARGET_BROADCAST),
    "rank 2, skip (1, H)": ("float[B,8] a, float[1,8] b", "float[B,8] y", Reason.TARGET_BROADCAST),
}


@pytest.mark.parametrize("case", TAKEN)
def test_contrib_operator_where_it_is_right(case: str) -> None:
    inputs, outputs = TAKEN[case]
    proto = residual(NORM, inputs=inputs, outputs=outputs)
    result = graphfuse.fuse(proto, ep="cuda", runtime=NEWEST)
    assert kinds(result.model) == ["SkipLayerNormalization"]
    node = result.model.graph.node[0]
    assert node.domain == "com.microsoft"
    # The contrib operator's default epsilon is another than ONNX's.
    assert [a.f for a in node.attribute if a.name == "epsilon"] == [np.float32(1e-5)]
    assert list(node.output) == ["y"]
    # The CPU provider has this operator too: same meaning, same kernel interface.
    report = graphfuse.validate(proto, result.model, ep=["cpu"])
    assert report.passed, report.failures


@pytest.mark.parametrize("case", REFUSED)
def test_contrib_operator_where_it_is_not(case: str) -> None:
    inputs, outputs, reason = REFUSED[case]
    result = graphfuse.fuse(residual(NORM, inputs=inputs, outputs=outputs), ep="cuda")
    assert not result.changed
    assert [miss.reason for miss in result.left] == [reason]
    # Our own operator takes every one of them.
    assert graphfuse.fuse(residual(NORM, inputs=inputs, outputs=outputs), ep="cpu").changed


def test_contrib_operator_yields_the_sum_as_output_3() -> None:
    proto = residual(NORM, outputs="float[B,S,8] y, float[B,S,8] x")
    result = graphfuse.fuse(proto, ep="cuda")
    assert list(result.model.graph.node[0].output) == ["y", "", "", "x"]
    assert graphfuse.validate(proto, result.model).passed


def test_contrib_rms_norm() -> None:
    proto = residual(DECOMPOSED_RMS_NORM)
    result = graphfuse.fuse(proto, ep="cuda")
    assert kinds(result.model) == ["SkipSimplifiedLayerNormalization"]
    assert len(result.model.graph.node[0].input) == 3
    assert not result.model.functions
    assert graphfuse.validate(proto, result.model).passed


def test_float64_is_not_for_the_contrib_operator() -> None:
    options = {
        "inputs": "double[B,S,8] a, double[B,S,8] b",
        "outputs": "double[B,S,8] y",
        "constants": {"scale": np.ones(8), "bias": np.zeros(8)},
    }
    result = graphfuse.fuse(residual(NORM, **options), ep="cuda")
    assert [miss.reason for miss in result.left] == [Reason.ELEMENT_TYPE]
    fused = graphfuse.fuse(residual(NORM, **options), ep="cpu")
    assert graphfuse.validate(residual(NORM, **options), fused.model).passed


def test_opset_below_seven_has_no_function() -> None:
    proto = residual(DECOMPOSED_RMS_NORM.replace("axes=[-1]", "axes=[2]"), opset=6, ir=3)
    assert [miss.reason for miss in graphfuse.fuse(proto).left] == [Reason.OPSET]


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(graphfuse.UsageError, match=r"cpu, cuda, .*portable or auto"):
        targets.target("tpu")


SESSIONS = [(name, kind) for name in targets.TARGETS for kind in ops.OPERATOR]
LACKED = {
    "bfloat16": Reason.ELEMENT_TYPE,
    "rank 4": Reason.TARGET_RANK,
    "skip (H)": Reason.TARGET_BROADCAST,
    "skip (1, S, H)": Reason.TARGET_BROADCAST,
    "two axes": Reason.OTHER_AXES,
    "float32 scale": Reason.PARAMETER_TYPE,
    "opset 6": Reason.OPSET,
}
"""What some row does not take, and the reason that it gives."""


def _case(name: str, kind: str) -> onnx.ModelProto:
    """A site of a kind that not every row takes."""
    rms = kind == NormKind.RMS_NORM
    norm = "y = RMSNormalization(x, scale)" if rms else NORM
    options: dict[str, Any] = {"opset": 23, "ir": 10} if rms else {}
    shapes = {
        "rank 4": "float[B,T,S,8] a, float[B,T,S,8] b",
        "skip (H)": "float[B,S,8] a, float[8] b",
        "skip (1, S, H)": "float[B,S,8] a, float[1,S,8] b",
        "two axes": "float[B,4,8] a, float[B,4,8] b",
        "bfloat16": "bfloat16[B,S,8] a, bfloat16[B,S,8] b",
        "float32 scale": "float16[B,S,8] a, float16[B,S,8] b",
    }
    if name in shapes:
        options["inputs"] = shapes[name]
        options["outputs"] = shapes[name].split(" a")[0] + " y"
    if name == "two axes":
        norm = norm.replace("Normalization(", "Normalization<axis=-2>(")
        ones = np.ones((4, 8), np.float32)
        options["constants"] = {"scale": ones, "bias": ones}
    if name == "bfloat16":
        ones = np.ones(8, ml_dtypes.bfloat16)
        options["constants"] = {"scale": ones, "bias": ones}
    if name == "float32 scale":
        wide = norm.replace("y =", "w =").replace("(x", "(c")
        norm = f"c = Cast<to=1>(x)\n{wide}\ny = Cast<to=10>(w)"
    if name == "opset 6":
        norm = (DECOMPOSED_RMS_NORM if rms else DECOMPOSED_LAYER_NORM).replace("[-1]", "[2]")
        options |= {"opset": 6, "ir": 3}
    return residual(norm, **options)


def _takes(row: targets.Row, name: str) -> bool:
    """Read from the row, the other way round than targets.refusal does."""
    return {
        "bfloat16": onnx.TensorProto.BFLOAT16 in row.elem_types,
        "rank 4": row.ranks is None or 4 in row.ranks,
        "skip (H)": row.broadcast == targets.Broadcast.ANY,
        "skip (1, S, H)": row.broadcast in (targets.Broadcast.ANY, targets.Broadcast.TRAILING),
        "two axes": row.axes,
        "float32 scale": row.mixed,
        "opset 6": row.operator not in ops.OPERATORS,
    }[name]


@pytest.mark.parametrize(("name", "kind"), SESSIONS)
def test_every_row_runs_on_its_provider(name: str, kind: str) -> None:
    """A session on the row's provider runs the node, there, and computes the same thing."""
    row = targets.target(name)
    if row.provider not in ort.get_available_providers():
        pytest.skip(f"onnxruntime {ort.__version__} has no {row.provider} here")
    proto = residual(NORM if kind == NormKind.LAYER_NORM else DECOMPOSED_RMS_NORM)
    result = graphfuse.fuse(proto, ep=name)
    assert [f.op_type for f in result.fused] == [targets.operator(row, kind, False)]
    assert result.fused[0].domain == row.domain
    report = graphfuse.validate(proto, result.model, ep=[name])
    assert report.passed, report.failures
    assert report.providers == (row.provider,)


@pytest.mark.parametrize("case", LACKED)
@pytest.mark.parametrize(("name", "kind"), SESSIONS)
def test_every_row_refuses_what_it_does_not_take(name: str, kind: str, case: str) -> None:
    """Without a session: the plan alone decides, for providers that are not here as well."""
    result = graphfuse.fuse(
        _case(case, kind), ep=name, runtime=NEWEST, selection=graphfuse.Selection(costs="none")
    )
    if _takes(targets.target(name).rows[kind], case):
        assert result.changed, [miss.reason for miss in result.left]
    else:
        assert not result.changed
        assert [miss.reason for miss in result.left] == [LACKED[case]]


@pytest.mark.parametrize(("name", "kind"), SESSIONS)
def test_every_row_lacks_something(name: str, kind: str) -> None:
    row = targets.target(name).rows[kind]
    assert not all(_takes(row, case) for case in LACKED), (
        "the row takes every case of LACKED: add what it does not take, to _case and _takes as well"
    )
    assert row.source
    assert row.since >= (1, 17)


def test_a_bias_is_folded_only_where_the_operator_reads_it_rightly() -> None:
    """WebGPU reads input 3 of SkipSimplifiedLayerNormalization, its bias, as a LayerNorm's bias."""
    assert targets.takes_bias(targets.target("webgpu"), NormKind.LAYER_NORM)
    biased = "c = Add(b, bias)\nx = Add(a, c)\n" + DECOMPOSED_RMS_NORM
    for ep, folded in (("cuda", True), ("webgpu", False), ("directml", False), ("cpu", True)):
        result = graphfuse.fuse(model(biased), ep=ep, selection=graphfuse.Selection(fold_bias=True))
        assert result.changed
        assert ("bias" in result.fused[0].inputs) is folded, ep


# One file for several providers.


@pytest.mark.parametrize("norm", [NORM, DECOMPOSED_RMS_NORM])
def test_one_file_for_cpu_and_cuda_has_the_contrib_operator_inside(norm: str) -> None:
    """Kernels of graphfuse's run on the CPU; who has none inlines onnxruntime's fused operator."""
    proto = residual(norm, outputs="float[B,S,8] y, float[B,S,8] x")
    result = graphfuse.fuse(proto, ep="cpu,cuda")
    (fusion,) = result.fused
    assert fusion.domain == ops.DOMAIN
    (function,) = result.model.functions
    assert [node.domain for node in function.node] == ["com.microsoft"]
    assert list(function.node[0].output) == ["Y", "", "", "Sum"]
    onnx.checker.check_model(result.model, full_check=True)
    # With the kernels, and through the functions.
    report = graphfuse.validate(proto, result.model)
    assert report.passed, report.failures


def test_one_file_for_several_fuses_only_what_all_of_them_take() -> None:
    inputs, outputs, reason = REFUSED["skip (H)"]
    result = graphfuse.fuse(residual(NORM, inputs=inputs, outputs=outputs), ep="cpu,cuda")
    assert [miss.reason for miss in result.left] == [reason]


def test_one_file_for_providers_without_the_operator_has_plain_functions() -> None:
    result = graphfuse.fuse(residual(NORM), ep="cpu,tensorrt")
    assert [node.domain for node in result.model.functions[0].node] == ["", ""]
    assert graphfuse.fuse(residual(NORM), ep="cuda,webgpu").fused[0].domain == "com.microsoft"


def test_auto_is_the_first_provider_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets.target("auto").name == ("cuda" if HAS_CUDA else "cpu")
    for there, wanted in (
        (["TensorrtExecutionProvider", "CUDAExecutionProvider"], "tensorrt"),
        (["AzureExecutionProvider", "CPUExecutionProvider"], "cpu"),
        (["OtherExecutionProvider"], "portable"),
    ):
        monkeypatch.setattr(
            "graphfuse.system.libraries.available_providers", lambda there=there: there
        )
        assert targets.target("auto").name == wanted
    monkeypatch.undo()
    assert graphfuse.fuse(residual(NORM), ep="auto").target == targets.best_here()


@pytest.mark.skipif(HAS_CUDA, reason="the CUDA provider is there, so nothing is missing")
def test_missing_provider_is_an_error_of_its_own() -> None:
    proto = residual(NORM)
    result = graphfuse.fuse(proto, ep="cuda")
    with pytest.raises(graphfuse.ProviderError, match="CUDAExecutionProvider") as caught:
        graphfuse.validate(proto, result.model, ep=["cuda"])
    assert caught.value.exit_code == 5


def test_missing_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> object:
        raise ImportError(f"no module named {name!r}")

    monkeypatch.setattr(libraries.importlib, "import_module", fail)
    with pytest.raises(graphfuse.ProviderError, match=r"graphfuse\[cpu\]"):
        graphfuse.session_options()

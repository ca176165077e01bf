"""Scales and biases that no tensor of the model holds: computed from the weights, exactly."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

import graphfuse
from graphfuse.files.model_file import Model
from graphfuse.records import Expression, Factor
from graphfuse.records.reasons import Reason
from tests.support.graphs import (
    DECOMPOSED_LAYER_NORM,
    DECOMPOSED_RMS_NORM,
    assert_passes,
    kinds,
    residual,
)

LN, RMS = DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM


def constants(**arrays: object) -> dict[str, dict[str, np.ndarray]]:
    return {"constants": {k: np.asarray(v, np.float32) for k, v in arrays.items()}}


ROW = np.linspace(0.5, 2, 8)

CASES = {
    "scale (1, 1, H)": (LN, constants(scale=ROW.reshape(1, 1, 8))),
    "scale and bias (1, H)": (LN, constants(scale=ROW.reshape(1, 8), bias=ROW.reshape(1, 8))),
    "scalar scale": (LN, constants(scale=0.7)),
    "scalar scale (1)": (RMS, constants(scale=[0.7])),
    "scalar bias": (LN, constants(bias=[[0.1]])),
    "scale times a number": (
        RMS.replace("y = Mul(n, scale)", "z = Mul(n, scale) y = Mul(z, k)"),
        constants(k=0.3),
    ),
    "two scales": (
        RMS.replace("y = Mul(n, scale)", "z = Mul(n, scale) y = Mul(z, k)"),
        constants(k=ROW),
    ),
    "scale over a weight": (
        RMS.replace("y = Mul(n, scale)", "z = Mul(n, scale) y = Div(z, k)"),
        constants(k=ROW),
    ),
    "two biases": (
        LN.replace("y = Add(s, bias)", "z = Add(s, bias) y = Add(z, k)"),
        constants(k=ROW),
    ),
    "bias less a number": (
        LN.replace("y = Add(s, bias)", "z = Sub(s, k) y = Add(z, bias)"),
        constants(k=0.25),
    ),
    "variance over n - 1": (
        LN.replace("e = Add(v, eps)", "u = Mul(v, c) e = Add(u, eps)"),
        constants(c=8 / 7),
    ),
    "variance over n - 1, scale 1": (
        LN.replace("e = Add(v, eps)", "u = Mul(v, c) e = Add(u, eps)").replace(
            "s = Mul(n, scale)", "s = Identity(n)"
        ),
        constants(c=8 / 7),
    ),
    "x scaled inside": (
        RMS.replace("q = Mul(x, x)", "h = Mul(x, c) q = Mul(h, h)"),
        constants(c=0.125),
    ),
    "TensorFlow's form": (
        """m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
           e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) w = Mul(i, scale) p = Mul(x, w)
           t = Mul(m, w) u = Sub(bias, t) y = Add(p, u)""",
        {},
    ),
}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("case", CASES)
def test_parameters_are_computed_from_weights(case: str, opset: int) -> None:
    norm, options = CASES[case]
    proto = residual(norm, opset=opset, **options)
    result = graphfuse.fuse(proto)
    assert [f.site.output for f in result.fused] == ["y"], [(m.reason, m.got) for m in result.left]
    assert_passes(proto, result.model)
    # Nothing that depends on the activations is left but the fused node.
    computed = {node.output[0] for node in result.model.graph.node}
    assert not computed & {"a", "b", "d", "q", "v", "e", "r", "n"}


def test_runtimes_fold_the_prelude(tmp_path: object) -> None:
    norm, options = CASES["two scales"]
    proto = residual(norm, **options)
    sessions = ort.SessionOptions()
    sessions.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    sessions.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    ort.InferenceSession(
        graphfuse.fuse(proto).model.SerializeToString(),
        sessions,
        providers=["CPUExecutionProvider"],
    )
    assert len(onnx.load(sessions.optimized_model_filepath).graph.node) <= 2


@pytest.mark.parametrize("extents", [(1, 1, 8), (8,)])
def test_only_small_constants_that_change_their_shape_are_read(
    monkeypatch: pytest.MonkeyPatch, extents: tuple[int, ...]
) -> None:
    proto = residual(LN, **constants(scale=ROW.reshape(extents)))
    read: list[str] = []
    honest = Model.read

    def watch(self: Model, tensor: onnx.TensorProto) -> np.ndarray:
        read.append(tensor.name)
        return honest(self, tensor)

    monkeypatch.setattr(Model, "read", watch)
    assert graphfuse.fuse(proto).changed
    assert set(read) <= ({"eps", "scale"} if len(extents) > 1 else {"eps"})


def test_r01_a_constant_scale_of_three_axes_is_one_initializer() -> None:
    """microsoft/onnxruntime#27455: it cost five nodes for each scale and bias."""
    shaped = constants(scale=ROW.reshape(1, 1, 8), bias=ROW[::-1].reshape(1, 1, 8))
    proto = residual("y = LayerNormalization(x, scale, bias)", **shaped)
    result = graphfuse.fuse(proto)
    assert kinds(result.model) == ["AddLayerNormalization"]
    assert [tensor.dims for tensor in result.model.graph.initializer] == [[8], [8]]
    assert (result.nodes_before, result.nodes_after) == (2, 1)
    assert_passes(proto, result.model)


GROWING = {
    **CASES,
    "operator, scale times a number": (
        "n = LayerNormalization(x, scale, bias) y = Mul(n, k)",
        constants(k=0.3),
    ),
    "operator, shaped and scaled": (
        "n = LayerNormalization(x, scale, bias) y = Mul(n, k)",
        constants(k=ROW.reshape(1, 1, 8), scale=ROW / 3),
    ),
    "operator, two biases": (
        "n = LayerNormalization(x, scale, bias) y = Add(n, k)",
        constants(k=ROW / 7),
    ),
}


@pytest.mark.parametrize("ep", ["cpu", "cuda"])
@pytest.mark.parametrize("case", GROWING)
def test_no_fusion_adds_nodes(case: str, ep: str) -> None:
    norm, options = GROWING[case]
    proto = residual(norm, **options)
    result = graphfuse.fuse(proto, ep, selection=graphfuse.Selection(costs="none"))
    assert result.changed
    assert result.nodes_after <= result.nodes_before
    assert_passes(proto, result.model)


def test_a_constant_that_is_too_large_to_copy_is_reshaped_by_one_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("graphfuse.planning.operands.LARGEST_FOLDED", 4)
    shaped = constants(scale=ROW.reshape(1, 1, 8))
    proto = residual("y = LayerNormalization(x, scale, bias)", **shaped)
    result = graphfuse.fuse(proto)
    assert kinds(result.model) == ["Constant", "Reshape", "AddLayerNormalization"]


def test_a_weight_that_fits_is_passed_as_it_is() -> None:
    result = graphfuse.fuse(residual(LN))
    assert kinds(result.model) == ["AddLayerNormalization"]
    assert result.fused[0].site.scale == "scale"


def test_narrower_weights_are_cast() -> None:
    proto = residual(
        "w = Cast<to=1>(half) " + RMS.replace("scale", "w"),
        constants={"half": ROW.astype(np.float16)},
    )
    result = graphfuse.fuse(proto)
    assert result.changed
    assert_passes(proto, result.model)


def test_float32_weights_beside_a_float16_sum() -> None:
    """The operator takes a scale and bias in float32: no weight is rounded."""
    proto = residual(
        "c = Cast<to=1>(x) n = LayerNormalization(c, scale, bias) y = Cast<to=10>(n)",
        inputs="float16[B,S,8] a, float16[B,S,8] b",
        outputs="float16[B,S,8] y",
    )
    result = graphfuse.fuse(proto, selection=graphfuse.Selection(costs="none"))
    assert [f.site.parameter_type for f in result.fused] == [TensorProto.FLOAT]
    assert result.fused[0].inputs == ("a", "b", "scale", "bias")
    assert_passes(proto, result.model)
    # onnxruntime's own operators have one type.
    cuda = graphfuse.fuse(proto, ep="cuda")
    assert [m.reason for m in cuda.left] == [Reason.PARAMETER_TYPE]


def test_expressions_are_records() -> None:
    norm, options = CASES["scale times a number"]
    site = graphfuse.scan(residual(norm, **options)).sites[0]
    assert site.scale == Expression(((float(np.float32(0.3)), (Factor("scale"),)),))


def test_two_sites_do_not_share_names() -> None:
    body = LN + LN.replace("(x", "(t").replace(" x", " t")
    proto = residual(LN + " z = Relu(y)", outputs="float[B,S,8] z", **constants(scale=0.5))
    first = graphfuse.fuse(proto).model
    assert body
    names = [name for node in first.graph.node for name in node.output]
    assert len(names) == len(set(names))

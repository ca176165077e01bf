"""Norms by other names that were passed over: by channel, by group, quantized inside.

onnx/onnx-tensorrt#1052 (GroupNormalization with one group), microsoft/onnxscript#1205 (a group norm
written as an InstanceNormalization), onnx/onnx#5753 (MeanVarianceNormalization),
microsoft/Olive#1594 (an RMSNorm made an LpNormalization), microsoft/onnxruntime#16219 (a norm whose
own nodes are quantized).
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import inliner, version_converter

import graphfuse
from graphfuse.records.reasons import Reason
from tests.support.graphs import DECOMPOSED_LAYER_NORM, assert_passes, check, feeds, kinds, residual

RNG = np.random.default_rng(5)
LEARNED = {
    "g": RNG.normal(1, 0.3, 4).astype(np.float32),
    "h": RNG.normal(0, 0.3, 4).astype(np.float32),
    "one": np.ones(4, np.float32),
    "none": np.zeros(4, np.float32),
    "single": np.array([1.5], np.float32),
    "shift": np.array([0.5], np.float32),
    "rows": np.array([0, 1, -1]),
    "two_groups": np.array([0, 2, -1]),
    "pair": np.ones(2, np.float32),
    "nothing": np.zeros(2, np.float32),
    "layer_scale": RNG.normal(1, 0.3, (4, 1)).astype(np.float32),
    "layer_shift": RNG.normal(0, 0.3, (4, 1)).astype(np.float32),
}
ITEMS = {"inputs": "float[N,4,6] a, float[N,4,6] b", "outputs": "float[N,4,6] y"}
SQUARE = {"inputs": "float[N,4,4] a, float[N,4,4] b", "outputs": "float[N,4,4] y"}
IMAGES = {"inputs": "float[N,4,5,3] a, float[N,4,5,3] b", "outputs": "float[N,4,5,3] y"}
GROUP = "y = GroupNormalization<num_groups = 1, epsilon = 1e-4>(x, g, h)"

FUSED = {
    "one group": (GROUP, ITEMS, 21),
    "one group, the last extent equal to the channels": (GROUP, SQUARE, 21),
    "one group of an image, nothing learned": (GROUP.replace("g, h", "one, none"), IMAGES, 21),
    "one group, and a layer scale (PoolFormer)": (
        f"{GROUP.replace('y =', 'n =')} y = Mul(n, layer_scale)",
        ITEMS,
        21,
    ),
    "one group, scale and bias by group": (GROUP.replace("g, h", "single, shift"), ITEMS, 18),
    "one group as PyTorch's exporters write it": (
        "r = Reshape(x, rows) i = InstanceNormalization(r, single, shift) t = Shape(x) "
        "u = Reshape(i, t) s = Mul(u, layer_scale) y = Add(s, layer_shift)",
        ITEMS,
        17,
    ),
    "channels of one axis, nothing learned": ("y = InstanceNormalization(x, one, none)", ITEMS, 17),
    "channels of an image, nothing learned": (
        "y = InstanceNormalization(x, one, none)",
        IMAGES,
        17,
    ),
}


@pytest.mark.parametrize("case", FUSED)
def test_norms_by_channel_that_are_a_layer_norm_fuse(case: str) -> None:
    body, sizes, opset = FUSED[case]
    proto = residual(body, constants=LEARNED, opset=opset, **sizes)
    result = check(proto)
    assert [fusion.site.kind for fusion in result.fused] == ["LayerNorm"]
    assert "AddLayerNormalization" in kinds(result.model)
    report = graphfuse.validate(proto, result.model)
    assert report.passed, report.failures
    assert not any("attribute" in note for note in report.notes)


@pytest.mark.parametrize("elem_type", [np.float16, np.float64])
def test_one_group_of_another_type_fuses(elem_type: type) -> None:
    name = "float16" if elem_type is np.float16 else "double"
    sizes = {key: text.replace("float", name) for key, text in ITEMS.items()}
    values = {key: LEARNED[key].astype(elem_type) for key in "gh"}
    proto = residual(GROUP.replace("1e-4", "0.0009765625"), constants=values, opset=21, **sizes)
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    assert_passes(proto, result.model)


def test_a_wrong_scale_by_channel_is_found() -> None:
    proto = residual(GROUP, constants=LEARNED, opset=21, **SQUARE)
    fused = graphfuse.fuse(proto).model
    # Along the last axis it would be as long.
    for node in fused.graph.node:
        if node.op_type == "AddLayerNormalization":
            node.input[2] = "g"
    assert not graphfuse.validate(proto, fused).passed


LEFT = {
    "a scale for each channel": (
        "y = InstanceNormalization(x, g, h)",
        Reason.PARAMETER_VARIES,
    ),
    "a scale that is computed": (
        "k = ReduceMean<axes = [0, 2], keepdims = 0>(b) y = InstanceNormalization(x, k, none)",
        Reason.PARAMETER_COMPUTED,
    ),
    "epsilon beside the root": (
        "y = MeanVarianceNormalization<axes = [2]>(x)",
        Reason.EPSILON_OUTSIDE_ROOT,
    ),
    "no epsilon (an L2 normalisation times the root of n)": (
        "n = LpNormalization<axis = 2, p = 2>(x) y = Mul(n, single)",
        Reason.EPSILON_NOT_POSITIVE,
    ),
    "a scale that is read along another axis": (
        "n = GroupNormalization<num_groups = 1>(x, g, h) y = Mul(n, g)",
        Reason.NOT_THE_DEFINITION,
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_norms_by_channel_that_are_none_are_near_misses(case: str) -> None:
    body, reason = LEFT[case]
    found = graphfuse.scan(residual(body, constants=LEARNED, opset=17, **SQUARE))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [reason]


@pytest.mark.parametrize(
    "body",
    [
        GROUP.replace("num_groups = 1", "num_groups = 2"),
        "r = Reshape(x, two_groups) i = InstanceNormalization(r, pair, nothing) t = Shape(x) "
        "y = Reshape(i, t)",
        "y = MeanVarianceNormalization<axes = [0, 2]>(x)",
        "y = LpNormalization<axis = 1>(x)",
        "y = LpNormalization<p = 1>(x)",
    ],
)
def test_groups_and_batches_are_no_layer_norm(body: str) -> None:
    found = graphfuse.scan(residual(body, constants=LEARNED, opset=21, **ITEMS))
    assert not found.sites
    assert not found.near_misses


def test_one_group_of_an_unknown_length_is_named() -> None:
    """Scale and bias have the extents of the norm's axes, so these have to be numbers."""
    body, _, opset = FUSED["one group as PyTorch's exporters write it"]
    sizes = {key: text.replace("6", "L") for key, text in ITEMS.items()}
    found = graphfuse.scan(residual(body, constants=LEARNED, opset=opset, **sizes))
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.SUM_RESHAPED]


def test_the_advice_for_a_scale_by_channel_works() -> None:
    """A vector along the last axis can be a scale: that of channels behind the norm stays there."""
    body = "n = InstanceNormalization(x, one, none) s = Mul(n, layer_scale) y = Add(s, layer_shift)"
    result = check(residual(body, constants=LEARNED, **ITEMS))
    assert len(result.fused) == 1
    assert kinds(result.model)[-2:] == ["Mul", "Add"]


def inlined(body: str, opset: int) -> onnx.ModelProto:
    """A model whose norm is written out by ONNX's own inliner."""
    sizes = {k: text.replace("N", "2") for k, text in ITEMS.items()}
    proto = residual(body, constants=LEARNED, opset=opset, ir=10, **sizes)
    for tensor in proto.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.value_info.append(value)
    op_type = body.split("= ")[1].split("<", maxsplit=1)[0].split("(", maxsplit=1)[0]
    return inliner.inline_selected_functions(proto, [("", op_type)], inline_schema_functions=True)


def test_what_the_inliner_writes_out_is_left_for_the_same_reason() -> None:
    found = graphfuse.scan(inlined("y = MeanVarianceNormalization<axes = [2]>(x)", 18))
    assert [miss.reason for miss in found.near_misses] == [Reason.EPSILON_OUTSIDE_ROOT]


QUANTIZED = {"qs": np.array(0.05, np.float32), "qz": np.array(3, np.uint8)}
PLACES = {
    "the deviation": ("d", "d = Sub(x, m)"),
    "the square": ("q", "q = Mul(d, d)"),
    "the variance": ("v", "v = ReduceMean<axes=[-1], keepdims=1>(q)"),
    "the sum with epsilon": ("e", "e = Add(v, eps)"),
    "the root": ("r", "r = Sqrt(e)"),
}


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
@pytest.mark.parametrize("place", PLACES)
def test_a_norm_that_is_quantized_inside_is_a_near_miss(place: str, domain: str) -> None:
    name, node = PLACES[place]
    steps = f"{name}_q = {domain}QuantizeLinear({name}_f, qs, qz) "
    steps += f"{name} = {domain}DequantizeLinear({name}_q, qs, qz)"
    body = DECOMPOSED_LAYER_NORM.replace(node, f"{node.replace(name, f'{name}_f', 1)} {steps}")
    proto = residual(body, constants=QUANTIZED, extra_imports=', "com.microsoft" : 1')
    found = graphfuse.scan(proto)
    assert not found.sites
    assert [miss.reason for miss in found.near_misses] == [Reason.NORM_QUANTIZED]
    assert found.near_misses[0].culprit.op_type == "QuantizeLinear"


def test_a_norm_that_is_quantized_behind_is_a_site() -> None:
    body = DECOMPOSED_LAYER_NORM.replace("y =", "z =")
    body += " k = QuantizeLinear(z, qs, qz) y = DequantizeLinear(k, qs, qz)"
    assert len(graphfuse.scan(residual(body, constants=QUANTIZED)).sites) == 1


def test_a_deviation_without_a_root_is_no_norm() -> None:
    body = "m = ReduceMean<axes=[-1], keepdims=1>(x) d = Sub(x, m) "
    body += "k = QuantizeLinear(d, qs, qz) y = DequantizeLinear(k, qs, qz)"
    found = graphfuse.scan(residual(body, constants=QUANTIZED))
    assert not found.near_misses


def test_a_reduction_over_nothing_is_no_near_miss() -> None:
    """noop_with_empty_axes, without axes: what comes out is what goes in."""
    body = DECOMPOSED_LAYER_NORM.replace("axes=[-1],", "noop_with_empty_axes=1,")
    found = graphfuse.scan(residual(body, opset=18))
    assert not found.sites
    assert not found.near_misses


@pytest.mark.parametrize(("source", "target"), [(12, 13), (14, 18), (17, 21), (23, 17)])
def test_what_the_version_converter_writes_fuses(source: int, target: int) -> None:
    native = source >= 17
    body = "y = LayerNormalization(x, scale, bias)" if native else DECOMPOSED_LAYER_NORM
    before = residual(body, opset=source, ir=10)
    proto = version_converter.convert_version(before, target)
    result = graphfuse.fuse(proto)
    assert len(result.fused) == 1
    evaluated = (onnx.reference.ReferenceEvaluator(p) for p in (before, result.model))
    one, other = (each.run(None, feeds(before))[0] for each in evaluated)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

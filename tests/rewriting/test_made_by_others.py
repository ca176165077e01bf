"""Models that other tools optimised, quantised or saved: their fused nodes become the target's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from graphfuse.planning import advice, runtimes
from graphfuse.records.reasons import Reason
from graphfuse.running.random_feeds import Sizes, random_feeds
from tests.conftest import MODELS
from tests.support.graphs import assert_passes, needs_opset, residual

CPU = ["CPUExecutionProvider"]
SKIPS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
SITES = {"gpt2": 5, "bert": 5, "vit": 5, "llama": 4}
Tool = Callable[[Path, Path], object]

quantization = pytest.importorskip("onnxruntime.quantization")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """These tools advise, by warnings and by the root logger."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def original(name: str) -> Path:
    needs_opset(18)
    return MODELS / f"{name}.onnx"


def skips(model: onnx.ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type in SKIPS]


def saved(path: Path, level: str, target: Path) -> Path:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(path), options, providers=CPU)
    return target


def transformed(path: Path, kind: str, target: Path) -> Path:
    pytest.importorskip("torch")
    from onnxruntime.transformers import optimizer

    # Nothing but its own fusions; the model is small, so heads are not told.
    made = optimizer.optimize_model(str(path), kind, 0, 0, opt_level=0)
    made.save_model_to_file(str(target))
    return target


def dynamic(path: Path, target: Path) -> Path:
    more = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantization.quantize_dynamic(str(path), str(target), extra_options=more)
    return target


def become_the_target_s(path: Path, sites: int) -> None:
    """No Skip node is left without a reason, the gates pass, and there and back is the same.

    The one reason that there may be is that nothing tells the shapes behind the tool's operators.
    """
    first = graphfuse.fuse(path)
    assert set(first.reasons()) <= {Reason.UNKNOWN_SHAPE}
    assert len(first.fused) + len(first.left) >= sites
    assert len(skips(first.model)) <= len(first.left)
    assert_passes(path, first.model, level="full")
    for ep in ("portable", "tensorrt"):
        assert len(skips(graphfuse.fuse(path, ep).model)) <= len(first.left)
    there = graphfuse.fuse(first.model, "cuda").model
    again = graphfuse.fuse(there).model
    assert again.SerializeToString(deterministic=True) == first.model.SerializeToString(
        deterministic=True
    )
    runs_as(path, first.model)


def runs_as(path: Path, fused: onnx.ModelProto) -> None:
    """In sessions with the kernels and without; int8 rounds a little off to the next step."""
    feeds = dict(random_feeds(onnx.load(path), 0))
    wanted = ort.InferenceSession(str(path), providers=CPU).run(None, feeds)
    for kernels in (True, False):
        options = graphfuse.session_options(kernels=kernels)
        made = ort.InferenceSession(fused.SerializeToString(), options, providers=CPU)
        for one, other in zip(made.run(None, feeds), wanted, strict=True):
            distance = np.linalg.norm(np.asarray(one, np.float64) - other)
            assert distance <= 0.02 * np.linalg.norm(np.asarray(other, np.float64))


TRANSFORMED = {"gpt2": "gpt2", "bert": "bert", "vit": "vit", "llama": "gpt_neox"}


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_what_onnxruntime_transformers_made(name: str, quantized: bool, tmp_path: Path) -> None:
    path = transformed(original(name), TRANSFORMED[name], tmp_path / "optimised.onnx")
    if quantized:
        path = dynamic(path, tmp_path / "quantized.onnx")
    assert skips(onnx.load(path))
    become_the_target_s(path, SITES[name])


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
@pytest.mark.parametrize("name", SITES)
def test_what_a_session_saved(name: str, level: str, tmp_path: Path) -> None:
    """onnxruntime lists every operator set that it knows: they stay, whoever needs them."""
    path = saved(original(name), level, tmp_path / "saved.onnx")
    imports = {entry.domain for entry in onnx.load(path).opset_import}
    assert "com.microsoft" in imports
    become_the_target_s(path, SITES[name])


def reader(path: Path) -> Any:
    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            model = onnx.load(path)
            self._feeds = iter([dict(random_feeds(model, n, None, Sizes(2, 7))) for n in range(3)])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self._feeds, None)

    return Reader()


def static(path: Path, target: Path, form: str, *operators: str) -> None:
    quantization.quantize_static(
        str(path),
        str(target),
        reader(path),
        quant_format=quantization.QuantFormat[form],
        op_types_to_quantize=list(operators) or None,
    )


def float8(path: Path, target: Path) -> None:
    """Products in float8 (E4M3FN), which onnxruntime calibrates by the distribution of numbers."""
    kind = quantization.QuantType.QFLOAT8E4M3FN
    quantization.quantize_static(
        str(path),
        str(target),
        reader(path),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=kind,
        weight_type=kind,
        op_types_to_quantize=["MatMul", "Gemm"],
        calibrate_method=quantization.CalibrationMethod.Distribution,
        extra_options={"scenario": "same"},
    )


def weights_only(path: Path, target: Path, bits: int) -> None:
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    config = nbits.DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True, bits=bits)
    made = nbits.MatMulNBitsQuantizer(onnx.load(path), algo_config=config)
    made.process()
    made.model.save_model_to_file(str(target))


MODES: Mapping[str, Tool] = {
    "dynamic int8": dynamic,
    "dynamic uint8, per channel": lambda path, target: quantization.quantize_dynamic(
        str(path), str(target), weight_type=quantization.QuantType.QUInt8, per_channel=True
    ),
    "static QDQ of products": lambda p, t: static(p, t, "QDQ", "MatMul", "Gemm"),
    "static QOperator of products": lambda p, t: static(p, t, "QOperator", "MatMul", "Gemm"),
    "int4": lambda path, target: weights_only(path, target, 4),
    "int8 weights": lambda path, target: weights_only(path, target, 8),
    "float8": float8,
}
SUMS_QUANTIZED: Mapping[str, Tool] = {
    "static QDQ": lambda p, t: static(p, t, "QDQ"),
    "static QOperator": lambda p, t: static(p, t, "QOperator"),
}


@cache
def _sites(name: str) -> int:
    return len(graphfuse.scan(original(name)).sites)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("mode", MODES)
def test_quantized_models_are_fused_and_pass(mode: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    MODES[mode](original(name), path)
    result = graphfuse.fuse(path, selection=graphfuse.Selection(costs="none"))
    # What is behind MatMulNBits has no type where onnx infers none: each has its reason then.
    assert len(result.fused) + len(result.left) == _sites(name)
    assert set(result.reasons()) <= {Reason.UNKNOWN_SHAPE}
    assert_passes(path, result.model, level="full")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("mode", SUMS_QUANTIZED)
def test_a_sum_that_is_quantized_is_no_site(mode: str, name: str, tmp_path: Path) -> None:
    """A fused node would not round what the norm reads."""
    path = tmp_path / "quantized.onnx"
    SUMS_QUANTIZED[mode](original(name), path)
    assert not graphfuse.fuse(path, selection=graphfuse.Selection(costs="none")).changed


@pytest.mark.parametrize("mode", ["dynamic int8", "static QDQ of products"])
def test_a_wrong_epsilon_in_a_quantized_model_is_caught(mode: str, tmp_path: Path) -> None:
    """Coarse outputs hide nothing: each fused node is compared alone."""
    path = tmp_path / "quantized.onnx"
    MODES[mode](original("bert"), path)
    fused = graphfuse.fuse(path, selection=graphfuse.Selection(costs="none")).model
    node = [node for node in fused.graph.node if node.domain == "graphfuse"][-1]
    next(each for each in node.attribute if each.name == "epsilon").f *= 2
    report = graphfuse.validate(path, fused, level="fast")
    assert report.wrong == (node.output[0],)


def test_a_float16_file_is_made_for_the_runtime_that_it_was_made_for() -> None:
    """The forms of a body cost the same there: no version would want another."""
    runtime = runtimes.runtime("1.32")
    proto = residual("y = LayerNormalization(x, scale, bias)")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in proto.graph.initializer:
        narrow = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(narrow, tensor.name))
    fused = graphfuse.fuse(proto, runtime="1.32", selection=graphfuse.Selection(costs="none"))
    assert fused.changed
    assert not advice.of_bodies(fused.model, runtime)

"""Small graphs as ONNX text, for cases that are read more easily than built."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import graphfuse
from graphfuse.records import Check
from graphfuse.validation.tolerance import OTHER_KERNEL

HIDDEN = 8
VERSION = tuple(map(int, ort.__version__.split(".")[:2]))

DECOMPOSED_LAYER_NORM = """
    m = ReduceMean<axes=[-1], keepdims=1>(x)
    d = Sub(x, m)
    q = Mul(d, d)
    v = ReduceMean<axes=[-1], keepdims=1>(q)
    e = Add(v, eps)
    r = Sqrt(e)
    n = Div(d, r)
    s = Mul(n, scale)
    y = Add(s, bias)
"""

DECOMPOSED_RMS_NORM = """
    q = Mul(x, x)
    v = ReduceMean<axes=[-1], keepdims=1>(q)
    e = Add(v, eps)
    r = Sqrt(e)
    n = Div(x, r)
    y = Mul(n, scale)
"""


def model(
    body: str,
    *,
    inputs: str = "float[B,S,8] a, float[B,S,8] b",
    outputs: str = "float[B,S,8] y",
    opset: int = 17,
    ir: int = 8,
    constants: dict[str, np.ndarray] | None = None,
    extra_imports: str = "",
) -> onnx.ModelProto:
    """A model of one graph. scale and bias (8) and eps are there, with others on request.

    Only the constants that the body reads become initializers.
    """
    text = f"""
        <ir_version: {ir}, opset_import: ["" : {opset}{extra_imports}]>
        g ({inputs}) => ({outputs}) {{ {body} }}
    """
    result = onnx.parser.parse_model(text)
    rng = np.random.default_rng(7)
    known = {
        "scale": rng.normal(1, 0.3, HIDDEN).astype(np.float32),
        "bias": rng.normal(0, 0.3, HIDDEN).astype(np.float32),
        "eps": np.array(1e-5, np.float32),
        **(constants or {}),
    }
    read = {name for node in result.graph.node for name in node.input}
    for name, array in known.items():
        if name in read and all(value.name != name for value in result.graph.input):
            result.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return result


def residual(norm: str, **options: object) -> onnx.ModelProto:
    """x = a + b, followed by a norm that gives y."""
    return model(f"x = Add(a, b)\n{norm}", **options)  # type: ignore[arg-type]


def kinds(proto: onnx.ModelProto) -> list[str]:
    """The operators of the main graph, in order."""
    return [node.op_type for node in proto.graph.node]


def needs_opset(opset: int) -> None:
    """Skip the test where onnxruntime refuses models of this opset, as those before 1.24 do."""
    if not _takes_opset(opset):
        pytest.skip(f"onnxruntime {ort.__version__} takes no models of opset {opset}")


def assert_passes(
    before: onnx.ModelProto | Path, after: onnx.ModelProto, **options: object
) -> None:
    """The validation passes; what onnxruntime's own norm loses on hard rows skips the test.

    Before 1.27 its LayerNormalization loses rows that primitives keep. Where the original is
    written in such, a fused node without graphfuse's kernel is worse than it was, and G1 says so.
    """
    try:
        report = graphfuse.validate(before, after, **options)  # type: ignore[arg-type]
    except graphfuse.OriginalModelError as error:
        if VERSION < (1, 24) and "gamma is expected to have 1 dimension" in str(error):
            pytest.skip(f"onnxruntime {ort.__version__} fuses several axes and then does not run")
        raise
    if report.failures and all(_is_lost(check) for check in report.failures):
        pytest.skip(f"onnxruntime {ort.__version__}'s LayerNormalization loses hard rows")
    assert report.passed, report.failures


def _is_lost(check: Check) -> bool:
    return (
        VERSION < (1, 27)
        and check.gate == "G1"
        and check.bound == OTHER_KERNEL
        and "sigma" in check.where
        and "graphfuse kernel" not in check.where
    )


@cache
def _takes_opset(opset: int) -> bool:
    proto = model("y = Identity(a)", inputs="float[2] a", outputs="float[2] y", opset=opset)
    try:
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime raises classes of its own.
        if "opset" not in str(error):
            raise
        return False
    return True


def feeds(proto: onnx.ModelProto, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Normal feeds for a graph whose symbolic extents are given (default: 3 each)."""
    rng = np.random.default_rng(seed)
    result: dict[str, np.ndarray] = {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value or sizes.get(d.dim_param, 3) for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        result[value.name] = rng.normal(0, 1, shape).astype(dtype)
    return result


def check(proto: onnx.ModelProto) -> graphfuse.FuseResult:
    """Fuse, and compare with the original in onnxruntime, optimizations off."""
    result = graphfuse.fuse(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    before, after = (
        ort.InferenceSession(p.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for p in (proto, result.model)
    )
    values = feeds(proto)
    for old, new in zip(before.run(None, values), after.run(None, values), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    return result

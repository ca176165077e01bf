"""One residual and its norm, in every type and with statistics in every type."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from graphfuse.records import NormKind
from tests.support.graphs import DECOMPOSED_LAYER_NORM, residual

HALF, BRAIN, SINGLE = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT
LN_OP = "y = LayerNormalization(x, scale, bias)"
RMS_OP = "y = RMSNormalization(x, scale)"
RMS_IN_FLOAT32 = """
    c = Cast<to=1>(x)
    q = Mul(c, c)
    v = ReduceMean<axes=[-1], keepdims=1>(q)
    e = Add(v, wide)
    r = Sqrt(e)
    n = Div(c, r)
    h = Cast<to=10>(n)
    y = Mul(h, scale)
"""
LN_IN_FLOAT32 = """
    c = Cast<to=1>(x)
    m = ReduceMean<axes=[-1], keepdims=1>(c)
    d = Sub(c, m)
    q = Mul(d, d)
    v = ReduceMean<axes=[-1], keepdims=1>(q)
    e = Add(v, wide)
    r = Sqrt(e)
    n = Div(d, r)
    h = Cast<to=10>(n)
    s = Mul(h, scale)
    y = Add(s, bias)
"""
MEAN_IN_FLOAT16 = LN_IN_FLOAT32.replace(
    "c = Cast<to=1>(x)\n    m = ReduceMean<axes=[-1], keepdims=1>(c)\n    d = Sub(c, m)",
    "m = ReduceMean<axes=[-1], keepdims=1>(x)\n    f = Sub(x, m)\n    d = Cast<to=1>(f)",
)
VARIANCE_IN_FLOAT16 = DECOMPOSED_LAYER_NORM.replace(
    "m = ReduceMean<axes=[-1], keepdims=1>(x)",
    "c = Cast<to=1>(x)\n    w = ReduceMean<axes=[-1], keepdims=1>(c)\n    m = Cast<to=10>(w)",
)
NORMS = {NormKind.LAYER_NORM: LN_OP, NormKind.RMS_NORM: RMS_IN_FLOAT32}
"""In float16, with statistics in float32."""
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SPELLED = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}
VERSIONS = [f"1.{n}" for n in range(20, 34)]


def site(norm: str, type_: str = "float16", b: str = "[B,S,8]") -> onnx.ModelProto:
    """x = a + b in a type, and a norm whose scale, bias and eps have that type too."""
    dtype, spelled = TYPES[type_], SPELLED[type_]
    constants = {
        "scale": np.linspace(0.5, 1.5, 8).astype(dtype),
        "bias": np.linspace(-0.5, 0.5, 8).astype(dtype),
        "eps": np.array(1e-5, dtype),
        "wide": np.array(1e-5, np.float32),
    }
    options: dict[str, Any] = {"opset": 23, "ir": 10} if norm == RMS_OP else {}
    return residual(
        norm,
        inputs=f"{spelled}[B,S,8] a, {spelled}{b} b",
        outputs=f"{spelled}[B,S,8] y",
        constants=constants,
        **options,
    )

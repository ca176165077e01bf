"""onnxruntime's contrib operators in float64, where they are a formula of a line or two.

Its optimizer writes them into models, so an original may hold them: without a formula they are
evaluated in float32, and what is behind them is compared less closely. The formulas are those of
onnxruntime's ContribOperators.md; tests compare them with its kernels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.reference.op_run import OpRun

from graphfuse.validation.formulas import Formula, erf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


ALPHA = float(np.float32(1.702))
"""QuickGelu's default; ONNX attributes are float32."""


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


class Gelu(Formula):
    """x * Phi(x); onnx.reference also hands it what ONNX's operator of that name has."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, **_: object) -> tuple[Array]:
        return (_gelu(x),)


class BiasGelu(Formula):
    """(a + b) * Phi(a + b)."""

    op_domain = "com.microsoft"

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (_gelu(a + b),)


class FastGelu(Formula):
    """The tanh approximation of Gelu, of x or of x + bias."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array | None = None) -> tuple[Array]:
        x = x if bias is None else x + bias
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return (0.5 * x * (1 + np.tanh(inner)),)


class QuickGelu(Formula):
    """x * sigmoid(alpha * x)."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, alpha: float = ALPHA) -> tuple[Array]:
        return (x / (1 + np.exp(-alpha * x)),)


class FusedMatMul(Formula):
    """alpha * A @ B, the last two axes of each transposed where that is asked for."""

    op_domain = "com.microsoft"

    def _run(self, a: Array, b: Array, alpha: float = 1.0, **flags: int) -> tuple[Array]:
        if any(flags.get(name) for name in ("transBatchA", "transBatchB")):
            raise NotImplementedError("FusedMatMul with transposed batches")
        a = np.swapaxes(a, -1, -2) if flags.get("transA") and a.ndim > 1 else a
        b = np.swapaxes(b, -1, -2) if flags.get("transB") and b.ndim > 1 else b
        return (alpha * np.matmul(a, b),)


def has_rounded_constants(node: onnx.NodeProto) -> bool:
    """Whether a formula has a constant that a model spells out as a float32: sqrt(2), a factor.

    That constant is off by half a unit in its last place, which float64 sees.
    """
    if node.domain != "com.microsoft":
        return False
    if node.op_type == "FusedMatMul":
        return any(a.name == "alpha" and a.f != 1 for a in node.attribute)
    return node.op_type in ("Gelu", "BiasGelu", "FastGelu")


CONTRIB_OPERATORS: list[type[OpRun]] = [Gelu, BiasGelu, FastGelu, QuickGelu, FusedMatMul]

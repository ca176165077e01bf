"""Whether the contrib kernels are right in a type, with and without strict mode, on this version.

The rows are N(0, 1) times a magnitude, their residual is zero (so that the sum is exact): from
some magnitude on sums of squares in float16 overflow, below another one they vanish. What is
measured is compared with what `graphfuse/planning/faults.json` says of the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphfuse.ops import CONTRIB_OPERATOR
from graphfuse.planning import faults
from graphfuse.planning.faults import STRICT_MODE
from graphfuse.records import NormKind
from graphfuse.running.sessions import CUDA
from graphfuse.system import libraries

MAGNITUDES = (0.003, 0.03, 1.0, 100.0, 1000.0, 10000.0)
ROWS = 4
EPSILON = 1e-12
DTYPES = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
UNITS = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}


@dataclass(frozen=True)
class Found:
    """The worst relative error of a row, by magnitude, in units of the type; or why there is none.

    `claimed` says whether the table holds the kernel to be right.
    """

    operator: str
    elem_type: int
    strict: bool
    errors: Mapping[float, float]
    claimed: bool
    failure: str = ""

    @property
    def right(self) -> bool:
        """Within a few roundings of the type on every row."""
        return not self.failure and all(error <= 4 for error in self.errors.values())

    @property
    def verdict(self) -> str:
        """FAIL where the table calls right what is not; what it need not refuse is no failure."""
        if self.claimed and not self.right:
            return "FAIL"
        return "as the table says" if self.claimed == self.right else "right, and refused"


def measure(provider: str, kind: str, elem_type: int, hidden: int, strict: bool) -> Found:
    """One kernel of a provider on rows of every magnitude."""
    runtime, operator = libraries.onnxruntime(), CONTRIB_OPERATOR[kind]
    version = runtime.__version__
    claimed = bool(faults.accumulates(CUDA, operator, elem_type, version, strict))
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = {STRICT_MODE: str(int(strict))} if provider == CUDA else {}
    model = _node(kind, elem_type, hidden)
    errors: dict[float, float] = {}
    try:
        data = model.SerializeToString()
        session = runtime.InferenceSession(data, options, providers=[(provider, given)])
        for magnitude in MAGNITUDES:
            errors[magnitude] = _error(session, kind, elem_type, hidden, magnitude)
    except Exception as error:
        # onnxruntime raises its own classes: this version has no such kernel.
        text = " ".join(str(error).split())[:120]
        return Found(operator, elem_type, strict, {}, claimed, text)
    return Found(operator, elem_type, strict, errors, claimed)


def _error(
    session: libraries.Session, kind: str, elem_type: int, hidden: int, magnitude: float
) -> float:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, ROWS, hidden)) * magnitude).astype(DTYPES[elem_type])
    wanted = x.astype(np.float64)
    if kind == NormKind.LAYER_NORM:
        wanted = wanted - wanted.mean(-1, keepdims=True)
    wanted = wanted / np.sqrt((wanted**2).mean(-1, keepdims=True) + EPSILON)
    # float32 in and out, cast inside: numpy and onnxruntime's binding have no bfloat16.
    feeds = {"x": x.astype(np.float32), "skip": np.zeros_like(x, np.float32)}
    (got,) = session.run(None, feeds)
    if not np.isfinite(got).all():
        return float("inf")
    lengths = np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return float(lengths.max()) / UNITS[elem_type]


def _node(kind: str, elem_type: int, hidden: int) -> onnx.ModelProto:
    """The contrib node between casts from and to float32; scale 1, bias 0."""
    dtype = DTYPES[elem_type]
    weights = [numpy_helper.from_array(np.ones(hidden, dtype), "scale")]
    inputs = ["a", "b", "scale"]
    if kind == NormKind.LAYER_NORM:
        weights.append(numpy_helper.from_array(np.zeros(hidden, dtype), "bias"))
        inputs.append("bias")
    shape = [1, ROWS, hidden]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["a"], to=elem_type),
            helper.make_node("Cast", ["skip"], ["b"], to=elem_type),
            helper.make_node(
                CONTRIB_OPERATOR[kind], inputs, ["n"], domain="com.microsoft", epsilon=EPSILON
            ),
            helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
        ],
        "strict",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "skip")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=imports)

"""Models run at every level of onnxruntime's optimiser, with graphfuse's kernels and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import graphfuse
from graphfuse.running.sessions import OPTIMIZATION_LEVELS
from tests.support.graphs import feeds


def outputs(
    proto: onnx.ModelProto, level: str, kernels: bool, options: ort.SessionOptions | None = None
) -> list[np.ndarray]:
    options = options or graphfuse.session_options(kernels=kernels)
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    made = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return made.run(None, feeds(proto))


def assert_right_everywhere(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """What is written gives what the original gives unoptimized, at every level, in both ways."""
    wanted = outputs(before, OPTIMIZATION_LEVELS[0], kernels=False)
    for level in OPTIMIZATION_LEVELS:
        for kernels in (True, False):
            for old, new in zip(wanted, outputs(after, level, kernels), strict=True):
                wide = old.dtype == np.float32
                close = {"rtol": 1e-5, "atol": 2e-6} if wide else {"rtol": 4e-3, "atol": 4e-3}
                np.testing.assert_allclose(new, old, **close, err_msg=f"{level}, {kernels}")


def optimized(proto: onnx.ModelProto, folder: Path, level: str = "full") -> graphfuse.FuseResult:
    onnx.save(proto, folder / "before.onnx")
    result = graphfuse.optimize(
        folder / "before.onnx", graphfuse.Output(folder / "after.onnx", force=True), level=level
    )
    assert result.validation is not None
    assert result.validation.passed, result.validation.failures
    return result

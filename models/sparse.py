"""Models whose weights are never allocated: a graph, and a sparse file of holes.

Vectors (scales, biases) are drawn and written, as a norm of zeros could not be checked; matrices
are holes, which read as zeros and take no disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

PAGE = 4096
"""Weights begin at multiples of it, so that they can be mapped."""

LARGEST_DRAWN = 2**20
"""Elements of a vector; anything larger, or of more axes, is a hole."""


def write_sparse(
    program: Any, path: Path, finish: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> None:
    """Write a torch.onnx.ONNXProgram, not yet optimized, whose weights lie on the meta device.

    They go to `<path>.data`; initializers that have values stay in the model. `finish` edits the
    protobuf before it is written.
    """
    import onnx_ir as ir

    model = program.model
    data = path.with_name(f"{path.name}.data")
    offset = 0
    drawn: list[tuple[int, np.ndarray[Any, Any]]] = []
    rng = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not getattr(tensor.raw, "is_meta", False):
            continue
        shape = tuple(int(extent) for extent in tensor.shape)
        count = math.prod(shape)
        if len(shape) == 1 and count <= LARGEST_DRAWN:
            mean = 1.0 if value.name.endswith("gamma") else 0.0
            array = rng.normal(mean, 0.2, shape).astype(np.float32)
            drawn.append((offset, array.astype(tensor.dtype.numpy())))
        length = int(count * tensor.dtype.itemsize)
        value.const_value = ir.ExternalTensor(
            data.name, offset, length, tensor.dtype, shape=ir.Shape(shape), name=value.name,
            base_dir=path.parent,
        )  # fmt: skip
        offset += -(-length // PAGE) * PAGE
    with data.open("wb") as file:
        for place, array in drawn:
            file.seek(place)
            file.write(array.tobytes())
        file.truncate(offset)
    _simplify(model)
    proto = ir.serde.serialize_model(model)
    path.write_bytes(finish(proto).SerializeToString(deterministic=True))


def _simplify(model: Any) -> None:
    """The part of the exporter's own optimization that reads no weight.

    The rest transposes matrices and compares them with each other: 700 GB of zeros.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common
    from onnxscript.optimizer._constant_folding import FoldConstantsPass

    def folds(node: ir.Node) -> bool | None:
        weights = (value is not None and value.const_value for value in node.inputs)
        return False if any(isinstance(each, ir.ExternalTensor) for each in weights) else None

    ir.passes.PassManager(
        [
            common.InlinePass(),
            FoldConstantsPass(
                shape_inference=False,
                input_size_limit=1024,
                output_size_limit=1024,
                should_fold=folds,
            ),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.CommonSubexpressionEliminationPass(),
            common.NameFixPass(),
        ]
    )(model)

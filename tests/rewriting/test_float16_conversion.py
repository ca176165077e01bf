"""onnxruntime's converter to float16 before and after fusing, and why the order matters below 15.

A body of primitives casts its result to the type of the model that was fused. The converter knows
nothing of functions: from opset 15 on their CastLike follows the operands, below there is none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse import ops
from graphfuse.running.sessions import run, session
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, residual

float16 = pytest.importorskip("onnxruntime.transformers.float16")

BODIES = {"LayerNorm": DECOMPOSED_LAYER_NORM, "RMSNorm": DECOMPOSED_RMS_NORM}
OPSETS = (11, 12, 13, 14, 15, 16, 17, 18)
RUNTIMES = ("1.24", "1.29", "1.32")
"""One for each form of body."""


def converted(proto: onnx.ModelProto, *blocked: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    listed = [*float16.DEFAULT_OP_BLOCK_LIST, *blocked]
    return float16.convert_float_to_float16(copy, op_block_list=listed)


def fused(proto: onnx.ModelProto, runtime: str) -> onnx.ModelProto:
    result = graphfuse.fuse(proto, runtime=runtime, selection=graphfuse.Selection(costs="none"))
    assert len(result.fused) == 1, [str(miss.reason) for miss in result.left]
    return result.model


def original(kind: str, opset: int) -> onnx.ModelProto:
    return residual(BODIES[kind], opset=opset)


def distance(proto: onnx.ModelProto, original: onnx.ModelProto, kernels: bool) -> float:
    """The largest distance to the original in float64, in units of float16 at 1.

    The sums are around 1,000: in float16 their squares are infinite.
    """
    rng = np.random.default_rng(0)
    feeds = {name: (1000 * rng.normal(size=(2, 5, 8))).astype(np.float16) for name in "ab"}
    known = {t.name: onnx.numpy_helper.to_array(t) for t in original.graph.initializer}
    x = (feeds["a"] + feeds["b"]).astype(np.float64)
    if "bias" in known:
        x = x - x.mean(-1, keepdims=True)
    wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + float(known["eps"])) * known["scale"]
    wanted = wanted + known.get("bias", 0.0)
    got = run(session(proto, Path(), kernels=kernels), feeds)["y"]
    assert got.dtype == np.float16
    return float(np.abs(got.astype(np.float64) - wanted).max() / 2**-10)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("kernels", [False, True])
def test_convert_then_fuse_is_right_at_every_opset(
    kernels: bool, kind: str, opset: int, runtime: str
) -> None:
    before = original(kind, opset)
    assert distance(fused(converted(before), runtime), before, kernels) < 8


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opset", [n for n in OPSETS if n >= ops.CASTLIKE_OPSET])
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("kernels", [False, True])
def test_fuse_then_convert_is_right_from_opset_15_on(
    kernels: bool, kind: str, opset: int, runtime: str
) -> None:
    before = original(kind, opset)
    assert distance(converted(fused(before, runtime)), before, kernels) < 8


@pytest.mark.parametrize("opset", [n for n in OPSETS if n < ops.CASTLIKE_OPSET])
@pytest.mark.parametrize("kind", BODIES)
def test_fuse_then_convert_below_it_is_refused_and_never_wrong(kind: str, opset: int) -> None:
    """What a plain session says is an error of types; the kernels take the node as it is."""
    before = original(kind, opset)
    after = converted(fused(before, "1.32"))
    with pytest.raises(Exception, match=r"(?i)type"):
        session(after, Path(), kernels=False)
    assert distance(after, before, True) < 8


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("kernels", [False, True])
def test_fused_nodes_can_stay_in_float32(kernels: bool, kind: str, opset: int) -> None:
    """With the operators in the converter's op_block_list, the order does not matter."""
    before = original(kind, opset)
    after = converted(fused(before, "1.32"), *ops.OPERATORS)
    assert distance(after, before, kernels) < 8


def test_no_operator_below_opset_15_casts_to_the_type_of_a_tensor() -> None:
    """Those that read a number in float32 and give another type, told by a third tensor: all of
    them compute something else with it. So a body there has a type written into it."""
    newest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version < ops.CASTLIKE_OPSET:
            there = newest.get(schema.name)
            if there is None or there.since_version < schema.since_version:
                newest[schema.name] = schema
    found: set[str] = set()
    for name, schema in newest.items():
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        given = {parameter.type_str for parameter in schema.inputs}
        for output in schema.outputs:
            others = [allowed.get(kind, {kind}) for kind in given - {output.type_str}]
            narrow = "tensor(float16)" in allowed.get(output.type_str, ())
            told = output.type_str in given
            if narrow and told and any("tensor(float)" in types for types in others):
                found.add(name)
    # A base to a power, rows that are drawn or resized, a probability, statistics, on and off.
    assert found <= {"BatchNormalization", "Dropout", "OneHot", "Pow", "Resize", "Upsample"}

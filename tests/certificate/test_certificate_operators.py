"""What a certificate evaluates with: every operator beside onnx's own reference, every rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphfuse.certificate import numbers
from graphfuse.certificate.digits import difference
from graphfuse.certificate.exact import OPERATORS, Evaluator
from graphfuse.certificate.numbers import context, number, rounded
from graphfuse.certificate.rows import Extents, operands
from graphfuse.certificate.values import ExactValue, UnknownError
from graphfuse.files.model_file import wrap

RNG = np.random.default_rng(11)
X = RNG.normal(0.3, 1.2, (2, 6, 5))
Z = RNG.normal(0.3, 1.2, (2, 6, 5))
P = np.abs(X) + 0.1
IMAGE = RNG.normal(0.3, 1.2, (2, 6, 3, 4))
CHANNELS = RNG.normal(1, 0.3, 6)
ROW = RNG.normal(1, 0.3, 5)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# Operator, operator set, inputs, attributes. Of comparisons the outputs are booleans.
CASES: list[tuple[str, int, list[np.ndarray | None], dict[str, Any]]] = [
    ("Add", 18, [X, ROW], {}),
    ("Sub", 18, [X, Z], {}),
    ("Mul", 18, [X, ROW], {}),
    ("Div", 18, [X, P], {}),
    ("Div", 18, [integers(7, -7), integers(2, 2)], {}),
    ("Sum", 18, [X, Z, ROW], {}),
    ("Mean", 18, [X, Z, P], {}),
    ("Max", 18, [X, Z], {}),
    ("Min", 18, [X, Z, P], {}),
    ("Pow", 18, [P, np.array(-0.5)], {}),
    ("Pow", 18, [P, np.array(0.3)], {}),
    ("Pow", 18, [X, np.array(3, np.int64)], {}),
    ("Pow", 18, [X, np.array(-2.0)], {}),
    ("Neg", 18, [X], {}),
    ("Abs", 18, [X], {}),
    ("Sqrt", 18, [P], {}),
    ("Reciprocal", 18, [X], {}),
    ("Exp", 18, [X], {}),
    ("Log", 18, [P], {}),
    ("Sign", 18, [X], {}),
    ("Relu", 18, [X], {}),
    ("LeakyRelu", 18, [X], {"alpha": 0.25}),
    ("Clip", 18, [X, np.array(-0.5), np.array(0.5)], {}),
    ("Clip", 18, [X, None, np.array(0.5)], {}),
    ("Where", 18, [X > 0, X, Z], {}),
    ("Equal", 18, [X, X], {}),
    ("Greater", 18, [X, Z], {}),
    ("GreaterOrEqual", 18, [X, Z], {}),
    ("Less", 18, [X, Z], {}),
    ("LessOrEqual", 18, [X, Z], {}),
    ("And", 18, [X > 0, Z > 0], {}),
    ("Or", 18, [X > 0, Z > 0], {}),
    ("Not", 18, [X > 0], {}),
    ("Identity", 18, [X], {}),
    ("Dropout", 18, [X], {}),
    ("Cast", 18, [X], {"to": TensorProto.DOUBLE}),
    ("CastLike", 18, [integers(3, 4), X], {}),
    ("ReduceSum", 18, [X, integers(-1)], {}),
    ("ReduceSum", 18, [X, integers(0, 2)], {"keepdims": 0}),
    ("ReduceMean", 18, [X, integers(-1)], {}),
    ("ReduceMean", 13, [X], {"axes": [1, 2], "keepdims": 0}),
    ("ReduceMean", 18, [X], {"noop_with_empty_axes": 1}),
    ("ReduceMean", 18, [X], {}),
    ("ReduceSumSquare", 18, [X, integers(-1)], {}),
    ("ReduceL1", 18, [X, integers(-1)], {}),
    ("ReduceL2", 18, [X, integers(-1)], {}),
    ("ReduceMax", 18, [X, integers(-1)], {}),
    ("ReduceMin", 18, [X, integers(-1)], {}),
    ("GlobalAveragePool", 18, [IMAGE], {}),
    ("ConstantOfShape", 18, [integers(2, 3)], {}),
    ("Reshape", 18, [X, integers(0, -1)], {}),
    ("Unsqueeze", 18, [X, integers(0, -1)], {}),
    ("Squeeze", 18, [X[:, :1], integers(1)], {}),
    ("Squeeze", 11, [X[:, :1]], {"axes": [1]}),
    ("Expand", 18, [ROW, integers(2, 1, 5)], {}),
    ("Transpose", 18, [X], {"perm": [2, 0, 1]}),
    ("Transpose", 18, [X], {}),
    ("Flatten", 18, [X], {"axis": 2}),
    ("Shape", 18, [X], {"start": 1}),
    ("Size", 18, [X], {}),
    ("Gather", 18, [X, integers(1, 0)], {"axis": 1}),
    ("Slice", 18, [X, integers(1), integers(4), integers(1)], {}),
    ("Slice", 18, [X, integers(0), integers(6), integers(1), integers(2)], {}),
    ("Concat", 18, [X, Z], {"axis": -1}),
    ("Tile", 18, [ROW, integers(3)], {}),
    ("Range", 18, [np.array(1), np.array(7), np.array(2)], {}),
    ("MatMul", 18, [X, RNG.normal(0, 1, (5, 3))], {}),
    ("Gemm", 18, [X[0], Z[0], RNG.normal(0, 1, 6)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", 18, [X, Z], {"equation": "bsh,bth->bst"}),
    ("Conv", 18, [IMAGE, RNG.normal(0, 1, (4, 6, 1, 1)), RNG.normal(0, 1, 4)], {}),
    ("LayerNormalization", 17, [X, ROW, ROW], {"epsilon": 0.25}),
    ("LayerNormalization", 17, [X, np.ones((6, 5))], {"axis": 1}),
    ("RMSNormalization", 23, [X, ROW], {"epsilon": 0.25}),
    ("BatchNormalization", 15, [IMAGE, CHANNELS, CHANNELS, CHANNELS, np.abs(CHANNELS)], {}),
    ("InstanceNormalization", 18, [IMAGE, CHANNELS, CHANNELS], {"epsilon": 0.25}),
    ("GroupNormalization", 21, [IMAGE, CHANNELS, CHANNELS], {"num_groups": 2}),
    ("GroupNormalization", 18, [IMAGE, CHANNELS[:3], CHANNELS[:3]], {"num_groups": 3}),
    ("MeanVarianceNormalization", 13, [IMAGE], {}),
    ("LpNormalization", 18, [X], {"axis": 1, "p": 2}),
]

LOOSE = {"LayerNormalization": 1e-6, "GroupNormalization": 1e-6, "MeanVarianceNormalization": 1e-5}
"""onnx's reference computes these in float32."""

NARROW = {"MeanVarianceNormalization"}
"""Those that it does not take float64 of."""

ELSEWHERE = {"Constant", "SimplifiedLayerNormalization"}
"""No inputs; onnxruntime's name for RMSNormalization, which onnx does not have."""


def one_node(
    op_type: str, opset: int, inputs: list[np.ndarray | None], attributes: dict[str, Any]
) -> onnx.ModelProto:
    names = [f"i{at}" if array is not None else "" for at, array in enumerate(inputs)]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
         for n, a in given.items()],
        [helper.make_empty_tensor_value_info("y")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def evaluated(proto: onnx.ModelProto, arrays: list[np.ndarray | None]) -> ExactValue:
    given = {
        f"i{at}": ExactValue(
            numbers.exact(array) if array.dtype.kind == "f" else array,
            helper.np_dtype_to_tensor_dtype(array.dtype),
        )
        for at, array in enumerate(arrays)
        if array is not None
    }
    return Evaluator(wrap(proto, Path())).run(given)["y"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_operators_are_those_of_onnx(
    case: tuple[str, int, list[np.ndarray | None], dict[str, Any]],
) -> None:
    op_type, opset, inputs, attributes = case
    proto = one_node(op_type, opset, inputs, attributes)
    feeds = {f"i{at}": array for at, array in enumerate(inputs) if array is not None}
    if op_type in NARROW:
        feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
        proto = one_node(op_type, opset, list(feeds.values()), attributes)
    wanted = np.asarray(ReferenceEvaluator(proto).run(["y"], feeds)[0])
    found = evaluated(proto, inputs)
    assert found.array.shape == wanted.shape
    is_float = wanted.dtype.kind == "f"
    assert found.is_float == is_float
    rtol = LOOSE.get(op_type, 1e-13)
    numbers_found = found.array.astype(np.float64) if is_float else found.array
    np.testing.assert_allclose(numbers_found, wanted, rtol=rtol, atol=rtol)


def test_every_operator_has_a_case() -> None:
    assert {case[0] for case in CASES} == OPERATORS.keys() - ELSEWHERE


@pytest.mark.parametrize("elem_type", list(numbers.FORMATS))
def test_rounding_is_that_of_the_type(elem_type: int) -> None:
    """Numbers of every size, ties, subnormals and what is too large; numpy rounds from float64."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    bits, least, most = numbers.FORMATS[elem_type]
    rng = np.random.default_rng(2)
    exponents = rng.integers(max(least - 2, -1070), min(most + 1, 1020), 400)
    wide = np.ldexp(rng.uniform(-1, 1, 400), exponents)
    ties = np.ldexp(rng.integers(2 ** (bits - 1), 2**bits - 1, 100) + 0.5, -3) if bits < 53 else []
    for value in (*wide, *ties, 0.0, np.ldexp(1.0, max(least - 1, -1074))):
        with np.errstate(all="ignore"):
            wanted = np.float64(value).astype(dtype).astype(np.float64)
        assert float(rounded(number(float(value)), elem_type)) == wanted, value


def test_a_stored_number_is_the_rational_that_its_bits_say() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        numerator, denominator = dtype(0.1).item().as_integer_ratio()
        (found,) = numbers.exact(np.array([0.1], dtype))
        assert found * denominator == numerator


def test_an_operator_outside_the_tables_is_said() -> None:
    proto = one_node("Tanh", 18, [X], {})
    with pytest.raises(UnknownError, match="operator Tanh"):
        evaluated(proto, [X])


def test_what_would_take_all_memory_is_not_evaluated() -> None:
    for op_type, arrays in (
        ("ConstantOfShape", [integers(2**20, 2**20)]),
        ("Expand", [ROW, integers(2**30, 5)]),
        ("Tile", [ROW, integers(2**30)]),
        ("Add", [np.zeros((2**12, 1)), np.zeros((1, 2**12))]),
        ("Range", [np.array(0), np.array(2**40), np.array(1)]),
    ):
        with pytest.raises(UnknownError, match="a tensor of"):
            evaluated(one_node(op_type, 18, arrays, {}), arrays)


def test_operands_add_up_to_rows_of_each_kind() -> None:
    import random

    extents = Extents((2, 3, 8), (1, 3, 8), 1)
    drawn = operands(random.Random(1), extents, number(1e-5), 0, number(0), False)
    total = (drawn["A"] + drawn["B"]).reshape(6, 8)
    spread = [float(max(row) - min(row)) for row in total]
    assert spread[1] < 1e-5**0.5
    assert spread[2] < 1e-150
    assert spread[3] > 1e39
    assert 0 < spread[5] < 1e-39
    again = operands(random.Random(1), extents, number(1e-5), 0, number(0), False)
    assert (again["A"] == drawn["A"]).all()


def test_the_first_digit_that_differs() -> None:
    one = np.array([number(1) / 3, number(2)], dtype=object)
    other = np.array([number(1) / 3, number(2) + context().mpf(10) ** -11], dtype=object)
    found = difference(one, other)
    assert (found.index, found.digit, found.is_none) == ((1,), 12, False)
    assert difference(one, one).is_none
    assert difference(one, one + context().mpf(10) ** -95).is_none
    assert not difference(one, one + context().mpf(10) ** -89).is_none
    lost = np.array([context().nan, number(2)], dtype=object)
    assert difference(one, lost).value == context().inf


def test_constants_are_read_as_they_are_stored() -> None:
    tensor = numpy_helper.from_array(np.array([0.1, 0.2], np.float16))
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("y")])
    found = evaluated(helper.make_model(graph), [])
    assert [float(each) for each in found.array] == [float(np.float16(n)) for n in (0.1, 0.2)]
    assert found.fixed

"""Element types: ONNX's names and numbers, their sizes, and what a later ONNX may add."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphfuse.records.element_types import FLOAT_TYPES, NOT_NUMBERS, ElementType


@pytest.mark.parametrize(("name", "number"), TensorProto.DataType.items())
def test_names_and_numbers_are_those_of_onnx(name: str, number: int) -> None:
    # A version of ONNX that adds a type fails here: give it a name, and its bits.
    assert ElementType[name] == ElementType(number) == number


@pytest.mark.parametrize("each", [each for each in ElementType if each.bits])
def test_bits_are_those_of_a_file(each: ElementType) -> None:
    tensor = TensorProto(data_type=each, dims=[16], raw_data=bytes(2 * each.bits))
    assert onnx.numpy_helper.to_array(tensor).shape == (16,)


def test_types_without_a_size_have_no_bits() -> None:
    assert {each for each in ElementType if not each.bits} == {
        ElementType.UNDEFINED,
        ElementType.STRING,
        ElementType.FLOAT6E2M3,
        ElementType.FLOAT6E3M2,
    }


def test_a_type_widens_to_what_holds_all_of_its_numbers() -> None:
    for source in FLOAT_TYPES:
        dtype = helper.tensor_dtype_to_np_dtype(source)
        bits = np.arange(1, 2**16, 7, dtype=np.uint16).astype(np.uint64)
        numbers = (bits << np.uint64(8 * dtype.itemsize - 16)).astype(f"u{dtype.itemsize}")
        numbers |= np.array(1, numbers.dtype)
        with np.errstate(all="ignore"):
            values = numbers.view(dtype).astype(np.float64)
        values = values[np.isfinite(values)]
        for to in FLOAT_TYPES:
            with np.errstate(all="ignore"):
                there = values.astype(helper.tensor_dtype_to_np_dtype(to)).astype(np.float64)
            assert ElementType(source).widens(to) == bool((there == values).all()), (source, to)


def test_text_is_what_numpy_says() -> None:
    for number in FLOAT_TYPES:
        assert ElementType(number).text == str(helper.tensor_dtype_to_np_dtype(number))
    assert ElementType(99).text == "type 99"
    assert ElementType(TensorProto.INT4).text == "int4"


def test_a_type_that_onnx_adds_later_is_a_type() -> None:
    later = ElementType(99)
    assert later == 99
    assert not later.bits
    assert not later.is_float
    assert not later.widens(TensorProto.FLOAT)
    assert later not in FLOAT_TYPES | NOT_NUMBERS
    assert pickle.loads(pickle.dumps(later)) == copy.deepcopy(later) == later
    with pytest.raises(ValueError, match="not a valid ElementType"):
        ElementType("float32")

"""A function is graphfuse's by what it computes; a name alone says nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from onnx import AttributeProto, FunctionProto, TensorProto, helper, numpy_helper

from graphfuse import ops
from graphfuse.graph.bodies import KINDS, recognised, strange_names
from graphfuse.records import NormKind
from graphfuse.records.element_types import FLOAT_TYPES

OPSETS = (7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 22, 23, 25)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_function_that_graphfuse_writes_is_its_own(opset: int) -> None:
    axes = [(-1, 3), (-1, 2), (-2, 4), (-3, 3)]
    for kind, biased in KINDS.values():
        found = [ops.function(kind, opset, ops.Variant(contrib=True), biased)]
        for elem_type, form, (axis, rank) in itertools.product(FLOAT_TYPES, ops.BodyForm, axes):
            for parameter_type in (elem_type, TensorProto.FLOAT):
                variant = ops.Variant(elem_type, parameter_type, axis, rank, form=form)
                found.append(ops.function(kind, opset, variant, biased))
        assert all(map(recognised, found))


def test_an_older_body_in_float64_is_one_too() -> None:
    """Before it had Reciprocal, it divided like that of float32."""
    function = ops.function(NormKind.LAYER_NORM, 13, ops.Variant())
    for node in function.node:
        for attribute in node.attribute:
            if attribute.name == "to" and not attribute.ref_attr_name:
                attribute.i = TensorProto.DOUBLE
    assert recognised(function)


def test_other_names_and_another_order_do_not_matter() -> None:
    function = ops.function(NormKind.LAYER_NORM, 16, ops.Variant())
    renamed = {name: f"v{n}" for n, name in enumerate(function.input)}
    for node in function.node:
        node.name, node.doc_string = "n", "said of it"
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = renamed.setdefault(name, f"v{len(renamed)}")
    for names in (function.input, function.output):
        for position, name in enumerate(names):
            names[position] = renamed[name]
    constants = [node for node in function.node if node.op_type == "Constant"]
    others = [node for node in function.node if node.op_type != "Constant"]
    function.ClearField("node")
    function.node.extend([*constants, *others])
    for node in constants:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                raw = numpy_helper.from_array(numpy_helper.to_array(attribute.t))
                attribute.t.CopyFrom(raw)
    assert recognised(function)


def swap_outputs(function: FunctionProto) -> None:
    function.output[:] = reversed(function.output)


def swap_vectors(function: FunctionProto) -> None:
    function.input[2], function.input[3] = function.input[3], function.input[2]


def another_operator(function: FunctionProto) -> None:
    function.node[0].op_type = "Mul"


def fixed_epsilon(function: FunctionProto) -> None:
    for node in function.node:
        for attribute in node.attribute:
            if attribute.ref_attr_name == "epsilon":
                attribute.CopyFrom(helper.make_attribute(attribute.name, 1e-5))


def default_epsilon(function: FunctionProto) -> None:
    function.attribute.remove("epsilon")
    function.attribute_proto.append(helper.make_attribute("epsilon", 1e-3))


def exchanged_references(function: FunctionProto) -> None:
    for node in function.node:
        for attribute in node.attribute:
            if attribute.ref_attr_name == "stash_type":
                attribute.ref_attr_name = "axis"


def another_constant(function: FunctionProto) -> None:
    for node in function.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                array = numpy_helper.to_array(attribute.t) + 1
                attribute.t.CopyFrom(numpy_helper.from_array(array))


def other_axes(function: FunctionProto) -> None:
    for node in function.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                attribute.ints[:] = [-2]


def one_input_less(function: FunctionProto) -> None:
    function.input.pop()


def undefined(function: FunctionProto) -> None:
    function.node[-1].input[0] = "nowhere"


def unknown_opset(function: FunctionProto) -> None:
    function.ClearField("opset_import")


def overloaded(function: FunctionProto) -> None:
    function.overload = "other"


def huge_constant(function: FunctionProto) -> None:
    for node in function.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                attribute.t.dims[:] = [2**40]


CHANGES: list[Callable[[FunctionProto], None]] = [
    swap_outputs, swap_vectors, another_operator, fixed_epsilon, default_epsilon,
    exchanged_references, another_constant, other_axes, one_input_less, undefined, unknown_opset,
    overloaded, huge_constant,
]  # fmt: skip


@pytest.mark.parametrize("opset", [7, 11, 13, 16, 17, 18])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_function_is_not_ours(
    change: Callable[[FunctionProto], None], opset: int
) -> None:
    function = ops.function(NormKind.LAYER_NORM, opset, ops.Variant())
    before = function.SerializeToString(deterministic=True)
    change(function)
    assert recognised(function) == (function.SerializeToString(deterministic=True) == before)


def test_only_our_names_can_be_taken() -> None:
    own = ops.function(NormKind.RMS_NORM, 17, ops.Variant())
    other = ops.function(NormKind.LAYER_NORM, 17, ops.Variant())
    other.node[0].op_type = "Mul"
    named = ops.function(NormKind.RMS_NORM, 17, ops.Variant())
    named.name = "Something"
    graph = helper.make_graph([], "g", [], [])
    model = helper.make_model(graph, functions=[own, other, named])
    assert strange_names(model) == ("graphfuse::AddLayerNormalization",)
    assert not recognised(named)

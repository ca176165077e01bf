"""Which functions of a model are graphfuse's own: told by their bodies, not by their names.

Anybody may call a function graphfuse::AddLayerNormalization. Only one whose body is what graphfuse
writes (ops.function, at any opset, in any variant, or what an older graphfuse wrote) means what the
operators of that name mean, so that our kernels may run in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, numpy_helper

from graphfuse import ops
from graphfuse.graph.tensors import DEFAULT_DOMAINS, all_nodes, default_opset, is_external
from graphfuse.records.element_types import FLOATS_BY_NAME, ElementType

MOST_AXES = 64
"""More than any tensor has."""
MOST_ELEMENTS = 64
"""Of a constant that a body of ours could have: two, minus one, or axes."""
MOST_NODES = 64
"""No body of ours has as many."""

KINDS = {
    name: (kind, biased)
    for biased, names in ((False, ops.OPERATOR), (True, ops.BIAS_OPERATOR))
    for kind, name in names.items()
}
"""What each operator norms, and whether it adds a bias vector."""


def recognised(function: FunctionProto) -> bool:
    """Whether a function is one that graphfuse writes, under the name of that operator.

    Names of values and nodes, the order of nodes and what documents them do not matter; operators,
    attributes, constants, inputs, outputs and the operator set do.
    """
    if function.domain != ops.DOMAIN or function.name not in KINDS or function.overload:
        return False
    return len(function.node) <= MOST_NODES and _recognised(function.SerializeToString())


@lru_cache(maxsize=64)
def _recognised(serialized: bytes) -> bool:
    function = FunctionProto.FromString(serialized)
    if sorted(function.attribute) != sorted(ops.ATTRIBUTES) or function.attribute_proto:
        # A default in the function is not the kernel's.
        return False
    table: dict[object, int] = {}
    meant = _meaning(function, table)
    return meant is not None and any(_meaning(own, table) == meant for own in _own_like(function))


def meant_by(model: onnx.ModelProto, function: FunctionProto) -> bool:
    """Whether a function does what graphfuse's operator means at every node that calls it.

    A body of primitives is over the axes that are written into it, whatever a node's axis says.
    """
    if not recognised(function):
        return False
    fixed = _fixed_axis(function)
    return fixed is None or all(
        _axis(node) == fixed
        for graph in (model.graph, *model.functions)
        for node in all_nodes(graph.node)
        if (node.domain, node.op_type) == (ops.DOMAIN, function.name)
    )


def strange(model: onnx.ModelProto) -> list[FunctionProto]:
    """The functions under our operators' names that do not mean what the operators do."""
    return [
        function
        for function in model.functions
        if function.domain == ops.DOMAIN
        and function.name in ops.OPERATORS
        and not meant_by(model, function)
    ]


def strange_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of these, with their domain.

    onnxruntime runs a registered kernel in place of a function of its name, so no session of such a
    model may have ours.
    """
    return tuple(f"{function.domain}::{function.name}" for function in strange(model))


def form_of(function: FunctionProto) -> ops.BodyForm | None:
    """The form of one of graphfuse's functions; None for any other, or one for several targets."""
    if function.domain != ops.DOMAIN or function.name not in KINDS or has_contrib(function):
        return None
    operators = {node.op_type for node in function.node}
    if not operators & {"LayerNormalization", "RMSNormalization", "Pow"}:
        return ops.BodyForm.APART
    producers = {name: node.op_type for node in function.node for name in node.output}
    return ops.BodyForm.ADD if producers.get("Sum") == "Add" else ops.BodyForm.SUM


def has_contrib(function: FunctionProto) -> bool:
    """Whether onnxruntime's fused operator stands in a function: one for several targets."""
    return any(node.domain == ops.CONTRIB_DOMAIN for node in function.node)


def alike(one: FunctionProto, other: FunctionProto) -> bool:
    """Whether two functions have the same inputs, outputs and nodes, whatever their names."""
    table: dict[object, int] = {}
    meant = _meaning(one, table)
    return meant is not None and meant == _meaning(other, table)


def _axis(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), -1)


def _fixed_axis(function: FunctionProto) -> int | None:
    """The axis that a body is for; None where it is the node's."""
    if not any(node.op_type == "ReduceMean" for node in function.node):
        return None
    return _axes(function)[0]


def _own_like(function: FunctionProto) -> Iterator[FunctionProto]:
    """Every body that graphfuse writes for a function's operator, opset and axes."""
    opset = default_opset(function)
    if opset < ops.MINIMUM_OPSET:
        return
    axis, rank = _axes(function)
    if axis is None:
        return
    kind, biased = KINDS[function.name]
    yield ops.function(kind, opset, ops.Variant(contrib=True), biased)
    for elem_type in FLOATS_BY_NAME.values():
        for parameter_type in dict.fromkeys((elem_type, ElementType.FLOAT)):
            for form in ops.BodyForm:
                variant = ops.Variant(elem_type, parameter_type, axis, rank, form=form)
                yield ops.function(kind, opset, variant, biased)
                if elem_type == parameter_type == ElementType.FLOAT:
                    yield _older_float64(ops.function(kind, opset, variant, biased))


def _older_float64(function: FunctionProto) -> FunctionProto:
    """The body in float64 of before there was Reciprocal in it: that of float32, cast to float64.

    onnxruntime before 1.30 loses its epsilon, as the kernels do not.
    """
    for node in function.node:
        for attribute in node.attribute:
            if attribute.name == "to" and not attribute.ref_attr_name:
                attribute.i = ElementType.DOUBLE
    return function


def _axes(function: FunctionProto) -> tuple[int | None, int]:
    """The first axis that the means of a body are over, and a rank for which it is so.

    The last axis where a body has no mean of its own; None for axes that no body of ours has.
    """
    constants = {
        node.output[0]: attribute.t
        for node in function.node
        if node.op_type == "Constant" and len(node.output) == 1
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for node in function.node:
        if node.op_type != "ReduceMean":
            continue
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        if axes is None and len(node.input) > 1 and node.input[1] in constants:
            found = _numbers(constants[node.input[1]])
            axes = None if found is None else [int(number) for number in found]
        if not axes or len(axes) > MOST_AXES or axes[-1] >= MOST_AXES:
            return None, 0
        return -len(axes), axes[-1] + 1 if axes[-1] >= 0 else 3
    return -1, 3


def _numbers(tensor: TensorProto) -> Sequence[float] | None:
    """The elements of a small tensor; None for any other, or one that is broken."""
    if is_external(tensor) or not 0 <= math.prod(tensor.dims) <= MOST_ELEMENTS:
        return None
    try:
        return numpy_helper.to_array(tensor).ravel().tolist()
    except (ValueError, TypeError):
        return None


def _meaning(function: FunctionProto, table: dict[object, int]) -> tuple[object, ...] | None:
    """A function without the names in it: equal ones have equal meanings.

    Each value is a number that `table` keeps for its operator, attributes and operands, so that
    equal expressions have one number in all functions. None for what no body of ours has.
    """
    if len(set(function.input)) < len(function.input):
        return None
    values: dict[str, int] = {"": table.setdefault("absent", len(table))}
    for position, name in enumerate(function.input):
        values[name] = table.setdefault(("input", position), len(table))
    for node in function.node:
        attributes = [_attribute(attribute) for attribute in node.attribute]
        if None in attributes or any(name not in values for name in node.input):
            return None
        domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
        operands = tuple(values[name] for name in node.input)
        key = (domain, node.op_type, node.overload, frozenset(attributes), operands)
        for position, name in enumerate(node.output):
            if name in values and name:
                return None
            if name:
                values[name] = table.setdefault((key, position), len(table))
    if any(name not in values for name in function.output):
        return None
    domains = {entry.domain: entry.version for entry in function.opset_import}
    used = {"" if node.domain in DEFAULT_DOMAINS else node.domain for node in function.node}
    imports = frozenset(
        (domain, domains.get(domain, domains.get("ai.onnx") if not domain else None))
        for domain in used
    )
    results = tuple(values[name] for name in function.output)
    return (len(function.input), results, imports)


def _attribute(attribute: AttributeProto) -> object:
    """An attribute as a value that can be compared; None for what no body of ours has."""
    if attribute.ref_attr_name:
        return (attribute.name, "of the function", attribute.ref_attr_name)
    if attribute.type == AttributeProto.INT:
        return (attribute.name, attribute.i)
    if attribute.type == AttributeProto.INTS:
        return (attribute.name, tuple(attribute.ints[:MOST_AXES]), len(attribute.ints))
    if attribute.type == AttributeProto.FLOAT:
        return (attribute.name, "float", attribute.f)
    if attribute.type == AttributeProto.TENSOR:
        numbers = _numbers(attribute.t)
        if numbers is not None:
            return (attribute.name, attribute.t.data_type, tuple(attribute.t.dims), tuple(numbers))
    return None

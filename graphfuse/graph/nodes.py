"""Nodes as the patterns see them: values that compare by identity of place, not by structure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np
import onnx

from graphfuse.errors import ModelError
from graphfuse.graph.scopes import FunctionKey, Scope, function_key
from graphfuse.graph.tensors import DEFAULT_DOMAINS
from graphfuse.records import NodeRef, ScopeRef

# The types of the attributes that are read.
ATTRIBUTE_TYPES: Mapping[str, onnx.AttributeProto.AttributeType] = {
    **dict.fromkeys(("axes", "perm"), onnx.AttributeProto.INTS),
    "epsilon": onnx.AttributeProto.FLOAT,
    **dict.fromkeys(
        ("axis", "keepdims", "noop_with_empty_axes", "to", "unbiased", "stash_type", "allowzero"),
        onnx.AttributeProto.INT,
    ),
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the patterns see it. An absent input or output has the name ''.

    `position` is its place among the nodes of the scope that it is `within`. `index` is the node of
    the graph that it is, or the call that it is a part of (`in_call`).
    """

    position: int
    index: int
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    within: Scope
    in_call: bool = False
    known: bool = True
    """False when what it does is not certain: an attribute that a function's caller gives."""

    @property
    def source(self) -> onnx.NodeProto:
        """The message, found when it is asked for (see `GraphTypes` on what holding it costs)."""
        return self.within.nodes[self.position]

    @property
    def name(self) -> str:
        """Its name; a part of a call is known by the call's."""
        named = self.within.graph.node[self.index] if self.in_call else self.source
        return named.name

    @property
    def scope(self) -> ScopeRef:
        """The graph that it is in."""
        return self.within.ref

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes, without those that a function's caller gives.

        Raises ModelError for one of another type than ONNX gives it.
        """
        found: dict[str, Any] = {}
        for attribute in self.source.attribute:
            if attribute.ref_attr_name:
                continue
            kind = ATTRIBUTE_TYPES.get(attribute.name, attribute.type)
            if attribute.type != kind and self.domain in (*DEFAULT_DOMAINS, "com.microsoft"):
                wanted = onnx.AttributeProto.AttributeType.Name(kind)
                raise ModelError(
                    f"attribute {attribute.name!r} of {self.ref} is not of type {wanted}",
                    "run onnx.checker on the file",
                )
            found[attribute.name] = onnx.helper.get_attribute_value(attribute)
        return found

    @property
    def ref(self) -> NodeRef:
        """What records keep of the node."""
        call = self.within.graph.node[self.index].op_type if self.in_call else ""
        return NodeRef(self.index, self.op_type, self.name, self.scope, call)

    @property
    def standard(self) -> bool:
        """Whether the operator is of the default domain, and means what ONNX says."""
        return self.known and self.domain in DEFAULT_DOMAINS

    def input(self, position: int) -> str:
        """The name of an input, '' when it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""


def nodes_of(functions: Collection[FunctionKey], scope: Scope) -> Iterator[Node]:
    """The nodes of a scope, calls expanded; `functions` are those of the model."""
    called = {call.owner for call in scope.calls}
    # A call that is not seen through is not the operator that it may be named like.
    # Empty for nearly every model, so nodes need not be asked one by one.
    in_function = scope.ref.function is not None
    # One string for each name: strings that are the same object need not be compared.
    one: dict[str, str] = {}
    for position, (source, owner) in enumerate(zip(scope.nodes, scope.owners, strict=True)):
        given = in_function and any(a.ref_attr_name for a in source.attribute)
        in_call = owner in called
        yield Node(
            position,
            owner,
            # As literals are: comparing with one is comparing addresses.
            intern(source.op_type),
            intern(source.domain),
            tuple([one.setdefault(name, name) for name in source.input]),
            tuple([one.setdefault(name, name) for name in source.output]),
            scope,
            in_call,
            not given and not (functions and function_key(source) in functions),
        )


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node yields; None for a string, or what a function's caller gives."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            return None
        match attribute.name:
            case "value":
                return attribute.t
            case "value_float":
                return onnx.numpy_helper.from_array(np.array(attribute.f, np.float32))
            case "value_int":
                return onnx.numpy_helper.from_array(np.array(attribute.i, np.int64))
            case "value_floats":
                return onnx.numpy_helper.from_array(np.array(attribute.floats, np.float32))
            case "value_ints":
                return onnx.numpy_helper.from_array(np.array(attribute.ints, np.int64))
            case _:
                return None
    return None


def redefined(name: str, node: Node, nodes: Sequence[Node], given: Collection[str]) -> ModelError:
    """The error for a tensor that a node defines after something has defined or read it.

    `given` are the graph's inputs and initializers. Nodes that have an order are in it
    (graph/order.py): where no tensor is defined twice, they stand in a circle.
    """
    makers: dict[str, list[Node]] = {}
    for one in nodes:
        for output in one.outputs:
            makers.setdefault(output, []).append(one)
    if name not in given and len(makers[name]) == 1:
        # Nodes that define a tensor twice are not put in order: then that is what is wrong.
        twice = (each for each, by in makers.items() if each and len(by) > 1)
        name = next(twice, name)
    where = f" in {node.scope.text}" if node.scope.text else ""
    by = [f"node {one.index} ({one.op_type})" for one in makers[name]]
    if name in given:
        by.insert(0, "an input or initializer")
    if len(by) == 1:
        return ModelError(
            f"nodes{where} read each other's results in a circle, through tensor {name!r} of "
            f"{by[0]}",
            "no runtime can run it: export the model again",
        )
    return ModelError(
        f"tensor {name!r} is defined twice{where}: by {by[0]} and by {by[1]}",
        "no runtime can run it: give one of the two another name, or export the model again",
    )

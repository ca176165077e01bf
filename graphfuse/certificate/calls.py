"""What the calls of a function say of its inputs and attributes, as the file has them.

A fused node inside a function stands for all calls of it at once. What all of them give alike is a
number of the site; a vector may be another one in each call, and is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, numpy_helper

from graphfuse.certificate.values import Attributes
from graphfuse.files.model_file import Model
from graphfuse.graph.scopes import FunctionKey, function_key
from graphfuse.views.cutting import Parts
from graphfuse.views.keys import ScopeKey

DEEPEST_CALL = 16
"""Functions that hand a constant on to functions."""


class Calls:
    """The calls of a model's functions, wherever they are."""

    def __init__(self, model: Model, parts: Mapping[ScopeKey, Parts]) -> None:
        """`parts` are the model's graphs."""
        self._parts = parts
        self._functions = {function_key(function): function for function in model.proto.functions}
        self._calls: dict[FunctionKey, list[tuple[ScopeKey, NodeProto]]] = {}
        for scope, part in parts.items() if self._functions else ():
            for node in part.nodes:
                if function_key(node) in self._functions:
                    self._calls.setdefault(function_key(node), []).append((scope, node))

    def function(self, scope: ScopeKey) -> FunctionProto | None:
        """The function that a graph is, or is in."""
        if scope[0] != "function":
            return None
        domain, name, overload = (str(each) for each in scope[1:4])
        key = FunctionProto(domain=domain, name=name, overload=overload)
        return self._functions.get(function_key(key))

    def attributes(self, function: FunctionProto) -> Attributes:
        """The attributes on which all calls agree; None for the others."""
        found: dict[str, onnx.AttributeProto | None] = {}
        given = [
            {attribute.name: attribute for attribute in node.attribute}
            for _, node in self._calls.get(function_key(function), [])
        ]
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        for name in {*function.attribute, *defaults}:
            values = [call.get(name, defaults.get(name)) for call in given]
            if values and all(value is None for value in values):
                continue
            first = values[0] if values else None
            agree = first is not None and not first.ref_attr_name
            found[name] = first if agree and all(value == first for value in values) else None
        return found

    def constants(self, scope: ScopeKey, name: str, depth: int = 0) -> list[TensorProto] | None:
        """What each call gives an input of a function; None where one is no stored tensor."""
        part = self._parts.get(scope)
        if part is None or depth > DEEPEST_CALL:
            return None
        weight = part.weight(name)
        if weight is not None:
            return [weight]
        node = part.node(name)
        if node is not None:
            tensor = _constant(node)
            return None if tensor is None else [tensor]
        function = self.function(scope)
        if function is None or name not in function.input:
            return None
        position = list(function.input).index(name)
        found: list[TensorProto] = []
        for caller, call in self._calls.get(function_key(function), []):
            given = call.input[position] if position < len(call.input) else ""
            tensors = self.constants(caller, given, depth + 1) if given else None
            if tensors is None:
                return None
            found += tensors
        return found or None


def _constant(node: NodeProto) -> TensorProto | None:
    if node.op_type != "Constant" or not node.attribute:
        return None
    attribute = node.attribute[0]
    if attribute.HasField("t"):
        return attribute.t
    numbers: Sequence[float] | float
    if attribute.name in ("value_float", "value_floats"):
        numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return numpy_helper.from_array(np.array(numbers, np.float32))
    if attribute.name in ("value_int", "value_ints"):
        numbers = attribute.i if attribute.name == "value_int" else list(attribute.ints)
        return numpy_helper.from_array(np.array(numbers, np.int64))
    return None

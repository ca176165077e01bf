"""The nodes of a cut, evaluated one after the other with 200 digits.

What an operator computes is looked up in tables; one that is in none is said, never skipped. Calls
of the model's functions are evaluated by their bodies. A fused operator is evaluated by its
definition, or, when that is asked for, by the body that the file carries for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto

from graphfuse.certificate.definitions import FUSED_ROLES, NORMS, fused
from graphfuse.certificate.elementwise import ELEMENTWISE
from graphfuse.certificate.products import PRODUCTS
from graphfuse.certificate.reductions import REDUCTIONS
from graphfuse.certificate.shaping import SHAPING
from graphfuse.certificate.values import (
    Attributes,
    ExactNode,
    ExactRule,
    ExactValue,
    ShapeError,
    UnknownError,
    attributes_of,
    check_size,
    stored,
)
from graphfuse.files.model_file import Model
from graphfuse.graph.scopes import FunctionKey, function_key
from graphfuse.graph.tensors import DEFAULT_DOMAINS

OPERATORS: Mapping[str, ExactRule] = {**ELEMENTWISE, **REDUCTIONS, **SHAPING, **PRODUCTS, **NORMS}
CONTRIB_NORMS = ("SimplifiedLayerNormalization", "LayerNormalization")
"""Norms that onnxruntime has under its own domain as well."""

LEAST_OPSET = 7
"""Below it an attribute says along which axis an operand broadcasts."""

DEEPEST = 32
"""Calls inside calls."""

ExactValues = dict[str, ExactValue]


@dataclass
class Evaluator:
    """Evaluates a part of a model; `bodies` says that fused operators are their functions.

    `bound` are the attributes of the function that the part stands in, where it stands in one.
    """

    part: Model
    bodies: bool = False
    bound: Attributes = field(default_factory=dict[str, "onnx.AttributeProto | None"])

    def __post_init__(self) -> None:
        self._functions: dict[FunctionKey, FunctionProto] = {
            function_key(function): function for function in self.part.proto.functions
        }
        self._weights: ExactValues = {}

    def run(self, given: Mapping[str, ExactValue]) -> ExactValues:
        """Every tensor of the part, by name; `given` are its inputs, and weights to replace.

        Raises UnknownError for what the certificate does not know, ShapeError for extents that the
        nodes do not take.
        """
        values = {
            tensor.name: given.get(tensor.name) or self._weight(tensor)
            for tensor in self.part.proto.graph.initializer
        }
        values.update(given)
        opsets = {entry.domain: entry.version for entry in self.part.proto.opset_import}
        self._walk(self.part.proto.graph.node, values, self.bound, opsets, 0)
        return values

    def carries_body(self, node: NodeProto) -> bool:
        """Whether the model has a function for a node."""
        return function_key(node) in self._functions

    def _weight(self, tensor: onnx.TensorProto) -> ExactValue:
        if tensor.name not in self._weights:
            self._weights[tensor.name] = stored(self.part.read(tensor), tensor.data_type)
        return self._weights[tensor.name]

    def _walk(
        self,
        nodes: Sequence[NodeProto],
        values: ExactValues,
        bound: Attributes,
        opsets: Mapping[str, int],
        depth: int,
    ) -> None:
        for node in nodes:
            inputs = [values.get(name) if name else None for name in node.input]
            missing = [n for n, v in zip(node.input, inputs, strict=True) if n and v is None]
            if missing:
                raise UnknownError(f"tensor {missing[0]}, which nothing computes")
            fixed = all(value is None or value.fixed for value in inputs)
            found = self._evaluate(node, inputs, bound, opsets, depth)
            for name, value in zip(node.output, found, strict=False):
                if name and value is not None:
                    values[name] = ExactValue(value.array, value.elem_type, fixed)

    def _evaluate(
        self,
        node: NodeProto,
        inputs: Sequence[ExactValue | None],
        bound: Attributes,
        opsets: Mapping[str, int],
        depth: int,
    ) -> Sequence[ExactValue | None]:
        is_fused = (node.domain, node.op_type) in FUSED_ROLES
        function = self._functions.get(function_key(node))
        if function is not None and (self.bodies or not is_fused):
            return self._call(node, function, inputs, bound, depth)
        rule = fused if is_fused else _rule(node)
        opset = max(opsets.get(domain, 0) for domain in DEFAULT_DOMAINS)
        if opset < LEAST_OPSET:
            raise UnknownError(f"operator set {opset}, whose operators broadcast otherwise")
        _check_broadcast(inputs)
        try:
            found = rule(ExactNode(node, inputs, attributes_of(node, bound)))
        except (ValueError, IndexError, np.exceptions.AxisError) as error:
            raise ShapeError(f"{node.op_type} that computes {node.output[0]}: {error}") from error
        except (KeyError, TypeError, OverflowError) as error:
            raise UnknownError(f"operator {node.op_type} ({error})") from error
        return [found] if isinstance(found, ExactValue) else found

    def _call(
        self,
        node: NodeProto,
        function: FunctionProto,
        inputs: Sequence[ExactValue | None],
        bound: Attributes,
        depth: int,
    ) -> Sequence[ExactValue | None]:
        if depth > DEEPEST:
            raise UnknownError(f"function {function.name}, which calls itself")
        attributes: dict[str, onnx.AttributeProto | None] = {
            attribute.name: attribute for attribute in function.attribute_proto
        }
        for attribute in node.attribute:
            name = attribute.ref_attr_name
            if not name:
                attributes[attribute.name] = attribute
            elif name in bound:
                attributes[attribute.name] = bound[name]
        values = {
            name: value
            for name, value in zip(function.input, inputs, strict=False)
            if value is not None
        }
        # An input that a call leaves out is left out inside as well.
        copies = [NodeProto.FromString(each.SerializeToString()) for each in function.node]
        absent = set(function.input) - values.keys()
        for each in copies:
            each.input[:] = ["" if name in absent else name for name in each.input]
        opsets = {entry.domain: entry.version for entry in function.opset_import}
        self._walk(copies, values, attributes, opsets, depth + 1)
        return [values.get(name) for name in function.output]


def _check_broadcast(inputs: Sequence[ExactValue | None]) -> None:
    """Raise UnknownError where operands would broadcast to a tensor that is too large."""
    shapes = [value.array.shape for value in inputs if value is not None]
    with contextlib.suppress(ValueError):
        check_size(np.broadcast_shapes(*shapes))


def _rule(node: NodeProto) -> ExactRule:
    known = node.domain in DEFAULT_DOMAINS or (
        node.domain == "com.microsoft" and node.op_type in CONTRIB_NORMS
    )
    rule = OPERATORS.get(node.op_type) if known else None
    if rule is None:
        domain = "" if node.domain in DEFAULT_DOMAINS else f"{node.domain}::"
        raise UnknownError(f"operator {domain}{node.op_type}")
    return rule

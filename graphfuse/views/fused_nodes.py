"""The fused nodes of a model, in every graph of it, with what is known of their operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.files.model_file import Model
from graphfuse.graph.bodies import strange
from graphfuse.graph.scopes import Scope
from graphfuse.graph.tensors import upcast
from graphfuse.records import Dim, ScopeRef, TensorType
from graphfuse.records.element_types import ElementType
from graphfuse.types.shapes import UNKNOWN
from graphfuse.views.analyses import scopes_of, types_of
from graphfuse.views.keys import ScopeKey, scope_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

OWN_DOMAIN = "graphfuse"
FUSED_DOMAINS = (OWN_DOMAIN, "com.microsoft")

EPSILON, CONTRIB_EPSILON = float(np.float32(1e-5)), float(np.float32(1e-12))
"""The operators' defaults; ONNX attributes are float32."""

ROLES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("graphfuse", "AddLayerNormalization"): ("A", "B", "Scale", "Bias"),
    ("graphfuse", "AddRMSNormalization"): ("A", "B", "Scale"),
    ("graphfuse", "AddBiasLayerNormalization"): ("A", "B", "Scale", "Bias", "AddBias"),
    ("graphfuse", "AddBiasRMSNormalization"): ("A", "B", "Scale", "AddBias"),
    ("com.microsoft", "SkipLayerNormalization"): ("A", "B", "Scale", "Bias", "AddBias"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): ("A", "B", "Scale", "AddBias"),
}
"""What each input of a fused operator is."""

DEFAULT_EPSILON = {"graphfuse": EPSILON, "com.microsoft": CONTRIB_EPSILON}
ABSENT = {"Scale": 1.0, "Bias": 0.0, "AddBias": 0.0}


@dataclass(frozen=True, slots=True)
class FusedNode:
    """A fused node as a model holds it, with what is known of its operands.

    `extents` are those of the normalised axes; `vectors` the operands Scale, Bias and AddBias in
    float64, drawn where the model computes them. `takes_kernels`: graphfuse's kernels compute what
    all functions of its model under our names say.
    """

    node: onnx.NodeProto
    scope: ScopeKey
    elem_type: ElementType
    parameter_type: ElementType
    a_shape: tuple[Dim, ...]
    b_shape: tuple[Dim, ...]
    extents: tuple[int, ...]
    vectors: Mapping[str, Array]
    epsilon: float
    takes_kernels: bool = True

    @property
    def output(self) -> str:
        """The normalised tensor; the original has it under the same name."""
        return self.node.output[0]

    @property
    def centred(self) -> bool:
        """Whether it is a LayerNorm, which may leave its bias out."""
        return "Bias" in ROLES[self.node.domain, self.node.op_type]

    @property
    def hidden(self) -> int:
        """How many elements a mean is over."""
        return prod(self.extents)

    @property
    def roles(self) -> dict[str, str]:
        """The inputs that the node has, by what they are."""
        known = ROLES[self.node.domain, self.node.op_type]
        return {role: name for role, name in zip(known, self.node.input, strict=False) if name}


def unlike_functions(one: onnx.ModelProto, other: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Functions of fused operators that mean something of their own, and only in one model."""
    there = {function.SerializeToString(deterministic=True) for function in strange(other)}
    return [f for f in strange(one) if f.SerializeToString(deterministic=True) not in there]


def fused_nodes(
    model: Model, rng: np.random.Generator
) -> Iterator[tuple[onnx.NodeProto, ScopeKey, FusedNode | str]]:
    """The fused nodes of a model, the graph of each, and what is known of it, or why nothing is."""
    found = scopes_of(model)
    holders = [scope for scope in found if any(map(is_fused, scope.graph.node))]
    if not holders:
        return
    types = types_of(model)
    keys = scope_keys(found)
    takes_kernels = not strange(model.proto)
    for scope in holders:
        reader = _Reader(model, scope, types, rng, takes_kernels)
        for node in filter(is_fused, scope.graph.node):
            if not node.output or not node.output[0]:
                # Nobody reads what it computes; onnxruntime refuses it, or leaves it out.
                continue
            yield node, keys[scope.ref], reader.fused_node(node, keys[scope.ref])


def is_fused(node: onnx.NodeProto) -> bool:
    """Whether a node is one of graphfuse's or onnxruntime's operators of a sum and its norm."""
    return node.domain in FUSED_DOMAINS and (node.domain, node.op_type) in ROLES


@dataclass(frozen=True, slots=True)
class _Reader:
    """Looks up what a scope knows of a tensor, itself or by the graphs around it."""

    model: Model
    scope: Scope
    types: Mapping[ScopeRef, Mapping[str, TensorType]]
    rng: np.random.Generator
    takes_kernels: bool

    def fused_node(self, node: onnx.NodeProto, key: ScopeKey) -> FusedNode | str:
        roles = dict(zip(ROLES[node.domain, node.op_type], node.input, strict=False))
        if not roles.get("Scale"):
            return "it has no scale"
        scale = self._type(roles["Scale"])
        if not scale.shape or not all(isinstance(extent, int) for extent in scale.shape):
            return "the extents of its scale are not known"
        extents = tuple(extent for extent in scale.shape if isinstance(extent, int))
        if not prod(extents):
            return "its scale is empty"
        unknown: tuple[Dim, ...] = (None, None, *extents)
        a_type = self._type(roles["A"])
        a_shape = a_type.shape or unknown
        attributes = {attribute.name: attribute.f for attribute in node.attribute}
        return FusedNode(
            node,
            key,
            a_type.elem_type or scale.elem_type,
            scale.elem_type,
            a_shape,
            self._type(roles["B"]).shape or a_shape,
            extents,
            {
                role: self._vector(roles.get(role, ""), role, extents)
                for role in ABSENT
                if role in ROLES[node.domain, node.op_type]
            },
            float(attributes.get("epsilon", DEFAULT_EPSILON[node.domain])),
            self.takes_kernels,
        )

    def _type(self, name: str) -> TensorType:
        scope: Scope | None = self.scope
        while scope is not None:
            if name in self.types[scope.ref]:
                return self.types[scope.ref][name]
            scope = scope.parent
        return UNKNOWN

    def _vector(self, name: str, role: str, extents: tuple[int, ...]) -> Array:
        """An operand in float64: as the model holds it, absent, or drawn where it is computed."""
        if not name:
            return np.full(extents, ABSENT[role])
        tensor = self._initializer(name)
        if tensor is None:
            return upcast(self.rng.normal(ABSENT[role], 0.2, extents).astype(np.float16))
        return upcast(self.model.read(tensor))

    def _initializer(self, name: str) -> onnx.TensorProto | None:
        scope: Scope | None = self.scope
        while scope is not None and isinstance(scope.graph, onnx.GraphProto):
            for tensor in scope.graph.initializer:
                if tensor.name == name:
                    return tensor
            if any(name in node.output for node in scope.graph.node) or name in scope.inputs:
                return None
            scope = scope.parent
        return None

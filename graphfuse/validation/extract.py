"""Cutting out of an original what a fused node replaced, by the names that both models share."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import helper

from graphfuse.graph.model_file import Model
from graphfuse.graph.scope_types import infer_scopes
from graphfuse.graph.scopes import Scope, scopes
from graphfuse.graph.shapes import UNKNOWN
from graphfuse.graph.tensors import subgraphs, value_names
from graphfuse.records import ScopeRef, TensorType
from graphfuse.validation.fused_nodes import ScopeKey, scope_keys
from graphfuse.validation.lifting import FUSED_DOMAINS

Place = tuple[ScopeKey, str]
"""A node: its graph, and the first tensor that it computes."""

MAX_NODES = 200
"""A norm, however it is spelt, is smaller than this."""


def parts_by_scope(model: Model) -> dict[ScopeKey, Parts]:
    """Every graph of a model, by what names it before and after an edit."""
    found = scopes(model.proto)
    keys = scope_keys(found)
    parts: dict[ScopeRef, Parts] = {}

    @cache
    def types() -> Mapping[ScopeRef, Mapping[str, TensorType]]:
        return infer_scopes(model.proto, found)

    for scope in found:
        outer = parts[scope.parent.ref] if scope.parent is not None else None
        parts[scope.ref] = Parts(model, scope, outer, lambda ref=scope.ref: types()[ref])
        parts[scope.ref].key = keys[scope.ref]
    return {keys[ref]: part for ref, part in parts.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """Some nodes of a graph as a model, and the tensors that they read of it."""

    model: Model
    reads: frozenset[str]


class Parts:
    """A graph, indexed so that the part behind each fused node can be cut out."""

    def __init__(
        self,
        model: Model,
        scope: Scope,
        outer: Parts | None,
        types: Callable[[], Mapping[str, TensorType]],
    ) -> None:
        self.model = model
        self._types = types
        self._graph, self._outer = scope.graph, outer
        self._depth = 0 if outer is None else outer._depth + 1
        self.key: ScopeKey = ()
        self._producers = {
            name: index
            for index, node in enumerate(scope.graph.node)
            for name in node.output
            if name
        }
        weights = scope.graph.initializer if isinstance(scope.graph, onnx.GraphProto) else ()
        self._initializers = {tensor.name: tensor for tensor in weights}
        self._inputs = set(scope.inputs)

    def node(self, output: str) -> onnx.NodeProto | None:
        """The node that computes a tensor."""
        index = self._producers.get(output)
        return None if index is None else self._graph.node[index]

    def computes(self, name: str) -> bool:
        """Whether a tensor is an activation here: no initializer, of this graph or one around."""
        return self._known(name) and self._initializer(name) is None

    def weight(self, name: str) -> onnx.TensorProto | None:
        """The initializer of that name, of this graph or one around it."""
        return self._initializer(name)

    def knows(self, name: str) -> bool:
        """Whether there is a tensor of that name, here or in a graph around."""
        return self._known(name)

    def type(self, name: str) -> TensorType:
        """What is known of a tensor, here or in a graph around."""
        found = self._types().get(name, UNKNOWN)
        return found if found is not UNKNOWN or self._outer is None else self._outer.type(name)

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes of the graph, as the file has them."""
        return self._graph.node

    def _known(self, name: str) -> bool:
        own = name in self._producers or name in self._inputs or name in self._initializers
        return own or (self._outer is not None and self._outer._known(name))

    def _initializer(self, name: str) -> onnx.TensorProto | None:
        if name in self._initializers:
            return self._initializers[name]
        if name in self._producers or name in self._inputs or self._outer is None:
            return None
        return self._outer._initializer(name)

    def behind(self, fused_node: onnx.NodeProto, shared: set[str]) -> Model | None:
        """The part between a fused node's inputs and its outputs, as a model.

        Its inputs are those of the fused node that both models compute (`shared`); what this one
        holds as an initializer, or computes from such, stays. None when the two cannot be paired:
        an output is missing here, or is computed from something that is no such input.
        """
        outputs = [name for name in fused_node.output if name in self._producers]
        if fused_node.output[0] not in outputs:
            return None
        found = self._slice(outputs, shared) or self._slice_before_reshape(outputs, shared)
        return None if found is None else self._part(*found, sorted(shared), outputs)

    def between(self, outputs: Sequence[str], cuts: Container[str]) -> Part | None:
        """The part that computes tensors of this graph from those of `cuts` that it needs.

        None where it needs a graph's input that is no cut, or is larger than a norm can be.
        """
        found = self._slice(list(outputs), cuts)
        if found is None:
            return None
        nodes, read = found
        reads = frozenset(name for name in read if name in cuts and name not in outputs)
        return Part(self._part(nodes, read - reads, sorted(reads), list(outputs)), reads)

    def same_interface(self, other: Parts) -> bool:
        """Whether two graphs are given and yield the same, as far as names and defaults say."""
        return self._interface() == other._interface()

    def _interface(self) -> object:
        graph = self._graph
        names = (value_names(graph.input), value_names(graph.output))
        if isinstance(graph, onnx.GraphProto):
            return names
        opsets = {e.domain: e.version for e in graph.opset_import if e.domain not in FUSED_DOMAINS}
        defaults = sorted(a.SerializeToString() for a in graph.attribute_proto)
        return (*names, sorted(graph.attribute), defaults, opsets)

    def places(self, nodes: Iterable[onnx.NodeProto]) -> set[Place]:
        """Where nodes are that were cut out here: in this graph, or in one around it."""
        outputs = (next(name for name in node.output if name) for node in nodes)
        return {(self._home(name).key, name) for name in outputs}

    def _slice(
        self, outputs: list[str], cuts: Container[str]
    ) -> tuple[list[onnx.NodeProto], set[str]] | None:
        nodes: dict[tuple[int, int], onnx.NodeProto] = {}
        read: set[str] = set()
        pending = list(outputs)
        while pending:
            name = pending.pop()
            if name in read:
                continue
            read.add(name)
            # What is asked for is computed, also where a cut goes through it.
            if name in cuts and name not in outputs:
                continue
            if self._initializer(name) is not None:
                continue
            home = self._home(name)
            index = home._producers.get(name)
            if index is None or len(nodes) > MAX_NODES:
                return None
            node = home._graph.node[index]
            if any(subgraphs(node)):
                return None
            nodes[home._depth, index] = node
            pending.extend(name for name in node.input if name)
        return [nodes[place] for place in sorted(nodes)], read

    def _slice_before_reshape(
        self, outputs: list[str], cuts: set[str]
    ) -> tuple[list[onnx.NodeProto], set[str]] | None:
        """The part without a last Reshape that changes nothing: its shape comes from anywhere."""
        node = self.node(outputs[0])
        if node is None or node.op_type != "Reshape":
            return None
        name = node.input[0]
        before, after = (self._types().get(each, UNKNOWN).shape for each in (name, outputs[0]))
        if before is None or None in before or before != after:
            return None
        found = self._slice([name, *outputs[1:]], cuts)
        if found is None:
            return None
        nodes, read = found
        return [*nodes, helper.make_node("Identity", [name], [outputs[0]])], read

    def _home(self, name: str) -> Parts:
        """The graph that a tensor is of: this one, or one around it."""
        mine = name in self._producers or name in self._inputs or self._outer is None
        return self if mine or self._outer is None else self._outer._home(name)

    def _part(
        self, nodes: list[onnx.NodeProto], read: set[str], inputs: list[str], outputs: list[str]
    ) -> Model:
        proto = self.model.proto
        part = onnx.ModelProto(ir_version=proto.ir_version)
        part.opset_import.extend(proto.opset_import)
        part.functions.extend(proto.functions)
        part.graph.name = "part"
        part.graph.node.extend(nodes)
        weights = (t for name in sorted(read) if (t := self._initializer(name)) is not None)
        part.graph.initializer.extend(weights)
        for name in inputs:
            part.graph.input.append(helper.make_tensor_value_info(name, 0, None))
        for name in outputs:
            part.graph.output.append(helper.make_tensor_value_info(name, 0, None))
        return self.model.edited(part)

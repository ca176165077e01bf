"""Cutting out of an original what a fused node replaced, by the names that both models share."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import helper

from graphfuse.files.model_file import Model
from graphfuse.graph.scopes import Scope
from graphfuse.graph.tensors import read_names, subgraphs, value_names
from graphfuse.records import ScopeRef, TensorType
from graphfuse.types.shapes import UNKNOWN
from graphfuse.views.analyses import scopes_of, types_of
from graphfuse.views.fused_nodes import FUSED_DOMAINS
from graphfuse.views.keys import ScopeKey, scope_keys

NodePlace = tuple[ScopeKey, str]
"""A node: its graph, and the first tensor that it computes."""

MAX_NODES = 200
"""A norm, however it is spelt, is smaller than this."""


def parts_by_scope(model: Model) -> dict[ScopeKey, Parts]:
    """Every graph of a model, by what names it before and after an edit."""
    return model.once(_parts_by_scope)


def _parts_by_scope(model: Model) -> dict[ScopeKey, Parts]:
    found = scopes_of(model)
    keys = scope_keys(found)
    parts: dict[ScopeRef, Parts] = {}
    for scope in found:
        outer = parts[scope.parent.ref] if scope.parent is not None else None
        parts[scope.ref] = Parts(model, scope, outer, keys[scope.ref])
    return {keys[ref]: part for ref, part in parts.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """Some nodes of a graph as a model, and the tensors that they read of it."""

    model: Model
    reads: frozenset[str]


class Parts:
    """A graph, indexed so that the part behind each fused node can be cut out."""

    def __init__(self, model: Model, scope: Scope, outer: Parts | None, key: ScopeKey) -> None:
        self.model, self.key = model, key
        self._ref = scope.ref
        self._graph, self._outer = scope.graph, outer
        self._depth = 0 if outer is None else outer._depth + 1
        self._producers = {
            name: index
            for index, node in enumerate(scope.graph.node)
            for name in node.output
            if name
        }
        self._inputs = set(scope.inputs)
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._sparse: dict[str, onnx.SparseTensorProto] = {}
        self.defaults: dict[str, onnx.TensorProto] = {}
        """Initializers that are inputs as well: whoever feeds them overrides them."""
        if isinstance(scope.graph, onnx.GraphProto):
            self._sparse = {each.values.name: each for each in scope.graph.sparse_initializer}
            # Up to IR version 3 every initializer had to be an input too, and none was overridden.
            given = self._inputs if outer is None and model.proto.ir_version > 3 else set[str]()
            for tensor in scope.graph.initializer:
                held = self.defaults if tensor.name in given else self._initializers
                held[tensor.name] = tensor

    def node(self, output: str) -> onnx.NodeProto | None:
        """The node that computes a tensor."""
        index = self._producers.get(output)
        return None if index is None else self._graph.node[index]

    def computes(self, name: str) -> bool:
        """Whether a tensor is an activation here: no initializer, of this graph or one around."""
        return self._known(name) and not self.holds(name)

    def weight(self, name: str) -> onnx.TensorProto | None:
        """The dense initializer of that name, of this graph or one around it."""
        return self._initializer(name)

    def sparse(self, name: str) -> onnx.SparseTensorProto | None:
        """The sparse initializer of that name, of this graph or one around it."""
        home = self._home(name)
        return None if name in home._producers else home._sparse.get(name)

    def holds(self, name: str) -> bool:
        """Whether a tensor is an initializer that nothing overrides."""
        return self._initializer(name) is not None or self.sparse(name) is not None

    def default(self, name: str) -> onnx.TensorProto | None:
        """What an input of the main graph is where nobody feeds it."""
        return self._home(name).defaults.get(name)

    def knows(self, name: str) -> bool:
        """Whether there is a tensor of that name, here or in a graph around."""
        return self._known(name)

    def type(self, name: str) -> TensorType:
        """What is known of a tensor, here or in a graph around."""
        found = self._types.get(name, UNKNOWN)
        return found if found is not UNKNOWN or self._outer is None else self._outer.type(name)

    @property
    def _types(self) -> Mapping[str, TensorType]:
        return types_of(self.model)[self._ref]

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes of the graph, as the file has them."""
        return self._graph.node

    def _known(self, name: str) -> bool:
        return self._own(name) or (self._outer is not None and self._outer._known(name))

    def _own(self, name: str) -> bool:
        made = name in self._producers or name in self._inputs
        return made or name in self._initializers or name in self._sparse

    def _initializer(self, name: str) -> onnx.TensorProto | None:
        if name in self._initializers:
            return self._initializers[name]
        if self._own(name) or self._outer is None:
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

    def places(
        self, nodes: Iterable[onnx.NodeProto], other: Parts, compared: Container[str]
    ) -> set[NodePlace]:
        """Where those nodes are of which a comparison with `other` shows all that others read.

        They were cut out here, of this graph or of one around it, and `compared` are the tensors
        that were compared. Whatever else a node computes has to be read by those nodes alone. What
        the other model has not, only nodes read that differ themselves.
        """
        inside = {_first(node): node for node in nodes}
        return {
            (self._home(first).key, first)
            for first, node in inside.items()
            if all(
                name in compared
                or not other.knows(name)
                or self._home(name)._readers.get(name, set()) <= inside.keys()
                for name in node.output
                if name
            )
        }

    def readers(self, name: str) -> set[NodePlace]:
        """The nodes that read a tensor of this graph, itself or in a body; '' is the graph."""
        return {(self.key, reader) for reader in self._readers.get(name, ())}

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return value_names(self._graph.output)

    @cached_property
    def _readers(self) -> dict[str, set[str]]:
        """The nodes that read each tensor, by the first that they compute; '' is the graph."""
        found: dict[str, set[str]] = {name: {""} for name in self.outputs}
        for node in self._graph.node:
            for name in read_names(node):
                found.setdefault(name, set()).add(_first(node) or "")
        return found

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
            if self.holds(name):
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
        before, after = (self._types.get(each, UNKNOWN).shape for each in (name, outputs[0]))
        if before is None or None in before or before != after:
            return None
        found = self._slice([name, *outputs[1:]], cuts)
        if found is None:
            return None
        nodes, read = found
        return [*nodes, helper.make_node("Identity", [name], [outputs[0]])], read

    def _home(self, name: str) -> Parts:
        """The graph that a tensor is of: this one, or one around it."""
        return self if self._own(name) or self._outer is None else self._outer._home(name)

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
        thin = (t for name in sorted(read) if (t := self.sparse(name)) is not None)
        part.graph.sparse_initializer.extend(thin)
        for name in inputs:
            part.graph.input.append(helper.make_tensor_value_info(name, 0, None))
        for name in outputs:
            part.graph.output.append(helper.make_tensor_value_info(name, 0, None))
        return self.model.edited(part)


def _first(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")

"""Cutting out of an original what a fused node replaced, by the names that both models share."""

from __future__ import annotations

import onnx
from onnx import helper

from graphfuse.graph.model_file import Model
from graphfuse.graph.tensors import subgraphs

MAX_NODES = 200
"""A norm, however it is spelt, is smaller than this."""


class Parts:
    """A model, indexed so that the part behind each fused node can be cut out."""

    def __init__(self, model: Model) -> None:
        self.model = model
        graph = model.proto.graph
        self._producers = {
            name: index for index, node in enumerate(graph.node) for name in node.output if name
        }
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        inputs = (value.name for value in graph.input)
        self.computed = {*self._producers, *inputs} - self._initializers.keys()

    def behind(self, fused_node: onnx.NodeProto, shared: set[str]) -> Model | None:
        """The part between a fused node's inputs and its outputs, as a model.

        Its inputs are those of the fused node that both models compute (`shared`); what this one
        holds as an initializer, or computes from such, stays. None when the two cannot be paired:
        an output is missing here, or is computed from something that is no such input.
        """
        outputs = [name for name in fused_node.output if name in self._producers]
        if fused_node.output[0] not in outputs:
            return None
        found = self._slice(outputs, shared)
        return None if found is None else self._part(*found, sorted(shared), outputs)

    def _slice(self, outputs: list[str], cuts: set[str]) -> tuple[set[int], set[str]] | None:
        nodes: set[int] = set()
        read: set[str] = set()
        pending = list(outputs)
        while pending:
            name = pending.pop()
            if name in cuts or name in read:
                continue
            read.add(name)
            if name in self._initializers:
                continue
            index = self._producers.get(name)
            if index is None or len(nodes) > MAX_NODES:
                return None
            node = self.model.proto.graph.node[index]
            if any(subgraphs(node)):
                return None
            nodes.add(index)
            pending.extend(name for name in node.input if name)
        return nodes, read

    def _part(
        self, nodes: set[int], read: set[str], inputs: list[str], outputs: list[str]
    ) -> Model:
        proto = self.model.proto
        part = onnx.ModelProto(ir_version=proto.ir_version)
        part.opset_import.extend(proto.opset_import)
        part.functions.extend(proto.functions)
        part.graph.name = "part"
        part.graph.node.extend(proto.graph.node[index] for index in sorted(nodes))
        weights = (tensor for name, tensor in self._initializers.items() if name in read)
        part.graph.initializer.extend(weights)
        for name in inputs:
            part.graph.input.append(helper.make_tensor_value_info(name, 0, None))
        for name in outputs:
            part.graph.output.append(helper.make_tensor_value_info(name, 0, None))
        return Model(part, None, self.model.folder)

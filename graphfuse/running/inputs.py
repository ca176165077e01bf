"""What the graph of a model says of its inputs, looked up once for all feeds that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from graphfuse.records import TensorType
from graphfuse.running.caches import Caches, find_caches
from graphfuse.running.joined import fixed_extents, has_ring
from graphfuse.running.tables import table_rows
from graphfuse.types.inference import infer_types


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that have to be fed: those without an initializer."""
    initialized = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initialized]


class Inputs:
    """The inputs of a model that have to be fed, and what its nodes make of them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.values = inputs_of(model.graph)

    @cached_property
    def _types(self) -> Mapping[str, TensorType]:
        return infer_types(self.model)

    @cached_property
    def fixed(self) -> Mapping[str, int]:
        """The symbols of which a node takes one number only, and that number."""
        return fixed_extents(self.model, self.values, lambda: self._types)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """For each tensor that indexes a table, how many rows that has."""
        return table_rows(self.model, lambda: self._types)

    @cached_property
    def caches(self) -> Caches | None:
        """The caches among the inputs."""
        return find_caches(self.model.graph)

    @cached_property
    def has_ring(self) -> bool:
        """Whether a cache is a ring, of which every place has to be filled."""
        return has_ring(self.model)


@dataclass
class KnownInputs:
    """The inputs of each model that was asked for. The models are not changed meanwhile."""

    _known: dict[int, Inputs] = field(default_factory=dict[int, Inputs])

    def of(self, model: onnx.ModelProto) -> Inputs:
        """The inputs of a model."""
        # By identity: while its inputs are kept, so is the model, and no other has its place.
        if id(model) not in self._known:
            self._known[id(model)] = Inputs(model)
        return self._known[id(model)]

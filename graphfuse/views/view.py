"""A read-only view of each graph of a model: nodes, producers, readers, constants, types.

It reads the ModelProto itself. onnx-graphsurgeon's view costs a quarter of a scan's time and
memory, and calls an initializer constant that a graph input can override.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import ModelError
from graphfuse.files.model_file import Model
from graphfuse.graph.constants import (
    ARITHMETIC,
    LARGEST_CONSTANT,
    Computed,
)
from graphfuse.graph.nodes import Node, constant_value, nodes_of, redefined
from graphfuse.graph.operators import Trait, having
from graphfuse.graph.scopes import FunctionKey, Scope, fully_seen, function_key
from graphfuse.graph.tensors import (
    default_opset,
    equal,
    holds,
    is_external,
    read_names,
    subgraphs,
)
from graphfuse.records import Dim, TensorType
from graphfuse.records.element_types import FLOAT_TYPES, HALF_TYPES, NOT_NUMBERS, ElementType
from graphfuse.types.shape_values import ShapeValues
from graphfuse.types.shapes import SMALL, UNKNOWN, GraphTypes, merged
from graphfuse.views.analyses import scopes_of, types_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


EXTENTS = having(Trait.EXTENTS)
MOVING = having(Trait.PERMUTES) | {"Tile"}
CASTING = having(Trait.CASTS)
# An Expand gives an operand the shape that it would be given beside another one anyway.
BEHIND = having(Trait.KEEPS | Trait.RESHAPES | Trait.CASTS) | {"Expand"}


def views(model: Model) -> list[GraphView]:
    """A view of every graph of a model, outer ones before inner ones."""
    found = scopes_of(model)
    functions = frozenset(map(function_key, model.proto.functions))
    seen = fully_seen(found)
    by_scope: dict[int, GraphView] = {}
    callers: dict[int, list[tuple[GraphView, onnx.NodeProto]]] = {}
    for scope in found:
        outer = by_scope.get(id(scope.parent))
        function = scope.ref.function
        known = outer is None and function is not None and function in seen
        mine = callers.get(function, ()) if known and function is not None else ()
        view = GraphView(model, scope, functions, outer, mine)
        by_scope[id(scope)] = view
        for index, node in view.calls():
            callers.setdefault(index, []).append((view, node))
    return list(by_scope.values())


class GraphView:
    """One graph of a model, indexed. Names of the graph around it are seen as they are there."""

    def __init__(
        self,
        model: Model,
        scope: Scope,
        functions: frozenset[FunctionKey],
        outer: GraphView | None = None,
        callers: Sequence[tuple[GraphView, onnx.NodeProto]] = (),
    ) -> None:
        """`functions` are those of the model; `callers` the calls of a function that is this graph.

        Each call comes with the graph that it stands in.
        """
        self.model, self.scope, self.outer = model, scope, outer
        self._callers = callers
        graph = scope.graph
        self.nodes = tuple(nodes_of(functions, scope))
        self.inputs = tuple(scope.inputs)
        self.outputs = frozenset(scope.outputs)
        weights = scope.initializers
        self._own_weights = {t.name for t in weights}
        if isinstance(graph, onnx.GraphProto):
            self._own_weights.update(t.values.name for t in graph.sparse_initializer)
        inputs = frozenset(self.inputs)
        self._given_names = inputs | self._own_weights
        self.initializers = {t.name: t for t in weights if t.name not in inputs}
        self._producers: dict[str, Node] = {}
        # Most tensors have one reader: a list for each would be half of what the garbage collector
        # has to look at.
        self._readers: dict[str, Node | list[Node]] = {}
        with_bodies = {position for position, _, _ in scope.children}
        for node in self.nodes:
            self._index(node, node.in_call or node.position in with_bodies)
        self._check_names()
        self._declared = GraphTypes(graph, from_file=True)
        self._merged: dict[str, TensorType] = {}

    def _index(self, node: Node, has_bodies: bool) -> None:
        for name in read_names(node.source) if has_bodies else {*node.inputs}:
            if not name:
                continue
            known = self._readers.setdefault(name, node)
            if isinstance(known, list):
                known.append(node)
            elif known is not node:
                self._readers[name] = [known, node]
        for name in node.outputs:
            if not name:
                continue
            if name in self._producers or name in self._readers or name in self._given_names:
                raise redefined(name, node, self.nodes, self._given_names)
            self._producers[name] = node

    def _check_names(self) -> None:
        unknown = (self._readers.keys() | self.outputs) - self._own_names
        if self.outer is not None:
            unknown = {name for name in unknown if not self.outer.sees(name)}
        if unknown:
            name, where = min(unknown), self.scope.ref.text
            readers = [str(node.ref) for node in self.readers(name)]
            by = readers[0] if readers else f"an output of {where or 'the graph'}"
            raise ModelError(
                f"tensor {name!r} is read, but nothing defines it ({by})",
                "no runtime can run it: export the model again",
            )

    @cached_property
    def _own_names(self) -> set[str]:
        return {*self.inputs, *self._producers, *self._own_weights}

    def sees(self, name: str) -> bool:
        """Whether a name means something here, in this graph or one around it."""
        return name in self._own_names or (self.outer is not None and self.outer.sees(name))

    def home(self, name: str) -> GraphView:
        """The view of the graph that defines a tensor: this one, or one around it."""
        view = self
        while name not in view._own_names and view.outer is not None:
            view = view.outer
        return view

    def calls(self) -> Iterator[tuple[int, onnx.NodeProto]]:
        """The calls of functions that are seen through: the function, and the node."""
        for call in self.scope.calls:
            yield call.function, self.scope.graph.node[call.owner]

    def is_real(self, name: str) -> bool:
        """Whether the model has a tensor: what is inside a call it has not."""
        node = self.producer(name)
        return node is None or not node.in_call or name in self.original(node).output

    def original(self, node: Node) -> onnx.NodeProto:
        """The node of the model that a node of the view is, or is a part of."""
        return self.scope.graph.node[node.index]

    def producer(self, name: str) -> Node | None:
        """The node that computes a tensor; None for inputs, initializers and outer names."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a tensor, those whose subgraphs capture it included."""
        found = self._readers.get(name, [])
        return found if isinstance(found, list) else [found]

    def is_read(self, name: str) -> bool:
        """Whether a node reads a tensor or the graph yields it."""
        return name in self._readers or name in self.outputs

    def type(self, name: str) -> TensorType:
        """A tensor's element type and shape: what is declared of it and what is inferred."""
        view = self.home(name)
        if view is not self:
            return view.type(name)
        found = self._merged.get(name)
        if found is None:
            found = self._declared.get(name, UNKNOWN)
            if not found.elem_type or not self._says_all(found.shape):
                found = merged(found, self._inferred.get(name, UNKNOWN))
            self._merged[name] = found
        return found

    @property
    def _inferred(self) -> Mapping[str, TensorType]:
        return types_of(self.model)[self.scope.ref]

    def _says_all(self, shape: tuple[Dim, ...] | None) -> bool:
        """Whether inference can add nothing to a declared shape.

        Of a graph input's symbol, and of `Min(64, sequence)`, it knows no number; others hide some.
        """
        words = [re.findall(r"\w+", d or "") for d in shape or () if not isinstance(d, int)]
        return shape is not None and not any(map(self._free.isdisjoint, words))

    @cached_property
    def _free(self) -> frozenset[str]:
        shapes = (self._declared.get(name, UNKNOWN).shape or () for name in self.inputs)
        own = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
        return self.outer._free | own if self.outer is not None else frozenset(own)

    def cast_type(self, node: Node) -> ElementType:
        """The type that a Cast or CastLike gives; 0 when it is not known."""
        if node.op_type == "CastLike":
            return self.type(node.input(1)).elem_type
        return ElementType(node.attributes.get("to", 0))

    def constant(self, name: str) -> onnx.TensorProto | None:
        """The value of a tensor that nothing can override: an initializer or a Constant node."""
        view = self.home(name)
        if name in view.initializers:
            return view.initializers[name]
        if view._callers and name in view.inputs:
            return view._constant_given(name)
        node = view.producer(name)
        if node is None or node.op_type != "Constant" or not node.standard:
            return None
        return constant_value(node.source)

    def behind(self, name: str) -> tuple[str, list[ElementType]]:
        """The tensor behind casts and reshapes of one, and the types that it is cast to."""
        casts: list[ElementType] = []
        view = self.home(name)
        node = view.producer(name)
        while node is not None and node.standard and node.op_type in BEHIND:
            if node.op_type == "Dropout" and node.input(2):
                break
            if node.op_type in CASTING:
                casts.insert(0, view.cast_type(node))
            name = node.input(0)
            view = view.home(name)
            node = view.producer(name)
        return name, casts

    def scalar(self, name: str, reach: int = 8) -> float | None:
        """The number that a tensor of one element is known to hold, rounded by casts on its way.

        Known are constants, extents (Gather(Shape(x), i) where it is a number), and arithmetic of
        such.
        """
        source, casts = self.behind(name)
        value = self.home(source)._number(source, reach)
        if value is None:
            return None
        for to in casts:
            if to in NOT_NUMBERS:
                return None
            with np.errstate(all="ignore"):
                value = value.astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        return None if value.dtype.kind in "OSUc" else float(value)

    def _number(self, name: str, reach: int) -> NDArray[Any] | None:
        tensor = self.constant(name)
        if tensor is not None:
            return self._element(tensor)
        if self._callers and name in self.inputs and reach:
            return self._number_given(name, reach - 1)
        node = self.producer(name)
        if node is None or not node.standard or not reach:
            return None
        if node.op_type == "ConstantOfShape":
            filled = node.attributes.get("value")
            return np.zeros((), np.float32) if filled is None else self._element(filled)
        if node.op_type in MOVING:
            value = self.scalar(node.input(0), reach - 1)
            elem_type = self.type(name).elem_type or ElementType.FLOAT
            dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
            return None if value is None else np.asarray(value).astype(dtype)
        if node.op_type in ARITHMETIC:
            elem_type = self.type(name).elem_type
            if elem_type not in FLOAT_TYPES:
                return None
            found = [self.scalar(operand, reach - 1) for operand in node.inputs]
            operands = [operand for operand in found if operand is not None]
            if len(operands) < len(found):
                return None
            try:
                value = np.asarray(ARITHMETIC[node.op_type](operands))
            except (ArithmeticError, ValueError):
                # 1 / 0, the root of -1: a number that no norm has.
                return None
            # In 16 bits it may be rounded, and so be another number.
            narrow = elem_type in HALF_TYPES
            return value if not narrow or holds(elem_type, value) else None
        if node.op_type in EXTENTS:
            values = self._extents.of(name)
            if values and len(values) == 1 and isinstance(values[0], int):
                return np.asarray(values[0])
        return None

    def _element(self, tensor: onnx.TensorProto) -> NDArray[Any] | None:
        """The number in a constant of one element."""
        single = math.prod(tensor.dims) == 1
        return self.model.read(tensor).reshape(()) if single else None

    def _given(self, name: str) -> Iterator[tuple[GraphView, str]]:
        """What each call of this function hands in for an input, '' when it is left out."""
        position = self.inputs.index(name)
        for view, call in self._callers:
            yield view, call.input[position] if position < len(call.input) else ""

    def _constant_given(self, name: str) -> onnx.TensorProto | None:
        """A small constant that every call hands in alike."""
        found = [view.constant(actual) if actual else None for view, actual in self._given(name)]
        first = found[0]
        if first is None or is_external(first) or first.ByteSize() > SMALL:
            return None
        return first if all(other is not None and equal(first, other) for other in found) else None

    def _shapes_given(self) -> Iterator[onnx.TensorProto]:
        """The constants that every call hands in alike, under the names that they have here."""
        for name in self.inputs if self._callers else ():
            given = self._constant_given(name)
            if given is not None:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(given)
                tensor.name = name
                yield tensor

    def _number_given(self, name: str, reach: int) -> NDArray[Any] | None:
        """A number that every call hands in alike."""
        numbers = [view.scalar(actual, reach) for view, actual in self._given(name) if actual]
        alike = len(numbers) == len(self._callers) and len(set(numbers)) == 1
        return np.asarray(numbers[0]) if alike and numbers[0] is not None else None

    def shape_value(self, name: str) -> tuple[Dim, ...] | None:
        """The entries of a tensor that is a shape, as far as they are known."""
        values = self._extents.of(name) if name else None
        return None if values is None else tuple(values)

    @cached_property
    def _extents(self) -> ShapeValues:
        return ShapeValues(
            self.scope.nodes,
            [*self.scope.initializers, *self._shapes_given()],
            () if self._callers else self.inputs,
            self._inferred,
            self.outer._extents if self.outer is not None else None,
        )

    def integers(self, name: str) -> tuple[int, ...] | None:
        """The values of a small integer tensor that is computed from constants, flat: axes."""
        value = Computed(self._small, self._maker, default_opset(self.model.proto)).of(name)
        if value is None or value.dtype.name not in ("int32", "int64"):
            return None
        return tuple(int(each) for each in value.reshape(-1))

    def _small(self, name: str) -> NDArray[Any] | None:
        """The value of a small constant."""
        tensor = self.constant(name)
        small = tensor is not None and math.prod(tensor.dims) <= LARGEST_CONSTANT
        return self.model.read(tensor) if tensor is not None and small else None

    def _maker(self, name: str) -> onnx.NodeProto | None:
        node = self.home(name).producer(name)
        return node.source if node is not None and node.standard else None

    def is_weight(self, name: str) -> bool:
        """Whether a tensor can be a parameter: an initializer, or computed from such alone.

        Initializers that an input can override count. Activations do not, whatever their shape:
        so no parameter can depend on a sum.
        """
        return name in self.home(name)._weights

    @cached_property
    def _weights(self) -> set[str]:
        known = set(self._own_weights)
        for name in self.inputs if self._callers else ():
            if all(actual and view.is_weight(actual) for view, actual in self._given(name)):
                known.add(name)
        for node in self.nodes:
            constant = node.op_type == "Constant" and node.standard
            derived = bool(node.inputs) and all(
                not n or n in known or (n not in self._own_names and self.is_weight(n))
                for n in node.inputs
            )
            if (constant or derived) and not any(subgraphs(node.source)):
                known.update(name for name in node.outputs if name)
        return known

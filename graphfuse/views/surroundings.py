"""The nodes around a place of a graph, drawn: as boxes, and wires between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import onnx

from graphfuse.graph.nodes import constant_value
from graphfuse.graph.scopes import bodies, find, function_key
from graphfuse.graph.tensors import (
    DEFAULT_DOMAINS,
    AnyGraph,
    is_external,
    read_names,
    value_names,
)
from graphfuse.records import ScopeRef
from graphfuse.records.drawings import Box, BoxKind, Diagram, Fate, Wire

MOST_BOXES = 60
"""Nodes of one drawing; a larger one shows nothing to anybody."""
MOST_READERS = 3
"""Readers of one tensor that are drawn; of more, one less and how many more there are."""

Label = Callable[[str], str]
"""The type and shape of a tensor, in words."""
NodeKey = tuple[str, str, tuple[str, ...]]


class Places:
    """One graph as its file has it: which node makes and which read a tensor, by their indices."""

    def __init__(self, graph: AnyGraph) -> None:
        self.graph = graph
        self.makers: dict[str, int] = {}
        self.readers: dict[str, list[int]] = {}
        for index, node in enumerate(graph.node):
            self.makers.update((name, index) for name in node.output if name)
            for name in read_names(node):
                self.readers.setdefault(name, []).append(index)
        self.outputs = frozenset(value_names(graph.output))
        weights = () if isinstance(graph, onnx.FunctionProto) else graph.initializer
        self._weights = {tensor.name: tensor for tensor in weights}
        self.names = {*self.makers, *self.readers, *self._weights, *value_names(graph.input)}
        self.keys = {node_key(node) for node in graph.node}

    def constant(self, name: str) -> str | None:
        """A constant in words: the number where it is one, else its name and extents."""
        tensor = self._weights.get(name)
        if tensor is None:
            maker = self.makers.get(name)
            if maker is None or self.graph.node[maker].op_type != "Constant":
                return None
            tensor = constant_value(self.graph.node[maker])
        if tensor is None:
            return name
        one = not is_external(tensor) and all(extent == 1 for extent in tensor.dims)
        if one and tensor.data_type != onnx.TensorProto.STRING:
            return f"{onnx.numpy_helper.to_array(tensor).reshape(-1)[0]:.6g}"
        return f"{name} [{', '.join(map(str, tensor.dims))}]"


def node_key(node: onnx.NodeProto) -> NodeKey:
    """What tells the nodes of one graph apart in two versions of it."""
    return node.op_type, node.domain, tuple(node.output)


def counterpart(before: onnx.ModelProto, after: onnx.ModelProto, ref: ScopeRef) -> AnyGraph | None:
    """The graph of a rewritten model that a graph of the model became; None where it is gone."""
    old: AnyGraph = before.graph
    new: AnyGraph | None = after.graph
    if ref.function is not None:
        old = before.functions[ref.function]
        key = function_key(old)
        new = next((each for each in after.functions if function_key(each) == key), None)
    for index, name, number in ref.steps:
        if new is None:
            return None
        outputs = list(old.node[index].output)
        owner = next((node for node in new.node if list(node.output) == outputs), None)
        old = next(g for n, k, g in bodies(old.node[index]) if (n, k) == (name, number))
        found = () if owner is None else bodies(owner)
        new = next((g for n, k, g in found if (n, k) == (name, number)), None)
    return new


def came(before: Places, after: Places, outputs: Collection[str]) -> set[int]:
    """The nodes of a rewritten graph that compute `outputs` and were not there before."""
    found: set[int] = set()
    ahead = list(outputs)
    while ahead:
        index = after.makers.get(ahead.pop())
        if index is None or index in found:
            continue
        node = after.graph.node[index]
        if node_key(node) not in before.keys:
            found.add(index)
            # What the model had already is another place's.
            ahead += [name for name in node.input if name not in before.names or name in outputs]
    return found


def between(places: Places, first: int, last: int) -> set[int]:
    """Two nodes, and those on the ways from the first to the last where these are short."""
    reached: dict[int, set[int]] = {first: set()}
    ahead = [first]
    while ahead and len(reached) < MOST_BOXES:
        here = ahead.pop(0)
        for name in places.graph.node[here].output:
            for reader in places.readers.get(name, ()):
                if reader not in reached:
                    ahead.append(reader)
                reached.setdefault(reader, set()).add(here)
    found, back = {first, last}, [last]
    while back:
        for index in reached.get(back.pop(), ()):
            if index not in found:
                found.add(index)
                back.append(index)
    return found


def draw(places: Places, parts: Mapping[int, Fate], label: Label) -> Diagram | None:
    """Some nodes of a graph, each with what becomes of it, and what stands around them.

    None where that is more than anybody could read.
    """
    if len(parts) > MOST_BOXES:
        return None
    return _Draughtsman(places, parts, label).drawing()


class _Draughtsman:
    """Boxes and wires, each once."""

    def __init__(self, places: Places, parts: Mapping[int, Fate], label: Label) -> None:
        self._places, self._parts, self._label = places, parts, label
        self._boxes: list[Box] = []
        self._numbers: dict[object, int] = {}
        self._wires: dict[tuple[str, int, int], Wire] = {}

    def drawing(self) -> Diagram:
        """What computes the operands first, then the nodes, then those that read their results."""
        nodes = self._places.graph.node
        for index in sorted(self._parts):
            for name in nodes[index].input:
                self._operand(name, index)
        for index in sorted(self._parts):
            self._node(index)
            for name in nodes[index].output:
                if name:
                    self._result(name, index)
        return Diagram(tuple(self._boxes), tuple(self._wires.values()))

    def _operand(self, name: str, reader: int) -> None:
        if not name or self._places.constant(name) is not None:
            return
        maker = self._places.makers.get(name)
        source = (
            self._box(name, Box(BoxKind.INPUT, "", name, Fate.STAYS))
            if maker is None
            else self._node(maker)
        )
        self._wire(name, source, self._node(reader))

    def _result(self, name: str, maker: int) -> None:
        readers = self._places.readers.get(name, [])
        outside = [index for index in readers if index not in self._numbers]
        shown = MOST_READERS if len(outside) <= MOST_READERS else MOST_READERS - 1
        source = self._node(maker)
        for index in readers:
            if index in self._numbers or index in outside[:shown]:
                self._wire(name, source, self._node(index))
        if len(outside) > shown:
            more = Box(BoxKind.MORE, "", f"{len(outside) - shown} more", Fate.STAYS)
            self._wire(name, source, self._box(("more", name), more))
        if name in self._places.outputs:
            target = self._box(("output", name), Box(BoxKind.OUTPUT, "", name, Fate.STAYS))
            self._wire(name, source, target)

    def _node(self, index: int) -> int:
        node = self._places.graph.node[index]
        known = node.domain in DEFAULT_DOMAINS
        operator = node.op_type if known else f"{node.domain}::{node.op_type}"
        fate = self._parts.get(index)
        constants = () if fate is None else tuple(self._constants(node.input))
        return self._box(
            index, Box(BoxKind.NODE, operator, node.name, fate or Fate.STAYS, constants)
        )

    def _constants(self, names: Iterable[str]) -> Iterable[str]:
        found = (self._places.constant(name) for name in names if name)
        return (text for text in found if text is not None)

    def _box(self, key: object, box: Box) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self._boxes)
            self._boxes.append(box)
        return self._numbers[key]

    def _wire(self, name: str, source: int, target: int) -> None:
        self._wires[name, source, target] = Wire(name, source, target, self._label(name))


def places_of(model: onnx.ModelProto, ref: ScopeRef) -> Places:
    """The graph that a reference means."""
    return Places(find(model, ref))

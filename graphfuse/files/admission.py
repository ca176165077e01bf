"""The gate: what is refused of a model that somebody else made, before anything else reads it.

Every tensor is looked at, wherever it hides; budgets bound what any later stage has to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from graphfuse.errors import ModelError
from graphfuse.files.folder import Folder, LocationError
from graphfuse.files.limits import Limits
from graphfuse.files.wire import is_inline
from graphfuse.graph.scopes import FunctionKey, callees_first, function_key
from graphfuse.graph.tensors import is_external
from graphfuse.records.element_types import ElementType

KEYS = frozenset(("location", "offset", "length", "checksum"))

DATA_FIELDS = (
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
)

TRUST = "get the model with its weight files from a source that you trust"
WAYS = {
    "link": "copy the file in place of the link, or pass --allow-links for a model that you trust",
    "cannot be read": "fetch or export the model again with its weight files beside it",
    "which has": "fetch the weight files again: one is cut short, or of another model",
}


@dataclass(frozen=True, slots=True)
class _Where:
    """A place in a model, said from the inside outwards."""

    text: str
    around: _Where | None = None

    def __str__(self) -> str:
        parts: list[str] = []
        place: _Where | None = self
        while place is not None:
            parts.append(place.text)
            place = place.around
        return " of ".join(parts)


def tensor_bytes(tensor: TensorProto) -> int:
    """The bytes that a tensor's elements take in a file. Raises LocationError for none or 2^63."""
    bits = ElementType(tensor.data_type).bits
    if not bits:
        raise LocationError(f"element type {tensor.data_type} has no size")
    extents = list(tensor.dims)
    if any(extent < 0 for extent in extents):
        raise LocationError(f"negative extent in {str(extents)[:120]}")
    elements = 0 if 0 in extents else 1
    for extent in extents if elements else ():
        elements *= extent
        if elements * bits >= 2**66:
            raise LocationError("its shape has more than 2^63 bytes")
    return (elements * bits + 7) // 8


def check(model: onnx.ModelProto, folder: Folder, limits: Limits) -> None:
    """Refuse a model that is over a budget, or whose external data is not what it should be.

    Raises ModelError with what, where, why, and what to do.
    """
    walk = _Walk(folder, limits)
    walk.graph(model.graph, None)
    for function in model.functions:
        place = _Where(f"function {function.domain}::{function.name}"[:120])
        walk.function(function, place)
    for number, training in enumerate(model.training_info):
        place = _Where(f"training_info {number}")
        walk.graph(training.initialization, _Where("initialization", place))
        walk.graph(training.algorithm, _Where("algorithm", place))
    for entry in model.opset_import:
        walk.names((entry.domain,))
    _check_expansion(model, limits)


@dataclass
class _Walk:
    """Everything in a model that can hold a tensor or a name, once."""

    folder: Folder
    limits: Limits
    count: int = 0
    name_bytes: int = 0
    seen: set[str] = field(default_factory=set[str])

    def graph(self, graph: GraphProto, place: _Where | None) -> None:
        values = (*graph.input, *graph.output, *graph.value_info)
        self.names([graph.name, *(value.name for value in values)])
        for note in graph.quantization_annotation:
            self.names((note.tensor_name,))
        for tensor in graph.initializer:
            self.tensor(tensor, "initializer", place)
        for sparse in graph.sparse_initializer:
            self.tensor(sparse.values, "values of a sparse initializer", place)
            self.tensor(sparse.indices, "indices of a sparse initializer", place)
        self.nodes(graph.node, place)

    def function(self, function: FunctionProto, place: _Where) -> None:
        values = (value.name for value in function.value_info)
        self.names((function.name, function.domain, function.overload, *values))
        self.names((*function.input, *function.output, *function.attribute))
        self.attributes(function.attribute_proto, place)
        self.nodes(function.node, place)

    def nodes(self, nodes: Iterable[NodeProto], place: _Where | None) -> None:
        for node in nodes:
            self.count += 1
            if self.count > self.limits.nodes:
                raise _over("nodes", self.limits.nodes, "--max-nodes")
            self.names((node.name, node.op_type, node.domain, *node.input, *node.output))
            if node.attribute:
                named = f"{node.op_type} {node.name!r}" if node.name else node.op_type
                self.attributes(node.attribute, _Where(named[:120], place))

    def attributes(self, attributes: Iterable[AttributeProto], place: _Where) -> None:
        for attribute in attributes:
            self.names((attribute.name, attribute.ref_attr_name))
            if attribute.HasField("t"):
                self.tensor(attribute.t, f"attribute {attribute.name!r}", place)
            if attribute.HasField("g"):
                self.graph(attribute.g, _Where(attribute.name, place))
            if attribute.HasField("sparse_tensor"):
                self.sparse(attribute, attribute.sparse_tensor, place)
            for tensor in attribute.tensors:
                self.tensor(tensor, f"attribute {attribute.name!r}", place)
            for sparse in attribute.sparse_tensors:
                self.sparse(attribute, sparse, place)
            for graph in attribute.graphs:
                self.graph(graph, _Where(attribute.name, place))

    def sparse(
        self, attribute: AttributeProto, sparse: onnx.SparseTensorProto, place: _Where
    ) -> None:
        self.tensor(sparse.values, f"values of attribute {attribute.name!r}", place)
        self.tensor(sparse.indices, f"indices of attribute {attribute.name!r}", place)

    def names(self, names: Iterable[str]) -> None:
        for name in names:
            # Protobuf gives bytes for a string that is no UTF-8.
            if isinstance(name, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ModelError(
                    f"the name {name[:60]!r} in the model is not UTF-8", "export the model again"
                )
            self.name_bytes += len(name)
        if self.name_bytes > self.limits.name_bytes:
            raise _over("bytes of names", self.limits.name_bytes, "--max-names-mib")

    def tensor(self, tensor: TensorProto, kind: str, around: _Where | None) -> None:
        self.names((tensor.name,))
        if not is_external(tensor):
            return
        try:
            self._check_external(tensor)
        except LocationError as error:
            place = _Where(kind, around)
            what = "inline" if is_inline(tensor) else "external"
            raise ModelError(
                f"{what} data of tensor {tensor.name[:120]!r} ({place}): {error}", _way(str(error))
            ) from error

    def _check_external(self, tensor: TensorProto) -> None:
        keys = [entry.key for entry in tensor.external_data]
        unknown = [key for key in keys if key not in KEYS]
        if unknown:
            raise LocationError(f"unknown entry {unknown[0][:60]!r}")
        for key in KEYS:
            if keys.count(key) > 1 or (key == "location" and key not in keys):
                raise LocationError(f"it has {keys.count(key)} entries {key!r}, not one")
        if any(len(getattr(tensor, name)) for name in DATA_FIELDS):
            raise LocationError("it has data of its own as well")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if any(isinstance(value, bytes) for value in entries.values()):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocationError("an entry is not UTF-8")
        offset = _number(entries, "offset")
        length = _number(entries, "length")
        needed = tensor_bytes(tensor)
        if length is not None and length != needed:
            raise LocationError(f"length {length} where its shape needs {needed} bytes")
        if is_inline(tensor):
            return
        status = self.folder.status(entries["location"])
        end = (offset or 0) + needed
        if end > status.st_size:
            raise LocationError(
                f"bytes {offset or 0} to {end} of {entries['location'][:120]}, "
                f"which has {status.st_size}"
            )


def _number(entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63):
        raise LocationError(f"{key} {text[:60]!r} is not a number below 2^63")
    return int(text)


def _way(problem: str) -> str:
    return next((way for word, way in WAYS.items() if word in problem), TRUST)


def _over(what: str, limit: int, option: str) -> ModelError:
    return ModelError(
        f"the model has more than {limit:,} {what}",
        f"pass a larger {option} if you trust the model",
    )


def _check_expansion(model: onnx.ModelProto, limits: Limits) -> None:
    """Count the nodes of a model whose calls are all replaced by what they call.

    Functions that call each other in a circle are no runtime's; they count as they are.
    """
    if not model.functions:
        return
    index = {function_key(function): n for n, function in enumerate(model.functions)}
    found = [_calls(function.node, index) for function in model.functions]
    sizes: dict[int, int] = {}
    for number in callees_first([calls for _, calls in found]):
        own, calls = found[number]
        sizes[number] = own + sum(sizes.get(callee, 0) for callee in calls)
    own, calls = _calls(model.graph.node, index)
    total = own + sum(sizes.get(callee, 0) for callee in calls)
    if max(total, *sizes.values(), 0) > limits.expanded_nodes:
        raise _over(
            "nodes when its functions are expanded", limits.expanded_nodes, "--max-expanded-nodes"
        )


def _calls(nodes: Iterable[NodeProto], index: dict[FunctionKey, int]) -> tuple[int, list[int]]:
    """How many nodes there are, those of bodies included, and which functions they call."""
    count, calls = 0, list[int]()
    for node in nodes:
        count += 1
        callee = index.get(function_key(node))
        if callee is not None:
            calls.append(callee)
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.HasField("g") else []
            for body in (*bodies, *attribute.graphs):
                inner, more = _calls(body.node, index)
                count += inner
                calls += more
    return count, calls

"""What a comparison on drawn numbers does not show, though it agrees.

The same operators with another constant or attribute compute something else for some numbers: where
those that were drawn do not expose it (a bound of 100 and of 10,000, a row of a table that nobody
asked for), nothing is shown. Casts between float types are lifted, so what they round is not seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphfuse.files.model_file import Model
from graphfuse.graph.tensors import upcast
from graphfuse.records.element_types import FLOAT_TYPES, HALF_TYPES, ElementType
from graphfuse.validation.lifting import dense
from graphfuse.validation.lockstep import same_tensor
from graphfuse.views.cutting import Part, Parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

SMALL_CONSTANT = 2**16
"""Elements of a weight whose values are compared where all weights are not."""

PASSES_ON = frozenset(("Identity", "Constant"))
"""Operators that compute nothing."""

STRUCTURAL = frozenset(("axis", "axes"))
"""Attributes that say which axis: of distinct extents and a known rank, numbers show it."""

TYPE_ATTRIBUTES = frozenset(("to", "stash_type", "softmax_precision", "dtype"))
"""Attributes that name a type, which is lifted."""


class Alike:
    """Whether the weights that nodes read are the same in both models."""

    def __init__(self, before: Parts, after: Parts, all_weights: bool) -> None:
        self._before, self._after, self._all = before, after, all_weights
        self._known: dict[str, bool] = {}

    def weights(self, node: onnx.NodeProto) -> bool:
        """The weights that a node reads itself; those in its bodies are read there."""
        return all(self.same(name) for name in node.input if name)

    def same(self, name: str) -> bool:
        """Whether a tensor is the same weight in both, or in neither one."""
        if name not in self._known:
            self._known[name] = self._same_dense(name) and self._same_sparse(name)
        return self._known[name]

    def _same_dense(self, name: str) -> bool:
        mine, other = self._before.weight(name), self._after.weight(name)
        if mine is None or other is None:
            return mine is other
        return self.same_values(mine, other)

    def same_values(self, mine: TensorProto, other: TensorProto) -> bool:
        """Whether two weights have one type, shape and values; only small ones are read."""
        models = self._before.model, self._after.model
        small = self._all or math.prod(mine.dims) <= SMALL_CONSTANT
        same_kind = mine.data_type == other.data_type and mine.dims == other.dims
        return same_kind and (not small or same_tensor(*models, mine, other))

    def _same_sparse(self, name: str) -> bool:
        mine, other = self._before.sparse(name), self._after.sparse(name)
        if mine is None or other is None:
            return mine is other
        if mine == other:
            return True
        return np.array_equal(dense(mine), dense(other), equal_nan=True)


def same_node(before: Model, after: Model, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Whether two nodes say the same, but for names of nodes, documentation and bodies."""
    same = _operator(one) == _operator(other) and one.overload == other.overload
    same = same and one.input == other.input and one.output == other.output
    if not same or _attributes(one) != _attributes(other):
        return False
    # One number has many encodings, and what is equal may be external data of two folders.
    mine = {a.name: a for a in one.attribute}
    return all(
        same_tensor(before, after, *pair)
        for a in other.attribute
        for pair in zip(_tensors(mine[a.name]), _tensors(a), strict=True)
    )


def _tensors(attribute: onnx.AttributeProto) -> list[TensorProto]:
    return [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]


def _operator(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """What attributes say; of bodies, which are graphs of their own, and of tensors their kind."""
    found: dict[str, Any] = {}
    for a in node.attribute:
        kinds = [(tensor.data_type, tuple(tensor.dims)) for tensor in _tensors(a)]
        if a.HasField("g") or a.graphs:
            found[a.name] = (a.type, len(a.graphs))
        else:
            found[a.name] = (a.type, kinds) if kinds else a
    return found


def operators(part: Part) -> Counter[tuple[str, str]]:
    """The operators of a part, those that compute nothing aside."""
    found = map(_operator, part.model.proto.graph.node)
    return Counter(each for each in found if each[1] not in PASSES_ON)


def unexposed(before: Part, after: Part, alike: Alike) -> str:
    """Why it shows nothing that two parts agree on drawn numbers; '' where it does.

    What reads no activation has one value, and that was compared.
    """
    if not (before.reads or after.reads) or operators(before) != operators(after):
        return ""
    one, other = (Counter(_settings(part)) for part in (before, after))
    more = [name for _, name, _ in (other - one)] or [name for _, name, _ in (one - other)]
    if more:
        return f"the original has another {more[0]}, and no numbers that were drawn show it"
    name = _other_constant(before, after, alike)
    if name:
        return f"the constant {name!r} is another one, and no numbers that were drawn show it"
    return ""


def other_settings(
    before: Parts, after: Parts, one: onnx.NodeProto, other: onnx.NodeProto, alike: Alike
) -> str:
    """The same of two nodes that cannot be cut out: bodies aside, which are compared as graphs."""
    if _operator(one) != _operator(other):
        return ""
    old, new = (
        Counter(_settings_of([node], parts.model))
        for node, parts in ((one, before), (other, after))
    )
    for _, name, _ in (*(new - old), *(old - new)):
        return f"the original has another {name}, and no run that agrees shows it"
    for names in zip(one.input, other.input, strict=False):
        mine, its = before.weight(names[0]), after.weight(names[1])
        if mine is None or its is None or alike.same_values(mine, its):
            continue
        if _value(before.model, mine) != _value(after.model, its):
            return f"the constant {names[1]!r} is another one, and no run that agrees shows it"
    return ""


def _settings(part: Part) -> Iterable[tuple[tuple[str, str], str, bytes]]:
    return _settings_of(part.model.proto.graph.node, part.model)


def _settings_of(
    nodes: Iterable[onnx.NodeProto], model: Model
) -> Iterator[tuple[tuple[str, str], str, bytes]]:
    """What the attributes of nodes say, bodies and defaults left out."""
    versions = {entry.domain: entry.version for entry in model.proto.opset_import}
    for node in nodes:
        if node.op_type in PASSES_ON:
            continue
        defaults = _defaults(node, versions.get(node.domain, 1))
        for attribute in node.attribute:
            if attribute.name in STRUCTURAL or attribute.name in TYPE_ATTRIBUTES:
                continue
            if attribute.HasField("g") or attribute.graphs:
                continue
            value = onnx.AttributeProto()
            value.CopyFrom(attribute)
            value.ClearField("doc_string")
            text = value.SerializeToString(deterministic=True)
            if text != defaults.get(attribute.name):
                yield _operator(node), attribute.name, text


def _defaults(node: onnx.NodeProto, version: int) -> dict[str, bytes]:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return {}
    return {
        name: attribute.default_value.SerializeToString(deterministic=True)
        for name, attribute in schema.attributes.items()
    }


def _other_constant(before: Part, after: Part, alike: Alike) -> str:
    """A constant of the second part that the first one has not; '' where they have the same."""
    mine, its = _constants(before), _constants(after)
    for name in mine.keys() & its.keys():
        one, other = mine[name], its[name]
        if isinstance(one, TensorProto) and isinstance(other, TensorProto):
            same = alike.same_values(one, other)
        else:
            same = isinstance(one, onnx.SparseTensorProto) and one == other
        if same:
            del mine[name], its[name]
    values = {name: _value(before.model, tensor) for name, tensor in mine.items()}
    there = Counter(values.values())
    for name, tensor in its.items():
        value = _value(after.model, tensor)
        if not there[value]:
            return name
        there[value] -= 1
    return next((name for name, value in values.items() if there[value]), "")


def _constants(part: Part) -> dict[str, TensorProto | onnx.SparseTensorProto | Array]:
    """The weights and the Constant nodes of a part, by name."""
    graph = part.model.proto.graph
    found: dict[str, TensorProto | onnx.SparseTensorProto | Array] = {}
    found.update((tensor.name, tensor) for tensor in graph.initializer)
    found.update((sparse.values.name, sparse) for sparse in graph.sparse_initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute:
            attribute = node.attribute[0]
            value = helper.get_attribute_value(attribute)
            is_tensor = isinstance(value, TensorProto | onnx.SparseTensorProto)
            found[node.output[0]] = value if is_tensor else np.asarray(value)
    return found


def _value(model: Model, constant: TensorProto | onnx.SparseTensorProto | Array) -> bytes:
    """The numbers of a constant, whatever their type and shape."""
    if isinstance(constant, TensorProto):
        array = model.read(constant)
    elif isinstance(constant, onnx.SparseTensorProto):
        array = dense(constant)
    else:
        array = constant
    array = upcast(array)
    return (array.astype(np.float64) if array.dtype.kind in "biu" else array).tobytes()


def casts(part: Part, parts: Parts, narrowest: ElementType) -> Counter[str]:
    """What a part rounds to, or computes in, that float64 does not see.

    Constants that are single numbers are rounded there too. What holds the type `narrowest`, where
    one is given, does not count.
    """
    graph = part.model.proto.graph
    constant = {tensor.name for tensor in graph.initializer}
    found: Counter[str] = Counter()
    for node in graph.node:
        fixed = all(name in constant for name in node.input)
        if fixed:
            constant.update(node.output)
        if node.op_type not in ("Cast", "CastLike"):
            kinds = [a for a in node.attribute if a.name in ("stash_type", "softmax_precision")]
            types = [(a.name, ElementType(a.i)) for a in kinds if not narrowest.widens(a.i)]
            found.update(f"{name} {stated.text}" for name, stated in types)
            continue
        source, target = parts.type(node.input[0]).elem_type, _target(node, parts)
        single = fixed and math.prod(_extents(parts, node.input[0])) == 1
        if not single and _rounds(source, target, fixed) and not narrowest.widens(target):
            found[f"cast to {target.text}"] += 1
    return found


def _extents(parts: Parts, name: str) -> tuple[int, ...]:
    shape = parts.type(name).shape
    known = () if shape is None else tuple(dim for dim in shape if isinstance(dim, int))
    return known if shape is not None and len(known) == len(shape) else (0,)


def _target(node: onnx.NodeProto, parts: Parts) -> ElementType:
    named = next((a.i for a in node.attribute if a.name == "to"), 0)
    return ElementType(named) or parts.type(node.output[0]).elem_type


def _rounds(source: ElementType, target: ElementType, fixed: bool) -> bool:
    """Whether a cast changes what is computed: to a float type from another one."""
    if target not in FLOAT_TYPES or source == target:
        return False
    if source and source not in FLOAT_TYPES:
        narrow = target in HALF_TYPES
        return narrow and source != ElementType.BOOL and not fixed
    return not (fixed and source.widens(target))

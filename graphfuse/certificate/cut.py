"""A site in both models: what stands between the tensors that both know by the same names.

The operands of the fused node, or what they are computed from, are in the original, and so are its
outputs, or what is computed from them. Between those the original has its own nodes, the other
model the fused node.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from graphfuse.certificate.calls import Calls
from graphfuse.certificate.values import LARGEST, Attributes, ExactValue, UnknownError, stored
from graphfuse.files.model_file import Model
from graphfuse.graph.tensors import read_names, value_names
from graphfuse.records import Dim
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.views.cutting import Parts
from graphfuse.views.fused_nodes import FusedNode

FARTHEST = 64
"""Nodes between a fused node and the next tensors that both models have."""

Dims = tuple[Dim, ...]


class UnpairedError(Exception):
    """A fused node that cannot be paired with nodes of the original; the text says why."""


@dataclass(frozen=True)
class Side:
    """One model's part of a site. `bound` are the attributes of the function around it, if any."""

    part: Model
    bound: Attributes
    given: Mapping[str, ExactValue]
    """Inputs of the function around it that are the same stored tensor in each call."""

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes that compute something."""
        return [node for node in self.part.proto.graph.node if node.op_type != "Constant"]


@dataclass(frozen=True)
class Cut:
    """A site: `a` and `b` are the operands' names, with `shapes`; `outputs` what is compared.

    `letters` are the vectors that both models hold alike, with their types and shapes: what holds
    for any numbers in them holds for all sites that are alike otherwise. `targets` are shapes that
    are computed elsewhere in both models, with what is known of the tensors that get them.
    """

    site: FusedNode
    before: Side
    after: Side
    a: str
    b: str
    shapes: tuple[Dims, Dims]
    outputs: tuple[str, ...]
    letters: Mapping[str, tuple[int, tuple[int, ...]]]
    targets: Mapping[str, Dims]

    @property
    def notation(self) -> str:
        """The original's operators, in its order."""
        return " ".join(node.op_type for node in self.before.nodes)

    def likeness(self, drawn: bool) -> str:
        """What a result depends on: cuts that have it in common are evaluated once.

        `drawn`: the letters are, so they do not count.
        """
        names: dict[str, str] = {"": "", self.a: "a", self.b: "b"}
        if self.a == self.b:
            names[self.a] = "ab"
        if drawn:
            names |= {name: f"letter {at}" for at, name in enumerate(self.letters)}
        parts = [_canonical(side, names) for side in (self.before, self.after)]
        site, outputs = self.site, [names[each] for each in self.outputs]
        shapes = _extents((*self.shapes, *self.targets.values()))
        given = [names.get(each, "") for each in self.targets]
        rest = (shapes, given, site.elem_type, site.extents, outputs)
        vectors = list(self.letters.values()) if drawn else []
        return hashlib.sha256(repr((parts, rest, vectors)).encode()).hexdigest()


@dataclass(frozen=True)
class Pair:
    """The graphs of both models that a site stands in, and what calls say in each."""

    before: Parts
    after: Parts
    calls: tuple[Calls, Calls]


def cut(pair: Pair, site: FusedNode) -> Cut:
    """Cut a site out of both models. Raises UnpairedError, UnknownError."""
    roles = site.roles
    a, b = (_operand(pair, roles[role]) for role in ("A", "B"))
    outputs = _outputs(pair, site.node)
    names = {a, b}
    vectors = {roles[role] for role in ("Scale", "Bias", "AddBias") if role in roles}
    shared = {
        name for name in vectors if pair.before.computes(name) and pair.after.computes(name)
    } - _constants(pair, vectors)
    targets = _targets(pair, outputs, names)
    sides = (
        _sides(pair, site, outputs, names)
        or _sides(pair, site, outputs, names | targets.keys())
        or _sides(pair, site, outputs, names | targets.keys() | shared)
    )
    if sides is None:
        raise UnpairedError(
            f"the original's {outputs[0]!r} is computed from more than the fused node reads"
        )
    parts = [side.part for side in sides]
    letters = _letters(pair, parts[0], parts[1], {a, b})
    for name in sorted(shared & _read(parts[0]) & _read(parts[1])):
        if name in value_names(parts[0].proto.graph.input):
            letters[name] = (site.parameter_type, site.extents)
    first, second = (_filled(pair, site, side, at) for at, side in enumerate(sides))
    formal = [name for name in first if name not in letters and name in second]
    for name in formal:
        one, other = first[name], second[name]
        if one is None or other is None:
            letters[name] = _alike(pair, site, name)
    done = [
        Side(part, side.bound, {k: v for k, v in found.items() if v is not None})
        for part, side, found in zip(parts, sides, (first, second), strict=True)
    ]
    shapes = (_shape(pair, a, site.a_shape), _shape(pair, b, site.b_shape))
    given = set(value_names(parts[0].proto.graph.input))
    kept = {name: dims for name, dims in targets.items() if name in given}
    return Cut(site, done[0], done[1], a, b, shapes, outputs, letters, kept)


def _targets(pair: Pair, outputs: tuple[str, ...], cuts: set[str]) -> dict[str, Dims]:
    """The shapes, computed elsewhere, that Reshape and Expand of a site give; and what they are.

    Both models have them, so only that they are the same counts: numbers that fit are put there.
    """
    found: dict[str, Dims] = {}
    for parts in (pair.before, pair.after):
        pending, seen = list(outputs), set(cuts)
        while pending and len(seen) < FARTHEST:
            name = pending.pop()
            node = parts.node(name)
            if name in seen or node is None:
                continue
            seen.add(name)
            moves = node.op_type in ("Reshape", "Expand") and len(node.input) > 1
            pending += [n for n in (node.input[:1] if moves else node.input) if n]
            target = node.input[1] if moves else ""
            dims = parts.type(name).shape
            if dims is not None and pair.before.computes(target) and pair.after.computes(target):
                found.setdefault(target, dims)
    return found


def _constants(pair: Pair, names: set[str]) -> set[str]:
    """Those that a Constant computes: they are stored numbers."""
    nodes = {name: pair.before.node(name) for name in names}
    return {name for name, node in nodes.items() if node and node.op_type == "Constant"}


def _operand(pair: Pair, name: str) -> str:
    """The tensor of both models that an operand is, or is the only one that it is made of."""
    for _ in range(FARTHEST):
        if pair.before.knows(name):
            _check_weight(pair, name)
            return name
        node = pair.after.node(name)
        read = [] if node is None else [n for n in node.input if n and pair.after.computes(n)]
        if len(read) != 1:
            break
        name = read[0]
    raise UnpairedError(f"the original has no tensor that the operand {name!r} is made of")


def _check_weight(pair: Pair, name: str) -> None:
    """An operand that is a weight of both models must be the same one."""
    one, other = pair.before.weight(name), pair.after.weight(name)
    if one is not None and other is not None and not _same(pair, one, other):
        raise UnpairedError(f"the operand {name!r} is another weight in the original")


def _outputs(pair: Pair, node: NodeProto) -> tuple[str, ...]:
    """The tensors of both models that the outputs are, or that are computed from them first."""
    found: list[str] = []
    for position, output in enumerate(node.output):
        pending = [output] if output else []
        seen: set[str] = set()
        leads = False
        while pending and len(seen) < FARTHEST:
            name = pending.pop(0)
            if name in seen:
                continue
            seen.add(name)
            if pair.before.node(name) is not None:
                found += [] if name in found else [name]
                leads = True
                continue
            readers = [each for each in pair.after.nodes if name in read_names(each)]
            pending += [each for reader in readers for each in reader.output if each]
        if position == 0 and not leads:
            raise UnpairedError(f"the original computes no {output!r}, nor what is made of it")
        if output and not leads and len(seen) > 1:
            raise UnpairedError(f"the original computes nothing that is made of {output!r}")
    return tuple(found)


def _sides(
    pair: Pair, site: FusedNode, outputs: tuple[str, ...], cuts: set[str]
) -> tuple[Side, Side] | None:
    """Both parts between the cuts and the outputs; inputs of a function around are cuts as well."""
    wanted = NodeProto(output=list(outputs))
    found: list[Side] = []
    for parts, calls in zip((pair.before, pair.after), pair.calls, strict=True):
        function = calls.function(site.scope)
        bound: Attributes = {} if function is None else calls.attributes(function)
        part = parts.behind(wanted, cuts)
        if part is None and function is not None:
            part = parts.behind(wanted, cuts | set(function.input))
        if part is None:
            return None
        found.append(Side(part, bound, {}))
    return found[0], found[1]


def _read(part: Model) -> set[str]:
    return {name for node in part.proto.graph.node for name in node.input if name}


def _letters(
    pair: Pair, before: Model, after: Model, operands: set[str]
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The vectors that both parts read by one name, and that are the same in both files."""
    ours = {tensor.name: tensor for tensor in before.proto.graph.initializer}
    theirs = {tensor.name: tensor for tensor in after.proto.graph.initializer}
    read = _read(before) & _read(after)
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    for node in after.proto.graph.node:
        for name in node.input:
            tensor = ours.get(name)
            if name in operands or name not in read or tensor is None or name not in theirs:
                continue
            is_vector = 1 < math.prod(tensor.dims) <= LARGEST and tensor.data_type in FLOAT_TYPES
            if is_vector and name not in found and _same(pair, tensor, theirs[name]):
                found[name] = (tensor.data_type, tuple(tensor.dims))
    return found


def _same(pair: Pair, one: TensorProto, other: TensorProto) -> bool:
    """Whether two stored tensors are the same numbers."""
    if one.data_type != other.data_type or list(one.dims) != list(other.dims):
        return False
    before, after = pair.before.model, pair.after.model
    if one.external_data and before.folder == after.folder:
        places = [[(e.key, e.value) for e in each.external_data] for each in (one, other)]
        if places[0] == places[1]:
            return True
    return before.read(one).tobytes() == after.read(other).tobytes()


def _filled(pair: Pair, site: FusedNode, side: Side, at: int) -> dict[str, ExactValue | None]:
    """The inputs of a function that a part reads; None for a vector that calls may differ in."""
    parts, calls = (pair.before, pair.after)[at], pair.calls[at]
    function = calls.function(site.scope)
    operands = {_operand(pair, site.roles[role]) for role in ("A", "B")}
    found: dict[str, ExactValue | None] = {}
    if function is None:
        return found
    for name in sorted((_read(side.part) & set(function.input)) - operands):
        tensors = calls.constants(site.scope, name)
        if tensors is None:
            raise UnpairedError(f"it reads {name!r}, which some call computes")
        first = tensors[0]
        is_vector = math.prod(first.dims) > 1 and first.data_type in FLOAT_TYPES
        value = _value(parts.model, first)
        alike = all(each.dims == first.dims for each in tensors[1:]) and (
            is_vector or all(_bytes(parts.model, t) == _bytes(parts.model, first) for t in tensors)
        )
        if not alike:
            raise UnpairedError(f"calls give its function other numbers as {name!r}")
        found[name] = None if is_vector else value
    return found


def _alike(pair: Pair, site: FusedNode, name: str) -> tuple[int, tuple[int, ...]]:
    """The type and shape of a function's input, whose values must be the same in both models."""
    before, after = (calls.constants(site.scope, name) or [] for calls in pair.calls)
    if len(before) != len(after) or not all(
        _same(pair, one, other) for one, other in zip(before, after, strict=True)
    ):
        raise UnpairedError(f"calls give its function another {name!r} in the original")
    return before[0].data_type, tuple(before[0].dims)


def _bytes(model: Model, tensor: TensorProto) -> bytes:
    return model.read(tensor).tobytes()


def _value(model: Model, tensor: TensorProto) -> ExactValue:
    if math.prod(tensor.dims) > LARGEST:
        raise UnknownError(f"tensor {tensor.name!r} of {math.prod(tensor.dims):,} numbers")
    return stored(model.read(tensor), tensor.data_type)


def _shape(pair: Pair, name: str, declared: Dims) -> Dims:
    """What is known of an operand's shape, in either model."""
    found = [parts.type(name).shape for parts in (pair.before, pair.after)]
    weight = pair.before.weight(name)
    if weight is not None:
        return tuple(weight.dims)
    known = [shape for shape in found if shape is not None]
    return max(known, key=lambda shape: sum(isinstance(d, int) for d in shape), default=declared)


def _extents(shapes: Sequence[Dims]) -> object:
    """The operands' extents; of a symbol only where it is the same counts."""
    symbols = list(dict.fromkeys(dim for shape in shapes for dim in shape if isinstance(dim, str)))
    return [
        [f"symbol {symbols.index(dim)}" if isinstance(dim, str) else dim for dim in shape]
        for shape in shapes
    ]


def _canonical(side: Side, names: dict[str, str]) -> object:
    """A part under names that say nothing: tensors by where they first come."""
    weights = {tensor.name: tensor for tensor in side.part.proto.graph.initializer}
    contents: list[object] = []

    def named(name: str) -> str:
        if name not in names:
            names[name] = f"t{len(names)}"
            if name in weights:
                contents.append((names[name], _content(side.part, weights[name])))
            elif name in side.given:
                contents.append((names[name], repr(side.given[name])))
        return names[name]

    nodes: list[object] = []
    for node in side.part.proto.graph.node:
        inputs = [named(name) for name in node.input]
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        outputs = [named(name) for name in node.output]
        nodes.append((node.domain, node.op_type, node.overload, inputs, outputs, attributes))
    bound = sorted((name, str(value)) for name, value in side.bound.items())
    return nodes, contents, bound


def _content(model: Model, tensor: TensorProto) -> object:
    if math.prod(tensor.dims) > LARGEST:
        raise UnknownError(f"tensor {tensor.name!r} of {math.prod(tensor.dims):,} numbers")
    data = model.read(tensor)
    return tensor.data_type, data.shape, hashlib.sha256(data.tobytes()).hexdigest()

"""A decoder's caches among its inputs, and the masks that count past and new tokens together.

Exporters call the extents of a cache what they like (past_sequence_length, kv_len, s53), and those
of a mask too. What is told from the graph is which input is a cache, along which axis it grows, and
which is a mask: the mask is then as long as past and new tokens are, whatever its symbol is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import onnx

from graphfuse.records import Dim, TensorType
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.types.shapes import type_of

CacheShapes = dict[str, tuple[int, ...]]

NAMES = re.compile(r"past|cache|present|kv", re.IGNORECASE)
"""What caches are called."""
LENGTHS = re.compile(r"past|cache|kv|len|seq", re.IGNORECASE)
"""What the extents are called that count tokens."""
SYMBOL = re.compile(r"[^\W\d]\w*")


class Tokens(Enum):
    """How the extents of a model with caches are understood; the first that it runs on is used."""

    DECLARED = ""
    """As the symbols say; a mask with a symbol of its own is over past and new tokens."""
    ALL = "masks over past and new tokens"
    ONE = "one new token, masks over past and new tokens"
    EMPTY = "empty caches"
    """Those that the graph shows, whatever their extents are called: `Sizes.empty` goes by that."""


@dataclass(frozen=True, slots=True)
class Caches:
    """The axes that count past tokens and new ones, by input, and the inputs that are masks."""

    past: Mapping[str, int]
    new: Mapping[str, int]
    masks: tuple[str, ...]
    free: frozenset[str]
    """The masks whose last extent no other input says anything of."""


def symbols_of(dim: Dim) -> set[str]:
    """The symbols in an extent such as 'past + sequence'."""
    return set(SYMBOL.findall(dim)) if isinstance(dim, str) else set()


def find_caches(graph: onnx.GraphProto) -> Caches | None:
    """The caches of a graph, if it has any and takes new tokens beside them."""
    initialized = {tensor.name for tensor in graph.initializer}
    types = {v.name: type_of(v.type) for v in graph.input if v.name not in initialized}
    masks = [name for name, kind in types.items() if _is_mask(name, kind)]
    past = _past(graph, {name: kind for name, kind in types.items() if name not in masks})
    new = _new({n: kind for n, kind in types.items() if n not in masks and n not in past})
    if not past or not new or not masks:
        return None
    known: set[str] = set()
    for name, kind in types.items():
        if name not in masks:
            known = known.union(*map(symbols_of, kind.shape or ()))
    free = frozenset(name for name in masks if _is_free(_last(types[name]), known))
    return Caches(past, new, tuple(masks), free)


def _last(kind: TensorType) -> Dim:
    return kind.shape[-1] if kind.shape else 1


def _is_mask(name: str, kind: TensorType) -> bool:
    if not kind.shape or isinstance(kind.shape[-1], int):
        return False
    return "mask" in name.lower() or any("total" in s for s in symbols_of(kind.shape[-1]))


def _is_free(dim: Dim, known: Collection[str]) -> bool:
    return dim is None or not symbols_of(dim).issubset(known)


def _past(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> dict[str, int]:
    """By input, the axis of past tokens: the one that new ones are joined to, or by its name."""
    found: dict[str, int] = {}
    for node in graph.node:
        kind = types.get(node.input[0]) if node.op_type == "Concat" else None
        if kind is not None and _is_large(kind):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            found[node.input[0]] = axis % len(kind.shape or ())
    for name, kind in types.items():
        if name not in found and NAMES.search(name) and _is_large(kind):
            found[name] = _growing(kind.shape or ())
    return found


def _is_large(kind: TensorType) -> bool:
    return kind.elem_type in FLOAT_TYPES and len(kind.shape or ()) >= 3


def _growing(shape: Sequence[Dim]) -> int:
    """The axis along which a cache most likely grows: [batch, heads, tokens, size] mostly."""
    open_ones = [n for n, dim in enumerate(shape) if n and not isinstance(dim, int)]
    named = [n for n in open_ones if LENGTHS.search(str(shape[n]))]
    return next(iter([*named, *open_ones]), len(shape) - 2)


def _new(types: Mapping[str, TensorType]) -> dict[str, int]:
    """By input, the axis of new tokens: of what has the same extent as the ids, or embeddings."""
    ranks = [(name, kind.shape) for name, kind in types.items() if kind.shape]
    by_rank = sorted(ranks, key=lambda item: {2: 0, 3: 1}.get(len(item[1]), 2))
    first = next((shape for _, shape in by_rank if len(shape) <= 3), None)
    if first is None:
        return {}
    extent = first[min(1, len(first) - 1)]
    return {
        name: axis
        for name, shape in ranks
        for axis in [min(1, len(shape) - 1)]
        if shape[axis] == extent
    }


def settle(
    shapes: CacheShapes, caches: Caches, tokens: Tokens, fixed: Mapping[str, Collection[int]]
) -> CacheShapes:
    """Shapes of all inputs in which masks fit the caches; `fixed` are axes that the user gave."""
    found = {name: list(shape) for name, shape in shapes.items()}

    def put(axes: Mapping[str, int], extent: int) -> None:
        for name, axis in axes.items():
            if axis % len(found[name]) not in fixed.get(name, ()):
                found[name][axis] = extent

    if tokens is Tokens.ONE:
        put(caches.new, 1)
    if tokens is Tokens.EMPTY:
        put(caches.past, 0)
    (past, along), (new, other) = next(iter(caches.past.items())), next(iter(caches.new.items()))
    masks = caches.free if tokens is Tokens.DECLARED else caches.masks
    put(dict.fromkeys(masks, -1), found[past][along] + found[new][other])
    return {name: tuple(shape) for name, shape in found.items()}

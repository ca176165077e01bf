"""Seeded random feeds that a model accepts.

Types and symbolic extents are respected (the same symbol has the same size everywhere), integer
ids stay within the rows of the tables that they index, and masks are ones, but for some padding.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import OriginalModelError, UsageError
from graphfuse.records import Dim
from graphfuse.records.element_types import ElementType
from graphfuse.running.caches import Tokens, settle, symbols_of
from graphfuse.running.inputs import Inputs, inputs_of
from graphfuse.running.joined import past_symbols
from graphfuse.types.shapes import type_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

DEFAULT_ROWS = 100
"""The bound of integer inputs that index no table of the model."""

PADDED = 3
"""Of so many seeds in a row the last draws masks with padding."""

LARGEST_FEED = 2**30
"""The most elements that are drawn for one input."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What unknown extents are drawn as: an input's first, and later ones.

    Later symbols get `step` more each, so that two of them are never taken for one another. With
    `empty` the symbols that count past tokens are 0, in every extent that they are part of and
    whatever else is made of the caches; `Tokens.EMPTY` empties the caches that the graph shows, and
    those alone, where their extents have no such symbols. One cannot stand for the other.
    """

    batch: int = 2
    later: int = 7
    step: int = 0
    empty: bool = False


DEFAULT_SIZES = Sizes()

Ranges = Mapping[str, tuple[float, float]]
"""The least and the largest number to draw for an input; '' stands for every other."""

OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda left, right: left // right,
}


def random_feeds(
    model: onnx.ModelProto | Inputs,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    sizes: Sizes = DEFAULT_SIZES,
    condition: bool | None = None,
    ranges: Ranges | None = None,
    symbols: Mapping[str, int] | None = None,
    tokens: Tokens = Tokens.DECLARED,
) -> dict[str, Array]:
    """One feed for each input of a model, drawn from a seeded generator.

    `shapes` fixes whole inputs by name, `symbols` extents by theirs, and `sizes` what is left.
    `condition` is what single booleans are, which branches are taken by; drawn when it is None.
    `ranges` bounds what is drawn, both ends included. `tokens` is how caches are understood.
    """
    known = model if isinstance(model, Inputs) else Inputs(model)
    inputs = known.values
    bounds = dict(ranges or {})
    check_names(inputs, set(bounds) - {""})
    extents = shapes_of(known, shapes, sizes, symbols, tokens)
    rows = known.rows
    pads = seed % PADDED == PADDED - 1 and not known.has_ring
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in inputs:
        bound = bounds.get(value.name, bounds.get(""))
        array = _draw(value, extents[value.name], rows.get(value.name), bound, rng)
        if pads and bound is None and _is_mask(value, rows):
            _pad(array)
        feeds[value.name] = array
    if condition is not None:
        for value in filter(is_condition, inputs):
            feeds[value.name] = np.full(feeds[value.name].shape, condition)
    return feeds


def shapes_of(
    model: onnx.ModelProto | Inputs,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    sizes: Sizes = DEFAULT_SIZES,
    symbols: Mapping[str, int] | None = None,
    tokens: Tokens = Tokens.DECLARED,
) -> dict[str, tuple[int, ...]]:
    """The shapes that `random_feeds` draws; nothing is allocated. Raises UsageError."""
    facts = model if isinstance(model, Inputs) else Inputs(model)
    inputs, given, named = facts.values, dict(shapes or {}), dict(symbols or {})
    for name, shape in given.items():
        _check_size(name, shape)
    known = {**facts.fixed, **bound(inputs, given, named)}
    if sizes.empty:
        declared = (type_of(value.type).shape or () for value in inputs)
        known = {**dict.fromkeys(past_symbols(declared), 0), **known}
    found = {value.name: _shape(value, given, known, sizes) for value in inputs}
    if facts.caches is None:
        return found
    declared = {value.name: type_of(value.type).shape or () for value in inputs}
    fixed = {
        name: range(len(found[name]))
        if name in given
        else [n for n, dim in enumerate(shape) if isinstance(dim, int) or dim in named]
        for name, shape in declared.items()
    }
    return settle(found, facts.caches, tokens, fixed)


def _is_mask(value: onnx.ValueInfoProto, rows: Mapping[str, int]) -> bool:
    return "mask" in value.name.lower() and value.name not in rows


def _pad(mask: Array) -> None:
    """Let the last row of a mask end in padding, as the shorter text of a batch does."""
    if mask.ndim and mask.shape[-1] > 1 and mask.dtype.kind in "biuf":
        last = mask[-1:] if mask.ndim > 1 else mask
        last[..., -max(1, mask.shape[-1] // 3) :] = 0


def is_condition(value: onnx.ValueInfoProto) -> bool:
    """Whether an input is a single boolean: the condition of an If."""
    kind = type_of(value.type)
    single = kind.shape is not None and all(dim == 1 for dim in kind.shape)
    return single and kind.elem_type == ElementType.BOOL


def check_feeds(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> None:
    """Raise UsageError when given feeds are not those that a model takes: name, type, rank."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input}
    unknown, missing = feeds.keys() - inputs, inputs - initialized - feeds.keys()
    takes = f"the model takes {', '.join(sorted(inputs)) or 'no inputs'}"
    if unknown:
        raise UsageError(f"the model has no input {min(unknown)!r}", takes)
    if missing:
        raise UsageError(f"the feeds have no array for input {min(missing)!r}", takes)
    for value in model.graph.input:
        if value.name in feeds:
            _check_array(value, np.asarray(feeds[value.name]))


def _check_array(value: onnx.ValueInfoProto, array: Array) -> None:
    declared = type_of(value.type)
    remedy = "give an array of the type and rank that the model declares"
    if declared.shape is not None and len(declared.shape) != array.ndim:
        raise UsageError(
            f"input {value.name!r} has {len(declared.shape)} axes, and its array the shape "
            f"{list(array.shape)}",
            remedy,
        )
    wanted, numeric = declared.elem_type, array.dtype.kind in "biufcV"
    if not wanted or wanted == ElementType.STRING or not value.type.HasField("tensor_type"):
        return
    if not numeric or onnx.helper.tensor_dtype_to_np_dtype(wanted) != array.dtype:
        raise UsageError(
            f"input {value.name!r} is {wanted.text}, and its array {array.dtype}", remedy
        )


def check_names(inputs: Sequence[onnx.ValueInfoProto], names: Iterable[str]) -> None:
    """Raise UsageError when one of the names that a user gave is not that of an input."""
    unknown = set(names) - {value.name for value in inputs}
    if unknown:
        raise UsageError(
            f"the model has no input {min(unknown)!r}",
            f"it takes {', '.join(value.name for value in inputs) or 'no inputs'}",
        )


def named_extents(model: onnx.ModelProto, symbols: Mapping[str, int]) -> dict[str, int]:
    """Each symbol of the inputs with a size to begin with: one row, a few tokens."""
    declared = [type_of(value.type).shape or () for value in inputs_of(model.graph)]
    found: dict[str, int] = {}
    for shape in declared:
        for position, dim in enumerate(shape):
            if isinstance(dim, str):
                found.setdefault(dim, symbols.get(dim, 8 if position else 1))
    return found


def bound(
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, Sequence[int]],
    symbols: Mapping[str, int],
) -> dict[str, int]:
    """What symbols are, by shapes of inputs and extents that a user gave. Raises UsageError."""
    check_names(inputs, shapes)
    _check_symbols(inputs, symbols)
    known = bind(inputs, shapes)
    for name, size in symbols.items():
        if known.setdefault(name, size) != size:
            raise UsageError(
                f"symbol {name!r} is given as {size}, and a shape that is given makes it "
                f"{known[name]}",
                "leave one of them out",
            )
    return known


def _check_symbols(inputs: Sequence[onnx.ValueInfoProto], symbols: Iterable[str]) -> None:
    """Raise UsageError when a symbol that a user gave is in no extent of an input."""
    dims = [dim for value in inputs for dim in type_of(value.type).shape or ()]
    known = dict.fromkeys(dim for dim in dims if isinstance(dim, str))
    parts = set[str]().union(known, *map(symbols_of, known))
    unknown = sorted(set(symbols) - parts)
    if unknown:
        raise UsageError(
            f"no input has an extent {unknown[0]!r}",
            f"their symbols are {', '.join(known)}" if known else "all of them are numbers",
        )


def bind(
    inputs: Iterable[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """What the symbols of inputs are, by the shapes that are given. Raises UsageError."""
    symbols: dict[str, int] = {}
    for value in inputs:
        declared, shape = type_of(value.type).shape or (), shapes.get(value.name)
        if shape is None:
            continue
        if declared and len(declared) != len(shape):
            raise UsageError(
                f"input {value.name!r} has {len(declared)} axes, {len(shape)} were given",
                f"its shape is {list(declared)}",
            )
        for dim, size in zip(declared, shape, strict=False):
            if isinstance(dim, str):
                symbols[dim] = size
    return symbols


def _shape(
    value: onnx.ValueInfoProto,
    given: Mapping[str, tuple[int, ...]],
    symbols: dict[str, int],
    sizes: Sizes,
) -> tuple[int, ...]:
    if value.name in given:
        return given[value.name]
    declared = type_of(value.type).shape
    if declared is None:
        raise OriginalModelError(
            f"input {value.name!r} has no declared shape", "give one with --input-shapes"
        )
    return tuple(_size(dim, sizes, not position, symbols) for position, dim in enumerate(declared))


def _size(dim: Dim, sizes: Sizes, first: bool, symbols: dict[str, int]) -> int:
    if isinstance(dim, int) and dim >= 0:
        return dim
    if not isinstance(dim, str):
        return sizes.batch if first else sizes.later
    if dim not in symbols:
        default = sizes.batch if first else _next_size(sizes, symbols)
        value = _evaluate(dim, sizes, symbols)
        symbols[dim] = default if value is None or value < 0 else value
    return symbols[dim]


def _next_size(sizes: Sizes, symbols: Mapping[str, int]) -> int:
    """What the next symbol is: different from those before, where sizes differ."""
    return sizes.later + sizes.step * len(symbols)


def _evaluate(text: str, sizes: Sizes, symbols: dict[str, int]) -> int | None:
    """The value of an extent such as 'past + sequence', whose parts then get sizes too."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return None if isinstance(tree, ast.Name) else _evaluate_node(tree, sizes, symbols)


def _evaluate_node(tree: ast.expr, sizes: Sizes, symbols: dict[str, int]) -> int | None:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return symbols.setdefault(tree.id, _next_size(sizes, symbols))
    if not isinstance(tree, ast.BinOp) or type(tree.op) not in OPERATIONS:
        return None
    left = _evaluate_node(tree.left, sizes, symbols)
    right = _evaluate_node(tree.right, sizes, symbols)
    if left is None or right is None or (right == 0 and isinstance(tree.op, ast.FloorDiv)):
        return None
    return OPERATIONS[type(tree.op)](left, right)


def _check_size(name: str, shape: Sequence[int]) -> None:
    if math.prod(shape) > LARGEST_FEED:
        raise UsageError(
            f"input {name!r} of shape {list(shape)} is too large to draw",
            "give smaller extents with --input-shapes",
        )


def _draw(
    value: onnx.ValueInfoProto,
    shape: tuple[int, ...],
    rows: int | None,
    bound: tuple[float, float] | None,
    rng: np.random.Generator,
) -> Array:
    elem_type = type_of(value.type).elem_type
    _check_size(value.name, shape)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        dtype = np.dtype(object)
    name = value.name.lower()
    if bound is not None and dtype.kind != "O":
        return _within(shape, dtype, bound, rng)
    if dtype == np.bool_:
        return (
            np.ones(shape, np.bool_)
            if "mask" in name
            else np.asarray(rng.integers(0, 2, shape) > 0)
        )
    if dtype.kind in "iu":
        if "mask" in name and rows is None:
            return np.ones(shape, dtype)
        high = min(rows or DEFAULT_ROWS, int(np.iinfo(dtype.name).max))
        return np.asarray(rng.integers(0, high, shape)).astype(dtype)
    if dtype.kind == "O":
        raise OriginalModelError(
            f"input {value.name!r} has type {elem_type.text}, for which no feed can be drawn",
            "give one with --load-inputs",
        )
    if "mask" in name:
        return np.ones(shape, np.float32).astype(dtype)
    return np.asarray(rng.standard_normal(shape, np.float32)).astype(dtype)


def _within(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bound: tuple[float, float],
    rng: np.random.Generator,
) -> Array:
    """Numbers from a range, both ends included."""
    low, high = bound
    if dtype.kind in "iub":
        drawn = rng.integers(math.ceil(low), math.floor(high) + 1, shape)
        return np.asarray(drawn > 0) if dtype.kind == "b" else np.asarray(drawn).astype(dtype)
    return np.asarray(rng.uniform(low, high, shape)).astype(dtype)

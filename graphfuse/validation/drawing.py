"""Numbers for the tensors at which two models are cut, where parts of them are compared alone.

Floats have the sizes around each epsilon and the usual ones, and there are ties and larger ones.
Integers are small, of either sign, and within the rows of a table that they index. Extents that a
model leaves open are distinct.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphfuse.records import Dim, TensorType
from graphfuse.records.element_types import FLOAT_TYPES
from graphfuse.types.shapes import type_of
from graphfuse.views.cutting import Parts
from graphfuse.views.fused_nodes import is_fused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_ELEMENTS = 2**20
"""Elements of a tensor that is drawn."""
SIGMAS = (1e-12, 1e-9, 1e-6, 1e-3, 1.0)
"""Sizes of what is drawn: what is around an epsilon, wherever it is added."""
BITS_OF_GRID, FINEST = 20, -46
"""Binary digits of what is drawn, and where the last of them may be."""
LARGE = 30.0
"""Larger than activations are, and small enough for the exponential of it."""
UNKNOWN_EXTENTS = (3, 2, 5, 7, 4, 6)
"""Extents that a model leaves open, in the order in which its symbols are met."""
ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Where", "Min", "Max", "Sum"))
"""Operators whose operands broadcast to one shape."""
INTEGERS = ((-4, 4), (0, 4), (1, 4))
"""Where integers are drawn from, in turn: shapes and counts take none below zero, or no zero."""


class Drawing:
    """What is drawn for tensors that both models compute; `why` says why nothing can be."""

    def __init__(
        self,
        before: Parts,
        after: Parts,
        names: Iterable[str],
        graphs: Iterable[onnx.GraphProto] = (),
    ) -> None:
        """`graphs` are the parts that read the tensors of these names."""
        self.types: dict[str, TensorType] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.why = ""
        self._open: dict[object, int] = {}
        found = {name: _known(before.type(name), after.type(name)) for name in sorted(names)}
        for graph in graphs:
            self._fit(graph, found)
        for name, known in found.items():
            if known.shape is None or not known.elem_type:
                self.why = f"the type of {name!r}, which it reads, is not known"
                return
            shape = tuple(map(self._extent, known.shape))
            if _drawn(known.elem_type) is None or math.prod(shape) > MOST_ELEMENTS:
                self.why = f"{name!r}, which it reads, is not drawn"
                return
            self.types[name], self.shapes[name] = known, shape

    def _fit(self, graph: onnx.GraphProto, known: Mapping[str, TensorType]) -> None:
        """Let open extents be those of what is added to them, where that is no broadcast."""
        shapes = {name: kind.shape for name, kind in known.items() if kind.shape is not None}
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type not in ELEMENTWISE and not is_fused(node):
                continue
            operands = [shapes[name] for name in node.input[:3] if name in shapes]
            for dims in zip_longest(*(reversed(shape) for shape in operands), fillvalue=1):
                fixed = {dim for dim in dims if isinstance(dim, int) and dim != 1}
                opened = [dim for dim in dims if isinstance(dim, str) and dim not in self._open]
                if opened and (fixed or len({dim for dim in dims if dim != 1}) > 1):
                    extent = min(fixed) if fixed else self._extent(opened[0])
                    self._open |= dict.fromkeys(opened, extent)

    def _extent(self, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        return self._open.setdefault(dim, UNKNOWN_EXTENTS[len(self._open) % len(UNKNOWN_EXTENTS)])

    def is_free(self, parts: Parts) -> bool:
        """Whether each extent that was made up is one of the model's inputs: any number goes."""
        dims = {
            dim
            for value in parts.model.proto.graph.input
            for dim in type_of(value.type).shape or ()
            if isinstance(dim, str)
        }
        return self._open.keys() <= dims

    @property
    def integers(self) -> list[str]:
        """The tensors that are no floating point, and no booleans."""
        kinds = {name: _drawn(kind.elem_type) for name, kind in self.types.items()}
        return [name for name, kind in kinds.items() if kind is not None and kind.kind in "iu"]

    def feeds(self, nodes: Iterable[onnx.NodeProto], seed: int) -> Iterator[dict[str, Array]]:
        """Sets of numbers for `nodes`, which read what is drawn."""
        if self.why:
            return
        nodes = list(nodes)
        rows = self._rows(nodes)
        rng = np.random.default_rng(seed)
        floats = any(kind.elem_type in FLOAT_TYPES for kind in self.types.values())
        sigmas = [*_sigmas(nodes), LARGE, 0.0] if floats else [1.0] * (2 * len(INTEGERS))
        for number, sigma in enumerate(sigmas if self.types else [1.0]):
            yield {
                name: self._array(name, rows.get(name), sigma, number, rng) for name in self.shapes
            }

    def _array(
        self, name: str, rows: int | None, sigma: float, number: int, rng: np.random.Generator
    ) -> Array:
        shape, dtype = self.shapes[name], _drawn(self.types[name].elem_type)
        assert dtype is not None
        if dtype.kind == "b":
            return np.asarray(rng.integers(0, 2, shape) > 0)
        if dtype.kind == "f":
            # Sigma 0 stands for ties: few distinct numbers, zeros among them.
            drawn = rng.standard_normal(shape)
            return on_grid(drawn * sigma, sigma) if sigma else np.rint(2 * drawn) / 2
        limits = np.iinfo(dtype.name)
        low, high = INTEGERS[number % len(INTEGERS)]
        if rows is not None:
            low, high = (-rows, rows) if low < 0 else (0, rows)
        elif limits.bits == 8:
            # A quantized tensor.
            low, high = int(limits.min), int(limits.max) + 1
        low = max(low, int(limits.min))
        return np.asarray(rng.integers(low, max(high, low + 1), shape)).astype(dtype)

    def _rows(self, nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
        """How many rows there are of what a tensor picks rows from."""
        found: dict[str, int] = {}
        for node in nodes:
            if node.op_type == "Gather" and len(node.input) == 2 and node.input[1] in self.shapes:
                shape = self.shapes.get(node.input[0])
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                if shape and -len(shape) <= axis < len(shape) and shape[axis]:
                    found[node.input[1]] = min(shape[axis], found.get(node.input[1], shape[axis]))
        return found


def on_grid(array: Array, size: float) -> Array:
    """Numbers of a size with few enough digits that float64 adds them to weights exactly.

    A bias of 1 that is added sooner or later rounds rows of 1e-7 to 1e-9 of their size otherwise,
    and that is no difference in what two models mean.
    """
    grid = 2.0 ** max(math.floor(math.log2(size)) - BITS_OF_GRID, FINEST)
    return np.rint(array / grid) * grid


def _known(one: TensorType, other: TensorType) -> TensorType:
    """What two models know of a tensor; extents that one of them knows are known."""
    shape = one.shape if one.shape is not None else other.shape
    if one.shape is not None and other.shape is not None and len(one.shape) == len(other.shape):
        pairs = zip(one.shape, other.shape, strict=True)
        shape = tuple(mine if isinstance(mine, int) else its for mine, its in pairs)
    return TensorType(one.elem_type or other.elem_type, shape)


def _drawn(elem_type: int) -> np.dtype[Any] | None:
    """The type in numpy: float64 for every floating point; None for what is not drawn."""
    if elem_type in FLOAT_TYPES:
        return np.dtype(np.float64)
    if elem_type in (TensorProto.INT4, TensorProto.UINT4):
        return None
    try:
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        return None
    return dtype if dtype.kind in "biu" and dtype.isbuiltin else None


def _sigmas(nodes: Iterable[onnx.NodeProto]) -> tuple[float, ...]:
    """How large the rows are that are drawn: around each epsilon, and a few sizes more."""
    epsilons = {a.f for node in nodes for a in node.attribute if a.name == "epsilon" and a.f > 0}
    roots = {math.sqrt(epsilon) * factor for epsilon in epsilons for factor in (0.1, 1.0, 10.0)}
    return (*sorted(roots), *SIGMAS)

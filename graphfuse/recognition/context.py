"""What a rule of the algebra sees: a node, and the values of its operands in terms of x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite

from graphfuse.algebra import Form, constant, leaf
from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.records import Dim
from graphfuse.records.reasons import Reason, RefusedError
from graphfuse.types.shapes import broadcasts_to
from graphfuse.views.view import GraphView


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor that something reduces: `axes` as indices from the end (-1 is the last axis)."""

    tensor: str
    axes: tuple[int, ...]
    rank: int
    extent: int | None
    """How many elements a mean is over; None when an extent is not a known number."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a tensor is in terms of x. `dropped`: the reduced axes are missing from its shape."""

    form: Form
    dropped: bool = False


FIRST_AXIS = {"InstanceNormalization": 2, "GroupNormalization": 1}
"""The first axis that operators without the attribute normalise."""

DEFAULT_EPSILON = 9.999999747378752e-06
"""1e-5 in float32: what a norm operator without the attribute uses."""

SPLIT_WEIGHTS = having(Trait.ADDS) | {"Identity"}
MAX_WEIGHT_DEPTH = 4
MAX_WEIGHT_TERMS = 4


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule sees: the node, and the values of its operands."""

    view: GraphView
    candidate: Candidate
    values: Mapping[str, Value]
    node: Node
    rules: Mapping[str, Callable[[Context], Value]]
    named: dict[Form, str]
    """Tensors that the model computes from weights, by their form: gains what is taken apart."""
    depth: int = 0

    def operand(self, position: int) -> Value:
        """The value of an input: known in terms of x, a number, or a leaf. Raises RefusedError."""
        name = self.node.input(position)
        if name in self.values:
            return self.values[name]
        if not name:
            raise RefusedError(Reason.NOT_THE_DEFINITION, "input {} is absent", position)
        return self.opaque(name)

    def opaque(self, name: str, fits: bool = False) -> Value:
        """A tensor that does not come from x: a number, or a leaf that may be a parameter.

        `fits` tells that the operator takes only what broadcasts to x: a scale or bias of a norm.
        Raises RefusedError.
        """
        number = self.view.scalar(name)
        if fits and number is not None and isfinite(number):
            return Value(constant(number))
        shape = self.view.type(name).shape
        rank, axes = self.candidate.rank, self.candidate.axes
        if shape is None:
            raise RefusedError(Reason.UNKNOWN_SHAPE, "{} has no known shape", name)
        if len(shape) > rank:
            raise RefusedError(
                Reason.PARAMETER_ENLARGES, f"{name} has {len(shape)} axes, x has {rank}"
            )
        x_shape = self.view.type(self.candidate.tensor).shape
        small = all(dim == 1 for dim in shape) or (x_shape and broadcasts_to(shape, x_shape))
        if number is not None and isfinite(number) and (small or self._of_extents(name)):
            return Value(constant(number))
        expanded = self._expanded_weight(name)
        if expanded:
            return self.opaque(expanded)
        if not self.view.is_weight(name):
            behind = self._reshaped_weight(name, shape) or self._typed_weight(name)
            if behind:
                return self.opaque(behind)
        if not self.view.is_weight(name) and not self._is_given_vector(name, shape):
            raise RefusedError(Reason.PARAMETER_COMPUTED, name)
        self._check_axes(name, shape)
        apart = self._taken_apart(name)
        if apart is None:
            inner = any(-axis <= len(shape) and shape[axis] != 1 for axis in axes)
            return Value(leaf(name, inner))
        if apart.number is None:
            self.named.setdefault(apart, name)
        return Value(apart)

    def _check_axes(self, name: str, shape: tuple[Dim, ...]) -> None:
        """A scale or bias varies along the normalised axes only, and does not enlarge x."""
        x_shape, axes = self.view.type(self.candidate.tensor).shape, self.candidate.axes
        extents = {position - len(shape): dim for position, dim in enumerate(shape)}
        if any(dim != 1 for axis, dim in extents.items() if axis not in axes):
            raise RefusedError(Reason.PARAMETER_VARIES, "{} has shape {}", name, list(shape))
        for axis in axes:
            dim = extents.get(axis, 1)
            if dim == 1:
                continue
            if x_shape is None or not isinstance(x_shape[axis], int):
                raise RefusedError(Reason.UNKNOWN_SHAPE, "the extent of axis {} of the sum", axis)
            if x_shape[axis] != dim:
                raise RefusedError(Reason.PARAMETER_ENLARGES, "{} has shape {}", name, list(shape))

    def _taken_apart(self, name: str) -> Form | None:
        """A weight that is a sum or product of others: however it is split, it is the same."""
        node = self.view.producer(name)
        if node is None or not node.standard or self.depth == MAX_WEIGHT_DEPTH:
            return None
        # Computed in a narrower type than x, it is rounded on the way: then it is what it is.
        x_type = self.view.type(self.candidate.tensor).elem_type
        rounded = not x_type.widens(self.view.type(name).elem_type)
        exact = node.op_type in SPLIT_WEIGHTS and not rounded
        if node.op_type == "Cast":
            exact = self.view.type(node.input(0)).elem_type.widens(self.view.cast_type(node))
        if not exact:
            return None
        inside = replace(self, node=node, values={}, depth=self.depth + 1)
        is_cast = node.op_type == "Cast"
        try:
            value = inside.operand(0) if is_cast else self.rules[node.op_type](inside)
        except RefusedError:
            return None
        return value.form if len(value.form.terms) <= MAX_WEIGHT_TERMS else None

    def _reshaped_weight(self, name: str, shape: tuple[Dim, ...]) -> str:
        """The weight that is reshaped to the shape that it has: to an extent taken from x, say."""
        node = self.view.producer(name)
        if node is None or not node.standard or node.op_type not in ("Reshape", "Expand"):
            return ""
        before = self.view.type(node.input(0)).shape
        known = before is not None and all(isinstance(dim, int) for dim in before)
        same = before is not None and _without_ones(before) == _without_ones(shape)
        return node.input(0) if known and same and self.view.is_weight(node.input(0)) else ""

    def _expanded_weight(self, name: str) -> str:
        """The weight that is repeated up to the shape of x, or less: x would do that itself."""
        node = self.view.producer(name)
        x_shape = self.view.type(self.candidate.tensor).shape
        if node is None or not node.standard or node.op_type != "Expand" or x_shape is None:
            return ""
        target = self.view.shape_value(node.input(1))
        fits = target is not None and broadcasts_to(target, x_shape)
        return node.input(0) if fits and self.view.is_weight(node.input(0)) else ""

    def _of_extents(self, name: str) -> bool:
        """Whether a tensor has extents that are taken from x, by what ConstantOfShape reads."""
        x_shape, node = self.view.type(self.candidate.tensor).shape, self.view.producer(name)
        if node is None or node.op_type != "ConstantOfShape" or x_shape is None:
            return False
        extents = self.view.shape_value(node.input(0))
        return extents is not None and broadcasts_to(extents, x_shape)

    def _typed_weight(self, name: str) -> str:
        """The weight that CastLike(weight, x) is: CastLike reads the type of x, and no number."""
        node = self.view.producer(name)
        if node is None or not node.standard or node.op_type != "CastLike":
            return ""
        before = self.view.type(node.input(0)).elem_type
        lossless = before.widens(self.view.cast_type(node))
        return node.input(0) if lossless else ""

    def _is_given_vector(self, name: str, shape: tuple[Dim, ...]) -> bool:
        """Whether a graph input of one axis can be a parameter: it depends on no sum.

        A model may be handed its weights. Beside an x of one axis it may be a residual, though.
        """
        return len(shape) <= 1 < self.candidate.rank and name in self.view.home(name).inputs

    def flag(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get(name, default))

    def axes(self) -> tuple[int, ...] | None:
        """The axes of a reduction, from its attribute or its constant input, counted from the end.

        None when they are computed, or empty with noop_with_empty_axes.
        """
        return reduced_axes(self.view, self.node, self.candidate.rank)


def join(left: Value, right: Value, operation: Callable[[Form, Form], Form]) -> Value:
    """An elementwise operation of two operands that broadcast. Raises RefusedError."""
    if left.dropped != right.dropped and None in (left.form.number, right.form.number):
        other = right if left.dropped else left
        if other.form.number is None:
            raise RefusedError(Reason.AXIS_NOT_PUT_BACK, "{} meets {}", left.form, right.form)
    return Value(operation(left.form, right.form), left.dropped or right.dropped)


def _without_ones(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """A shape without leading axes of extent 1."""
    first = next((at for at, dim in enumerate(shape) if dim != 1), len(shape))
    return shape[first:]


def reduced_axes(view: GraphView, node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction reduces, counted from the end; None when they are not known."""
    if node.input(1):
        axes = view.integers(node.input(1))
        if axes is None:
            return None
    else:
        axes = tuple(int(axis) for axis in node.attributes.get("axes", ()))
    if not axes:
        return None if node.attributes.get("noop_with_empty_axes") else tuple(range(-rank, 0))
    if any(not -rank <= axis < rank for axis in axes):
        return None
    return tuple(sorted(axis - rank if axis >= 0 else axis for axis in axes))


def reduces_nothing(view: GraphView, node: Node) -> bool:
    """Whether a reduction is over no axes, and so gives back what it reads."""
    if not node.attributes.get("noop_with_empty_axes"):
        return False
    return not node.input(1) or view.integers(node.input(1)) == ()


def normalized_axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a normalization operator: from `axis` to the last, counted from the end."""
    if node.op_type == "MeanVarianceNormalization":
        axes = [int(axis) for axis in node.attributes.get("axes", (0, 2, 3))]
        if any(not -rank <= axis < rank for axis in axes):
            return None
        return tuple(sorted(axis - rank if axis >= 0 else axis for axis in axes))
    if node.op_type == "LpNormalization":
        axis = int(node.attributes.get("axis", -1))
        return (axis - rank if axis >= 0 else axis,) if -rank <= axis < rank else None
    axis = FIRST_AXIS.get(node.op_type, int(node.attributes.get("axis", -1)))
    return tuple(range(axis - rank if axis >= 0 else axis, 0)) if -rank <= axis < rank else None

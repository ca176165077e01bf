"""Norms of ONNX that count channels: when they are a LayerNorm, and what of their scale.

    InstanceNormalization      over all axes behind the second; a scale and bias for each channel
    GroupNormalization         with one group over all axes behind the first; the same (by opset 21)
    MeanVarianceNormalization  (x - m) / (sqrt(variance) + 1e-9): epsilon is outside of the root
    LpNormalization            x / sqrt(sum(x^2)), for p = 2: an RMSNorm but for epsilon

A scale for each channel is none of a LayerNorm where the channels are no part of the mean; where
they are, it is one that broadcasts along the axes behind them.
"""

from __future__ import annotations

from math import isfinite, prod

from graphfuse.algebra import constant, leaf
from graphfuse.algebra.norms import normalize
from graphfuse.graph.nodes import Node
from graphfuse.graph.operators import Trait, having
from graphfuse.recognition.context import DEFAULT_EPSILON, Context, Value, normalized_axes
from graphfuse.records.reasons import Reason, RefusedError
from graphfuse.views.view import GraphView

BY_CHANNEL = having(Trait.NORMALIZES_CHANNELS)

MAX_READ = 2**16
"""Elements of a scale that are read to see whether all are one number."""


def is_one_norm(node: Node) -> bool:
    """Whether a node normalises each item, or each channel of it, as a whole: not by groups.

    An LpNormalization has to divide by a root of squares, not by a sum of magnitudes.
    """
    if node.op_type == "LpNormalization":
        return int(node.attributes.get("p", 2)) == 2
    return node.op_type != "GroupNormalization" or int(node.attributes.get("num_groups", 0)) == 1


def is_of_groups(view: GraphView, node: Node) -> bool:
    """Whether a node normalises several channels each: behind a Reshape they are groups.

    PyTorch's exporters write a GroupNorm so, whose rows are no last axes of the sum.
    """
    return node.op_type in BY_CHANNEL and view.type(node.input(1)).shape != (1,)


def extents_by_channel(view: GraphView, node: Node, name: str, axes: int) -> tuple[int, ...]:
    """The extents along the normalised axes of a scale or bias that a node has for each channel.

    () for any other tensor: its own axes are the last ones.
    """
    shape = view.type(name).shape or ()
    if node.op_type != "GroupNormalization" or name not in node.inputs[1:3] or shape == (1,):
        return ()
    (channels,) = (dim for dim in shape if isinstance(dim, int))
    return (channels, *(1,) * (axes - 1))


def by_channel(context: Context) -> Value:
    """scale * normal(a) + bias, scale and bias by channel: the second axis."""
    operand, node, candidate = context.operand(0), context.node, context.candidate
    if not is_one_norm(node) or normalized_axes(node, candidate.rank) != candidate.axes:
        raise RefusedError(Reason.OTHER_AXES, "operator {}", node.op_type)
    scale, bias = (_parameter(context, node.input(position)) for position in (1, 2))
    normal = normalize(operand.form, node.attributes.get("epsilon", DEFAULT_EPSILON), centred=True)
    return Value(normal * scale.form + bias.form)


def _parameter(context: Context, name: str) -> Value:
    view = context.view
    number = _number(view, name)
    if number is not None and isfinite(number):
        return Value(constant(number))
    shape = view.type(name).shape
    if name in context.values:
        raise RefusedError(Reason.PARAMETER_OF_SUM, name)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
        raise RefusedError(Reason.UNKNOWN_SHAPE, "{} has no known shape", name)
    if shape == (1,):
        return context.opaque(name, fits=True)
    if not view.is_weight(name):
        raise RefusedError(Reason.PARAMETER_COMPUTED, name)
    if context.node.op_type == "InstanceNormalization":
        raise RefusedError(Reason.PARAMETER_VARIES, "{} has a number for each channel", name)
    if any(reader.op_type != "GroupNormalization" for reader in view.readers(name)):
        # Beside another operator it is a vector along the last axis.
        raise RefusedError(Reason.NOT_THE_DEFINITION, "{} is read along other axes as well", name)
    return Value(leaf(name, inner=True))


def _number(view: GraphView, name: str) -> float | None:
    """The number that a constant holds for every channel: 1 and 0 where nothing was learned."""
    tensor = view.constant(name)
    if tensor is None or not 1 < prod(tensor.dims) <= MAX_READ:
        return view.scalar(name)
    array = view.model.read(tensor)
    return float(array.flat[0]) if (array == array.flat[0]).all() else None


def without_epsilon(context: Context) -> Value:
    """A norm of rows, but for its epsilon."""
    candidate = context.candidate
    axes = normalized_axes(context.node, candidate.rank)
    if axes is None or axes != candidate.axes or axes != tuple(range(-len(axes), 0)):
        raise RefusedError(Reason.OTHER_AXES, "axes {}", list(axes) if axes else "unknown")
    if context.node.op_type == "LpNormalization":
        raise RefusedError(Reason.EPSILON_NOT_POSITIVE, "LpNormalization adds none")
    seen = "MeanVarianceNormalization adds 1e-9 to the root"
    raise RefusedError(Reason.EPSILON_OUTSIDE_ROOT, seen)

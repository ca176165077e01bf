"""Illegal moves around the norm: types, shapes, parameters, sums and second outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from onnx import helper

from tests.campaigns.fuzz.build import Builder, Limits
from tests.campaigns.fuzz.case import Block
from tests.campaigns.fuzz.draft import BFLOAT16, DOUBLE, FLOAT, FLOAT16, INT64, Value, dtype_of
from tests.campaigns.fuzz.moves import spell
from tests.campaigns.fuzz.near import ANY, assemble
from tests.campaigns.fuzz.norm import LAYER, Norm
from tests.campaigns.fuzz.tree import At, Expr, Pow, transform

NARROWER = {FLOAT: FLOAT16, DOUBLE: FLOAT}


@dataclass(frozen=True)
class NearModel:
    """An illegal move on the model: it makes sum, norm and outputs. Flags as in `near`."""

    make: Callable[[Builder], Block]
    limits: Limits = ANY
    numeric: bool = False
    silent: bool = False


def _finish(builder: Builder, total: str, source: str, norm: Norm | None = None) -> Block:
    """The norm of `source`, with the outputs of any block; the sum is `total`."""
    norm = norm or builder.norm()
    expression = builder.spelling(norm)
    output = builder.emitter(source, builder.shape).emit(expression, builder.elem_type)
    builder.output(output)
    return Block(norm, total, output, source)


def _narrowed_sum(builder: Builder) -> Block:
    """The sum passes through a narrower type before the norm."""
    total = builder.total()
    half = builder.draft.cast(total, NARROWER[builder.elem_type])
    return _finish(builder, total, builder.draft.cast(half, builder.elem_type))


def _narrowed_inside(builder: Builder) -> Block:
    """The inverse deviation passes through a narrower type."""
    # An epsilon that sixteen bits hold, so that nothing but the type is illegal.
    total, norm = builder.total(), replace(builder.norm(), epsilon=Fraction(1, 1024))
    narrow = NARROWER[builder.elem_type]

    def change(part: Expr) -> Expr | None:
        return At(narrow, part) if isinstance(part, Pow) and part.exponent < 0 else None

    variance = norm.variance(builder.choices, norm.deviation())
    whole = assemble(norm, norm.deviation(), norm.inverse(variance))
    expression = transform(whole, change)
    emitter = builder.emitter(total, builder.shape)
    output = emitter.emit(spell(expression, builder.choices), builder.elem_type)
    builder.output(output)
    return Block(norm, total, output)


def _wider_output(builder: Builder) -> Block:
    """The norm is computed and left in a wider type."""
    total, norm = builder.total(), builder.norm()
    wide = DOUBLE if builder.elem_type == FLOAT else FLOAT
    output = builder.emitter(total, builder.shape).emit(builder.spelling(norm), wide)
    builder.output(output, wide)
    return Block(norm, total, output)


def _scale_per_token(builder: Builder) -> Block:
    """A gate of shape (.., 1) from an input."""
    gate = builder.input("g", (*builder.shape[:-1], 1), (*builder.sizes[:-1], 1))
    return _scaled(builder, lambda _: gate)


def _scale_of_rows(builder: Builder) -> Block:
    """A constant scale that varies along the last axis but one."""
    array = builder.weight(*builder.sizes[-2:]).astype(dtype_of(builder.elem_type))
    return _scaled(builder, lambda _: builder.draft.constant(array))


def _scale_enlarges(builder: Builder) -> Block:
    """A scale of more axes than the sum."""
    shape = (2, *(1,) * (len(builder.shape) - 1), builder.hidden)
    array = builder.weight(*shape).astype(dtype_of(builder.elem_type))
    name = builder.draft.constant(array)
    return _scaled(builder, lambda _: name, larger=2)


def _scale_of_the_sum(builder: Builder) -> Block:
    """A scale computed from the sum: a fused node would need its own output."""
    axes = list(range(len(builder.shape) - 1))
    return _scaled(builder, lambda x: builder.draft.reduce("ReduceMax", x, axes, 0))


def _scale_of_a(builder: Builder) -> Block:
    """A scale computed from an activation."""
    axes = list(range(len(builder.shape) - 1))
    name = "ReduceMax"
    return _scaled(builder, lambda _: builder.draft.reduce(name, builder.tensors["a"][0], axes, 0))


def _scaled(builder: Builder, scale: Callable[[str], str], larger: int = 0) -> Block:
    total, norm = builder.total(), builder.norm()
    normal = builder.emitter(total, builder.shape).emit(builder.spelling(norm), builder.elem_type)
    output = builder.draft.node("Mul", [normal, scale(total)])
    if larger:
        shape, sizes = (larger, *builder.shape), (larger, *builder.sizes)
        builder.draft.outputs.append(Value(output, builder.elem_type, shape, sizes))
    else:
        builder.output(output)
    return Block(norm, total, output)


def _bias_added(builder: Builder) -> Block:
    """The Add adds a vector, so there is no residual."""
    a = builder.input("a", builder.shape, builder.sizes)
    builder.tensors["a"] = (a, builder.elem_type)
    array = builder.weight(builder.hidden).astype(dtype_of(builder.elem_type))
    ones = builder.choices.pick("bias's rank", (0, 0, len(builder.shape) - 1))
    vector = builder.draft.constant(array.reshape((1,) * ones + array.shape))
    operands = [a, vector] if builder.choices.chance("bias second", 50) else [vector, a]
    total = builder.draft.node("Add", operands, "x")
    return _finish(builder, total, total)


def _constant_sum(builder: Builder) -> Block:
    """Both operands are constants."""
    dtype = dtype_of(builder.elem_type)
    a, b = (builder.draft.constant(builder.weight(*builder.sizes).astype(dtype)) for _ in "ab")
    builder.tensors["a"] = (a, builder.elem_type)
    builder.input("unused", builder.shape, builder.sizes)
    total = builder.draft.node("Add", [a, b], "x")
    return _finish(builder, total, total)


def _integer_sum(builder: Builder) -> Block:
    """The sum is of integers and cast to floats."""
    names = []
    for hint in "ab":
        names.append(builder.draft.fresh(hint))
        builder.draft.inputs.append(Value(names[-1], INT64, builder.shape, builder.sizes))
    builder.tensors["a"] = (builder.draft.cast(names[0], builder.elem_type), builder.elem_type)
    total = builder.draft.node("Add", names, "x")
    return _finish(builder, total, builder.draft.cast(total, builder.elem_type))


def _transposed_sum(builder: Builder) -> Block:
    """The last two axes change places before the norm (all extents are equal)."""
    total = builder.total()
    rank = len(builder.shape)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    return _finish(builder, total, builder.draft.node("Transpose", [total], perm=perm))


def _split_sum(builder: Builder) -> Block:
    """The last axis is split into heads before the norm."""
    total = builder.total()
    hidden = builder.hidden // 2
    # -1 stands for all that comes before, so the shape need not be known.
    rows = builder.draft.integers((-1, 2, hidden))
    source = builder.draft.node("Reshape", [total, rows])
    tokens = int(np.prod(builder.sizes[:-1]))
    builder.hidden, builder.sizes = hidden, (tokens, 2, hidden)
    builder.shape = ("N", 2, hidden)
    return _finish(builder, total, source)


def _statistics(position: int) -> Callable[[Builder], Block]:
    """LayerNormalization's mean (1) or inverse deviation (2) is a graph output."""

    def make(builder: Builder) -> Block:
        total = builder.total()
        drawn = builder.norm()
        norm = Norm(LAYER, drawn.hidden, drawn.epsilon, vectors=drawn.vectors)
        ones = builder.draft.constant(np.ones(norm.hidden).astype(dtype_of(builder.elem_type)))
        output, extra = builder.draft.fresh(), builder.draft.fresh()
        outputs = [output, *[""] * (position - 1), extra]
        node = helper.make_node(
            "LayerNormalization", [total, ones], outputs, epsilon=float(norm.epsilon)
        )
        builder.draft.nodes.append(node)
        builder.output(output)
        builder.output(extra, FLOAT, statistic=True)
        return Block(norm, total, output)

    return make


MODEL: dict[str, NearModel] = {
    "sum narrowed": NearModel(_narrowed_sum, Limits(elem_types=(FLOAT, DOUBLE), no_wide=True)),
    "narrowed inside": NearModel(
        _narrowed_inside, Limits(elem_types=(FLOAT, DOUBLE), no_wide=True)
    ),
    "output of a wider type": NearModel(
        _wider_output, Limits(elem_types=(FLOAT16, FLOAT, BFLOAT16), opset=13, no_wide=True)
    ),
    "scale per token": NearModel(_scale_per_token, numeric=True),
    "scale per row": NearModel(_scale_of_rows, numeric=True),
    "scale enlarges": NearModel(_scale_enlarges, numeric=True),
    "scale of the sum": NearModel(_scale_of_the_sum, numeric=True),
    "scale of a": NearModel(_scale_of_a, numeric=True),
    "bias vector, no residual": NearModel(_bias_added),
    "constant sum": NearModel(_constant_sum),
    "integer sum": NearModel(_integer_sum, silent=True),
    "sum transposed": NearModel(_transposed_sum, Limits(square=True, no_wide=True)),
    "sum split into heads": NearModel(_split_sum, Limits(no_wide=True, hidden=(8, 4, 16, 12))),
    "mean is read": NearModel(_statistics(1), Limits(kind=LAYER, opset=17, no_wide=True)),
    "inverse deviation is read": NearModel(
        _statistics(2), Limits(kind=LAYER, opset=17, no_wide=True)
    ),
}

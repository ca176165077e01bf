"""Models of one block or two: operands, their Add, a norm, and what reads it.

A legal case follows these steps as they are; an illegal move (`near`) replaces one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.campaigns.fuzz.case import Block, Ticket
from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.draft import (
    BFLOAT16,
    DOUBLE,
    FLOAT,
    FLOAT16,
    Dim,
    Draft,
    Value,
    dtype_of,
    rounded,
)
from tests.campaigns.fuzz.emit import Emitter, Frame
from tests.campaigns.fuzz.moves import spell
from tests.campaigns.fuzz.norm import LAYER, RMS, Norm, draw_parameter
from tests.campaigns.fuzz.tree import At, Expr, is_reduced

SIZES = (2, 3, 2, 3)
"""The extents of the outer axes, from the last but one on."""
OPSETS = (17, 18, 13, 11, 23, 12, 14, 15, 16, 19, 20, 21, 22, 17, 18)
EPSILONS = (1e-5, 1e-5, 1e-6, 1e-12, 1e-3, 2.0**-17, 0.1)
COARSE_EPSILONS = (2.0**-10, 1e-3, 0.01)
"""For norms in sixteen bits throughout: their multiples stay normal numbers."""


@dataclass(frozen=True)
class Limits:
    """What an illegal move asks of the frame."""

    square: bool = False
    kind: str | None = None
    elem_types: tuple[int, ...] = ()
    opset: int = 11
    rank: int = 2
    no_wide: bool = False
    hidden: tuple[int, ...] = (8, 4, 16, 5, 12, 6)


@dataclass
class Builder:
    """Builds a draft by the decisions of a ticket."""

    ticket: Ticket
    limits: Limits = Limits()
    tensors: dict[str, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ticket = self.ticket
        self.choices = Choices(ticket.seed, ticket.index, ticket.plain)
        opset = self.choices.pick("opset", [o for o in OPSETS if o >= self.limits.opset])
        self.draft = Draft(opset)
        self.elem_type = self._elem_type()
        self.hidden = self.choices.pick("hidden", self.limits.hidden)
        self.shape, self.sizes = self._shape()
        seed = (self.ticket.seed, self.ticket.index, 1)
        self.numbers = np.random.default_rng(seed)
        self.vectors: dict[str, np.ndarray] = {}

    def _elem_type(self) -> int:
        types = (FLOAT, FLOAT, FLOAT, FLOAT16, DOUBLE)
        if self.draft.opset >= 13:
            types = (*types, BFLOAT16)
        return self.choices.pick("type", self.limits.elem_types or types)

    def _shape(self) -> tuple[tuple[Dim, ...], tuple[int, ...]]:
        ranks = [r for r in (3, 3, 2, 4, 5) if r >= self.limits.rank]
        rank = self.choices.pick("rank", ranks)
        if self.limits.square:
            sizes = (self.hidden,) * min(rank, 3)
            return sizes, sizes
        sizes = (*SIZES[-rank + 1 :], self.hidden)
        symbols = "BSTU"[: rank - 1]
        shape = [
            size if self.choices.chance("extent is known", 30) else symbol
            for symbol, size in zip(symbols, sizes, strict=False)
        ]
        return (*shape, self.hidden), sizes

    def weight(self, *shape: int) -> np.ndarray:
        """Random numbers that sixteen bits hold, none near 0."""
        array = self.numbers.choice([-1.0, 1.0, 1.0], shape) * self.numbers.uniform(0.4, 1.6, shape)
        return np.round(array * 64) / 64

    def input(self, hint: str, shape: tuple[Dim, ...], sizes: tuple[int, ...]) -> str:
        """A graph input of the model's type."""
        name = self.draft.fresh(hint)
        self.draft.inputs.append(Value(name, self.elem_type, shape, sizes))
        return name

    def output(self, name: str, elem_type: int | None = None, statistic: bool = False) -> None:
        """Make a value a graph output, once. `statistic`: its last axis is reduced."""
        if any(value.name == name for value in self.draft.outputs):
            return
        shape, sizes = self.shape, self.sizes
        if statistic:
            shape, sizes = (*shape[:-1], 1), (*sizes[:-1], 1)
        self.draft.outputs.append(Value(name, elem_type or self.elem_type, shape, sizes))

    def operands(self) -> tuple[str, str]:
        """Two activations, one of which may broadcast. The role `a` is the other one's."""
        first = self._activation(self.input("a", self.shape, self.sizes))
        self.tensors["a"] = (first, self.elem_type)
        if self.choices.chance("sum of one tensor", 2):
            return first, first
        cut = self.choices.pick("broadcast", ("none", "none", "none", "axes", "ones", "weight"))
        shape, sizes = self.shape, self.sizes
        rank = len(shape)
        if cut == "axes" and rank > 2:
            start = self.choices.pick("axes missing", tuple(range(1, rank - 1)))
            shape, sizes = shape[start:], sizes[start:]
        elif cut == "ones":
            one = self.choices.pick("axis of extent 1", tuple(range(rank - 1)))
            shape = (*shape[:one], 1, *shape[one + 1 :])
            sizes = (*sizes[:one], 1, *sizes[one + 1 :])
        elif cut == "weight" and isinstance(shape[-2], int) and not self.ticket.near:
            # A table of positions: a constant, and no vector.
            table = self.weight(*sizes[-2:]).astype(dtype_of(self.elem_type))
            return self._ordered(first, self.draft.constant(table))
        return self._ordered(first, self._activation(self.input("b", shape, sizes)))

    def _ordered(self, first: str, second: str) -> tuple[str, str]:
        return (
            (second, first) if self.choices.chance("larger operand second", 30) else (first, second)
        )

    def _activation(self, name: str) -> str:
        """The input itself, or something computed from it."""
        by = self.choices.pick(
            "operand by", ("itself", "itself", "itself", "Identity", "Tanh", "Mul")
        )
        if by == "itself":
            return name
        if by == "Mul":
            factor = self.draft.constant(self.weight(self.hidden).astype(dtype_of(self.elem_type)))
            return self.draft.node("Mul", [name, factor])
        return self.draft.node(by, [name])

    def total(self) -> str:
        """The sum of new operands."""
        return self.draft.node("Add", self.operands(), "x")

    def norm(self) -> Norm:
        """What is meant."""
        kind = self.limits.kind or self.choices.pick("kind", (LAYER, LAYER, RMS))
        wide = None if self.limits.no_wide else self._wide()
        inside = wide or self.elem_type
        known = COARSE_EPSILONS if inside in (FLOAT16, BFLOAT16) else EPSILONS
        # A float64 model's epsilon must be one that an attribute, a float32, holds.
        epsilon = rounded(
            self.choices.pick("epsilon", known), FLOAT if inside == DOUBLE else inside
        )
        n = Fraction(self.hidden)
        multiples = (Fraction(1), Fraction(1), Fraction(1), Fraction(4))
        if self.elem_type != DOUBLE:
            multiples = (*multiples, n, n / (n - 1))
        for role in ("scale", "scale2", "bias", "bias2"):
            self.vectors[role] = self.weight(self.hidden)
        return Norm(
            kind,
            self.hidden,
            Fraction(epsilon),
            self.choices.pick("multiple", multiples),
            draw_parameter("scale", self.choices, product=True),
            draw_parameter("bias", self.choices, product=False) if kind == LAYER else None,
            wide,
            dict(self.vectors),
        )

    def _wide(self) -> int | None:
        if self.elem_type in (FLOAT16, BFLOAT16):
            return self.choices.pick("statistics in", (FLOAT, FLOAT, None))
        if self.elem_type == FLOAT and self.choices.chance("statistics in float64", 6):
            return DOUBLE
        return None

    def spelling(self, norm: Norm) -> Expr:
        """The norm's expression after some moves."""
        plain = norm.expression(self.choices, self.draft.opset)
        expression = spell(plain, self.choices)
        if not norm.rational and not self.choices.chance("irrational root twice", 60):
            expression = plain
        if not is_reduced(expression) and not self.choices.chance("x behind a sum", 60):
            expression = plain
        if norm.wide is not None and self.choices.chance("weights in the wide type", 15):
            return At(norm.wide, expression)
        return expression

    def emitter(self, x: str, shape: tuple[Dim, ...]) -> Emitter:
        """Emits expressions about x."""
        tensors = {**self.tensors, "x": (x, self.elem_type)}
        frame = Frame(self.elem_type, shape, self.hidden, tensors, self.vectors)
        return Emitter(self.draft, self.choices, frame)

    def block(self, total: str, norm: Norm, expression: Expr) -> Block:
        """Emit the norm of a sum."""
        if len(self.shape) > 2 and self.choices.chance("tokens flattened", 4):
            return self._flattened(total, norm, expression)
        emitter = self.emitter(total, self.shape)
        output = emitter.emit(expression, self.elem_type)
        if self.choices.chance("an inner value is an output", 6):
            self._leak(emitter, output)
        return Block(norm, total, output)

    def _flattened(self, total: str, norm: Norm, expression: Expr) -> Block:
        rows = self.draft.integers((-1, self.hidden))
        tokens = self.draft.node("Reshape", [total, rows])
        emitter = self.emitter(tokens, ("N", self.hidden))
        flat = emitter.emit(expression, self.elem_type)
        back = self.draft.node("Reshape", [flat, self.draft.node("Shape", [total])])
        self.output(back)
        return Block(norm, total, flat, tokens, back)

    def _leak(self, emitter: Emitter, output: str) -> None:
        """Make a value of the norm's inside a graph output as well."""
        names = sorted(name for name in emitter.interior if name != output)
        if names:
            name = self.choices.pick("inner value", names)
            elem_type, extent = emitter.interior[name]
            self.output(name, elem_type, statistic=extent == "statistic")

    def read(self, block: Block) -> None:
        """Let something read the norm's output, and perhaps the sum."""
        if not block.tokens:
            ways = ("output", "output", "output and residual", "residual", "Relu")
            way = self.choices.pick("read by", ways)
            if "output" in way:
                self.output(block.output)
            if "residual" in way:
                more = self.draft.node("Tanh", [block.output])
                self.output(self.draft.node("Add", [block.total, more]))
            if way == "Relu":
                self.output(self.draft.node("Relu", [block.output]))
        if self.choices.chance("sum is an output", 20):
            self.output(block.total)

    def next_total(self, block: Block) -> str:
        """Another residual: the sum plus something made of the norm."""
        name = block.shaped or block.output
        by = self.choices.pick("layer", ("MatMul", "Tanh"))
        if by == "MatMul":
            matrix = self.weight(self.hidden, self.hidden).astype(dtype_of(self.elem_type))
            name = self.draft.node("MatMul", [name, self.draft.constant(matrix)])
        else:
            name = self.draft.node("Tanh", [name])
        return self.draft.node("Add", [block.total, name], "x")

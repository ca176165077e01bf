"""Expressions to ONNX nodes, with a choice of operators for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.draft import BFLOAT16, DOUBLE, FLOAT, Dim, Draft, dtype_of
from tests.campaigns.fuzz.tree import (
    FULL,
    HALF,
    NUMBER,
    STATISTIC,
    VECTOR,
    Add,
    At,
    Call,
    Expr,
    Leaf,
    Mean,
    Mul,
    Neg,
    NormOp,
    Num,
    Pow,
    extent,
    folded,
)
from tests.campaigns.fuzz.weights import Weights

KEPT, DROPPED, FLAT = "kept", "dropped", "flat"
"""How many axes a value has: those of x, those without the last, or at most one."""


@dataclass
class Frame:
    """What the expressions are about: x's type and shape, and the tensors that leaves stand for."""

    elem_type: int
    shape: tuple[Dim, ...]
    hidden: int
    tensors: dict[str, tuple[str, int]]
    vectors: dict[str, np.ndarray]

    @property
    def rank(self) -> int:
        """How many axes x has."""
        return len(self.shape)


@dataclass
class Emitter:
    """Emits expressions into a draft. `interior` are the values made on the way, by name."""

    draft: Draft
    choices: Choices
    frame: Frame
    interior: dict[str, tuple[int, str]] = field(default_factory=dict)
    _memo: dict[tuple[Expr, int, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = Weights(self.draft, self.choices, self.frame.rank, self.frame.vectors)
        self.sharing = self.choices.pick("sharing", ("all", "some", "none"))

    def emit(self, expr: Expr, elem_type: int, form: str = KEPT) -> str:
        """The name of a value in a type and form."""
        if extent(expr) == NUMBER and not self.choices.chance("computed number", 50):
            number = folded(expr)
            expr = expr if number is None else Num(number)
        key = (expr, elem_type, form)
        # No recogniser reads weights, so the same weights are always the same tensor.
        if key in self._memo and (extent(expr) == VECTOR or self._shares()):
            return self._memo[key]
        if form == KEPT and self._drops(expr):
            name = self._put_back(self.emit(expr, elem_type, DROPPED))
        else:
            name = self._make(expr, elem_type, form)
            if not isinstance(expr, Leaf | Num) and form == KEPT:
                name = self._pass_on(name, elem_type, extent(expr) == FULL)
        self._memo[key] = name
        if form == KEPT and extent(expr) in (FULL, STATISTIC):
            self.interior.setdefault(name, (elem_type, extent(expr)))
        return name

    def _shares(self) -> bool:
        if self.sharing == "some":
            return not self.choices.chance("computed again", 50)
        return self.sharing == "all"

    def _make(self, expr: Expr, elem_type: int, form: str) -> str:
        if isinstance(expr, Leaf):
            return self._leaf(expr, elem_type, form)
        if isinstance(expr, Num):
            return self.number(expr.value, elem_type, form)
        if isinstance(expr, Add):
            return self._add(expr, elem_type, form)
        if isinstance(expr, Mul):
            return self._mul(expr, elem_type, form)
        if isinstance(expr, Neg):
            return self._neg(expr, elem_type, form)
        if isinstance(expr, Pow):
            return self._pow(expr, elem_type, form)
        if isinstance(expr, Mean):
            return self._mean(expr, elem_type, form)
        if isinstance(expr, At):
            return self.draft.cast(self.emit(expr.arg, expr.elem_type, form), elem_type)
        if isinstance(expr, NormOp):
            return self._operator(expr, elem_type)
        assert isinstance(expr, Call), expr
        operands = [expr.arg] if expr.other is None else [expr.arg, expr.other]
        return self.draft.node(expr.operator, [self.emit(o, elem_type, form) for o in operands])

    def _leaf(self, leaf: Leaf, elem_type: int, form: str) -> str:
        if leaf.extent == VECTOR and leaf.role in self.frame.vectors:
            return self.weights.vector(leaf.role, self.frame.elem_type, elem_type, form == FLAT)
        name, own = self.frame.tensors[leaf.role]
        return name if own == elem_type else self.draft.cast(name, elem_type)

    def number(self, value: Fraction, elem_type: int, form: str = KEPT) -> str:
        """A constant number: a scalar, or of as many axes as fit."""
        most = {KEPT: self.frame.rank, DROPPED: min(1, self.frame.rank - 1), FLAT: 1}[form]
        shape = (1,) * self.choices.pick("number's rank", (0, 0, 0, min(1, most), most))
        return self.draft.constant(np.full(shape, float(value)).astype(dtype_of(elem_type)))

    def _binary(self, op_type: str, left: Expr, right: Expr, elem_type: int, form: str) -> str:
        """Two operands, emitted in either order."""
        names = [self.emit(operand, elem_type, form) for operand in (left, right)]
        if op_type in ("Add", "Mul") and self.choices.chance("operands swapped", 30):
            names.reverse()
        return self.draft.node(op_type, names)

    def _add(self, expr: Add, elem_type: int, form: str) -> str:
        left, right = expr.left, expr.right
        if isinstance(left, Neg) and not isinstance(right, Neg):
            left, right = right, left
        if isinstance(right, Neg) and not self.choices.chance("difference by Neg", 15):
            if isinstance(left, Neg) and self.choices.chance("Neg outside", 30):
                total = self._binary("Add", left.arg, right.arg, elem_type, form)
                return self.draft.node("Neg", [total])
            if self.choices.chance("difference turned", 8):
                turned = self._binary("Sub", right.arg, left, elem_type, form)
                return self.draft.node("Neg", [turned])
            return self._binary("Sub", left, right.arg, elem_type, form)
        return self._binary("Add", expr.left, expr.right, elem_type, form)

    def _mul(self, expr: Mul, elem_type: int, form: str) -> str:
        for one, other in ((expr.right, expr.left), (expr.left, expr.right)):
            if isinstance(one, Mean) and self._is_sum(one, other):
                return self._reduce("ReduceSum", one, elem_type, form)
            if isinstance(one, Pow) and one.exponent < 0:
                if self.choices.chance("quotient by product", 25):
                    break
                under = self.emit(_power(one.arg, -one.exponent), elem_type, form)
                return self.draft.node("Div", [self.emit(other, elem_type, form), under])
        return self._binary("Mul", expr.left, expr.right, elem_type, form)

    def _is_sum(self, mean: Mean, other: Expr) -> bool:
        """n * mean(a) is a sum."""
        counts = other == Num(Fraction(self.frame.hidden)) and mean.axes == "last"
        return counts and extent(mean.arg) == FULL and not self.choices.chance("n times mean", 30)

    def _neg(self, expr: Neg, elem_type: int, form: str) -> str:
        arg = expr.arg
        if isinstance(arg, Add) and isinstance(arg.right, Neg) and self.choices.chance("turn", 20):
            return self._binary("Sub", arg.right.arg, arg.left, elem_type, form)
        name = self.emit(arg, elem_type, form)
        spellings = ("Neg", "Neg", "Mul", "Sub")
        if extent(arg) == FULL and not self.choices.chance("x behind a sum", 60):
            spellings = spellings[:-1]
        spelling = self.choices.pick("neg", spellings)
        if spelling == "Neg":
            return self.draft.node("Neg", [name])
        if spelling == "Mul":
            return self.draft.node("Mul", [name, self.number(Fraction(-1), elem_type, form)])
        return self.draft.node("Sub", [self.number(Fraction(0), elem_type, form), name])

    def _pow(self, expr: Pow, elem_type: int, form: str) -> str:
        arg, exponent = expr.arg, expr.exponent
        if exponent == 2:
            return self._squared(arg, elem_type, form)
        if exponent == HALF and self.choices.pick("root", ("Sqrt", "Sqrt", "Pow")) == "Sqrt":
            return self.draft.node("Sqrt", [self.emit(arg, elem_type, form)])
        if exponent == -1:
            return self._reciprocal(self.emit(arg, elem_type, form), elem_type, form)
        if exponent == -HALF:
            return self._inverse_root(arg, elem_type, form)
        return self._power(self.emit(arg, elem_type, form), exponent, elem_type, form)

    def _squared(self, arg: Expr, elem_type: int, form: str) -> str:
        if self.choices.pick("square", ("Mul", "Pow")) == "Pow":
            return self._power(self.emit(arg, elem_type, form), Fraction(2), elem_type, form)
        return self._binary("Mul", arg, arg, elem_type, form)

    def _inverse_root(self, arg: Expr, elem_type: int, form: str) -> str:
        spelling = self.choices.pick(
            "inverse root", ("1/Sqrt", "1/Sqrt", "Pow", "Sqrt of 1/", "Pow of 1/", "1/Pow")
        )
        under = self.emit(arg, elem_type, form)
        if spelling == "Pow":
            return self._power(under, -HALF, elem_type, form)
        if spelling in ("Sqrt of 1/", "Pow of 1/"):
            inverse = self._reciprocal(under, elem_type, form)
            if spelling == "Sqrt of 1/":
                return self.draft.node("Sqrt", [inverse])
            return self._power(inverse, HALF, elem_type, form)
        root = (
            self.draft.node("Sqrt", [under])
            if spelling == "1/Sqrt"
            else self._power(under, HALF, elem_type, form)
        )
        return self._reciprocal(root, elem_type, form)

    def _reciprocal(self, name: str, elem_type: int, form: str) -> str:
        spelling = self.choices.pick("reciprocal", ("Reciprocal", "Reciprocal", "Div", "Pow"))
        if spelling == "Reciprocal":
            return self.draft.node("Reciprocal", [name])
        if spelling == "Pow":
            return self._power(name, Fraction(-1), elem_type, form)
        return self.draft.node("Div", [self.number(Fraction(1), elem_type, form), name])

    def _power(self, name: str, exponent: Fraction, elem_type: int, form: str) -> str:
        """Pow: from opset 12 the exponent may have another type (a wider float, an integer)."""
        # Pow has no bfloat16 exponents below opset 15.
        narrow = elem_type == BFLOAT16 and self.draft.opset < 15
        other = FLOAT if narrow else elem_type
        if self.draft.opset >= 12 and self.choices.chance("exponent of another type", 20):
            other = FLOAT
            if exponent.denominator == 1 and elem_type != BFLOAT16:
                number = self.draft.constant(np.array(int(exponent), np.int64))
                return self.draft.node("Pow", [name, number])
        return self.draft.node("Pow", [name, self.number(exponent, other, form)])

    def _mean(self, expr: Mean, elem_type: int, form: str) -> str:
        inner = extent(expr.arg)
        if inner == NUMBER:
            return self.emit(expr.arg, elem_type, form)
        if inner != FULL or expr.axes != "last" or not expr.kept:
            return self._reduce("ReduceMean", expr, elem_type, form)
        root = _root_of_square(expr.arg)
        if root is not None and self.choices.chance("sum of squares", 25):
            return self._sum_of_squares(Mean(root), elem_type, form)
        if self.choices.chance("mean by sum", 20):
            return self._over_n(self._reduce("ReduceSum", expr, elem_type, form), elem_type, form)
        return self._reduce("ReduceMean", expr, elem_type, form)

    def _sum_of_squares(self, expr: Mean, elem_type: int, form: str) -> str:
        by = self.choices.pick("squares by", ("ReduceSumSquare", "ReduceL2"))
        rational = self.frame.hidden in (4, 16)
        if by == "ReduceSumSquare" or not (
            rational or self.choices.chance("irrational length", 60)
        ):
            total = self._reduce("ReduceSumSquare", expr, elem_type, form)
        else:
            length = self._reduce("ReduceL2", expr, elem_type, form)
            total = self.draft.node("Mul", [length, length])
        return self._over_n(total, elem_type, form)

    def _over_n(self, total: str, elem_type: int, form: str) -> str:
        n = Fraction(self.frame.hidden)
        exact = self.frame.hidden & (self.frame.hidden - 1) == 0
        if exact and self.choices.chance("times 1/n", 40):
            return self.draft.node("Mul", [total, self.number(1 / n, elem_type, form)])
        if "x" in self.frame.tensors and self.choices.chance("n from the shape", 15):
            count = self._extent_of_x(elem_type)
        else:
            count = self.number(n, elem_type, form)
        return self.draft.node("Div", [total, count])

    def _extent_of_x(self, elem_type: int) -> str:
        shape = self.draft.node("Shape", [self.frame.tensors["x"][0]])
        at = self.choices.pick("last axis of a shape", (self.frame.rank - 1, -1))
        index = self.draft.constant(np.array(at, np.int64))
        return self.draft.cast(self.draft.node("Gather", [shape, index], axis=0), elem_type)

    def _reduce(self, op_type: str, expr: Mean, elem_type: int, form: str) -> str:
        name = self.emit(expr.arg, elem_type)
        keepdims = int(form == KEPT and expr.kept)
        axes = self._axes(expr.axes)
        if axes is not None and extent(expr.arg) == VECTOR:
            # A weight has fewer axes than x: its last one is counted from the end.
            axes = tuple(axis - self.frame.rank if axis >= 0 else axis for axis in axes)
        return self.draft.reduce(op_type, name, axes, keepdims)

    def _axes(self, which: str) -> Sequence[int] | None:
        rank = self.frame.rank
        positive = self.choices.pick("axes counted from the end", (True, False)) is False
        if which == "all":
            return self.choices.pick("all axes", (tuple(range(rank)), None))
        axes = {"last": (-1,), "other": (-2,), "two": (-2, -1)}[which]
        return tuple(axis + rank for axis in axes) if positive else axes

    def _drops(self, expr: Expr) -> bool:
        """Whether a statistic is computed without its axis, which is put back afterwards."""
        if extent(expr) != STATISTIC or not isinstance(expr, Add | Mul | Pow | Mean):
            return False
        return _may_drop(expr) and self.choices.chance("axis dropped and put back", 7)

    def _put_back(self, name: str) -> str:
        outer = self.frame.shape[:-1]
        symbols = sum(isinstance(dim, str) for dim in outer)
        if (
            not symbols or (symbols == 1 and self.choices.chance("-1 in Reshape", 50))
        ) and self.choices.chance("put back by Reshape", 30):
            shape = [dim if isinstance(dim, int) else -1 for dim in outer]
            return self.draft.node("Reshape", [name, self.draft.integers([*shape, 1])])
        return self.draft.unsqueeze(name, [self.choices.pick("put back at", (-1, len(outer)))])

    def _pass_on(self, name: str, elem_type: int, whole: bool) -> str:
        """Now and then a node that changes nothing."""
        if not self.choices.chance("identity", 3):
            return name
        kinds = ("Identity", "Dropout", "Cast", "Casts")
        if whole and not self.choices.chance("casts there and back", 60):
            kinds = kinds[:-1]
        kind = self.choices.pick("identity by", kinds)
        if kind == "Cast":
            return self.draft.cast(name, elem_type)
        if kind == "Casts" and elem_type != DOUBLE:
            wider = DOUBLE if elem_type == FLOAT else FLOAT
            return self.draft.cast(self.draft.cast(name, wider), elem_type)
        return self.draft.node("Dropout" if kind == "Dropout" else "Identity", [name])

    def _operator(self, expr: NormOp, elem_type: int) -> str:
        inputs = [self.emit(expr.arg, elem_type), self._parameter(expr.scale, elem_type)]
        if expr.bias is not None:
            inputs.append(self._parameter(expr.bias, elem_type))
        axis = self.choices.pick("axis of a norm", (None, -1, self.frame.rank - 1))
        attributes = {} if axis is None else {"axis": axis}
        epsilon = float(expr.epsilon)
        return self.draft.node(expr.operator, inputs, epsilon=epsilon, **attributes)

    def _parameter(self, expr: Expr | None, elem_type: int) -> str:
        """A vector of (H) for an operator that asks for one."""
        if expr is None or isinstance(expr, Num):
            value = 1.0 if expr is None else float(expr.value)
            array = np.full(self.frame.hidden, value).astype(dtype_of(elem_type))
            return self.draft.constant(array)
        return self.emit(expr, elem_type, FLAT)


def _power(arg: Expr, exponent: Fraction) -> Expr:
    return arg if exponent == 1 else Pow(arg, exponent)


def _root_of_square(expr: Expr) -> Expr | None:
    if isinstance(expr, Pow) and expr.exponent == 2:
        return expr.arg
    if isinstance(expr, Mul) and expr.left == expr.right:
        return expr.left
    return None


def _may_drop(expr: Expr) -> bool:
    """Whether every statistic in it comes from a mean over x that this emitter makes itself."""
    if isinstance(expr, Mean):
        return expr.axes == "last" and expr.kept and extent(expr.arg) == FULL
    if isinstance(expr, Num):
        return True
    if isinstance(expr, Add | Mul):
        return _may_drop(expr.left) and _may_drop(expr.right)
    if isinstance(expr, Neg | Pow):
        return _may_drop(expr.arg)
    return False

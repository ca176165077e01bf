"""Expressions: what a norm says, before it is spelt in operators.

Differences are sums with a Neg and quotients are products with a Pow; which operator stands for
them is the emitter's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cache

HALF = Fraction(1, 2)

FULL, STATISTIC, VECTOR, NUMBER = "full", "statistic", "vector", "number"
"""The extent of a value: (.., H), (.., 1), (H), ()."""


@dataclass(frozen=True)
class Expr:
    """An expression."""


@dataclass(frozen=True)
class Leaf(Expr):
    """A tensor by its role: x is the sum, others are weights or activations."""

    role: str
    extent: str = FULL


@dataclass(frozen=True)
class Num(Expr):
    """A constant number."""

    value: Fraction


@dataclass(frozen=True)
class Add(Expr):
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Mul(Expr):
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Neg(Expr):
    arg: Expr


@dataclass(frozen=True)
class Pow(Expr):
    arg: Expr
    exponent: Fraction


@dataclass(frozen=True)
class Mean(Expr):
    """A mean: over the last axis, another one, the last two or all of them.

    `kept` is false where the reduced axis is dropped and never put back, an illegal move.
    """

    arg: Expr
    axes: str = "last"
    kept: bool = True


@dataclass(frozen=True)
class Call(Expr):
    """An operator beyond the algebra, of one operand, or of a second one that is a number."""

    operator: str
    arg: Expr
    other: Expr | None = None


@dataclass(frozen=True)
class At(Expr):
    """An expression computed in another float type and cast back."""

    elem_type: int
    arg: Expr


@dataclass(frozen=True)
class NormOp(Expr):
    """ONNX's LayerNormalization or RMSNormalization."""

    operator: str
    arg: Expr
    scale: Expr | None
    bias: Expr | None
    epsilon: Fraction


X = Leaf("x")


def sub(left: Expr, right: Expr) -> Expr:
    """A difference."""
    return Add(left, Neg(right))


def square(arg: Expr) -> Expr:
    """A square."""
    return Pow(arg, Fraction(2))


def times(*factors: Expr | None) -> Expr:
    """The product of the factors that are there."""
    there = [factor for factor in factors if factor is not None]
    product = there[0]
    for factor in there[1:]:
        product = Mul(product, factor)
    return product


def children(expr: Expr) -> Iterator[tuple[str, Expr]]:
    """The operands, each with its field's name."""
    for name in _operand_fields(type(expr)):
        value = getattr(expr, name)
        if value is not None:
            yield name, value


@cache
def _operand_fields(kind: type[Expr]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if str(f.type).startswith("Expr"))


@cache
def extent(expr: Expr) -> str:
    """The extent of a value."""
    if isinstance(expr, Leaf):
        return expr.extent
    if isinstance(expr, NormOp):
        return FULL
    if isinstance(expr, Mean):
        inner = extent(expr.arg)
        if expr.axes == "other" or not expr.kept:
            return FULL
        return inner if inner in (STATISTIC, NUMBER) else STATISTIC
    found = {extent(child) for _, child in children(expr)} - {NUMBER}
    if not found:
        return NUMBER
    return found.pop() if len(found) == 1 else FULL


def size(expr: Expr) -> int:
    """How many expressions it is made of."""
    return 1 + sum(size(child) for _, child in children(expr))


def mentions(expr: Expr, role: str) -> bool:
    """Whether a tensor occurs in it."""
    if isinstance(expr, Leaf):
        return expr.role == role
    return any(mentions(child, role) for _, child in children(expr))


def is_reduced(expr: Expr) -> bool:
    """Whether some mean or operator is of x itself, or of a product or power of it."""
    for _, part in places(expr):
        if isinstance(part, Mean | NormOp) and _is_product_of_x(part.arg):
            return True
    return False


def _is_product_of_x(expr: Expr) -> bool:
    if isinstance(expr, Mul):
        return _is_product_of_x(expr.left) or _is_product_of_x(expr.right)
    if isinstance(expr, Neg | Pow | At):
        return _is_product_of_x(expr.arg)
    return expr == X


def folded(expr: Expr) -> Fraction | None:
    """The value of an expression of numbers; None where it is no fraction."""
    if isinstance(expr, Num):
        return expr.value
    if isinstance(expr, Neg | Pow):
        inner = folded(expr.arg)
        if inner is None or isinstance(expr, Neg):
            return None if inner is None else -inner
        whole = expr.exponent.denominator == 1
        return inner**expr.exponent.numerator if whole else None
    if isinstance(expr, Add | Mul):
        left, right = folded(expr.left), folded(expr.right)
        if left is None or right is None:
            return None
        return left + right if isinstance(expr, Add) else left * right
    return None


Path = tuple[str, ...]


def places(expr: Expr, path: Path = ()) -> Iterator[tuple[Path, Expr]]:
    """Every expression in it with its path from the root, the root first."""
    yield path, expr
    for name, child in children(expr):
        yield from places(child, (*path, name))


def put(expr: Expr, path: Path, part: Expr) -> Expr:
    """The expression with another one at a path."""
    if not path:
        return part
    name, *rest = path
    return replace(expr, **{name: put(getattr(expr, name), tuple(rest), part)})  # type: ignore[arg-type]


def transform(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """The expression with `change` applied everywhere, from the root down, where it gives one."""
    changed = change(expr)
    if changed is not None:
        return changed
    parts = {name: transform(child, change) for name, child in children(expr)}
    return replace(expr, **parts) if parts else expr  # type: ignore[arg-type]

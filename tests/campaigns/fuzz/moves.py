"""Moves: identities over the reals. Each rewrites one place of an expression, whatever is in it.

They hold for every value of every tensor, with no condition on signs, except that a root's
argument is a variance plus a positive number wherever `root` moves meet it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.tree import (
    HALF,
    NUMBER,
    STATISTIC,
    VECTOR,
    Add,
    At,
    Expr,
    Leaf,
    Mean,
    Mul,
    Neg,
    NormOp,
    Num,
    Pow,
    extent,
    places,
    put,
    size,
    square,
)

Move = Callable[[Expr, random.Random], Expr | None]

MAX_SIZE = 70
"""Beyond it an expression is no spelling that anyone writes."""

ONE, MINUS_ONE, TWO, ZERO = Num(Fraction(1)), Num(Fraction(-1)), Num(Fraction(2)), Num(Fraction(0))


def _commute(expr: Expr, _: random.Random) -> Expr | None:
    if isinstance(expr, Add | Mul):
        return type(expr)(expr.right, expr.left)
    return None


def _reassociate(expr: Expr, rng: random.Random) -> Expr | None:
    if not isinstance(expr, Add | Mul):
        return None
    kind = type(expr)
    leftward = isinstance(expr.right, kind)
    if isinstance(expr.left, kind) and (not leftward or rng.random() < 0.5):
        return kind(expr.left.left, kind(expr.left.right, expr.right))
    if leftward:
        return kind(kind(expr.left, expr.right.left), expr.right.right)
    return None


def _distribute(expr: Expr, _: random.Random) -> Expr | None:
    if not isinstance(expr, Mul):
        return None
    if isinstance(expr.right, Add):
        return Add(Mul(expr.left, expr.right.left), Mul(expr.left, expr.right.right))
    if isinstance(expr.left, Add):
        return Add(Mul(expr.left.left, expr.right), Mul(expr.left.right, expr.right))
    return None


def _factor(expr: Expr, _: random.Random) -> Expr | None:
    if isinstance(expr, Add) and isinstance(expr.left, Mul) and isinstance(expr.right, Mul):
        if expr.left.left == expr.right.left:
            return Mul(expr.left.left, Add(expr.left.right, expr.right.right))
        if expr.left.right == expr.right.right:
            return Mul(Add(expr.left.left, expr.right.left), expr.left.right)
    return None


def _square(expr: Expr, rng: random.Random) -> Expr | None:
    """Of a sum, a product or a Neg; or as a product."""
    if not isinstance(expr, Pow) or expr.exponent != 2:
        return None
    arg = expr.arg
    if isinstance(arg, Add):
        middle = Mul(TWO, Mul(arg.left, arg.right))
        return Add(Add(square(arg.left), middle), square(arg.right))
    if isinstance(arg, Mul):
        return Mul(square(arg.left), square(arg.right))
    if isinstance(arg, Neg):
        return square(arg.arg)
    return Mul(arg, arg) if rng.random() < 0.5 else square(Neg(arg))


def _mean_of_sum(expr: Expr, _: random.Random) -> Expr | None:
    if not isinstance(expr, Mean) or not isinstance(expr.arg, Add) or not expr.kept:
        return None
    left, right = (_mean(expr, part) for part in (expr.arg.left, expr.arg.right))
    return None if left is None or right is None else Add(left, right)


def _mean(like: Mean, part: Expr) -> Expr | None:
    """The mean of a part of what a mean is over, if it has one of that shape."""
    inside = extent(part)
    if inside == NUMBER:
        return part
    return Mean(part, like.axes, like.kept) if inside not in (VECTOR, STATISTIC) else None


def _sum_of_means(expr: Expr, _: random.Random) -> Expr | None:
    if isinstance(expr, Add) and isinstance(expr.left, Mean) and isinstance(expr.right, Mean):
        left, right = expr.left, expr.right
        if (left.axes, left.kept) == (right.axes, right.kept):
            return Mean(Add(left.arg, right.arg), left.axes, left.kept)
    return None


def _factor_out_of_mean(expr: Expr, _: random.Random) -> Expr | None:
    if not isinstance(expr, Mean) or not isinstance(expr.arg, Mul):
        return None
    product = expr.arg
    for factor, rest in ((product.left, product.right), (product.right, product.left)):
        if extent(factor) == NUMBER or (extent(factor) == STATISTIC and _is_plain(expr)):
            return Mul(factor, Mean(rest, expr.axes, expr.kept))
    return None


def _into_mean(expr: Expr, _: random.Random) -> Expr | None:
    """k*mean(a) = mean(k*a), mean(a) + k = mean(a + k), for a number or a statistic k."""
    if not isinstance(expr, Mul | Add):
        return None
    for outer, mean in ((expr.left, expr.right), (expr.right, expr.left)):
        if not isinstance(mean, Mean):
            continue
        if extent(outer) == NUMBER or (extent(outer) == STATISTIC and _is_plain(mean)):
            return Mean(type(expr)(outer, mean.arg), mean.axes, mean.kept)
    return None


def _is_plain(mean: Mean) -> bool:
    return mean.axes == "last" and mean.kept


def _negate(expr: Expr, rng: random.Random) -> Expr | None:
    if isinstance(expr, Neg):
        inner = expr.arg
        if isinstance(inner, Add):
            return Add(Neg(inner.left), Neg(inner.right))
        if isinstance(inner, Mul):
            return Mul(Neg(inner.left), inner.right)
        return Mul(MINUS_ONE, inner) if rng.random() < 0.5 else Mul(inner, MINUS_ONE)
    if isinstance(expr, Mul) and isinstance(expr.left, Neg):
        return Neg(Mul(expr.left.arg, expr.right))
    if isinstance(expr, Mul) and isinstance(expr.right, Neg):
        return Neg(Mul(expr.left, expr.right.arg))
    return None


def _negate_twice(expr: Expr, _: random.Random) -> Expr | None:
    return Neg(Neg(expr)) if extent(expr) != NUMBER else None


def _add_nothing(expr: Expr, rng: random.Random) -> Expr | None:
    if extent(expr) == NUMBER:
        return None
    return rng.choice((Add(expr, ZERO), Mul(expr, ONE), Mul(ONE, expr), Add(expr, Neg(ZERO))))


def _split_factor(expr: Expr, rng: random.Random) -> Expr | None:
    """a = k * (a / k), for a power of two, so that nothing rounds."""
    if extent(expr) == NUMBER:
        return None
    k = Fraction(rng.choice((2, 4, -2, 8)))
    inverse: Expr = Num(1 / k) if rng.random() < 0.5 else Pow(Num(k), Fraction(-1))
    return Mul(Num(k), Mul(expr, inverse))


def _merge_numbers(expr: Expr, _: random.Random) -> Expr | None:
    if isinstance(expr, Mul) and isinstance(expr.left, Num) and isinstance(expr.right, Num):
        return Num(expr.left.value * expr.right.value)
    if isinstance(expr, Add) and isinstance(expr.left, Num) and isinstance(expr.right, Num):
        return Num(expr.left.value + expr.right.value)
    return None


def _scale_root(expr: Expr, rng: random.Random) -> Expr | None:
    """u^(-1/2) = k * (k^2 * u)^(-1/2), k > 0; the factor goes to each term of u."""
    if not isinstance(expr, Pow) or expr.exponent != -HALF:
        return None
    k = rng.choice((Fraction(2), Fraction(4), Fraction(1, 2)))
    if isinstance(expr.arg, Add):
        terms = [_times_number(k * k, term) for term in (expr.arg.left, expr.arg.right)]
        return Mul(Num(k), Pow(Add(*terms), -HALF))
    return Mul(Num(k), Pow(Mul(Num(k * k), expr.arg), -HALF))


def _times_number(k: Fraction, term: Expr) -> Expr:
    return Num(k * term.value) if isinstance(term, Num) else Mul(Num(k), term)


def _split_root(expr: Expr, _: random.Random) -> Expr | None:
    """u^(-1/2) = u^(-1) * u^(1/2), u > 0."""
    if isinstance(expr, Pow) and expr.exponent == -HALF and extent(expr) == STATISTIC:
        return Mul(Pow(expr.arg, Fraction(-1)), Pow(expr.arg, HALF))
    return None


MOVES: dict[str, Move] = {
    "commute": _commute,
    "reassociate": _reassociate,
    "distribute": _distribute,
    "factor": _factor,
    "square": _square,
    "mean of a sum": _mean_of_sum,
    "sum of means": _sum_of_means,
    "factor out of a mean": _factor_out_of_mean,
    "into a mean": _into_mean,
    "negate": _negate,
    "negate twice": _negate_twice,
    "add nothing": _add_nothing,
    "split a factor": _split_factor,
    "merge numbers": _merge_numbers,
    "scale the root": _scale_root,
    "split the root": _split_root,
}

COMMON = ("reassociate", "distribute", "square", "mean of a sum", "factor out of a mean")
"""Drawn more often than the others: these are what frameworks do."""

NAMES = (*MOVES, *COMMON)


def spell(expr: Expr, choices: Choices, only_where_safe: bool = False) -> Expr:
    """The expression after some moves. A near miss may divide by what is not positive, so there
    `only_where_safe` leaves its roots as they are.
    """
    count = choices.pick("moves", (0, 0, 1, 2, 2, 3, 4, 5, 6, 8))
    for _ in range(count):
        name = choices.pick("move", NAMES)
        rng = choices.random("place")
        if rng is None or (only_where_safe and name == "split the root"):
            continue
        moved = _apply(MOVES[name], expr, rng)
        if moved is None or size(moved) > MAX_SIZE:
            continue
        if _same_vectors(expr, moved) or choices.chance("vectors taken apart", 60):
            expr = moved
    return expr


def _same_vectors(before: Expr, after: Expr) -> bool:
    """Whether expressions of vectors stay whole: each is as often there, or not at all.

    The norm reads the vector that they give, so 1 + w here and w there have nothing in common.
    """
    old, new = (_compound_vectors(expr) for expr in (before, after))
    return all(old[vector] == count for vector, count in new.items())


def _compound_vectors(expr: Expr) -> Counter[Expr]:
    found: Counter[Expr] = Counter()
    for _, part in places(expr):
        if extent(part) == VECTOR and not isinstance(part, Leaf):
            found[part] += 1
    return found


def _apply(move: Move, expr: Expr, rng: random.Random) -> Expr | None:
    """The move at one of the places where it can be made."""
    found = list(places(expr))
    rng.shuffle(found)
    for path, part in found:
        if isinstance(part, At | NormOp) or (isinstance(part, Leaf) and not _may_wrap(part)):
            continue
        moved = move(part, rng)
        if moved is not None:
            return put(expr, path, moved)
    return None


def _may_wrap(leaf: Leaf) -> bool:
    """x and vectors may stand in a wrapping; roles that name an illegal tensor are left alone."""
    return leaf.role == "x" or leaf.extent == VECTOR

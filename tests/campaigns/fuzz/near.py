"""Illegal moves, by name: one of them makes a norm a near miss.

Each says how the meaning or the model changes. `numeric` is false where the float64 value stays
that of the definition and something else forbids to fuse; `silent` where nothing of the sum looks
like a norm any more, so no reason is owed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from tests.campaigns.fuzz.build import Builder, Limits
from tests.campaigns.fuzz.norm import LAYER, RMS, Norm
from tests.campaigns.fuzz.tree import (
    HALF,
    STATISTIC,
    VECTOR,
    Add,
    Call,
    Expr,
    Leaf,
    Mean,
    Mul,
    Neg,
    Num,
    Pow,
    X,
    square,
    sub,
    times,
    transform,
)

Spelling = Callable[[Builder, Norm], Expr]
ANY = Limits(no_wide=True)
A = Leaf("a")
WEIGHT = Leaf("scale", VECTOR)


@dataclass(frozen=True)
class Near:
    """An illegal move on the expression."""

    spelling: Spelling
    limits: Limits = ANY
    numeric: bool = True
    silent: bool = False


def assemble(norm: Norm, deviation: Expr, inverse: Expr) -> Expr:
    """scale * (deviation * inverse) + bias."""
    product = times(Mul(deviation, inverse), norm.scale)
    return product if norm.bias is None else Add(product, norm.bias)


def _plain(norm: Norm) -> tuple[Expr, Expr]:
    """The deviation and its variance."""
    return norm.deviation(), Mean(square(norm.deviation()))


def _inverse(change: Callable[[Expr, Num], Expr]) -> Spelling:
    """Another factor, made of the variance and epsilon, in the place of 1/sqrt(v + epsilon)."""

    def spelling(_: Builder, norm: Norm) -> Expr:
        deviation, variance = _plain(norm)
        return assemble(norm, deviation, change(variance, Num(norm.epsilon)))

    return spelling


def _variance(change: Callable[[Expr], Expr]) -> Spelling:
    """Another expression of the deviation in the place of the variance."""

    def spelling(_: Builder, norm: Norm) -> Expr:
        deviation = norm.deviation()
        return assemble(norm, deviation, norm.inverse(change(deviation)))

    return spelling


def _deviation(change: Callable[[Expr], Expr]) -> Spelling:
    """Another numerator, made of the deviation; the variance stays."""

    def spelling(_: Builder, norm: Norm) -> Expr:
        deviation, variance = _plain(norm)
        return assemble(norm, change(deviation), norm.inverse(variance))

    return spelling


def _everywhere(change: Callable[[Expr], Expr]) -> Spelling:
    """Another deviation, in the numerator and the variance."""

    def spelling(_: Builder, norm: Norm) -> Expr:
        deviation = change(norm.deviation())
        return assemble(norm, deviation, norm.inverse(Mean(square(deviation))))

    return spelling


def _means(expr: Expr, axes: str, kept: bool = True) -> Expr:
    """The expression with all its means taken over other axes."""

    def change(part: Expr) -> Expr | None:
        if isinstance(part, Mean):
            return Mean(_means(part.arg, axes, kept), axes, kept)
        return None

    return transform(expr, change)


def _axes(axes: str, where: str, kept: bool = True) -> Spelling:
    def spelling(_: Builder, norm: Norm) -> Expr:
        deviation, variance = _plain(norm)
        if where in ("mean", "everywhere"):
            deviation = _means(deviation, axes, kept)
        if where == "everywhere":
            variance = _means(variance, axes, kept)
        elif where == "variance":
            variance = Mean(square(deviation), axes, kept)
        return assemble(norm, deviation, norm.inverse(variance))

    return spelling


def _epsilon(role: str, extent: str) -> Spelling:
    """An epsilon that is a tensor; the builder makes it when it is emitted."""

    def spelling(_: Builder, norm: Norm) -> Expr:
        deviation, variance = _plain(norm)
        return assemble(norm, deviation, norm.inverse(variance, Leaf(role, extent)))

    return spelling


def _mixed_n(_: Builder, norm: Norm) -> Expr:
    """mean(x^2) over n - 1, less the square of the mean over n."""
    n = Fraction(norm.hidden)
    over = Call("Div", Mul(Num(n), Mean(square(X))), Num(n - 1))
    return assemble(norm, norm.deviation(), norm.inverse(sub(over, square(Mean(X)))))


def _short_mean(_: Builder, norm: Norm) -> Expr:
    """The mean over n - 1."""
    n = Fraction(norm.hidden)
    mean = Call("Div", Mul(Num(n), Mean(X)), Num(n - 1))
    return assemble(norm, sub(X, mean), norm.inverse(_plain(norm)[1]))


def _of_another(norm: Norm, tensor: Expr) -> tuple[Expr, Expr]:
    """Deviation and variance of another tensor."""
    deviation = sub(tensor, Mean(tensor)) if norm.kind == LAYER else tensor
    return deviation, Mean(square(deviation))


def _root_plus(number: Fraction) -> Callable[[Expr, Num], Expr]:
    return lambda v, e: Pow(Add(Pow(Add(v, e), HALF), Num(number)), Fraction(-1))


def _power(exponent: Fraction) -> Callable[[Expr, Num], Expr]:
    return lambda v, e: Pow(Add(v, e), exponent)


RMSES = Limits(kind=RMS, no_wide=True)
LAYERS = Limits(kind=LAYER, no_wide=True)
SQUARE = Limits(square=True, no_wide=True)
SQUARE_LAYERS = Limits(square=True, kind=LAYER, no_wide=True)

ALGEBRA: dict[str, Near] = {
    "epsilon outside the root": Near(
        _inverse(lambda v, e: Pow(Add(Pow(v, HALF), e), Fraction(-1)))
    ),
    "no epsilon": Near(_inverse(lambda v, _: Pow(v, -HALF))),
    "epsilon of zero": Near(_inverse(lambda v, _: Pow(Add(v, Num(Fraction(0))), -HALF))),
    "epsilon negative": Near(_inverse(lambda v, e: Pow(Add(v, Num(-e.value)), -HALF))),
    "epsilon taken away": Near(_inverse(lambda v, e: Pow(Add(v, Neg(e)), -HALF))),
    "epsilon is a maximum": Near(_inverse(lambda v, e: Pow(Call("Max", v, e), -HALF))),
    "epsilon per channel": Near(_epsilon("epsilon per channel", VECTOR)),
    "epsilon per row": Near(_epsilon("epsilon per row", STATISTIC)),
    "epsilon is an input": Near(_epsilon("epsilon as input", "number"), numeric=False),
    "epsilon can be overridden": Near(_epsilon("epsilon overridable", "number"), numeric=False),
    "epsilon added to x": Near(
        # In a LayerNorm it would be legal: there it adds epsilon^2 to the variance.
        lambda _, n: assemble(
            n, n.deviation(), Pow(Mean(square(Add(n.deviation(), Num(n.epsilon)))), -HALF)
        ),
        RMSES,
        silent=True,
    ),
    "fourth root": Near(_inverse(_power(Fraction(-1, 4)))),
    "cube root": Near(_inverse(_power(Fraction(-1, 3)))),
    "no root": Near(_inverse(_power(Fraction(-1)))),
    "times the root": Near(_inverse(_power(HALF)), silent=True),
    "cubes": Near(_variance(lambda d: Mean(Pow(d, Fraction(3))))),
    "fourth powers": Near(_variance(lambda d: Mean(Pow(d, Fraction(4))))),
    "absolute values": Near(_variance(lambda d: Mean(Call("Abs", d))), silent=True),
    "one added to the root": Near(_inverse(_root_plus(Fraction(1)))),
    "mean over another axis": Near(_axes("other", "mean"), LAYERS),
    "variance over another axis": Near(_axes("other", "variance")),
    "everything over another axis": Near(_axes("other", "everywhere")),
    "variance over all axes": Near(_axes("all", "variance"), LAYERS),
    "mean not put back": Near(_axes("last", "mean", kept=False), SQUARE_LAYERS),
    "variance not put back": Near(_axes("last", "variance", kept=False), SQUARE),
    "nothing put back": Near(_axes("last", "everywhere", kept=False), SQUARE),
    "mean over n - 1": Near(_short_mean, LAYERS),
    "one square over n - 1": Near(_mixed_n, LAYERS),
    "mean of a": Near(lambda _, n: assemble(n, sub(X, Mean(A)), n.inverse(_plain(n)[1])), LAYERS),
    "mean of a everywhere": Near(
        lambda _, n: assemble(n, sub(X, Mean(A)), n.inverse(Mean(square(sub(X, Mean(A)))))),
        LAYERS,
        silent=True,
    ),
    "variance of a": Near(
        lambda _, n: assemble(n, n.deviation(), n.inverse(_of_another(n, A)[1])), silent=True
    ),
    "deviation of a": Near(lambda _, n: assemble(n, _of_another(n, A)[0], n.inverse(_plain(n)[1]))),
    "norm of a": Near(
        lambda _, n: assemble(n, _of_another(n, A)[0], n.inverse(_of_another(n, A)[1])), silent=True
    ),
    "a added": Near(_deviation(lambda d: Add(d, A))),
    "number added": Near(_deviation(lambda d: Add(d, Num(HALF)))),
    "weight added": Near(_deviation(lambda d: Add(d, WEIGHT))),
    "mean under the root": Near(
        lambda _, n: assemble(n, n.deviation(), n.inverse(Add(_plain(n)[1], Mean(X))))
    ),
    "mean added": Near(_deviation(lambda _: Add(X, Mean(X))), LAYERS),
    "mean added everywhere": Near(_everywhere(lambda _: Add(X, Mean(X))), LAYERS),
    "mean twice": Near(_deviation(lambda _: sub(X, Mul(Num(Fraction(2)), Mean(X)))), LAYERS),
    "mean twice everywhere": Near(
        _everywhere(lambda _: sub(X, Mul(Num(Fraction(2)), Mean(X)))), LAYERS
    ),
    "variance taken away": Near(_inverse(lambda v, e: Pow(Add(e, Neg(v)), -HALF))),
    "square of the mean added": Near(
        _variance(lambda _: Add(Mean(square(X)), square(Mean(X)))), LAYERS
    ),
    "centred under the root alone": Near(_deviation(lambda _: X), LAYERS),
    "centred over the root alone": Near(_variance(lambda _: Mean(square(X))), LAYERS),
    "weights in the variance": Near(_variance(lambda d: Mean(Mul(WEIGHT, square(d))))),
    "weights before the norm": Near(
        _everywhere(lambda _: sub(Mul(WEIGHT, X), Mean(Mul(WEIGHT, X)))), LAYERS
    ),
    "weight of x alone": Near(_deviation(lambda _: sub(Mul(WEIGHT, X), Mean(X))), LAYERS),
    "tanh of the deviation": Near(_deviation(lambda d: Call("Tanh", d))),
    "sigmoid of x under the root": Near(
        _variance(lambda d: Mean(square(Call("Sigmoid", d)))), silent=True
    ),
}

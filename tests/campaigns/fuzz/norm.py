"""What is meant: a norm by its definition, in numpy, and as an expression to start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tests.campaigns.fuzz.choices import Choices
from tests.campaigns.fuzz.tree import (
    HALF,
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
    X,
    square,
    sub,
    times,
)

LAYER, RMS = "LayerNorm", "RMSNorm"
OPERATOR = {LAYER: "LayerNormalization", RMS: "RMSNormalization"}
OPERATOR_SINCE = {LAYER: 17, RMS: 23}


@dataclass(frozen=True)
class Norm:
    """scale * (x - m) / sqrt(multiple * variance + epsilon) + bias; m = 0 for an RMSNorm.

    `wide` is the type of the statistics where it is not the sum's. `vectors` are the weights'
    values by role.
    """

    kind: str
    hidden: int
    epsilon: Fraction
    multiple: Fraction = Fraction(1)
    scale: Expr | None = None
    bias: Expr | None = None
    wide: int | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def of(self, x: np.ndarray) -> np.ndarray:
        """The definition, in float64."""
        centre = x.mean(-1, keepdims=True) if self.kind == LAYER else 0.0
        variance = ((x - centre) ** 2).mean(-1, keepdims=True)
        root = np.sqrt(float(self.multiple) * variance + float(self.epsilon))
        scale = 1.0 if self.scale is None else _parameter(self.scale, self.vectors)
        bias = 0.0 if self.bias is None else _parameter(self.bias, self.vectors)
        return scale * (x - centre) / root + bias

    def deviation(self) -> Expr:
        """x - mean(x), or x."""
        return sub(X, Mean(X)) if self.kind == LAYER else X

    def expression(self, choices: Choices, opset: int) -> Expr:
        """The norm as an expression, in one of the ways that people write it."""
        if self.multiple == 1 and opset >= OPERATOR_SINCE[self.kind]:
            if choices.pick("spelling", ("operator", "algebra", "algebra")) == "operator":
                return self.by_operator(choices)
        elif opset >= OPERATOR_SINCE[RMS] and self.multiple == 1 and choices.chance("by RMS", 10):
            inner = NormOp(OPERATOR[RMS], self.deviation(), None, None, self.epsilon)
            return with_parameters(self, inner, Num(Fraction(1)), choices)
        deviation = self.deviation()
        inverse = self.inverse(self.variance(choices, deviation))
        return with_parameters(self, deviation, inverse, choices)

    def by_operator(self, choices: Choices) -> Expr:
        """ONNX's operator, of x or of something that gives the same."""
        arg: Expr = X
        epsilon = self.epsilon
        if self.kind == LAYER and choices.chance("shifted", 8):
            arg = self.deviation()
            if choices.chance("x behind a sum", 50):
                arg = Add(X, Num(Fraction(1, 2)))
        if choices.chance("stretched", 8):
            arg, epsilon = Mul(Num(Fraction(2)), arg), 4 * epsilon
        bias = self.bias if self.kind == LAYER else None
        if self.wide is not None and choices.chance("weights in the wide type", 60):
            # The weights of the operator have its type, so they stay outside.
            plain = At(self.wide, NormOp(OPERATOR[self.kind], arg, None, None, epsilon))
            return with_parameters(self, plain, Num(Fraction(1)), choices)
        return NormOp(OPERATOR[self.kind], arg, self.scale, bias, epsilon)

    def variance(self, choices: Choices, deviation: Expr) -> Expr:
        """Mean of squares of the deviation, or what is equal to it."""
        if self.kind == RMS:
            return Mean(square(X))
        mean = Mean(X)
        centred = Mean(square(deviation))
        return choices.pick(
            "variance",
            (
                centred,
                centred,
                centred,
                sub(Mean(square(X)), square(mean)),
                sub(Mean(square(X)), Mul(mean, mean)),
                Mean(Mul(X, deviation)),
                Mean(square(Add(Neg(X), mean))),
            ),
        )

    @property
    def rational(self) -> bool:
        """Whether the root of `multiple` is a fraction."""
        return self.multiple in (1, 4, 16)

    def inverse(self, variance: Expr, epsilon: Expr | None = None) -> Expr:
        """The inverse deviation."""
        n = Fraction(self.hidden)
        scaled = variance
        if self.multiple == n / (n - 1) and self.multiple != n:
            # 1/(n-1) rounds, so it stays a division.
            scaled = Call("Div", Mul(Num(n), variance), Num(n - 1))
        elif self.multiple != 1:
            scaled = Mul(Num(self.multiple), variance)
        return Pow(Add(scaled, epsilon or Num(self.epsilon)), -HALF)


def with_parameters(norm: Norm, deviation: Expr, inverse: Expr, choices: Choices) -> Expr:
    """Deviation, inverse, scale and bias put together, in one of the usual orders."""
    one = inverse == Num(Fraction(1))
    order = "plain" if one else choices.pick("order", ("plain", "plain", "scale first", "folded"))
    if norm.wide is not None and not one:
        order = "plain"
    once = order != "folded" or norm.rational or choices.chance("irrational root twice", 60)
    if order == "folded" and once and isinstance(deviation, Add) and norm.kind == LAYER:
        return _folded(norm, inverse)
    if order == "scale first" and once:
        product = Mul(deviation, times(inverse, norm.scale))
    else:
        normal: Expr = deviation if one else Mul(deviation, inverse)
        product = _widened(norm, normal, choices, one)
        product = times(product, norm.scale)
    return product if norm.bias is None else Add(product, norm.bias)


def _folded(norm: Norm, inverse: Expr) -> Expr:
    """x * (r * scale) + (bias - m * (r * scale)), as TensorFlow writes it."""
    factor = times(inverse, norm.scale)
    shift = Neg(Mul(Mean(X), factor))
    return Add(Mul(X, factor), shift if norm.bias is None else Add(norm.bias, shift))


def _widened(norm: Norm, normal: Expr, choices: Choices, already: bool) -> Expr:
    """The normalised x in the wider type: all of it, or the variance alone."""
    if norm.wide is None or already:
        return normal
    if isinstance(normal, Mul) and choices.chance("inverse alone is wide", 25):
        return Mul(normal.left, At(norm.wide, normal.right))
    return At(norm.wide, normal)


def _parameter(expr: Expr, vectors: dict[str, np.ndarray]) -> np.ndarray | float:
    """The value of a scale or bias."""
    if isinstance(expr, Leaf):
        return vectors[expr.role].astype(np.float64)
    if isinstance(expr, Num):
        return float(expr.value)
    if isinstance(expr, Neg):
        return -_parameter(expr.arg, vectors)
    assert isinstance(expr, Add | Mul), expr
    left, right = _parameter(expr.left, vectors), _parameter(expr.right, vectors)
    return left + right if isinstance(expr, Add) else left * right


def draw_parameter(role: str, choices: Choices, product: bool) -> Expr | None:
    """A scale (`product`) or a bias: a vector, a number, an expression of vectors, or nothing."""
    first, second = Leaf(role, VECTOR), Leaf(role + "2", VECTOR)
    one = Num(Fraction(1))
    forms: tuple[Expr | None, ...] = (
        first,
        first,
        first,
        None,
        None,
        Num(Fraction(3, 4)),
        Add(one, first) if product else Add(first, second),
        Mul(first, second) if product else Mul(Num(Fraction(1, 2)), first),
        Mul(Num(Fraction(-3, 2)), first) if product else Neg(first),
    )
    return choices.pick(role, forms)

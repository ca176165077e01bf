"""The normal form: equal expressions have equal forms, and a form means what it says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphfuse.patterns import algebra, norms
from graphfuse.patterns.algebra import Refusal
from graphfuse.patterns.form import ZERO, Form, Leaf, Mean, Subject
from graphfuse.patterns.translate import normalize
from graphfuse.reasons import Reason
from graphfuse.records import LAYER_NORM, RMS_NORM, Expression

HALF = Fraction(1, 2)


def ok(value: Form | Refusal) -> Form:
    assert isinstance(value, Form), value
    return value


def value_of(form: Form, tensors: dict[str, np.ndarray]) -> Any:
    """Evaluate a form in float64: the test's own reading of what the atoms mean."""
    total: Any = 0.0
    for factors, number in form.terms.items():
        product: Any = float(number)
        for atom, exponent in factors:
            if isinstance(atom, Subject):
                base = tensors[X]
            elif isinstance(atom, Leaf):
                base = tensors[atom.name]
            elif isinstance(atom, Mean):
                inner = value_of(Form({atom.factors: Fraction(1)}), tensors)
                base = np.broadcast_to(inner, tensors[X].shape).mean(-1, keepdims=True)
            else:
                base = value_of(atom.base, tensors)
            product = product * base ** float(exponent)
        total = total + product
    return total


X_LEAF = algebra.subject()
X = "x"
W_LEAF = algebra.leaf("w", inner=True)
C_LEAF = algebra.leaf("c", inner=False)


def expressions() -> st.SearchStrategy[Form]:
    """Random polynomials in x, w, c, their means and numbers, small enough to have a form."""
    numbers = st.integers(-3, 3).map(algebra.constant)
    leaves = st.one_of(st.sampled_from([X_LEAF, W_LEAF, C_LEAF]), numbers)

    def grow(inner: st.SearchStrategy[Form]) -> st.SearchStrategy[Form]:
        pairs = st.tuples(inner, inner)
        return st.one_of(
            pairs.map(lambda p: algebra.add(*p)),
            pairs.map(lambda p: algebra.multiply(*p)),
            pairs.map(lambda p: algebra.subtract(*p)),
            inner.map(algebra.mean),
        ).filter(lambda form: isinstance(form, Form))

    return st.recursive(leaves, grow, max_leaves=6)


@given(expressions(), expressions(), expressions())
def test_ring_laws(a: Form, b: Form, c: Form) -> None:
    assert algebra.add(a, b) == algebra.add(b, a)
    assert algebra.multiply(a, b) == algebra.multiply(b, a)
    left, right = algebra.multiply(a, ok(algebra.add(b, c))), algebra.multiply(a, b)
    if isinstance(left, Form) and isinstance(right, Form):
        other = algebra.multiply(a, c)
        if isinstance(other, Form):
            assert left == algebra.add(right, other)
    assert algebra.subtract(a, a) == ZERO


@given(expressions(), expressions())
def test_mean_is_linear(a: Form, b: Form) -> None:
    whole = algebra.mean(ok(algebra.add(a, b)))
    parts = algebra.add(ok(algebra.mean(a)), ok(algebra.mean(b)))
    assert whole == parts
    assert algebra.mean(ok(algebra.mean(a))) == algebra.mean(a)


@given(expressions(), expressions(), st.integers(0, 5))
def test_forms_mean_what_the_expression_means(a: Form, b: Form, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = {X: rng.normal(size=(2, 5)), "w": rng.normal(size=5), "c": rng.normal(size=())}
    product = algebra.multiply(a, b)
    if isinstance(product, Form):
        expected = value_of(a, tensors) * value_of(b, tensors)
        assert np.allclose(value_of(product, tensors), expected, rtol=1e-9, atol=1e-9)
    average = ok(algebra.mean(a))
    expected = np.broadcast_to(value_of(a, tensors), (2, 5)).mean(-1, keepdims=True)
    assert np.allclose(value_of(average, tensors), expected, rtol=1e-9, atol=1e-9)


def test_two_variances_are_one() -> None:
    middle = ok(algebra.mean(X_LEAF))
    deviation = ok(algebra.subtract(X_LEAF, middle))
    centred = ok(algebra.mean(ok(algebra.power(deviation, Fraction(2)))))
    square = ok(algebra.mean(ok(algebra.power(X_LEAF, Fraction(2)))))
    raw = ok(algebra.subtract(square, ok(algebra.power(middle, Fraction(2)))))
    assert centred == raw


def test_root_of_a_square_is_not_the_base() -> None:
    square = ok(algebra.power(X_LEAF, Fraction(2)))
    root = ok(algebra.power(square, HALF))
    assert root != X_LEAF
    assert algebra.multiply(root, root) == square
    mean_square = ok(algebra.mean(square))
    root = ok(algebra.power(mean_square, HALF))
    assert algebra.power(root, Fraction(2)) == mean_square


def variance() -> Form:
    middle = ok(algebra.mean(X_LEAF))
    deviation = ok(algebra.subtract(X_LEAF, middle))
    return ok(algebra.mean(ok(algebra.power(deviation, Fraction(2)))))


def test_square_of_a_root_is_the_sum_again() -> None:
    """For a variance, which cannot be negative; a root of anything else may have no value."""
    total = ok(algebra.add(variance(), algebra.constant(3)))
    root = ok(algebra.power(total, HALF))
    assert algebra.multiply(root, root) == total
    for other in (ok(algebra.add(X_LEAF, algebra.constant(3))), X_LEAF, ok(algebra.mean(X_LEAF))):
        half = ok(algebra.power(other, HALF))
        assert isinstance(algebra.multiply(half, half), Refusal)


def test_only_what_is_positive_cancels() -> None:
    total = ok(algebra.add(variance(), algebra.constant(3)))
    inverse = ok(algebra.power(total, Fraction(-1)))
    root = ok(algebra.power(total, HALF))
    assert algebra.multiply(root, inverse) == algebra.power(total, -HALF)
    for other in (X_LEAF, W_LEAF, ok(algebra.mean(X_LEAF)), variance()):
        product = algebra.multiply(other, ok(algebra.power(other, Fraction(-1))))
        assert isinstance(product, Refusal) or product.number is None


def test_a_tensor_named_x_is_not_the_subject() -> None:
    assert algebra.leaf("x", inner=True) != algebra.subject()


def test_numbers_are_bounded() -> None:
    form: Form | Refusal = algebra.scale(X_LEAF, Fraction(0.1))
    for _ in range(20):
        assert isinstance(form, Form)
        form = algebra.multiply(form, form)
        if isinstance(form, Refusal):
            break
    assert isinstance(form, Refusal)
    assert form.reason is Reason.TOO_COMPLEX


def test_a_factor_moves_out_of_a_root() -> None:
    total = ok(algebra.add(X_LEAF, algebra.constant(2)))
    inside = ok(algebra.power(algebra.scale(total, Fraction(4)), HALF))
    outside = algebra.scale(ok(algebra.power(total, HALF)), Fraction(2))
    assert inside == outside


def test_growth_is_bounded() -> None:
    form: Form | Refusal = X_LEAF
    for name in "abcdefgh":
        assert isinstance(form, Form)
        form = algebra.add(form, algebra.leaf(name, inner=True))
    squared = algebra.power(ok(form), Fraction(2))
    assert isinstance(squared, Refusal)
    assert squared.reason is Reason.TOO_COMPLEX


@pytest.mark.parametrize(("centred", "kind"), [(True, LAYER_NORM), (False, RMS_NORM)])
def test_the_definition_matches_itself(centred: bool, kind: str) -> None:
    form = ok(normalize(X_LEAF, 1e-5, centred))
    norm = norms.match(form)
    assert isinstance(norm, norms.Norm)
    assert norm.kind == kind
    assert norm.epsilon == 1e-5
    assert norm.scale == algebra.constant(1)
    assert norm.bias == ZERO


def test_the_norm_form_evaluates_to_the_norm() -> None:
    x = np.random.default_rng(0).normal(3, 2, (4, 16))
    form = ok(normalize(X_LEAF, 1e-5, centred=True))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    assert np.allclose(value_of(form, {X: x}), expected, rtol=1e-9)


def test_sample_variance_is_a_rescaled_norm() -> None:
    """(c*v + eps)^(-1/2) = c^(-1/2) * (v + eps/c)^(-1/2), c = n/(n-1)."""
    middle = ok(algebra.mean(X_LEAF))
    deviation = ok(algebra.subtract(X_LEAF, middle))
    variance = ok(algebra.mean(ok(algebra.power(deviation, Fraction(2)))))
    sample = algebra.scale(variance, Fraction(8, 7))
    under = ok(algebra.add(sample, algebra.constant(Fraction(1, 1000))))
    form = ok(algebra.multiply(deviation, ok(algebra.power(under, -HALF))))
    norm = norms.match(form)
    assert isinstance(norm, norms.Norm)
    assert norm.epsilon == pytest.approx(1e-3 * 7 / 8, rel=1e-15)
    assert float(norm.scale.number or 0) == pytest.approx((7 / 8) ** 0.5, rel=1e-15)
    scale = norms.parameter(norm.scale, 1, {})
    assert isinstance(scale, Expression)
    assert norms.parameter(norm.bias, 0, {}) is None

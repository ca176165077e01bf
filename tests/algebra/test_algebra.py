"""The normal form: equal expressions have equal forms, and a form means what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphfuse.algebra import Form, constant, leaf, mean, norms, subject
from graphfuse.algebra.atoms import Leaf, Mean, Subject
from graphfuse.algebra.form import ZERO
from graphfuse.algebra.norms import normalize
from graphfuse.records import Expression, NormKind
from graphfuse.records.reasons import Reason, RefusedError

HALF = Fraction(1, 2)


def form_of(operation: Callable[[], Form]) -> Form | None:
    """What an operation gives; None where it has no form."""
    try:
        return operation()
    except RefusedError:
        return None


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


X = "x"
X_LEAF = subject()
W_LEAF = leaf("w", inner=True)
C_LEAF = leaf("c", inner=False)


def expressions() -> st.SearchStrategy[Form]:
    """Random polynomials in x, w, c, their means and numbers, small enough to have a form."""
    numbers = st.integers(-3, 3).map(constant)
    leaves = st.one_of(st.sampled_from([X_LEAF, W_LEAF, C_LEAF]), numbers)

    def grow(inner: st.SearchStrategy[Form]) -> st.SearchStrategy[Form]:
        pairs = st.tuples(inner, inner)
        return st.one_of(
            pairs.map(lambda p: form_of(lambda: p[0] + p[1])),
            pairs.map(lambda p: form_of(lambda: p[0] * p[1])),
            pairs.map(lambda p: form_of(lambda: p[0] - p[1])),
            inner.map(lambda a: form_of(lambda: mean(a))),
        ).filter(lambda form: form is not None)

    return st.recursive(leaves, grow, max_leaves=6)


@given(expressions(), expressions(), expressions())
def test_ring_laws(a: Form, b: Form, c: Form) -> None:
    assert a + b == b + a
    product = form_of(lambda: a * b)
    assert product == form_of(lambda: b * a)
    left, other = form_of(lambda: a * (b + c)), form_of(lambda: a * c)
    if left is not None and product is not None and other is not None:
        assert left == product + other
    assert a - a == ZERO
    assert -a == ZERO - a


@given(expressions(), expressions())
def test_mean_is_linear(a: Form, b: Form) -> None:
    assert mean(a + b) == mean(a) + mean(b)
    assert mean(mean(a)) == mean(a)


@given(expressions(), expressions(), st.integers(0, 5))
def test_forms_mean_what_the_expression_means(a: Form, b: Form, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = {X: rng.normal(size=(2, 5)), "w": rng.normal(size=5), "c": rng.normal(size=())}
    product = form_of(lambda: a * b)
    if product is not None:
        expected = value_of(a, tensors) * value_of(b, tensors)
        assert np.allclose(value_of(product, tensors), expected, rtol=1e-9, atol=1e-9)
    expected = np.broadcast_to(value_of(a, tensors), (2, 5)).mean(-1, keepdims=True)
    assert np.allclose(value_of(mean(a), tensors), expected, rtol=1e-9, atol=1e-9)


def test_numbers_stand_on_either_side() -> None:
    assert 1 - X_LEAF == -(X_LEAF - 1)
    assert 2 * X_LEAF == X_LEAF * 2 == X_LEAF + X_LEAF
    assert X_LEAF / 4 == X_LEAF * 0.25
    total = variance() + 3
    assert 1 / total == total**-1


def variance() -> Form:
    return mean((X_LEAF - mean(X_LEAF)) ** 2)


def test_two_variances_are_one() -> None:
    assert variance() == mean(X_LEAF**2) - mean(X_LEAF) ** 2


def test_root_of_a_square_is_not_the_base() -> None:
    square = X_LEAF**2
    root = square**HALF
    assert root != X_LEAF
    assert root * root == square
    assert (mean(square) ** HALF) ** 2 == mean(square)


def test_square_of_a_root_is_the_sum_again() -> None:
    """For a variance, which cannot be negative; a root of anything else may have no value."""
    total = variance() + 3
    root = total**HALF
    assert root * root == total
    for other in (X_LEAF + 3, X_LEAF, mean(X_LEAF)):
        half = other**HALF
        with pytest.raises(RefusedError) as refused:
            half * half
        assert refused.value.refusal.reason is Reason.EXPONENT


def test_only_what_is_positive_cancels() -> None:
    total = variance() + 3
    assert total**HALF * total**-1 == total**-HALF
    for other in (X_LEAF, W_LEAF, mean(X_LEAF), variance()):
        product = form_of(lambda other=other: other / other)
        assert product is None or product.number is None


def test_a_tensor_named_x_is_not_the_subject() -> None:
    assert leaf("x", inner=True) != subject()


def test_numbers_are_bounded() -> None:
    def squared(form: Form, times: int) -> Form:
        return squared(form * form, times - 1) if times else form

    with pytest.raises(RefusedError) as refused:
        squared(X_LEAF * Fraction(0.1), 20)
    assert refused.value.refusal.reason is Reason.TOO_COMPLEX


def test_a_factor_moves_out_of_a_root() -> None:
    total = X_LEAF + 2
    assert (total * 4) ** HALF == total**HALF * 2


def test_growth_is_bounded() -> None:
    form = X_LEAF
    for name in "abcdefgh":
        form += leaf(name, inner=True)
    with pytest.raises(RefusedError) as refused:
        form**2
    assert refused.value.refusal.reason is Reason.TOO_COMPLEX


def test_what_was_seen_is_text_when_somebody_asks() -> None:
    with pytest.raises(RefusedError) as refused:
        W_LEAF / W_LEAF
    assert refused.value.refusal.got == "w cancels against 1/w"
    with pytest.raises(RefusedError) as refused:
        leaf("{0}", inner=True) / leaf("{0}", inner=True)
    assert refused.value.refusal.got == "{0} cancels against 1/{0}"


def test_the_algebra_knows_no_onnx() -> None:
    code = "import graphfuse.algebra.norms, sys; print('onnx' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("centred", "kind"), [(True, NormKind.LAYER_NORM), (False, NormKind.RMS_NORM)]
)
def test_the_definition_matches_itself(centred: bool, kind: str) -> None:
    norm = norms.match(normalize(X_LEAF, 1e-5, centred))
    assert norm.kind == kind
    assert norm.epsilon == 1e-5
    assert norm.scale == constant(1)
    assert norm.bias == ZERO


def test_the_norm_form_evaluates_to_the_norm() -> None:
    x = np.random.default_rng(0).normal(3, 2, (4, 16))
    form = normalize(X_LEAF, 1e-5, centred=True)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    assert np.allclose(value_of(form, {X: x}), expected, rtol=1e-9)


def test_sample_variance_is_a_rescaled_norm() -> None:
    """(c*v + eps)^(-1/2) = c^(-1/2) * (v + eps/c)^(-1/2), c = n/(n-1)."""
    sample = variance() * Fraction(8, 7)
    norm = norms.match((X_LEAF - mean(X_LEAF)) * (sample + Fraction(1, 1000)) ** -HALF)
    assert norm.epsilon == pytest.approx(1e-3 * 7 / 8, rel=1e-15)
    assert float(norm.scale.number or 0) == pytest.approx((7 / 8) ** 0.5, rel=1e-15)
    scale = norms.parameter(norm.scale, 1, {})
    assert isinstance(scale, Expression)
    assert norms.parameter(norm.bias, 0, {}) is None

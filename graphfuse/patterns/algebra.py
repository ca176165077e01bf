"""The normal form of the arithmetic around a reduction.

A value is a sum of terms; a term is a rational number times atoms with rational exponents. Atoms:

    Subject  x, the tensor under study
    Leaf     another, opaque tensor: a scale, a bias
    Mean     the mean, over the normalised axes, of a product of atoms
    Root     a sum that stands under an exponent, (a + b)^p

Three identities bring every spelling of a norm to one form:

    mean(a + b) = mean(a) + mean(b);  mean(c * a) = c * mean(a) for c constant along the axes
    (c * a + b)^p = c^p * (a + b/c)^p   for c > 0
    products and small integer powers of sums are multiplied out

so mean((x - m)^2) and mean(x^2) - m^2 are the same with m = mean(x). Numbers are exact
(fractions), so equal expressions have equal forms whatever the order of their operations.

What has no form is a Refusal: too many terms or digits, and every step that holds only where a
value is not 0 or not negative, unless that is known of it (a/a is not 1 where a is 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, prod

from graphfuse.patterns.form import (
    EMPTY,
    ONE,
    SUBJECT,
    ZERO,
    Atom,
    Form,
    Leaf,
    Mean,
    Monomial,
    Root,
    render_product,
)
from graphfuse.reasons import Reason

HALF = Fraction(1, 2)
PRIMES = [n for n in range(2, 100) if all(n % d for d in range(2, n))]

MAX_TERMS = 24
MAX_DEPTH = 3
"""Nesting of means and roots: the root of a variance of something normalised is the deepest."""
MAX_SIZE = 400
"""Atoms in a form, those inside others included."""
MAX_BITS = 900
"""Digits of a coefficient; within them every coefficient is a float64."""
MAX_EXPANDED_POWER = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an expression has no normal form: the catalogue's reason and what was seen.

    `seen` is printed only when someone reads it: most refusals are of no interest.
    """

    reason: Reason
    seen: object = ""

    @property
    def got(self) -> str:
        """What was seen, as text."""
        return str(self.seen)


def constant(value: float | Fraction) -> Form:
    """The form of a finite number."""
    return Form({EMPTY: Fraction(value)})


def subject() -> Form:
    """The form of x."""
    return Form({frozenset({(SUBJECT, ONE)}): ONE})


def leaf(name: str, inner: bool) -> Form:
    """The form of an opaque tensor."""
    return Form({frozenset({(Leaf(name, inner), ONE)}): ONE})


def add(left: Form, right: Form) -> Form | Refusal:
    """left + right."""
    terms = dict(left.terms)
    for factors, number in right.terms.items():
        terms[factors] = terms.get(factors, Fraction(0)) + number
    return _bounded(Form(terms))


def scale(form: Form, number: Fraction) -> Form:
    """number * form. The result is not bounded: callers add it to something that is."""
    return Form({factors: value * number for factors, value in form.terms.items()})


def subtract(left: Form, right: Form) -> Form | Refusal:
    """left - right."""
    return add(left, scale(right, Fraction(-1)))


def multiply(left: Form, right: Form) -> Form | Refusal:
    """left * right, multiplied out."""
    if len(left.terms) * len(right.terms) > MAX_TERMS**2:
        return Refusal(Reason.TOO_COMPLEX)
    total: Form | Refusal = ZERO
    for a, p in left.terms.items():
        for b, q in right.terms.items():
            product = _merge(a, b)
            if isinstance(product, Refusal):
                return product
            total = add(total, scale(product, p * q))
            if isinstance(total, Refusal):
                return total
    return total


def _merge(left: Monomial, right: Monomial) -> Form | Refusal:
    exponents = dict(left)
    for atom, exponent in right:
        before = exponents.get(atom)
        if before is not None and before * exponent < 0 and not _positive(atom):
            # w * (1/w) is 1 only where w is not 0: not an identity of the graph.
            return Refusal(Reason.NOT_THE_DEFINITION, f"{atom} cancels against 1/{atom}")
        exponents[atom] = (before or Fraction(0)) + exponent
    form = _with_one_surd(exponents)
    for atom, exponent in exponents.items():
        if isinstance(atom, Root) and _expands(atom, exponent):
            if not _non_negative_sum(atom.base):
                return Refusal(Reason.EXPONENT, f"the root of {atom.base}, which may be negative")
            expanded = power(atom.base, exponent)
            if isinstance(expanded, Refusal):
                return expanded
            result = multiply(form, expanded)
            if isinstance(result, Refusal):
                return result
            form = result
    return form


def _with_one_surd(exponents: Mapping[Atom, Fraction]) -> Form:
    """The product of what does not expand; of roots of numbers one is left, that of all."""
    kept = {(a, e) for a, e in exponents.items() if e and not _expands(a, e)}
    surds = [(a, e) for a, e in kept if e == HALF and surd(a) is not None]
    if len(surds) < 2:
        return Form({frozenset(kept): ONE})
    number = prod(surd(atom) or ONE for atom, _ in surds)
    ((factors, coefficient),) = number_power(Fraction(number), HALF).terms.items()
    return Form({frozenset(kept.difference(surds) | factors): coefficient})


def surd(atom: Atom) -> Fraction | None:
    """The number that an atom is a root of; None for any other atom."""
    return atom.base.number if isinstance(atom, Root) else None


def _expands(atom: Atom, exponent: Fraction) -> bool:
    """(a + b)^(1/2) squared is a + b again: no root is left."""
    whole = exponent.denominator == 1 and 0 < exponent <= MAX_EXPANDED_POWER
    return isinstance(atom, Root) and whole


def _positive(atom: Atom) -> bool:
    """Whether a value is known to be greater than 0: a variance plus a positive number."""
    return isinstance(atom, Root) and atom.base.terms.get(EMPTY, 0) > 0 and _is_spread(atom.base)


def _non_negative_sum(form: Form) -> bool:
    return form.terms.get(EMPTY, 0) >= 0 and _is_spread(form)


def at_least(form: Form, number: Fraction) -> bool:
    """Whether a form is known to be a number or more, wherever it has a value.

    Of c * (a + b)^p with p > 0 it is where a + b is (number / c)^(1/p) or more.
    """
    if form.terms.get(EMPTY, 0) >= number and _is_spread(form):
        return True
    if len(form.terms) != 1:
        return False
    ((factors, coefficient),) = form.terms.items()
    if coefficient < 0 or number <= 0 or len(factors) != 1:
        return False
    ((atom, exponent),) = factors
    if not isinstance(atom, Root) or exponent != HALF:
        return False
    return at_least(atom.base, (number / coefficient) ** 2)


def _is_spread(form: Form) -> bool:
    """Whether the terms, numbers aside, are c*mean(a^2), or c*mean(a^2) - c*mean(a)^2, c > 0."""
    terms = {factors: number for factors, number in form.terms.items() if factors}
    for factors, number in list(terms.items()):
        if number > 0 and all(_non_negative_power(atom, e) for atom, e in factors):
            del terms[factors]
            square = _mean_of_base(factors)
            if square is not None and terms.get(square) == -number:
                del terms[square]
    return not terms


def _mean_of_base(factors: Monomial) -> Monomial | None:
    """mean(a)^2 for mean(a^2), which is never less."""
    if len(factors) != 1:
        return None
    ((atom, exponent),) = factors
    if not isinstance(atom, Mean) or exponent != 1:
        return None
    base = Mean(frozenset((inner, e / 2) for inner, e in atom.factors))
    return frozenset({(base, Fraction(2))})


def power(form: Form, exponent: Fraction) -> Form | Refusal:
    """form^exponent, for a rational exponent."""
    if exponent == 1:
        return form
    if exponent == 0 or not form.terms:
        return Refusal(Reason.EXPONENT, f"({form})^{exponent}")
    if exponent.denominator == 1 and 0 < exponent <= MAX_EXPANDED_POWER:
        return _expand(form, int(exponent))
    if len(form.terms) == 1:
        ((factors, number),) = form.terms.items()
        return _power_of_product(factors, number, exponent)
    return _power_of_sum(form, exponent)


def _expand(form: Form, times: int) -> Form | Refusal:
    result = form
    for _ in range(times - 1):
        product = multiply(result, form)
        if isinstance(product, Refusal):
            return product
        result = product
    return result


def _power_of_product(factors: Monomial, number: Fraction, p: Fraction) -> Form | Refusal:
    if number < 0 and p.denominator != 1:
        return Refusal(Reason.EXPONENT, f"root of {float(number):.6g}")
    coefficient = number_power(number, p)
    if not coefficient.terms:
        return Refusal(Reason.TOO_COMPLEX, "a number out of range")
    # (a^2)^(1/2) is |a|, and a^(1/2) has no value where a is negative: neither can be taken
    # apart again, so it stays as it is, as an atom of its own.
    if p.denominator != 1 and not all(e.denominator != 1 or _non_negative(a) for a, e in factors):
        opaque: Monomial = frozenset({(Root(Form({factors: ONE})), p)})
        return multiply(Form({opaque: ONE}), coefficient)
    form = coefficient
    for atom, exponent in factors:
        product = multiply(form, Form({frozenset({(atom, exponent * p)}): ONE}))
        if isinstance(product, Refusal):
            return product
        form = product
    return form


def _non_negative_power(atom: Atom, exponent: Fraction) -> bool:
    """Whether a power of an atom, where it has a value, is not negative."""
    even = exponent.denominator == 1 and exponent.numerator % 2 == 0
    return even or exponent.denominator != 1 or _non_negative(atom)


def _non_negative(atom: Atom) -> bool:
    """Whether an atom is known not to be negative: a mean of squares, a variance."""
    if isinstance(atom, Root):
        return _non_negative_sum(atom.base)
    return isinstance(atom, Mean) and all(_non_negative_power(a, e) for a, e in atom.factors)


def _power_of_sum(form: Form, exponent: Fraction) -> Form | Refusal:
    """(c * a + b)^p = |c|^p * (±a + b/|c|)^p, with c the coefficient of the first named term."""
    first = min((factors for factors in form.terms if factors), key=render_product, default=EMPTY)
    number = abs(form.terms[first])
    coefficient = number_power(number, exponent)
    root = Root(scale(form, 1 / number))
    if root.depth > MAX_DEPTH or root.size > MAX_SIZE or not coefficient.terms:
        return Refusal(Reason.TOO_COMPLEX, "nested roots")
    product = multiply(Form({frozenset({(root, exponent)}): ONE}), coefficient)
    return product if isinstance(product, Refusal) else _bounded(product)


def mean(form: Form) -> Form | Refusal:
    """The mean over the normalised axes: linear, and what does not vary along them moves out."""
    total: Form | Refusal = ZERO
    for factors, number in form.terms.items():
        inner = frozenset((atom, e) for atom, e in factors if atom.inner)
        outer: Monomial = factors - inner
        if not inner:
            term = Form({outer: number})
        else:
            atom = Mean(inner)
            if atom.depth > MAX_DEPTH:
                return Refusal(Reason.TOO_COMPLEX, "nested means")
            merged = _merge(outer, frozenset({(atom, ONE)}))
            if isinstance(merged, Refusal):
                return merged
            term = scale(merged, number)
        total = add(total, term)
        if isinstance(total, Refusal):
            return total
    return total


def number_power(number: Fraction, exponent: Fraction) -> Form:
    """number^exponent for a positive number: exact for integers and square roots.

    A root that is no fraction stays a root, of a whole number without the square factors that are
    easily found: sqrt(8) is 2*(2)^(1/2), and so is 4/sqrt(2). Other roots are float64s. The empty
    form when the result is no number that could stand in a model.
    """
    whole = exponent.numerator // exponent.denominator
    if exponent.denominator == 2 and number > 0:
        top, bottom = number.numerator, number.denominator
        square, rest = _square_factor(top * bottom)
        coefficient = Fraction(square, bottom) * number**whole
        if not _fits(Fraction(rest)):
            return ZERO
        factors = frozenset({(Root(constant(rest)), HALF)}) if rest != 1 else EMPTY
        return Form({factors: coefficient}) if _fits(coefficient) else ZERO
    try:
        if exponent.denominator == 1:
            result = number**whole
        else:
            result = Fraction(float(number) ** float(exponent))
    except (OverflowError, ZeroDivisionError):
        return ZERO
    return Form({EMPTY: result}) if _fits(result) else ZERO


def _square_factor(number: int) -> tuple[int, int]:
    """(s, r) with number = s^2 * r, and no square of a prime below 100 in r."""
    root = isqrt(number)
    if root * root == number:
        return root, 1
    square = 1
    for prime in PRIMES:
        while number % (prime * prime) == 0:
            number //= prime * prime
            square *= prime
    root = isqrt(number)
    return (square * root, 1) if root * root == number else (square, number)


def evaluated(form: Form) -> Form:
    """The form with roots of numbers as numbers, rounded to float64."""
    terms: dict[Monomial, Fraction] = {}
    for factors, number in form.terms.items():
        surds = {(atom, e) for atom, e in factors if surd(atom) is not None}
        roots = (Fraction(float(surd(atom) or 1) ** float(e)) for atom, e in surds)
        rest = factors - surds
        terms[rest] = terms.get(rest, Fraction(0)) + number * prod(roots, start=ONE)
    return Form(terms)


def _fits(number: Fraction) -> bool:
    return max(number.numerator.bit_length(), number.denominator.bit_length()) <= MAX_BITS


def _bounded(form: Form) -> Form | Refusal:
    if len(form.terms) > MAX_TERMS:
        return Refusal(Reason.TOO_COMPLEX, f"{len(form.terms)} terms")
    if not all(map(_fits, form.terms.values())):
        return Refusal(Reason.TOO_COMPLEX, "a number out of range")
    if sum(atom.size for factors in form.terms for atom, _ in factors) > MAX_SIZE:
        return Refusal(Reason.TOO_COMPLEX, "nested expressions")
    return form

"""What is known of signs: a mean of squares is not negative, a variance plus a number positive."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from graphfuse.algebra.atoms import EMPTY, Atom, Mean, Monomial, Root

if TYPE_CHECKING:
    from graphfuse.algebra.form import Form

HALF = Fraction(1, 2)


def is_positive(atom: Atom) -> bool:
    """Whether a value is known to be greater than 0: a variance plus a positive number."""
    return isinstance(atom, Root) and atom.base.terms.get(EMPTY, 0) > 0 and _is_spread(atom.base)


def is_non_negative(form: Form) -> bool:
    """Whether a sum is known not to be negative: a variance, with a number added or not."""
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
        if number > 0 and all(is_non_negative_power(atom, e) for atom, e in factors):
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


def is_non_negative_power(atom: Atom, exponent: Fraction) -> bool:
    """Whether a power of an atom, where it has a value, is not negative."""
    even = exponent.denominator == 1 and exponent.numerator % 2 == 0
    return even or exponent.denominator != 1 or is_non_negative_atom(atom)


def is_non_negative_atom(atom: Atom) -> bool:
    """Whether an atom is known not to be negative: a mean of squares, a variance."""
    if isinstance(atom, Root):
        return is_non_negative(atom.base)
    return isinstance(atom, Mean) and all(is_non_negative_power(a, e) for a, e in atom.factors)

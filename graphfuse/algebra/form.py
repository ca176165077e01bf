"""Forms: sums of products of atoms, with exact numbers and the operators of arithmetic.

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

An operator raises RefusedError for what has no form: too many terms or digits, and every step that
holds only where a value is not 0 or not negative, unless that is known of it (a/a is not 1 where a
is 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import prod

from graphfuse.algebra.atoms import EMPTY, ONE, SUBJECT, Atom, Leaf, Mean, Monomial, Root, surd
from graphfuse.algebra.powers import fits, number_power
from graphfuse.algebra.rendering import render, render_product
from graphfuse.algebra.signs import (
    HALF,
    is_non_negative,
    is_non_negative_atom,
    is_positive,
)
from graphfuse.records.reasons import Reason, RefusedError

MAX_TERMS = 24
MAX_DEPTH = 3
"""Nesting of means and roots: the root of a variance of something normalised is the deepest."""
MAX_SIZE = 400
"""Atoms in a form, those inside others included."""
MAX_EXPANDED_POWER = 4

Number = int | float | Fraction


class Form:
    """A sum of terms: a mapping from products of atoms to their coefficients, none of them 0."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, Fraction]) -> None:
        self.terms = {factors: number for factors, number in terms.items() if number}
        self._hash = hash(frozenset(self.terms.items()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self.terms == other.terms

    def __str__(self) -> str:
        return render(self)

    @property
    def number(self) -> Fraction | None:
        """The value, when the form is a plain number."""
        if not self.terms:
            return Fraction(0)
        return self.terms.get(EMPTY) if len(self.terms) == 1 else None

    def atoms(self) -> Iterable[Atom]:
        """Every atom, those inside means and roots included."""
        pending = [atom for term in self.terms for atom, _ in term]
        while pending:
            atom = pending.pop()
            yield atom
            if isinstance(atom, Mean):
                pending.extend(inner for inner, _ in atom.factors)
            elif isinstance(atom, Root):
                pending.extend(inner for term in atom.base.terms for inner, _ in term)

    def __add__(self, other: Form | Number) -> Form:
        terms = dict(self.terms)
        for factors, number in _form(other).terms.items():
            terms[factors] = terms.get(factors, Fraction(0)) + number
        return _bounded(Form(terms))

    __radd__ = __add__

    def __neg__(self) -> Form:
        return self * -1

    def __sub__(self, other: Form | Number) -> Form:
        return self + -_form(other)

    def __rsub__(self, other: Number) -> Form:
        return -self + other

    def __mul__(self, other: Form | Number) -> Form:
        """The product, multiplied out. By a number it is not bounded: what it is added to is."""
        if not isinstance(other, Form):
            factor = Fraction(other)
            return Form({factors: number * factor for factors, number in self.terms.items()})
        if len(self.terms) * len(other.terms) > MAX_TERMS**2:
            raise RefusedError(Reason.TOO_COMPLEX)
        total = ZERO
        for a, p in self.terms.items():
            for b, q in other.terms.items():
                total += _merge(a, b) * (p * q)
        return total

    __rmul__ = __mul__

    def __truediv__(self, other: Form | Number) -> Form:
        return self * _form(other) ** -1

    def __rtruediv__(self, other: Number) -> Form:
        return self**-1 * other

    def __pow__(self, exponent: int | Fraction) -> Form:
        exponent = Fraction(exponent)
        if exponent == 1:
            return self
        if exponent == 0 or not self.terms:
            raise RefusedError(Reason.EXPONENT, "({})^{}", self, exponent)
        if exponent.denominator == 1 and 0 < exponent <= MAX_EXPANDED_POWER:
            return prod([self] * int(exponent - 1), start=self)
        if len(self.terms) == 1:
            ((factors, number),) = self.terms.items()
            return _power_of_product(factors, number, exponent)
        return _power_of_sum(self, exponent)


ZERO = Form({})


def constant(value: Number) -> Form:
    """The form of a finite number."""
    return Form({EMPTY: Fraction(value)})


def subject() -> Form:
    """The form of x."""
    return of(SUBJECT)


def leaf(name: str, inner: bool) -> Form:
    """The form of an opaque tensor; `inner` when it varies along the normalised axes."""
    return of(Leaf(name, inner))


def of(atom: Atom, exponent: Fraction = ONE) -> Form:
    """The form of an atom under an exponent."""
    return Form({frozenset({(atom, exponent)}): ONE})


def mean(form: Form) -> Form:
    """The mean over the normalised axes: linear, and what does not vary along them moves out."""
    total = ZERO
    for factors, number in form.terms.items():
        inner = frozenset((atom, e) for atom, e in factors if atom.inner)
        outer: Monomial = factors - inner
        if not inner:
            total += Form({outer: number})
            continue
        atom = Mean(inner)
        if atom.depth > MAX_DEPTH:
            raise RefusedError(Reason.TOO_COMPLEX, "nested means")
        total += _merge(outer, frozenset({(atom, ONE)})) * number
    return total


def root_of(number: Fraction, exponent: Fraction) -> Form:
    """number^exponent for a positive number; a square root that is no fraction stays a root."""
    found = number_power(number, exponent)
    if found is None:
        raise RefusedError(Reason.TOO_COMPLEX, "a number out of range")
    coefficient, rest = found
    return (of(Root(constant(rest)), HALF) if rest != 1 else constant(1)) * coefficient


def evaluated(form: Form) -> Form:
    """The form with roots of numbers as numbers, rounded to float64."""
    terms: dict[Monomial, Fraction] = {}
    for factors, number in form.terms.items():
        surds = {(atom, e) for atom, e in factors if surd(atom) is not None}
        roots = (Fraction(float(surd(atom) or 1) ** float(e)) for atom, e in surds)
        rest = factors - surds
        terms[rest] = terms.get(rest, Fraction(0)) + number * prod(roots, start=ONE)
    return Form(terms)


def has_second_moment(form: Form) -> bool:
    """Whether a form holds the mean of something squared: the mark of a variance."""
    return any(
        isinstance(atom, Mean) and sum(abs(e) for _, e in atom.factors) >= 2
        for atom in form.atoms()
    )


def has_square(form: Form) -> bool:
    """Whether a form has a term of second degree in what varies along the normalised axes."""
    return any(sum(abs(e) for atom, e in term if atom.inner) >= 2 for term in form.terms)


def exponents(form: Form) -> Iterable[Fraction]:
    """Every exponent of a form, those inside roots included."""
    pending = [form]
    while pending:
        for term in pending.pop().terms:
            for atom, exponent in term:
                yield exponent
                if isinstance(atom, Root):
                    pending.append(atom.base)


def is_of_x(form: Form) -> bool:
    """Whether a form has a term with x itself as a factor."""
    return any(atom is SUBJECT for term in form.terms for atom, _ in term)


def _form(value: Form | Number) -> Form:
    return value if isinstance(value, Form) else constant(value)


def _merge(left: Monomial, right: Monomial) -> Form:
    """The product of two products of atoms."""
    powers = dict(left)
    for atom, exponent in right:
        before = powers.get(atom)
        if before is not None and before * exponent < 0 and not is_positive(atom):
            # w * (1/w) is 1 only where w is not 0: not an identity of the graph.
            raise RefusedError(Reason.NOT_THE_DEFINITION, "{0} cancels against 1/{0}", atom)
        powers[atom] = (before or Fraction(0)) + exponent
    form = _with_one_surd(powers)
    for atom, exponent in powers.items():
        if isinstance(atom, Root) and _expands(atom, exponent):
            if not is_non_negative(atom.base):
                seen = "the root of {}, which may be negative"
                raise RefusedError(Reason.EXPONENT, seen, atom.base)
            form *= atom.base**exponent
    return form


def _with_one_surd(powers: Mapping[Atom, Fraction]) -> Form:
    """The product of what does not expand; of roots of numbers one is left, that of all."""
    kept = {(a, e) for a, e in powers.items() if e and not _expands(a, e)}
    surds = [(a, e) for a, e in kept if e == HALF and surd(a) is not None]
    if len(surds) < 2:
        return Form({frozenset(kept): ONE})
    number = prod(surd(atom) or ONE for atom, _ in surds)
    ((factors, coefficient),) = root_of(Fraction(number), HALF).terms.items()
    return Form({frozenset(kept.difference(surds) | factors): coefficient})


def _expands(atom: Atom, exponent: Fraction) -> bool:
    """(a + b)^(1/2) squared is a + b again: no root is left."""
    whole = exponent.denominator == 1 and 0 < exponent <= MAX_EXPANDED_POWER
    return isinstance(atom, Root) and whole


def _power_of_product(factors: Monomial, number: Fraction, p: Fraction) -> Form:
    if number < 0 and p.denominator != 1:
        raise RefusedError(Reason.EXPONENT, "root of {:.6g}", float(number))
    form = root_of(number, p)
    # (a^2)^(1/2) is |a|, and a^(1/2) has no value where a is negative: neither can be taken
    # apart again, so it stays as it is, as an atom of its own.
    odd = p.denominator != 1 and not all(
        e.denominator != 1 or is_non_negative_atom(atom) for atom, e in factors
    )
    if odd:
        return of(Root(Form({factors: ONE})), p) * form
    return prod((of(atom, exponent * p) for atom, exponent in factors), start=form)


def _power_of_sum(form: Form, exponent: Fraction) -> Form:
    """(c * a + b)^p = |c|^p * (±a + b/|c|)^p, with c the coefficient of the first named term."""
    first = min((factors for factors in form.terms if factors), key=render_product, default=EMPTY)
    number = abs(form.terms[first])
    root = Root(form * (1 / number))
    if root.depth > MAX_DEPTH or root.size > MAX_SIZE:
        raise RefusedError(Reason.TOO_COMPLEX, "nested roots")
    return _bounded(of(root, exponent) * root_of(number, exponent))


def _bounded(form: Form) -> Form:
    if len(form.terms) > MAX_TERMS:
        raise RefusedError(Reason.TOO_COMPLEX, "{} terms", len(form.terms))
    if not all(map(fits, form.terms.values())):
        raise RefusedError(Reason.TOO_COMPLEX, "a number out of range")
    if sum(atom.size for factors in form.terms for atom, _ in factors) > MAX_SIZE:
        raise RefusedError(Reason.TOO_COMPLEX, "nested expressions")
    return form

"""The normal form of the arithmetic around a reduction.

A value is a sum of terms; a term is a rational number times atoms with rational exponents. Atoms:

    Leaf     an opaque tensor: x, a scale, a bias
    Mean     the mean, over the normalised axes, of a product of atoms
    Root     a sum that stands under an exponent, (a + b)^p

Three identities bring every spelling of a norm to one form:

    mean(a + b) = mean(a) + mean(b);  mean(c * a) = c * mean(a) for c constant along the axes
    (c * a + b)^p = c^p * (a + b/c)^p   for c > 0
    products and small integer powers of sums are multiplied out

so mean((x - m)^2) and mean(x^2) - m^2 are the same with m = mean(x). Numbers are exact
(fractions), so equal expressions have equal forms whatever the order of their operations.

What has no form (too many terms, a root of something that may be negative) is a Refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

from graphfuse.reasons import Reason

MAX_TERMS = 24
MAX_DEPTH = 6
MAX_EXPANDED_POWER = 4

ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an expression has no normal form: the catalogue's reason and what was seen."""

    reason: Reason
    got: str = ""


class Leaf:
    """An opaque tensor. `inner` tells whether it varies along the normalised axes."""

    __slots__ = ("depth", "inner", "name")

    def __init__(self, name: str, inner: bool) -> None:
        self.name = name
        self.inner = inner
        self.depth = 0

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and self.name == other.name and self.inner == other.inner

    def __str__(self) -> str:
        return self.name


class Mean:
    """The mean over the normalised axes of a product of atoms that vary along them."""

    __slots__ = ("_hash", "depth", "factors")
    inner = False

    def __init__(self, factors: Monomial) -> None:
        self.factors = factors
        self.depth = 1 + max((atom.depth for atom, _ in factors), default=0)
        self._hash = hash((Mean, factors))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mean) and self.factors == other.factors

    def __str__(self) -> str:
        return f"mean({render_product(self.factors)})"


class Root:
    """A sum under an exponent: a square root, a reciprocal."""

    __slots__ = ("_hash", "base", "depth", "inner")

    def __init__(self, base: Form) -> None:
        self.base = base
        atoms = [atom for term in base.terms for atom, _ in term]
        self.inner = any(atom.inner for atom in atoms)
        self.depth = 1 + max((atom.depth for atom in atoms), default=0)
        self._hash = hash((Root, base))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.base == other.base

    def __str__(self) -> str:
        return f"({self.base})"


Atom = Leaf | Mean | Root
Monomial = frozenset[tuple[Atom, Fraction]]
EMPTY: Monomial = frozenset()


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


ZERO = Form({})


def constant(value: float | Fraction) -> Form:
    """The form of a finite number."""
    return Form({EMPTY: Fraction(value)})


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
    """number * form."""
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
        if before is not None and before * exponent < 0 and isinstance(atom, Leaf):
            # w * (1/w) is 1 only where w is not 0: not an identity of the graph.
            return Refusal(Reason.NOT_THE_DEFINITION, f"{atom} cancels against 1/{atom}")
        exponents[atom] = (before or Fraction(0)) + exponent
    form = Form({frozenset((a, e) for a, e in exponents.items() if e and not _expands(a, e)): ONE})
    for atom, exponent in exponents.items():
        if isinstance(atom, Root) and _expands(atom, exponent):
            expanded = power(atom.base, exponent)
            if isinstance(expanded, Refusal):
                return expanded
            result = multiply(form, expanded)
            if isinstance(result, Refusal):
                return result
            form = result
    return form


def _expands(atom: Atom, exponent: Fraction) -> bool:
    """(a + b)^(1/2) squared is a + b again: no root is left."""
    return isinstance(atom, Root) and exponent > 0 and exponent.denominator == 1


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
        return Refusal(Reason.EXPONENT, f"root of {number}")
    # (a^2)^(1/2) is |a|, not a: such a power stays as it is, as an atom of its own.
    if p.denominator != 1 and any(_may_flip(atom, e) for atom, e in factors):
        opaque: Monomial = frozenset({(Root(Form({factors: ONE})), p)})
        return Form({opaque: rational_power(number, p)})
    form = Form({EMPTY: rational_power(number, p)})
    for atom, exponent in factors:
        product = multiply(form, Form({frozenset({(atom, exponent * p)}): ONE}))
        if isinstance(product, Refusal):
            return product
        form = product
    return form


def _may_flip(atom: Atom, exponent: Fraction) -> bool:
    even = exponent.denominator == 1 and exponent.numerator % 2 == 0
    return even and not _non_negative(atom)


def _non_negative(atom: Atom) -> bool:
    if not isinstance(atom, Mean):
        return False
    return all(e.denominator == 1 and e.numerator % 2 == 0 for _, e in atom.factors)


def _power_of_sum(form: Form, exponent: Fraction) -> Form | Refusal:
    """(c * a + b)^p = |c|^p * (±a + b/|c|)^p, with c the coefficient of the first named term."""
    first = min((factors for factors in form.terms if factors), key=render_product, default=EMPTY)
    number = abs(form.terms[first])
    root = Root(scale(form, 1 / number))
    if root.depth > MAX_DEPTH:
        return Refusal(Reason.TOO_COMPLEX, "nested roots")
    return Form({frozenset({(root, exponent)}): rational_power(number, exponent)})


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


def rational_power(number: Fraction, exponent: Fraction) -> Fraction:
    """number^exponent: exact for integer exponents and roots of squares, else to float64."""
    if exponent.denominator == 1:
        return number ** int(exponent)
    if exponent.denominator == 2:
        top, bottom = isqrt(number.numerator), isqrt(number.denominator)
        if top * top == number.numerator and bottom * bottom == number.denominator:
            return Fraction(top, bottom) ** exponent.numerator
    return Fraction(float(number) ** float(exponent))


def _bounded(form: Form) -> Form | Refusal:
    if len(form.terms) > MAX_TERMS:
        return Refusal(Reason.TOO_COMPLEX, f"{len(form.terms)} terms")
    return form


def render(form: Form) -> str:
    """The form in one line of algebra, terms and factors in a fixed order."""
    if not form.terms:
        return "0"
    parts: list[str] = []
    for factors in sorted(form.terms, key=render_product):
        number = form.terms[factors]
        sign = "-" if number < 0 else "+"
        size = abs(number)
        body = render_product(factors)
        if size != 1 or not factors:
            body = f"{float(size):.6g}" + (f"*{body}" if factors else "")
        parts.append(f"{sign} {body}")
    text = " ".join(parts)
    return text[2:] if text.startswith("+ ") else "-" + text[2:]


def render_product(factors: Monomial) -> str:
    """A product of atoms in a fixed order, '1' when there is none."""
    return "*".join(sorted(_render_power(atom, e) for atom, e in factors)) or "1"


def _render_power(atom: Atom, exponent: Fraction) -> str:
    return str(atom) if exponent == 1 else f"{atom}^{_render_exponent(exponent)}"


def _render_exponent(exponent: Fraction) -> str:
    return f"({exponent})" if exponent.denominator != 1 or exponent < 0 else str(exponent)

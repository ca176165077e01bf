"""Forms: sums of products of atoms, as values that compare and print. See algebra.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

ONE = Fraction(1)


class Subject:
    """x, the tensor under study. There is one; a tensor that is named x is a Leaf."""

    __slots__ = ()
    inner = True
    depth = 0
    size = 1

    def __str__(self) -> str:
        return "x"


class Leaf:
    """An opaque tensor. `inner` tells whether it varies along the normalised axes."""

    __slots__ = ("inner", "name")
    depth = 0
    size = 1

    def __init__(self, name: str, inner: bool) -> None:
        self.name = name
        self.inner = inner

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and self.name == other.name and self.inner == other.inner

    def __str__(self) -> str:
        return self.name


class Mean:
    """The mean over the normalised axes of a product of atoms that vary along them."""

    __slots__ = ("_hash", "depth", "factors", "size")
    inner = False

    def __init__(self, factors: Monomial) -> None:
        self.factors = factors
        self.size = 1 + sum(atom.size for atom, _ in factors)
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

    __slots__ = ("_hash", "base", "depth", "inner", "size")

    def __init__(self, base: Form) -> None:
        self.base = base
        atoms = [atom for term in base.terms for atom, _ in term]
        self.inner = any(atom.inner for atom in atoms)
        self.size = 1 + sum(atom.size for atom in atoms)
        self.depth = 1 + max((atom.depth for atom in atoms), default=0)
        self._hash = hash((Root, base))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.base == other.base

    def __str__(self) -> str:
        return f"({self.base})"


Atom = Subject | Leaf | Mean | Root
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


SUBJECT = Subject()
ZERO = Form({})


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


def render(form: Form) -> str:
    """The form in one line of algebra, terms and factors in a fixed order."""
    if not form.terms:
        return "0"
    parts: list[str] = []
    for factors in sorted(form.terms, key=render_product):
        parts.append(render_term(factors, form.terms[factors]))
    text = " ".join(parts)
    return text[2:] if text.startswith("+ ") else "-" + text[2:]


def render_term(factors: Monomial, number: Fraction) -> str:
    """A term with its sign."""
    body = render_product(factors)
    if abs(number) != 1 or not factors:
        body = f"{float(abs(number)):.6g}" + (f"*{body}" if factors else "")
    return f"{'-' if number < 0 else '+'} {body}"


def render_product(factors: Monomial) -> str:
    """A product of atoms in a fixed order, '1' when there is none."""
    return "*".join(sorted(_render_power(atom, e) for atom, e in factors)) or "1"


def _render_power(atom: Atom, exponent: Fraction) -> str:
    return str(atom) if exponent == 1 else f"{atom}^{_render_exponent(exponent)}"


def _render_exponent(exponent: Fraction) -> str:
    return f"({exponent})" if exponent.denominator != 1 or exponent < 0 else str(exponent)

"""Atoms: what a term of a form is a product of. They compare by what they are, and print."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from graphfuse.algebra.rendering import render_product

if TYPE_CHECKING:
    from graphfuse.algebra.form import Form

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

SUBJECT = Subject()


def surd(atom: Atom) -> Fraction | None:
    """The number that an atom is a root of; None for any other atom."""
    return atom.base.number if isinstance(atom, Root) else None

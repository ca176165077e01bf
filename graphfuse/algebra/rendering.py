"""Forms in one line of algebra, terms and factors in a fixed order."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphfuse.algebra.atoms import Atom, Monomial
    from graphfuse.algebra.form import Form


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

"""What a LayerNorm and an RMSNorm are, in the normal form.

    LayerNorm   scale*r*x - scale*r*m + bias    m = mean(x), r = (mean(x^2) - m^2 + eps)^(-1/2)
    RMSNorm     scale*r*x + bias                r = (mean(x^2) + eps)^(-1/2)

with eps a positive number, and scale and bias free of x. Anything else raises RefusedError, which
says where the difference lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isfinite

from graphfuse.algebra.atoms import EMPTY, ONE, SUBJECT, Leaf, Mean, Monomial, Root, surd
from graphfuse.algebra.form import Form, evaluated, mean
from graphfuse.algebra.signs import HALF
from graphfuse.records import Expression, Factor, NormKind, Parameter
from graphfuse.records.reasons import Reason, RefusedError

TWO = Fraction(2)
ROOT_NOISE = Fraction(1, 2**49)
"""Roots of numbers that are no squares are rounded to float64: 5e-16, a few times over."""
FIRST = Mean(frozenset({(SUBJECT, ONE)}))
SECOND = Mean(frozenset({(SUBJECT, TWO)}))
MEAN_OF_SQUARE: Monomial = frozenset({(SECOND, ONE)})
SQUARE_OF_MEAN: Monomial = frozenset({(FIRST, TWO)})


@dataclass(frozen=True, slots=True)
class Norm:
    """A value that is a norm of x. Scale and bias are forms of parameters and numbers."""

    kind: NormKind
    epsilon: float
    scale: Form
    bias: Form


def normalize(x: Form, epsilon: float, centred: bool) -> Form:
    """The definition: (x - m) * (mean((x - m)^2) + epsilon)^(-1/2), m = mean(x) or 0."""
    if not isfinite(epsilon):
        raise RefusedError(Reason.EPSILON_NOT_POSITIVE, "epsilon {}", epsilon)
    deviation = x - mean(x) if centred else x
    return deviation * (mean(deviation**2) + epsilon) ** -HALF


def match(form: Form) -> Norm:
    """The norm that a form is, by the two definitions. Raises RefusedError where it is none."""
    root = _root(form)
    kind, epsilon = _variance(root.base)
    of_x: dict[Monomial, Fraction] = {}
    of_mean: dict[Monomial, Fraction] = {}
    bias: dict[Monomial, Fraction] = {}
    normalizer = (root, -HALF)
    for factors, number in form.terms.items():
        if normalizer not in factors:
            rest, into = factors, bias
        elif (SUBJECT, ONE) in factors:
            rest, into = factors - {normalizer, (SUBJECT, ONE)}, of_x
        elif (FIRST, ONE) in factors:
            rest, into = factors - {normalizer, (FIRST, ONE)}, of_mean
        else:
            raise _differs(form)
        if not _is_parameter(rest):
            raise _differs(form)
        into[rest] = number
    factor = evaluated(Form(of_x))
    centre = -factor if kind == NormKind.LAYER_NORM else Form({})
    if not alike(evaluated(Form(of_mean)), centre):
        raise _differs(form)
    return Norm(kind, epsilon, factor, evaluated(Form(bias)))


def is_deviation(form: Form) -> bool:
    """Whether a form is x - mean(x), or a multiple of it."""
    x, mean = frozenset({(SUBJECT, ONE)}), frozenset({(FIRST, ONE)})
    return form.terms.keys() == {x, mean} and form.terms[x] == -form.terms[mean]


def _root(form: Form) -> Root:
    """The one root r^(-1/2) that multiplies x."""
    found: set[tuple[Root, Fraction]] = set()
    for factors in form.terms:
        if any(atom is SUBJECT for atom, _ in factors):
            found.update((a, e) for a, e in factors if isinstance(a, Root) and surd(a) is None)
            bare = [a for a, e in factors if isinstance(a, Mean) and e.denominator != 1]
            if bare:
                raise RefusedError(Reason.EPSILON_NOT_POSITIVE, "the root of {} alone", bare[0])
    if len(found) != 1:
        raise _differs(form)
    ((root, exponent),) = found
    if exponent != -HALF:
        raise _exponent(root, exponent)
    return root


def _exponent(root: Root, exponent: Fraction) -> RefusedError:
    """A reciprocal of (root of the variance + epsilon), or another power altogether."""
    atoms = [(atom, e) for term in root.base.terms for atom, e in term]
    if any(e == HALF for _, e in atoms):
        return RefusedError(Reason.EPSILON_OUTSIDE_ROOT, "1/({})", root.base)
    return RefusedError(Reason.EXPONENT, "({})^({})", root.base, exponent)


def _variance(base: Form) -> tuple[NormKind, float]:
    """mean(x^2) - m^2 + eps or mean(x^2) + eps, in the form that stands under the root."""
    terms = dict(evaluated(base).terms)
    epsilon = terms.pop(EMPTY, Fraction(0))
    square, middle = terms.pop(MEAN_OF_SQUARE, Fraction(0)), terms.pop(SQUARE_OF_MEAN, Fraction(0))
    if terms:
        parameters = all(_is_parameter(factors) for factors in terms)
        reason = Reason.EPSILON_NOT_CONSTANT if parameters and square else Reason.NOT_THE_DEFINITION
        raise RefusedError(reason, base)
    if square <= 0 or not (middle == 0 or _close(middle, -square)):
        raise RefusedError(Reason.NOT_THE_DEFINITION, base)
    # c * v + eps is c * (v + eps/c), and c is 1 by the normal form unless it is a root itself.
    if not _close(square, ONE):
        raise RefusedError(Reason.NOT_THE_DEFINITION, base)
    if epsilon <= 0:
        raise RefusedError(Reason.EPSILON_NOT_POSITIVE, base)
    return (NormKind.LAYER_NORM if middle else NormKind.RMS_NORM), float(epsilon / square)


def alike(form: Form, other: Form) -> bool:
    """Whether two forms are equal, but for what roots of numbers round."""
    return form.terms.keys() == other.terms.keys() and all(
        _close(number, other.terms[factors]) for factors, number in form.terms.items()
    )


def _close(left: Fraction, right: Fraction) -> bool:
    return left == right or abs(left - right) <= ROOT_NOISE * abs(right)


def _is_parameter(factors: Monomial) -> bool:
    return all(isinstance(atom, Leaf) or surd(atom) is not None for atom, _ in factors)


def _differs(form: Form) -> RefusedError:
    return RefusedError(Reason.NOT_THE_DEFINITION, form)


def parameter(form: Form, absent: int, factors: Mapping[str, Factor]) -> Parameter:
    """A scale or bias as a record: a tensor, an expression, or None when it is `absent` (1, 0).

    `factors` says how each weight stands in an expression.
    """
    if form.number == absent:
        return None
    if is_weight(form):
        return weights(form)[0]
    terms = [
        (
            float(number),
            tuple(
                replace(factors[name], exponent=e)
                for name, e in sorted((str(atom), float(e)) for atom, e in product)
            ),
        )
        for product, number in form.terms.items()
    ]
    names = {term: [(f.tensor, f.exponent) for f in term[1]] for term in terms}
    return Expression(tuple(sorted(terms, key=lambda term: (term[0], names[term]))))


def is_weight(form: Form) -> bool:
    """Whether a form is one tensor, as it is."""
    return [(number, [e for _, e in term]) for term, number in form.terms.items()] == [(1, [1])]


def is_exact(form: Form) -> bool:
    """Whether a form is a weight times a power of two: a number of the weight's own type."""
    if len(form.terms) != 1:
        return False
    ((factors, number),) = form.terms.items()
    size = abs(number)
    powers = (size.numerator.bit_count(), size.denominator.bit_count())
    return [e for _, e in factors] == [1] and powers == (1, 1)


def weights(form: Form) -> list[str]:
    """The tensors that a scale or bias is made of."""
    return sorted({str(atom) for factors in form.terms for atom, _ in factors})

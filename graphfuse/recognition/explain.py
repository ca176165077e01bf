"""What was seen at a site beside the definition that is nearest to it, term by term."""

from __future__ import annotations

from fnmatch import fnmatchcase
from fractions import Fraction

from graphfuse.algebra.atoms import EMPTY, ONE, SUBJECT, Leaf, Root
from graphfuse.algebra.form import Form, constant, is_of_x, subject
from graphfuse.algebra.norms import FIRST, MEAN_OF_SQUARE, SQUARE_OF_MEAN, normalize
from graphfuse.algebra.rendering import render_product, render_term
from graphfuse.errors import UsageError
from graphfuse.graph.scopes import as_written
from graphfuse.recognition.context import DEFAULT_EPSILON
from graphfuse.records import Explanation, NearMiss, NormKind, Scan, Site


def explain(scan: Scan, name: str) -> Explanation:
    """Explain a site or near miss, by its id, its output, or its Add's name or output.

    Raises UsageError when the scan has none of that name.
    """
    items: tuple[Site | NearMiss, ...] = (*scan.sites, *scan.near_misses)
    for item in items:
        if any(known and fnmatchcase(known, name) for known in _names(item)):
            return explained(item)
    ids = ", ".join(item.id for item in items[:3]) + (", ..." if len(items) > 3 else "")
    raise UsageError(
        f"the model has no site or near miss {name!r}",
        f"`graphfuse scan` lists them: {ids or 'there are none'}",
    )


def _names(item: Site | NearMiss) -> tuple[str, ...]:
    if isinstance(item, Site):
        return (item.id, item.add.name, item.output, item.sum)
    return (item.id, item.add.name, item.culprit.name)


def explained(item: Site | NearMiss) -> Explanation:
    """What was seen at a site or near miss, beside the definition that is nearest to it."""
    seen = item.form
    if not isinstance(seen, Form):
        return Explanation(item)
    kind, meant = nearest(seen)
    return Explanation(
        item,
        kind,
        seen=as_written(str(seen)),
        definition=as_written(str(meant)),
        extra=_terms(seen, meant),
        missing=_terms(meant, seen),
    )


def _terms(form: Form, other: Form) -> tuple[str, ...]:
    """The terms of one form that the other has not, as text, in the order of its rendering."""
    return tuple(
        as_written(render_term(factors, form.terms[factors]))
        for factors in sorted(form.terms, key=render_product)
        if other.terms.get(factors) != form.terms[factors]
    )


def nearest(seen: Form) -> tuple[str, Form]:
    """The definition with the scale, bias and epsilon that a form seems to have, and its kind."""
    kind = NormKind.LAYER_NORM if any(atom == FIRST for atom in seen.atoms()) else NormKind.RMS_NORM
    if not is_of_x(seen):
        # A statistic on its way to the root: the number in it is an epsilon, and no bias.
        return kind, _under_root(seen, kind)
    epsilon = _epsilon(seen)
    scale, bias = constant(1), Form({})
    for factors, number in seen.terms.items():
        leaves = frozenset((atom, e) for atom, e in factors if isinstance(atom, Leaf))
        if (SUBJECT, ONE) in factors:
            scale = Form({leaves: ONE if leaves else number})
        elif leaves == factors:
            bias = Form({**bias.terms, leaves: number})
    return kind, normalize(subject(), epsilon, centred=kind == NormKind.LAYER_NORM) * scale + bias


def _under_root(seen: Form, kind: NormKind) -> Form:
    """What the definition has under its root, with the epsilon of a form."""
    number = seen.terms.get(EMPTY, Fraction(0))
    epsilon = number if number > 0 else Fraction(DEFAULT_EPSILON)
    middle = {SQUARE_OF_MEAN: -ONE} if kind == NormKind.LAYER_NORM else {}
    return Form({MEAN_OF_SQUARE: ONE, **middle, EMPTY: epsilon})


def _epsilon(seen: Form) -> float:
    for atom in seen.atoms():
        if isinstance(atom, Root) and (number := atom.base.terms.get(EMPTY, Fraction(0))) > 0:
            return float(number)
    return DEFAULT_EPSILON

"""What a form says of a tensor is what the graph computes: random graphs, every value of each."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphfuse.algebra import evaluated, root_of
from graphfuse.files.model_file import Model
from graphfuse.recognition.context import Candidate
from graphfuse.recognition.residual import is_sum
from graphfuse.recognition.translate import evaluate as forms_from
from graphfuse.types.shapes import extent_of
from graphfuse.views.view import views
from tests.algebra.test_algebra import value_of
from tests.campaigns.fuzz.case import Ticket
from tests.campaigns.fuzz.cases import build
from tests.campaigns.fuzz.oracle import evaluate

PLAIN = frozenset(("scope", "renamed"))
"""Blocks in the main graph, and no tensor that is called x: that is the sum here."""


def compared(ticket: Ticket) -> int:
    """Compare each form with the tensor that it stands for; how many there were."""
    case = build(ticket)
    view = views(Model(case.model))[0]
    tensors = evaluate(case.model, case.feeds(1.0))
    count = 0
    for node in view.nodes:
        shape = view.type(node.outputs[0]).shape
        if not is_sum(node) or not shape or tensors[node.outputs[0]].dtype.kind != "f":
            continue
        candidate = Candidate(node.outputs[0], (-1,), len(shape), extent_of(shape, (-1,)))
        known = {**tensors, "x": tensors[node.outputs[0]]}
        for name, value in forms_from(view, candidate).values.items():
            with np.errstate(all="ignore"):
                meant = value_of(value.form, known)
            got = tensors[name][..., None] if value.dropped else tensors[name]
            if not np.isfinite(got).all():
                continue
            scale = max(float(np.abs(got).max()), 1e-3)
            np.testing.assert_allclose(
                np.broadcast_to(meant, np.broadcast_shapes(np.shape(meant), got.shape)),
                np.broadcast_to(got, np.broadcast_shapes(np.shape(meant), got.shape)),
                rtol=1e-6,
                atol=1e-9 * scale,
                err_msg=f"{name}: {value.form} ({ticket.command()})",
            )
            count += 1
    return count


@pytest.mark.parametrize("near", [False, True])
def test_forms_mean_what_graphs_compute(near: bool) -> None:
    counts = [compared(Ticket(31, index, near, PLAIN)) for index in range(150)]
    assert sum(counts) > 150 * 5


@given(st.fractions(Fraction(1, 500), 500), st.sampled_from([-3, -1, 1, 3]))
def test_roots_of_numbers_are_exact(number: Fraction, numerator: int) -> None:
    """(n^(p/2))^2 is n^p, and a root means what it says."""
    power = Fraction(numerator, 2)
    root = root_of(number, power)
    assert (root * root).number == number**numerator
    assert float(evaluated(root).number or 0) == pytest.approx(float(number) ** float(power))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_root_of_a_product_is_the_product_of_roots(left: int, right: int) -> None:
    half = Fraction(1, 2)
    one, other = (root_of(Fraction(n), half) for n in (left, right))
    assert one * other == root_of(Fraction(left * right), half)

"""Boxes stand apart, wires lead down, and a graph in a circle is none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphfuse.pages.placing import place

GAP, ROW = 18.0, 98.0


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[float], list[tuple[int, int]]]:
    count = draw(st.integers(1, 24))
    widths = draw(st.lists(st.floats(20, 300), min_size=count, max_size=count))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    pairs = draw(st.lists(pair.filter(lambda p: p[0] < p[1]), max_size=40)) if count > 1 else []
    return widths, pairs


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_boxes_stand_apart_and_wires_lead_down(
    graph: tuple[list[float], list[tuple[int, int]]],
) -> None:
    widths, pairs = graph
    found = place(widths, pairs, ROW, GAP)
    assert sorted(found.boxes) == list(range(len(widths)))
    boxes = [(y, x - widths[n] / 2, x + widths[n] / 2) for n, (x, y) in found.boxes.items()]
    for n, (y, left, right) in enumerate(boxes):
        assert left >= -1e-6
        assert right <= found.width + 1e-6
        for other, start, end in boxes[:n]:
            assert other != y or start >= right + GAP - 1e-6 or left >= end + GAP - 1e-6
    for source, target in pairs:
        points = found.wires[source, target]
        assert points[0] == found.boxes[source]
        assert points[-1] == found.boxes[target]
        heights = [y for _, y in points]
        assert heights == sorted(heights)
        # A joint in every row that it passes, or it would lead through boxes.
        assert all(below - above == pytest.approx(ROW) for above, below in pairwise(heights))


def test_a_chain_is_upright() -> None:
    found = place([50.0, 90.0, 20.0], [(0, 1), (1, 2)], ROW, GAP)
    assert len({x for x, _ in found.boxes.values()}) == 1


def test_what_feeds_one_box_stands_right_above_it() -> None:
    found = place([40.0] * 4, [(0, 1), (1, 2), (3, 2)], ROW, GAP)
    assert found.boxes[2][1] - found.boxes[3][1] == ROW


def test_two_wires_that_need_not_cross_do_not() -> None:
    found = place([40.0] * 4, [(0, 3), (1, 2)], ROW, GAP)
    straight = (found.boxes[0][0] - found.boxes[1][0]) * (found.boxes[3][0] - found.boxes[2][0])
    assert straight > 0


def test_a_circle_is_no_graph() -> None:
    with pytest.raises(ValueError, match="circle"):
        place([10.0, 10.0], [(0, 1), (1, 0)], ROW, GAP)

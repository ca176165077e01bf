"""Where the boxes of a drawing stand: in rows from top to bottom, as their wires lead.

Boxes get the row after the last one that leads to them, what only feeds others stands right above
these. Wires that pass a row have a joint in it, so that they lead around its boxes. In each row the
order is that of the mean place of what it is wired to, swept down and up; then rows are shifted to
stand below what they are wired to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 12
"""How often rows are put in order, and shifted; small graphs are at rest long before."""

WirePair = tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """Where boxes and wires are: centres of boxes, and the points that each wire leads through."""

    boxes: Mapping[int, tuple[float, float]]
    wires: Mapping[WirePair, tuple[tuple[float, float], ...]]
    width: float
    height: float


def place(
    widths: Sequence[float],
    wires: Sequence[WirePair],
    row_height: float,
    gap: float,
    joint: float = 10.0,
) -> Placed:
    """Place boxes of some widths; `wires` are pairs of their numbers, and lead in no circle.

    `row_height` is the distance of two rows, `gap` the least distance of two boxes in one, `joint`
    the width that a wire takes where it passes a row.
    """
    pairs = list(dict.fromkeys((a, b) for a, b in wires if a != b))
    rows_of = _rows(len(widths), pairs)
    chains, row_of, extents = _with_joints(pairs, rows_of, list(widths), joint)
    links = [link for chain in chains.values() for link in pairwise(chain)]
    rows = _ordered(row_of, links)
    centres = _shifted(rows, links, extents, gap)
    left = min((centres[n] - extents[n] / 2 for n in centres), default=0.0)
    right = max((centres[n] + extents[n] / 2 for n in centres), default=0.0)

    def point(number: int) -> tuple[float, float]:
        return centres[number] - left, (row_of[number] + 0.5) * row_height

    return Placed(
        {number: point(number) for number in range(len(widths))},
        {pair: tuple(point(number) for number in chain) for pair, chain in chains.items()},
        right - left,
        len(rows) * row_height,
    )


def _rows(count: int, pairs: Sequence[WirePair]) -> list[int]:
    """The row of each box: below all that lead to it, and no higher than its readers ask for."""
    into: list[list[int]] = [[] for _ in range(count)]
    out: list[list[int]] = [[] for _ in range(count)]
    for source, target in pairs:
        into[target].append(source)
        out[source].append(target)
    rows = [0] * count
    waiting = [len(sources) for sources in into]
    ahead = [number for number in range(count) if not waiting[number]]
    done: list[int] = []
    while ahead:
        number = ahead.pop(0)
        done.append(number)
        for target in out[number]:
            rows[target] = max(rows[target], rows[number] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ahead.append(target)
    if len(done) < count:
        raise ValueError("wires lead in a circle")
    for number in reversed(done):
        if out[number] and not into[number]:
            rows[number] = min(rows[target] for target in out[number]) - 1
    return rows


def _with_joints(
    pairs: Sequence[WirePair], rows: Sequence[int], widths: list[float], joint: float
) -> tuple[dict[WirePair, list[int]], list[int], list[float]]:
    """The numbers that each wire leads through: a joint in every row that it passes."""
    row_of, extents = list(rows), widths
    chains: dict[WirePair, list[int]] = {}
    for source, target in pairs:
        chain = [source]
        for row in range(rows[source] + 1, rows[target]):
            chain.append(len(row_of))
            row_of.append(row)
            extents.append(joint)
        chains[source, target] = [*chain, target]
    return chains, row_of, extents


def _ordered(row_of: Sequence[int], links: Sequence[WirePair]) -> list[list[int]]:
    """The rows, each in an order in which few wires cross."""
    rows: list[list[int]] = [[] for _ in range(max(row_of, default=-1) + 1)]
    for number, row in enumerate(row_of):
        rows[row].append(number)
    above, below = _neighbours(links)
    best, fewest = [list(row) for row in rows], _crossings(rows, links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            places = {n: i / max(len(r) - 1, 1) for r in rows for i, n in enumerate(r)}
            row.sort(key=_mean_place(places, above if down else below))
        found = _crossings(rows, links)
        if found < fewest:
            best, fewest = [list(row) for row in rows], found
    return best


def _neighbours(links: Sequence[WirePair]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    above: dict[int, list[int]] = {}
    below: dict[int, list[int]] = {}
    for source, target in links:
        above.setdefault(target, []).append(source)
        below.setdefault(source, []).append(target)
    return above, below


def _mean_place(
    places: Mapping[int, float], neighbours: Mapping[int, Sequence[int]]
) -> Callable[[int], float]:
    def mean(number: int) -> float:
        known = neighbours.get(number)
        return sum(places[n] for n in known) / len(known) if known else places[number]

    return mean


def _crossings(rows: Sequence[Sequence[int]], links: Sequence[WirePair]) -> int:
    places = {n: (y, x) for y, row in enumerate(rows) for x, n in enumerate(row)}
    found = 0
    for one, (a, b) in enumerate(links):
        for c, d in links[:one]:
            if places[a][0] == places[c][0]:
                found += (places[a][1] - places[c][1]) * (places[b][1] - places[d][1]) < 0
    return found


def _shifted(
    rows: Sequence[Sequence[int]], links: Sequence[WirePair], extents: Sequence[float], gap: float
) -> dict[int, float]:
    """The centres of all boxes and joints: each as near to the mean of its neighbours as its
    place in its row allows.
    """
    centres: dict[int, float] = {}
    for row in rows:
        right = 0.0
        for number in row:
            centres[number] = right + extents[number] / 2
            right += extents[number] + gap
        for number in row:
            centres[number] -= (right - gap) / 2
    above, below = _neighbours(links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for row in rows if down else reversed(rows):
            wanted = [
                sum(centres[n] for n in near[number]) / len(near[number])
                if number in near
                else centres[number]
                for number in row
            ]
            for number, centre in zip(row, _apart(row, wanted, extents, gap), strict=True):
                centres[number] = centre
    return centres


def _apart(
    row: Sequence[int], wanted: Sequence[float], extents: Sequence[float], gap: float
) -> list[float]:
    """The places nearest to those that are wanted at which a row's boxes do not touch.

    Boxes that would touch become one block, which stands where its boxes want to be in the mean.
    """
    blocks: list[tuple[list[float], float]] = []
    offset = 0.0
    offsets: list[float] = []
    for position, number in enumerate(row):
        if position:
            offset += (extents[row[position - 1]] + extents[number]) / 2 + gap
        offsets.append(offset)
        blocks.append(([wanted[position] - offset], wanted[position] - offset))
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            last, _ = blocks.pop()
            members = [*blocks.pop()[0], *last]
            blocks.append((members, sum(members) / len(members)))
    means = [mean for members, mean in blocks for _ in members]
    return [mean + own for mean, own in zip(means, offsets, strict=True)]

"""A drawing of the document as shapes: what the templates write as SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from graphfuse.pages.placing import place

ROW = 112.0
BOX_GAP = 18.0
BORDER = 10.0
LETTER = 7.3
"""Width of a character of an operator's name; others are smaller."""
SMALL_LETTER = 6.2
LINE_LETTERS = 40
"""Characters of a line in a box: of a longer one the middle is left out, and its title has it."""
LINE = 14.0
MOST_CONSTANTS = 3
"""Constants of a box: as many as a fused node has with a bias."""

FATES = {
    "stays": "around it",
    "goes": "goes",
    "comes": "comes",
    "blamed": "to blame",
}


@dataclass(frozen=True)
class BoxLine:
    """One line of text in a box: what is shown, and how far below its top."""

    text: str
    y: float
    style: str


@dataclass(frozen=True)
class BoxShape:
    """A rectangle with its lines; `title` says all of it."""

    x: float
    y: float
    width: float
    height: float
    style: str
    lines: tuple[BoxLine, ...]
    title: str


@dataclass(frozen=True)
class WireShape:
    """A curve; `label` is its type where it is another than that of most wires."""

    path: str
    title: str
    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Figure:
    """A drawing that is placed: its shapes, its size, and in words what it shows."""

    boxes: tuple[BoxShape, ...]
    wires: tuple[WireShape, ...]
    width: float
    height: float
    words: str
    usual: str
    """Type and shape of most of its wires."""


def placed(drawing: Mapping[str, Any]) -> Figure:
    """The shapes of a drawing, as the JSON document has it."""
    boxes, wires = drawing["boxes"], drawing["wires"]
    lines = [_lines(box) for box in boxes]
    widths = [2 * BORDER + max(_width(line) for line in each) for each in lines]
    found = place(widths, [(wire["source"], wire["target"]) for wire in wires], ROW, BOX_GAP)
    types = Counter(wire["type"] for wire in wires if wire["type"])
    usual = types.most_common(1)[0][0] if types else ""
    shapes: list[BoxShape] = []
    for number, (box, own, width) in enumerate(zip(boxes, lines, widths, strict=True)):
        x, y = found.boxes[number]
        height = _height(own)
        shapes.append(
            BoxShape(x - width / 2, y - height / 2, width, height, _style(box), own, _title(box))
        )
    curves = [
        _curve(wire, found.wires[wire["source"], wire["target"]], shapes, usual) for wire in wires
    ]
    return Figure(
        tuple(shapes), tuple(curves), found.width, found.height, _words(boxes, wires), usual
    )


def short(text: str, most: int = LINE_LETTERS) -> str:
    """A text that is no longer than it may be; the middle is left out of one that is."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[head + 1 - most :]}"


def _lines(box: Mapping[str, Any]) -> tuple[BoxLine, ...]:
    """The operator, its name, and its constants where it is not one that stays."""
    known = box["kind"] == "node"
    first = box["operator"] if known else box["name"] if box["kind"] == "more" else box["kind"]
    texts = [(short(first), "operator")]
    if box["kind"] != "more" and box["name"]:
        texts.append((short(box["name"], 34), "name"))
    more = box["constants"]
    shown = more if len(more) <= MOST_CONSTANTS else more[: MOST_CONSTANTS - 1]
    texts += [(short(text, 34), "constant") for text in shown]
    if len(more) > len(shown):
        texts.append((f"and {len(more) - len(shown)} more constants", "constant"))
    return tuple(BoxLine(text, LINE * (n + 1) + 3, style) for n, (text, style) in enumerate(texts))


def _width(line: BoxLine) -> float:
    return len(line.text) * (LETTER if line.style == "operator" else SMALL_LETTER)


def _height(lines: Sequence[BoxLine]) -> float:
    return LINE * len(lines) + 10


def _style(box: Mapping[str, Any]) -> str:
    return f"{box['fate']} {'node' if box['kind'] == 'node' else 'end'}"


def _title(box: Mapping[str, Any]) -> str:
    what = box["operator"] or box["kind"]
    name = f" {box['name']}" if box["name"] else ""
    constants = f"; constants: {', '.join(box['constants'])}" if box["constants"] else ""
    return f"{what}{name} ({FATES[box['fate']]}){constants}"


def _curve(
    wire: Mapping[str, Any],
    points: Sequence[tuple[float, float]],
    boxes: Sequence[BoxShape],
    usual: str,
) -> WireShape:
    """From the bottom of one box to the top of another, upright at every joint."""
    source: BoxShape = boxes[int(wire["source"])]
    target: BoxShape = boxes[int(wire["target"])]
    ends = [
        (points[0][0], source.y + source.height),
        *points[1:-1],
        (points[-1][0], target.y - 5),
    ]
    words = [f"M{ends[0][0]:.1f} {ends[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(ends):
        middle = (y0 + y1) / 2
        words.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    label = "" if wire["type"] in ("", usual) else short(wire["type"], 36)
    x, y = (ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2
    kind = f", {wire['type']}" if wire["type"] else ""
    return WireShape(" ".join(words), f"{wire['tensor']}{kind}", label, x, y)


def _words(boxes: Sequence[Mapping[str, Any]], wires: Sequence[Mapping[str, Any]]) -> str:
    """The graph as a text, for those who cannot see it."""
    names = [f"{box['operator'] or box['kind']} {box['name']}".strip() for box in boxes]
    marked = [
        f"{name} ({FATES[box['fate']]})"
        for name, box in zip(names, boxes, strict=True)
        if box["fate"] != "stays"
    ]
    ways = [f"{names[wire['source']]} to {names[wire['target']]}" for wire in wires]
    return f"Nodes: {', '.join(marked) or 'none of its own'}. Wires: {'; '.join(ways)}."

"""The graph around a site or near miss, before and after: what a report draws."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of a box: it stays, goes, comes, or stays and is what forbids to fuse."""

    STAYS = "stays"
    GOES = "goes"
    COMES = "comes"
    BLAMED = "blamed"


class BoxKind(StrEnum):
    """What a box is: a node, an input or output of its graph, or nodes that are only counted."""

    NODE = "node"
    INPUT = "input"
    OUTPUT = "output"
    MORE = "more"


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a drawing.

    `operator` is the node's, with its domain where that is not ONNX's own, and empty for what is no
    node; `name` is that of the node or tensor. `constants` are the constant inputs of a node, in
    order: the number where it is one, else the name and the extents.
    """

    kind: BoxKind
    operator: str
    name: str
    fate: Fate
    constants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wire:
    """A tensor from one box to another, by their places; `type` is its type and shape, in words."""

    tensor: str
    source: int
    target: int
    type: str = ""


@dataclass(frozen=True, slots=True)
class Diagram:
    """A part of a graph: no wire leads from a box to one before it on its way."""

    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """The graph around the first of some sites, or near misses, that are written alike.

    `sites` and `near_misses` are their ids: the first is drawn. `notation` is how they are written,
    or the code of the reason. `before` is as the model has it, `after` as the result has it; None
    where there is no result, or where nothing was rewritten.
    """

    sites: tuple[str, ...]
    near_misses: tuple[str, ...]
    notation: str
    before: Diagram
    after: Diagram | None = None

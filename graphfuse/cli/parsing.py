"""The texts of command-line options that are more than a word or a number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphfuse.errors import UsageError

SHAPE = re.compile(r"(\S+?):\[\s*((?:\d+\s*(?:,\s*\d+\s*)*)?)\]")
SHAPE_HINT = "write it as name:[1,128]"

SIZE_HINT = "write it as batch=1"

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(?:(\S+?):)?\[\s*({NUMBER})\s*,\s*({NUMBER})\s*\]")
RANGE_HINT = "write it as [0,1], or as name:[0,1] for one input"


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`name:[1,128]`, polygraphy's spelling; several may stand in one argument."""
    if not texts:
        return {}
    text = " ".join(texts)
    shapes: dict[str, tuple[int, ...]] = {}
    for match in SHAPE.finditer(text):
        extents = [extent.strip() for extent in match[2].split(",") if extent.strip()]
        if match[1] in shapes or any(len(extent) > 12 for extent in extents):
            shown = match[0].strip()[:80]
            raise UsageError(f"shape {shown!r} is too large or given twice", SHAPE_HINT)
        shapes[match[1]] = tuple(map(int, extents))
    _check_rest(SHAPE.sub("", text), "shape", SHAPE_HINT)
    return shapes


def parse_symbols(texts: list[str] | None) -> dict[str, int]:
    """`NAME=SIZE`, an extent of all inputs that have the symbol; an argument each.

    A name may hold anything, an equals sign too: the size is behind the last one.
    """
    sizes: dict[str, int] = {}
    for text in texts or ():
        name, _, size = (part.strip() for part in text.rpartition("="))
        if not name or not size.isdecimal() or len(size) > 12:
            raise UsageError(f"cannot read the symbol {text[:80]!r}", SIZE_HINT)
        if sizes.setdefault(name, int(size)) != int(size):
            raise UsageError(f"symbol {name[:80]!r} is given twice", SIZE_HINT)
    return sizes


def parse_ranges(texts: list[str] | None) -> dict[str, tuple[float, float]]:
    """`[low,high]` for every input or `name:[low,high]` for one, as polygraphy spells them."""
    if not texts:
        return {}
    text = " ".join(texts)
    ranges: dict[str, tuple[float, float]] = {}
    for match in RANGE.finditer(text):
        name, low, high = match[1] or "", float(match[2]), float(match[3])
        if name in ranges or not low <= high or high - low == float("inf"):
            raise UsageError(f"range {match[0][:80]!r} is empty or given twice", RANGE_HINT)
        ranges[name] = (low, high)
    _check_rest(RANGE.sub("", text), "range", RANGE_HINT)
    return ranges


DYNAMIC = "--dynamic"


def with_values(words: Sequence[str]) -> list[str]:
    """The words of a command line, `--dynamic` alone with the value that it means."""
    found: list[str] = []
    for number, word in enumerate(words):
        found.append(word)
        following = words[number + 1] if number + 1 < len(words) else "-"
        if word == DYNAMIC and following.startswith("-"):
            found.append("auto")
    return found


def _check_rest(rest: str, what: str, hint: str) -> None:
    if rest.strip():
        raise UsageError(f"cannot read the {what} {rest.strip()[:80]!r}", hint)

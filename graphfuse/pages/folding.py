"""What is alike told once: sites, near misses, numbers of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphfuse.records.sites import shape_text
from graphfuse.report.head import Document

MOST_ROWS = 1000
"""Rows that a group lists; the document has all."""


@dataclass(frozen=True)
class Group:
    """Items that are alike but for their names: the first, and all."""

    first: Document
    members: tuple[Document, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.members)

    @property
    def rows(self) -> tuple[Document, ...]:
        """Those that are listed."""
        return self.members[:MOST_ROWS]

    @property
    def unlisted(self) -> int:
        """How many are not."""
        return max(self.count - MOST_ROWS, 0)

    @property
    def layers(self) -> str:
        """The numbers of their layers, such as `layers 0-95`; empty where none is known."""
        text = ranges(each.get("layer") for each in self.members)
        return text and f"layer{'' if text.isdecimal() else 's'} {text}"


def sites(items: Iterable[Document]) -> list[Group]:
    """Sites in groups, in the order of the first of each."""
    return _folded(items, _site_key)


def near_misses(items: Iterable[Document]) -> list[Group]:
    """Near misses of one reason at one operator."""
    return _folded(items, lambda each: (each["reason"], each["culprit"]["op_type"]))


def _site_key(site: Document) -> tuple[Any, ...]:
    return (
        site["kind"],
        site["layout"],
        site["notation"],
        site["elem_type"],
        # Axes that nobody named are alike, whatever inference called them.
        shape_text(site["shape"]),
        None if site["b_shape"] is None else shape_text(site["b_shape"]),
        site["sum_is_read"],
        site["epsilon"],
        site["axis"],
        site["fused_by"],
        site.get("operator"),
    )


def _folded(items: Iterable[Document], key: Callable[[Document], object]) -> list[Group]:
    alike: dict[object, list[Document]] = {}
    for item in items:
        alike.setdefault(key(item), []).append(item)
    return [Group(group[0], tuple(group)) for group in alike.values()]


def ranges(numbers: Iterable[int | None]) -> str:
    """Numbers as ranges, such as 0-95; empty where none is known."""
    known = sorted({number for number in numbers if number is not None})
    runs: list[list[int]] = []
    for number in known:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def ids(names: Sequence[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def node(ref: Document) -> str:
    """A node in words, as everywhere: its operator, its name or number, and where it is."""
    named = (
        f"{ref['op_type']} {ref['name']!r}" if ref["name"] else f"{ref['op_type']} #{ref['index']}"
    )
    return f"{named} in {ref['scope']}" if ref["scope"] else named


def value(check: Document) -> str:
    """The figure of a check, with as many digits as it takes to tell it from its bound."""
    found, bound = check["value"], check["bound"]
    if found is None or found == bound:
        return figure(found)
    texts = (f"{found:.{digits}g}" for digits in range(3, 7))
    return next((text for text in texts if text != figure(bound)), figure(found))


def count(number: int, what: str, many: str = "") -> str:
    """A number of something, such as `1 site` or `2 near misses`."""
    return f"{number} {what if number == 1 else many or f'{what}s'}"


def figure(value: float | None) -> str:
    """A figure with three digits; null stands for infinity."""
    return "infinity" if value is None else f"{value:.3g}"

"""Texts in Markdown: names that others chose, as code that nothing in them can end."""

from __future__ import annotations

import re

from graphfuse.errors import printable

SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~@:&])")


def code(value: object) -> str:
    """A text as inline code, also in a table.

    The fence is longer than any run of backticks in it; a bar would end a cell, and is written as
    tables want it.
    """
    shown = printable(" ".join(str(value).split())).replace("|", "\\|")
    if not shown:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def text(value: object) -> str:
    """A text in which no character means anything: no markup, no mention, no link."""
    shown = printable(" ".join(str(value).split()))
    return SPECIAL.sub(lambda found: _escaped(found[1]), shown)


def _escaped(character: str) -> str:
    # Of what stands in nearly every sentence nothing is left to mean once the rest is escaped.
    if character in ".-():+!":
        return character
    # A mention is one however it is escaped, but for this.
    return "@&#8203;" if character == "@" else f"\\{character}"

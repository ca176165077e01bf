"""Tables as lines of text: a row on a line, or folded to a width without breaking a cell.

A name that is cut in two cannot be given to `graphfuse explain`, and whoever reads the output of a
pipe wants a row on a line. So a table that is too wide for a terminal is not squeezed: columns that
say the same in every row go into a heading, and long cells under their row, whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len

from graphfuse.errors import printable

GAP = "  "
UNDER = "  "
"""Before a cell that stands under its row; what continues it stands twice as far in."""

NOTHING = ("", "-")
"""Cells that need no line of their own."""

Cell = str | Sequence[str]
"""A text that is never broken, or several that a comma divides."""


class Whole(str):
    """A name, a path or a command within a sentence: it is never broken."""

    __slots__ = ()


@dataclass(frozen=True)
class Line:
    """A line of output; a `heading` may be set off."""

    text: str
    heading: bool = False


@dataclass
class Sheet:
    """A table. The first column says which row it is, and stays where it is.

    Columns to `keep` are in every row, also where they say the same in all of them.
    """

    columns: tuple[str, ...]
    keep: tuple[str, ...] = ()
    rows: list[tuple[tuple[str, ...], ...]] = field(
        default_factory=list[tuple[tuple[str, ...], ...]]
    )

    def __post_init__(self) -> None:
        """A heading may be a name as well."""
        self.columns = tuple(map(printable, self.columns))

    def add_row(self, *cells: Cell) -> None:
        """Add a row with a cell for each column; what the cells hold is not obeyed."""
        row = ((each,) if isinstance(each, str) else tuple(each) for each in cells)
        self.rows.append(tuple(tuple(printable(part) for part in cell) for cell in row))

    def lines(self, width: int | None) -> list[Line]:
        """The table as lines of at most `width` columns where cells allow it; None for any."""
        every = list(range(len(self.columns)))
        if width is None or self._width(every) <= width:
            return self._laid_out(every, [], None)
        if self.rows and cell_len(self.columns[0]) > max(self._cells(0), width // 2):
            # Such as the path of a model: it goes first, and the table without it.
            rest = Sheet(("", *self.columns[1:]), self.keep, self.rows)
            return [Line(self.columns[0], heading=True), *rest.lines(width)]
        same = [] if len(self.rows) < 2 else [n for n in every[1:] if self._is_equal(n)]
        beside = [n for n in every if n not in same]
        under: list[int] = []
        while self._width(beside) > width and len(beside) > 1:
            widest = max(beside[1:], key=self._extent)
            beside.remove(widest)
            under.append(widest)
        texts = [f"{self.columns[n]} {', '.join(self.rows[0][n])}" for n in same]
        said = [Line(each) for each in folded_list("in every row: ", texts, width)] if same else []
        return said + self._laid_out(beside, sorted(under), width)

    def _is_equal(self, number: int) -> bool:
        return (
            self.columns[number] not in self.keep and len({row[number] for row in self.rows}) == 1
        )

    def _cells(self, number: int) -> int:
        return max((cell_len(", ".join(row[number])) for row in self.rows), default=0)

    def _extent(self, number: int) -> int:
        return max(cell_len(self.columns[number]), self._cells(number))

    def _width(self, numbers: Sequence[int]) -> int:
        return sum(self._extent(n) for n in numbers) + len(GAP) * (len(numbers) - 1)

    def _laid_out(
        self, beside: Sequence[int], under: Sequence[int], width: int | None
    ) -> list[Line]:
        extents = {n: self._extent(n) for n in beside}

        def row(cells: Sequence[str]) -> str:
            texts = (
                text + " " * (extents[n] - cell_len(text))
                for n, text in zip(beside, cells, strict=True)
            )
            return GAP.join(texts).rstrip()

        lines = [Line(row([self.columns[n] for n in beside]), heading=True)]
        for cells in self.rows:
            lines.append(Line(row([", ".join(cells[n]) for n in beside])))
            for n in under:
                if ", ".join(cells[n]) not in NOTHING:
                    label = f"{UNDER}{self.columns[n]}: "
                    lines += [Line(each) for each in folded_list(label, cells[n], width or 0)]
        return lines


def folded_list(label: str, parts: Sequence[str], width: int) -> list[str]:
    """Parts with commas between them, on as many lines as it takes; none is broken."""
    lines, indent = [label.rstrip()], len(label) - len(label.lstrip()) + len(UNDER)
    for number, part in enumerate(parts):
        text = part + ("," if number + 1 < len(parts) else "")
        if cell_len(lines[-1]) + 1 + cell_len(text) <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(" " * max(0, min(indent, width - cell_len(text))) + text)
    return lines


def folded(parts: Sequence[str], width: int, indent: int) -> list[str]:
    """A sentence on lines of at most `width` columns, broken at blanks, `Whole` parts nowhere.

    Lines but the first begin `indent` columns in; so does a word that is too long for a line.
    """
    lines, blank = [""], ""
    for word in _words(parts):
        if word.isspace():
            blank = word
            continue
        text = lines[-1] + blank + word
        if cell_len(text) <= width or not lines[-1].strip():
            lines[-1] = text
        else:
            lines.append(" " * max(0, min(indent, width - cell_len(word))) + word)
        blank = ""
    return lines


def _words(parts: Sequence[str]) -> Iterator[str]:
    """Words and the blanks between them; what stands next to a whole part belongs to it."""
    word = ""
    for part in parts:
        if isinstance(part, Whole):
            if word.isspace():
                yield word
                word = ""
            word += printable(part)
            continue
        for letter in printable(part):
            if (letter == " ") != word.isspace() and word:
                yield word
                word = ""
            word += letter
    if word:
        yield word

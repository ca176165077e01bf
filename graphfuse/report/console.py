"""A console for texts that have names of others in them: nothing that they hold is obeyed."""

from __future__ import annotations

from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphfuse.errors import printable

WIDEST = 10**6
"""Columns: more than a row has."""


class SafeConsole(Console):
    """Writes control characters of every text and table cell as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text goes through here that is not made of rich's own parts."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """rich would end the process, with the code of a failure and without a word."""
        raise BrokenPipeError(32, "Broken pipe")

    def table(self, table: Table) -> None:
        """Print a table, a row on a line, however long it is: a name that is cut is no name.

        A terminal folds such lines itself, and gives them whole to whoever copies them.
        """
        options = self.options.update(width=WIDEST, no_wrap=True)
        for line in self.render_lines(table, options, pad=False):
            text = Text.assemble(*((part.text, part.style or "") for part in line))
            text.rstrip()
            self.print(text, soft_wrap=True)


def table_of(*columns: str) -> Table:
    """An empty table as all views have it."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ignore")
    return made

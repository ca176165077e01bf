"""A console for texts that have names of others in them: nothing that they hold is obeyed."""

from __future__ import annotations

from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from graphfuse.errors import printable
from graphfuse.report.sheet import Line, Sheet, folded


class SafeConsole(Console):
    """Writes control characters of every text and table cell as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text goes through here that is not made of rich's own parts."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """rich would end the process, with the code of a failure and without a word."""
        raise BrokenPipeError(32, "Broken pipe")

    @property
    def columns(self) -> int | None:
        """How wide a line may be; None where programs read it, a row on a line."""
        return self.width if self.file.isatty() else None

    def say(self, *parts: str, indent: int = 2) -> None:
        """Print a sentence. On a terminal it is folded at blanks, but for its `Whole` parts."""
        width = self.columns
        lines = ["".join(map(printable, parts))] if width is None else folded(parts, width, indent)
        for line in lines:
            self._print_line(Line(line))

    def table(self, sheet: Sheet) -> None:
        """Print a table: a row on a line, folded where a terminal is narrower than that."""
        for line in sheet.lines(self.columns):
            self._print_line(line)

    def _print_line(self, line: Line) -> None:
        style = "bold" if line.heading and not self.no_color else ""
        # Whatever is still too long is folded by the terminal, which gives it whole to who copies.
        self.print(Text(line.text.rstrip(), style=style), soft_wrap=True)

"""A console for texts that have names of others in them: nothing that they hold is obeyed."""

from __future__ import annotations

from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from graphfuse.errors import printable


class SafeConsole(Console):
    """Writes control characters of every text and table cell as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text goes through here that is not made of rich's own parts."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """rich would end the process, with the code of a failure and without a word."""
        raise BrokenPipeError(32, "Broken pipe")

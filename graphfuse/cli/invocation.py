"""One command line: its words, read once, and what it has printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

JSON = "--json"


@dataclass
class Invocation:
    """The words behind the program's name, and where the stages of an isolated run go.

    `printed` says that the report is on standard output: it is the only one.
    """

    words: Sequence[str] = ()
    stages: int | None = None
    printed: bool = False

    @property
    def command(self) -> str:
        """The name of the command; '' where there is none yet."""
        return next((word for word in self.words if not word.startswith("-")), "")

    @property
    def wants_json(self) -> bool:
        """Whether the report is a JSON document, that of an error too."""
        return JSON in self.words


invocation = Invocation()
"""That of this process."""

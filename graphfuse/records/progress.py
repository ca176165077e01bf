"""Whom a long call tells how far it is: an object with two methods, such as a progress bar's."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What `optimize` and the other long calls take as `progress`."""

    def stage(self, name: str) -> None:
        """A part of the work begins, such as `scanning` or `running the original on CUDA`."""
        ...

    def portion(self, what: str, done: int, total: int) -> None:
        """So many of `total` bytes of a file are written."""
        ...


class Silent:
    """Nobody is told."""

    def __repr__(self) -> str:
        return "SILENT"

    def stage(self, name: str) -> None:
        """Nothing is shown."""

    def portion(self, what: str, done: int, total: int) -> None:
        """Nothing is shown."""


SILENT = Silent()

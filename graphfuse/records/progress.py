"""Whom a long call tells how far it is: an object with two methods, such as a progress bar's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")


class Progress(Protocol):
    """What `optimize` and the other long calls take as `progress`.

    One that has a method `part` as well (`Counting`) is told how much of a stage is done.
    """

    def stage(self, name: str) -> None:
        """A part of the work begins, such as `scanning` or `running the original on CUDA`."""
        ...

    def portion(self, what: str, done: int, total: int) -> None:
        """So many of `total` bytes of a file are written."""
        ...


class Counting(Progress, Protocol):
    """A Progress that is told of the pieces of a stage as well."""

    def part(self, done: float, total: float) -> None:
        """So many of `total` pieces (sites, runs) are done, 0 first, and the next one begins.

        Numbers that are not whole say what share of a time that was asked for has passed.
        """
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


def tell_part(progress: Progress, done: float, total: float) -> None:
    """Tell of a piece, whoever wants to know."""
    part = getattr(progress, "part", None)
    if part is not None:
        part(done, total)


def counted(progress: Progress, items: Sequence[_Item]) -> Iterator[_Item]:
    """The items one by one; each is told of before it is given."""
    for done, item in enumerate(items):
        tell_part(progress, done, len(items))
        yield item

"""Whether a run of the whole model fits into the memory there is, told before it is run.

What does not fit is not tried: the system would end the process, or others, without a word.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from graphfuse.errors import OriginalModelError
from graphfuse.files.model_file import Model
from graphfuse.running.estimate import Need, estimate
from graphfuse.running.feeding import Feed, Feeding
from graphfuse.system import memory

REMEDY = (
    "give it more memory (a larger machine or container, `ulimit -v`, --memory-limit), or smaller "
    "feeds with --input-shapes or --symbol"
)


class TooLargeError(OriginalModelError):
    """A run of the original does not fit into the memory there is, on any feed."""


@dataclass
class Fitting:
    """The room that there was at the beginning, and what feeds take of it; `notes` say what for.

    `needs` is what is known of that already, of the same model. `doing` is what the memory is for,
    in words; `sessions` is how many are there together where nothing is evaluated in float64, and
    0 for a validation.
    """

    model: Model
    captured: Sequence[str] = ()
    notes: list[str] = field(default_factory=list[str])
    needs: dict[object, Need] = field(default_factory=dict[object, Need])
    doing: str = "validating the whole model"
    sessions: int = 0
    _held: int = 0

    @cached_property
    def room(self) -> memory.Room | None:
        """The memory that this process may take; None where the system does not tell."""
        return memory.available()

    def need(self, feed: Feed) -> Need:
        """What both models take on a feed: the fused one is no larger."""
        key = (tuple(feed.extents.values()), tuple(self.captured))
        if key not in self.needs:
            self.needs[key] = estimate(self.model, feed.extents, self.captured)
        return self.needs[key]

    def fits(self, feed: Feed) -> bool:
        """Whether a feed fits beside those that are kept."""
        return self.room is None or self._held + self._peak(feed) <= self.room.size

    def _peak(self, feed: Feed) -> int:
        need = self.need(feed)
        return need.running(self.sessions) if self.sessions else need.peak

    def keep(self, feed: Feed) -> None:
        """A feed is run: its arrays and outputs stay until the end."""
        self._held += self.need(feed).feeds if self.room is not None else 0

    def choose(self, groups: Sequence[list[Feed]], feeding: Feeding) -> list[list[Feed]]:
        """Sets of feeds, with smaller ones in place of a set of which none fits.

        Raises TooLargeError when nothing fits that could stand for the first.
        """
        chosen: list[list[Feed]] = []
        for group in groups:
            if any(map(self.fits, group)):
                chosen.append(group)
                continue
            smaller = filter(self.fits, feeding.smaller(self.model.proto, group[0]))
            fitting = list(itertools.islice(smaller, 1))
            if not fitting and not chosen:
                raise TooLargeError(self._text(group[0]), REMEDY)
            said = f"drawn was {fitting[0].label}" if fitting else "it was left out"
            self.notes.append(f"{self._text(group[0])}: {said}")
            chosen += [fitting] if fitting else []
        return chosen

    def those_that_fit(self, group: Sequence[Feed]) -> list[Feed]:
        """Of a set of feeds those that fit; no others stand for what was asked for.

        Raises TooLargeError where none does.
        """
        found = [feed for feed in group if self.fits(feed)]
        if group and not found:
            raise TooLargeError(self._text(min(group, key=self._peak)), REMEDY)
        return found

    def leave_out(self, group: Sequence[Feed]) -> None:
        """Say that what was chosen no longer fits, beside what is kept of other feeds."""
        self.notes.append(f"{self._text(group[0])}: it was left out")

    def _text(self, feed: Feed) -> str:
        size = _gigabytes(self._held + self._peak(feed))
        room = f"{_gigabytes(self.room.size)} are left of {self.room.bound}" if self.room else ""
        what = f"{self.doing} on {feed.label} ({feed.shapes})"
        return f"{what} takes about {size}, and {room}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.0f} MB"

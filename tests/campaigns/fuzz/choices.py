"""Every random decision of a case. Each is drawn by its topic and its occurrence alone.

So one decision can be made plain (its first option) without any other changing, which is how a
failing case is shrunk, and a case follows from its seed and index on any machine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Option = TypeVar("Option")


class Choices:
    """Decisions by topic. A topic in `plain`, or one occurrence `topic#n` of it, is not drawn."""

    def __init__(self, seed: int, index: int, plain: frozenset[str] = frozenset()) -> None:
        self._prefix = f"{seed}/{index}/"
        self._plain = plain
        self._count: Counter[str] = Counter()
        self.drawn: dict[str, None] = {}
        """The occurrences that took another option than the first, in order."""

    def pick(self, topic: str, options: Sequence[Option]) -> Option:
        """One of the options; the first is the plainest."""
        drawn = self._draw(topic)
        if drawn is None:
            return options[0]
        position = drawn[1] % len(options)
        if position:
            self.drawn[drawn[0]] = None
        return options[position]

    def chance(self, topic: str, percent: float) -> bool:
        """True in so many cases of a hundred; False is the plainest."""
        drawn = self._draw(topic)
        if drawn is None or drawn[1] % 100_000 >= percent * 1000:
            return False
        self.drawn[drawn[0]] = None
        return True

    def random(self, topic: str) -> random.Random | None:
        """A generator for an occurrence of a topic, None where it is plain."""
        drawn = self._draw(topic)
        if drawn is None:
            return None
        self.drawn[drawn[0]] = None
        return random.Random(drawn[1])

    def _draw(self, topic: str) -> tuple[str, int] | None:
        occurrence = f"{topic}#{self._count[topic]}"
        self._count[topic] += 1
        if self._plain and (topic in self._plain or occurrence in self._plain):
            return None
        digest = blake2b((self._prefix + occurrence).encode(), digest_size=8).digest()
        return occurrence, int.from_bytes(digest, "little")

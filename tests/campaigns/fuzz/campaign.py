"""Many cases and their totals, in as many processes as asked for."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from tests.campaigns.fuzz.case import Ticket
from tests.campaigns.fuzz.cases import build
from tests.campaigns.fuzz.judge import FUSED, MISSED, REFUSED, SILENT, Verdict, is_failure, judge

CHUNK = 250
THOROUGH = 4
"""Every fourth case is fused twice and evaluated through its functions' bodies as well."""
RATE = 0.999
"""The least share of legal cases that must be recognised."""


@dataclass
class Totals:
    """Counts of verdicts; `misses` by reason, `silent` by illegal move."""

    kinds: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    parts: int = 0
    failed: list[Ticket] = field(default_factory=list)
    unexplained: list[Ticket] = field(default_factory=list)
    """Missed without a reason."""
    others: list[Ticket] = field(default_factory=list)
    """Missed with a reason, or silent."""
    seconds: float = 0.0

    @property
    def graphs(self) -> int:
        """How many cases there were."""
        return self.kinds.total()

    @property
    def failures(self) -> int:
        """Wrong fusions, broken models, and cases that are not what they say."""
        kinds = (k for k in self.kinds if is_failure(Verdict(k)))
        return sum(self.kinds[k] for k in kinds)

    @property
    def rate(self) -> float:
        """The share of legal cases that were fused; 1 where there were none."""
        legal = self.kinds[FUSED] + self.kinds[MISSED]
        return self.kinds[FUSED] / legal if legal else 1.0

    @property
    def kept(self) -> list[Ticket]:
        """Cases to look at, the worst first."""
        return self.failed + self.unexplained + self.others

    @property
    def passed(self) -> bool:
        """No wrong fusion and enough legal ones."""
        return not self.failures and self.rate >= RATE

    def add(self, ticket: Ticket, verdict: Verdict, move: str) -> None:
        """Count a verdict."""
        self.kinds[verdict.kind] += 1
        self.parts += verdict.part
        if verdict.kind == MISSED:
            self.misses[", ".join(sorted(set(verdict.reasons))) or "no reason given"] += 1
        if verdict.kind == SILENT:
            self.silent[move] += 1
        if is_failure(verdict):
            self.failed.append(ticket)
        elif verdict.kind == MISSED and not verdict.reasons:
            self.unexplained.append(ticket)
        elif verdict.kind not in (FUSED, REFUSED):
            self.others.append(ticket)

    def merge(self, other: Totals) -> None:
        """Add the totals of another chunk."""
        self.kinds += other.kinds
        self.misses += other.misses
        self.silent += other.silent
        self.parts += other.parts
        self.failed += other.failed
        self.unexplained += other.unexplained
        self.others += other.others

    def lines(self) -> Iterator[str]:
        """The totals for a reader."""
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        yield f"{self.graphs} graphs: {counts}"
        yield f"recognised {self.rate:.4%} of legal ones; {self.parts} in part"
        yield from (f"  missed {count}: {why}" for why, count in self.misses.most_common())
        yield from (f"  silent {count}: {move}" for move, count in self.silent.most_common())
        if self.seconds:
            yield f"{self.graphs / self.seconds:.0f} graphs/s"


def run(tickets: Iterable[Ticket], jobs: int = 1) -> Totals:
    """Judge cases; the totals are the same for any number of jobs."""
    totals, start = Totals(), time.monotonic()
    if jobs == 1:
        for chunk in _chunks(tickets):
            totals.merge(_judged(chunk))
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for part in pool.imap(_judged, _chunks(tickets)):
                totals.merge(part)
    totals.seconds = time.monotonic() - start
    return totals


def tickets(plan: Ticket, count: int) -> Iterator[Ticket]:
    """So many cases from an index on."""
    for index in range(plan.index, plan.index + count):
        yield replace(plan, index=index)


def _chunks(given: Iterable[Ticket]) -> Iterator[list[Ticket]]:
    chunk: list[Ticket] = []
    for ticket in given:
        chunk.append(ticket)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _judged(chunk: list[Ticket]) -> Totals:
    totals = Totals()
    for ticket in chunk:
        case = build(ticket)
        verdict = judge(case, thorough=ticket.index % THOROUGH == 0)
        totals.add(ticket, verdict, case.move)
    return totals

"""Fusing and certifying a model, and counting what comes of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx

import graphfuse
from graphfuse.records import Certificate


def certificates(
    original: str | Path | onnx.ModelProto, fused: onnx.ModelProto, seed: int = 0
) -> tuple[Certificate, ...]:
    """The certificates of a pair, without any other gate."""
    report = graphfuse.validate(
        original, fused, level="none", certify=True, feeds=graphfuse.Feeds(seed=seed)
    )
    return report.certificates


@dataclass
class Tally:
    """Sites by verdict, how many certificates stand for them, and those that do not hold."""

    sites: Counter[str] = field(default_factory=Counter)
    roundings: Counter[str] = field(default_factory=Counter)
    records: int = 0
    largest: float = 0.0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, label: str, found: tuple[Certificate, ...]) -> None:
        """Count the certificates of a model."""
        self.records += len(found)
        for each in found:
            self.sites[each.verdict] += len(each.sites)
            if each.passed and not each.detail and each.difference is not None:
                self.largest = max(self.largest, each.difference)
            if each.passed and each.detail:
                self.roundings[each.detail] += len(each.sites)
            if not each.passed:
                self.failed.append(f"{label}: {each.site}: {each.verdict}, {each.detail}")

    def merge(self, other: Tally) -> None:
        """Add another one's counts."""
        self.sites += other.sites
        self.roundings += other.roundings
        self.records += other.records
        self.largest = max(self.largest, other.largest)
        self.failed += other.failed

    def lines(self) -> Iterator[str]:
        """The counts for a reader."""
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in self.sites.most_common())
        yield f"{self.sites.total()} sites, {self.records} certificates: {verdicts or 'none'}"
        yield f"largest difference of identical ones {self.largest:.2g}; {self.seconds:.0f} s"
        yield from (f"  {n} x one rounding: {what}" for what, n in self.roundings.most_common())
        yield from (f"FAILED {line}" for line in self.failed)


def of_file(path: Path, tally: Tally) -> int:
    """Fuse a file whole and certify it; gives how many sites were fused."""
    start = time.monotonic()
    result = graphfuse.fuse(path, selection=graphfuse.Selection(costs="none"))
    if result.changed:
        tally.add(path.name, certificates(path, result.model))
    tally.seconds += time.monotonic() - start
    return len(result.fused)

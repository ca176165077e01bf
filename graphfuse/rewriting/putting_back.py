"""Which sites to put back when a validation fails, in a bounded number of validations.

A fused node that fails alone is named by its own check, and all of these are put back at once.
Where only the whole model fails, a validation names one site: after a few of those the rest is
halved, and each half is tried beside what is known to pass: k wrong sites of n take some k log n
validations. Whatever is not decided when the limit is reached is put back, unjudged: as it was it
is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from graphfuse.errors import ValidationError
from graphfuse.records import FuseResult, ValidationReport
from graphfuse.records.progress import Progress

if TYPE_CHECKING:
    from typing import Protocol

    class Owner(Protocol):
        """Whoever rewrites: fusing.Fusing."""

        progress: Progress

        def result(self, put_back: Mapping[str, str]) -> FuseResult:
            """The model with some sites put back."""
            ...

        def failed(self, report: ValidationReport) -> ValidationError:
            """The error where no site can be put back."""
            ...


DIRECT = 3
"""Validations whose blame is followed as it is; after them what is left is halved."""

SECONDS = 600.0
"""No further validation is begun when halving has taken so long."""

WAITING = "not judged"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One validation: what was judged, the report, and why which sites are to blame."""

    result: FuseResult
    report: ValidationReport | None
    blamed: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether it passed, or nothing is left that could fail."""
        return self.report is None or self.report.passed


def most_validations(sites: int) -> int:
    """How many validations there are at most for so many sites."""
    return DIRECT + 8 + 2 * sites.bit_length()


@dataclass
class PuttingBack:
    """The search for the sites to put back."""

    owner: Owner
    judge: Callable[[Mapping[str, str]], Attempt]
    strict: bool
    count: int = 0
    put_back: dict[str, str] = field(default_factory=dict[str, str])

    def run(self) -> FuseResult:
        """The model with what passes. Raises ValidationError when no site can be blamed."""
        trial = self._try({}, 0)
        most = most_validations(len(trial.result.fused))
        for _ in range(DIRECT):
            if trial.passed:
                return self._said(trial.result, 0)
            if trial.report is not None and (self.strict or not trial.blamed):
                raise self.owner.failed(trial.report)
            self.put_back |= trial.blamed
            trial = self._try({}, most)
        if trial.passed:
            return self._said(trial.result, 0)
        self.put_back |= trial.blamed
        sites = [f.site.id for f in trial.result.fused if f.site.id not in self.put_back]
        return self._halve(sites, most)

    def _try(self, more: Mapping[str, str], most: int) -> Attempt:
        if self.count:
            back = len(self.put_back)
            self.owner.progress.stage(
                f"putting back: {back} so far, validation {self.count + 1} of {most}"
            )
        self.count += 1
        return self.judge({**self.put_back, **more})

    def _halve(self, sites: list[str], most: int) -> FuseResult:
        kept: list[str] = []
        best: FuseResult | None = None
        end = time.monotonic() + SECONDS
        pending = _halves(sites)
        while pending and self.count < most and time.monotonic() < end:
            group = pending.pop(0)
            chosen = {*kept, *group}
            waiting = {site: WAITING for site in sites if site not in chosen}
            trial = self._try({**waiting, **self.put_back}, most)
            if trial.passed:
                kept += group
                best = trial.result
                continue
            found = {site: why for site, why in trial.blamed.items() if site in group}
            if not found and len(group) == 1:
                found = {group[0]: "the whole model passes without it, and not with it"}
            self.put_back |= found
            pending[:0] = _halves([site for site in group if site not in found])
        left = [site for group in pending for site in group]
        why = f"not judged: the limit of {self.count} validations was reached"
        self.put_back |= dict.fromkeys(left, why)
        # The same sites as in the last validation that passed; said of each is why it was left.
        final = self.owner.result(self.put_back)
        if best is not None:
            final = replace(final, validation=best.validation)
        return self._said(final, len(left))

    def _said(self, result: FuseResult, unjudged: int) -> FuseResult:
        if self.count < 2:
            return result
        rest = f"; {unjudged} of them were put back unjudged" if unjudged else ""
        back = f"{len(self.put_back)} sites were put back in {self.count} validations{rest}"
        return replace(result, notes=(*result.notes, back))


def _halves(group: list[str]) -> list[list[str]]:
    middle = (len(group) + 1) // 2
    return [half for half in (group[:middle], group[middle:]) if half]

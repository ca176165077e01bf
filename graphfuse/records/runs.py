"""What running models shows: checks, activations, the report of a validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from graphfuse.records.drawings import Picture
from graphfuse.records.provenance import HashedFile
from graphfuse.records.residual_stream import Reading
from graphfuse.records.sites import NormKind, Site

GATES = {
    "G0": "meaning, both in float64",
    "G1": "each site alone, times its rounding bound",
    "G2": "whole model, distance to float64",
    "G3": "values lost to NaN, infinity or zero",
    "G4": "integers and clear decisions changed",
}
"""What each gate of a validation asks."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of a gate against its bound: `value <= bound` passes.

    `gate` is G0 (meaning, relative L2 in float64), G1 (a site alone, multiples of the rounding
    bound), G2 (the whole model, relative L2 distance to float64), G3 (elements that lost their
    value to NaN, infinity or zero) or G4 (decisions and integers that changed). `subject` is the
    output of the model or of the fused node, `where` the feed that gave the worst, and `repeat`
    the options of `graphfuse validate ORIGINAL FUSED` that measure it again.
    """

    gate: str
    subject: str
    value: float
    bound: float
    where: str
    passed: bool
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A fused node that could not be compared with what it replaced, and why."""

    site: str
    why: str


class CertificateVerdict(StrEnum):
    """What a certificate says of a fused node: see `Certificate`."""

    IDENTICAL = "identical"
    ROUNDED = "identical but for one rounding"
    DIFFERENT = "different"
    UNCERTIFIED = "not certified"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What 100 digits (and 100 guard digits) say of a fused node and what it replaced.

    It stands for all `sites` that are alike.

    `site` is the output of the one that was evaluated, `sites` the outputs of all that it stands
    for. `notation` are the original's operators, `extents` the shapes of the operands, `rows` how
    many rows were evaluated, and `difference` is the largest one, relative to each number; None
    where nothing was evaluated. `verdict` is IDENTICAL (to ninety digits), ROUNDED (so, when the
    numbers in `detail` are rounded once to the type that the fused node holds them in), DIFFERENT
    (`detail` has the first digit that differs) or UNCERTIFIED (`detail` says why). `repeat` are the
    options of `graphfuse validate ORIGINAL FUSED` that make it again.
    """

    site: str
    sites: tuple[str, ...]
    kind: NormKind
    notation: str
    extents: str
    rows: int
    seed: int
    digits: int
    verdict: CertificateVerdict
    detail: str
    difference: float | None
    repeat: str = ""

    @property
    def passed(self) -> bool:
        """Whether the fused node is what it replaced."""
        return self.verdict in (CertificateVerdict.IDENTICAL, CertificateVerdict.ROUNDED)


@dataclass(frozen=True, slots=True)
class Change:
    """A node that differs outside of the fused ones: its first output, operator, and graph.

    `how` is added, changed, or interface (a body or function with other inputs or outputs).
    `judged` says by what: `alone`, `whole model`, or nothing.
    """

    output: str
    operator: str
    how: str
    scope: str = ""
    judged: str = ""


@dataclass(frozen=True, slots=True)
class NotShown:
    """What no run and no comparison has reached, so that nothing is known of it, and why."""

    subject: str
    why: str


@dataclass(frozen=True, slots=True, repr=False)
class ValidationReport:
    """All checks of one validation. `passed` is true when every one holds, and nothing is unknown.

    `changes` are the nodes that differ outside of the fused ones. `not_shown` is what differs and
    was reached by no check: a fused node or other node in a branch that no feed took, or a function
    of a fused operator that graphfuse did not write. `certificates` are there when they were asked
    for; then each of them has to hold as well.
    `wrong` are outputs of fused nodes that are to blame for a failure, in the order of the model.
    `evaluated` tells what evaluated which operators for the float64 twins. `activations` are the
    sums of the original's own run, `unpaired` the fused nodes that only the whole model was judged
    by, and `notes` what was left out and why. `read` are the files of both models where they alone
    were asked about; `sites` are those of the first that are fused nodes in the second, and
    `pictures` the graph around them, where that is asked for.
    """

    checks: tuple[Check, ...]
    providers: tuple[str, ...]
    seed: int
    level: str = "full"
    wrong: tuple[str, ...] = ()
    evaluated: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    activations: tuple[Reading, ...] = ()
    unpaired: tuple[Unpaired, ...] = ()
    notes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    not_shown: tuple[NotShown, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    read: tuple[HashedFile, ...] = ()
    sites: tuple[Site, ...] = ()
    pictures: tuple[Picture, ...] = ()

    def __repr__(self) -> str:
        said = f"{len(self.checks)} checks at {self.level} on {', '.join(self.providers)}"
        return f"<ValidationReport: {self.verdict}, {said}>"

    @property
    def first_difference(self) -> str:
        """The output of the first fused node that is to blame; '' when none is."""
        return self.wrong[0] if self.wrong else ""

    @property
    def passed(self) -> bool:
        """Whether every check and certificate holds, and all that differs was checked."""
        return self.verdict == "pass"

    @property
    def verdict(self) -> str:
        """`pass`, `fail` (a check or certificate does not hold), or `not shown` (not checked)."""
        if not all(each.passed for each in (*self.checks, *self.certificates)):
            return "fail"
        return "not shown" if self.not_shown else "pass"

    @property
    def uncertified(self) -> tuple[Certificate, ...]:
        """The certificates that do not hold."""
        return tuple(each for each in self.certificates if not each.passed)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.passed)

    def worst(self, gate: str) -> Check | None:
        """The check of a gate that is furthest out, relative to its bound."""
        mine = [check for check in self.checks if check.gate == gate]
        if not mine:
            return None
        return max(mine, key=lambda c: (not c.passed, c.value / c.bound if c.bound else 0.0))

"""A failing case made plainer: every decision that it fails without is not drawn any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import onnx

from tests.campaigns.fuzz.case import Case, Ticket
from tests.campaigns.fuzz.cases import build
from tests.campaigns.fuzz.judge import Verdict, judge

ROUNDS = 3
"""A decision may turn out to be needless once another one is plain."""


def shrink(ticket: Ticket) -> tuple[Case, Verdict]:
    """The plainest case found that comes to the same verdict, for the same reason."""
    case = build(ticket)
    verdict = judge(case)
    for _ in range(ROUNDS):
        before = case.ticket.plain
        topics = dict.fromkeys(name.split("#")[0] for name in case.drawn)
        case, verdict = _without(case, verdict, topics)
        case, verdict = _without(case, verdict, case.drawn)
        if case.ticket.plain == before:
            break
    return _tidy(case, verdict), verdict


def _without(case: Case, verdict: Verdict, names: Iterable[str]) -> tuple[Case, Verdict]:
    """The case with as many of the decisions plain as it fails without."""
    for name in names:
        if name not in case.drawn and not any(d.startswith(f"{name}#") for d in case.drawn):
            continue
        plainer = _build(replace(case.ticket, plain=case.ticket.plain | {name}))
        if plainer is not None and same(judge(plainer), verdict):
            case = plainer
    return case, verdict


def _build(ticket: Ticket) -> Case | None:
    """The case, or None where plainer decisions contradict each other."""
    try:
        return build(ticket)
    except (AssertionError, KeyError, ValueError, IndexError, StopIteration):
        return None


def _tidy(case: Case, verdict: Verdict) -> Case:
    """Occurrences of a topic that is plain altogether need no mention."""
    topics = {name for name in case.ticket.plain if "#" not in name}
    fewer = frozenset(n for n in case.ticket.plain if "#" not in n or n.split("#")[0] not in topics)
    tidied = _build(replace(case.ticket, plain=fewer))
    return tidied if tidied is not None and same(judge(tidied), verdict) else case


def same(one: Verdict, other: Verdict) -> bool:
    """Whether two cases fail alike."""
    return one.kind == other.kind and one.reasons[:1] == other.reasons[:1]


def as_text(case: Case, verdict: Verdict) -> str:
    """A case for a reader: the verdict, the command that repeats it, and the model."""
    reasons = ", ".join(verdict.reasons) or "none"
    head = [f"{verdict.kind}: {verdict.detail}", f"reasons: {reasons}", case.ticket.command()]
    return "\n".join([*(f"# {line}" for line in head), onnx.printer.to_text(case.model)])

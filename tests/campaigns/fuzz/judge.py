"""Fused iff legal, equal to the float64 meaning, valid, and unchanged by a second fuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

import graphfuse
from graphfuse.records.reasons import Reason
from tests.campaigns.fuzz.case import Case
from tests.campaigns.fuzz.cases import ILLEGAL
from tests.campaigns.fuzz.oracle import evaluate

SAME = 1e-9
"""Two meanings are one within this relative L2 distance."""
CHANGED = 1e-7
"""An illegal move changes the meaning by more than this."""
HALF_UNIT = 2.0**-24
"""An attribute rounds an epsilon by up to this share: no difference in meaning."""

FUSED, MISSED, REFUSED, WRONG = "fused", "missed", "refused", "wrong"
BROKEN, SILENT, GENERATOR = "broken", "silent", "generator"
FAILURES = (WRONG, BROKEN, GENERATOR)


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    `kind`: fused (legal), refused (near miss); missed is a legal case that was not recognised,
    silent a near miss without a reason; wrong a fusion that changes the meaning or is illegal;
    broken an exception, an invalid model or a second fuse that changes something; generator a
    case that is not what the generator says. `part`: a part of a norm was fused.
    """

    kind: str
    detail: str = ""
    reasons: tuple[str, ...] = ()
    part: bool = False


Feeds = list[dict[str, np.ndarray]]
Meaning = dict[str, np.ndarray]


def judge(case: Case, thorough: bool = True) -> Verdict:
    """The verdict on a case; `thorough` fuses twice and evaluates the functions' bodies as well."""
    try:
        onnx.checker.check_model(case.model, full_check=True)
        feeds = _feeds(case)
        before = [evaluate(case.model, feed) for feed in feeds]
    except Exception as error:
        return Verdict(GENERATOR, f"{type(error).__name__}: {error}")
    problem = _not_as_meant(case, before)
    if problem:
        return Verdict(GENERATOR, problem)
    try:
        # Whether it wins hangs on the runtime that is installed.
        result = graphfuse.fuse(case.model, selection=graphfuse.Selection(costs="none"))
    except Exception as error:
        return Verdict(BROKEN, f"fuse raised {type(error).__name__}: {error}")
    return _judge(case, feeds, before, result, thorough)


def _judge(
    case: Case, feeds: Feeds, before: list[Meaning], result: graphfuse.FuseResult, thorough: bool
) -> Verdict:
    fused = count_fused(result.model)
    reasons = tuple(miss.reason.name for miss in result.left if isinstance(miss.reason, Reason))
    if fused:
        problem = _difference(case, feeds, before, result.model, thorough)
        if problem:
            return Verdict(WRONG, problem, reasons)
        problem = _invalid(case, result.model, thorough)
        if problem:
            return Verdict(BROKEN, problem, reasons)
    elif result.fused:
        return Verdict(BROKEN, "a fusion is reported, but no fused node is there", reasons)
    return (
        _near(case, fused, result, reasons) if case.move else _legal(case, fused, result, reasons)
    )


def _legal(
    case: Case, fused: int, result: graphfuse.FuseResult, reasons: tuple[str, ...]
) -> Verdict:
    if fused < len(case.blocks) * (2 if case.scope == "if" else 1):
        return Verdict(MISSED, f"{fused} of {len(case.blocks)} fused", reasons)
    if case.scope:
        return Verdict(FUSED)
    sites = {fusion.site.sum: fusion.site for fusion in result.fused}
    part = False
    for block in case.blocks:
        site = sites.get(block.total)
        if site is None:
            return Verdict(MISSED, f"the sum {block.total} is in no fusion", reasons)
        if site.kind != block.norm.kind:
            return Verdict(WRONG, f"{block.norm.kind} taken for {site.kind}", reasons)
        part |= site.output != block.output
    return Verdict(FUSED, part=part)


def _near(
    case: Case, fused: int, result: graphfuse.FuseResult, reasons: tuple[str, ...]
) -> Verdict:
    """What is fused is equal to the original in float64; here it must not be the block itself.

    A part of an illegal norm may be a legal one, of the same sum if the move is one of algebra
    (the norm before a scale that varies), or of another Add (x + (-m) is an Add as well).
    """
    move, block = ILLEGAL[case.move], case.blocks[0]
    for fusion in result.fused:
        site = fusion.site
        if site.sum == block.total and (site.output == block.output or not move.numeric):
            return Verdict(WRONG, f"{case.move}: fused {site.output} all the same", reasons)
    if not reasons and not fused and not move.silent:
        return Verdict(SILENT, f"{case.move}: no reason is given")
    return Verdict(REFUSED, part=bool(fused), reasons=reasons)


def count_fused(model: onnx.ModelProto) -> int:
    """The fused nodes of a model, in subgraphs and its own functions as well."""

    def nodes(found: Iterator[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        for node in found:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from nodes(iter(attribute.g.node))

    everywhere = list(nodes(iter(model.graph.node)))
    for function in model.functions:
        if function.domain != "graphfuse":
            everywhere += nodes(iter(function.node))
    return sum(node.domain == "graphfuse" for node in everywhere)


def _feeds(case: Case) -> Feeds:
    """Ordinary rows, and rows around sqrt(epsilon), where another epsilon shows."""
    spreads = (1.0, float(case.blocks[0].norm.epsilon) ** 0.5)
    feeds = [case.feeds(spread) for spread in spreads]
    names = [value.name for value in case.model.graph.input]
    for feed in feeds:
        for name, value in feed.items():
            if name in names and not value.shape:
                feed[name] = _scalar(case, name)
    return feeds


def _scalar(case: Case, name: str) -> np.ndarray:
    """A scalar input is a condition, or an epsilon."""
    kind = next(v.type.tensor_type.elem_type for v in case.model.graph.input if v.name == name)
    if kind == onnx.TensorProto.BOOL:
        return np.array(case.ticket.index % 2 == 0)
    return np.array(float(case.blocks[0].norm.epsilon))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Relative L2; infinite where shapes differ or one has a value where the other has none."""
    if one.shape != other.shape or (np.isfinite(one) != np.isfinite(other)).any():
        return float("inf")
    finite = np.isfinite(one)
    scale = float(np.linalg.norm(one[finite]))
    return float(np.linalg.norm(one[finite] - other[finite])) / (scale or 1.0)


def _not_as_meant(case: Case, before: list[Meaning]) -> str:
    """A legal block must be its definition; an illegal one must not, where its move says so."""
    if case.scope:
        return ""
    distances = []
    for block in case.blocks:
        for meaning in before:
            x = meaning[block.tokens or block.total]
            distances.append(distance(block.norm.of(x.astype(np.float64)), meaning[block.output]))
    numeric = case.move and ILLEGAL[case.move].numeric
    if numeric and max(distances) < CHANGED:
        return f"{case.move}: the meaning is that of the norm still"
    if not numeric and max(distances) > SAME:
        return f"not the definition: off by {max(distances):.2g}"
    return ""


def _difference(
    case: Case, feeds: Feeds, before: list[Meaning], fused: onnx.ModelProto, thorough: bool
) -> str:
    """Where original and fused model mean different things; empty if nowhere."""
    names = [value.name for value in case.model.graph.output]
    for feed, expected in zip(feeds, before, strict=True):
        ways: list[Mapping[str, bool]] = [{}, {"inline": True}] if thorough else [{}]
        for way in ways:
            found = evaluate(fused, feed, **way)
            for name in names:
                off = distance(expected[name], found[name])
                if off > SAME and off > SAME + _rounding(fused, feed, found, name):
                    return f"output {name} is off by {off:.2g}{' inlined' if way else ''}"
    return ""


def _rounding(
    fused: onnx.ModelProto, feed: dict[str, np.ndarray], found: Meaning, name: str
) -> float:
    """What the rounding of every epsilon to an attribute does to an output."""
    nudged = evaluate(fused, feed, nudge=HALF_UNIT)
    return 1.5 * distance(found[name], nudged[name])


def _invalid(case: Case, fused: onnx.ModelProto, thorough: bool) -> str:
    try:
        onnx.checker.check_model(fused, full_check=True)
        again = (
            graphfuse.fuse(fused, selection=graphfuse.Selection(costs="none")).model
            if thorough
            else None
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if again is not None and again.SerializeToString() != fused.SerializeToString():
        return "a second fuse changes the model"
    for field in ("input", "output"):
        if list(getattr(case.model.graph, field)) != list(getattr(fused.graph, field)):
            return f"the graph's {field}s changed"
    return ""


def is_failure(verdict: Verdict) -> bool:
    """Whether a case fails by itself; missed and silent ones count against a rate."""
    return verdict.kind in FAILURES

"""The terminal views: tables for people, made from the same records as the JSON document."""

from __future__ import annotations

from collections import Counter

from graphfuse.planning.operands import MARK
from graphfuse.records import (
    Check,
    Cost,
    FuseResult,
    NormKind,
    UnfuseResult,
    ValidationReport,
)
from graphfuse.records.reasons import Reason
from graphfuse.records.runs import GATES
from graphfuse.report.console import SafeConsole
from graphfuse.report.sheet import Sheet, Whole

SHOWN = 12
"""How many failures, and sites that could not be paired, are listed."""


def print_summary(console: SafeConsole, model: str, result: FuseResult) -> None:
    """The table that ends `graphfuse fuse`."""
    table = Sheet((model, "found", "fused"))
    fused = Counter(fusion.site.kind for fusion in result.fused)
    for kind in NormKind:
        table.add_row(f"Add + {kind}", str(result.scan.count(kind)), str(fused[kind]))
    if result.scan.already_fused:
        table.add_row("fused before", str(result.scan.already_fused), "")
    table.add_row("nodes", str(result.nodes_before), str(result.nodes_after))
    console.table(table)
    for reason, count in sorted(result.reasons().items(), key=lambda item: item[0].value):
        console.say(f"not fused: {count} x {reason.sentence} ({reason.value})")
        console.say(f"  would help: {reason.remedy}", indent=4)
        for text in _seen(reason, result):
            console.say(f"  seen: {text}", indent=4)
    print_costs(console, result)
    if result.validation is not None:
        print_checks(console, result.validation, "")
    for miss in result.put_back:
        console.say("put back: ", Whole(f"{miss.site} {miss.add}"), f": {miss.got}")
    if result.put_back and not result.changed:
        console.say("every site that was fused was put back: the model is unchanged")
    elif not result.changed:
        console.say("nothing to fuse: the model is unchanged")
    elif result.validation is None:
        console.say("not validated (--validate none)")
    if result.changed and result.made_for:
        console.say(f"made for {result.made_for}")
    _print_files(console, result)


def _seen(reason: Reason, result: FuseResult) -> list[str]:
    """What a plan saw at the sites that it left: a scan shows no such reason."""
    if reason in (Reason.PUT_BACK, Reason.SLOWER):
        # Told of each, elsewhere.
        return []
    left = (miss for miss in result.left if miss.reason is reason and miss.site and miss.got)
    found = list(dict.fromkeys(miss.got for miss in left))
    more = [f"{len(found) - SHOWN} more of them"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def print_unfused(console: SafeConsole, model: str, result: UnfuseResult) -> None:
    """The table that ends `graphfuse unfuse`."""
    table = Sheet((model, "written out"))
    counts = Counter(each.operator for each in result.unfused)
    for operator, count in sorted(counts.items()):
        table.add_row(operator, str(count))
    table.add_row("nodes", f"{result.nodes_before} -> {result.nodes_after}")
    console.table(table)
    for miss in result.left:
        console.say("left: ", Whole(str(miss.add)), f": {miss.reason.sentence} ({miss.got})")
    if result.validation is not None:
        print_checks(console, result.validation, "")
    elif not result.changed:
        console.say("no fused node: the model is unchanged")
    else:
        console.say("not validated (--validate none)")
    _print_files(console, result)


def _print_files(console: SafeConsole, result: FuseResult | UnfuseResult) -> None:
    if not result.written:
        console.say("nothing was written")
    for file in result.written:
        digest = f", sha256 {file.sha256[:16]}" if file.sha256 else ", blocks shared"
        console.say("wrote ", Whole(file.path), f", {file.size:,} bytes{digest}")
    for note in result.notes:
        console.say(f"note: {note}")


def print_costs(console: SafeConsole, result: FuseResult) -> None:
    """What autotuning found for each distinct site, and what was left as it would not win."""
    alike: dict[tuple[str, bool], list[Cost]] = {}
    for cost in result.costs:
        if cost.source == "autotune":
            alike.setdefault((cost.where, cost.folds), []).append(cost)
    for (where, folds), costs in alike.items():
        form = "fused with its bias" if folds else "fused"
        speedups = sorted(cost.speedup for cost in costs)
        console.say(
            f"{form}: {len(costs)} x {speedups[len(speedups) // 2]:.2f} times as fast as their own "
            f"nodes at their best ({where})"
        )
    slower = Counter(miss.got for miss in result.left if miss.reason is Reason.SLOWER)
    for got, count in slower.items():
        console.say(f"left: {count} x {got}")


def print_checks(console: SafeConsole, report: ValidationReport, command: str) -> None:
    """The worst figure of each gate, and every failure; `command` and its options repeat it."""
    if report.checks:
        print_gates(console, report)
    for check in report.failures[:SHOWN]:
        value, bound = figures(check, 3)
        verdict = "passed" if check.passed else "failed"
        console.say(
            f"{check.gate} {verdict} at ",
            Whole(check.subject),
            f": {value}, bound {bound} ({check.where})",
        )
        if command and check.repeat:
            # As it is: it is there to be copied.
            console.print(f"  again: {command} {check.repeat}", soft_wrap=True)
    if len(report.failures) > SHOWN:
        console.say(f"and {len(report.failures) - SHOWN} more failures (--json lists them)")
    print_certificates(console, report, command)
    if report.wrong:
        console.say("the first fused node that is wrong: ", Whole(report.first_difference))
    print_context(console, report)


def print_gates(console: SafeConsole, report: ValidationReport) -> None:
    """The worst figure of each gate."""
    table = Sheet(("gate", "worst", "bound", "verdict", "at"), keep=("verdict",))
    for gate, meaning in GATES.items():
        worst = report.worst(gate)
        if worst is not None:
            table.add_row(
                f"{gate} {meaning}",
                *figures(worst),
                "pass" if worst.passed else "FAIL",
                worst.subject if worst.passed else f"{worst.subject} ({worst.where})",
            )
    console.table(table)


def figures(check: Check, digits: int = 2) -> tuple[str, str]:
    """A figure and its bound, with as many digits as it takes to tell them apart."""
    bound = f"{check.bound:.{digits}g}"
    texts = (f"{check.value:.{more}g}" for more in range(digits, 17))
    return next(
        (text for text in texts if text != bound or check.value == check.bound), bound
    ), bound


def print_certificates(console: SafeConsole, report: ValidationReport, command: str) -> None:
    """Each certificate in one row, and what is said of those that are not plainly identical."""
    if not report.certificates:
        return
    columns = ("certificate", "sites", "written as", "extents", "rows", "difference", "verdict")
    table = Sheet(columns, keep=("verdict",))
    for each in report.certificates:
        table.add_row(
            f"{each.kind} {each.site}",
            str(len(each.sites)),
            each.notation,
            each.extents,
            str(each.rows),
            "-" if each.difference is None else f"{each.difference:.2g}",
            each.verdict if each.passed else each.verdict.upper(),
        )
    console.table(table)
    for each in [each for each in report.certificates if each.detail][:SHOWN]:
        console.say(f"{each.verdict}: ", Whole(each.site), f": {each.detail}")
        if command and not each.passed:
            console.print(f"  again: {command} {each.repeat}", soft_wrap=True)
    sites = sum(len(each.sites) for each in report.certificates)
    held = sum(len(each.sites) for each in report.certificates if each.passed)
    first = report.certificates[0]
    console.say(
        f"certified: {held} of {sites} sites equal to 1e-90, evaluated with {first.digits} digits "
        f"(and as many guard digits), seed {first.seed}"
    )


def print_context(console: SafeConsole, report: ValidationReport) -> None:
    """What a verdict rests on, and what it leaves out."""
    for change in report.changes[:SHOWN]:
        scope = f" in {change.scope}" if change.scope else ""
        judged = {"alone": "judged alone", "": "not judged"}.get(change.judged, "judged in runs")
        console.say(
            "differs beside the fused nodes: ",
            Whole(f"{change.operator} {change.output}"),
            f"{scope} ({change.how}, {judged})",
        )
    if len(report.changes) > SHOWN:
        console.say(f"differs beside the fused nodes: {len(report.changes) - SHOWN} more")
    for item in report.not_shown[:SHOWN]:
        console.say("NOT SHOWN: ", Whole(item.subject), f" ({item.why})")
    if len(report.not_shown) > SHOWN:
        console.say(f"NOT SHOWN: {len(report.not_shown) - SHOWN} more")
    for means, operators in report.evaluated.items():
        if means not in ("numpy", "onnxruntime"):
            console.say(f"float64 by {means}: {', '.join(operators)}")
    for item in report.unpaired[:SHOWN]:
        # The name of a fused node's own output is nothing to the reader: its norm's is.
        site, _, own = item.site.partition(f"/{MARK}")
        why = item.why.replace(item.site, site) if own else item.why
        console.say("not paired: ", Whole(site), f" ({why})")
    if len(report.unpaired) > SHOWN:
        console.say(f"not paired: {len(report.unpaired) - SHOWN} more")
    large = [found for found in report.activations if found.squares_overflow]
    if large:
        worst = max(large, key=lambda found: found.largest)
        console.say(
            f"sums of {len(large)} of {len(report.activations)} sites overflow float16 when they "
            f"are squared: the largest is {worst.largest:.4g} at ",
            Whole(worst.site),
        )
    for note in report.notes:
        console.say(f"note: {note}")

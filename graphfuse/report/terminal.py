"""The terminal views: tables for people, made from the same records as the JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from graphfuse.planning.operands import MARK
from graphfuse.records import (
    Check,
    Cost,
    Dim,
    FuseResult,
    NearMiss,
    NormKind,
    Scan,
    Site,
    UnfuseResult,
    ValidationReport,
)
from graphfuse.records.reasons import Reason
from graphfuse.records.runs import GATES
from graphfuse.report.console import SafeConsole, table_of

SHOWN = 12
"""How many failures, and sites that could not be paired, are listed."""


def print_scan(console: SafeConsole, scan: Scan, notes: Sequence[str] = ()) -> None:
    """Every site and every near miss, one row each, and what else is to be said."""
    columns = ("site", "layer", "norm", "layout", "type", "shape", "sum also read by", "output")
    table = table_of(*columns)
    for site in scan.sites:
        table.add_row(
            site.id,
            "-" if site.layer is None else str(site.layer),
            site.kind,
            site.layout,
            site.elem_type.text,
            shapes(site),
            sum_readers(site),
            site.output if not site.scope.text else f"{site.output} in {site.scope.text}",
        )
    if scan.sites:
        console.table(table)
        print_spellings(console, scan)
    print_left(console, scan.near_misses)
    sites = f"{len(scan.sites)} site{'' if len(scan.sites) == 1 else 's'}"
    misses = f"{len(scan.near_misses)} near miss{'' if len(scan.near_misses) == 1 else 'es'}"
    console.print(
        f"{sites} ({', '.join(f'{scan.count(kind)} {kind}' for kind in NormKind)}), "
        f"{misses}, {scan.already_fused} of the nodes fused already, {scan.nodes} nodes"
    )
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


def shapes(site: Site) -> str:
    """The shape of the sum, and that of the operand that broadcasts to it."""
    text = _extents(site.shape)
    if not site.order_proven:
        return f"{text}, which operand broadcasts is not known"
    if site.b_shape is None or site.b_shape == site.shape:
        return text
    return f"{text} + {_extents(site.b_shape)}"


def _extents(shape: tuple[Dim, ...]) -> str:
    """`[2, S, 64]`; what inference named itself is as good as unknown."""
    dims = ("?" if str(dim).startswith(("unk__", "None")) else str(dim) for dim in shape)
    return f"[{', '.join(dims)}]"


def sum_readers(site: Site) -> str:
    """Who reads the sum beside the norm, in short."""
    names = [str(reader) for reader in site.sum_readers[:2]]
    more = len(site.sum_readers) - len(names)
    text = ", ".join(names) + (f" and {more} more" if more else "")
    return text or ("an output" if site.sum_is_read else "-")


def print_spellings(console: SafeConsole, scan: Scan) -> None:
    """How the norms are written, one line for all that are written alike."""
    alike: dict[tuple[str, float], list[str]] = {}
    for site in scan.sites:
        alike.setdefault((site.notation, site.epsilon), []).append(site.id)
    for (notation, epsilon), ids in alike.items():
        shown = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
        console.print(f"{shown}: {notation} (epsilon {epsilon:.6g})", soft_wrap=True)


def print_left(console: SafeConsole, misses: Iterable[NearMiss]) -> None:
    """The near misses: each with its reason, where it is, what was seen, what would help."""
    rows = list(misses)
    if not rows:
        return
    for miss in rows:
        seen = miss.got if len(miss.got) <= SEEN else f"{miss.got[: SEEN - 3]}..."
        said = f"; seen: {seen}" if seen else ""
        console.print(
            f"not fused: {miss.site or f'{miss.id} {miss.add}'}: {miss.reason.sentence} "
            f"({miss.reason.value})",
            soft_wrap=True,
        )
        console.print(f"  at {miss.culprit}{said}", soft_wrap=True)
        console.print(f"  would help: {miss.reason.remedy}", soft_wrap=True)


def print_summary(console: SafeConsole, model: str, result: FuseResult) -> None:
    """The table that ends `graphfuse fuse`."""
    table = table_of(model, "found", "fused")
    fused = Counter(fusion.site.kind for fusion in result.fused)
    for kind in NormKind:
        table.add_row(f"Add + {kind}", str(result.scan.count(kind)), str(fused[kind]))
    if result.scan.already_fused:
        table.add_row("fused before", str(result.scan.already_fused), "")
    table.add_row("nodes", str(result.nodes_before), str(result.nodes_after))
    console.table(table)
    for reason, count in sorted(result.reasons().items(), key=lambda item: item[0].value):
        console.print(f"not fused: {count} x {reason.sentence} ({reason.value})", soft_wrap=True)
        console.print(f"  would help: {reason.remedy}", soft_wrap=True)
        for text in _seen(reason, result):
            console.print(f"  seen: {text}", soft_wrap=True)
    print_costs(console, result)
    if result.validation is not None:
        print_checks(console, result.validation, "")
    for miss in result.put_back:
        console.print(f"put back: {miss.site} {miss.add}: {miss.got}")
    if result.put_back and not result.changed:
        console.print("every site that was fused was put back: the model is unchanged")
    elif not result.changed:
        console.print("nothing to fuse: the model is unchanged")
    elif result.validation is None:
        console.print("not validated (--validate none)")
    if result.changed and result.made_for:
        console.print(f"made for {result.made_for}")
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
    table = table_of(model, "written out")
    counts = Counter(each.operator for each in result.unfused)
    for operator, count in sorted(counts.items()):
        table.add_row(operator, str(count))
    table.add_row("nodes", f"{result.nodes_before} -> {result.nodes_after}")
    console.table(table)
    for miss in result.left:
        console.print(f"left: {miss.add}: {miss.reason.sentence} ({miss.got})")
    if result.validation is not None:
        print_checks(console, result.validation, "")
    elif not result.changed:
        console.print("no fused node: the model is unchanged")
    else:
        console.print("not validated (--validate none)")
    _print_files(console, result)


def _print_files(console: SafeConsole, result: FuseResult | UnfuseResult) -> None:
    for file in result.written:
        digest = f", sha256 {file.sha256[:16]}" if file.sha256 else ", blocks shared"
        console.print(f"wrote {file.path}, {file.size:,} bytes{digest}")
    for note in result.notes:
        console.print(f"note: {note}")


def print_costs(console: SafeConsole, result: FuseResult) -> None:
    """What autotuning found for each distinct site, and what was left as it would not win."""
    alike: dict[tuple[str, bool], list[Cost]] = {}
    for cost in result.costs:
        if cost.source == "autotune":
            alike.setdefault((cost.where, cost.folds), []).append(cost)
    for (where, folds), costs in alike.items():
        form = "fused with its bias" if folds else "fused"
        speedups = sorted(cost.speedup for cost in costs)
        console.print(
            f"{form}: {len(costs)} x {speedups[len(speedups) // 2]:.2f} times as fast as their own "
            f"nodes at their best ({where})"
        )
    slower = Counter(miss.got for miss in result.left if miss.reason is Reason.SLOWER)
    for got, count in slower.items():
        console.print(f"left: {count} x {got}")


def print_checks(console: SafeConsole, report: ValidationReport, command: str) -> None:
    """The worst figure of each gate, and every failure; `command` and its options repeat it."""
    if report.checks:
        print_gates(console, report)
    for check in report.failures[:SHOWN]:
        console.print(describe(check))
        if command and check.repeat:
            console.print(f"  again: {command} {check.repeat}", soft_wrap=True)
    if len(report.failures) > SHOWN:
        console.print(f"and {len(report.failures) - SHOWN} more failures (--json lists them)")
    print_certificates(console, report, command)
    if report.wrong:
        console.print(f"the first fused node that is wrong: {report.first_difference}")
    print_context(console, report)


def print_gates(console: SafeConsole, report: ValidationReport) -> None:
    """The worst figure of each gate."""
    table = table_of("gate", "worst", "bound", "verdict", "at")
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


def figures(check: Check) -> tuple[str, str]:
    """A figure and its bound, with as many digits as it takes to tell them apart."""
    bound = f"{check.bound:.2g}"
    texts = (f"{check.value:.{digits}g}" for digits in range(2, 6))
    return next(
        (text for text in texts if text != bound or check.value == check.bound), bound
    ), bound


def print_certificates(console: SafeConsole, report: ValidationReport, command: str) -> None:
    """Each certificate in one row, and what is said of those that are not plainly identical."""
    if not report.certificates:
        return
    table = table_of(
        "certificate", "sites", "written as", "extents", "rows", "difference", "verdict"
    )
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
        console.print(f"{each.verdict}: {each.site}: {each.detail}", soft_wrap=True)
        if command and not each.passed:
            console.print(f"  again: {command} {each.repeat}", soft_wrap=True)
    sites = sum(len(each.sites) for each in report.certificates)
    held = sum(len(each.sites) for each in report.certificates if each.passed)
    first = report.certificates[0]
    console.print(
        f"certified: {held} of {sites} sites equal to 1e-90, evaluated with {first.digits} digits "
        f"(and as many guard digits), seed {first.seed}"
    )


def print_context(console: SafeConsole, report: ValidationReport) -> None:
    """What a verdict rests on, and what it leaves out."""
    for change in report.changes[:SHOWN]:
        scope = f" in {change.scope}" if change.scope else ""
        judged = {"alone": "judged alone", "": "not judged"}.get(change.judged, "judged in runs")
        console.print(
            f"differs beside the fused nodes: {change.operator} {change.output}{scope} "
            f"({change.how}, {judged})"
        )
    if len(report.changes) > SHOWN:
        console.print(f"differs beside the fused nodes: {len(report.changes) - SHOWN} more")
    for item in report.not_shown[:SHOWN]:
        console.print(f"NOT SHOWN: {item.subject} ({item.why})")
    if len(report.not_shown) > SHOWN:
        console.print(f"NOT SHOWN: {len(report.not_shown) - SHOWN} more")
    for means, operators in report.evaluated.items():
        if means not in ("numpy", "onnxruntime"):
            console.print(f"float64 by {means}: {', '.join(operators)}")
    for item in report.unpaired[:SHOWN]:
        # The name of a fused node's own output is nothing to the reader: its norm's is.
        site, _, own = item.site.partition(f"/{MARK}")
        why = item.why.replace(item.site, site) if own else item.why
        console.print(f"not paired: {site} ({why})")
    if len(report.unpaired) > SHOWN:
        console.print(f"not paired: {len(report.unpaired) - SHOWN} more")
    large = [found for found in report.activations if found.squares_overflow]
    if large:
        worst = max(large, key=lambda found: found.largest)
        console.print(
            f"sums of {len(large)} of {len(report.activations)} sites overflow float16 when they "
            f"are squared: the largest is {worst.largest:.4g} at {worst.site}"
        )
    for note in report.notes:
        console.print(f"note: {note}")


def describe(check: Check) -> str:
    """A check in one line."""
    verdict = "passed" if check.passed else "failed"
    return (
        f"{check.gate} {verdict} at {check.subject}: {check.value:.3g}, bound {check.bound:.3g} "
        f"({check.where})"
    )


SEEN = 200
"""Characters of what was seen at a near miss."""

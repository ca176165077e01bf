"""The terminal view of a scan: sites, near misses, and how the norms are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphfuse.records import NearMiss, NormKind, Scan, Site
from graphfuse.records.reasons import Reason
from graphfuse.records.sites import shape_text
from graphfuse.report.console import SafeConsole
from graphfuse.report.sheet import Sheet, Whole

FEW_LINES = 24
"""So many rows are shown on a terminal as they are; of more, those that are alike share one."""

SEEN = 200
"""Characters of what was seen at a near miss."""

EVERY_ONE = "each of them alone: --all, or --json"


def print_scan(
    console: SafeConsole, scan: Scan, notes: Sequence[str] = (), every: bool = False
) -> None:
    """Every site and every near miss, and what else is to be said.

    On a terminal those that are alike are one row where there are many, but for `every`.
    """
    one_each = every or console.columns is None
    if scan.sites:
        many = len(scan.sites) > FEW_LINES and not one_each
        console.table(_groups(scan.sites) if many else _rows(scan.sites))
        print_spellings(console, scan)
        if many:
            console.say(EVERY_ONE)
    print_left(console, scan.near_misses, len(scan.near_misses) if one_each else FEW_LINES)
    sites = f"{len(scan.sites)} site{'' if len(scan.sites) == 1 else 's'}"
    misses = f"{len(scan.near_misses)} near miss{'' if len(scan.near_misses) == 1 else 'es'}"
    console.say(
        f"{sites} ({', '.join(f'{scan.count(kind)} {kind}' for kind in NormKind)}), "
        f"{misses}, {scan.already_fused} of the nodes fused already, {scan.nodes} nodes"
    )
    for note in notes:
        console.say(f"note: {note}")


def _rows(sites: Sequence[Site]) -> Sheet:
    sheet = Sheet(
        ("site", "layer", "norm", "layout", "type", "shape", "sum also read by", "output")
    )
    for site in sites:
        sheet.add_row(
            site.id,
            "-" if site.layer is None else str(site.layer),
            site.kind,
            site.layout,
            site.elem_type.text,
            shapes(site),
            _readers(site),
            site.output if not site.scope.text else f"{site.output} in {site.scope.text}",
        )
    return sheet


def _groups(sites: Sequence[Site]) -> Sheet:
    """A row for all sites that differ by their place alone."""
    alike: dict[tuple[str, ...], list[Site]] = {}
    for site in sites:
        readers = ", ".join(sorted(each.op_type for each in site.sum_readers))
        key = (site.kind, site.layout, site.elem_type.text, shapes(site), readers)
        alike.setdefault((*key, site.scope.text), []).append(site)
    sheet = Sheet(
        ("layers", "sites", "norm", "layout", "type", "shape", "sum also read by", "which", "first")
    )
    for (kind, layout, elem_type, shape, readers, scope), group in alike.items():
        layers = [site.layer for site in group if site.layer is not None]
        first, last = (min(layers), max(layers)) if layers else ("-", "-")
        numbers = [int(site.id[1:]) for site in group]
        sheet.add_row(
            str(first) if first == last else f"{first}-{last}",
            str(len(group)),
            kind,
            layout,
            elem_type,
            shape,
            readers or ("an output" if group[0].sum_is_read else "-"),
            ranges(numbers, "s"),
            group[0].output if not scope else f"{group[0].output} in {scope}",
        )
    return sheet


def ranges(numbers: Sequence[int], letter: str = "") -> tuple[str, ...]:
    """Numbers in order as `s1, s3-s7`; of many ranges the first and the last."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    texts = [
        f"{letter}{low}" if low == high else f"{letter}{low}-{letter}{high}" for low, high in found
    ]
    return tuple(texts) if len(texts) <= 5 else (*texts[:3], f"... {texts[-1]}")


def shapes(site: Site) -> str:
    """The shape of the sum, and that of the operand that broadcasts to it."""
    text = shape_text(site.shape)
    if not site.order_proven:
        return f"{text}, which operand broadcasts is not known"
    if site.b_shape is None or site.b_shape == site.shape:
        return text
    return f"{text} + {shape_text(site.b_shape)}"


def sum_readers(site: Site) -> str:
    """Who reads the sum beside the norm, in short."""
    return ", ".join(_readers(site))


def _readers(site: Site) -> tuple[str, ...]:
    names = [str(reader) for reader in site.sum_readers[:2]]
    more = len(site.sum_readers) - len(names)
    if not names:
        return ("an output" if site.sum_is_read else "-",)
    if more:
        names[-1] += f" and {more} more"
    return tuple(names)


def print_spellings(console: SafeConsole, scan: Scan) -> None:
    """How the norms are written, one line for all that are written alike."""
    alike: dict[tuple[str, float], list[str]] = {}
    for site in scan.sites:
        alike.setdefault((site.notation, site.epsilon), []).append(site.id)
    for (notation, epsilon), ids in alike.items():
        shown = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
        console.say(f"{shown}: {notation} (epsilon {epsilon:.6g})")


def print_left(console: SafeConsole, misses: Iterable[NearMiss], most: int) -> None:
    """The near misses: each with its reason, where it is, what was seen, what would help.

    Of more than `most` only the first few of each reason, and how many more there are.
    """
    rows = list(misses)
    shown: dict[Reason, int] = {}
    for miss in rows:
        shown[miss.reason] = shown.get(miss.reason, 0) + 1
        if len(rows) > most and shown[miss.reason] > 3:
            continue
        seen = miss.got if len(miss.got) <= SEEN else f"{miss.got[: SEEN - 3]}..."
        said = f"; seen: {seen}" if seen else ""
        name = miss.site or f"{miss.id} {miss.add}"
        console.say(
            "not fused: ", Whole(name), f": {miss.reason.sentence} ({miss.reason.value})", indent=4
        )
        console.say("  at ", Whole(str(miss.culprit)), said, indent=4)
        console.say(f"  would help: {miss.reason.remedy}", indent=4)
    if len(rows) > most:
        for reason, count in shown.items():
            if count > 3:
                console.say(f"and {count - 3} more: {reason.sentence} ({reason.value})")
        console.say(EVERY_ONE)

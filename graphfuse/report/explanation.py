"""The terminal view of an explanation."""

from __future__ import annotations

import re

from graphfuse.records import Explanation, NearMiss, Site
from graphfuse.report.console import SafeConsole
from graphfuse.report.scan_view import shapes, sum_readers
from graphfuse.report.sheet import Whole


def print_explanation(console: SafeConsole, found: Explanation) -> None:
    """Facts, the normal form that was seen beside the definition, and where they differ."""
    item = found.item
    lines = _of_a_miss(item) if isinstance(item, NearMiss) else _of_a_site(item)
    if found.seen:
        lines.append((found.kind, found.definition))
        lines.append(("seen", found.seen))
    if isinstance(item, NearMiss) and (found.extra or found.missing):
        extra = found.extra[0] if found.extra else "nothing"
        missing = found.missing[0] if found.missing else "nothing"
        lines.append(("differs", f"first in {extra}, where the definition has {missing}"))
    if isinstance(item, NearMiss):
        lines.append(("would help", item.reason.remedy))
    for name, text in lines:
        console.say(f"{name:<12}", *_parts(text), indent=12)


def _parts(text: str) -> list[str]:
    """A text with the names in quotes, and whatever else has no blanks, whole."""
    pieces = re.split(r"('[^']*')", text)
    return [Whole(each) if each.startswith("'") else each for each in pieces if each]


def _of_a_miss(item: NearMiss) -> list[tuple[str, str]]:
    return [
        (item.id, f"not fused: {item.reason.sentence} ({item.reason.value})"),
        ("add", str(item.add)),
        ("at", str(item.culprit)),
        ("saw", item.got or "-"),
    ]


def _of_a_site(item: Site) -> list[tuple[str, str]]:
    layer = "" if item.layer is None else f", layer {item.layer}"
    state = f"is fused already ({item.fused_by})" if item.fused_by else "can be fused"
    return [
        (item.id, f"{item.kind}, {item.layout}{layer}: {state}"),
        ("add", f"{item.add}: x = {' + '.join(item.addends)}"),
        ("type", f"{item.elem_type.text}, {shapes(item)}, axis {item.axis}"),
        ("sum read by", sum_readers(item)),
        ("epsilon", f"{item.epsilon:.9g}"),
        ("written as", item.notation),
        *(("clamp", text) for text in item.clamps),
    ]

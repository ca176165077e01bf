"""What is wrong with onnxruntime's own kernels, by provider, operator, type and version.

`faults.json` holds two tables, each row with its source: an issue, a pull request, a file, a wheel.
`faults` are kernels that give wrong values or refuse: a plan leaves such sites, and sessions take
the provider's options that avoid them. `accumulation` says in which type a kernel computes the
statistics of a narrower tensor, where a source shows it: a norm that a model computes in float32
becomes no fused node of float16 without such a row. A fix is taken to stay in later versions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from graphfuse.planning.runtimes import parse_version
from graphfuse.records.element_types import FLOATS_BY_NAME, ElementType

FILE = "faults.json"
SCHEMA = 1


class Effect(StrEnum):
    """What a fault asks for."""

    REFUSE = "refuse"
    """The site is left."""
    STRICT = "strict"
    """The same, but in sessions with onnxruntime's strict mode for SkipLayerNormalization."""
    NOTE = "note"
    """Nothing: no fused node meets it, or the original has it too."""
    OFF = "off"
    """The optimiser of that name is turned off."""


STRICT_MODE = "enable_skip_layer_norm_strict_mode"
"""The CUDA provider's option that lets SkipLayerNormalization and SkipSimplifiedLayerNormalization
run as LayerNormalization does, with statistics in float32. Off by default; it exists since 1.15
(microsoft/onnxruntime pull 15660), and from 1.28 on it is ignored (pull 29388)."""

BROADCAST = "broadcast"
"""A fault of sites whose second operand has another shape than the sum; others are always there."""
CASES = ("", BROADCAST)

AnyVersion = str | tuple[int, int]
"""A version of onnxruntime as it names itself ('1.29.0', '1.33.0.dev2026') or as (1, 29)."""

_Moment = tuple[int, int, int]
"""Major, minor, and 0 for what came before the release of that minor (a development build)."""
_NEWEST: _Moment = (1 << 30, 0, 1)
_BEFORE = re.compile(r"\d(?:\.?dev|a|b|rc)\d*")


@dataclass(frozen=True, slots=True)
class _Row:
    """Which kernels a row is about. `since` and `until` (which is not included) are minors."""

    provider: str
    operators: frozenset[str]
    types: frozenset[int]
    since: tuple[int, int]
    until: tuple[int, int] | None
    source: str

    def covers(self, provider: str, operator: str, elem_type: int) -> bool:
        """Whether it is about a kernel, in some version."""
        same = provider == self.provider and operator in self.operators
        return same and elem_type in self.types


@dataclass(frozen=True, slots=True)
class Fault(_Row):
    """A kernel that is wrong: what happens, what a plan does about it, and in which case."""

    what: str
    effect: Effect
    when: str

    def __str__(self) -> str:
        first, _, _ = self.source.partition(";")
        right = "" if self.until is None else f"; right from {'.'.join(map(str, self.until))} on"
        return f"{self.what} ({first}{right})"


@dataclass(frozen=True, slots=True)
class Accumulation(_Row):
    """The type in which a kernel is shown to compute statistics; `strict`: in strict mode only."""

    elem_type: ElementType
    strict: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The two tables, and the oldest version that was looked at: older ones are taken for it."""

    oldest: tuple[int, int]
    faults: tuple[Fault, ...]
    accumulation: tuple[Accumulation, ...]


def known(
    provider: str, operator: str, elem_type: int, version: AnyVersion | None = None
) -> tuple[Fault, ...]:
    """The faults of a provider's kernel in a version (None: in the newest).

    A development build of the version that brought a fix is taken not to have it.
    """
    at = max(_moment(version), (*table().oldest, 0))
    return tuple(
        fault
        for fault in table().faults
        if fault.covers(provider, operator, elem_type)
        and (*fault.since, 0) <= at
        and (fault.until is None or at < (*fault.until, 1))
    )


def accumulates(
    provider: str,
    operator: str,
    elem_type: int,
    version: AnyVersion | None = None,
    strict_mode: bool = False,
) -> ElementType:
    """The type in which a kernel is shown to compute statistics; 0 where no source shows it."""
    at = _moment(version)
    for row in table().accumulation:
        if not row.covers(provider, operator, elem_type) or (row.strict and not strict_mode):
            continue
        if (*row.since, 1) <= at and (row.until is None or at < (*row.until, 0)):
            return row.elem_type
    return ElementType.UNDEFINED


def needs_strict_mode(provider: str, version: AnyVersion | None = None) -> bool:
    """Whether some kernel of a provider is right only in strict mode."""
    rows = [fault for fault in table().faults if fault.effect == Effect.STRICT]
    return any(
        fault in known(provider, operator, elem_type, version)
        for fault in rows
        for operator in fault.operators
        for elem_type in fault.types
    )


def off(version: AnyVersion | None = None) -> tuple[str, ...]:
    """onnxruntime's optimisers that are to be off in every session of a version."""
    rows = [fault for fault in table().faults if fault.effect == Effect.OFF]
    names = {
        name
        for fault in rows
        for name in fault.operators
        for elem_type in fault.types
        if fault in known(fault.provider, name, elem_type, version)
    }
    return tuple(sorted(names))


def turns() -> tuple[tuple[int, int], ...]:
    """The versions in which something of the tables changes, oldest first: the oldest is one."""
    rows = (*table().faults, *table().accumulation)
    ends = {row.until for row in rows if row.until is not None}
    return tuple(sorted({table().oldest, *(row.since for row in rows), *ends}))


@cache
def table() -> Table:
    """What the package ships."""
    return parse(json.loads((files("graphfuse.planning") / FILE).read_text(encoding="utf-8")))


def parse(document: Mapping[str, Any]) -> Table:
    """The tables of a document; ValueError or KeyError when it is none."""
    if document["schema"] != SCHEMA:
        raise ValueError(f"a table of faults of schema {document['schema']}, not {SCHEMA}")
    for row in document["faults"]:
        if row["effect"] not in frozenset(Effect) or row["when"] not in CASES or not row["what"]:
            raise ValueError(f"a fault with the effect {row['effect']!r} when {row['when']!r}")
    faults = [
        Fault(*_row(row), row["what"], Effect(row["effect"]), row["when"])
        for row in document["faults"]
    ]
    shown = [
        Accumulation(*_row(row), FLOATS_BY_NAME[row["in"]], row["strict"])
        for row in document["accumulation"]
    ]
    return Table(parse_version(document["oldest"]), tuple(faults), tuple(shown))


def _row(
    row: Mapping[str, Any],
) -> tuple[str, frozenset[str], frozenset[int], tuple[int, int], tuple[int, int] | None, str]:
    since = parse_version(row["from"])
    until = parse_version(row["until"]) if row["until"] else None
    operators = frozenset[str](row["operators"])
    types = frozenset(FLOATS_BY_NAME[name] for name in row["types"])
    if not operators or not types or not row["source"] or (until is not None and until <= since):
        raise ValueError(f"a row of {row['provider']} that is about nothing, or has no source")
    return row["provider"], operators, types, since, until, row["source"]


def _moment(version: AnyVersion | None) -> _Moment:
    if version is None:
        return _NEWEST
    if not isinstance(version, str):
        return (*version, 1)
    # A local part (+cu12) is no earlier than the release; .dev, a, b and rc are.
    return (*parse_version(version), int(_BEFORE.search(version) is None))

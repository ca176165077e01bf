"""What each onnxruntime does with Add and a norm: one table, which all that depends on it asks.

    python -m graphfuse.speed.runtime_tables -o graphfuse/planning/runtimes.json

measures the installed version and writes its entry; for several, each in a virtual environment of
its own, there is `python -m tests.campaigns.benchmarks.runtimes`.

An entry has microseconds of one node on the
CPU, by case (`LayerNorm float32`): `nodes` are Add followed by the norm (`pair`), onnxruntime's
fused operator (`contrib`) and graphfuse's kernel (`graphfuse`); `bodies` are graphfuse's functions
without the kernels in a plain default session, by opset and form (ops.BodyForm); `fusions` are Add
and norm in a default session with one of onnxruntime's fusions on and off. `errors` are the least K
of rule G1 (validation/tolerance.py) on hard rows, null where something finite was lost.

A version that was not measured is taken for the nearest older one that was, one older than all of
them for the oldest.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from graphfuse import ops
from graphfuse.errors import GraphfuseError, ProviderError, UsageError, in_one_line
from graphfuse.records import NormKind, arguments
from graphfuse.records.element_types import ElementType

FILE = "runtimes.json"
SCHEMA = 1
MINIMUM = (1, 20)
"""The oldest onnxruntime that graphfuse is tried with."""

CLEARLY_FASTER = 1.2
"""How many times faster a form must be to be preferred: less may be noise."""

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
"""The wheels that bring the module onnxruntime."""


class NodeForm(StrEnum):
    """How a sum and its norm are computed: two nodes, onnxruntime's one, or graphfuse's."""

    PAIR = "pair"
    CONTRIB = "contrib"
    GRAPHFUSE = "graphfuse"


SEVERAL_AXES_SINCE = (1, 24)
"""The first onnxruntime whose SkipLayerNormFusion leaves norms over several axes alone: before, it
makes a node of them that does not run (measured: `python -m tests.campaigns.versions`)."""

PASSES = 8.0
"""The K of rule G1 that kernels pass with (validation/tolerance.py)."""

Version = tuple[int, int]
Times = Mapping[str, float]


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What the form of a function's body hangs on, beside the version.

    `written_out` says that the sites have their norms in nodes that onnxruntime's fusions leave
    alone, `several_axes` that more than the last one is normalised.
    """

    kind: NormKind
    elem_type: ElementType
    opset: int
    written_out: bool = False
    several_axes: bool = False


@dataclass(frozen=True, slots=True)
class Runtime:
    """One version of onnxruntime: `name` is what was asked for, `measured` whose entry it is."""

    name: str
    version: Version
    measured: str
    nodes: Mapping[str, Times]
    bodies: Mapping[str, Times]
    fusions: Mapping[str, Times]
    errors: Mapping[str, Mapping[str, float | None]]

    @property
    def slow_fusions(self) -> tuple[str, ...]:
        """onnxruntime's fusions that make a slower node on the CPU than they found."""
        return tuple(
            name
            for name, times in self.fusions.items()
            if times["on"] > CLEARLY_FASTER * times["off"]
        )

    def form(self, choice: Choice) -> ops.BodyForm:
        """The form of body that is fastest in a plain default session, one of ops.BodyForm.

        Norms that the model has written out in a way that this version leaves alone stay so, where
        its own LayerNormalization loses rows: the body must be no worse than they are.
        """
        if choice.written_out and self._loses_rows(choice):
            return ops.BodyForm.APART
        if choice.several_axes and self.version < SEVERAL_AXES_SINCE:
            return ops.BodyForm.SUM
        times = self.body(choice.kind, choice.elem_type, choice.opset)
        return (
            ops.BodyForm.SUM
            if times and times[ops.BodyForm.ADD] > CLEARLY_FASTER * times[ops.BodyForm.SUM]
            else ops.BodyForm.ADD
        )

    def _loses_rows(self, choice: Choice) -> bool:
        errors = self.errors.get(case(choice.kind, choice.elem_type), {})
        error = errors.get(NodeForm.PAIR, 0.0)
        return error is None or error > PASSES

    def body(self, kind: NormKind, elem_type: ElementType, opset: int) -> Times:
        """Microseconds of a function's body by its form; empty where it does not run."""
        opsets = sorted(
            int(found[1])
            for key in self.bodies
            if (found := re.fullmatch(rf"{re.escape(case(kind, elem_type))} opset (\d+)", key))
        )
        if not opsets:
            return {}
        nearest = max((known for known in opsets if known <= opset), default=opsets[0])
        return self.bodies[body_case(kind, elem_type, nearest)]


def case(kind: NormKind, elem_type: ElementType) -> str:
    """The name of a case in the table."""
    return f"{kind} {elem_type.text}"


def body_case(kind: NormKind, elem_type: ElementType, opset: int) -> str:
    """The name of a function body's case in the table."""
    return f"{case(kind, elem_type)} opset {opset}"


def parse_version(text: str) -> Version:
    """(1, 29) of `1.29`, `1.29.0` or `1.29.0.dev20260101`; UsageError for anything else."""
    found = re.match(r"(\d+)\.(\d+)(?![\d])", text)
    if found is None:
        raise UsageError(
            f"{text!r} is no version of onnxruntime", "write it as 1.29, or leave --runtime out"
        )
    return int(found[1]), int(found[2])


@cache
def table() -> tuple[Mapping[str, Any], ...]:
    """The entries that the package ships, oldest first.

    Raises GraphfuseError when the file, which anyone may measure again, is not such a table.
    """
    path = files("graphfuse.planning") / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"a table of schema {document['schema']}, not {SCHEMA}")
        entries: list[dict[str, Any]] = document["runtimes"]
        if not entries:
            raise ValueError("it has no entry")
        for entry in entries:
            _of(entry, "", parse_version(entry["onnxruntime"]))
        return tuple(sorted(entries, key=lambda entry: parse_version(entry["onnxruntime"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise GraphfuseError(
            f"{path} cannot be read as a table of runtimes ({type(error).__name__}: "
            f"{in_one_line(error)})",
            f"measure it again with `python -m graphfuse.speed.runtime_tables -o {path}`, or "
            "install graphfuse again",
        ) from error


def _of(entry: Mapping[str, Any], name: str, version: Version) -> Runtime:
    return Runtime(
        name,
        version,
        entry["onnxruntime"],
        entry["nodes"],
        entry["bodies"],
        entry["fusions"],
        entry["errors"],
    )


def runtime(name: str | None = None) -> Runtime:
    """What is known of a version of onnxruntime: the named one, the installed one, or the newest.

    Raises UsageError for a name that is no version, or one before 1.20.
    """
    if name is not None:
        arguments.expect("runtime", name, str, "give a version as text, such as '1.29'")
    text: str = name or installed() or table()[-1]["onnxruntime"]
    version = parse_version(text)
    if name and version < MINIMUM:
        raise UsageError(
            f"onnxruntime {name} is older than {'.'.join(map(str, MINIMUM))}, the first that "
            "graphfuse is tried with",
            "name the version that will run the model",
        )
    known = [(parse_version(entry["onnxruntime"]), entry) for entry in table()]
    at_or_below = [entry for number, entry in known if number <= version]
    return _of(at_or_below[-1] if at_or_below else known[0][1], text, version)


def installed() -> str | None:
    """The version of the onnxruntime that is installed; None when there is none.

    It is asked of the package's metadata: importing onnxruntime takes longer than a scan. Raises
    ProviderError when that cannot be read.
    """
    from importlib.metadata import PackageNotFoundError, version

    for name in PACKAGES:
        try:
            found = version(name)
            if not found:
                # Python takes a file without rights for one that says nothing.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except PackageNotFoundError:
            continue
        except OSError as error:
            # Another version would be another file.
            raise ProviderError(
                f"the version of the installed onnxruntime cannot be read ({in_one_line(error)})",
                "name it, as in --runtime 1.32",
            ) from error
        # A fork or a vendor's build may count otherwise: nothing is known of it.
        return found if re.match(r"1\.\d+", found) else None
    return None


def made_for(name: str, choices: Iterable[Choice]) -> str:
    """The versions for which the same bodies would have been chosen, in words."""
    cases = sorted(set(choices))
    chosen = runtime(name)
    wanted = [chosen.form(one) for one in cases]
    numbers = [parse_version(entry["onnxruntime"]) for entry in table()]
    alike = [[runtime(_text(number)).form(one) for one in cases] == wanted for number in numbers]
    at = max((i for i, number in enumerate(numbers) if number <= chosen.version), default=0)
    first = last = at
    while first > 0 and alike[first - 1]:
        first -= 1
    while last + 1 < len(numbers) and alike[last + 1]:
        last += 1
    if first == 0 and last == len(numbers) - 1:
        return "every onnxruntime"
    if last == len(numbers) - 1:
        return f"onnxruntime {_text(numbers[first])} and later"
    if first == 0:
        return f"onnxruntime up to {_text(numbers[last])}"
    return f"onnxruntime {_text(numbers[first])} to {_text(numbers[last])}"


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"

"""One mutant: made, judged at two levels, and judged by numpy.allclose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import graphfuse
from graphfuse.records import ValidationReport
from graphfuse.running.random_feeds import random_feeds
from graphfuse.running.sessions import run, session
from tests.campaigns.mutants.kinds import KINDS, NothingToDamageError

TARGETS = {"graphfuse": "cpu", "onnxruntime": "cuda"}
"""The families of operators, and the targets that use them; both run on the CPU provider here."""

LEVELS = ("fast", "full", "sites")


@dataclass(frozen=True)
class Verdict:
    """What noticed a mutant: the gates that failed, none when it passed."""

    model: str
    family: str
    kind: str
    fast: str
    full: str
    sites: str
    turned: str
    """With the mutant as the original, at the level that says least."""
    allclose: str

    @property
    def missed(self) -> list[str]:
        """The levels at which the mutant passed."""
        found = {level: getattr(self, level) for level in (*LEVELS, "turned")}
        return [level for level, gates in found.items() if gates == "passed"]


def verdicts(name: str, path: Path, family: str, kinds: list[str]) -> Iterator[Verdict]:
    """Judge every mutant of a model. What is not damaged must pass first."""
    last = graphfuse.scan(path).sites[-1]
    # One norm is left as it is: what is not fused must not change either.
    result = graphfuse.fuse(
        path, TARGETS[family], selection=graphfuse.Selection(exclude=[last.output])
    )
    if not result.changed:
        # onnxruntime's operators take no scale of another type than the sum.
        return
    sound = result.model
    for level in LEVELS:
        report = graphfuse.validate(path, sound, level=level)
        assert report.passed, (name, family, level, report.failures[:2])
    for kind in kinds:
        mutant = onnx.ModelProto()
        mutant.CopyFrom(sound)
        try:
            KINDS[kind](mutant)
        except NothingToDamageError:
            continue
        yield Verdict(
            name,
            family,
            kind,
            *(_gates(graphfuse.validate(path, mutant, level=level)) for level in LEVELS),
            _turned(path, mutant),
            _allclose(path, mutant),
        )


def _gates(report: ValidationReport) -> str:
    if report.verdict == "not shown":
        return report.verdict
    return " ".join(sorted({check.gate for check in report.failures})) or "passed"


def _turned(path: Path, mutant: onnx.ModelProto) -> str:
    """The arguments the other way; what does not run as an original is caught as well."""
    found: list[str] = []
    for level in LEVELS:
        try:
            found.append(_gates(graphfuse.validate(mutant, path, level=level)))
        except graphfuse.OriginalModelError:
            found.append("does not run")
    return "passed" if "passed" in found else found[0]


def _allclose(path: Path, mutant: onnx.ModelProto) -> str:
    """What comparing outputs on random inputs with the usual tolerances says."""
    original = onnx.load(path)
    feeds = random_feeds(original, 0)
    expected = run(session(original, path.parent), feeds)
    try:
        found = run(session(mutant, path.parent), feeds)
    except Exception:  # onnxruntime raises its own classes
        return "does not run"
    same = all(
        found[name].shape == array.shape and np.allclose(found[name], array, rtol=1e-3, atol=1e-5)
        for name, array in expected.items()
    )
    return "passed" if same else "caught"

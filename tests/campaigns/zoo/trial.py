"""One trial: export a row, count its sites in eager PyTorch, fuse, validate, compare."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch

import graphfuse
from graphfuse.errors import GraphfuseError, OriginalModelError
from graphfuse.records import ValidationReport
from graphfuse.validation.evaluator import UnsupportedModelError
from graphfuse.validation.tolerance import FLOAT
from models.example import Example
from models.export import export
from tests.campaigns.zoo import known
from tests.campaigns.zoo.architectures import build
from tests.support.eager import count_sites
from tests.support.silence import silence


@dataclass(frozen=True)
class Trial:
    """What is tried: an architecture, an exporter, an opset, a type, and how many seeds."""

    name: str
    exporter: str
    opset: int
    dtype: str = "float32"
    seeds: int = 1

    def known(self, table: Any, default: Any) -> Any:
        """What a table of known.py says for this type, export or exporter, or for all."""
        where = [f"{self.exporter} {self.opset}", self.exporter, "*"]
        if self.dtype != "float32":
            where.insert(0, self.dtype)
        return next((table[self.name, at] for at in where if (self.name, at) in table), default)

    def __str__(self) -> str:
        kind = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.name} {self.exporter} {self.opset}{kind}"


@dataclass
class Outcome:
    """What came of a trial. `difference` says in what it is not as known; empty when it is."""

    name: str
    exporter: str
    opset: int
    dtype: str
    sites: int = 0
    fused: int = 0
    left: dict[str, int] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    status: str = ""
    feeds: str = ""
    message: str = ""
    difference: str = ""
    ratios: list[float] = field(default_factory=list)
    """Of each G2: which share of the distance to float64 that is allowed the fused model has."""


def run(trial: Trial, folder: Path) -> Outcome:
    """Export into `folder`, count, fuse, validate, and compare with what is known."""
    outcome = Outcome(trial.name, trial.exporter, trial.opset, trial.dtype)
    with warnings.catch_warnings():
        # What models say about unusual sizes; everything that matters is checked.
        warnings.simplefilter("ignore")
        example = of_type(build(trial.name), getattr(torch, trial.dtype))
        try:
            outcome.sites = count_sites(example.module, example.inputs)
        except RuntimeError as error:
            if trial.dtype == "float32":
                raise
            # PyTorch itself does not run everything in narrow types: a complex half, say.
            outcome.status, outcome.message = "not in this type", _words(error)
            return outcome
    path = folder / f"{trial}.onnx".replace(" ", "-")
    words = trial.known(known.NOT_EXPORTED, "")
    try:
        with silence():
            export(example, path, trial.exporter, trial.opset)
    except Exception as error:  # the exporters raise anything
        outcome.status, outcome.message = "not exported", _words(error)
        if not words or words not in outcome.message:
            outcome.difference = "this export is expected to work"
        return outcome
    if words:
        outcome.difference = "exports, though known.py says that it does not"
    _fuse(outcome, trial, example, path)
    return outcome


def of_type(example: Example, dtype: torch.dtype) -> Example:
    """The example in another type. What is counted depends on it: T5 clamps sums in float16."""
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in example.inputs.items()}
    return replace(example, module=example.module.to(dtype), inputs=inputs)


def _words(error: BaseException) -> str:
    """The innermost cause, in its own words, on one line: exporters wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _fuse(outcome: Outcome, trial: Trial, example: Example, path: Path) -> None:
    try:
        result = graphfuse.fuse(path)
        outcome.fused = len(result.fused)
        outcome.left = dict(Counter(miss.reason.value for miss in result.left))
        outcome.details = [
            f"{miss.reason.value}: add {miss.add}, culprit {miss.culprit}; got {miss.got}"
            for miss in result.left
        ]
        for seed in range(trial.seeds):
            _validate(outcome, path, result.model, example, seed)
            if outcome.status != "validated":
                break
    except OriginalModelError as error:
        outcome.status, outcome.message = "does not run", _words(error)
    except UnsupportedModelError as error:
        outcome.status, outcome.message = "not judged", error.message
    except GraphfuseError as error:
        outcome.status, outcome.message = "error", f"{type(error).__name__}: {error.message}"
    except Exception as error:  # a crash of graphfuse is what the zoo looks for
        outcome.status, outcome.message = "crash", _words(error)
    outcome.difference = outcome.difference or _difference(outcome, trial)


def _validate(
    outcome: Outcome, path: Path, fused: onnx.ModelProto, example: Example, seed: int
) -> None:
    """Validate on drawn feeds, or on the example's where the export fixed what it was given."""
    try:
        report, outcome.feeds = (
            graphfuse.validate(path, fused, feeds=graphfuse.Feeds(seed=seed)),
            "drawn",
        )
    except OriginalModelError as refused:
        takes = {value.name for value in fused.graph.input}
        given = {name: tensor.numpy() for name, tensor in example.inputs.items() if name in takes}
        report = graphfuse.validate(path, fused, feeds=graphfuse.Feeds(inputs=given, seed=seed))
        outcome.feeds = f"given: {refused}"
    outcome.ratios += _ratios(report, fused)
    outcome.status, outcome.message = "validated", ""
    if not report.passed:
        worst = report.failures[0]
        text = f"{worst.gate} of {worst.subject}: {worst.value:.3g} > {worst.bound:.3g}"
        outcome.status, outcome.message = "failed", f"{text}, {worst.where}"


def _ratios(report: ValidationReport, model: onnx.ModelProto) -> list[float]:
    """Of each output and run: the distance to float64 as a share of what G2 allows, u aside."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    ratios: list[float] = []
    for check in report.checks:
        if check.gate == "G2" and check.subject in types:
            roundoff = FLOAT[types[check.subject]].roundoff
            if check.bound > roundoff and math.isfinite(check.value):
                over = max(check.value - roundoff, 0.0)
                ratios.append(over / (check.bound - roundoff))
    return ratios


def _difference(outcome: Outcome, trial: Trial) -> str:
    expected = trial.known(known.NOT_RUN, ""), trial.known(known.NOT_JUDGED, "")
    for words, status in zip(expected, ("does not run", "not judged"), strict=True):
        if bool(words) != (outcome.status == status) or words not in outcome.message:
            return outcome.message or f"validates, though known.py says that it {status}"
    if outcome.status in ("failed", "error", "crash"):
        return outcome.message
    if outcome.status == "does not run":
        # What onnxruntime refuses is often no valid graph: shapes are contradictory, or unknown.
        return ""
    missing = outcome.sites - outcome.fused
    if missing != trial.known(known.UNFUSED, 0):
        return f"{missing} sites of eager PyTorch are not fused"
    left = {reason: n for reason, n in outcome.left.items() if reason not in known.NO_RESIDUAL}
    if left != trial.known(known.LEFT, {}):
        return f"left for reasons that are not in known.py: {left}"
    return ""

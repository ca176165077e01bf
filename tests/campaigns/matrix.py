"""Every entry of models/zoo.py, by both exporters at every opset: exported, scanned, fused, validated.

    python -m tests.campaigns.matrix
    python -m tests.campaigns.matrix --names llama,gpt2 --exporters torchscript --opsets 11,17 --caches yes

A trial passes when the scan finds the stated number of sites, eager PyTorch counts the same, all are
fused, nothing is left, and validation at `full` passes. In bfloat16, which onnxruntime's CPU
provider has no Add and no Mul for, it is each site that is validated, in graphfuse's kernel. What
PyTorch itself cannot export is named with the first line of its error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import graphfuse
from graphfuse.errors import GraphfuseError
from graphfuse.records.reasons import Reason
from models.export import export, first_line
from models.zoo import ZOO, build
from tests.support.eager import count_sites
from tests.support.silence import silence

OPSETS = {"dynamo": tuple(range(17, 24)), "torchscript": tuple(range(11, 24))}
"""Dynamo writes 18 when it is asked for less: 17 shows it for each entry."""

NOT_EXPORTED = "not exported"
PASSED = "passed"


@dataclass(frozen=True)
class Trial:
    """One cell of the matrix."""

    name: str
    cache: bool
    exporter: str
    opset: int
    dtype: str = "float32"

    def __str__(self) -> str:
        words = [self.name + (" with cache" if self.cache else ""), self.exporter, str(self.opset)]
        return " ".join(words if self.dtype == "float32" else (*words, self.dtype))


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: PASSED, NOT_EXPORTED with PyTorch's words, or what is wrong."""

    status: str
    sites: int = 0
    message: str = ""


def trials(
    names: list[str], exporters: list[str], opsets: list[int] | None, caches: str, dtype: str
) -> Iterator[Trial]:
    """The cells that are asked for, in the order of the zoo."""
    for name in names:
        for cache in (False, True):
            if (cache and not ZOO[name].decodes) or caches == ("yes", "no")[cache]:
                continue
            for exporter in exporters:
                for opset in opsets or OPSETS[exporter]:
                    yield Trial(name, cache, exporter, opset, dtype)


def run(trial: Trial, folder: Path) -> Outcome:
    """Export into `folder`, count, scan, fuse, validate."""
    example = build(trial.name, cache=trial.cache)
    architecture = ZOO[trial.name]
    stated = architecture.sites(architecture.shape("tiny").layers)
    counted = count_sites(example.module, example.inputs)
    if counted != stated:
        return Outcome("wrong formula", stated, f"eager PyTorch counts {counted}")
    path = folder / f"{trial}.onnx".replace(" ", "-")
    try:
        with silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            export(example, path, trial.exporter, trial.opset, getattr(torch, trial.dtype))
    except Exception as error:  # the exporters raise anything
        return Outcome(NOT_EXPORTED, stated, first_line(error))
    try:
        result = graphfuse.fuse(path)
        found = len(result.scan.sites)
        # Where two norms read one sum (GPT-NeoX) the second reads it from the fused node.
        left = [miss.reason.value for miss in result.left if miss.reason != Reason.SUM_TAKEN]
        if (found, len(result.fused)) != (stated, stated) or left:
            return Outcome("sites", found, f"{stated} stated, {len(result.fused)} fused, {left}")
        level = "sites" if trial.dtype == "bfloat16" else "full"
        report = graphfuse.validate(path, result.model, level=level)
    except GraphfuseError as error:
        return Outcome(type(error).__name__, stated, error.message)
    if not report.passed:
        worst = report.failures[0]
        text = f"{worst.gate} of {worst.subject}: {worst.value:.3g} > {worst.bound:.3g}"
        return Outcome("failed", stated, f"{text}, {worst.where}")
    return Outcome(PASSED, stated)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.matrix", description=__doc__)
    parser.add_argument("--names", default=",".join(ZOO))
    parser.add_argument("--exporters", default="dynamo,torchscript")
    parser.add_argument("--opsets", help="such as 13,18; all by default")
    parser.add_argument("--caches", choices=("yes", "no", "both"), default="both")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args(arguments)
    opsets = [int(text) for text in options.opsets.split(",")] if options.opsets else None
    counts: dict[str, int] = defaultdict(int)
    refused: dict[str, list[str]] = defaultdict(list)
    wrong: list[str] = []
    cells = trials(
        options.names.split(","),
        options.exporters.split(","),
        opsets,
        options.caches,
        options.dtype,
    )
    with tempfile.TemporaryDirectory() as folder:
        for trial in cells:
            start = time.perf_counter()
            outcome = run(trial, Path(folder))
            seconds = time.perf_counter() - start
            print(
                f"{trial}: {outcome.status}, {outcome.sites} sites, {seconds:.0f} s {outcome.message}",
                flush=True,
            )
            counts[outcome.status] += 1
            if outcome.status == NOT_EXPORTED:
                refused[outcome.message].append(str(trial))
            elif outcome.status != PASSED:
                wrong.append(str(trial))
            for file in Path(folder).iterdir():
                file.unlink()
    print("\n" + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    for message, names in refused.items():
        print(f"\nnot exported: {message}\n  {'; '.join(names)}")
    print(f"\nwrong: {'; '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""The whole CUDA story: nodes, accuracy on hard inputs, whole models; tables in Markdown.

python -m tests.gpu --output gpu.md                   on a machine with an NVIDIA GPU
python -m tests.gpu --output dry.md --dry-run         small, on the CPU: the script, not figures
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto

import graphfuse
from graphfuse.ops import CONTRIB_OPERATOR
from graphfuse.records.element_types import ElementType
from graphfuse.running.random_feeds import Sizes
from graphfuse.running.sessions import CPU, CUDA, require_provider
from graphfuse.speed.bound_runs import environment
from graphfuse.speed.measurements import BenchOptions, Comparison
from tests.gpu.models import MODELS, SMALL, build
from tests.gpu.sites import GPU_TYPES, SHAPES, SMALL_SHAPES, judge_site, time_site
from tests.gpu.strict import MAGNITUDES, UNITS, measure

PARTS = ("strict", "sites", "accuracy", "models")
FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--part", choices=PARTS, action="append")
    given = parser.parse_args(arguments)
    provider, ep = (CPU, "cpu") if given.dry_run else (CUDA, "cuda")
    try:
        require_provider(provider)
    except graphfuse.ProviderError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    parts = given.part or PARTS
    failed = False
    with given.output.open("w", encoding="utf-8") as file:
        for line in _story(parts, provider, ep, given.dry_run):
            print(line, flush=True)
            print(line, file=file, flush=True)
            failed |= "FAIL" in line
    return 1 if failed else 0


def _story(parts: list[str], provider: str, ep: str, dry: bool) -> Iterator[str]:
    yield f"# {'Dry run on the CPU: no figure here is one of a GPU' if dry else 'CUDA'}"
    yield ""
    yield f"{_gpu()}; " + ", ".join(f"{key} {value}" for key, value in environment().items())
    if "strict" in parts:
        yield from _strict(provider, dry)
    if "sites" in parts:
        yield from _sites(provider, dry)
    if "accuracy" in parts:
        yield from _accuracy(ep, dry)
    if "models" in parts:
        yield from _models(ep, dry)


def _strict(provider: str, dry: bool) -> Iterator[str]:
    """What the table of faults says of this version of onnxruntime, against what its kernels do."""
    yield "\n## Errors in units of the type, by magnitude of the rows, and what faults.json says\n"
    yield f"| operator | type | strict | {' | '.join(map(str, MAGNITUDES))} | verdict |"
    yield "|---" * (4 + len(MAGNITUDES)) + "|"
    for kind, operator in CONTRIB_OPERATOR.items():
        for elem_type in UNITS:
            for strict in (False, True):
                found = measure(provider, kind, elem_type, 64 if dry else 4096, strict)
                errors = (f"{found.errors.get(at, np.nan):.3g}" for at in MAGNITUDES)
                verdict = "dry" if dry else f"{found.verdict} {found.failure}"
                name = f"{operator} | {ElementType(elem_type).text} | {'on' if strict else 'off'}"
                yield f"| {name} | {' | '.join(errors)} | {verdict} |"


def _sites(provider: str, dry: bool) -> Iterator[str]:
    yield "\n## One node, its sum read: the contrib operator against Add and norm\n"
    yield "| norm | type | shape | us | times faster | 95 % | share of copy | GB/s |"
    yield "|---|---|---|---|---|---|---|---|"
    left: list[str] = []
    for norm in ("LN", "RMS"):
        for type_ in GPU_TYPES:
            for shape in SMALL_SHAPES if dry else SHAPES:
                row = time_site(norm, type_, shape, provider)
                if isinstance(row, str):
                    left.append(row)
                    continue
                low, middle, high = row.speedup
                yield (
                    f"| {norm} | {type_} | {'x'.join(map(str, shape))} | {row.microseconds:.2f} | "
                    f"{middle:.2f} | {low:.2f} to {high:.2f} | {row.copy_share:.2f} | "
                    f"{row.gigabytes_per_second:.0f} |"
                )
    yield ""
    yield from (f"- not run: {line}" for line in left)


def _accuracy(ep: str, dry: bool) -> Iterator[str]:
    """The fused nodes of each target that may meet this provider, on hard inputs."""
    yield "\n## G0, G1 and G3 on hard inputs, each node alone\n"
    yield "| norm | type | hidden | nodes of | verdict |"
    yield "|---|---|---|---|---|"
    for norm in ("LN", "RMS"):
        for type_ in GPU_TYPES:
            for target in ("cuda", "portable"):
                hidden = 64 if dry else 4096
                failures = judge_site(norm, type_, hidden, ep, target)
                verdict = "pass" if not failures else f"FAIL {len(failures)}: {failures[0]}"
                if dry and failures:
                    # The CPU provider has no bfloat16 of these operators: what a GPU would say.
                    verdict = f"not on the CPU: {failures[0][:120]}"
                yield f"| {norm} | {type_} | {hidden} | {target} | {verdict} |"


def _models(ep: str, dry: bool) -> Iterator[str]:
    """Whole models, original at ORT_ENABLE_ALL against fused, and their validation."""
    yield "\n## Whole models, original in a default session against fused\n"
    yield "| model | type | input | original | fused | times faster | 95 % | norms | device |"
    yield "|---|---|---|---|---|---|---|---|---|"
    verdicts: list[str] = []
    sizes = (Sizes(1, 8),) if dry else (Sizes(1, 128), Sizes(8, 512), Sizes(1, 1))
    for name, shape in (SMALL if dry else MODELS).items():
        for type_, elem_type in FLOATS.items():
            original = build(shape, elem_type)
            result = graphfuse.fuse(original, ep="cpu" if dry else "cuda")
            options = BenchOptions(0.2 if dry else 3.0, (1,), sizes)
            report = graphfuse.bench(original, result.model, [ep], options=options)
            for found in report.comparisons:
                yield _model_line(name, type_, found)
            checked = graphfuse.validate(original, result.model, [ep], level="full")
            verdict = "pass" if checked.passed else f"FAIL {checked.failures[0]}"
            verdicts.append(f"- {name} {type_}, {len(result.fused)} sites: {verdict}")
    yield ""
    yield from verdicts


def _model_line(name: str, type_: str, found: Comparison) -> str:
    before, after, speedup = found.original, found.fused, found.speedup
    assert before.profile is not None
    assert after.profile is not None
    norms = f"{before.profile.norms:.1%} to {after.profile.norms:.1%}"
    memory = [figures.footprint for figures in (before, after)]
    needed = [f.device if f.device is not None else f.memory for f in memory if f is not None]
    shown = " to ".join(f"{value / 2**20:.0f}" for value in needed)
    feed = "x".join(map(str, next(iter(found.shapes.values()))))
    return (
        f"| {name} | {type_} | {feed} | {before.median * 1e3:.3f} ms | {after.median * 1e3:.3f} ms "
        f"| {speedup.median:.3f} | {speedup.low:.3f} to {speedup.high:.3f} | {norms} "
        f"| {shown} MiB |"
    )


def _gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
        return told.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "no NVIDIA GPU"


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main(sys.argv[1:]))

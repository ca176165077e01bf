"""The models of the campaign: the zoo's architectures in three types, and some that are broken."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from models.export import export
from tests.campaigns.fusions import quantized
from tests.campaigns.many.broken import BROKEN
from tests.campaigns.zoo.architectures import ZOO, build
from tests.campaigns.zoo.trial import of_type
from tests.support.silence import silence

FUSE = (sys.executable, "-m", "graphfuse", "fuse")


def make(folder: Path, count: int) -> None:
    """Fill a folder with so many models, a tenth of them broken; what is there stays.

    An export that the command `fuse` alone does not take (PyTorch or onnxruntime refuse it, or it
    is no twin of itself in float16) is no good one, and left out with a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger().setLevel(logging.ERROR)
    broken = list(BROKEN.items())[: max(1, count // 10)]
    for name, each in broken:
        each.make(folder / f"{name}.onnx")
    left = count - len(broken) - len([*folder.glob("good-*.onnx")])
    tried = {line.split()[0] for line in _notes(folder)}
    for name in random.Random(0).sample(sorted(ZOO), len(ZOO)):
        if left <= 0:
            return
        if name in tried:
            continue
        for path in _exports(name, folder):
            target = folder / f"good-{path.name}"
            if left > 0 and _is_taken(path):
                path.rename(target)
                left -= 1
            else:
                path.unlink()
        with (folder / ".tried").open("a") as file:
            file.write(f"{name}\n")
    if left > 0:
        raise SystemExit(f"the zoo has {left} exports too few for {count} models")


def _notes(folder: Path) -> Sequence[str]:
    notes = folder / ".tried"
    return notes.read_text().splitlines() if notes.exists() else []


def _exports(name: str, folder: Path) -> Iterator[Path]:
    """An architecture in float32, dynamic int8 and float16, as far as it can be had."""
    for dtype in (torch.float32, torch.float16):
        path = folder / f"{name}-{str(dtype).removeprefix('torch.')}.onnx"
        try:
            with warnings.catch_warnings(), silence():
                warnings.simplefilter("ignore")
                export(of_type(build(name), dtype), path, "torchscript", 17)
            # Made before its source is renamed.
            made = [path, quantized(path)] if dtype == torch.float32 else [path]
        except Exception as error:  # exporters raise anything
            print(f"{path.stem}: not exported, {type(error).__name__}", flush=True)
            path.unlink(missing_ok=True)
            continue
        yield from made


def _is_taken(path: Path) -> bool:
    run = subprocess.run(
        [*FUSE, str(path), "--dry-run"], capture_output=True, text=True, check=False
    )
    if run.returncode:
        print(f"{path.stem}: {run.stderr.strip().splitlines()[-1][:150]}", flush=True)
    return run.returncode == 0


def chosen(folder: Path, count: int) -> list[Path]:
    """So many of a folder's models, the same share of broken ones, always the same."""
    every = sorted(folder.glob("*.onnx"))
    return sorted(random.Random(1).sample(every, count)) if count < len(every) else every

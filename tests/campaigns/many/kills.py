"""Batches that are killed at random moments: the next run has the result that all have."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from graphfuse.batches.ledger import LEDGER_NAME
from tests.campaigns.many.broken import BROKEN
from tests.campaigns.many.runs import (
    BOUNDS,
    COMMAND,
    batch,
    differences,
    digests,
    environment,
    linked,
    one_by_one,
)

SHORT = 6
"""Models of a run that is killed: five good ones and one that is broken."""


def sample(paths: Sequence[Path], seed: int) -> list[Path]:
    """A few models: the quickest of the broken ones, and others."""
    good = [path for path in paths if path.stem not in BROKEN]
    bad = [path for path in paths if path.stem.startswith(("garbage", "weights"))]
    return sorted([*random.Random(seed).sample(good, SHORT - 1), bad[seed % len(bad)]])


def below(process: int) -> list[int]:
    """The children of a process."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    try:
        return [int(number) for task in tasks for number in task.read_text().split()]
    except OSError:
        return []


def kills(options: argparse.Namespace, paths: Sequence[Path]) -> list[str]:
    """So many runs, each killed once: the batch, or one of its workers; then run again."""
    draw = random.Random(options.seed)
    wrong: list[str] = []
    told, number = {"batch": 0, "worker": 0, "nothing": 0}, 0
    # What ended before it could be killed counts as none.
    while told["batch"] + told["worker"] < options.count:
        number += 1
        some = sample(paths, number % 5)
        folder = options.folder / "kills"
        shutil.rmtree(folder, ignore_errors=True)
        linked(some, folder / "in")
        alone = _alone(options.folder / f"alone-{number % 5}", some)
        whom = draw.choice(["batch", "worker"])
        killed = _killed(folder, whom, draw.uniform(0.3, 10.0))
        told[killed] += 1
        scratch = folder / "tmp"
        run = batch("in", "out", "--workers", "2", scratch=scratch, folder=folder)
        found = differences(run, some, alone) + _twice(folder)
        wrong += [f"run {number}, {killed} killed: {line}" for line in found]
        print(f"{number}: {killed} killed, {len(found)} differences", flush=True)
    print(told)
    return wrong


def _alone(folder: Path, some: Sequence[Path]) -> dict[str, str]:
    if not folder.exists():
        one_by_one(some, folder)
    return digests(folder)


def _killed(folder: Path, whom: str, after: float) -> str:
    """Start a batch and kill it, or one of its children, after so many seconds."""
    started = subprocess.Popen(
        [*COMMAND, "batch", "in", "-o", "out", "--workers", "2", *BOUNDS],
        cwd=folder,
        env=environment(folder / "tmp"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after)
    children = below(started.pid)
    victims = [started.pid] if whom == "batch" else children
    if started.poll() is not None or not victims:
        started.wait()
        return "nothing"
    os.kill(victims[-1], signal.SIGKILL)
    started.wait()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    return whom


def _twice(folder: Path) -> list[str]:
    """Files that were written again though they were done: by the rows of the ledger."""
    done: dict[str, int] = {}
    for line in (folder / "out" / LEDGER_NAME).read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("exit_code") == 0:
            done[row["source"]] = done.get(row["source"], 0) + 1
    return [f"{source}: written {count} times" for source, count in done.items() if count > 1]

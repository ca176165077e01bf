"""How batches are run and compared in this campaign."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphfuse.batches.ledger import LEDGER_NAME
from tests.campaigns.many.broken import BROKEN
from tests.conftest import ROOT

BOUNDS = ("--memory-limit", "3", "--time-limit", "15")
"""What a model may take: enough for each good one, and no more than the broken ones ask for."""

COMMAND = (sys.executable, "-m", "graphfuse")


def environment(scratch: Path) -> dict[str, str]:
    """That of a run: this tree, and a folder for temporary files that can be looked into."""
    scratch.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}


def linked(paths: Sequence[Path], folder: Path) -> Path:
    """A folder with copies of some models, and of the data that broken ones have."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (*paths, *paths[0].parent.glob("*.bin")):
        shutil.copyfile(path, folder / path.name)
    return folder


@dataclass
class Run:
    """What came of a batch: seconds, exit code, its rows, and the digests of what it wrote."""

    seconds: float
    code: int
    rows: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]
    said: str = ""
    litter: Sequence[str] = field(default_factory=list[str])


def batch(source: str, output: str, *words: str, scratch: Path, folder: Path) -> Run:
    """Run a batch to its end in a folder."""
    start = time.monotonic()
    run = subprocess.run(
        [*COMMAND, "batch", source, "-o", output, *BOUNDS, *words],
        cwd=folder,
        env=environment(scratch),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    found = result(Path(folder, output), scratch) if "://" not in output else Run(0, 0, {}, {})
    found.seconds, found.code, found.said = seconds, run.returncode, run.stdout + run.stderr
    return found


def result(output: Path, scratch: Path) -> Run:
    """What is there: the rows of the ledger, what was written, and what should not be there."""
    rows = {}
    for line in (output / LEDGER_NAME).read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # Cut short by a kill.
        if "begun" not in row:
            rows[Path(row["source"]).name] = row
    files = digests(output)
    litter = [name for name in files if Path(name).name.startswith(".")]
    litter += [str(path) for path in scratch.rglob("*")]
    return Run(0, 0, rows, {k: v for k, v in files.items() if k not in litter}, "", litter)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder, but for the ledger."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LEDGER_NAME
    }


def one_by_one(paths: Sequence[Path], output: Path) -> tuple[float, dict[str, str]]:
    """The command `fuse` for each in turn, in a child with the same bounds: seconds and digests."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    start = time.monotonic()
    for path in paths:
        words = ("--isolate", *BOUNDS) if path.stem in BROKEN else ()
        subprocess.run(
            [*COMMAND, "fuse", str(path), "-o", str(output / path.name), *words],
            env=environment(Path(tempfile.gettempdir())),
            capture_output=True,
            check=False,
        )
    return time.monotonic() - start, digests(output)


def differences(run: Run, paths: Sequence[Path], alone: Mapping[str, str]) -> list[str]:
    """What is not as it should be: each good model as alone, each broken one a row that says why."""
    found = [f"litter: {name}" for name in run.litter]
    for path in paths:
        row = run.rows.get(path.name)
        broken = BROKEN.get(path.stem)
        if row is None:
            found.append(f"{path.name}: no row")
        elif broken is None and row["outcome"] not in {"fused", "unchanged", "put back"}:
            found.append(f"{path.name}: {row['outcome']}, {row['message']}")
        elif broken is None and run.files.get(path.name) != alone[path.name]:
            found.append(f"{path.name}: other bytes than alone")
        elif broken is not None and row["outcome"] != "failed":
            found.append(f"{path.name}: {row['outcome']}")
        elif broken is not None and broken.said not in row["message"]:
            found.append(f"{path.name}: said {row['message']!r}")
    known = {path.name for path in paths if path.stem not in BROKEN}
    found += [f"{name}: written, and of no good model" for name in run.files if name not in known]
    return found

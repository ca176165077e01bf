"""Everything that touches files, done here and on another system: it must come out the same.

    python -m tests.campaigns.systems
    python -m tests.campaigns.systems --python COMMAND
    python -m tests.campaigns.systems --alone

The other system is this one with what Windows lacks taken away (bare/sitecustomize.py), or one whose
Python is named by COMMAND, such as Windows' under wine; that command finds graphfuse by itself. Each
job begins with the same files on both; then each command line must end with its code, without a
traceback, and leave the same files with the same bytes. Hostile external data comes last. --alone does
the jobs on this system only, whichever it is: the codes, and that nothing is left over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.hostile.cases import CASES, FINE, Case, furnish
from tests.campaigns.hostile.external import write
from tests.campaigns.systems.jobs import JOBS, KILLED, Job, Step
from tests.conftest import ROOT

BARE = Path(__file__).parent / "bare"
UNLIKE = (".html", ".md")
"""Files that tell of the machine: only their names are compared."""

WINDOWS = (
    "NUL", "nul.bin", "folder/CON", "aux.", "COM1.bin", "lpt\u00b9", "CONOUT$", "weights.bin.", "weights.bin ",
    "folder./inside.bin", "weights.bin::$DATA", "weights.bin:stream", "folder:$I30:$INDEX_ALLOCATION/x", "...",
)  # fmt: skip
"""Names that Windows takes for other ones, or for devices."""

SCANS = """
import json, sys, graphfuse
for name in sys.argv[1:]:
    try:
        graphfuse.scan(name)
        print(json.dumps([0, ""]))
    except graphfuse.GraphfuseError as error:
        print(json.dumps([error.exit_code, str(error)]))
"""


@dataclass(frozen=True)
class System:
    """How Python is started there."""

    command: Sequence[str]
    path: str = ""
    is_foreign: bool = False

    def run(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": self.path or os.environ.get("PYTHONPATH", "")}
        return subprocess.run(
            [*self.command, *arguments],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip


HERE = System([sys.executable], str(ROOT))
BARE_SYSTEM = System([sys.executable], os.pathsep.join([str(BARE), str(ROOT)]))


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, with the hash of what it holds."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_like = path.is_file() and path.suffix not in UNLIKE
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if is_like else ""
    return found


def problem(step: Step, ended: subprocess.CompletedProcess[str]) -> str:
    """What is wrong with how a command line ended; '' for nothing."""
    if ended.returncode != step.code:
        return f"ended with {ended.returncode}, not {step.code}: {ended.stderr[-300:]}"
    return "a traceback" if "Traceback" in ended.stderr else ""


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    names = sorted({*here, *there})
    said = {(True, False): "is missing there", (False, True): "is there alone"}
    return [
        f"{name} {said.get((name in here, name in there), 'has other bytes')}"
        for name in names
        if here.get(name) != there.get(name)
    ]


def done(job: Job, systems: Sequence[System], root: Path) -> Iterator[tuple[Step, str]]:
    """The steps of a job, and what is wrong with each: there, here, or between the two."""
    folders = [root / str(number) for number in range(len(systems))]
    for folder in folders:
        folder.mkdir()
        job.furnish(folder)
    for step in job.steps:
        told: list[str] = []
        for system, folder in zip(systems, folders, strict=True):
            ended = problem(step, system.run(step.arguments, folder))
            told += [f"{'here' if system is HERE else 'there'}: {ended}"] if ended else []
        # A killed run leaves what the next one removes, under names that are drawn.
        if step.code != KILLED:
            found = [content(folder) for folder in folders]
            told += differences(found[0], found[-1])
            told += [f"{name} is left over" for name in found[0] if "/." in f"/{name}"]
        yield step, "; ".join(told)


def hostile(system: System, root: Path) -> list[str]:
    """Hostile external data that is not refused there, or fine that is."""
    cases = [case for case in CASES if not case.needs]
    extra = [Case(f"Windows: {name}", "", (("location", name),)) for name in WINDOWS]
    fine = [] if system.is_foreign else [Case("fine", "", entries) for entries in FINE]
    wanted: list[tuple[Case, bool]] = [(case, True) for case in [*cases, *extra]]
    if not system.is_foreign:
        # Here these names are what they say: missing, or right.
        wanted = [pair for pair in wanted if pair[0].entries != (("location", "..."),)]
    wanted += [(case, False) for case in fine]
    # Wine shows a symbolic link of the system under it as what it leads to.
    wanted = [
        pair for pair in wanted if not (system.is_foreign and "symbolic link" in pair[0].says)
    ]
    names: list[str] = []
    for number, (case, _) in enumerate(wanted):
        furnish(root / str(number) / "model")
        write(root / str(number) / "model", "initializer", case.entries, case)
        names.append(f"{number}/model/model.onnx")
    ended = system.run(["-c", SCANS, *names], root)
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    if len(found) != len(wanted):
        return [f"hostile models: {len(found)} answers to {len(wanted)}: {ended.stderr[-500:]}"]
    wrong: list[str] = []
    for (case, is_hostile), (code, said) in zip(wanted, found, strict=True):
        if code != (3 if is_hostile else 0):
            wrong.append(f"{case.name}: code {code} {said}")
        elif not system.is_foreign and case.says not in said:
            wrong.append(f"{case.name} says {said}")
    print(f"{len(wanted) - len(wrong)} of {len(wanted)} hostile or odd locations judged rightly")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", help="the command that is Python on another system")
    parser.add_argument("--alone", action="store_true", help="this system, compared with none")
    parser.add_argument("--only", nargs="*", help="jobs that have these words in their names")
    given = parser.parse_args(arguments)
    system = System(shlex.split(given.python), is_foreign=True) if given.python else BARE_SYSTEM
    systems = [HERE] if given.alone else [HERE, system]
    failures = 0
    for job in JOBS:
        if given.only and not any(word in job.name for word in given.only):
            continue
        with tempfile.TemporaryDirectory() as name:
            for step, wrong in done(job, systems, Path(name)):
                failures += bool(wrong)
                print(f"{'FAILED' if wrong else 'passed'}: {job.name}: {' '.join(step.words)}")
                print(f"  {wrong}\n" if wrong else "", end="", flush=True)
    if not given.alone and (not given.only or "hostile" in given.only):
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            for wrong in hostile(system, Path(name)):
                failures += 1
                print(f"FAILED: {wrong}")
            print(f"in {time.perf_counter() - start:.0f} s")
    print(f"{failures} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

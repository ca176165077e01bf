"""The tests on other versions: every onnxruntime, every Python, the lowest of every dependency.

    python -m tests.campaigns.versions                               all rows
    python -m tests.campaigns.versions --list
    python -m tests.campaigns.versions --only lowest-3.11 onnxruntime-1.24.4 --keep FOLDER
    python -m tests.campaigns.versions --sample quick --only lowest-3.11    what .ci/run does

Each row is a virtual environment of its own, with the versions that pyproject.toml promises (the
lower bounds are read from there) and neither PyTorch nor transformers. There the tests run on this
checkout and on the kernels that are built in it: one library serves every Python and onnxruntime.
A new onnxruntime is one more line in ONNXRUNTIME. `--only torch-lowest` is the lowest PyTorch of
the extra `torch`; it fetches gigabytes, and so runs by name only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from graphfuse.errors import ProviderError
from graphfuse.kernels import library_path
from tests.conftest import ROOT
from tests.support import environments

ONNXRUNTIME = (
    "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.28.0",
    "1.29.0", "1.30.0", "1.31.1", "1.32.0",
)  # fmt: skip
"""The last release of each minor version from the lowest that pyproject.toml promises."""

PYTHON = ("3.11", "3.12", "3.13")

SHOWN = ("onnxruntime", "onnx", "numpy", "typer", "rich", "onnx-graphsurgeon")

LIMIT = 1800
"""Seconds for the tests of one row."""

ELSEWHERE = {
    "test_activations.py": "exports from PyTorch",
    "test_committed.py": "exports from PyTorch",
    "test_cuda.py": "needs a GPU",
    "test_exports.py": "exports from PyTorch",
    "test_faults.py": "asks the system, not a dependency",
    "test_growth.py": "counts work, whatever the version",
    "test_ir_pass.py": "needs onnx_ir",
    "test_models.py": "exports from PyTorch",
    "test_mutants.py": "exports from PyTorch",
    "test_ocr.py": "reads the models of rapidocr's wheels",
    "test_olive.py": "needs Olive",
    "test_onnx_ir.py": "needs onnx_ir",
    "test_onnxscript.py": "needs onnx_ir",
    "test_peers.py": "exports from PyTorch",
    "test_readme.py": "exports from PyTorch",
    "test_sanitizers.py": "runs the kernels without onnxruntime",
    "test_spellings.py": "exports from PyTorch",
    "test_torch_export.py": "exports from PyTorch",
    "test_versions.py": "is about this command",
    "test_zoo.py": "exports from PyTorch",
}
"""The files of tests/ that no row runs, and why."""

QUICK = (
    "test_cli.py", "test_files.py", "test_graphsurgeon.py", "test_kernel_sessions.py",
    "test_package.py", "test_rewrite.py", "test_runtime.py", "test_scan.py",
)  # fmt: skip
"""About a minute of them: each of the package's stages, and the command line."""

TORCH = (
    "tests/integrations/test_ir_pass.py",
    "tests/integrations/test_onnx_ir.py",
    "tests/integrations/test_onnxscript.py",
    "tests/integrations/test_torch_export.py",
    "tests/recognition/test_spellings.py",
)

NAMES = "from importlib.metadata import distributions as d; print(*[f'{x.name}=={x.version}' for x in d()])"


@dataclass(frozen=True)
class Row:
    """One environment: its Python and what pip is asked for; the files of tests that run there."""

    name: str
    python: str
    requirements: tuple[str, ...]
    files: tuple[str, ...]


@dataclass
class Outcome:
    """What a row gave; `why` when it did not come to tests."""

    name: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    why: str = ""
    absent: bool = False

    @property
    def good(self) -> bool:
        """Whether tests ran, and all of them passed."""
        return not self.why and not self.failed and self.passed > 0


def files(sample: str) -> tuple[str, ...]:
    """The files of a sample: `quick` or `full`."""
    there = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
    if sample == "quick":
        return tuple(path for path in there if Path(path).name in QUICK)
    return tuple(path for path in there if Path(path).name not in ELSEWHERE)


def rows(sample: str) -> list[Row]:
    """Every row there is."""
    chosen, tools = files(sample), environments.tools()
    made: list[Row] = []

    def add(name: str, python: str, wanted: Sequence[str], files: tuple[str, ...] = chosen) -> None:
        made.append(Row(name, python, (*wanted, *tools), files))

    for python in PYTHON:
        add(f"lowest-{python}", python, environments.lowest(python, "cpu", "certify"))
    for version in ONNXRUNTIME:
        pinned = [*environments.newest(PYTHON[0], "certify"), f"onnxruntime=={version}"]
        add(f"onnxruntime-{version}", PYTHON[0], pinned)
    for python in PYTHON:
        add(f"newest-{python}", python, environments.newest(python, "cpu", "certify"))
    add("torch-lowest", PYTHON[0], environments.lowest(PYTHON[0], "cpu", "torch"), TORCH)
    return made


def run(row: Row, home: Path) -> Outcome:
    """Make a row's environment and run its tests there."""
    python = environments.interpreter(row.python)
    if python is None:
        why = f"Python {row.python} is not on this machine"
        return Outcome(row.name, row.python, why=why, absent=True)
    try:
        python = environments.make(home, python, row.requirements)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        why = next((line for line in reversed(said) if line.startswith("ERROR")), str(error))
        return Outcome(row.name, row.python, why=f"no environment: {why}")
    outcome = Outcome(row.name, row.python, versions_in(python))
    report = home / "report.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *row.files],
            cwd=ROOT,
            env=environments.with_checkout(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        outcome.why = f"the tests did not end within {LIMIT} seconds"
        return outcome
    outcome.seconds = round(time.monotonic() - began, 1)
    (home / "output.txt").write_text(done.stdout)
    if report.is_file():
        read_report(report, outcome)
    if done.returncode != 0 and not outcome.failed:
        last = done.stdout.strip().splitlines()[-1:]
        outcome.why = f"pytest ended with {done.returncode}: {''.join(last)}"
    return outcome


def versions_in(python: Path) -> dict[str, str]:
    """The versions of all that is installed in an environment."""
    done = subprocess.run([python, "-c", NAMES], check=True, capture_output=True, text=True)
    pairs = [each.split("==") for each in done.stdout.split()]
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in sorted(pairs)}


def read_report(path: Path, outcome: Outcome) -> None:
    """Count pytest's report into an outcome."""
    skipped: Counter[str] = Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        bad = case.find("failure"), case.find("error")
        left = case.find("skipped")
        if any(each is not None for each in bad):
            outcome.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif left is not None:
            skipped[left.get("message", "")] += 1
        else:
            outcome.passed += 1
    outcome.skipped = dict(skipped)


def describe(outcome: Outcome) -> str:
    """A row's outcome in words: counts, then failures, then why tests were skipped."""
    if outcome.why:
        return f"{outcome.name}: {'left out' if outcome.absent else 'FAILED'}: {outcome.why}"
    skipped = sum(outcome.skipped.values())
    lines = [
        f"{outcome.name}: {outcome.passed} passed, {len(outcome.failed)} failed, "
        f"{skipped} skipped in {outcome.seconds:.0f} s"
    ]
    lines += [f"  FAILED {name}" for name in outcome.failed]
    lines += [f"  skipped {count}: {why}" for why, count in sorted(outcome.skipped.items())]
    return "\n".join(lines)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of all rows, as Markdown."""
    heads = ("row", "Python", *SHOWN, "passed", "failed", "skipped", "seconds")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for each in outcomes:
        versions = [each.versions.get(name, "-") for name in SHOWN]
        counts: list[object] = [each.passed, len(each.failed), sum(each.skipped.values())]
        cells = [each.name, each.python, *versions, *counts, f"{each.seconds:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rows")
    parser.add_argument("--sample", choices=("quick", "full"), default="full")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--list", action="store_true", help="show the rows and what is left out")
    given = parser.parse_args(arguments)
    every = {row.name: row for row in rows(given.sample)}
    if unknown := set(given.only or ()) - every.keys():
        parser.error(f"no row is named {', '.join(sorted(unknown))}; --list shows them")
    if given.list:
        show_rows(list(every.values()))
        return 0
    try:
        library_path()
    except ProviderError as error:
        parser.error(f"{error}: the kernels are part of what is tested")
    chosen = [every[name] for name in given.only or every if given.only or name != "torch-lowest"]
    with tempfile.TemporaryDirectory() as scratch:
        outcomes: list[Outcome] = []
        for row in chosen:
            outcomes.append(run(row, (given.keep or Path(scratch)).resolve() / row.name))
            print(describe(outcomes[-1]), flush=True)
    print(f"\n{markdown(outcomes)}")
    if given.markdown:
        given.markdown.write_text(f"{markdown(outcomes)}\n")
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=2) + "\n")
    ran = [each for each in outcomes if not each.absent]
    return 0 if ran and all(each.good for each in ran) else 1


def show_rows(every: Sequence[Row]) -> None:
    for row in every:
        print(f"{row.name}: Python {row.python}, {', '.join(row.requirements)}")
    print("\nin no row:")
    for name, why in ELSEWHERE.items():
        print(f"  {name} {why}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

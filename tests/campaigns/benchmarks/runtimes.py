"""The tables that ship, measured anew: runtimes.json for every onnxruntime, costs.json for families.

    python -m tests.campaigns.benchmarks.runtimes --versions 1.33.0
    python -m tests.campaigns.benchmarks.runtimes --versions all --costs 1.24.4 1.29.0 1.32.0 --keep FOLDER

Each version gets a virtual environment of its own, in which `python -m graphfuse.speed.runtime_tables` (about
a minute) or `graphfuse.speed.cost_tables` (a quarter of an hour) puts its entry into the table. Entries of
other versions stay as they are. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.campaigns.versions import ONNXRUNTIME
from tests.conftest import ROOT
from tests.support import environments


@contextmanager
def pythons(versions: Sequence[str], keep: Path | None = None) -> Iterator[list[Path]]:
    """The Python of an environment for each version of onnxruntime; this one for none."""
    if not versions:
        yield [Path(sys.executable)]
        return
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as scratch:
        home = (keep or Path(scratch)).resolve()
        yield [
            environments.make(
                home / version,
                Path(sys.executable),
                [*environments.newest(minor), f"onnxruntime=={version}"],
            )
            for version in versions
        ]


def run(python: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this checkout in an environment."""
    return subprocess.run(
        [python, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environments.with_checkout(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.benchmarks.runtimes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--versions", nargs="+", default=[], help="for runtimes.json; or `all`")
    parser.add_argument("--costs", nargs="+", default=[], help="for costs.json")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    given = parser.parse_args(arguments)
    versions = list(ONNXRUNTIME) if given.versions == ["all"] else given.versions
    failed = 0
    tables = {"runtimes": "runtime_tables", "costs": "cost_tables"}
    for wanted, name in ((versions, "runtimes"), (given.costs, "costs")):
        with pythons(wanted, given.keep) as found:
            for version, python in zip(wanted, found, strict=False):
                output = str(ROOT / "graphfuse" / "planning" / f"{name}.json")
                done = run(python, f"graphfuse.bench.{tables[name]}", "-o", output)
                said = done.stderr.strip().splitlines()
                failed += bool(done.returncode)
                print(
                    f"{name} {version}: {said[-1] if done.returncode else 'measured'}", flush=True
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Failing system calls and killed processes.

    python -m tests.campaigns.faults calls
    python -m tests.campaigns.faults kills --count 1000 --seed 1

`calls`: each system call that opens, reads, writes or renames, of each kind of run, fails in each
way: no space, an I/O error, no right, a short write, the process killed before it or after it.
`kills`: runs are killed at random moments. Afterwards the old model is there or the new one with its
weights, the input is unchanged, a failed run left nothing, and the run after a killed one neither.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHIM = Path(__file__).with_name("shim.c")


def compiler() -> str | None:
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def preloaded(folder: Path) -> None:
    """Start this process again with the shim under it."""
    library = folder / "shim.so"
    found = compiler()
    if found is None:
        raise SystemExit("a C compiler is needed")
    subprocess.run(
        [found, "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"], check=True
    )
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.campaigns.faults", *sys.argv[1:]]
    raise SystemExit(subprocess.run(command, env=environment, check=False).returncode)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    each = commands.add_parser("calls")
    each.add_argument("--scenario", action="append")
    each.add_argument("--fault", action="append")
    each = commands.add_parser("kills")
    each.add_argument("--count", type=int, default=1000)
    each.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.command == "calls" and "shim.so" not in os.environ.get("LD_PRELOAD", ""):
            preloaded(Path(folder))
        from tests.campaigns.faults import harness

        if options.command == "kills":
            done, wrong = harness.kills(options.count, options.seed, Path(folder))
            print(f"{options.count} of {done} runs killed before their end, {len(wrong)} wrong")
        else:
            done, wrong = 0, []
            for name in options.scenario or harness.SCENARIOS:
                runs, more = harness.every_call(
                    name, options.fault or list(harness.FAULTS), Path(folder)
                )
                print(f"{name}: {runs} runs, {len(more)} wrong", flush=True)
                done, wrong = done + runs, wrong + more
            print(f"{done} runs with a fault, {len(wrong)} wrong")
        for line in wrong[:40]:
            print(f"FAILED {line}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

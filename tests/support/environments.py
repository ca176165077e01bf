"""Virtual environments with other versions, and what pyproject.toml promises of versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

TOOLS = ("pytest", "hypothesis")
"""What runs the tests; graphfuse itself asks for none of it, so no row holds them back."""


def interpreter(version: str) -> Path | None:
    """A Python of that minor version that starts; None where this machine has none."""
    beside = Path(sys.base_prefix).parent.glob(f"*{version}*/bin/python{version}")
    for candidate in (shutil.which(f"python{version}"), *sorted(beside)):
        if candidate is None:
            continue
        # A version manager leaves names on the path that start nothing.
        command = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.stdout.strip() == version:
            return Path(candidate)
    return None


def make(home: Path, python: Path, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages.

    An environment that was made for the same requirements is taken as it is. Raises
    CalledProcessError, with pip's words in `stderr`.
    """
    made = home / "bin" / "python"
    record = home / "requirements.txt"
    wanted = "".join(f"{line}\n" for line in requirements)
    if record.is_file() and record.read_text() == wanted:
        return made
    shutil.rmtree(home, ignore_errors=True)
    _run([python, "-m", "venv", home])
    # What must be built from source is not to be had: nobody would install it that way.
    _run([made, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *requirements])
    record.write_text(wanted)
    return made


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def promised(python: str, *extras: str) -> list[Requirement]:
    """What pyproject.toml asks for on a Python version; the same name may come twice."""
    return list(_promised(python, extras))


def _promised(python: str, extras: Sequence[str]) -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in extras for line in optional[name])]
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or marker.evaluate({"python_version": python}):
            requirement.marker = None
            yield requirement


def lowest(python: str, *extras: str) -> list[str]:
    """Every dependency at the lowest version that pyproject.toml allows on a Python version."""
    bounds: dict[str, Version] = {}
    for requirement in promised(python, *extras):
        name = canonicalize_name(requirement.name)
        for each in requirement.specifier:
            if each.operator in (">=", "=="):
                bound = Version(each.version)
                bounds[name] = max(bound, bounds.get(name, bound))
        if name not in bounds:
            raise ValueError(f"pyproject.toml has no lower bound for {name}")
    return [f"{name}=={bound}" for name, bound in bounds.items()]


def newest(python: str, *extras: str) -> list[str]:
    """Every dependency as pip would choose it on a Python version."""
    return [str(requirement) for requirement in promised(python, *extras)]


def with_checkout() -> dict[str, str]:
    """The variables of a process that is to import this checkout, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def tools() -> list[str]:
    """What runs the tests, as the extra `test` asks for it."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [str(each) for each in promised(python, "test") if each.name in TOOLS]

"""A release, built and tried out: everything but the upload, which it never does.

    python -m tests.campaigns.release [--output FOLDER] [--draft]

Of the commit that is checked out: the source distribution twice, which must be the same bytes; a wheel
from it in a folder that git knows nothing of; twine's strict check of both; the licences; the bill of
materials, held against CycloneDX's schema; and the README's main job with the wheel in a
fresh environment. It prints what it did. --draft lets the changelog have no part for the version yet,
and the checkout have changes, which are then left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.campaigns.release import bom
from tests.conftest import ROOT

TOOLS = ("build==1.6.1", "twine==7.0.0", "cyclonedx-python-lib[json-validation]==11.12.0")

VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)

VALIDATE = """
import sys
from pathlib import Path
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(sys.argv[1]).read_text("utf-8"))
sys.exit(0 if found is None else str(found))
"""

INSTALLED = """
import json
from importlib.metadata import distributions
said = {}
for each in distributions():
    about = each.metadata
    kinds = [line for line in about.get_all("Classifier") or () if line.startswith("License")]
    said[about["Name"]] = [each.version, about["License-Expression"] or "; ".join(kinds) or about["License"] or ""]
print(json.dumps(said))
"""

JOB = """
import graphfuse, onnx
scan = graphfuse.scan("model.onnx")
result = graphfuse.optimize("model.onnx", "fused.onnx")
report = graphfuse.validate("model.onnx", "fused.onnx")
assert report.passed and len(result.fused) == len(scan.sites) == 5
print(f"{len(result.fused)} of {len(scan.sites)} sites fused, validated")
"""


class ReleaseError(Exception):
    """What keeps this commit from being a release."""


def run(command: Sequence[str | Path], folder: Path, **variables: str) -> str:
    """What a command prints; it knows nothing of this checkout."""
    environment = {**os.environ, **variables}
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    if ended.returncode:
        said = (ended.stdout + ended.stderr)[-2000:]
        raise ReleaseError(
            f"{' '.join(map(str, command))[:200]} ended with {ended.returncode}:\n{said}"
        )
    return ended.stdout


def python_of(home: Path) -> Path:
    """A new virtual environment's Python."""
    venv.create(home, with_pip=True)
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def the_version(is_draft: bool) -> str:
    """The version, said in one place; the changelog must have a part for it."""
    found = VERSION.findall((ROOT / "graphfuse" / "__init__.py").read_text("utf-8"))
    if len(found) != 1:
        raise ReleaseError(f"graphfuse/__init__.py has {len(found)} versions, not one")
    if f"## [{found[0]}]" not in (ROOT / "CHANGELOG.md").read_text("utf-8") and not is_draft:
        raise ReleaseError(f"CHANGELOG.md has no part for {found[0]}: cut it, or pass --draft")
    return found[0]


def exported(folder: Path, is_draft: bool) -> str:
    """The files of the commit, without git; gives its name and its time."""
    if run(["git", "status", "--porcelain"], ROOT) and not is_draft:
        raise ReleaseError(
            "the checkout has changes: commit them, or pass --draft to leave them out"
        )
    archive = folder / "commit.tar"
    run(["git", "archive", "--output", archive, "HEAD"], ROOT)
    with tarfile.open(archive) as files:
        files.extractall(folder / "commit", filter="data")
    return run(["git", "log", "-1", "--format=%H %ct"], ROOT).strip()


def built(python: Path, folder: Path, time: str) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built of it where there is no git."""
    sources: list[Path] = []
    for name in ("first", "second"):
        command = [python, "-m", "build", "--sdist", "--outdir", folder / name, folder / "commit"]
        run(command, folder, SOURCE_DATE_EPOCH=time)
        sources += (folder / name).glob("*.tar.gz")
    if len({each.read_bytes() for each in sources}) != 1:
        raise ReleaseError("two source distributions of one commit have other bytes")
    print(f"sdist: {sources[0].name}, {sources[0].stat().st_size:,} bytes; built twice, equal")
    with tarfile.open(sources[0]) as files:
        files.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    command = [python, "-m", "build", "--wheel", "--outdir", folder / "wheel", unpacked]
    run(command, folder, SOURCE_DATE_EPOCH=time, GIT_DIR=str(folder / "none"))
    (wheel,) = (folder / "wheel").glob("*.whl")
    print(f"wheel: {wheel.name}, {wheel.stat().st_size:,} bytes; built of the sdist, without git")
    return sources[0], wheel


def check_content(wheel: Path) -> None:
    """The wheel has the licence, and nothing that is not the package's."""
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    strange = [n for n in names if not re.match(r"graphfuse(-[\w.]+\.(dist-info|data))?/", n)]
    licence = re.compile(r"(?i)/(licen[cs]e|copying|notice)(\.(txt|md|rst))?$")
    licences = [name for name in names if licence.search(name)]
    if strange or len(licences) != 1 or not licences[0].endswith("/licenses/LICENSE"):
        raise ReleaseError(f"the wheel has {strange or licences}")
    kernels = [name for name in names if re.search(r"\.(so|dylib|dll)$", name)]
    print(f"content: {len(names)} files, one licence, kernels: {', '.join(kernels) or 'none'}")


def try_out(wheel: Path, folder: Path) -> dict[str, list[str]]:
    """The main job, with the wheel alone; gives what is installed, and each one's licence."""
    python, home = python_of(folder / "fresh"), folder / "elsewhere"
    home.mkdir()
    run([python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu,certify]"], home)
    shutil.copy(ROOT / "models" / "bert.onnx", home / "model.onnx")
    said = run([python, "-c", JOB], home).strip()
    told = run([python, "-m", "graphfuse", "fuse", "model.onnx", "-o", "again.onnx"], home)
    if (home / "again.onnx").read_bytes() != (home / "fused.onnx").read_bytes():
        raise ReleaseError("the command and the function wrote other bytes")
    print(f"tried out: {said}; {told.splitlines()[-1]}")
    return json.loads(run([python, "-c", INSTALLED], home))


def check_licences(installed: dict[str, list[str]]) -> None:
    """What is said of dependencies is what they say; the others' licences are shown."""
    wrong: list[str] = []
    known = {name.lower().replace("_", "-"): said for name, said in installed.items()}
    for name, (version, said) in sorted(known.items()):
        ours = bom.LICENCES.get(name)
        word = "" if ours is None else ours.partition("-")[0]
        if word.lower() not in said.lower():
            wrong.append(f"{name} {version} says {said[:80]!r}, not {ours}")
        print(f"  {name} {version}: {' '.join(said.split())[:60] or 'says nothing'}")
    unnamed = {each.name for each, _ in bom.promised(ROOT)} - set(bom.LICENCES)
    if wrong or unnamed:
        raise ReleaseError("; ".join(wrong) or f"no licence is known of {sorted(unnamed)}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the release")
    parser.add_argument("--draft", action="store_true", help="no part of the changelog, or changes")
    given = parser.parse_args(arguments)
    try:
        release(given.output, given.draft)
    except ReleaseError as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    return 0


def release(output: Path, is_draft: bool) -> None:
    version = the_version(is_draft)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commit, time = exported(folder, is_draft).split()
        print(f"graphfuse {version}, commit {commit}{', a draft' if is_draft else ''}")
        python = python_of(folder / "tools")
        run([python, "-m", "pip", "install", "--quiet", *TOOLS], folder)
        sdist, wheel = built(python, folder, time)
        run([python, "-m", "twine", "check", "--strict", sdist, wheel], folder)
        print("twine: both pass its strict check")
        check_content(wheel)
        root = folder / "commit"
        text = bom.document(root, version, commit)
        if text != bom.document(folder / "unpacked" / f"graphfuse-{version}", version, commit):
            raise ReleaseError(
                "the commit and the source distribution have other bills of materials"
            )
        bill = folder / f"graphfuse-{version}.cdx.json"
        bill.write_bytes(text)
        run([python, "-c", VALIDATE, bill], folder)
        parts = len(json.loads(text)["components"])
        print(
            f"bill of materials: {parts} parts, of the commit and of the sdist, equal, valid CycloneDX 1.6"
        )
        installed = try_out(wheel, folder)
        print("licences, as installed:")
        check_licences(installed)
        output.mkdir(parents=True, exist_ok=True)
        sums = ""
        for path in (sdist, wheel, bill):
            shutil.copy(path, output)
            sums += f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        (output / "SHA256SUMS").write_text(sums, "utf-8", newline="\n")
        print(f"in {output}:\n{sums}", end="")


if __name__ == "__main__":
    sys.exit(main())

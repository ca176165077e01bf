"""Pages as a browser shows them: python -m tests.campaigns.pages -o FOLDER.

Makes the pages of a fused BERT, of GPT-NeoX (near misses), of a stack that overflows float16, of a
bench, of a validation, and of GPT-3's published shape (96 layers). Opens each in Chromium, 1280 and
400 pixels wide, light and dark: screenshots and a print (without JavaScript) go to FOLDER, and a
line says how long it took. Exits with 1 where axe-core finds a violation, the console has a word, a
request is made, a page is wider than its window, the keyboard does not reach all, or a page takes a
second. Needs Chromium, node and npm; puppeteer-core and axe-core are fetched into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from models.export import main as export
from tests.conftest import MODELS

PACKAGES = ("puppeteer-core@24", "axe-core@4")
SLOWEST = 1.0
"""Seconds that a page may take to load."""


def graphfuse(*words: object) -> None:
    """A command line that has to succeed."""
    subprocess.run(
        [sys.executable, "-m", "graphfuse", *map(str, words)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def make(folder: Path) -> list[Path]:
    """The pages."""
    bert, fused = MODELS / "bert.onnx", folder / "bert-fused.onnx"
    pages = {
        name: folder / f"{name}.html"
        for name in ("bert", "near-misses", "overflow", "bench", "validate", "gpt3")
    }
    for name, *words in (
        ("neox", "gpt-neox"),
        ("plain", "stack-plain", "--layers", "96"),
        ("gpt3", "gpt3", "--size", "published"),
    ):
        assert export([*words, "-o", str(folder / f"{name}.onnx")]) == 0
    wide = ("--val-range", "[-200,200]")
    graphfuse("fuse", bert, "-o", fused, "--force", "--html", pages["bert"])
    graphfuse("scan", folder / "neox.onnx", "--html", pages["near-misses"])
    graphfuse("scan", folder / "plain.onnx", "--activations", *wide, "--html", pages["overflow"])
    graphfuse("bench", bert, fused, "--threads", "1,2", "--seconds", "3", "--html", pages["bench"])
    graphfuse("validate", bert, fused, "--certify", "--html", pages["validate"])
    graphfuse(
        "fuse", folder / "gpt3.onnx", "--dry-run", "--validate", "sites", "--html", pages["gpt3"]
    )
    return [*pages.values()]


def wrong(found: dict[str, object]) -> list[str]:
    """What is wrong with a page in one window."""
    faults = [f"axe: {each}" for each in found["violations"]]  # type: ignore[attr-defined]
    faults += [f"console: {found['said']}"] if found["said"] else []
    faults += [f"asks for {found['others']}"] if found["others"] else []
    faults += [f"{found['wide']} wide"] if found["wide"] != found["width"] else []
    faults += [f"keyboard: {found['reached']}"] if found["reached"] != found["pressed"] else []
    return faults + ([f"took {found['load']} s"] if float(str(found["load"])) > SLOWEST else [])


def main() -> int:
    """Make the pages, look at them, and say what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    folder: Path = parser.parse_args().output.absolute()
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None or shutil.which("npm") is None:
        print("there is no Chromium, or no npm: install both (Debian: chromium, npm)")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    pages = make(folder)
    subprocess.run(["npm", "install", "--silent", "--prefix", folder, *PACKAGES], check=True)
    script = folder / "pages.mjs"
    shutil.copy(Path(__file__).with_suffix(".mjs"), script)
    command = ["node", script, browser, folder / "node_modules/axe-core/axe.min.js", *pages]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    failed = 0
    for line in run.stdout.splitlines():
        found = json.loads(line)
        faults = wrong(found)
        failed += bool(faults)
        page = Path(found["file"])
        print(
            f"{page.name} {page.stat().st_size:,} bytes, {found['width']} {found['scheme']}: "
            f"{found['load']:.2f} s, {'; '.join(faults) or 'nothing wrong'}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

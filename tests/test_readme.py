"""The Python of the READMEs runs as it stands, block after block, and does what it says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import MODELS, ROOT, Shell
from tests.support.silence import silence

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_readme_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = (ROOT / "README.md", ROOT / "graphfuse" / "integrations" / "README.md")
    blocks = [block for page in pages for block in BLOCK.findall(page.read_text())]
    assert len(blocks) == 4, "library, export, graphsurgeon, onnx_ir"
    shutil.copy(MODELS / "bert.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    exec(blocks[0], names)
    assert names["report"].passed
    assert len(names["result"].fused) == len(names["scan"].sites) == 5
    feeds = {each.name: each for each in names["session"].get_inputs()}
    assert feeds.keys() == {each.name for each in names["result"].model.graph.input}
    Path("fused.onnx").unlink()

    with silence():
        exec(blocks[1], names)
    assert len(names["result"].fused) == 4
    assert names["result"].validation.passed
    Path("fused.onnx").unlink()

    for block in blocks[2:]:
        exec(block, names)
        fused = onnx.load("fused.onnx").graph.node
        assert sum(node.domain == "graphfuse" for node in fused) == len(names["scan"].sites)
        Path("fused.onnx").unlink()


def test_the_first_command_prints_what_the_page_shows(shell: Shell, tmp_path: Path) -> None:
    """But for figures, which hang on the processor, and a hash, which hangs on the runtime."""
    text = (ROOT / "README.md").read_text()
    command = re.search(r"&& .venv/bin/graphfuse (fuse .*)\n", text)
    shown = re.search(r"It ends with this summary:\n\n```text\n(.*?)```", text, re.DOTALL)
    assert command is not None
    assert shown is not None
    (tmp_path / "models").mkdir()
    shutil.copy(MODELS / "bert.onnx", tmp_path / "models" / "bert.onnx")
    run = shell(*shlex.split(command[1]))
    figure = re.compile(r"(?<= )[\d.,e-]+(?= |$)|sha256 \w+|made for .*", re.MULTILINE)
    words = [" ".join(figure.sub("#", each).split()) for each in (run.stdout, shown[1])]
    assert words[0] == words[1]


LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_links_lead_somewhere() -> None:
    for page in [
        *ROOT.glob("*.md"),
        *(ROOT / "graphfuse").rglob("*.md"),
        *ROOT.glob("tests/**/*.md"),
    ]:
        for target in LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), (page, target)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_first_pages_are_short(page: str) -> None:
    assert (ROOT / page).read_text().count("\n") <= 150


def test_commands_in_the_pages_exist() -> None:
    """Whatever module a page or a docstring says is to be run."""
    pattern = re.compile(r"python -m ((?:tests|graphfuse|models)[\w.]*\w)")
    texts = [
        *ROOT.rglob("*.md"),
        *(ROOT / "graphfuse").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    ]
    for path in texts:
        if path.name == "CHANGELOG.md" or ".venv" in path.parts:
            continue
        for name in pattern.findall(path.read_text()):
            there = ROOT.joinpath(*name.split("."))
            assert there.with_suffix(".py").is_file() or (there / "__main__.py").is_file(), (
                path,
                name,
            )

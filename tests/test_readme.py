"""The README's Python runs as it stands, block after block, and does what its comments say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import MODELS, ROOT
from tests.silence import silence

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_readme_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) == 3, "library, export, graphsurgeon"
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

    exec(blocks[2], names)
    fused = onnx.load("fused.onnx")
    assert sum(node.domain == "graphfuse" for node in fused.graph.node) == len(names["scan"].sites)

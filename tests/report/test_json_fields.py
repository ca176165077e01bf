"""Every field of the JSON documents is explained, and every field that is explained is there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from graphfuse.records import (
    Certificate,
    Change,
    Check,
    Cost,
    NearMiss,
    NotShown,
    Site,
    Unpaired,
    ValidationReport,
)
from graphfuse.records.environment import Environment
from graphfuse.records.residual_stream import Reading
from tests.conftest import MODELS, ROOT, Shell
from tests.support.commands import Commands

COMMANDS = (
    "scan",
    "explain",
    "fuse",
    "fuse-folder",
    "unfuse",
    "validate",
    "bench",
    "env",
    "export",
    "batch",
)

KIND_OF = {
    "sites": "site", "fused": "site", "near_misses": "near_miss", "left": "near_miss", "add": "node",
    "culprit": "node", "sum_readers": "node", "costs": "cost", "checks": "check", "changes": "change",
    "certificates": "certificate", "activations": "reading", "read": "file", "written": "file",
    "comparisons": "comparison", "original": "figures", "best": "figures", "plain": "figures",
    "speedups": "speedup", "times": "interval", "pictures": "picture", "before": "drawing", "after": "drawing",
    "boxes": "box", "wires": "wire", "models": "folder_model", "copied": "file",
    "rows": "row", "input": "stamp",
}  # fmt: skip
"""Which section a field's value is explained in; others are called as the field is."""

FREE = {
    "counts",
    "figures",
    "evaluated",
    "environment",
    "shapes",
    "shares",
    "providers",
    "forms",
    "versions",
}
"""Fields whose keys are names of the model or machine."""


def explained() -> dict[str, set[str]]:
    """The fields by section of the README."""
    text = (ROOT / "graphfuse" / "report" / "README.md").read_text()
    parts = re.split(r"^### ([\w-]+)\n", text, flags=re.M)[1:]
    names = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: set(re.findall(r"^\| `(\w+)` \|", text, re.M)) for name, text in names.items()}


def met(section: str, value: Any) -> Iterator[tuple[str, str]]:
    """The fields of a value and of what is in it, each with its section."""
    if isinstance(value, list):
        for each in value:
            yield from met(section, each)
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        yield section, name
        if name not in FREE:
            yield from met(_section(section, name), inner)


def _section(section: str, name: str) -> str:
    if section == "bench" and name == "sites":
        return "site_timing"
    if section == "comparison" and name in ("fused", "speedup"):
        return {"fused": "figures", "speedup": "interval"}[name]
    if section == "site_timing" and name == "speedups":
        return "by form"
    if section == "row" and name == "written":
        return "stamp"
    return "interval" if section == "by form" else KIND_OF.get(name, name)


BLOCK = """
import torch

def block():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    return layer, (torch.ones(2, 5, 16),)
"""


@pytest.fixture(scope="module")
def documents(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A document of each command, those of an error and of a missed gate among them."""
    folder = tmp_path_factory.mktemp("json")
    bert, gpt2, out = MODELS / "bert.onnx", MODELS / "gpt2.onnx", folder / "fused.onnx"
    (folder / "export").mkdir()
    shutil.copy(bert, folder / "export" / "model.onnx")
    (folder / "export" / "broken.onnx").write_text("no model")
    (folder / "export" / "config.json").write_text("{}")
    quick = ("--seconds", "0", "--sizes", "1x8", "--threads", "1")
    calls: list[tuple[object, ...]] = [
        ("scan", gpt2, "--activations"),
        ("explain", bert, "s1"),
        ("fuse", bert, "-o", out, "--certify", "--validate", "full"),
        ("fuse", bert, "--dry-run", "--exclude", "s1", "--min-fused", "9"),
        ("fuse", folder / "export", "-o", folder / "export-fused", "--validate", "none"),
        ("unfuse", out, "-o", folder / "plain.onnx"),
        ("validate", bert, out),
        ("validate", bert, out, "--ep", "nosuch"),
        ("bench", bert, out, *quick),
        ("bench", gpt2, "--sites", *quick),
        ("env",),
        ("batch", folder / "export", "-o", folder / "many", "--workers", "1"),
    ]
    if find_spec("torch") and find_spec("onnxscript"):
        (folder / "block.py").write_text(BLOCK)
        calls.append(("export", "block.py:block", "-o", folder / "block.onnx"))
    runs = [commands.run(*map(str, call), "--json", cwd=folder) for call in calls]
    return [json.loads(run.stdout) for run in runs]


def test_every_field_is_explained(documents: list[dict[str, Any]]) -> None:
    known = explained()
    for document in documents:
        command = document["command"]
        for section, name in met(command, document):
            if section in FREE or section == "by form":
                continue
            there = known[section]
            if section == "folder_model":
                there = there | known["fuse"] | known["head"]
            if section in COMMANDS:
                there = (
                    there
                    | known["head"]
                    | (known["validation"] if command == "validate" else set())
                    | (known["fuse"] if command == "export" else set())
                )
            assert name in there, (command, section, name)


def test_what_is_explained_is_there(documents: list[dict[str, Any]]) -> None:
    seen = {pair for document in documents for pair in met(document["command"], document)}
    sections = {section for section, _ in seen}
    never = {"near_miss", "bias_add", "not_shown", "change", "unpaired", "interval"}
    for section, names in explained().items():
        if section in ("head", *never) or section not in sections:
            continue
        mine = {name for part, name in seen if part == section}
        assert names <= mine | {"operator"}, (section, names - mine)


def test_fields_are_called_as_in_python() -> None:
    for section, record in (
        ("site", Site), ("near_miss", NearMiss), ("cost", Cost), ("check", Check),
        ("change", Change), ("certificate", Certificate), ("not_shown", NotShown),
        ("unpaired", Unpaired), ("validation", ValidationReport), ("reading", Reading),
        ("env", Environment),
    ):  # fmt: skip
        names = {each.name for each in fields(record)} | set(dir(record))
        # Of a reason its sentence and remedy stand beside it; an operator is the fusion's.
        extra = {"sentence", "remedy", "operator", "difference"}
        assert explained()[section] <= names | extra, (section, explained()[section] - names)


def test_an_error_is_a_document_as_well(documents: list[dict[str, Any]]) -> None:
    missed, unknown, folder = documents[3], documents[7], documents[4]
    assert folder["command"] == "fuse-folder"
    assert (folder["exit_code"], folder["error"]["type"]) == (3, "ModelError")
    broken, model = folder["models"]
    assert (broken["exit_code"], broken["error"]["type"]) == (3, "ModelError")
    assert (model["exit_code"], model["error"], len(model["fused"])) == (0, None, 5)
    assert missed["exit_code"] == 6
    assert missed["error"]["type"] == "GateError"
    assert unknown["exit_code"] == 2
    assert "nosuch" in unknown["error"]["message"]
    assert all(document["error"] is None for document in documents if not document["exit_code"])


@pytest.mark.parametrize("arguments", [["fuse", "--nosuch"], ["fuse"], ["nosuch"]])
def test_wrong_options_are_documents(arguments: list[str], shell: Shell) -> None:
    run = shell(*arguments, "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"]) == (2, 2)
    assert document["error"]["type"] == "UsageError"


def test_a_validation_that_fails_says_so_by_its_code(shell: Shell, tmp_path: Path) -> None:
    import onnx

    wrong = onnx.load(MODELS / "bert.onnx")
    norm = next(node for node in wrong.graph.node if node.op_type == "LayerNormalization")
    next(each for each in norm.attribute if each.name == "epsilon").f = 0.1
    onnx.save(wrong, tmp_path / "wrong.onnx")
    run = shell("validate", MODELS / "bert.onnx", tmp_path / "wrong.onnx", "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"], document["passed"]) == (1, 1, False)
    assert document["error"] is None

"""The public door: light to import, documented, and the same as what is promised."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graphfuse
from graphfuse.reasons import Reason
from tests.conftest import ROOT

PACKAGE = ROOT / "graphfuse"

PUBLIC = {
    "scan", "fuse", "unfuse", "validate", "optimize", "activations", "export", "fuse_graph",
    "session_options", "providers",
    "FuseResult", "Limits", "NearMiss", "Reading", "Reason", "Scan", "Site", "UnfuseResult",
    "ValidationReport",
    "GraphfuseError", "GateError", "InternalError", "ModelError", "OriginalModelError",
    "ProviderError", "UsageError", "ValidationError", "WriteError",
}  # fmt: skip


def test_the_door_is_what_is_promised() -> None:
    assert set(graphfuse.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(graphfuse, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        graphfuse.nothing  # noqa: B018


@pytest.mark.parametrize("code", ["import graphfuse", "from graphfuse.cli import app"])
def test_importing_is_light(code: str) -> None:
    heavy = "('torch', 'onnxruntime', 'onnx', 'numpy', 'rich')"
    check = f"{code}; import sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_scanning_imports_neither_torch_nor_onnxruntime() -> None:
    model = ROOT / "models" / "bert.onnx"
    check = (
        f"import graphfuse, sys; graphfuse.fuse({str(model)!r}); "
        "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_untyped_libraries_have_one_door() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name == "foreign.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"onnxruntime", "onnx_graphsurgeon", "torch"}, path


def test_the_reference_shares_no_code_with_the_rewriter() -> None:
    """What judges a rewrite imports nothing that makes one."""
    makers = ("graphfuse.ops", "graphfuse.rewrite", "graphfuse.plan", "graphfuse.patterns")
    for path in (PACKAGE / "validation").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(makers), (path, node.module)


def test_certificates_share_no_code_with_the_algebra_or_the_rewriter() -> None:
    """Of what judges in float64 they take the cutting, and nothing that evaluates."""
    shared = (
        "graphfuse.certificate", "graphfuse.graph", "graphfuse.records", "graphfuse.errors",
        "graphfuse.validation.extract", "graphfuse.validation.fused_nodes",
    )  # fmt: skip
    for path in (PACKAGE / "certificate").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module.startswith("graphfuse") and names != ["graphfuse.foreign"]:
                assert node.module.startswith(shared), (path, node.module)


def test_every_reason_has_a_sentence_and_a_remedy() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    for reason in Reason:
        assert reason.sentence
        assert reason.remedy
        assert reason.value == reason.name.lower().replace("_", "-")


def test_files_and_functions_stay_small() -> None:
    for path in [*PACKAGE.rglob("*.py"), *Path(__file__).parent.glob("*.py")]:
        if path.parent == PACKAGE.parent / "tests":
            continue
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and path.name != "pipeline.py":
                assert (node.end_lineno or 0) - node.lineno <= 70, (path, node.name)

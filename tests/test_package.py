"""The public door: light to import, documented, and the same as what is promised."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import graphfuse
from graphfuse.records.reasons import Reason
from tests.conftest import ROOT

PACKAGE = ROOT / "graphfuse"

PUBLIC = {
    "scan", "explain", "activations", "fuse", "unfuse", "optimize", "unfuse_file", "fuse_batch", "fuse_folder", "validate", "bench",
    "session", "session_options", "providers", "export", "fuse_graph",
    "BenchOptions", "Feeds", "Limits", "Output", "Progress", "Selection",
    "BenchReport", "Explanation", "FolderResult", "FuseResult", "NearMiss", "Reading", "Reason", "Scan", "Site",
    "UnfuseResult", "ValidationReport",
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
        if path.name == "libraries.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"onnxruntime", "onnx_graphsurgeon", "torch"}, path


ROOMS = (
    "records", "system", "algebra", "graph", "files", "types", "views", "recognition", "planning",
    "rewriting", "kernels", "running", "validation", "certificate", "stream", "speed",
    "steps", "integrations", "batches", "api", "report", "pages", "cli",
)  # fmt: skip
"""In this order: each room knows only of rooms before it, so that none know each other."""

KNOWS_NOTHING_OF = {
    "system": ("records",),
    "algebra": ("system",),
    "views": ("algebra",),
    "planning": ("algebra", "recognition"),
    "rewriting": ("planning",),
    "kernels": tuple(set(ROOMS) - {"records", "system", "kernels"}),
    "running": ("recognition", "algebra", "rewriting"),
    # What judges a rewrite imports nothing that makes one.
    "validation": ("recognition", "algebra", "planning", "rewriting"),
    "certificate": ("validation",),
    "stream": ("validation", "certificate"),
    # A page is made of a document, and of nothing that made the document.
    "pages": tuple(set(ROOMS) - {"records", "report", "pages"}),
}
"""Rooms that stand before a room, and that it knows nothing of all the same."""


def imported(path: Path) -> set[str]:
    """The modules of graphfuse that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graphfuse"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def known(room: str) -> set[str]:
    """The rooms and loose modules that a room knows, imports inside of functions included."""
    paths = [PACKAGE / f"{room}.py", *(PACKAGE / room).rglob("*.py")]
    names = {name for path in paths if path.exists() for name in imported(path)}
    return {name.split(".")[1] for name in names} - {room}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_only_what_stands_before_them(room: str) -> None:
    assert sorted(ROOMS) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    unknown = {*ROOMS[ROOMS.index(room) :], *KNOWS_NOTHING_OF.get(room, ())}
    assert not known(room) & unknown


def test_no_two_rooms_know_each_other() -> None:
    """Not by a way round either, through modules that stand outside of the rooms."""
    loose = (path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("__"))
    places = {*ROOMS, *loose}
    TopologicalSorter({place: known(place) & places for place in places}).prepare()


def test_judges_have_a_vocabulary_of_their_own() -> None:
    judges = (path for room in ("views", "validation") for path in (PACKAGE / room).glob("*.py"))
    assert all("graphfuse.ops" not in name for path in judges for name in imported(path))


def test_names_have_one_meaning() -> None:
    """No two modules of one name, and few outside of a room."""
    paths = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    names = Counter(path.stem for path in paths)
    assert [name for name, count in names.items() if count > 1] == []
    # A room of a function's name would take its place as soon as anything in it is imported.
    assert PUBLIC.isdisjoint(path.stem for path in PACKAGE.iterdir())
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert len(list((ROOT / "tests").glob("test_*.py"))) <= 3


# What two judges of a rewrite name alike on purpose, and numbers that only their module reads.
LOCAL = {
    "CHUNK", "CONTRIB_EPSILON", "CONTRIB_OPERATORS", "DEFAULT_EPSILON", "DOMAIN", "ELEMENTWISE",
    "EPSILON", "FILE", "HUGE", "LARGE", "MOST_ELEMENTS", "MOST_NODES", "NORMS",
    "OPERATORS", "PRODUCTS", "REACH", "REDUCTIONS", "REMEDY", "ROUNDS", "RUNTIME", "SCHEMA",
    "SECONDS", "SHAPE", "SHOWN", "SUFFIX", "WORDS",
}  # fmt: skip


def defined(path: Path) -> dict[str, str]:
    """The public classes, and constants and type aliases with their values, of a module."""
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            # The names of ONNX's reference operators are ONNX's.
            is_operator = any(ast.unparse(base) == "Formula" for base in node.bases)
            found.update({} if is_operator else {node.name: str(path)})
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = ast.unparse(node.value)
            names = [each.id for each in ast.walk(ast.Tuple(targets)) if isinstance(each, ast.Name)]
            found.update((name, value) for name in names)
    return {name: value for name, value in found.items() if not name.startswith("_")}


def test_classes_and_constants_have_one_meaning() -> None:
    """No two modules define one name; those that do are few, and their list only gets shorter."""
    meanings: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name, value in defined(path).items():
            meanings.setdefault(name, set()).add(value)
    assert {name for name, values in meanings.items() if len(values) > 1} == LOCAL


def test_certificates_share_no_code_with_the_algebra_or_the_rewriter() -> None:
    """They cut models as all others do, and share nothing that evaluates."""
    shared = (
        "graphfuse.certificate", "graphfuse.graph", "graphfuse.types", "graphfuse.files",
        "graphfuse.records", "graphfuse.errors",
        "graphfuse.views.cutting", "graphfuse.views.fused_nodes", "graphfuse.views.keys",
    )  # fmt: skip
    for path in (PACKAGE / "certificate").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module.startswith("graphfuse") and names != ["graphfuse.system.libraries"]:
                assert node.module.startswith(shared), (path, node.module)


def test_every_reason_has_a_sentence_and_a_remedy() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    for reason in Reason:
        assert reason.sentence
        assert reason.remedy
        assert reason.value == reason.name.lower().replace("_", "-")


def test_files_and_functions_stay_small() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        if PACKAGE not in path.parents:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno
                doc = ast.get_docstring(node, clean=False)
                assert lines - (doc or "").count("\n") <= 70, (path, node.name)

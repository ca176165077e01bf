"""The gate: hostile external data, links, budgets, what is odd and right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import graphfuse
from graphfuse.files.folder import Folder, LocationError
from graphfuse.files.limits import Limits
from graphfuse.files.wire import FIELDS
from tests.campaigns.hostile import external
from tests.campaigns.hostile.cases import CASES, FINE, furnish
from tests.campaigns.hostile.places import PLACES
from tests.conftest import ROOT, Shell
from tests.files.test_files import external as external_model
from tests.support.graphs import model, residual

NORM = "y = LayerNormalization(x, scale, bias)"


def test_there_are_sixty_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


def test_hostile_external_data_is_refused_everywhere(tmp_path: Path) -> None:
    """Every case as an initializer, a few places for each: `python -m tests.campaigns.hostile` has all."""
    found = list(external.run(tmp_path, ("initializer",), ("bare", "absolute")))
    assert [result for result in found if result.problem] == []
    assert len(found) >= 2 * 60


def test_every_place_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    furnish(folder)
    for place in PLACES:
        path = external.write(folder, place, (("location", "../secret"),), None)
        with pytest.raises(graphfuse.ModelError, match="leaves the model's folder"):
            graphfuse.scan(path)


@pytest.mark.parametrize("entries", FINE)
def test_what_is_odd_and_right_is_taken(
    entries: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    furnish(tmp_path / "model")
    path = external.write(tmp_path / "model", "initializer", entries, None)
    assert len(graphfuse.scan(path).sites) == 1


def test_no_file_outside_is_opened(tmp_path: Path) -> None:
    """By the kernel's own account: what strace sees opened lies in the model's folder."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "log"
    command = [strace, "-f", "-y", "-qq", "-e", "trace=open,openat,openat2", "-o", str(log)]
    child = [sys.executable, "-m", "tests.campaigns.hostile", "external", "--place", "initializer"]
    run = subprocess.run(
        [*command, *child, "--folder", str(tmp_path / "cases")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if "ptrace" in run.stderr and "not permitted" in run.stderr:
        pytest.skip("strace may not trace here")
    assert run.returncode == 0, run.stdout + run.stderr
    lines = log.read_text(errors="replace").splitlines()
    opened = [line for line in lines if "= -1" not in line]
    assert any("model.onnx" in line for line in opened)
    reading = [line for line in opened if "O_WRONLY" not in line and "O_RDWR" not in line]
    assert [line for line in reading if "/secret>" in line or "/hostname>" in line] == []


def test_links_are_followed_on_request(tmp_path: Path) -> None:
    path = external_model(tmp_path / "model")
    data = tmp_path / "model" / "model.onnx_data"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(graphfuse.ModelError, match=r"symbolic link.*--allow-links"):
        graphfuse.optimize(path, tmp_path / "out.onnx")
    allowed = Limits(allow_links=True)
    result = graphfuse.optimize(path, tmp_path / "out.onnx", limits=allowed)
    assert result.validation is not None
    # What is copied is the file, not the link.
    copied = tmp_path / "model.onnx_data"
    assert not copied.is_symlink()
    assert copied.read_bytes() == data.read_bytes()


def test_hard_links_are_followed_on_request(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    (tmp_path / "other").hardlink_to(tmp_path / "model.onnx_data")
    with pytest.raises(graphfuse.ModelError, match=r"has 2 hard links.*--allow-links"):
        graphfuse.scan(path)
    assert len(graphfuse.scan(path, limits=Limits(allow_links=True)).sites) == 1


def hub(folder: Path, large: str = "model.onnx_data") -> Path:
    """The layout of huggingface_hub's cache: names are links into blobs/."""
    snapshot = folder / "models--a--b" / "snapshots" / "0123" / "onnx"
    blobs = folder / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    path = external_model(snapshot, data=large)
    for name, blob in ((path.name, "aaaa"), (large, "bbbb")):
        (snapshot / name).rename(blobs / blob)
        (snapshot / name).symlink_to(Path("../../../blobs") / blob)
    return path


def test_the_hub_cache_is_read(tmp_path: Path) -> None:
    """Validated as well: onnxruntime is given the files that the links lead to."""
    path = hub(tmp_path)
    (tmp_path / "out").mkdir()
    result = graphfuse.optimize(path, tmp_path / "out" / "fused.onnx", level="full")
    assert result.validation is not None
    assert result.validation.passed
    onnx.load(tmp_path / "out" / "fused.onnx")


def test_in_the_hub_cache_weights_are_copied(tmp_path: Path) -> None:
    """No runtime follows a link of a model that is none."""
    path = hub(tmp_path)
    result = graphfuse.optimize(path, path.with_name("fused.onnx"))
    assert len(result.written) == 2
    assert "copied" in result.notes[0]
    onnx.load(path.with_name("fused.onnx"))


def test_the_hub_cache_does_not_leave_its_blobs(tmp_path: Path) -> None:
    path = hub(tmp_path)
    data = path.with_name("model.onnx_data")
    (tmp_path / "secret").write_bytes(data.read_bytes())
    data.unlink()
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(graphfuse.ModelError, match="is a symbolic link"):
        graphfuse.scan(path)


def test_a_file_that_becomes_a_link_is_not_opened(tmp_path: Path) -> None:
    """Between the gate and the reading somebody exchanges the weight file."""
    path = external_model(tmp_path / "model")
    folder = Folder(path.parent, path)
    folder.status("model.onnx_data")
    (tmp_path / "secret").write_bytes(bytes(4096))
    path.with_name("model.onnx_data").unlink()
    path.with_name("model.onnx_data").symlink_to(tmp_path / "secret")
    with pytest.raises(LocationError, match="symbolic link"):
        folder.open("model.onnx_data")


def nested_calls(levels: int) -> onnx.ModelProto:
    """Functions that call the one before twice: 2^levels nodes."""
    proto = residual(NORM)
    proto.opset_import.add(domain="bomb", version=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("bomb", 1)]
    for level in range(levels):
        inner = ("Neg", "") if level == 0 else (f"F{level - 1}", "bomb")
        nodes = [
            helper.make_node(inner[0], [a], [b], domain=inner[1])
            for a, b in (("i", "m"), ("m", "o"))
        ]
        proto.functions.append(
            helper.make_function("bomb", f"F{level}", ["i"], ["o"], nodes, imports)
        )
    proto.graph.node.append(helper.make_node(f"F{levels - 1}", ["a"], ["unused"], domain="bomb"))
    return proto


LIMITS = Limits(proto_bytes=10**6, nodes=1000, expanded_nodes=5000, name_bytes=20_000)


def long_names() -> onnx.ModelProto:
    proto = residual(NORM)
    proto.graph.node[0].name = "n" * 30_000
    return proto


def many_nodes(inside: bool) -> onnx.ModelProto:
    proto = residual(NORM)
    nodes = [helper.make_node("Neg", ["a"], [f"n{i}"]) for i in range(1001)]
    if inside:
        body = helper.make_graph(nodes, "body", [], [])
        nodes = [helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body)]
        proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    proto.graph.node.extend(nodes)
    return proto


def large_proto() -> onnx.ModelProto:
    proto = residual(NORM)
    proto.doc_string = "d" * 2_000_000
    return proto


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (many_nodes(False), "more than 1,000 nodes; pass a larger --max-nodes"),
        (many_nodes(True), "more than 1,000 nodes; pass a larger --max-nodes"),
        (nested_calls(13), "functions are expanded; pass a larger --max-expanded-nodes"),
        (long_names(), "bytes of names; pass a larger --max-names-mib"),
        (large_proto(), "bytes of protobuf.*--max-proto-gib"),
    ],
    ids=["nodes", "nodes in a body", "calls", "names", "bytes"],
)
def test_budgets(proto: onnx.ModelProto, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    assert len(graphfuse.scan(path).sites) == 1
    with pytest.raises(graphfuse.ModelError, match=says):
        graphfuse.scan(path, limits=LIMITS)


def test_budgets_by_option(shell: Shell, tmp_path: Path) -> None:
    onnx.save(many_nodes(False), tmp_path / "model.onnx")
    run = shell("scan", "model.onnx", "--max-nodes", "1000")
    assert run.returncode == 3
    assert "--max-nodes" in run.stderr
    assert shell("scan", "model.onnx", "--max-nodes", "1100").returncode == 0


def test_exponential_calls_are_refused_at_once(tmp_path: Path) -> None:
    onnx.save(nested_calls(25), tmp_path / "model.onnx")
    with pytest.raises(graphfuse.ModelError, match="1,000,000 nodes when its functions"):
        graphfuse.scan(tmp_path / "model.onnx")


def test_nesting_that_protobuf_does_not_read_is_named(tmp_path: Path) -> None:
    data = b""
    for _ in range(60):
        # A graph in an attribute in a node in a graph, made by hand: protobuf writes none so deep.
        data = wrapped(1, wrapped(5, wrapped(6, data)))
    path = tmp_path / "deep.onnx"
    path.write_bytes(wrapped(7, data) + b"\x42\x02\x10\x11")
    with pytest.raises(graphfuse.ModelError, match=r"nested 18. messages deep, protobuf reads 100"):
        graphfuse.scan(path)


def wrapped(number: int, data: bytes) -> bytes:
    length, size = len(data), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    data = residual(NORM).SerializeToString().replace(b"scale", b"\xff\xfeale")
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(graphfuse.ModelError, match="is not UTF-8"):
        graphfuse.scan(tmp_path / "model.onnx")


def test_stale_entries_of_inline_data_are_nobodys(tmp_path: Path) -> None:
    """Entries without data_location: no loader reads them."""
    proto = residual(NORM)
    proto.graph.initializer[0].external_data.add(key="location", value="/etc/hostname")
    onnx.save(proto, tmp_path / "model.onnx")
    assert len(graphfuse.scan(tmp_path / "model.onnx").sites) == 1


def test_the_walk_knows_every_field_that_leads_to_a_tensor() -> None:
    """onnx's own description of its messages, read by another way than the walk's table."""
    wanted = {"TensorProto"}
    messages = {name: getattr(onnx, name).DESCRIPTOR for name in FIELDS}
    for _ in range(5):
        wanted |= {
            name
            for name, message in messages.items()
            if any(f.message_type and f.message_type.name in wanted for f in message.fields)
        }
    for name, message in messages.items():
        expected = {
            f.number: f.message_type.name
            for f in message.fields
            if f.message_type and f.message_type.name in wanted
        }
        assert dict(FIELDS[name]) == expected, name


def test_a_model_in_memory_passes_the_same_gate(tmp_path: Path) -> None:
    furnish(tmp_path / "model")
    path = external.write(tmp_path / "model", "initializer", (("location", "../secret"),), None)
    proto = onnx.load(path, load_external_data=False)
    with pytest.raises(graphfuse.ModelError, match="leaves"):
        graphfuse.scan(proto)
    assert replace(Limits(), nodes=1).nodes == 1


def test_odd_paths_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.onnx")
    for path, says in (
        ("fifo.onnx", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("", "is empty"),
    ):
        with pytest.raises(graphfuse.GraphfuseError, match=says):
            graphfuse.scan(path)


def test_inline_tensors_of_four_bits_are_read_from_files(tmp_path: Path) -> None:
    """Packed elements: two in a byte, four in a byte."""
    for elem_type, size in ((TensorProto.INT4, 4), (TensorProto.UINT2, 2), (TensorProto.FLOAT, 28)):
        tensor = TensorProto(name="t", data_type=elem_type, dims=[7])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w")
        tensor.external_data.add(key="length", value=str(size))
        proto = model("y = Relu(a)", inputs="float[B,8] a", outputs="float[B,8] y")
        proto.graph.initializer.append(tensor)
        (tmp_path / "w").write_bytes(bytes(size))
        onnx.save(proto, tmp_path / "model.onnx")
        from graphfuse.files.model_file import load

        loaded = load(tmp_path / "model.onnx")
        assert loaded.read(loaded.proto.graph.initializer[-1]).shape == (7,)

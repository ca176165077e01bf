"""Memory, threads and files that give out end a run; they are no fault of a fused node."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import graphfuse
from graphfuse import cli
from graphfuse.errors import GraphfuseError, MachineError, OriginalModelError, ProviderError
from graphfuse.records.reasons import Reason
from graphfuse.running import sessions
from graphfuse.speed import contests
from graphfuse.speed.measurements import BenchOptions
from graphfuse.stream import in_runs
from graphfuse.system import machine
from graphfuse.validation import alone, evaluator, inside, whole_model
from tests.conftest import MODELS
from tests.files.test_files import external
from tests.rewriting.test_putting_back import LAYERS, damaging, scale, stored
from tests.support.graphs import residual

__all__ = ["stored"]

BERT = MODELS / "bert.onnx"
NORM = "y = LayerNormalization(x, scale, bias)"
POSIX = pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX")

Ort = ort.capi.onnxruntime_pybind11_state
PTHREAD = (
    "/onnxruntime_src/onnxruntime/core/platform/posix/env.cc:327 PosixThread(const char*, int) "
    "pthread_create failed, error code: 12 error msg: Cannot allocate memory"
)


def numpys() -> MemoryError:
    """What numpy raises for an array that no machine has room for."""
    try:
        np.empty(2**62, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError


FAULTS: dict[str, tuple[Exception, machine.Lack]] = {
    "memory": (MemoryError("std::bad_alloc"), machine.MEMORY),
    "numpy": (numpys(), machine.MEMORY),
    "memory while loading": (
        Ort.InvalidArgument("2 : INVALID_ARGUMENT : Failed to load model: std::bad_alloc"),
        machine.MEMORY,
    ),
    "memory of a GPU": (Ort.RuntimeException("CUDA failure 2: out of memory ; GPU=0"), machine.MEMORY),
    "threads of onnxruntime": (Ort.RuntimeException(PTHREAD), machine.THREADS),
    "threads of C++": (RuntimeError("Resource temporarily unavailable"), machine.THREADS),
    "threads of Python": (RuntimeError("can't start new thread"), machine.THREADS),
    "working folder": (FileNotFoundError(errno.ENOENT, "No such file or directory"), machine.FILES),
    "open files": (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x"), machine.FILES),
    "open files of onnxruntime": (Ort.Fail("open file x failed: Too many open files"), machine.FILES),
    "library": (ImportError("libx.so: failed to map segment from shared object"), machine.MEMORY),
    "file that went": (Ort.NoSuchFile("3 : NO_SUCHFILE : x"), machine.FILES),
    "name": (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), machine.NAME),
}  # fmt: skip

ITS_OWN = [
    Ort.Fail("Add node. Name:'std::bad_alloc' Status Message: axis == 1 was false. 3 by 4"),
    Ort.Fail("Node (out of memory) Op (Add) [TypeInferenceError] B has inconsistent type"),
    Ort.NotImplemented("9 : NOT_IMPLEMENTED : Could not find an implementation for Add(14)"),
    Ort.InvalidGraph("10 : INVALID_GRAPH : B has inconsistent type tensor(float16)"),
    Ort.InvalidArgument("2 : INVALID_ARGUMENT : Got invalid dimensions"),
    TimeoutError("it did not end within 1 seconds"),
    ValueError("could not broadcast"),
    RuntimeError("unsupported"),
]


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_machine_lacks_is_told(name: str) -> None:
    error, lack = FAULTS[name]
    assert machine.lack(error) is lack
    wrapped = ValueError("of another library")
    wrapped.__cause__ = error
    assert machine.lack(wrapped) is lack
    with pytest.raises(MachineError, match="while at it") as caught:
        machine.check(error, "at it")
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("error", ITS_OWN, ids=lambda error: type(error).__name__)
def test_what_a_model_gets_wrong_is_its_own(error: Exception) -> None:
    assert machine.lack(error) is None
    machine.check(error, "at it")


def test_onnxruntime_itself_says_so() -> None:
    """Not a text that was written down: what the installed version raises."""
    nodes = [helper.make_node("Expand", ["x", "s"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", 1, [1]),
            helper.make_tensor_value_info("s", 7, [1]),
        ],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = sessions.session(proto, Path())
    with pytest.raises(Exception, match="Expand") as caught:
        sessions.run(made, {"x": np.ones(1, np.float32), "s": np.array([2**42])})
    assert machine.lack(caught.value) is machine.MEMORY
    with pytest.raises(Exception, match="Expand") as caught:
        sessions.run(made, {"x": np.ones(1, np.float32), "s": np.array([-2])})
    assert machine.lack(caught.value) is None


def failing(error: Exception, after: int = 0) -> Callable[..., Any]:
    """A session that is not made; the first ones are."""
    count = 0

    def session(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise error
        return sessions.session(*arguments, **options)

    return session


PLACES = [
    (alone, 0, "fast"),
    (alone, 1, "sites"),
    (whole_model, 0, "fast"),
    (inside, 0, "full"),
]


@pytest.mark.parametrize(
    ("place", "after", "level"), PLACES, ids=lambda each: getattr(each, "__name__", str(each))
)
@pytest.mark.parametrize("name", FAULTS)
def test_the_environment_puts_no_site_back(
    name: str, place: Any, after: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, lack = FAULTS[name]
    monkeypatch.setattr(place, "session", failing(error, after))
    onnx.save(residual(NORM), tmp_path / "model.onnx")
    with pytest.raises(MachineError, match=lack.what):
        graphfuse.optimize(tmp_path / "model.onnx", tmp_path / "o.onnx", level=level)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("error", ITS_OWN[:4], ids=lambda error: type(error).__name__)
def test_a_fault_of_the_node_puts_it_back(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "session", failing(error))
    onnx.save(residual(NORM), tmp_path / "model.onnx")
    result = graphfuse.optimize(tmp_path / "model.onnx", tmp_path / "o.onnx")
    assert [miss.reason for miss in result.left] == [Reason.PUT_BACK]


def test_a_provider_that_does_not_start_is_no_fault_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "session", failing(ProviderError("it cannot start")))
    onnx.save(residual(NORM), tmp_path / "model.onnx")
    with pytest.raises(ProviderError):
        graphfuse.optimize(tmp_path / "model.onnx", tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_a_twin_without_memory_is_not_evaluated_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of one node that cannot be made is not one that onnxruntime has no kernel for."""

    class Full:
        SessionOptions = ort.SessionOptions
        GraphOptimizationLevel = ort.GraphOptimizationLevel

        def InferenceSession(self, *_: Any, **__: Any) -> Any:  # noqa: N802
            raise Ort.RuntimeException("Exception during initialization: std::bad_alloc")

    evaluator._means.cache_clear()
    monkeypatch.setattr(evaluator.libraries, "onnxruntime", Full)
    node = helper.make_node("Tanh", ["x"], ["y"])
    with pytest.raises(MachineError, match="out of memory"):
        evaluator.NodeEvaluator([helper.make_opsetid("", 17)]).run(node, [np.ones(3)])


def test_an_original_that_needs_too_much_does_not_run() -> None:
    """That is its own: it needs more than there is, whatever is made of it."""
    proto = residual(
        "y0 = LayerNormalization(x, scale, bias) y = Expand(y0, many)",
        outputs="float[U,B,S,8] y",
        constants={"many": np.array([2**40, 1, 1, 1])},
    )
    with pytest.raises(OriginalModelError, match="smaller feeds") as caught:
        graphfuse.validate(proto, proto, level="fast")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["threads of onnxruntime", "open files"])
def test_other_commands_name_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, lack = FAULTS[name]
    proto = residual(NORM)
    monkeypatch.setattr(in_runs, "session", failing(error))
    monkeypatch.setattr(whole_model, "session", failing(error))
    monkeypatch.setattr(contests.Contender, "session", failing(error))
    with pytest.raises(MachineError, match=lack.what):
        graphfuse.activations(proto)
    with pytest.raises(MachineError, match=lack.what):
        graphfuse.validate(proto, proto)
    with pytest.raises(MachineError, match=lack.what):
        graphfuse.bench(proto, proto, options=BenchOptions(0.0, (1,)))


COMMANDS = (
    ("fuse", BERT, "-o", "{out}"),
    ("validate", BERT, BERT),
    ("scan", BERT, "--activations"),
    ("bench", BERT, BERT, "--seconds", "0", "--sizes", "1x4", "--threads", "1", "--no-memory"),
)


@POSIX
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("kind", ["deleted", "not UTF-8"])
def test_the_working_folder_does_not_matter(
    kind: str, command: tuple[str | Path, ...], tmp_path: Path
) -> None:
    """A model without external data has no place, so none is told to onnxruntime."""
    folder = os.fsencode(tmp_path) + b"/here\xff"
    try:
        Path(os.fsdecode(folder)).mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    out = tmp_path / "fused.onnx"
    words = [str(word).replace("{out}", str(out)) for word in command]
    run = in_folder(folder, kind == "deleted", words)
    assert (run.returncode, run.stderr) == (0, "")
    if command[0] == "fuse":
        assert sum(node.domain == "graphfuse" for node in onnx.load(out).graph.node) == 5


def in_folder(folder: bytes, removed: bool, words: list[str]) -> Any:
    code = (
        "import os, sys; sys.path.insert(0, os.getcwd()); os.chdir(os.fsencode(sys.argv[1]));"
        + ("os.rmdir(os.fsencode(sys.argv[1]));" if removed else "")
        + "from graphfuse.cli import main; sys.argv = ['graphfuse', *sys.argv[2:]]; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, os.fsdecode(folder), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@POSIX
def test_external_data_is_found_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/here\xff"))
    try:
        external(folder)
    except OSError:
        pytest.skip("the file system takes no such name")
    run = in_folder(os.fsencode(folder), False, ["fuse", "model.onnx", "-o", "o.onnx"])
    assert (run.returncode, run.stderr) == (0, "")
    assert "put back" not in run.stdout
    written = onnx.load(folder / "o.onnx", load_external_data=False)
    assert sum(node.domain == "graphfuse" for node in written.graph.node) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes at least is Linux's")
@pytest.mark.parametrize("limit", range(260_000, 380_000, 20_000))
def test_little_memory_is_never_a_verdict(limit: int, tmp_path: Path) -> None:
    """Whatever gives out: all sites are fused, or nothing is written and no success is told.

    The C library itself may end the process, where not even a thread's own data has room.
    """
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit * 1024},) * 2);"
        "from graphfuse.cli import main; import sys; sys.argv = ['graphfuse', *sys.argv[1:]]; main()"
    )
    out = tmp_path / "o.onnx"
    run = subprocess.run(
        [sys.executable, "-c", code, "fuse", str(BERT), "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "put back" not in run.stdout
    assert "Traceback" not in run.stderr
    if run.returncode == 0:
        assert sum(node.domain == "graphfuse" for node in onnx.load(out).graph.node) == 5
    else:
        assert not out.exists()
    assert run.returncode in (0, 1, 4, 127) or run.returncode < 0, run.stderr


def test_no_room_for_the_error_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "_fail", fail)
    monkeypatch.setattr(cli, "_handle_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["graphfuse", "env"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "out of memory" in said


def test_output_that_cannot_be_written_is_not_the_machines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk behind standard output is told as before, with its own code."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "_handle_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["graphfuse", "env"])
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "standard output cannot be written" in capfd.readouterr().err


@pytest.mark.parametrize("strict", [False, True])
def test_all_sites_put_back_is_no_success(
    strict: bool, stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaging(monkeypatch, scale, *(f"y{n}" for n in range(LAYERS)))
    output = stored.with_name("fused.onnx")
    arguments = ["fuse", str(stored), "-o", str(output), *(["--strict"] if strict else [])]
    with pytest.raises(GraphfuseError) as caught:
        cli.app(arguments, standalone_mode=False)
    said = capsys.readouterr().out
    if strict:
        assert caught.value.exit_code == 1
        assert not output.exists()
    else:
        assert caught.value.exit_code == 6
        assert "all 12 sites" in str(caught.value)
        assert "every site that was fused was put back" in said
        assert said.count("put back: s") == LAYERS
        assert output.read_bytes() == stored.read_bytes()


def test_some_sites_put_back_is_a_success(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaging(monkeypatch, scale, "y3")
    output = stored.with_name("fused.onnx")
    assert not cli.app(["fuse", str(stored), "-o", str(output)], standalone_mode=False)
    assert capsys.readouterr().out.count("put back: s") == 1

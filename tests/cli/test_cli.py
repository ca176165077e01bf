"""The command line through the shell: exit codes, one clear line, nothing written."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphfuse.records import NormKind
from models.committed import COMMITTED
from tests.conftest import MODELS, Shell, files_of
from tests.support.graphs import needs_opset, residual

BERT = MODELS / "bert.onnx"
HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert run.stderr.startswith("graphfuse: error: ")
    assert run.stderr.count("\n") == 1
    return run.stderr


@pytest.mark.parametrize("small", COMMITTED, ids=lambda small: small.file)
def test_fuse_writes_a_valid_model(small: object, shell: Shell, tmp_path: Path) -> None:
    needs_opset(small.opset)  # type: ignore[attr-defined]
    source = MODELS / small.file  # type: ignore[attr-defined]
    before = digest(source)
    run = shell("fuse", source, "-o", "out.onnx", "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    kinds = [site["kind"] for site in report["fused"]]
    assert kinds.count(NormKind.LAYER_NORM) == small.layer_norms  # type: ignore[attr-defined]
    assert kinds.count(NormKind.RMS_NORM) == small.rms_norms  # type: ignore[attr-defined]
    assert report["left"] == []
    assert report["validation"]["passed"]
    assert report["written"][0]["sha256"] == digest(tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
    assert digest(source) == before
    assert files_of(tmp_path) == ["out.onnx"]


def test_summary_table(shell: Shell) -> None:
    run = shell("fuse", BERT, "-o", "out.onnx")
    assert run.returncode == 0
    assert run.stderr == ""
    text = " ".join(run.stdout.split())
    assert "Add + LayerNorm 5 5" in text
    assert "nodes 107 98" in text
    assert all(f"{gate} " in text for gate in ("G0", "G1", "G2"))
    assert "wrote out.onnx" in text


def test_second_fuse_changes_nothing_and_says_so(shell: Shell, tmp_path: Path) -> None:
    assert shell("fuse", BERT, "-o", "once.onnx").returncode == 0
    run = shell("fuse", "once.onnx", "-o", "twice.onnx")
    assert run.returncode == 0
    assert "nothing to fuse: the model is unchanged" in run.stdout
    assert digest(tmp_path / "once.onnx") == digest(tmp_path / "twice.onnx")


def test_same_input_same_bytes(shell: Shell, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        run = shell("fuse", BERT, "-o", f"{seed}.onnx", env={"PYTHONHASHSEED": seed})
        assert run.returncode == 0
    assert digest(tmp_path / "1.onnx") == digest(tmp_path / "2.onnx")


def test_scan_prints_sites_and_near_misses(shell: Shell, tmp_path: Path) -> None:
    run = shell("scan", MODELS / "llama.onnx", "--json")
    document = json.loads(run.stdout)
    assert document["schema"] == 2
    assert [site["kind"] for site in document["sites"]] == [NormKind.RMS_NORM] * 4
    onnx.save(
        residual("y = LayerNormalization<epsilon=0.0>(x, scale)"),
        tmp_path / "near.onnx",
    )
    run = shell("scan", "near.onnx")
    assert run.returncode == 0
    assert "0 sites (" in run.stdout
    assert "1 near miss," in run.stdout


def bad_files(folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.onnx" for name in ("garbage", "empty", "text", "directory")}
    paths["garbage"].write_bytes(np.random.default_rng(0).bytes(5000))
    paths["empty"].write_bytes(b"")
    paths["text"].write_text("this is not a model\n" * 50)
    paths["directory"].mkdir()
    return {**paths, "missing": folder / "missing.onnx"}


@pytest.mark.parametrize("command", ["scan", "fuse", "validate"])
@pytest.mark.parametrize("kind", ["garbage", "empty", "text", "directory", "missing"])
def test_unreadable_models(kind: str, command: str, shell: Shell, tmp_path: Path) -> None:
    path = bad_files(tmp_path)[kind]
    before = files_of(tmp_path)
    rest = {"scan": [], "fuse": ["-o", "out.onnx"], "validate": [str(BERT)]}[command]
    run = shell(command, path, *rest)
    assert run.returncode == 3
    assert path.name in one_line(run)
    assert files_of(tmp_path) == before


def test_truncations_are_refused_or_read(tmp_path: Path) -> None:
    """No prefix of a model gives anything but a model error or a result."""
    import graphfuse

    data = (MODELS / "encoder-post.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(graphfuse.ModelError):
            graphfuse.scan(path)


def test_output_exists(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_text("precious")
    run = shell("fuse", BERT, "-o", "out.onnx")
    assert run.returncode == 2
    assert "exists" in one_line(run)
    assert "--force" in run.stderr
    assert (tmp_path / "out.onnx").read_text() == "precious"
    assert shell("fuse", BERT, "-o", "out.onnx", "--force").returncode == 0
    assert onnx.load(tmp_path / "out.onnx").graph.node


@pytest.mark.parametrize(
    ("output", "says"),
    [("folder", "is a folder"), ("no/such/out.onnx", "does not exist"), ("in.onnx", "is an input")],
)
def test_bad_outputs(output: str, says: str, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "in.onnx").write_bytes(BERT.read_bytes())
    run = shell("fuse", "in.onnx", "-o", output, "--force")
    assert run.returncode == 2
    assert says in one_line(run)
    assert digest(tmp_path / "in.onnx") == digest(BERT)
    assert files_of(tmp_path) == ["folder", "in.onnx"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ep", "tpu"], "unknown execution provider 'tpu'"),
        (["--validate", "slow"], "'slow' is not one of"),
        (["--include", "s99"], "no site is named 's99'"),
        (["--input-shapes", "ids=[1]"], "cannot read the shape"),
        (["--input-shapes", "nothing:[1,2]"], "no input 'nothing'"),
        (["--load-inputs", "none.npz"], "none.npz cannot be read"),
    ],
)
def test_usage_errors(arguments: list[str], says: str, shell: Shell, tmp_path: Path) -> None:
    run = shell("fuse", BERT, "-o", "out.onnx", *arguments)
    assert run.returncode == 2
    assert says in one_line(run)
    assert files_of(tmp_path) == []


def test_output_is_needed_but_for_a_dry_run(shell: Shell, tmp_path: Path) -> None:
    run = shell("fuse", BERT)
    assert run.returncode == 2
    assert "-o FILE" in one_line(run)
    run = shell("fuse", BERT, "--dry-run")
    assert run.returncode == 0
    assert "Add + LayerNorm" in run.stdout
    assert "wrote" not in run.stdout
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["fuse"],
        ["scan", "a", "b"],
        ["frobnicate"],
        ["scan", "--x", "a"],
        ["fuse", "a", "--seed", "x"],
        ["fuse", "a", "--seed", "-1"],
        ["fuse", "a", "--iterations", "0"],
        ["scan", ""],
        ["fuse", str(BERT), "-o", ""],
        ["fuse", str(BERT), "-o", "x" * 300],
        ["fuse", str(BERT), "-o", "o", "--input-shapes", "input_ids:[1,99999999999999999999]"],
        ["fuse", str(BERT), "-o", "o", "--input-shapes", "input_ids:[1,99999999999]"],
        ["fuse", str(BERT), "-o", "o", "--input-shapes", "input_ids:[1,2,3]"],
    ],
)
def test_wrong_calls_end_with_2_and_one_line(
    arguments: list[str], shell: Shell, tmp_path: Path
) -> None:
    run = shell(*arguments)
    assert run.returncode == 2
    one_line(run)
    assert files_of(tmp_path) == []


def test_version_and_help(shell: Shell) -> None:
    assert shell("--version").stdout.startswith("graphfuse 0.")
    assert "validate" in shell("--help").stdout
    assert shell().stdout == shell("--help").stdout


def test_feeds_that_the_model_does_not_take(shell: Shell, tmp_path: Path) -> None:
    ids = np.ones((2, 3), np.int64)
    np.savez(tmp_path / "wrong.npz", ids=ids, attention_mask=ids)
    np.savez(tmp_path / "few.npz", input_ids=ids)
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "few.npz").read_bytes()[:200])
    for name, says in (
        ("wrong", "no input 'ids'"),
        ("few", "no array for input 'attention_mask'"),
        ("empty", "cannot be read as feeds"),
        ("damaged", "cannot be read as feeds"),
    ):
        run = shell("fuse", BERT, "-o", "out.onnx", "--load-inputs", f"{name}.npz")
        assert run.returncode == 2
        assert says in one_line(run)
    assert not (tmp_path / "out.onnx").exists()


def test_min_fused_gate(shell: Shell, tmp_path: Path) -> None:
    run = shell("fuse", BERT, "-o", "out.onnx", "--min-fused", "6")
    assert run.returncode == 6
    assert "5 of 6 sites were fused that --min-fused asks for" in one_line(run)
    assert files_of(tmp_path) == []
    assert shell("fuse", BERT, "-o", "out.onnx", "--min-fused", "5").returncode == 0


@pytest.mark.skipif(HAS_CUDA, reason="the CUDA provider is there, so nothing is missing")
def test_missing_provider(shell: Shell, tmp_path: Path) -> None:
    run = shell("fuse", BERT, "-o", "out.onnx", "--ep", "cuda")
    assert run.returncode == 5
    assert "CUDAExecutionProvider" in one_line(run)
    assert files_of(tmp_path) == []
    run = shell("fuse", BERT, "-o", "out.onnx", "--ep", "cuda", "--validate", "none")
    assert run.returncode == 0
    assert "not validated" in run.stdout


def test_original_that_does_not_run(shell: Shell, tmp_path: Path) -> None:
    proto = residual(
        "y = LayerNormalization(x, scale, bias) w = Reshape(y, five)",
        outputs="float[5] w",
        constants={"five": np.array([5], np.int64)},
    )
    onnx.save(proto, tmp_path / "in.onnx")
    run = shell("fuse", "in.onnx", "-o", "out.onnx")
    assert run.returncode == 4
    assert "original model does not run" in one_line(run)
    assert files_of(tmp_path) == ["in.onnx"]


def test_a_model_that_fails_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import graphfuse
    from graphfuse.steps import fusing

    honest = fusing.rewrite

    def wrong(*arguments: object) -> onnx.ModelProto:
        made = honest(*arguments)  # type: ignore[arg-type]
        node = next(node for node in made.graph.node if node.domain == "graphfuse")
        next(a for a in node.attribute if a.name == "epsilon").f *= 2
        return made

    monkeypatch.setattr(fusing, "rewrite", wrong)
    with pytest.raises(graphfuse.ValidationError, match="validation failed at") as caught:
        graphfuse.optimize(BERT, tmp_path / "out.onnx", strict=True)
    assert caught.value.exit_code == 1
    assert "layer_norm" in str(caught.value)
    assert files_of(tmp_path) == []


def test_include_and_exclude(shell: Shell) -> None:
    run = shell(
        "fuse", BERT, "--dry-run", "--json", "--include", "s1", "--include", "s2", "--exclude", "s2"
    )
    report = json.loads(run.stdout)
    assert [site["id"] for site in report["fused"]] == ["s1"]
    assert {miss["reason"] for miss in report["left"]} == {"excluded"}


def test_user_feeds(shell: Shell, tmp_path: Path) -> None:
    ids = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "feeds.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    run = shell("fuse", BERT, "-o", "out.onnx", "--load-inputs", "feeds.npz", "--json")
    assert run.returncode == 0
    assert any("given feeds" in c["where"] for c in json.loads(run.stdout)["validation"]["checks"])
    run = shell(
        "validate", BERT, "out.onnx", "--input-shapes", "input_ids:[3,5]", "--seed", "9", "--json"
    )
    assert json.loads(run.stdout)["passed"]


def test_levels_and_iterations(shell: Shell) -> None:
    """fast draws one feed, full three; --iterations says otherwise."""
    for arguments, seeds in (
        (["--validate", "fast"], 1),
        (["--validate", "full"], 3),
        (["--validate", "fast", "--iterations", "2"], 2),
    ):
        run = shell("fuse", BERT, "--dry-run", "--json", *arguments)
        checks = json.loads(run.stdout)["validation"]["checks"]
        drawn = {c["where"].split(", ")[1] for c in checks if c["gate"] == "G2"}
        assert len(drawn) == seeds


def test_env(shell: Shell) -> None:
    run = shell("env")
    assert run.returncode == 0
    assert f"onnxruntime: {ort.__version__}" in run.stdout
    assert "CPUExecutionProvider" in run.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """The child stops in the middle of writing; its temporary file goes, the old output stays."""
    (tmp_path / "out.onnx").write_text("old")
    code = (
        "import signal, sys, time\n"
        # A shell that starts the tests in the background has them ignore SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from graphfuse import cli\n"
        "from graphfuse.files import writing\n"
        "write = writing.sync\n"
        "def slow(file):\n"
        "    write(file); print('writing', flush=True); time.sleep(60)\n"
        "writing.sync = slow\n"
        f"sys.argv = ['graphfuse', 'fuse', {str(BERT)!r}]\n"
        "sys.argv += '-o out.onnx --force --validate none'.split()\n"
        "cli.main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    assert len(files_of(tmp_path)) == 2
    time.sleep(0.1)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 128 + number
    assert said.decode().startswith("graphfuse: error: ")
    assert said.count(b"\n") == 1
    assert files_of(tmp_path) == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_text() == "old"


def test_piped_output_has_no_colour(shell: Shell) -> None:
    assert "\x1b" not in shell("scan", BERT, env={"FORCE_COLOR": ""}).stdout
    assert os.linesep in shell("scan", BERT).stdout

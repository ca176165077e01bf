"""--isolate: whatever a model does to the process that runs it is one line and an exit code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from tests.campaigns.hostile import bombs
from tests.conftest import MODELS, Shell
from tests.support.graphs import residual

BERT = MODELS / "bert.onnx"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX")


def test_the_output_is_that_of_the_command(shell: Shell, tmp_path: Path) -> None:
    plain = shell("fuse", BERT, "-o", "plain.onnx")
    isolated = shell("fuse", BERT, "-o", "isolated.onnx", "--isolate", "--memory-limit", "8")
    assert isolated.returncode == plain.returncode == 0
    assert isolated.stdout == plain.stdout.replace("plain.onnx", "isolated.onnx")
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "isolated.onnx").read_bytes()
    assert shell("scan", BERT, "--isolate").stdout == shell("scan", BERT).stdout
    assert shell("scan", "absent.onnx", "--isolate").returncode == 3


def test_too_long_ends_with_a_line(shell: Shell, tmp_path: Path) -> None:
    """A loop that does not end: the original itself does not run."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,8] a, float[2,8] b) => (float[2,8] z) {
            x = Add(a, b) y = LayerNormalization(x, s)
            z = Loop (, go, y) <body = l (int64 i, bool c, float[2,8] v) => (bool c2, float[2,8] w)
                { c2 = Identity(c) w = Identity(v) }>
        }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in (("s", np.ones(8, np.float32)), ("go", np.array(True)))
    )
    onnx.save(proto, tmp_path / "endless.onnx")
    run = shell("fuse", "endless.onnx", "-o", "o.onnx", "--isolate", "--time-limit", "10")
    assert run.returncode == 4, run.stderr
    assert "took more than 10 s while running the original" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "o.onnx").exists()


def test_what_takes_too_much_memory_is_judged_site_by_site(shell: Shell, tmp_path: Path) -> None:
    proto = residual(
        "y0 = LayerNormalization(x, scale, bias) t = Tile(y0, many) y = ReduceMean<axes=[0]>(t)",
        outputs="float[U,S,8] y",
        constants={"many": np.array([2**28, 1, 1])},
    )
    onnx.save(proto, tmp_path / "large.onnx")
    run = shell("fuse", "large.onnx", "-o", "o.onnx", "--isolate", "--memory-limit", "3")
    assert run.returncode == 0, run.stderr
    assert "each fused node was judged alone" in " ".join(run.stdout.split())
    assert (tmp_path / "o.onnx").exists()


def test_a_run_that_does_not_end_is_stopped_without_a_child() -> None:
    endless = bombs.loop(2**62)
    result = graphfuse.fuse(endless)
    assert result.changed
    words = r"did not end within 1 seconds.*--run-limit"
    with pytest.raises(graphfuse.OriginalModelError, match=words):
        graphfuse.validate(endless, result.model, feeds=graphfuse.Feeds(run_limit=1))

"""Validation stays within the memory there is: estimates, smaller feeds, then the sites alone."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphfuse
from graphfuse.running import fitting
from graphfuse.running.estimate import BASE, Need, estimate
from graphfuse.speed.measurements import BenchOptions
from graphfuse.steps.opening import as_model
from graphfuse.system import memory
from tests.conftest import MODELS
from tests.support.graphs import model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is Linux's")

MEASURE = """
import sys
import graphfuse
from graphfuse.speed.footprint import peak_memory, resident
path, rows = sys.argv[1], int(sys.argv[2])
import onnxruntime
fused = graphfuse.fuse(path).model
graphfuse.validate(path, fused, level="fast", feeds=graphfuse.Feeds(symbols={"batch": 1} if rows else {}))
before = resident()
report = graphfuse.validate(
    path, fused, level="fast", feeds=graphfuse.Feeds(symbols={"batch": rows})
)
assert report.passed, report.failures
assert report.level == "fast"
print(peak_memory() - before)
"""


@LINUX
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_the_estimate_is_near_the_measured_peak(name: str) -> None:
    path, rows = MODELS / f"{name}.onnx", 1024
    loaded = as_model(path)
    shapes = {
        value.name: tuple(
            d.dim_value or (rows if n == 0 else 7)
            for n, d in enumerate(value.type.tensor_type.shape.dim)
        )
        for value in loaded.proto.graph.input
    }
    need = estimate(loaded, shapes)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(rows)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    measured = int(run.stdout)
    assert measured / 2 < need.peak < 4 * measured + 2**27, (need, measured)


def attention(tokens: int, heads: int = 4) -> onnx.ModelProto:
    """One layer of self-attention over a fixed number of tokens: heads x tokens x tokens scores."""
    return model(
        f"""h = Reshape(x0, split) q = Transpose<perm=[0, 2, 1, 3]>(h)
        k = Transpose<perm=[0, 2, 3, 1]>(h) scores = MatMul(q, k)
        p = Softmax<axis=-1>(scores) mixed = MatMul(p, q)
        turned = Transpose<perm=[0, 2, 1, 3]>(mixed) o = Reshape(turned, merge)
        x = Add(o, x0) {NORM}""",
        inputs=f"float[1,{tokens},8] x0",
        outputs=f"float[1,{tokens},8] y",
        constants={
            "split": np.array([0, 0, heads, 8 // heads]),
            "merge": np.array([0, 0, 8]),
        },
    )


def limited(limit: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graphfuse", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


@LINUX
def test_a_large_fixed_input_is_judged_by_its_sites_and_nothing_dies(tmp_path: Path) -> None:
    """4 x 6000 x 6000 scores are 1.2 GB in float64: more than there is, several times."""
    path, output = tmp_path / "large.onnx", tmp_path / "fused.onnx"
    onnx.save(attention(6000), path)
    run = limited(3 * 2**30, "fuse", path, "-o", output, "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)["validation"]
    assert report["level"] == "sites"
    [note] = [note for note in report["notes"] if "takes about" in note]
    assert "x0 [1, 6000, 8]" in note
    assert "the limit on address space" in note
    assert "judged alone" in note
    assert any(node.domain == "graphfuse" for node in onnx.load(output).graph.node)


def room(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(fitting.memory, "available", lambda: memory.Room(size, "a test's memory"))


def test_smaller_feeds_are_drawn_where_the_asked_for_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room(monkeypatch, 200 * 2**20)
    proto = residual(NORM)
    fused = graphfuse.fuse(proto).model
    report = graphfuse.validate(
        proto, fused, level="fast", feeds=graphfuse.Feeds(input_shapes={"a": (64, 10**5, 8)})
    )
    assert (report.passed, report.level) == (True, "fast")
    [note] = [note for note in report.notes if "takes about" in note]
    assert "a and 1 more [64, 100000, 8]" in note
    assert "drawn was seed 0, a 2x7x8, b 2x7x8" in note
    assert all("a 2x7x8" in check.where for check in report.checks if check.gate == "G2")


def test_what_fits_nowhere_and_has_no_site_to_judge_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room(monkeypatch, 2**20)
    proto = residual(NORM)
    with pytest.raises(graphfuse.OriginalModelError, match="smaller feeds") as caught:
        graphfuse.validate(proto, proto)
    assert "1 MB are left of a test's memory" in str(caught.value)
    assert caught.value.exit_code == 4
    report = graphfuse.validate(proto, graphfuse.fuse(proto).model)
    assert (report.passed, report.level) == (True, "sites")


MEASURING = {
    "bench": lambda proto, **given: graphfuse.bench(
        proto, graphfuse.fuse(proto).model, options=BenchOptions(seconds=0, memory=False), **given
    ),
    "activations": graphfuse.activations,
}


@pytest.mark.parametrize("what", MEASURING)
def test_what_measures_asks_for_memory_first(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """No smaller feed stands for one that was asked for, and none is drawn before it is judged."""
    proto = residual(NORM)
    room(monkeypatch, 200 * 2**20)
    assert MEASURING[what](proto, feeds=graphfuse.Feeds(input_shapes={"a": (2, 5, 8)}))
    with pytest.raises(graphfuse.OriginalModelError, match="smaller feeds") as caught:
        MEASURING[what](proto, feeds=graphfuse.Feeds(input_shapes={"a": (64, 10**5, 8)}))
    assert "a and 1 more [64, 100000, 8]" in caught.value.message
    assert "0.2 GB are left of a test's memory" in caught.value.message
    assert caught.value.exit_code == 4
    # The advice, followed: smaller ones.
    assert MEASURING[what](proto, feeds=graphfuse.Feeds(symbols={"B": 1, "S": 3}))


def test_a_site_that_has_no_room_to_be_timed_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 200 * 2**20)
    options = BenchOptions(seconds=0)
    report = graphfuse.bench(
        residual(NORM), None, options=options, feeds=graphfuse.Feeds(symbols={"B": 64, "S": 10**5})
    )
    assert not report.sites
    [note] = report.notes
    assert "s1 cannot be timed alone" in note
    assert "0.2 GB are left of a test's memory" in note
    report = graphfuse.bench(
        residual(NORM), None, options=options, feeds=graphfuse.Feeds(symbols={"B": 1, "S": 3})
    )
    assert len(report.sites) == 1


def test_sessions_beside_one_another_take_what_is_estimated() -> None:
    """Of weights each has its own; what hands them over is there once."""
    need = Need(weights=500, packed=300, activations=40, twin=10**6, feeds=7, unknown=0)
    one, three = (need.running(count) - BASE for count in (1, 3))
    assert (one, three) == (int(1.3 * (7 + 500 + 40)), int(1.3 * (7 + 200 + 3 * 340)))


def test_extents_that_go_through_values_are_known() -> None:
    """A Range of a Shape, an Expand by it, a slice: all are numbers once the inputs are."""
    loaded = as_model(MODELS / "gpt2.onnx")
    need = estimate(loaded, {"input_ids": (3, 11), "attention_mask": (3, 11)})
    assert need.unknown < 10
    assert need.activations > 3 * 11 * 32 * 4 * 4


FILES = {
    "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
    "proc/self/status": "VmSize: 100 kB\n",
}
V2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "sys/fs/cgroup/a/memory.max": "4096000\n",
    "sys/fs/cgroup/a/memory.current": "3000000\n",
    "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 1000000\n",
    "sys/fs/cgroup/a/b/memory.max": "max\n",
    "sys/fs/cgroup/a/b/memory.current": "3000000\n",
}
V1 = {
    "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/x\n0::/\n",
    # A container sees its own group at the mount, not at the path that the host has for it.
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100000\n",
}


@pytest.mark.parametrize(
    ("files", "size", "bound"),
    [
        ({}, 8000 * 1024, "system"),
        (V2, 4096000 - 2000000, "cgroup"),
        (V1, 2000000 - 400000, "cgroup"),
        (
            {**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}"},
            8192000,
            "system",
        ),
    ],
)
def test_the_tightest_bound_counts(
    files: dict[str, str], size: int, bound: str, tmp_path: Path
) -> None:
    for name, text in {**FILES, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = memory.available(tmp_path)
    assert found is not None
    assert found.size == size
    assert bound in found.bound


def greedy() -> onnx.ModelProto:
    """A site, and beside it onnxruntime's GreedySearch over a decoder that knows one answer."""
    proto = residual(NORM)
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
            helper.make_node("Identity", ["past_0"], ["present_0"]),
        ],
        "decoder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["b", "s"]),
            helper.make_tensor_value_info("position_ids", TensorProto.INT32, ["b", "s"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT32, ["b", "t"]),
            helper.make_tensor_value_info("past_0", TensorProto.FLOAT, [2, "b", 1, "p", 4]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "s", 8]),
            helper.make_tensor_value_info("present_0", TensorProto.FLOAT, [2, "b", 1, "p", 4]),
        ],
        [numpy_helper.from_array(np.eye(8, dtype=np.float32)[[1, 2, 3, 4, 5, 6, 7, 0]], "table")],
    )
    node = helper.make_node(
        "GreedySearch",
        ["ids", "most", "least"],
        ["sequences"],
        "greedy",
        domain="com.microsoft",
        eos_token_id=7,
        pad_token_id=0,
        model_type=0,
        decoder=body,
    )
    proto.graph.node.append(node)
    for name, value in (("ids", [[1, 2]]), ("most", [6]), ("least", [1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int32), name))
    proto.graph.output.append(helper.make_tensor_value_info("sequences", TensorProto.INT32, None))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_model_with_a_loop_that_has_no_float64_meaning_is_judged_by_its_sites(
    level: str,
) -> None:
    proto = greedy()
    fused = graphfuse.fuse(proto).model
    report = graphfuse.validate(proto, fused, level=level)
    assert (report.passed, report.level) == (True, "sites")
    assert {check.gate for check in report.checks} == {"G0", "G1"}
    [note] = [note for note in report.notes if "judged alone" in note]
    assert "GreedySearch 'greedy' cannot be evaluated in float64" in note
    wrong = onnx.ModelProto.FromString(fused.SerializeToString())
    node = next(node for node in wrong.graph.node if node.domain == "graphfuse")
    next(a for a in node.attribute if a.name == "epsilon").f *= 1.5
    assert not graphfuse.validate(proto, wrong, level=level).passed

"""What validation feeds: the user's data, drawn sizes, ranges, and levels."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.cli.parsing import parse_ranges
from graphfuse.running.feeding import Feeding, load_script
from graphfuse.running.random_feeds import Sizes, random_feeds
from tests.conftest import MODELS, Shell
from tests.support.graphs import model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
BERT = MODELS / "bert.onnx"


def cached() -> onnx.ModelProto:
    """A decoder's inputs: new tokens, a cache, and a mask over both."""
    proto = model(
        """x = Concat<axis=1>(past_key, new_key)
           m = Unsqueeze(attention_mask, last) f = Cast<to=1>(m) p = Mul(x, f)
           s = Add(p, x) y = LayerNormalization(s, scale, bias)""",
        inputs="float[batch,past_sequence_length,8] past_key, float[batch,sequence_length,8] new_key,"
        " int64[batch,total_sequence_length] attention_mask",
        outputs="float[batch,T,8] y",
        constants={"last": np.array([-1])},
    )
    assert len(graphfuse.scan(proto).sites) == 1
    return proto


def test_full_draws_small_ones_and_odd_extents() -> None:
    groups = Feeding().feeds(residual(NORM), 3)
    shapes = [[feed.values["a"].shape for feed in group] for group in groups]
    assert shapes == [
        [(2, 7, 8), (1, 7, 8), (1, 64, 8)],
        [(1, 1, 8)],
        [(3, 7, 8), (3, 5, 8), (1, 5, 8)],
    ]
    assert [group[0].label[:6] for group in groups] == ["seed 0", "seed 1", "seed 2"]


def test_the_users_sizes_come_first_and_others_follow() -> None:
    shapes = {"a": (4, 9, 8), "b": (4, 9, 8)}
    groups = Feeding(shapes=shapes).feeds(residual(NORM), 3)
    assert [group[0].values["a"].shape for group in groups] == [(4, 9, 8), (1, 1, 8), (3, 7, 8)]


def test_a_mask_over_cache_and_new_tokens_has_their_length() -> None:
    proto = cached()
    for sizes in (Sizes(), Sizes(1, 1), Sizes(3, 5, 2)):
        feeds = random_feeds(proto, sizes=sizes)
        assert feeds["attention_mask"].shape[1] == (
            feeds["past_key"].shape[1] + feeds["new_key"].shape[1]
        )
    report = graphfuse.validate(proto, graphfuse.fuse(proto).model)
    assert report.passed
    # Before 1.27 onnxruntime's norm loses rows, which is another note.
    assert not [note for note in report.notes if "hard rows" not in note]


def test_ranges_bound_what_is_drawn() -> None:
    ranges = parse_ranges(["[-2,3]", "a:[0.5,1.5e0]"])
    assert ranges == {"": (-2.0, 3.0), "a": (0.5, 1.5)}
    feeds = random_feeds(residual(NORM), ranges=ranges)
    assert 0.5 <= feeds["a"].min() <= feeds["a"].max() <= 1.5
    assert -2 <= feeds["b"].min() < -1 < 2 < feeds["b"].max() <= 3
    with pytest.raises(graphfuse.UsageError, match="cannot read the range"):
        parse_ranges(["[0,1"])
    with pytest.raises(graphfuse.UsageError, match="empty or given twice"):
        parse_ranges(["a:[2,1]"])
    with pytest.raises(graphfuse.UsageError, match="no input 'q'"):
        random_feeds(residual(NORM), ranges={"q": (0, 1)})


SCRIPT = """
import numpy as np
def load_data():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        yield {name: rng.normal(size=(1, 4, 8)).astype(np.float32) for name in "ab"}
def broken():
    raise KeyError("no data set")
def nothing():
    return []
"""


def test_a_loader_script_feeds_what_it_yields(tmp_path: Path) -> None:
    script = tmp_path / "data.py"
    script.write_text(SCRIPT)
    assert len(load_script(f"{script}:load_data")) == len(load_script(str(script))) == 3
    feeds = load_script(f"{script}:load_data", 2)
    assert len(feeds) == 2
    proto = residual(NORM)
    report = graphfuse.validate(proto, graphfuse.fuse(proto).model, feeds=feeds)
    assert report.passed
    given = {check.where.split(", ")[1] for check in report.checks if check.gate == "G2"}
    assert given == {"given feeds 1", "given feeds 2"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "KeyError: 'no data set'"),
        ("nothing", "yields nothing"),
        ("absent", "has no attribute 'absent'"),
    ],
)
def test_a_loader_script_that_gives_nothing(name: str, message: str, tmp_path: Path) -> None:
    script = tmp_path / "data.py"
    script.write_text(SCRIPT)
    with pytest.raises(graphfuse.UsageError, match=message):
        load_script(f"{script}:{name}")
    with pytest.raises(graphfuse.UsageError, match="no Python file"):
        load_script(str(tmp_path / "other.py"))


def test_what_a_check_says_to_repeat_gives_the_same_figure(shell: Shell, tmp_path: Path) -> None:
    fused = tmp_path / "fused.onnx"
    onnx.save(graphfuse.fuse(BERT).model, fused)
    first = json.loads(shell("validate", BERT, fused, "--json", "--seed", "4").stdout)
    chosen = [
        next(c for c in first["checks"] if c["gate"] == "G1" and "real" not in c["where"]),
        [c for c in first["checks"] if c["gate"] == "G2"][-1],
    ]
    for check in chosen:
        words = shlex.split(check["repeat"])
        assert words[:2] == ["graphfuse", "validate"]
        again = json.loads(shell(*words[1:], "--json").stdout)
        same = [
            c
            for c in again["checks"]
            if (c["gate"], c["subject"]) == (check["gate"], check["subject"])
        ]
        assert check["value"] in [c["value"] for c in same]


def test_the_levels(shell: Shell, tmp_path: Path) -> None:
    fused = tmp_path / "fused.onnx"
    onnx.save(graphfuse.fuse(BERT).model, fused)
    gates = {}
    for level in ("sites", "fast", "full"):
        report = graphfuse.validate(BERT, fused, level=level)
        assert report.passed
        gates[level] = {check.gate for check in report.checks}
        assert len(report.activations) == (5 if level == "full" else 0)
    assert gates["sites"] == {"G0", "G1"}
    assert gates["fast"] == gates["full"] == {"G0", "G1", "G2", "G3", "G4"}
    with pytest.raises(graphfuse.UsageError, match="no fused node computes 'nothing'"):
        graphfuse.validate(BERT, fused, level="sites", sites=["nothing"])
    run = shell("validate", BERT, fused, "--validate", "slow")
    assert run.returncode == 2
    assert "'slow' is not one of" in run.stderr


def test_activations_that_overflow_float16_are_flagged() -> None:
    proto = residual(NORM)
    feeds = {name: np.full((1, 2, 8), 150.0, np.float32) for name in "ab"}
    feeds["a"][..., 0] = 1
    report = graphfuse.validate(proto, graphfuse.fuse(proto).model, feeds=feeds)
    [found] = report.activations
    assert (found.largest, found.squares_overflow) == (300.0, True)
    assert found.float16_share == pytest.approx(300 / 65504)


def test_a_fused_node_under_another_name_is_compared_by_what_reads_it() -> None:
    """Another tool's names: what reads the node is compared, and the node with it."""
    proto = residual(NORM)
    fused = graphfuse.fuse(proto).model
    node = fused.graph.node[0]
    node.output[0] = "other"
    fused.graph.node.append(onnx.helper.make_node("Identity", ["other"], ["y"]))
    report = graphfuse.validate(proto, fused)
    assert report.verdict == "pass"
    assert not report.unpaired
    next(a for a in node.attribute if a.name == "epsilon").f *= 1.5
    assert "G0" in {check.gate for check in graphfuse.validate(proto, fused).failures}


def test_what_cannot_be_paired_is_said() -> None:
    """A fused node in a branch that the original has not: the whole model still decides."""
    proto = residual(NORM)
    fused = graphfuse.fuse(proto).model
    [node] = fused.graph.node
    node.output[0] = "other"
    value = onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None)
    then = onnx.helper.make_graph([node], "then", [], [value])
    plain = onnx.helper.make_node("Add", ["a", "b"], ["other"])
    orelse = onnx.helper.make_graph([plain], "else", [], [value])
    del fused.graph.node[:]
    fused.graph.node.append(onnx.helper.make_node("Shape", ["a"], ["extents"]))
    fused.graph.node.append(onnx.helper.make_node("ReduceMin", ["extents"], ["least"], keepdims=0))
    fused.graph.node.append(onnx.helper.make_node("Cast", ["least"], ["some"], to=9))
    fused.graph.node.append(
        onnx.helper.make_node("If", ["some"], ["y"], then_branch=then, else_branch=orelse)
    )
    report = graphfuse.validate(proto, fused)
    assert report.verdict == "pass"
    assert [(item.site, item.why) for item in report.unpaired] == [
        ("other", "the original has no such graph")
    ]
    branch = next(a.g for a in fused.graph.node[-1].attribute if a.name == "then_branch")
    next(a for a in branch.node[0].attribute if a.name == "epsilon").f *= 1.5
    assert "G0" in {check.gate for check in graphfuse.validate(proto, fused).failures}


def grouped(packed: bool, ring: int = 0) -> onnx.ModelProto:
    """A cache whose head has a symbol for its size, as onnxruntime-genai's builder writes it."""
    more = f", sliding_window_cache = 1, local_window_size = {ring}" if ring else ""
    attributes = f"<num_heads = 4, kv_num_heads = 2{more}>"
    given = "q, , " if packed else "q, k, v"
    return onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[batch,tokens,{128 if packed else 64}] q, float[batch,tokens,32] k,
           float[batch,tokens,32] v, float[batch,2,past_length,kv_cache_dim] past_key,
           float[batch,2,past_length,kv_cache_dim] past_value, int32[batch] lengths, int32 total)
        => (float[batch,tokens,64] y) {{
            y, key, value = com.microsoft.GroupQueryAttention{attributes}
                ({given}, past_key, past_value, lengths, total)
        }}
    """)


@pytest.mark.parametrize("packed", [False, True])
def test_a_cache_is_drawn_with_the_size_of_a_head(packed: bool) -> None:
    feeds = random_feeds(grouped(packed), 0)
    assert {feeds[name].shape[3] for name in ("past_key", "past_value")} == {16}


def test_a_cache_that_is_a_ring_is_drawn_full_and_is_not_padded() -> None:
    """onnxruntime writes nothing behind the tokens of a ring: what is there is no number."""
    for seed in range(3):
        assert random_feeds(grouped(True, 32), seed)["past_key"].shape[2] == 32


def test_what_is_concatenated_has_one_shape() -> None:
    proto = model(
        "y = Concat<axis=1>(past_key, b)",
        inputs="float[batch,past_sequence_length,head] past_key, float[batch,S,8] b",
        outputs="float[batch,T,8] y",
    )
    assert random_feeds(proto, 0)["past_key"].shape[2] == 8


def test_a_decoder_that_takes_tokens_only_with_empty_caches_is_fed_so() -> None:
    """Its causal mask is as wide as the new tokens."""
    (choices, *_) = Feeding().feeds(cached(), 1)
    assert 0 in {feed.values["past_key"].shape[1] for feed in choices}
    assert 7 in {feed.values["past_key"].shape[1] for feed in choices}
    (plain, *_) = Feeding().feeds(residual(NORM), 1)
    assert not [feed for feed in plain if "empty" in feed.label]

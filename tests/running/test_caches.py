"""Decoders with caches run by default, whatever their extents are called; `--symbol` says one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphfuse
from graphfuse.cli.parsing import parse_symbols
from graphfuse.running.feeding import Feeding
from graphfuse.running.random_feeds import random_feeds
from tests.conftest import MODELS, Shell
from tests.support.graphs import model, residual

NORM = "y = LayerNormalization(x, scale, bias)"
BERT = MODELS / "bert.onnx"

HEADS = """
    e = Gather(table, input_ids)
    split = Unsqueeze(e, one)
    keys = Concat<axis=2>(past_key_values.0.key, split)
    present.0.key = Identity(keys)
    turned = Transpose<perm=[0, 1, 3, 2]>(keys)
    scores = MatMul(split, turned)
    m = Unsqueeze(attention_mask, middle)
    f = Cast<to=1>(m)
    masked = Mul(scores, f)
    mixed = MatMul(masked, keys)
    c = Squeeze(mixed, one)
    x = Add(c, e)
    y = LayerNormalization(x, scale, bias)
"""


def decoder(past: str, mask: str, new: str = "sequence", rows: str = "batch") -> onnx.ModelProto:
    """One head with a cache of keys; `_` stands for an extent without a name."""
    rng = np.random.default_rng(0)
    proto = model(
        re.sub(r"(past_key_values|present)\.0\.key", r"\1_0_key", HEADS),
        inputs="int64[R,N] input_ids, float[R,1,P,8] past_key_values_0_key, "
        "int64[R,M] attention_mask",
        outputs="float[R,N,8] y, float[R,1,T,8] present_0_key",
        constants={
            "table": rng.normal(size=(50, 8)).astype(np.float32),
            "one": np.array([1]),
            "middle": np.array([1, 2]),
        },
    )
    names = {"R": rows, "N": new, "P": past, "M": mask}
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            name = names.get(dim.dim_param, dim.dim_param)
            if name == "_":
                dim.Clear()
            elif name.isdecimal():
                dim.dim_value = int(name)
            elif name:
                dim.dim_param = name
    return proto


@pytest.mark.parametrize(
    ("past", "mask", "new"),
    [
        ("past_sequence_length", "total", "sequence"),
        ("s12", "s53", "s7"),
        ("kv_len", "past_sequence_length + sequence_length", "sequence_length"),
        ("past_sequence_length", "past_sequence_length + sequence_length", "sequence_length"),
        ("past_sequence_length", "past_sequence_length+1", "sequence_length"),
        ("past_sequence_length", "past_sequence_length+1", "1"),
        ("past", "sequence", "sequence"),
        ("past", "past", "sequence"),
        ("_", "_", "_"),
        ("16", "total", "sequence"),
    ],
)
def test_a_decoder_with_a_cache_runs_whatever_its_extents_are_called(
    past: str, mask: str, new: str
) -> None:
    proto = decoder(past, mask, new)
    report = graphfuse.validate(proto, graphfuse.fuse(proto).model, level="fast")
    assert report.passed
    assert {check.gate for check in report.checks} >= {"G0", "G2"}


def test_a_mask_of_what_the_caches_say_nothing_of_keeps_its_own_extent() -> None:
    """That of an encoder's tokens, say: another input has it too."""
    proto = decoder("past", "encoder_tokens")
    states = onnx.helper.make_tensor_value_info("states", 1, ["batch", "encoder_tokens", 8])
    proto.graph.input.append(states)
    shapes = [f.extents for [f, *_] in Feeding(symbols={"encoder_tokens": 4}).feeds(proto, 2)]
    assert [each["attention_mask"][1] for each in shapes] == [4, 4]


def test_the_error_of_an_original_that_does_not_run_says_what_was_tried_and_what_to_try(
    shell: Shell, tmp_path: Path
) -> None:
    """No size that is drawn is a multiple of 4 in one input and of 6 in the other."""
    proto = model(
        f"f = Reshape(a, four) x = Add(f, b) {NORM}",
        inputs="float[rows,4,8] a, float[other,4,8] b",
        outputs="float[out,4,8] y",
        constants={"four": np.array([3, 4, 8])},
    )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    run = shell("fuse", path, "-o", "out.onnx")
    assert run.returncode == 4
    assert len(run.stderr.strip().splitlines()) == 1
    assert "feeds tried: a and 1 more [2, 4, 8]; " in run.stderr
    said = re.search(r"such as `(graphfuse [^`]*)`", run.stderr)
    assert said
    words = shlex.split(said[1])
    assert words[:2] == ["graphfuse", "fuse"]
    assert {"rows=1", "other=1"} <= set(words)
    # What is said is a command that is taken; with the right sizes it is all there is to it.
    sizes = [word.replace("=1", "=3") for word in words[1:]]
    assert shell(*sizes).returncode == 0
    alone = re.search(r"`(graphfuse [^`]*--validate sites)`", run.stderr)
    assert alone
    assert shell(*shlex.split(alone[1])[1:]).returncode == 0


def test_a_symbol_is_the_extent_of_all_inputs_and_of_every_draw() -> None:
    groups = Feeding(symbols={"S": 6}).feeds(residual(NORM), 3)
    shapes = [[feed.extents for feed in group] for group in groups]
    assert shapes[0] == [{"a": (2, 6, 8), "b": (2, 6, 8)}, {"a": (1, 6, 8), "b": (1, 6, 8)}]
    assert {each["b"][1] for group in shapes for each in group} == {6}
    assert groups[0][0].label == "seed 0, a 2x6x8, b 2x6x8, S 6"
    both = random_feeds(residual(NORM), symbols={"B": 3, "S": 5})
    assert {array.shape for array in both.values()} == {(3, 5, 8)}


def test_a_symbol_that_is_wrong_is_one_line() -> None:
    proto = residual(NORM)
    fused = graphfuse.fuse(proto).model
    with pytest.raises(graphfuse.UsageError, match=r"no input has an extent 'Q'; their .* B, S"):
        graphfuse.validate(proto, fused, feeds=graphfuse.Feeds(symbols={"Q": 1}))
    with pytest.raises(graphfuse.UsageError, match=r"'S' is given as 4, .* makes it 9"):
        graphfuse.validate(
            proto, fused, feeds=graphfuse.Feeds(symbols={"S": 4}, input_shapes={"a": (1, 9, 8)})
        )
    with pytest.raises(graphfuse.UsageError, match="below 0"):
        graphfuse.validate(proto, fused, feeds=graphfuse.Feeds(symbols={"S": -1}))
    with pytest.raises(graphfuse.UsageError, match="--symbol S says nothing"):
        graphfuse.validate(proto, fused, feeds=graphfuse.Feeds(symbols={"S": 1}, inputs={}))
    for text in ("S", "S=", "=3", "S=x", "S=1.5", f"S={10**13}"):
        with pytest.raises(graphfuse.UsageError, match="cannot read the symbol"):
            parse_symbols([text])
    with pytest.raises(graphfuse.UsageError, match="given twice"):
        parse_symbols(["S=1", "S=2"])
    assert parse_symbols(["a=b=2", "S=1"]) == {"a=b": 2, "S": 1}


COMMANDS = (
    ("fuse", BERT, "--dry-run"),
    ("unfuse", "fused.onnx", "--dry-run"),
    ("validate", BERT, BERT),
    ("scan", BERT, "--activations"),
    ("bench", BERT, BERT, "--seconds", "0", "--threads", "1", "--no-memory", "--no-profile"),
    ("bench", BERT, "--sites", "--seconds", "0", "--threads", "1"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_that_feeds_takes_symbols(
    command: tuple[str | Path, ...], shell: Shell, tmp_path: Path
) -> None:
    onnx.save(graphfuse.fuse(BERT).model, tmp_path / "fused.onnx")
    run = shell(*command, "--symbol", "batch=3")
    assert (run.returncode, run.stderr) == (0, "")
    wrong = shell(*command, "--symbol", "nothing=1")
    assert wrong.returncode == 2
    assert "no input has an extent 'nothing'" in wrong.stderr

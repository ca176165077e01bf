"""models/: blocks against PyTorch's own, sites by formula, exports, caches, worked examples."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from torch import nn

import graphfuse
from graphfuse.files.model_file import load
from graphfuse.integrations.pytorch import _Rounded
from graphfuse.validation.outputs import OutputJudge
from models import blocks, zoo
from models import export as exporting
from models.example import Example
from models.zoo import ZOO, build
from tests.campaigns import matrix
from tests.conftest import ROOT
from tests.support.eager import count_sites
from tests.support.graphs import DECOMPOSED_LAYER_NORM, DECOMPOSED_RMS_NORM, model

STATED = {
    "transformer": 10, "bert": 5, "gpt2": 5, "gpt3": 5, "llama": 4, "llama2": 4, "mistral": 4,
    "gemma": 4, "gemma2": 4, "t5": 10, "gpt-neox": 2, "opt": 5, "deep": 240, "stack-plain": 0,
    "stack-pre": 96, "stack-post": 96,
}  # fmt: skip


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", ZOO)
def test_sites_by_formula_and_in_eager_pytorch(name: str) -> None:
    architecture = ZOO[name]
    for layers in (None, 3):
        example = build(name, layers=layers)
        stated = architecture.sites(architecture.shape("tiny", layers).layers)
        assert count_sites(example.module, example.inputs) == stated
        if layers is None:
            assert stated == STATED[name]
    assert "L" in architecture.formula or architecture.formula == "0"


def test_published_shapes() -> None:
    """As the papers have them: 175 billion parameters, and none of them in memory."""
    billions = {"gpt3": 175, "llama2": 69, "mistral": 7.2, "t5": 11, "gemma2": 27}
    for name, size in billions.items():
        module = build(name, "published").module
        assert all(parameter.is_meta for parameter in module.parameters())
        count = sum(parameter.numel() for parameter in module.parameters()) / 1e9
        assert count == pytest.approx(size, rel=0.05), name
    assert ZOO["gpt3"].sites(ZOO["gpt3"].published.layers) == 193


def test_norms_are_those_of_pytorch() -> None:
    x = 3 * draw(4, 5, 16) + 7
    for mine, other in (
        (blocks.LayerNorm(16), nn.LayerNorm(16, 1e-6)),
        (blocks.RMSNorm(16), nn.RMSNorm(16, 1e-6)),
    ):
        with torch.no_grad():
            mine.gamma.copy_(draw(16))
            other.weight.copy_(mine.gamma)
            if isinstance(mine, blocks.LayerNorm):
                mine.beta.copy_(draw(16))
                other.bias.copy_(mine.beta)
        torch.testing.assert_close(mine(x), other(x))
        torch.testing.assert_close(mine.half()(x.half()), other(x).half(), rtol=5e-3, atol=5e-3)
    gemma, plain = blocks.OnePlusRMSNorm(16), nn.RMSNorm(16, 1e-6)
    with torch.no_grad():
        gemma.w.copy_(draw(16))
        plain.weight.copy_(1 + gemma.w)
    torch.testing.assert_close(gemma(x), plain(x))


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_pytorch(groups: int, causal: bool) -> None:
    attention = blocks.Attention(32, blocks.Heads(4, 8, groups, causal))
    x = draw(2, 6, 32)

    def split(part: torch.Tensor, count: int) -> torch.Tensor:
        return part.unflatten(-1, (count, 8)).transpose(1, 2)

    query = split(attention.query(x), 4)
    key, value = split(attention.key(x), groups), split(attention.value(x), groups)
    expected = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=causal, enable_gqa=True
    )
    expected = attention.output(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, blocks.Step()), expected)


def test_a_window_is_what_a_query_sees() -> None:
    attention = blocks.Attention(8, blocks.Heads(1, 8, window=3))
    x = draw(1, 9, 8)
    changed = x.clone()
    changed[0, 2] += 1
    same = (attention(x, blocks.Step()) == attention(changed, blocks.Step())).all(-1)[0]
    assert same.tolist() == [True, True, False, False, False, True, True, True, True]


def test_rotary_scores_depend_on_distance_alone() -> None:
    query, key = draw(1, 1, 1, 16), draw(1, 1, 1, 16) + 1
    near, far = (
        (blocks.rotate(query, torch.tensor([p + 3]), 16) * blocks.rotate(key, torch.tensor([p]), 16)).sum()
        for p in (0, 40)
    )  # fmt: skip
    torch.testing.assert_close(near, far)
    half = blocks.rotate(query, torch.tensor([5]), 8)
    assert torch.equal(half[..., 8:], query[..., 8:])
    assert not torch.equal(half[..., :8], query[..., :8])


def test_positions() -> None:
    table = blocks.sinusoids(2, 5, 8, draw(1))
    assert table[1, 1].item() == pytest.approx(np.sin(3 / 10000 ** (2 / 8)), abs=1e-6)
    assert table[1, 4 + 1].item() == pytest.approx(np.cos(3 / 10000 ** (2 / 8)), abs=1e-6)
    both, back = (blocks.RelativePositions(1, ways) for ways in (True, False))
    with torch.no_grad():
        for part in (both, back):
            part.table.copy_(torch.arange(32.0)[:, None])
    # T5's published buckets for distances 0, 1, 7, 8, 20 and 127, keys before the query.
    row = back(128)[0, 127]
    assert [int(row[127 - d]) for d in (0, 1, 7, 15, 16, 20, 127)] == [0, 1, 7, 15, 16, 17, 31]
    assert [int(both(9)[0, 4, k]) for k in (4, 3, 5)] == [0, 1, 17]


DECODERS = [name for name, architecture in ZOO.items() if architecture.decodes]


@pytest.mark.parametrize("name", DECODERS)
def test_caches_give_what_the_whole_sequence_gives(name: str) -> None:
    whole, cached = build(name).module, build(name, cache=True)
    ids = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(6))
    past = [value[:, :, :0] for key, value in cached.inputs.items() if key.startswith("past.")]
    with torch.no_grad():
        expected = whole(ids)
        logits = []
        for start, end in ((0, 5), (5, 6), (6, 9)):
            step, *past = cached.module(ids[:, start:end], *past)
            logits.append(step)
    torch.testing.assert_close(torch.cat(logits, 1), expected)


def test_what_does_not_decode_has_no_caches() -> None:
    with pytest.raises(ValueError, match="bert has no caches"):
        build("bert", cache=True)


SAMPLE = (
    matrix.Trial("gemma2", True, "torchscript", 11),
    matrix.Trial("t5", False, "torchscript", 11),
    matrix.Trial("transformer", False, "torchscript", 14),
    matrix.Trial("gpt-neox", False, "torchscript", 20),
    matrix.Trial("bert", False, "dynamo", 23),
    matrix.Trial("llama2", True, "torchscript", 17, "float16"),
)


@pytest.mark.parametrize("trial", SAMPLE, ids=str)
def test_a_sample_of_the_matrix(trial: matrix.Trial, tmp_path: Path) -> None:
    outcome = matrix.run(trial, tmp_path)
    assert outcome.status == matrix.PASSED, outcome.message
    assert outcome.sites == STATED[trial.name]


def test_the_matrix_names_what_is_not_exported(tmp_path: Path) -> None:
    outcome = matrix.run(matrix.Trial("stack-plain", False, "torchscript", 99), tmp_path)
    assert outcome.status == matrix.NOT_EXPORTED
    assert "99" in outcome.message or "opset" in outcome.message


def test_a_published_shape_is_exported_without_weights(tmp_path: Path) -> None:
    """One layer of GPT-3: 1.9 billion parameters, a few hundred kilobytes on the disk."""
    path = tmp_path / "gpt3.onnx"
    arguments = ["gpt3", "--size", "published", "--layers", "1", "-o", str(path)]
    assert exporting.main(arguments) == 0
    data = path.with_name("gpt3.onnx.data")
    assert data.stat().st_size > 9e9
    assert data.stat().st_blocks * 512 < 5e6
    result = graphfuse.optimize(path, tmp_path / "fused.onnx", level="sites")
    assert len(result.fused) == 3
    assert result.validation is not None
    assert result.validation.passed
    scale = next(t for t in result.model.graph.initializer if t.name == "layers.0.0.norm.gamma")
    assert list(scale.dims) == [12288]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        # mean 0.2, deviations 0, -0.1, 0.1, variance 0.02/3
        (DECOMPOSED_LAYER_NORM, [0.0, -0.1 / (0.02 / 3 + 1e-5) ** 0.5, 0.1 / (0.02 / 3 + 1e-5) ** 0.5]),
        # mean of squares (0.04 + 0.01 + 0.09)/3
        (DECOMPOSED_RMS_NORM, [v / (0.14 / 3 + 1e-5) ** 0.5 for v in (0.2, 0.1, 0.3)]),
    ],
    ids=["LayerNorm", "RMSNorm"],
)  # fmt: skip
def test_the_vector_of_three(norm: str, expected: list[float]) -> None:
    """[0.2, 0.1, 0.3], normalised by hand: (0, -1.2238, 1.2238) and (0.9257, 0.4629, 1.3886)."""
    graph = model(
        f"x = Add(a, b)\n{norm}",
        inputs="float[B,S,3] a, float[B,S,3] b",
        outputs="float[B,S,3] y",
        constants={"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)},
    )
    fused = graphfuse.fuse(graph)
    assert len(fused.fused) == 1
    feeds = {
        "a": np.array([[[0.1, 0.05, 0.2]]], np.float32),
        "b": np.array([[[0.1, 0.05, 0.1]]], np.float32),
    }
    for each in (graph, fused.model):
        session = ort.InferenceSession(each.SerializeToString(), graphfuse.session_options())
        np.testing.assert_allclose(session.run(None, feeds)[0][0, 0], expected, atol=2e-6)


def lively(example: Example) -> Example:
    """With blocks that outweigh the embeddings: a tied head would repeat one token for ever."""
    with torch.no_grad():
        for part in example.module.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(2)
    return example


def exact_step(module: nn.Module, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of a step in float64, in eager PyTorch."""
    values = [torch.from_numpy(value) for value in feeds.values()]
    values = [v.double() if v.is_floating_point() else v for v in values]
    with torch.no_grad():
        return module(*values)[0].numpy()


def within(rounded: _Rounded, exact: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """The acceptance rule for the logits of one step: G2, G3 and G4."""
    judge = OutputJudge(
        "logits",
        TensorProto.FLOAT,
        exact,
        [before],
        lambda: rounded.values("logits", exact),
        rounded.decides,
    )
    assert not [check for check in judge.checks(after, before, "a step") if not check.passed]


@pytest.mark.parametrize(
    ("name", "exporter"),
    [("gpt2", "torchscript"), pytest.param("llama", "dynamo", marks=pytest.mark.every)],
)
def test_64_greedy_tokens(name: str, exporter: str, tmp_path: Path) -> None:
    """Decoding with caches: the same tokens, and logits within the acceptance rule at each step."""
    example, twin = (lively(build(name, "small", cache=True)) for _ in range(2))
    path = tmp_path / "model.onnx"
    exporting.export(example, path, exporter)
    result = graphfuse.optimize(path, tmp_path / "fused.onnx")
    assert len(result.fused) == ZOO[name].sites(4)
    before = ort.InferenceSession(path)
    after = ort.InferenceSession(tmp_path / "fused.onnx", graphfuse.session_options())
    twin.module.double()
    loaded = load(path)
    caches = [key for key in example.inputs if key.startswith("past.")]
    empty = {key: example.inputs[key][:1, :, :0].numpy() for key in caches}
    states = {session: dict(empty) for session in (before, after)}
    ids = {session: np.array([[7, 3, 99, 250]]) for session in states}
    tokens: dict[ort.InferenceSession, list[int]] = {session: [] for session in states}
    for _ in range(64):
        feeds = {"ids": ids[before], **states[before]}
        same = after.run(None, feeds)[0]
        exact = exact_step(twin.module, feeds)
        for session, past in states.items():
            logits, *present = session.run(None, {"ids": ids[session], **past})
            states[session] = dict(zip(caches, present, strict=True))
            ids[session] = logits[:, -1:].argmax(-1)
            tokens[session].append(int(ids[session][0, 0]))
            if session is before:
                rounded = _Rounded(loaded, feeds)
                within(rounded, exact, logits, same)
    assert tokens[before] == tokens[after]
    assert len(set(tokens[before])) > 4


def test_a_hugging_face_model_by_its_configuration(tmp_path: Path) -> None:
    """The road of the README: a transformers model, dynamic shapes, one call."""
    from torch.export import Dim
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    ids = torch.arange(14).reshape(2, 7)
    path = tmp_path / "llama.onnx"
    result = graphfuse.export(
        LlamaModel(config).eval(),
        (ids,),
        path,
        dynamic_shapes={"input_ids": {0: Dim("batch"), 1: Dim("sequence")}},
    )
    assert len(result.fused) == 4
    (one,) = (ort.InferenceSession(path).run(None, {"input_ids": np.zeros((3, n), np.int64)})
              for n in (11,))  # fmt: skip
    assert one[0].shape == (3, 11, 32)


def test_the_package_does_not_import_models() -> None:
    """models/ is not in the wheel."""
    for path in (ROOT / "graphfuse").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "models" for name in names), path


def test_export_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["-o", str(tmp_path / "m.onnx")]
    for words in (
        ["bert", "--cache"],
        ["hf-bert", "--cache"],
        ["minilm", "--size", "small"],
        ["bert", "--layers", "0"],
        ["bert", "--layers", "-3"],
    ):
        with pytest.raises(SystemExit):
            exporting.main([*words, *output])
    for place in (tmp_path, tmp_path / "missing" / "m.onnx"):
        with pytest.raises(SystemExit):
            exporting.main(["bert", "-o", str(place)])
    capsys.readouterr()
    published = ["bert", "--size", "published", "--layers", "1"]
    for words, text in (
        (["bert", "--opset", "5"], "opset 18 where 5 was asked for"),
        ([*published, "--opset", "17"], "opset 18 where 17 was asked for"),
        ([*published, "--exporter", "torchscript"], "cannot trace meta tensors"),
        (["bert", "--exporter", "torchscript", "--opset", "99"], "99"),
    ):
        assert exporting.main([*words, *output]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("python -m models.export: error: ")
        assert text in line
    with pytest.raises(ValueError, match="opset 18 where 12 was asked for"):
        exporting.export(build("stack-plain", layers=1), tmp_path / "m.onnx", "dynamo", 12)
    with pytest.raises(ValueError, match="TorchScript cannot trace meta tensors"):
        exporting.export(zoo.build("bert", "published"), tmp_path / "m.onnx", "torchscript")
    assert not list(tmp_path.iterdir())

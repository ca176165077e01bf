"""Whole exports of Hugging Face's, fused as folders: they load as before, and compute the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphfuse
from tests.conftest import Shell
from tests.support.silence import silence

pytest.importorskip("torch", reason="exports from PyTorch, which is not installed")

from tests.support.export_folders import LAYERS, SOURCE, clip, empty_caches, whisper

STEPS = 8


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="exports of Hugging Face's transformers")
    folder = tmp_path_factory.mktemp("exports")
    with silence():
        for make in (whisper, clip):
            (folder / make.__name__).mkdir()
            make(folder / make.__name__)
    return folder


def session(path: Path, kernels: bool) -> ort.InferenceSession:
    options = graphfuse.session_options(kernels=kernels)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def generated(encoder: Path, decoder: Path, kernels: bool) -> tuple[list[int], np.ndarray]:
    """The greedy tokens of one feed, and all their logits."""
    features = np.random.default_rng(3).normal(size=(1, 8, 2 * SOURCE)).astype(np.float32)
    (states,) = session(encoder, kernels).run(None, {"input_features": features})
    run = session(decoder, kernels)
    names = [each.name for each in run.get_outputs()]
    caches: Mapping[str, Any] = empty_caches(1)
    tokens, logits = [1], []
    for step in range(STEPS):
        feeds = {
            "input_ids": np.array([tokens[-1:]]),
            "encoder_hidden_states": states,
            "use_cache_branch": np.array([step > 0]),
            **caches,
        }
        taken = {each.name for each in run.get_inputs()}
        values = run.run(None, {name: feeds[name] for name in taken})
        found = dict(zip(names, values, strict=True))
        logits.append(found.pop("logits"))
        tokens.append(int(logits[-1][0, -1].argmax()))
        caches = {name.replace("present", "past_key_values"): v for name, v in found.items()}
    return tokens, np.concatenate(logits, 1)


def test_whisper_with_a_merged_decoder(exports: Path, tmp_path: Path, shell: Shell) -> None:
    source, fused = exports / "whisper", tmp_path / "fused"
    run = shell("fuse", source, "-o", fused, "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    names = ["decoder_model_merged.onnx", "encoder_model.onnx"]
    assert [model["name"] for model in document["models"]] == names
    # A sum of embeddings, and in a layer of the decoder three, in each branch; of the encoder two.
    sites = 1 + 3 * LAYERS, 1 + 2 * LAYERS
    assert [len(model["fused"]) for model in document["models"]] == [2 * sites[0], sites[1]]
    assert all(model["validation"]["passed"] for model in document["models"])
    assert sorted(path.name for path in fused.iterdir()) == [
        "config.json", "decoder_model_merged_graphfuse.onnx", "encoder_model_graphfuse.onnx",
        "preprocessor_config.json",
    ]  # fmt: skip
    wanted = generated(source / names[1], source / names[0], False)
    files = [fused / name.replace(".onnx", "_graphfuse.onnx") for name in names]
    assert len(set(wanted[0])) > 2
    for kernels in (True, False):
        tokens, logits = generated(files[1], files[0], kernels)
        assert tokens == wanted[0]
        np.testing.assert_allclose(logits, wanted[1], rtol=0, atol=1e-5 * np.abs(wanted[1]).max())
    branches = [each.g for each in onnx.load(files[0]).graph.node[-1].attribute]
    counts = [sum(node.domain == "graphfuse" for node in branch.node) for branch in branches]
    assert counts == [sites[0], sites[0]]


def test_clip_with_two_models_in_a_subfolder(exports: Path, tmp_path: Path) -> None:
    result = graphfuse.fuse_folder(exports / "clip", tmp_path / "fused")
    assert (result.exit_code, result.failed) == (0, ())
    assert [model.name for model in result.models] == [
        "onnx/text_model.onnx",
        "onnx/vision_model.onnx",
    ]
    # Both sum their embeddings; vision's last norm reads one token of a sum.
    assert [model.fused for model in result.models] == [1 + 2 * LAYERS, 2 * LAYERS]
    draw = np.random.default_rng(5)
    for model in result.models:
        runs = [session(Path(path), True) for path in (model.path, model.written)]
        kind = runs[0].get_inputs()[0]
        pixels = draw.normal(size=(2, 3, 16, 16)).astype(np.float32)
        feed = {kind.name: pixels if kind.name == "pixel_values" else draw.integers(3, 96, (2, 7))}
        for one, other in zip(*(run.run(None, feed) for run in runs), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)

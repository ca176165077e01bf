"""`graphfuse export`: programs of torch.export, folders of Hugging Face, functions."""

from __future__ import annotations

import json
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
import torch
from torch import Tensor, nn
from torch.export import Dim

import graphfuse
from graphfuse.integrations.exporting import export_source
from graphfuse.records.progress import SILENT
from models import blocks
from tests.conftest import ROOT, Shell, files_of
from tests.support.silence import silence

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


class Block(nn.Module):
    """Two inputs, a residual Add and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.norm = blocks.LayerNorm(16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + self.inner(y))


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)


def saved(path: Path, dynamic: bool) -> nn.Module:
    torch.manual_seed(0)
    module = Block().eval()
    axes = {0: Dim("batch"), 1: Dim("length")}
    shapes = {"x": axes, "y": axes} if dynamic else None
    program = torch.export.export(module, pair(2, 7, 16), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return module


def exported(source: str, output: Path | None, dynamic: Any = None, **options: Any) -> Any:
    """What the command does, in this process: torch takes seconds to load."""
    given = {"dtype": None, "seed": 0, **options}
    file = None if output is None else graphfuse.Output(output)
    with silence():
        return export_source(source, file, dynamic=dynamic, progress=SILENT, **given)


def axes_of(path: Path) -> dict[str, list[Any]]:
    graph = onnx.load(path).graph
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.input
    }


@pytest.mark.parametrize("dynamic", [True, pytest.param(False, marks=pytest.mark.every)])
def test_a_program(dynamic: bool, shell: Shell, tmp_path: Path) -> None:
    module = saved(tmp_path / "block.pt2", dynamic)
    run = shell("export", "block.pt2", "-o", "fused.onnx", "--json")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    document = json.loads(run.stdout)
    assert document["command"] == "export"
    assert (document["model"], len(document["fused"])) == ("block.pt2", 1)
    against = [c for c in document["validation"]["checks"] if c["where"].endswith("eager PyTorch")]
    assert against
    assert all(check["passed"] for check in against)
    assert any("float64 twin in PyTorch" in note for note in document["validation"]["notes"])
    # What PyTorch wrote is gone: no command reads it again.
    assert document["read"] == []
    assert all(check["repeat"] == "" for check in document["validation"]["checks"])
    assert files_of(tmp_path) == ["block.pt2", "fused.onnx"]
    x, y = pair(*((3, 4, 16) if dynamic else (2, 7, 16)))
    given = {"x": x.numpy(), "y": y.numpy()}
    after = ort.InferenceSession(tmp_path / "fused.onnx").run(None, given)[0]
    with torch.no_grad():
        np.testing.assert_allclose(after, module(x, y).numpy(), rtol=1e-4, atol=1e-5)


def test_a_program_in_the_library(tmp_path: Path) -> None:
    saved(tmp_path / "block.pt2", dynamic=True)
    program = torch.export.load(tmp_path / "block.pt2")
    with silence():
        result = graphfuse.export(program, None, tmp_path / "fused.onnx")
        assert len(result.fused) == 1
        # Other arguments than the program's own; nothing is written.
        result = graphfuse.export(program, pair(3, 5, 16), None)
    assert result.validation is not None
    assert result.validation.passed
    assert result.written == ()
    with pytest.raises(graphfuse.UsageError, match="has its own dynamic shapes"):
        graphfuse.export(program, None, None, dynamic_shapes={"x": None, "y": None})
    with pytest.raises(graphfuse.UsageError, match="args has type NoneType"):
        graphfuse.export(Block().eval(), None, None)
    assert files_of(tmp_path) == ["block.pt2", "fused.onnx"]


COMMON = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**COMMON))


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    config = transformers.LlamaConfig(**COMMON, num_key_value_heads=2)
    # As most of them are saved.
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=32, patch_size=8,
    )  # fmt: skip
    return transformers.ViTModel(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def whisper_encoder() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=96, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50,
        num_mel_bins=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperModel(config).get_encoder()


TEXT = ["batch", "sequence"]
FOLDERS: dict[str, tuple[Callable[[], Any], int, dict[str, list[Any]], list[str]]] = {
    "bert": (
        bert, 5, {"input_ids": TEXT, "attention_mask": TEXT}, ["last_hidden_state", "pooler_output"],
    ),
    "gpt2": (gpt2, 5, {"input_ids": TEXT, "attention_mask": TEXT}, ["logits"]),
    "llama": (llama, 4, {"input_ids": TEXT, "attention_mask": TEXT}, ["logits"]),
    "vit": (
        vit, 5, {"pixel_values": ["batch", 3, 32, 32]}, ["last_hidden_state", "pooler_output"],
    ),
    "t5": (
        t5, 5,
        {
            "input_ids": TEXT, "attention_mask": TEXT,
            "decoder_input_ids": ["batch", "decoder_sequence"],
        },
        ["logits", "encoder_last_hidden_state"],
    ),
    "whisper-encoder": (
        whisper_encoder, 5, {"input_features": ["batch", 16, 100]}, ["last_hidden_state"],
    ),
}  # fmt: skip


def folder_of(name: str, where: Path) -> Path:
    with silence():
        torch.manual_seed(0)
        FOLDERS[name][0]().save_pretrained(where / name)
    return where / name


@pytest.mark.parametrize(
    "name",
    [name if name == "t5" else pytest.param(name, marks=pytest.mark.every) for name in FOLDERS],
)
def test_a_folder(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    _, sites, axes, outputs = FOLDERS[name]
    result = exported(str(folder), tmp_path / "fused.onnx", min_fused=sites)
    assert len(result.fused) == sites
    assert result.validation.passed
    assert axes_of(tmp_path / "fused.onnx") == axes
    # Extents that no example had, beside transformers itself.
    given = {}
    generator = np.random.default_rng(1)
    for key, shape in axes.items():
        known = {"batch": 3, "sequence": 9, "decoder_sequence": 4}
        size = [known.get(each, each) for each in shape]
        ids = key.endswith(("_ids", "_mask"))
        given[key] = (
            np.ones(size, np.int64) if key.endswith("_mask")
            else generator.integers(3, 96, size) if ids
            else generator.normal(size=size).astype(np.float32)
        )  # fmt: skip
    session = ort.InferenceSession(tmp_path / "fused.onnx", graphfuse.session_options())
    assert [each.name for each in session.get_outputs()] == outputs
    after = session.run(outputs, given)
    kind = getattr(
        transformers, json.loads((folder / "config.json").read_text())["architectures"][0], None
    )
    if kind is None:
        return
    with silence(), torch.no_grad():
        model = kind.from_pretrained(folder, local_files_only=True).float().eval()
        before = model(**{key: torch.from_numpy(value) for key, value in given.items()})
    for output, found in zip(outputs, after, strict=True):
        np.testing.assert_allclose(found, before[output].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.every
def test_a_folder_in_float16_without_symbols(shell: Shell, tmp_path: Path) -> None:
    folder_of("bert", tmp_path)
    run = shell(
        "export", "bert", "-o", "fused.onnx", "--dtype", "float16", "--dynamic", "none", "--opset", "20",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert axes_of(tmp_path / "fused.onnx") == {"input_ids": [2, 7], "attention_mask": [2, 7]}
    model = onnx.load(tmp_path / "fused.onnx")
    assert {each.version for each in model.opset_import if not each.domain} == {20}
    types = {each.type.tensor_type.elem_type for each in model.graph.output}
    assert types == {onnx.TensorProto.FLOAT16}


OFFLINE = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("a request to the network")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.create_connection = refuse
sys.argv = ["graphfuse", *{words!r}]
import graphfuse.cli
graphfuse.cli.main()
"""


@pytest.mark.parametrize(
    "missing", [("generation_config.json",), pytest.param((), marks=pytest.mark.every)]
)
def test_nothing_is_fetched(missing: tuple[str, ...], tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path)
    for name in missing:
        (folder / name).unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_OFFLINE")
    run = subprocess.run(
        [sys.executable, "-c", OFFLINE.format(words=["export", "gpt2", "--dry-run"])],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert files_of(tmp_path) == ["gpt2"]

"""Folders as Hugging Face's exports have them, of small random models: Whisper, CLIP.

Whisper's decoder is merged as optimum merges decoders: one If, whose branches are the decoder that
begins and the one that goes on from keys and values, and `use_cache_branch` says which.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from models.example import Example, Flat, randomize_norms
from models.export import export

LAYERS, HEADS, WIDTH, VOCABULARY, SOURCE = 2, 4, 32, 96, 12
KINDS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
CACHES = [f"{layer}.{kind}" for layer in range(LAYERS) for kind in KINDS]


class Decoder(nn.Module):
    """Whisper's decoder and head; takes keys and values as tensors, if it has `past`."""

    def __init__(self, model: Any, past: bool) -> None:
        super().__init__()
        self.model = model
        self.past = past

    def forward(self, ids: Tensor, source: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        from transformers import DynamicCache, EncoderDecoderCache

        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for layer in range(LAYERS if self.past else 0):
            key, value, cross_key, cross_value = past[4 * layer : 4 * layer + 4]
            cache.self_attention_cache.update(key, value, layer)
            cache.cross_attention_cache.update(cross_key, cross_value, layer)
            cache.is_updated[layer] = True
        found = self.model.model.decoder(
            input_ids=ids, encoder_hidden_states=source, past_key_values=cache, use_cache=True
        )
        logits = self.model.proj_out(found.last_hidden_state)
        pairs = zip(
            *(each.layers for each in (cache.self_attention_cache, cache.cross_attention_cache)),
            strict=True,
        )
        return (logits, *(x for pair in pairs for each in pair for x in (each.keys, each.values)))


def whisper(folder: Path) -> None:
    """encoder_model.onnx, decoder_model_merged.onnx, and files that a pipeline reads."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH, num_mel_bins=8, max_source_positions=SOURCE,
        max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, attn_implementation="eager",
    )  # fmt: skip
    model = _drawn(WhisperForConditionalGeneration(config))
    features = {"input_features": torch.randn(2, 8, 2 * SOURCE)}
    encoder = Flat(model.model.encoder, ["input_features"], ["last_hidden_state"])
    axes = {"input_features": {0: "batch"}}
    export(
        Example(encoder, features, ["last_hidden_state"], axes),
        folder / "encoder_model.onnx",
        "torchscript",
    )
    first, later = (_decoder(model, past, folder / f"{past}.onnx") for past in (False, True))
    onnx.save(merged(first, later), folder / "decoder_model_merged.onnx")
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 8}))


def _decoder(model: Any, past: bool, path: Path) -> onnx.ModelProto:
    inputs = {
        "input_ids": torch.randint(3, VOCABULARY, (2, 1 if past else 3)),
        "encoder_hidden_states": torch.randn(2, SOURCE, WIDTH),
    }
    axes = {"input_ids": {0: "batch", 1: "decoder"}, "encoder_hidden_states": {0: "batch"}}
    for name in CACHES if past else ():
        length = 4 if "decoder" in name else SOURCE
        inputs[f"past_key_values.{name}"] = torch.randn(2, HEADS, length, WIDTH // HEADS)
        axes[f"past_key_values.{name}"] = {0: "batch", **({2: "past"} if "decoder" in name else {})}
    outputs = ["logits", *(f"present.{name}" for name in CACHES)]
    export(Example(Decoder(model, past), inputs, outputs, axes), path, "torchscript")
    made = onnx.load(path)
    path.unlink()
    return made


def merged(first: onnx.ModelProto, later: onnx.ModelProto) -> onnx.ModelProto:
    """One model of two: weights once, outside of both branches, inputs of both."""
    weights: dict[str, TensorProto] = {}
    bodies: list[onnx.GraphProto] = []
    for prefix, model in (("first/", first), ("later/", later)):
        outside = {value.name: value.name for value in model.graph.input} | {"": ""}
        for weight in model.graph.initializer:
            # The same number in a name is not always the same weight.
            name = weight.name
            if weights.get(name, weight) != weight:
                name = f"{prefix}{name}"
            outside[weight.name] = name
            weights.setdefault(name, weight).name = name
        body = _renamed(model.graph, prefix, outside)
        del body.initializer[:], body.input[:], body.value_info[:]
        bodies.append(body)
    names = [value.name for value in first.graph.output]
    branches = dict(zip(("else_branch", "then_branch"), bodies, strict=True))
    node = helper.make_node("If", ["use_cache_branch"], names, name="optimum::if", **branches)
    asked = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    for value, old in zip(outputs, later.graph.output, strict=True):
        rank = len(old.type.tensor_type.shape.dim)
        value.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [None] * rank))
    known = {value.name: value for model in (first, later) for value in model.graph.input}
    inputs = [*known.values(), asked]
    graph = helper.make_graph([node], "merged", inputs, outputs, [*weights.values()])
    return helper.make_model(graph, opset_imports=later.opset_import, ir_version=8)


def _renamed(graph: onnx.GraphProto, prefix: str, outside: Mapping[str, str]) -> onnx.GraphProto:
    """A graph as a body: its own names are told from those of the other branch."""
    assert not any(each.HasField("g") for node in graph.node for each in node.attribute)
    body = onnx.GraphProto()
    body.CopyFrom(graph)
    for node in body.node:
        node.name = f"{prefix}{node.name}"
        for names in (node.input, node.output):
            names[:] = [outside.get(name, f"{prefix}{name}") for name in names]
    for value in body.output:
        value.name = f"{prefix}{value.name}"
    return body


def clip(folder: Path) -> None:
    """onnx/text_model.onnx and onnx/vision_model.onnx, as transformers.js has them."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    sizes = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "attn_implementation": "eager",
    }  # fmt: skip
    (folder / "onnx").mkdir()
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, **sizes
    )
    ids = {"input_ids": torch.randint(3, VOCABULARY, (2, 7))}
    vision = CLIPVisionConfig(image_size=16, patch_size=4, **sizes)
    pixels = {"pixel_values": torch.randn(2, 3, 16, 16)}
    outputs = ["last_hidden_state", "pooler_output"]
    for name, model, inputs in (
        ("text_model", CLIPTextModel(config), ids),
        ("vision_model", CLIPVisionModel(vision), pixels),
    ):
        axes = {key: {0: "batch"} for key in inputs}
        example = Example(Flat(_drawn(model), list(inputs), outputs), inputs, outputs, axes)
        export(example, folder / "onnx" / f"{name}.onnx", "torchscript")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))


def _drawn(model: Any) -> Any:
    """A model whose norms are no identities, and whose logits are not nearly alike."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.data.normal_(0, 0.2)
    randomize_norms(model, 0)
    return model.eval()


def empty_caches(batch: int) -> Mapping[str, Any]:
    """What the merged decoder takes as keys and values when it begins."""
    import numpy as np

    shapes = {n: (batch, HEADS, 0 if "decoder" in n else SOURCE, WIDTH // HEADS) for n in CACHES}
    return {f"past_key_values.{n}": np.zeros(s, np.float32) for n, s in shapes.items()}

"""What a row of the zoo is, and how a row becomes an `Example`: a module with its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.example import Axes, Example, Flat, randomize_norms

VOCABULARY, HIDDEN, LAYERS, HEADS = 96, 32, 2, 4
BATCH, SEQUENCE, TARGET = 2, 7, 5
IMAGE, PATCH = 32, 8

Inputs = dict[str, tuple[Tensor, Axes]]
"""Input tensors by name, each with its dynamic axes."""


@dataclass(frozen=True)
class Row:
    """An architecture: its configuration and model class, what it takes and what it yields.

    `inputs` is a key of `INPUTS`. Without `dynamic` every extent is the example's: what exporters
    cannot keep symbolic.
    """

    config: str
    model: str
    values: Mapping[str, Any]
    inputs: str = "text"
    outputs: tuple[str, ...] = ()
    dynamic: bool = True


def sized(**more: Any) -> dict[str, Any]:
    """The usual names of a configuration's sizes, all small. A value of ... removes a name."""
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": "eager",
        **more,
    }
    return {name: value for name, value in values.items() if value is not ...}


def causal(**more: Any) -> dict[str, Any]:
    """The sizes of a decoder with grouped queries."""
    grouped = {"num_key_value_heads": 2, "head_dim": HIDDEN // HEADS, "use_cache": False}
    return sized(**{**grouped, **more})


def paired(**more: Any) -> dict[str, Any]:
    """The sizes of an encoder and a decoder, in BART's names."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", 2 * HIDDEN))
    }
    return sized(
        **{
            "hidden_size": ...,
            "num_hidden_layers": ...,
            "num_attention_heads": ...,
            "d_model": HIDDEN,
            "use_cache": False,
            "decoder_start_token_id": 2,
            **sides,
            **more,
        }
    )


def vision(**more: Any) -> dict[str, Any]:
    """The sizes of an encoder of image patches."""
    sizes = {"vocab_size": ..., "image_size": IMAGE, "patch_size": PATCH, "num_channels": 3}
    return sized(**{**sizes, **more})


def _ids(length: int, seed: int = 1) -> Tensor:
    """Token ids beyond the special ones: those shift positions or are masked."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (BATCH, length), generator=generator)


def _noise(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(2))


def _tokens() -> Inputs:
    return {"input_ids": (_ids(SEQUENCE), {0: "batch", 1: "sequence"})}


def _text() -> Inputs:
    mask = torch.ones(BATCH, SEQUENCE, dtype=torch.long)
    return {**_tokens(), "attention_mask": (mask, {0: "batch", 1: "sequence"})}


def _target() -> Inputs:
    return {"decoder_input_ids": (_ids(TARGET, 3), {0: "batch", 1: "target"})}


def _boxes() -> Inputs:
    boxes = torch.tensor([1, 2, 8, 9]).expand(BATCH, SEQUENCE, 4).contiguous()
    return {**_text(), "bbox": (boxes, {0: "batch", 1: "sequence"})}


def _image() -> Inputs:
    return {"pixel_values": (_noise(3, IMAGE, IMAGE), {0: "batch"})}


def _video() -> Inputs:
    return {"pixel_values": (_noise(2, 3, IMAGE, IMAGE), {0: "batch"})}


def _wave() -> Inputs:
    return {"input_values": (_noise(400), {0: "batch"})}


def _mel(name: str, *shape: int) -> Callable[[], Inputs]:
    return lambda: {name: (_noise(*shape), {0: "batch"})}


INPUTS: Mapping[str, Callable[[], Inputs]] = {
    "tokens": _tokens,
    "text": _text,
    "boxes": _boxes,
    "text to text": lambda: {**_text(), **_target()},
    "image": _image,
    "video": _video,
    "image and text": lambda: {**_text(), **_image()},
    "wave": _wave,
    "wave to text": lambda: {**_wave(), **_target()},
    "long wave to text": lambda: {**_mel("input_values", 1600)(), **_target()},
    "spectrogram": _mel("input_values", 24, 16),
    "frames": _mel("input_features", 24, 16),
    "clap": _mel("input_features", 1, 64, 16),
    "speech to text": lambda: {**_mel("input_features", 8, 24)(), **_target()},
    "frames to text": lambda: {**_mel("input_features", 24, 8)(), **_target()},
    "series": _mel("past_values", 32, 3),
}


def build_row(row: Row, seed: int = 0) -> Example:
    """Build a row's module with seeded random weights, norms' parameters included."""
    import transformers

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # Configurations this small make some models warn about unusual values.
        warnings.simplefilter("ignore")
        config = getattr(transformers, row.config)(**row.values)
        module = getattr(transformers, row.model)(config).eval()
    randomize_norms(module, seed)
    inputs = INPUTS[row.inputs]()
    outputs = list(row.outputs) or [_output(row.model)]
    axes = {name: axes for name, (_, axes) in inputs.items()} if row.dynamic else {}
    tensors = {name: tensor for name, (tensor, _) in inputs.items()}
    return Example(Flat(module, list(inputs), outputs).eval(), tensors, outputs, axes)


def _output(model: str) -> str:
    heads = ("LM", "LMHeadModel", "Generation", "CTC", "Classification")
    return "logits" if model.endswith(heads) else "last_hidden_state"

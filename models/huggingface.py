"""Transformers as their users have them: Hugging Face's and torch.nn's, small and random.

Hugging Face models are built from configurations, so nothing is downloaded; the widths are small
enough for a test and every kind of layer is there. `ARCHITECTURES` maps a name to a function that
gives an `Example`. The same architectures from their equations are in `models.zoo`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.example import Example, Flat, randomize_norms

VOCABULARY = 96
HIDDEN = 32
LAYERS = 2
HEADS = 4
BATCH, SEQUENCE = 2, 7


def _text(model: nn.Module, outputs: list[str], mask: bool = True, **more: Tensor) -> Example:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (BATCH, SEQUENCE), generator=generator)
    inputs = {"input_ids": ids}
    if mask:
        inputs["attention_mask"] = torch.ones_like(ids)
    inputs.update(more)
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Example(Flat(model, list(inputs), outputs), inputs, outputs, axes)


def _common(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 64,
        "attn_implementation": "eager",
        **more,
    }


def _causal(**more: Any) -> dict[str, Any]:
    return _common(num_key_value_heads=2, head_dim=HIDDEN // HEADS, use_cache=False, **more)


def bert() -> Example:
    """BERT: post-norm encoder, and a norm after the sum of its embeddings."""
    from transformers import BertConfig, BertModel

    return _text(BertModel(BertConfig(**_common())), ["last_hidden_state", "pooler_output"])


def gpt2() -> Example:
    """GPT-2: pre-norm decoder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=64,
        use_cache=False,
        attn_implementation="eager",
    )
    return _text(GPT2LMHeadModel(config), ["logits"])


def llama() -> Example:
    """LLaMA: pre-norm decoder with RMSNorm and grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _text(LlamaForCausalLM(LlamaConfig(**_causal())), ["logits"])


def mistral() -> Example:
    """Mistral: as LLaMA, with sliding attention."""
    from transformers import MistralConfig, MistralForCausalLM

    return _text(MistralForCausalLM(MistralConfig(**_causal())), ["logits"])


def gemma() -> Example:
    """Gemma: RMSNorm whose scale is 1 + weight, computed in float32."""
    from transformers import GemmaConfig, GemmaForCausalLM

    return _text(GemmaForCausalLM(GemmaConfig(**_causal())), ["logits"])


def t5() -> Example:
    """T5: encoder-decoder with RMSNorm and relative positions."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        d_kv=HIDDEN // HEADS,
        d_ff=2 * HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        use_cache=False,
        decoder_start_token_id=0,
    )
    ids = torch.arange(BATCH * 5).reshape(BATCH, 5)
    example = _text(T5ForConditionalGeneration(config), ["logits"], decoder_input_ids=ids)
    example.axes["decoder_input_ids"] = {0: "batch", 1: "target"}
    return example


def opt() -> Example:
    """OPT: pre-norm decoder that flattens its sums before a norm reads them."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        ffn_dim=2 * HIDDEN,
        max_position_embeddings=64,
        word_embed_proj_dim=HIDDEN,
        use_cache=False,
        attn_implementation="eager",
    )
    return _text(OPTForCausalLM(config), ["logits"])


def vit() -> Example:
    """ViT: pre-norm vision encoder on patches."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        image_size=16,
        patch_size=4,
        attn_implementation="eager",
    )
    inputs = {"pixel_values": torch.randn(BATCH, 3, 16, 16)}
    outputs = ["last_hidden_state"]
    module = Flat(ViTModel(config), ["pixel_values"], outputs)
    return Example(module, inputs, outputs, {"pixel_values": {0: "batch"}})


def whisper() -> Example:
    """Whisper: speech encoder-decoder, pre-norm."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * HIDDEN,
        decoder_ffn_dim=2 * HIDDEN,
        num_mel_bins=8,
        max_source_positions=12,
        max_target_positions=16,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation="eager",
    )
    inputs = {
        "input_features": torch.randn(BATCH, 8, 24),
        "decoder_input_ids": torch.randint(0, VOCABULARY, (BATCH, 5)),
    }
    outputs = ["last_hidden_state"]
    axes = {"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "target"}}
    return Example(Flat(WhisperModel(config), list(inputs), outputs), inputs, outputs, axes)


def transformer_encoder(norm_first: bool) -> Example:
    """torch.nn.TransformerEncoder, pre-norm or post-norm, with a last norm."""
    layer = nn.TransformerEncoderLayer(
        HIDDEN, HEADS, 2 * HIDDEN, dropout=0.0, norm_first=norm_first, batch_first=True
    )
    module = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(HIDDEN), enable_nested_tensor=False)
    inputs = {"x": torch.randn(BATCH, SEQUENCE, HIDDEN)}
    return Example(module, inputs, ["y"], {"x": {0: "batch", 1: "sequence"}})


class EncoderDecoder(nn.Module):
    """torch.nn.Transformer with its two inputs."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.transformer = nn.Transformer(
            HIDDEN,
            HEADS,
            LAYERS,
            LAYERS,
            2 * HIDDEN,
            dropout=0.0,
            norm_first=norm_first,
            batch_first=True,
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.transformer(source, target)


def transformer(norm_first: bool) -> Example:
    """torch.nn.Transformer: the original encoder-decoder (post-norm), or pre-norm."""
    inputs = {
        "source": torch.randn(BATCH, SEQUENCE, HIDDEN),
        "target": torch.randn(BATCH, 5, HIDDEN),
    }
    axes = {"source": {0: "batch", 1: "sequence"}, "target": {0: "batch", 1: "length"}}
    return Example(EncoderDecoder(norm_first), inputs, ["y"], axes)


ARCHITECTURES: Mapping[str, Callable[[], Example]] = {
    "hf-bert": bert,
    "hf-gpt2": gpt2,
    "hf-llama": llama,
    "hf-mistral": mistral,
    "hf-gemma": gemma,
    "hf-t5": t5,
    "hf-opt": opt,
    "hf-vit": vit,
    "hf-whisper": whisper,
    "torch-encoder-pre": lambda: transformer_encoder(True),
    "torch-encoder-post": lambda: transformer_encoder(False),
    "torch-transformer-pre": lambda: transformer(True),
    "torch-transformer-post": lambda: transformer(False),
}


def build(name: str, seed: int = 0) -> Example:
    """Build an architecture with seeded random weights, norms' parameters included."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # nn.Transformer says that it has no nested tensors; it is not asked for any.
        warnings.simplefilter("ignore", UserWarning)
        example = ARCHITECTURES[name]()
    example.module.eval()
    randomize_norms(example.module, seed)
    return example

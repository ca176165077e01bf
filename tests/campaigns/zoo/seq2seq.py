"""Encoder-decoders of text."""

from __future__ import annotations

from typing import Any

from tests.campaigns.zoo.rows import HEADS, HIDDEN, LAYERS, Row, paired, sized


def t5(**more: Any) -> dict[str, Any]:
    """The sizes of an encoder-decoder in T5's names."""
    return sized(
        hidden_size=...,
        num_hidden_layers=...,
        num_attention_heads=...,
        d_model=HIDDEN,
        d_kv=HIDDEN // HEADS,
        d_ff=2 * HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        use_cache=False,
        decoder_start_token_id=0,
        **more,
    )


def _pair(name: str, values: dict[str, Any], dynamic: bool = True) -> Row:
    model = f"{name}ForConditionalGeneration"
    return Row(f"{name}Config", model, values, "text to text", dynamic=dynamic)


SEQ2SEQ = {
    "bart": _pair("Bart", paired()),
    "bigbird-pegasus": _pair("BigBirdPegasus", paired(attention_type="original_full")),
    "blenderbot": _pair("Blenderbot", paired()),
    "blenderbot-small": _pair("BlenderbotSmall", paired()),
    "fsmt": _pair("FSMT", paired(src_vocab_size=96, tgt_vocab_size=96, vocab_size=...)),
    "led": _pair(
        "LED",
        paired(
            max_encoder_position_embeddings=64,
            max_decoder_position_embeddings=64,
            attention_window=4,
        ),
        dynamic=False,
    ),
    "longt5": _pair("LongT5", t5(local_radius=4, encoder_attention_type="local"), dynamic=False),
    "m2m100": _pair("M2M100", paired()),
    "marian": Row("MarianConfig", "MarianMTModel", paired(), "text to text", ("logits",)),
    "mbart": _pair("MBart", paired()),
    "mt5": _pair("MT5", t5(feed_forward_proj="gated-gelu")),
    "mvp": _pair("Mvp", paired()),
    "nllb-moe": _pair(
        "NllbMoe",
        paired(
            num_experts=4,
            encoder_sparse_step=2,
            decoder_sparse_step=2,
            experts_implementation="batched_mm",
        ),
    ),
    "pegasus": _pair("Pegasus", paired()),
    "pegasus-x": _pair("PegasusX", paired(block_size=4, num_global_tokens=2), dynamic=False),
    "plbart": _pair("PLBart", paired()),
    "prophetnet": _pair(
        "ProphetNet",
        sized(
            num_hidden_layers=...,
            num_attention_heads=...,
            num_encoder_layers=LAYERS,
            num_decoder_layers=LAYERS,
            num_encoder_attention_heads=HEADS,
            num_decoder_attention_heads=HEADS,
            encoder_ffn_dim=2 * HIDDEN,
            decoder_ffn_dim=2 * HIDDEN,
            use_cache=False,
        ),
        dynamic=False,
    ),
    "switch": _pair("SwitchTransformers", t5(num_experts=2, num_decoder_layers=LAYERS)),
    "t5": _pair("T5", t5()),
    "umt5": _pair("UMT5", t5()),
}

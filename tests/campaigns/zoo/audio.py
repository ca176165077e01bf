"""Encoders of sound, and models of sound and text."""

from __future__ import annotations

from typing import Any

from tests.campaigns.zoo.rows import HEADS, HIDDEN, LAYERS, Row, paired, sized


def wave(**more: Any) -> dict[str, Any]:
    """The sizes of an encoder of raw sound, in Wav2Vec2's names."""
    return sized(
        **{
            "conv_dim": (16, 16),
            "conv_kernel": (10, 3),
            "conv_stride": (5, 2),
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            **more,
        }
    )


def _wave(name: str, **more: Any) -> Row:
    return Row(f"{name}Config", f"{name}Model", wave(**more), "wave")


STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}

AUDIO = {
    "ast": Row(
        "ASTConfig",
        "ASTModel",
        sized(patch_size=8, frequency_stride=8, time_stride=8, max_length=24, num_mel_bins=16),
        "spectrogram",
    ),
    "clap-audio": Row(
        "ClapAudioConfig",
        "ClapAudioModel",
        sized(
            num_attention_heads=[2, 4],
            spec_size=64,
            num_mel_bins=16,
            patch_size=4,
            patch_stride=[4, 4],
            patch_embeds_hidden_size=16,
            depths=[1, 1],
            window_size=4,
            hidden_size=HIDDEN,
        ),
        "clap",
    ),
    "data2vec-audio": _wave("Data2VecAudio", num_conv_pos_embeddings=2, conv_pos_kernel_size=3),
    "hubert": _wave("Hubert"),
    "hubert-stable": _wave("Hubert", **STABLE),
    "moonshine": Row(
        "MoonshineConfig",
        "MoonshineForConditionalGeneration",
        sized(
            num_hidden_layers=...,
            num_attention_heads=...,
            encoder_num_hidden_layers=LAYERS,
            decoder_num_hidden_layers=LAYERS,
            encoder_num_attention_heads=HEADS,
            decoder_num_attention_heads=HEADS,
            decoder_start_token_id=1,
            use_cache=False,
        ),
        "long wave to text",
    ),
    "sew": _wave("SEW", squeeze_factor=2),
    "sew-d": _wave("SEWD", squeeze_factor=2, position_buckets=16, max_position_embeddings=64),
    "speech2text": Row(
        "Speech2TextConfig",
        "Speech2TextForConditionalGeneration",
        paired(
            input_feat_per_channel=8,
            conv_channels=16,
            max_source_positions=64,
            max_target_positions=16,
        ),
        "frames to text",
    ),
    "speecht5": Row(
        "SpeechT5Config",
        "SpeechT5ForSpeechToText",
        wave(
            **{
                f"{side}_{name}": value
                for side in ("encoder", "decoder")
                for name, value in (
                    ("layers", LAYERS),
                    ("attention_heads", HEADS),
                    ("ffn_dim", 2 * HIDDEN),
                )
            },
            max_speech_positions=64,
            max_text_positions=64,
            use_cache=False,
            decoder_start_token_id=2,
        ),
        "wave to text",
        ("logits",),
    ),
    "unispeech": _wave("UniSpeech"),
    "unispeech-sat": _wave("UniSpeechSat"),
    "wav2vec2": _wave("Wav2Vec2"),
    "wav2vec2-bert": Row(
        "Wav2Vec2BertConfig",
        "Wav2Vec2BertModel",
        sized(feature_projection_input_dim=16, left_max_position_embeddings=8),
        "frames",
    ),
    "wav2vec2-conformer": _wave("Wav2Vec2Conformer"),
    "wav2vec2-ctc": Row("Wav2Vec2Config", "Wav2Vec2ForCTC", wave(), "wave"),
    "wav2vec2-stable": _wave("Wav2Vec2", **STABLE),
    "wavlm": _wave("WavLM", num_buckets=16, max_bucket_distance=32),
    "whisper": Row(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        paired(num_mel_bins=8, max_source_positions=12, max_target_positions=16),
        "speech to text",
    ),
}

SERIES = {
    "patchtst": Row(
        "PatchTSTConfig",
        "PatchTSTModel",
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "ffn_dim": 2 * HIDDEN,
            "norm_type": "layernorm",
        },
        "series",
    ),
}

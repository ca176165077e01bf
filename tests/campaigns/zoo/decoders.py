"""Decoders of text."""

from __future__ import annotations

from typing import Any

from tests.campaigns.zoo.rows import HEADS, HIDDEN, LAYERS, Row, causal, sized

# The other ways to run experts, grouped_mm and a loop over those that are hit, have no ONNX form.
BATCHED = {"experts_implementation": "batched_mm", "num_experts_per_tok": 2}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, **BATCHED}


def gpt(**more: Any) -> dict[str, Any]:
    """The sizes of a decoder in GPT-2's names."""
    return sized(
        **{
            "hidden_size": ...,
            "num_hidden_layers": ...,
            "num_attention_heads": ...,
            "n_embd": HIDDEN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_positions": 64,
            "use_cache": False,
            **more,
        }
    )


def _lm(name: str, values: dict[str, Any], **more: Any) -> Row:
    return Row(f"{name}Config", f"{name}ForCausalLM", values, **more)


DECODERS = {
    "apertus": _lm("Apertus", causal()),
    "arcee": _lm("Arcee", causal()),
    "biogpt": _lm("BioGpt", sized(use_cache=False)),
    "bitnet": _lm("BitNet", causal()),
    "bloom": _lm("Bloom", gpt(n_embd=..., hidden_size=HIDDEN)),
    "bloom-post": _lm(
        "Bloom",
        gpt(n_embd=..., hidden_size=HIDDEN, apply_residual_connection_post_layernorm=True),
    ),
    "codegen": _lm("CodeGen", gpt(rotary_dim=4)),
    "cohere": _lm("Cohere", causal()),
    "cohere-qk-norm": _lm("Cohere", causal(use_qk_norm=True)),
    "cohere2": _lm("Cohere2", causal(sliding_window=4)),
    "ctrl": Row("CTRLConfig", "CTRLLMHeadModel", gpt(dff=2 * HIDDEN)),
    "deepseek-v3": _lm(
        "DeepseekV3",
        causal(
            head_dim=...,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            num_key_value_heads=HEADS,
            first_k_dense_replace=2,
        ),
    ),
    "diffllama": _lm("DiffLlama", causal()),
    "ernie-4.5": _lm("Ernie4_5", causal()),
    "exaone4": _lm("Exaone4", causal(sliding_window=4)),
    "falcon": _lm("Falcon", sized(parallel_attn=True, multi_query=True, use_cache=False)),
    "falcon-new": _lm(
        "Falcon", sized(new_decoder_architecture=True, num_kv_heads=2, use_cache=False)
    ),
    "falcon-alibi": _lm(
        "Falcon",
        sized(parallel_attn=False, multi_query=False, alibi=True, bias=True, use_cache=False),
    ),
    "falcon-sequential": _lm("Falcon", sized(parallel_attn=False, bias=True, use_cache=False)),
    "gemma": _lm("Gemma", causal()),
    "gemma2": _lm("Gemma2", causal(sliding_window=4, query_pre_attn_scalar=8)),
    "gemma3": Row(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        causal(sliding_window=4, query_pre_attn_scalar=8),
    ),
    "glm": _lm("Glm", causal(attention_bias=True)),
    "glm4": _lm("Glm4", causal()),
    "gpt-bigcode": _lm("GPTBigCode", gpt(n_inner=2 * HIDDEN)),
    "gpt-neo": _lm(
        "GPTNeo",
        sized(
            num_hidden_layers=...,
            num_attention_heads=...,
            num_layers=LAYERS,
            num_heads=HEADS,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            use_cache=False,
        ),
    ),
    "gpt-neox": _lm("GPTNeoX", sized(use_parallel_residual=True, use_cache=False)),
    "gpt-neox-sequential": _lm("GPTNeoX", sized(use_parallel_residual=False, use_cache=False)),
    "gpt-oss": _lm("GptOss", causal(num_local_experts=4, sliding_window=4, **BATCHED)),
    "gpt2": Row("GPT2Config", "GPT2LMHeadModel", gpt()),
    "gptj": _lm("GPTJ", gpt(rotary_dim=4)),
    "granite": _lm("Granite", causal(residual_multiplier=0.5, embedding_multiplier=2.0)),
    "granite-moe": _lm("GraniteMoe", causal(num_local_experts=4, **BATCHED)),
    "helium": _lm("Helium", causal()),
    "helium-epsilon": _lm("Helium", causal(rms_norm_eps=1e-6)),
    "hunyuan": _lm("HunYuanDenseV1", causal()),
    "lfm2": _lm("Lfm2", causal(layer_types=["conv", "full_attention"], block_multiple_of=8)),
    "llama": _lm("Llama", causal()),
    "mamba": _lm("Mamba", sized(state_size=4, expand=2, use_cache=False), inputs="tokens"),
    "mistral": _lm("Mistral", causal(sliding_window=4)),
    "mixtral": _lm("Mixtral", causal(num_local_experts=4, **BATCHED)),
    "modernbert-decoder": _lm(
        "ModernBertDecoder", sized(use_cache=False, local_attention=4, cls_token_id=1)
    ),
    "mpt": _lm(
        "Mpt",
        sized(
            hidden_size=...,
            num_hidden_layers=...,
            num_attention_heads=...,
            d_model=HIDDEN,
            n_layers=LAYERS,
            n_heads=HEADS,
            expansion_ratio=2,
            max_seq_len=64,
            use_cache=False,
        ),
    ),
    "nanochat": _lm("NanoChat", causal()),
    "nemotron": _lm("Nemotron", causal()),
    "olmo": _lm("Olmo", causal()),
    "olmo2": _lm("Olmo2", causal()),
    "olmo3": _lm("Olmo3", causal(sliding_window=4)),
    "olmoe": _lm("Olmoe", causal(num_experts=4, **BATCHED)),
    "openai-gpt": Row("OpenAIGPTConfig", "OpenAIGPTLMHeadModel", gpt()),
    "opt": _lm("OPT", sized(ffn_dim=2 * HIDDEN, word_embed_proj_dim=HIDDEN, use_cache=False)),
    "opt-350m": _lm(
        "OPT",
        sized(
            ffn_dim=2 * HIDDEN,
            word_embed_proj_dim=16,
            do_layer_norm_before=False,
            use_cache=False,
        ),
    ),
    "persimmon": _lm("Persimmon", sized(use_cache=False, qk_layernorm=True)),
    "phi": _lm("Phi", causal(partial_rotary_factor=0.5)),
    "phi-qk-norm": _lm("Phi", causal(partial_rotary_factor=0.5, qk_layernorm=True)),
    "phi3": _lm("Phi3", causal()),
    "phimoe": Row("PhimoeConfig", "PhimoeForCausalLM", causal(num_local_experts=4, **BATCHED)),
    "qwen2": _lm("Qwen2", causal()),
    "qwen2-moe": _lm("Qwen2Moe", causal(**EXPERTS, shared_expert_intermediate_size=16)),
    "qwen3": _lm("Qwen3", causal()),
    "qwen3-moe": _lm("Qwen3Moe", causal(**EXPERTS)),
    "qwen3-next": _lm(
        "Qwen3Next",
        causal(
            **EXPERTS,
            shared_expert_intermediate_size=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"],
        ),
    ),
    "recurrent-gemma": _lm(
        "RecurrentGemma",
        causal(lru_width=HIDDEN, num_hidden_layers=3, attention_window_size=4),
        inputs="tokens",
    ),
    "rwkv": _lm(
        "Rwkv",
        sized(context_length=16, attention_hidden_size=HIDDEN, use_cache=False),
        inputs="tokens",
    ),
    "seed-oss": _lm("SeedOss", causal()),
    "smollm3": _lm("SmolLM3", causal()),
    "stablelm": _lm("StableLm", causal(use_parallel_residual=False)),
    "stablelm-parallel": _lm("StableLm", causal(use_parallel_residual=True, qk_layernorm=True)),
    "starcoder2": _lm("Starcoder2", causal()),
    "vaultgemma": _lm("VaultGemma", causal(sliding_window=4, query_pre_attn_scalar=8)),
    "xglm": _lm(
        "XGLM",
        sized(
            hidden_size=...,
            num_hidden_layers=...,
            num_attention_heads=...,
            d_model=HIDDEN,
            ffn_dim=2 * HIDDEN,
            num_layers=LAYERS,
            attention_heads=HEADS,
            use_cache=False,
        ),
    ),
}

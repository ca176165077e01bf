"""Encoders of text."""

from __future__ import annotations

from tests.campaigns.zoo.rows import HEADS, HIDDEN, LAYERS, Row, sized

XLM = {
    "hidden_size": ...,
    "num_hidden_layers": ...,
    "num_attention_heads": ...,
    "emb_dim": HIDDEN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "use_cache": False,
}

ENCODERS = {
    "albert": Row("AlbertConfig", "AlbertModel", sized(embedding_size=16)),
    "bert": Row("BertConfig", "BertModel", sized()),
    "big-bird": Row(
        "BigBirdConfig", "BigBirdModel", sized(attention_type="original_full", use_cache=False)
    ),
    "camembert": Row("CamembertConfig", "CamembertModel", sized()),
    "canine": Row("CanineConfig", "CanineModel", sized(num_hash_buckets=32), "tokens"),
    "convbert": Row("ConvBertConfig", "ConvBertModel", sized(embedding_size=16)),
    "data2vec-text": Row("Data2VecTextConfig", "Data2VecTextModel", sized()),
    "deberta": Row(
        "DebertaConfig",
        "DebertaModel",
        sized(relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=32),
    ),
    "deberta-v2": Row(
        "DebertaV2Config",
        "DebertaV2Model",
        sized(
            relative_attention=True,
            pos_att_type=["c2p", "p2c"],
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
        ),
    ),
    "distilbert": Row(
        "DistilBertConfig",
        "DistilBertModel",
        sized(
            hidden_size=...,
            num_hidden_layers=...,
            num_attention_heads=...,
            dim=HIDDEN,
            hidden_dim=2 * HIDDEN,
            n_layers=LAYERS,
            n_heads=HEADS,
        ),
    ),
    "electra": Row("ElectraConfig", "ElectraModel", sized(embedding_size=16)),
    "ernie": Row("ErnieConfig", "ErnieModel", sized()),
    "esm": Row("EsmConfig", "EsmModel", sized(position_embedding_type="rotary", mask_token_id=3)),
    "esm-absolute": Row(
        "EsmConfig",
        "EsmModel",
        sized(
            position_embedding_type="absolute",
            mask_token_id=3,
            emb_layer_norm_before=True,
            token_dropout=False,
        ),
    ),
    "eurobert": Row("EuroBertConfig", "EuroBertModel", sized(num_key_value_heads=2)),
    "flaubert": Row("FlaubertConfig", "FlaubertModel", sized(**XLM)),
    "fnet": Row("FNetConfig", "FNetModel", sized(), "tokens"),
    "funnel": Row(
        "FunnelConfig",
        "FunnelModel",
        sized(
            hidden_size=...,
            num_hidden_layers=...,
            num_attention_heads=...,
            d_model=HIDDEN,
            n_head=HEADS,
            d_head=8,
            d_inner=2 * HIDDEN,
            block_sizes=[1, 1],
            num_decoder_layers=1,
        ),
        dynamic=False,
    ),
    "ibert": Row("IBertConfig", "IBertModel", sized()),
    "ibert-epsilon": Row("IBertConfig", "IBertModel", sized(layer_norm_eps=1e-5)),
    "layoutlm": Row("LayoutLMConfig", "LayoutLMModel", sized(), "boxes"),
    "lilt": Row("LiltConfig", "LiltModel", sized(hidden_size=48, channel_shrink_ratio=2), "boxes"),
    "longformer": Row(
        "LongformerConfig", "LongformerModel", sized(attention_window=4), dynamic=False
    ),
    "luke": Row("LukeConfig", "LukeModel", sized(entity_vocab_size=8, entity_emb_size=16)),
    "markuplm": Row("MarkupLMConfig", "MarkupLMModel", sized()),
    "megatron-bert": Row("MegatronBertConfig", "MegatronBertModel", sized()),
    "mobilebert": Row(
        "MobileBertConfig",
        "MobileBertModel",
        sized(
            embedding_size=16,
            intra_bottleneck_size=16,
            true_hidden_size=16,
            num_feedforward_networks=2,
            normalization_type="layer_norm",
        ),
    ),
    "mobilebert-no-norm": Row(
        "MobileBertConfig",
        "MobileBertModel",
        sized(embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=2),
    ),
    "modernbert": Row("ModernBertConfig", "ModernBertModel", sized(local_attention=4)),
    "mpnet": Row("MPNetConfig", "MPNetModel", sized()),
    "nomic-bert": Row("NomicBertConfig", "NomicBertModel", sized()),
    "nystromformer": Row(
        "NystromformerConfig",
        "NystromformerModel",
        sized(num_landmarks=64, segment_means_seq_len=64),
    ),
    "rembert": Row(
        "RemBertConfig", "RemBertModel", sized(input_embedding_size=16, output_embedding_size=16)
    ),
    "roberta": Row("RobertaConfig", "RobertaModel", sized()),
    "roberta-prelayernorm": Row("RobertaPreLayerNormConfig", "RobertaPreLayerNormModel", sized()),
    "roc-bert": Row(
        "RoCBertConfig",
        "RoCBertModel",
        sized(
            pronunciation_vocab_size=96,
            pronunciation_embed_dim=8,
            shape_vocab_size=96,
            shape_embed_dim=8,
        ),
    ),
    "roformer": Row("RoFormerConfig", "RoFormerModel", sized(embedding_size=16)),
    "splinter": Row("SplinterConfig", "SplinterModel", sized()),
    "squeezebert": Row("SqueezeBertConfig", "SqueezeBertModel", sized(embedding_size=HIDDEN)),
    "xlm": Row("XLMConfig", "XLMModel", sized(**XLM)),
    "xlm-roberta": Row("XLMRobertaConfig", "XLMRobertaModel", sized()),
    "xlm-roberta-xl": Row("XLMRobertaXLConfig", "XLMRobertaXLModel", sized()),
    "xlnet": Row(
        "XLNetConfig",
        "XLNetModel",
        sized(
            hidden_size=...,
            num_hidden_layers=...,
            num_attention_heads=...,
            d_model=HIDDEN,
            n_layer=LAYERS,
            n_head=HEADS,
            d_inner=2 * HIDDEN,
            max_position_embeddings=...,
            use_mems_eval=False,
        ),
    ),
    "xmod": Row("XmodConfig", "XmodModel", sized(default_language="en_XX")),
}

"""Encoders of images and video, and models of images and text."""

from __future__ import annotations

from typing import Any

from tests.campaigns.zoo.rows import HIDDEN, IMAGE, Row, sized, vision

STAGES = {
    "num_attention_heads": ...,
    "num_hidden_layers": ...,
    "hidden_size": ...,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [2, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, HIDDEN],
    "num_attention_heads": [2, 4],
    "patch_sizes": [3, 3],
    "strides": [4, 2],
    "mlp_ratios": [2, 2],
}
TEXT: dict[str, Any] = sized()
IMAGES: dict[str, Any] = vision()


def _image(name: str, values: dict[str, Any], model: str = "", **more: Any) -> Row:
    return Row(f"{name}Config", model or f"{name}Model", values, "image", **more)


VISION = {
    "beit": _image("Beit", vision(use_absolute_position_embeddings=True)),
    "beit-relative": _image(
        "Beit", vision(use_relative_position_bias=True, layer_scale_init_value=0.1)
    ),
    "blip-vision": _image("BlipVision", vision()),
    "clip-vision": _image("CLIPVision", vision()),
    "convnext": _image("ConvNext", vision(depths=[1, 1], hidden_sizes=[16, 32], num_stages=2)),
    "convnextv2": _image("ConvNextV2", vision(depths=[1, 1], hidden_sizes=[16, 32], num_stages=2)),
    "cvt": _image(
        "Cvt",
        {
            "embed_dim": [16, 32],
            "depth": [1, 2],
            "num_heads": [2, 4],
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.0],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
        },
    ),
    "data2vec-vision": _image("Data2VecVision", vision(use_absolute_position_embeddings=True)),
    "deit": _image("DeiT", vision()),
    "dinov2": _image("Dinov2", vision(mlp_ratio=2)),
    "dinov2-registers": _image("Dinov2WithRegisters", vision(mlp_ratio=2)),
    "dinov2-swiglu": _image("Dinov2", vision(mlp_ratio=2, use_swiglu_ffn=True)),
    "dinov3": _image("DINOv3ViT", vision(num_register_tokens=2)),
    "dpt": _image(
        "DPT",
        vision(
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            readout_type="project",
            is_hybrid=False,
        ),
        "DPTForDepthEstimation",
        outputs=("predicted_depth",),
    ),
    "focalnet": _image(
        "FocalNet",
        vision(
            patch_size=4,
            embed_dim=16,
            depths=[1, 1],
            hidden_sizes=[16, 32],
            focal_levels=[2, 2],
            focal_windows=[3, 3],
        ),
    ),
    "glpn": _image("GLPN", {**PYRAMID, "decoder_hidden_size": 8}),
    "hiera": _image(
        "Hiera",
        {
            "image_size": [IMAGE, IMAGE],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "masked_unit_size": [4, 4],
            "query_stride": [2, 2],
            "num_query_pool": 1,
            "masked_unit_attention": [True, False],
        },
    ),
    "ijepa": _image("IJepa", vision()),
    "mobilevit": _image(
        "MobileViT",
        vision(
            patch_size=2,
            hidden_sizes=[16, 24, 32],
            neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32],
        ),
    ),
    "pvt": _image(
        "Pvt",
        {
            **PYRAMID,
            "patch_sizes": [4, 2],
            "image_size": IMAGE,
            "sequence_reduction_ratios": [2, 1],
        },
    ),
    "pvt-v2": _image(
        "PvtV2",
        {
            **PYRAMID,
            "image_size": {"height": IMAGE, "width": IMAGE},
            "num_encoder_blocks": 2,
            "patch_sizes": [7, 3],
        },
    ),
    "segformer": _image("Segformer", PYRAMID),
    "siglip-vision": _image("SiglipVision", vision()),
    "swiftformer": _image(
        "SwiftFormer",
        {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 32], "mlp_ratio": 2},
    ),
    "swin": _image("Swin", vision(**STAGES, patch_size=4)),
    "swin2sr": _image("Swin2SR", vision(**{**STAGES, "patch_size": 1, "window_size": 4})),
    "swinv2": _image("Swinv2", vision(**STAGES, patch_size=4)),
    "timesformer": Row("TimesformerConfig", "TimesformerModel", vision(num_frames=2), "video"),
    "videomae": Row(
        "VideoMAEConfig", "VideoMAEModel", vision(num_frames=2, tubelet_size=2), "video"
    ),
    "vit": _image("ViT", vision()),
    "vit-msn": _image("ViTMSN", vision()),
    "vivit": Row(
        "VivitConfig", "VivitModel", vision(num_frames=2, tubelet_size=[2, 8, 8]), "video"
    ),
    "yolos": _image("Yolos", vision(image_size=[IMAGE, IMAGE], num_detection_tokens=4)),
}

MULTIMODAL = {
    "altclip-text": Row("AltCLIPTextConfig", "AltCLIPTextModel", sized(project_dim=16)),
    "blip-text": Row("BlipTextConfig", "BlipTextModel", sized(encoder_hidden_size=HIDDEN)),
    "clip": Row(
        "CLIPConfig",
        "CLIPModel",
        {
            "text_config": TEXT,
            "vision_config": IMAGES,
            "projection_dim": 16,
            "attn_implementation": "eager",
        },
        "image and text",
        ("logits_per_image",),
    ),
    "clip-text": Row("CLIPTextConfig", "CLIPTextModel", sized()),
    "flava-text": Row("FlavaTextConfig", "FlavaTextModel", sized()),
    "flava-image": _image("FlavaImage", vision()),
    "git": Row(
        "GitConfig",
        "GitForCausalLM",
        sized(vision_config=IMAGES, use_cache=False),
        "image and text",
    ),
    "owlvit-text": Row("OwlViTTextConfig", "OwlViTTextModel", sized()),
    "siglip-text": Row("SiglipTextConfig", "SiglipTextModel", sized()),
    "vilt": Row("ViltConfig", "ViltModel", sized(**{**IMAGES, "vocab_size": 96}), "image and text"),
}

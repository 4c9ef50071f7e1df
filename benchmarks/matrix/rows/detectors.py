"""Models that find things in pictures: boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from ..row import Row
from .vision import CROPPED, DEPTH_PYRAMID, DPT, SIZE, SQUARE, SWIN, TRANSFORMER, vision_row

__all__ = ["ROWS"]

_DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 12,
}


def _apart(model: Any) -> None:  # Any: classes of transformers
    """Queries that differ: fresh ones look alike, and then all see the same."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "quer" in name and "embed" in name:
                parameter *= 8


_BETWEEN = {"size": {"shortest_edge": 64, "longest_edge": 100}}


def _resnet_backbone(*stages: str) -> Any:  # Any: a config of transformers
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 24],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=list(stages),
    )


_YOLOS = {**TRANSFORMER, "image_size": [SIZE, SIZE], "num_detection_tokens": 10}

_RT_DETR: Mapping[str, Any] = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [12, 16, 24],
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_queries": 12,
    "num_denoising": 0,
}


def _detr_like(name: str, config: type[Any], processor: str, *stages: str, **sizes: Any) -> Row:
    return vision_row(
        name,
        config,
        processor,
        "object-detection",
        change=_apart,
        options={"threshold": 0.3},
        backbone_config=_resnet_backbone(*stages or ("stage4",)),
        **{**_DETR, **sizes},
    )


def _rt_detr_backbone() -> Any:  # Any: a config of transformers
    return transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12, 16, 24],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _hgnet_backbone() -> Any:  # Any: a config of transformers
    return transformers.HGNetV2Config(
        embedding_size=8,
        stem_channels=[3, 8, 8],
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 48],
        stage_num_blocks=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )


_DETECTORS = (
    _detr_like("detr", transformers.DetrConfig, "Detr"),
    _detr_like("table-transformer", transformers.TableTransformerConfig, "Detr"),
    _detr_like("conditional_detr", transformers.ConditionalDetrConfig, "ConditionalDetr"),
    _detr_like("dab-detr", transformers.DabDetrConfig, "ConditionalDetr", hidden_size=32),
    _detr_like(
        "deformable_detr",
        transformers.DeformableDetrConfig,
        "DeformableDetr",
        "stage2",
        "stage3",
        "stage4",
        num_feature_levels=3,
    ),
    vision_row(
        "detr, any size",
        transformers.DetrConfig,
        "Detr",
        "object-detection",
        change=_apart,
        prepared=_BETWEEN,
        options={"threshold": 0.3},
        any_size=True,
        backbone_config=_resnet_backbone("stage4"),
        **_DETR,
    ),
    vision_row(
        "rt_detr",
        transformers.RTDetrConfig,
        "RTDetr",
        "object-detection",
        options={"threshold": 0.83},
        backbone_config=_rt_detr_backbone(),
        **_RT_DETR,
    ),
    vision_row(
        "rt_detr_v2",
        transformers.RTDetrV2Config,
        "RTDetr",
        "object-detection",
        options={"threshold": 0.83},
        backbone_config=_rt_detr_backbone(),
        **_RT_DETR,
    ),
    vision_row(
        "d_fine",
        transformers.DFineConfig,
        "RTDetr",
        "object-detection",
        options={"threshold": 0.83},
        absent={"tflite": "The converter makes a sort of its largest probabilities, which LiteRT does not have."},
        backbone_config=_hgnet_backbone(),
        **{**_RT_DETR, "encoder_in_channels": [24, 32, 48]},
    ),
    vision_row("yolos", transformers.YolosConfig, "Yolos", "object-detection", options={"threshold": 0.25}, **_YOLOS),
    vision_row(
        "yolos, any size",
        transformers.YolosConfig,
        "Yolos",
        "object-detection",
        prepared=_BETWEEN,
        options={"threshold": 0.25},
        any_size=True,
        **_YOLOS,
    ),
)

_MASKED = {"size": SQUARE, "size_divisor": 32}
_SURE_ENOUGH = {"threshold": 0.15, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.02}


def _swin_backbone() -> Any:  # Any: a config of transformers
    sizes = {**SWIN, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}
    return transformers.SwinConfig(**sizes, out_features=["stage1", "stage2", "stage3", "stage4"])


_SEGMENTERS = (
    vision_row(
        "segformer",
        transformers.SegformerConfig,
        "Segformer",
        "image-segmentation",
        fast=True,
        **DEPTH_PYRAMID,
    ),
    vision_row(
        "beit",
        transformers.BeitConfig,
        "Beit",
        "image-segmentation",
        use_relative_position_bias=True,
        out_indices=[1, 2, 3, 4],
        **{**TRANSFORMER, "num_hidden_layers": 4},
    ),
    vision_row("dpt", transformers.DPTConfig, "DPT", "image-segmentation", **DPT),
    vision_row(
        "upernet",
        transformers.UperNetConfig,
        "Segformer",
        "image-segmentation",
        head="UperNetForSemanticSegmentation",
        backbone_config=_swin_backbone(),
        hidden_size=32,
        use_auxiliary_head=False,
    ),
    vision_row(
        "mobilenet_v2",
        transformers.MobileNetV2Config,
        "MobileNetV2",
        "image-segmentation",
        prepared=CROPPED,
        seed=2,
        depth_multiplier=0.25,
        image_size=SIZE,
    ),
    vision_row(
        "mobilevit",
        transformers.MobileViTConfig,
        "MobileViT",
        "image-segmentation",
        prepared=CROPPED,
        image_size=SIZE,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
    ),
    vision_row(
        "maskformer",
        transformers.MaskFormerConfig,
        "MaskFormer",
        "image-segmentation",
        change=_apart,
        head="AutoModelForUniversalSegmentation",
        prepared=_MASKED,
        options=_SURE_ENOUGH,
        backbone_config=_swin_backbone(),
        decoder_config=transformers.DetrConfig(**_DETR),
        fpn_feature_size=32,
        mask_feature_size=32,
    ),
    vision_row(
        "mask2former",
        transformers.Mask2FormerConfig,
        "Mask2Former",
        "image-segmentation",
        change=_apart,
        head="AutoModelForUniversalSegmentation",
        prepared=_MASKED,
        options=_SURE_ENOUGH,
        backbone_config=_swin_backbone(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=48,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=10,
    ),
)

ROWS: tuple[Row, ...] = (*_DETECTORS, *_SEGMENTERS)

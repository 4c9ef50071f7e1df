"""Models that see pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from satchel_converters.pictures import draw

from ..row import LABELS, Oracle, Row, lively, named_labels, save, statistics

__all__ = ["ROWS"]

_SIZE = 64
# Wide, high and square ones, and one without colours; none of them is a golden picture.
_PICTURES = (draw(3001), draw(3006), draw(3004), draw(3011).convert("L"))
_SQUARE = {"height": _SIZE, "width": _SIZE}
_TRANSFORMER: Mapping[str, Any] = {
    "image_size": _SIZE,
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_HEADS = {
    "image-classification": "AutoModelForImageClassification",
    "image-feature-extraction": "AutoModel",
    "depth-estimation": "AutoModelForDepthEstimation",
    "object-detection": "AutoModelForObjectDetection",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "image-to-image": "AutoModelForImageToImage",
}
_ANY_SIZE = {"tflite": "A TFLite graph takes one size; this processor gives each picture its own."}

Made = Callable[[], Any]  # Any: a config or a processor of transformers


def _build(
    config: Made, processor: Made, head: str, change: Callable[[Any], None] | None, seed: int, folder: Path
) -> None:
    """A model of a config with a processor, and with batch norms that know pictures."""
    made, steps = config(), processor()
    named_labels(made)
    auto = getattr(transformers, head)
    torch.manual_seed(0)
    model = lively(auto.from_config(made) if hasattr(auto, "from_config") else auto(made), seed)
    # Of one size, so that they make one batch whatever the processor leaves of it.
    pictures = [draw(number).convert("RGB").resize((_SIZE, _SIZE)) for number in range(2000, 2016)]
    if change is not None:
        change(model)
    if any(isinstance(each, torch.nn.modules.batchnorm._BatchNorm) for each in model.modules()):
        seen = [steps(each, return_tensors="np")["pixel_values"][0] for each in pictures]
        statistics(model, lambda: model(pixel_values=torch.from_numpy(np.stack(seen))))
    save(folder, model, steps)


def _row(
    name: str,
    config: type[Any],  # Any: a class of transformers
    processor: str = "ViT",
    task: str = "image-classification",
    *,
    head: str = "",
    prepared: Mapping[str, Any] | None = None,
    change: Callable[[Any], None] | None = None,
    fast: bool = False,
    seed: int = 0,  # another where the weights of 0 lose more to float32 than 1e-4 leaves room for
    options: Mapping[str, Any] | None = None,
    oracle: Oracle | None = None,
    any_size: bool = False,
    **sizes: Any,
) -> Row:
    steps = getattr(transformers, f"{processor}ImageProcessorPil")
    build = functools.partial(
        _build,
        functools.partial(config, **sizes),
        functools.partial(steps, **({"size": _SQUARE} if prepared is None else prepared)),
        head or _HEADS[task],
        change,
        seed,
    )
    asked = {"top_k": len(LABELS)} if task == "image-classification" else {}
    absent = _ANY_SIZE if any_size else {}
    return Row(name, task, build, _PICTURES, asked if options is None else options, oracle, absent, fast)


def _loud(model: Any) -> None:  # Any: classes of transformers
    """A head that makes much of little: what comes in is nearly the same for all pictures."""
    with torch.no_grad():
        model.classifier.weight *= 10


_COLOURS = [[red, green, blue] for red in (-0.6, 0.6) for green in (-0.7, 0.0, 0.7) for blue in (-0.5, 0.5)]
_CROPPED = {"size": {"shortest_edge": 72}, "crop_size": _SQUARE}
_SHORT = {"size": {"shortest_edge": _SIZE}}
_PYRAMID: Mapping[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_SWIN = {"image_size": _SIZE, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

_CLASSIFIERS = (
    _row("vit", transformers.ViTConfig, fast=True, **_TRANSFORMER),
    _row(
        "deit",
        transformers.DeiTConfig,
        "DeiT",
        head="DeiTForImageClassificationWithTeacher",
        prepared={"size": {"height": 72, "width": 72}, "crop_size": _SQUARE},
        **_TRANSFORMER,
    ),
    _row("beit", transformers.BeitConfig, "Beit", use_relative_position_bias=True, **_TRANSFORMER),
    _row("swin", transformers.SwinConfig, **_SWIN),
    _row("swinv2", transformers.Swinv2Config, **_SWIN),
    _row("dinov2", transformers.Dinov2Config, "Bit", prepared=_CROPPED, **{**_TRANSFORMER, "patch_size": 8}),
    _row(
        "mobilenet_v1", transformers.MobileNetV1Config, "MobileNetV1", prepared=_CROPPED, seed=1, depth_multiplier=0.25
    ),
    _row(
        "mobilenet_v2",
        transformers.MobileNetV2Config,
        "MobileNetV2",
        prepared=_CROPPED,
        seed=1,
        depth_multiplier=0.25,
        image_size=_SIZE,
        fast=True,
    ),
    _row(
        "mobilevit",
        transformers.MobileViTConfig,
        "MobileViT",
        prepared=_CROPPED,
        image_size=_SIZE,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        change=_loud,
    ),
    _row(
        "mobilevitv2",
        transformers.MobileViTV2Config,
        "MobileViT",
        prepared=_CROPPED,
        image_size=_SIZE,
        width_multiplier=0.25,
        change=_loud,
    ),
    _row(
        "resnet",
        transformers.ResNetConfig,
        "ConvNext",
        prepared=_SHORT,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
    ),
    _row("convnext", transformers.ConvNextConfig, "ConvNext", prepared=_SHORT, layer_scale_init_value=0.5, **_PYRAMID),
    _row("convnextv2", transformers.ConvNextV2Config, "ConvNext", prepared=_SHORT, **_PYRAMID),
    _row(
        "efficientnet",
        transformers.EfficientNetConfig,
        "EfficientNet",
        image_size=_SIZE,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    _row(
        "regnet",
        transformers.RegNetConfig,
        "ConvNext",
        prepared=_SHORT,
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 2, 1],
        groups_width=8,
    ),
    _row(
        "levit",
        transformers.LevitConfig,
        "Levit",
        head="LevitForImageClassification",
        prepared={"size": {"shortest_edge": 64}, "crop_size": _SQUARE},
        image_size=_SIZE,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    _row(
        "poolformer",
        transformers.PoolFormerConfig,
        "PoolFormer",
        prepared={**_SHORT, "crop_size": _SQUARE},
        **_PYRAMID,
    ),
    _row(
        "pvt",
        transformers.PvtConfig,
        "Pvt",
        num_labels=len(LABELS),  # its config has a number of its own
        image_size=_SIZE,
        num_attention_heads=[1, 2, 2, 4],
        **_PYRAMID,
    ),
    _row(
        "imagegpt",
        transformers.ImageGPTConfig,
        "ImageGPT",
        prepared={"size": {"height": 8, "width": 8}, "clusters": _COLOURS},
        vocab_size=len(_COLOURS) + 1,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
    ),
    _row(
        "segformer",
        transformers.SegformerConfig,
        "Segformer",
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
        **_PYRAMID,
    ),
)


def _features(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline's arrays; without `return_tensors` it makes lists of them."""
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    ask = transformers.pipeline("image-feature-extraction", model=str(model), image_processor=processor)
    return [ask(each, return_tensors=True) for each in inputs] * 2


def _whole_features(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """ViT-MAE's features of all patches in their order; what its pipeline gives is drawn by chance."""
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded = transformers.AutoModel.from_pretrained(model, mask_ratio=0.0).eval()
    made = []
    for picture in inputs:
        pixels = processor(picture.convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            made.append(loaded(**pixels, noise=torch.arange(16.0)[None]).last_hidden_state)
    return made * 2


def _upscaled(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What the pipeline of transformers 4 made of `reconstruction`."""
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    loaded = transformers.AutoModelForImageToImage.from_pretrained(model).eval()
    made = []
    for picture in inputs:
        with torch.no_grad():
            values = loaded(**processor(picture.convert("RGB"), return_tensors="pt")).reconstruction[0]
        made.append((np.moveaxis(values.clamp(0, 1).numpy(), 0, -1) * 255.0).round().astype(np.uint8))
    return made * 2


_FEATURES = (
    _row("vit", transformers.ViTConfig, task="image-feature-extraction", oracle=_features, fast=True, **_TRANSFORMER),
    _row(
        "dinov2",
        transformers.Dinov2Config,
        "Bit",
        "image-feature-extraction",
        prepared=_CROPPED,
        oracle=_features,
        **{**_TRANSFORMER, "patch_size": 8},
    ),
    _row("vit_mae", transformers.ViTMAEConfig, task="image-feature-extraction", oracle=_whole_features, **_TRANSFORMER),
)

_NECK = {"neck_hidden_sizes": [8, 12, 16, 16], "fusion_hidden_size": 16, "backbone_out_indices": [0, 1, 2, 3]}
_DPT = {**_TRANSFORMER, **_NECK, "num_hidden_layers": 4, "reassemble_factors": [4, 2, 1, 0.5]}
_DEPTH_PYRAMID = {**_PYRAMID, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16}


def _far(model: Any) -> None:  # Any: classes of transformers
    """Depths well above zero: what lies below is cut off, and all pictures would be alike there."""
    with torch.no_grad():
        model.head.head[4].bias.fill_(2.0)


def _dinov2_backbone() -> Any:  # Any: a config of transformers
    sizes = {**_TRANSFORMER, "patch_size": 14, "image_size": 70, "num_hidden_layers": 4}
    return transformers.Dinov2Config(
        **sizes, out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False
    )


_DEPTHS = (
    _row("dpt", transformers.DPTConfig, "DPT", "depth-estimation", change=_far, fast=True, **_DPT),
    _row(
        "depth_anything",
        transformers.DepthAnythingConfig,
        "DPT",
        "depth-estimation",
        prepared={"size": {"height": 70, "width": 70}, "ensure_multiple_of": 14},
        backbone_config=_dinov2_backbone(),
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 12, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
    ),
    _row(
        "depth_anything, any size",
        transformers.DepthAnythingConfig,
        "DPT",
        "depth-estimation",
        prepared={"size": {"height": 70, "width": 70}, "ensure_multiple_of": 14, "keep_aspect_ratio": True},
        any_size=True,
        backbone_config=_dinov2_backbone(),
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 12, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
    ),
    _row("glpn", transformers.GLPNConfig, "DPT", "depth-estimation", **_DEPTH_PYRAMID),
    _row(
        "glpn, any size",
        transformers.GLPNConfig,
        "GLPN",
        "depth-estimation",
        prepared={},
        any_size=True,
        **_DEPTH_PYRAMID,
    ),
)

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


_YOLOS = {**_TRANSFORMER, "image_size": [_SIZE, _SIZE], "num_detection_tokens": 10}

_DETECTORS = (
    _row(
        "detr",
        transformers.DetrConfig,
        "Detr",
        "object-detection",
        change=_apart,
        options={"threshold": 0.3},
        backbone_config=_resnet_backbone("stage4"),
        **_DETR,
    ),
    _row(
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
    _row(
        "rt_detr",
        transformers.RTDetrConfig,
        "RTDetr",
        "object-detection",
        options={"threshold": 0.83},
        backbone_config=transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 12, 16, 24],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_hidden_dim=32,
        encoder_in_channels=[12, 16, 24],
        encoder_ffn_dim=48,
        encoder_attention_heads=2,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=12,
        num_denoising=0,
    ),
    _row("yolos", transformers.YolosConfig, "Yolos", "object-detection", options={"threshold": 0.25}, **_YOLOS),
    _row(
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

_MASKED = {"size": _SQUARE, "size_divisor": 32}
_SURE_ENOUGH = {"threshold": 0.15, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.02}


def _swin_backbone() -> Any:  # Any: a config of transformers
    sizes = {**_SWIN, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}
    return transformers.SwinConfig(**sizes, out_features=["stage1", "stage2", "stage3", "stage4"])


_SEGMENTERS = (
    _row(
        "segformer",
        transformers.SegformerConfig,
        "Segformer",
        "image-segmentation",
        fast=True,
        **_DEPTH_PYRAMID,
    ),
    _row(
        "beit",
        transformers.BeitConfig,
        "Beit",
        "image-segmentation",
        use_relative_position_bias=True,
        out_indices=[1, 2, 3, 4],
        **{**_TRANSFORMER, "num_hidden_layers": 4},
    ),
    _row("dpt", transformers.DPTConfig, "DPT", "image-segmentation", **_DPT),
    _row(
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
    _row(
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

_SUPER = {
    "image_size": _SIZE,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "upscale": 2,
    "upsampler": "pixelshuffle",
}
_UPSCALERS = (
    _row(
        "swin2sr",
        transformers.Swin2SRConfig,
        "ViT",
        "image-to-image",
        prepared={"size": _SQUARE, "do_normalize": False},
        oracle=_upscaled,
        **_SUPER,
    ),
    _row(
        "swin2sr, any size",
        transformers.Swin2SRConfig,
        "Swin2SR",
        "image-to-image",
        prepared={},
        oracle=_upscaled,
        any_size=True,
        **_SUPER,
    ),
)

ROWS: tuple[Row, ...] = (*_CLASSIFIERS, *_FEATURES, *_DEPTHS, *_DETECTORS, *_SEGMENTERS, *_UPSCALERS)

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

__all__ = [
    "CROPPED",
    "DEPTH_PYRAMID",
    "DPT",
    "PYRAMID",
    "ROWS",
    "SHORT",
    "SIZE",
    "SQUARE",
    "SWIN",
    "TRANSFORMER",
    "vision_row",
]

SIZE = 64
# Wide, high and square ones, and one without colours; none of them is a golden picture.
_PICTURES = (draw(3001), draw(3006), draw(3004), draw(3011).convert("L"))
SQUARE = {"height": SIZE, "width": SIZE}
TRANSFORMER: Mapping[str, Any] = {
    "image_size": SIZE,
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
    pictures = [draw(number).convert("RGB").resize((SIZE, SIZE)) for number in range(2000, 2016)]
    if change is not None:
        change(model)
    if any(isinstance(each, torch.nn.modules.batchnorm._BatchNorm) for each in model.modules()):
        seen = [steps(each, return_tensors="np")["pixel_values"][0] for each in pictures]
        statistics(model, lambda: model(pixel_values=torch.from_numpy(np.stack(seen))))
    save(folder, model, steps)


def vision_row(
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
    absent: Mapping[str, str] | None = None,
    **sizes: Any,
) -> Row:
    steps = getattr(transformers, f"{processor}ImageProcessorPil")
    build = functools.partial(
        _build,
        functools.partial(config, **sizes),
        functools.partial(steps, **({"size": SQUARE} if prepared is None else prepared)),
        head or _HEADS[task],
        change,
        seed,
    )
    asked = {"top_k": len(LABELS)} if task == "image-classification" else {}
    return Row(
        name,
        task,
        build,
        _PICTURES,
        asked if options is None else options,
        oracle,
        absent or (_ANY_SIZE if any_size else {}),
        fast,
    )


def _loud(model: Any) -> None:  # Any: classes of transformers
    """A head that makes much of little: what comes in is nearly the same for all pictures."""
    with torch.no_grad():
        model.classifier.weight *= 10


_COLOURS = [[red, green, blue] for red in (-0.6, 0.6) for green in (-0.7, 0.0, 0.7) for blue in (-0.5, 0.5)]
CROPPED = {"size": {"shortest_edge": 72}, "crop_size": SQUARE}
SHORT = {"size": {"shortest_edge": SIZE}}
PYRAMID: Mapping[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
SWIN = {"image_size": SIZE, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

_CLASSIFIERS = (
    vision_row("vit", transformers.ViTConfig, fast=True, **TRANSFORMER),
    vision_row(
        "deit",
        transformers.DeiTConfig,
        "DeiT",
        head="DeiTForImageClassificationWithTeacher",
        prepared={"size": {"height": 72, "width": 72}, "crop_size": SQUARE},
        **TRANSFORMER,
    ),
    vision_row("beit", transformers.BeitConfig, "Beit", use_relative_position_bias=True, **TRANSFORMER),
    vision_row("swin", transformers.SwinConfig, **SWIN),
    vision_row("swinv2", transformers.Swinv2Config, **SWIN),
    vision_row("dinov2", transformers.Dinov2Config, "Bit", prepared=CROPPED, **{**TRANSFORMER, "patch_size": 8}),
    vision_row(
        "mobilenet_v1", transformers.MobileNetV1Config, "MobileNetV1", prepared=CROPPED, seed=1, depth_multiplier=0.25
    ),
    vision_row(
        "mobilenet_v2",
        transformers.MobileNetV2Config,
        "MobileNetV2",
        prepared=CROPPED,
        seed=1,
        depth_multiplier=0.25,
        image_size=SIZE,
        fast=True,
    ),
    vision_row(
        "mobilevit",
        transformers.MobileViTConfig,
        "MobileViT",
        prepared=CROPPED,
        image_size=SIZE,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        change=_loud,
    ),
    vision_row(
        "mobilevitv2",
        transformers.MobileViTV2Config,
        "MobileViT",
        prepared=CROPPED,
        image_size=SIZE,
        width_multiplier=0.25,
        change=_loud,
    ),
    vision_row(
        "resnet",
        transformers.ResNetConfig,
        "ConvNext",
        prepared=SHORT,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
    ),
    vision_row(
        "convnext", transformers.ConvNextConfig, "ConvNext", prepared=SHORT, layer_scale_init_value=0.5, **PYRAMID
    ),
    vision_row("convnextv2", transformers.ConvNextV2Config, "ConvNext", prepared=SHORT, **PYRAMID),
    vision_row(
        "efficientnet",
        transformers.EfficientNetConfig,
        "EfficientNet",
        image_size=SIZE,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
    ),
    vision_row(
        "regnet",
        transformers.RegNetConfig,
        "ConvNext",
        prepared=SHORT,
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 2, 1],
        groups_width=8,
    ),
    vision_row(
        "levit",
        transformers.LevitConfig,
        "Levit",
        head="LevitForImageClassification",
        prepared={"size": {"shortest_edge": 64}, "crop_size": SQUARE},
        image_size=SIZE,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    vision_row(
        "poolformer",
        transformers.PoolFormerConfig,
        "PoolFormer",
        prepared={**SHORT, "crop_size": SQUARE},
        **PYRAMID,
    ),
    vision_row(
        "pvt",
        transformers.PvtConfig,
        "Pvt",
        num_labels=len(LABELS),  # its config has a number of its own
        image_size=SIZE,
        num_attention_heads=[1, 2, 2, 4],
        **PYRAMID,
    ),
    vision_row(
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
    vision_row(
        "segformer",
        transformers.SegformerConfig,
        "Segformer",
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
        **PYRAMID,
    ),
    vision_row(
        "data2vec-vision", transformers.Data2VecVisionConfig, "Beit", use_relative_position_bias=True, **TRANSFORMER
    ),
    vision_row("vit_msn", transformers.ViTMSNConfig, **TRANSFORMER),
    vision_row("ijepa", transformers.IJepaConfig, **TRANSFORMER),
    vision_row(
        "dinov2_with_registers",
        transformers.Dinov2WithRegistersConfig,
        "Bit",
        prepared=CROPPED,
        **{**TRANSFORMER, "patch_size": 8},
    ),
    vision_row(
        "clip",
        transformers.CLIPConfig,
        "CLIP",
        prepared={**SHORT, "crop_size": SQUARE},
        vision_config=TRANSFORMER,
        projection_dim=16,
    ),
    vision_row("siglip", transformers.SiglipConfig, "Siglip", vision_config=TRANSFORMER),
    vision_row("donut-swin", transformers.DonutSwinConfig, **SWIN),
    vision_row(
        "focalnet",
        transformers.FocalNetConfig,
        "Bit",
        prepared=CROPPED,
        image_size=SIZE,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        hidden_sizes=[16, 32],
    ),
    vision_row("swiftformer", transformers.SwiftFormerConfig, depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32]),
    vision_row("pvt_v2", transformers.PvtV2Config, "Pvt", image_size=SIZE, num_attention_heads=[1, 2, 2, 4], **PYRAMID),
    vision_row(
        "bit",
        transformers.BitConfig,
        "Bit",
        prepared=CROPPED,
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        num_groups=8,
    ),
    vision_row(
        "hiera",
        transformers.HieraConfig,
        "Bit",
        prepared=CROPPED,
        embed_dim=16,
        image_size=[SIZE, SIZE],
        depths=[1, 1, 1],
        num_heads=[1, 2, 4],
        masked_unit_size=[4, 4],
        num_query_pool=2,
        masked_unit_attention=[True, False, False],
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
    vision_row(
        "vit", transformers.ViTConfig, task="image-feature-extraction", oracle=_features, fast=True, **TRANSFORMER
    ),
    vision_row(
        "dinov2",
        transformers.Dinov2Config,
        "Bit",
        "image-feature-extraction",
        prepared=CROPPED,
        oracle=_features,
        **{**TRANSFORMER, "patch_size": 8},
    ),
    vision_row(
        "dinov3_vit",
        transformers.DINOv3ViTConfig,
        task="image-feature-extraction",
        oracle=_features,
        num_register_tokens=2,
        **TRANSFORMER,
    ),
    vision_row(
        "dinov3_convnext",
        transformers.DINOv3ConvNextConfig,
        task="image-feature-extraction",
        oracle=_features,
        **PYRAMID,
    ),
    vision_row(
        "maskformer-swin", transformers.MaskFormerSwinConfig, task="image-feature-extraction", oracle=_features, **SWIN
    ),
    vision_row(
        "vit_mae", transformers.ViTMAEConfig, task="image-feature-extraction", oracle=_whole_features, **TRANSFORMER
    ),
)

_NECK = {"neck_hidden_sizes": [8, 12, 16, 16], "fusion_hidden_size": 16, "backbone_out_indices": [0, 1, 2, 3]}
DPT = {**TRANSFORMER, **_NECK, "num_hidden_layers": 4, "reassemble_factors": [4, 2, 1, 0.5]}
DEPTH_PYRAMID = {**PYRAMID, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16}


def _far(model: Any) -> None:  # Any: classes of transformers
    """Depths well above zero: what lies below is cut off, and all pictures would be alike there."""
    with torch.no_grad():
        model.head.head[4].bias.fill_(2.0)


def _dinov2_backbone() -> Any:  # Any: a config of transformers
    sizes = {**TRANSFORMER, "patch_size": 14, "image_size": 70, "num_hidden_layers": 4}
    return transformers.Dinov2Config(
        **sizes, out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False
    )


_DEPTHS = (
    vision_row("dpt", transformers.DPTConfig, "DPT", "depth-estimation", change=_far, fast=True, **DPT),
    vision_row(
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
    vision_row(
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
    vision_row("glpn", transformers.GLPNConfig, "DPT", "depth-estimation", **DEPTH_PYRAMID),
    vision_row(
        "glpn, any size",
        transformers.GLPNConfig,
        "GLPN",
        "depth-estimation",
        prepared={},
        any_size=True,
        **DEPTH_PYRAMID,
    ),
)

_SUPER = {
    "image_size": SIZE,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "upscale": 2,
    "upsampler": "pixelshuffle",
}
_UPSCALERS = (
    vision_row(
        "swin2sr",
        transformers.Swin2SRConfig,
        "ViT",
        "image-to-image",
        prepared={"size": SQUARE, "do_normalize": False},
        oracle=_upscaled,
        **_SUPER,
    ),
    vision_row(
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

ROWS: tuple[Row, ...] = (*_CLASSIFIERS, *_FEATURES, *_DEPTHS, *_UPSCALERS)

"""A processor's settings as the steps that a bundle carries, and the sizes that these steps make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..errors import SupportError, UsageError
from ..manifest import Step

__all__ = [
    "FILTERS",
    "FONT_FILE",
    "GRIDDED",
    "STEPS",
    "TILED",
    "image_multiple",
    "image_size",
    "image_steps",
    "processor_kind",
    "resized_size",
    "thumbnail_size",
]

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers
FONT_FILE = "font.ttf"
STEPS = (
    "rgb",
    "align_long_axis",
    "resize",
    "tiles",
    "thumbnail",
    "frame",
    "center_crop",
    "flip_channels",
    "rescale",
    "normalize",
    "pad",
    "quantize_colors",
    "header",
    "patches",
    "grid",
)
GRIDDED = ("Qwen2VL",)  # that give each picture patches of its own number, in a grid
TILED = ("Idefics3", "SmolVLM")  # processors that cut a large picture into tiles

# Of a processor's switches those that are served here, and those that do nothing to a picture that is only looked at.
_SERVED = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order"}
_WITHOUT_EFFECT = {
    "do_convert_rgb",
    "do_reduce_labels",
    "do_convert_annotations",
}  # it is RGB by then; there is no label

# Processors that give each picture a size of its own between two edges, with what that is rounded to.
_BETWEEN_EDGES = {
    "Detr": "",
    "ConditionalDetr": "",
    "DeformableDetr": "",
    "RTDetr": "",
    "Yolos": "down",
    "MaskFormer": "up",
    "Mask2Former": "up",
}
_YOLOS_MULTIPLE = 16
_STRIP = 200  # times that one side is longer, at most
# How Pix2Struct's processor draws a question: it has no settings for it.
_HEADER: dict[str, Any] = {"font": FONT_FILE, "size": 36, "columns": 80, "margin": 5}
_DETECTORS = tuple(_BETWEEN_EDGES)


def image_steps(has: Mapping[str, Any], *, any_size: bool = False) -> tuple[Step, ...]:  # Any: JSON
    """A processor's settings, as transformers gives them with the defaults of its class, as steps.

    Args:
        any_size: take a processor that gives each picture a size of its own.

    Raises:
        SupportError: a step that is not served here, or a picture of no fixed size where that is not asked for.
    """
    kind = processor_kind(has)
    if kind == "Pix2Struct":
        return (
            Step("rgb"),
            *([Step("header", dict(_HEADER))] if has.get("is_vqa") else []),
            Step("patches", _patches(has)),
        )
    served = _SERVED | _also(kind, has)
    odd = sorted(name for name in has if name.startswith("do_") and has[name] and name not in served | _WITHOUT_EFFECT)
    if odd:
        raise _unserved(kind, f"it has the step {odd[0]}")
    steps: list[Step] = [Step("rgb")]
    if kind in TILED:
        steps.append(_tiles(has))
    elif kind == "Donut":
        steps += _donut(has)
    elif has.get("do_resize"):
        steps += _resize(kind, has)
    if has.get("do_center_crop") and kind != "Segformer":  # that one has the setting and no such step
        steps.append(Step("center_crop", _box(kind, has.get("crop_size"))))
    if image_size(steps) is None and not any_size and kind not in GRIDDED:
        raise _unserved(kind, "it gives pictures of any size, and a graph takes one")
    if has.get("do_flip_channel_order"):
        steps.append(Step("flip_channels"))
    if has.get("do_rescale"):
        offset = -1.0 if has.get("rescale_offset") else 0.0
        steps.append(Step("rescale", {"factor": has["rescale_factor"], "offset": offset}))
    if has.get("do_normalize"):
        steps.append(Step("normalize", {"mean": _three(has["image_mean"]), "std": _three(has["image_std"])}))
    if has.get("include_top"):  # EfficientNet divides by the deviation once more
        steps.append(Step("normalize", {"mean": [0.0] * 3, "std": _three(has["image_std"])}))
    if kind in GRIDDED:
        sides = {"patch": int(has["patch_size"]), "merge": int(has["merge_size"])}
        steps.append(Step("grid", {**sides, "frames": int(has["temporal_patch_size"])}))
    if kind == "Swin2SR" and has.get("do_pad"):
        steps.append(Step("pad", {"multiple": int(has["size_divisor"])}))
    if kind == "ImageGPT" and has.get("do_color_quantize"):
        steps.append(Step("quantize_colors", {"clusters": has["clusters"]}))
    return tuple(steps)


def image_size(steps: Sequence[Step]) -> Optional[tuple[int, int]]:
    """Height and width of what the steps make of any picture; None where each picture has its own."""
    if any(step.step == "pad" for step in steps):
        return None
    tiles = [int(step.options["side"]) for step in steps if step.step == "tiles"]
    if tiles:
        return tiles[0], tiles[0]
    fixed = [step.options for step in steps if step.step in ("resize", "frame", "center_crop")]
    if not fixed or "height" not in fixed[-1] or "keep_aspect" in fixed[-1]:
        return None
    return int(fixed[-1]["height"]), int(fixed[-1]["width"])


def image_multiple(steps: Sequence[Step]) -> int:
    """What the height and width are multiples of, where each picture has its own."""
    found = [int(step.options["multiple"]) for step in steps if step.options.get("multiple")]
    return found[-1] if found else 1


def thumbnail_size(size: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """Height and width of a picture that is made to fit, as Donut's processor rounds them."""
    new = min(height, int(size["height"])), min(width, int(size["width"]))
    if new == (height, width):
        return new
    if height > width:
        return new[0], int(width * new[0] / height)
    if width > height:
        return int(height * new[1] / width), new[1]
    return new


def resized_size(size: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """Height and width that a resize step gives to a picture, with the roundings of transformers."""
    multiple = int(size.get("multiple", 1))
    if size.get("round") == "half up":
        return _within_edges(size, height, width)
    if "most" in size:
        return _within_pixels(size, height, width)
    if "longest_edge" in size:
        new = _between_edges(size["shortest_edge"], size["longest_edge"], height, width, size.get("round") == "down")
        if size.get("round") == "up":
            return math.ceil(new[0] / multiple) * multiple, math.ceil(new[1] / multiple) * multiple
        return new[0] // multiple * multiple, new[1] // multiple * multiple
    if "shortest_edge" in size:
        short, long = min(width, height), max(width, height)
        edges = (size["shortest_edge"], int(size["shortest_edge"] * long / short))
        return edges if height <= width else edges[::-1]
    if "keep_aspect" in size:
        scale = (size["height"] / height, size["width"] / width)
        kept = scale[1] if abs(1 - scale[1]) < abs(1 - scale[0]) else scale[0]  # what changes the picture less
        return round(kept * height / multiple) * multiple, round(kept * width / multiple) * multiple
    if "height" in size:
        return size["height"], size["width"]
    return height // multiple * multiple, width // multiple * multiple


def _within_edges(size: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """As ViLT does: the short edge as asked for, both smaller where the long one would be too long, then whole multiples."""
    scale = size["shortest_edge"] / min(height, width)
    high, wide = (size["shortest_edge"], scale * width) if height < width else (scale * height, size["shortest_edge"])
    if max(high, wide) > size["longest_edge"]:
        scale = size["longest_edge"] / max(high, wide)
        high, wide = scale * high, scale * wide
    multiple = size["multiple"]
    return int(high + 0.5) // multiple * multiple, int(wide + 0.5) // multiple * multiple


def _within_pixels(size: Mapping[str, Any], height: int, width: int) -> tuple[int, int]:
    """As Qwen2-VL does: whole multiples, and no fewer and no more pixels than it was trained with.

    Raises:
        UsageError: a strip, which it was not trained with.
    """
    if max(height, width) > _STRIP * min(height, width):
        raise UsageError(
            f"Cannot use a picture of {width}x{height} pixels.",
            why=f"one side is more than {_STRIP} times the other, and the model's processor refuses that",
            fix="crop it to what there is to see",
        )
    unit, least, most = size["multiple"], size["least"], size["most"]
    new = round(height / unit) * unit, round(width / unit) * unit
    if new[0] * new[1] > most:
        scale = math.sqrt(height * width / most)
        return (
            max(unit, math.floor(height / scale / unit) * unit),
            max(unit, math.floor(width / scale / unit) * unit),
        )
    if new[0] * new[1] < least:
        scale = math.sqrt(least / (height * width))
        return math.ceil(height * scale / unit) * unit, math.ceil(width * scale / unit) * unit
    return new


def _between_edges(shortest: int, longest: int, height: int, width: int, again: bool) -> tuple[int, int]:
    """The short edge as asked for, or what the long edge leaves of it.

    Args:
        again: compute the long edge even where the short one is as it should be, as YOLOS does for upright pictures.
    """
    short, long = float(min(height, width)), float(max(height, width))
    exact: Optional[float] = None
    if long / short * shortest > longest:
        exact = longest * short / long
        shortest = round(exact)
    as_it_is = (height <= width and height == shortest) or (width <= height and width == shortest)
    if as_it_is and not (again and width < height):
        return height, width
    edge = shortest if exact is None else exact
    if width < height:
        return int(edge * height / width), shortest
    return shortest, int(edge * width / height)


def processor_kind(has: Mapping[str, Any]) -> str:
    """The family of a processor: its class without what stands behind each name."""
    name = str(has.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    return name.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")


def _also(kind: str, has: Mapping[str, Any]) -> set[str]:
    if kind == "ImageGPT":
        return {"do_color_quantize"}
    if kind in TILED:
        return {"do_pad", "do_image_splitting"}  # all tiles have one size
    if kind == "Donut":
        return {"do_align_long_axis", "do_thumbnail", "do_pad"}
    # Detectors pad the pictures of a batch to the largest: one alone stays as it is.
    padded = kind in ("Swin2SR", "Vilt") or (kind in _DETECTORS and not has.get("pad_size"))
    return {"do_pad"} if padded else set()


def _donut(has: Mapping[str, Any]) -> list[Step]:
    """A page as large as fits into one size, in the middle of it."""
    size, how = _box("Donut", has.get("size")), {"filter": FILTERS[int(has["resample"])]}
    steps = [Step("align_long_axis", size)] if has.get("do_align_long_axis") else []
    if has.get("do_resize"):
        steps.append(Step("resize", {"shortest_edge": min(size.values()), **how}))
    if has.get("do_thumbnail"):
        steps.append(Step("thumbnail", {**size, **how}))
    return [*steps, Step("frame", size)] if has.get("do_pad") else steps


def _patches(has: Mapping[str, Any]) -> dict[str, Any]:
    sides = {name: int(has["patch_size"][name]) for name in ("height", "width")}
    return {**sides, "most": int(has["max_patches"]), "normalize": bool(has.get("do_normalize"))}


def _tiles(has: Mapping[str, Any]) -> Step:
    edge = has["size"]["longest_edge"] if has.get("do_resize") else 0  # to which a picture is brought before
    return Step(
        "tiles",
        {
            "side": int(has["max_image_size"]["longest_edge"]),
            "longest_edge": int(edge),
            "split": bool(has.get("do_image_splitting")),
            "filter": FILTERS[int(has["resample"])],
        },
    )


def _resize(kind: str, has: Mapping[str, Any]) -> list[Step]:
    size = {name: value for name, value in dict(has.get("size") or {}).items() if value is not None}
    resample = has.get("resample")
    if resample is None or not 0 <= int(resample) < len(FILTERS):
        raise _unserved(kind, f"its filter is {resample!r}")
    how = {"filter": FILTERS[int(resample)]}
    edge = size.get("shortest_edge")
    if kind in GRIDDED:
        unit = int(has["patch_size"]) * int(has["merge_size"])
        bounds = {"least": int(size["shortest_edge"]), "most": int(size["longest_edge"])}
        return [Step("resize", {**bounds, "multiple": unit, **how})]
    if kind == "GLPN":
        return [Step("resize", {"multiple": int(has["size_divisor"]), **how})]
    if kind == "Vilt" and edge:
        longest = int(1333 / 800 * edge)
        rounding = {"multiple": int(has["size_divisor"]), "round": "half up"}
        return [Step("resize", {"shortest_edge": int(edge), "longest_edge": longest, **rounding, **how})]
    if kind == "DPT" and {"height", "width"} <= set(size):
        return [Step("resize", {**_dpt_size(size, has), **how})]
    if kind in _DETECTORS and edge and size.get("longest_edge"):
        rounds = _BETWEEN_EDGES[kind]
        multiple = _YOLOS_MULTIPLE if rounds == "down" else int(has.get("size_divisor") or 1) if rounds else 1
        edges = {"shortest_edge": int(edge), "longest_edge": int(size["longest_edge"])}
        rounding = {"multiple": multiple, "round": rounds} if multiple > 1 else {}
        return [Step("resize", {**edges, **rounding, **how})]
    if kind in ("MaskFormer", "Mask2Former") and set(size) == {"height", "width"}:
        multiple = int(has.get("size_divisor") or 1)
        whole = {name: math.ceil(value / multiple) * multiple for name, value in size.items()}
        return [Step("resize", {**whole, **how})]
    if kind.startswith("ConvNext") and edge:
        if edge >= 384:
            return [Step("resize", {"height": edge, "width": edge, **how})]
        whole_edge = int(edge / has["crop_pct"])
        cropped = Step("center_crop", {"height": edge, "width": edge})
        return [Step("resize", {"shortest_edge": whole_edge, **how}), cropped]
    if kind == "PoolFormer" and has.get("crop_pct") is not None:
        short = edge or (size["height"] if size.get("height") == size.get("width") else 0)
        if not short:
            raise _unserved(kind, f"it resizes {size} by crop_pct")
        return [Step("resize", {"shortest_edge": int(short / has["crop_pct"]), **how})]
    if has.get("crop_pct") is not None:
        raise _unserved(kind, "it resizes by crop_pct in a way of its own")
    if kind == "Levit" and edge:
        return [Step("resize", {"shortest_edge": int(256 / 224 * edge), **how})]
    if set(size) == {"height", "width"} or set(size) == {"shortest_edge"}:
        return [Step("resize", {**{name: int(value) for name, value in size.items()}, **how})]
    raise _unserved(kind, f"its size is {size}")


def _dpt_size(size: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, Any]:
    multiple = int(has.get("ensure_multiple_of") or 1)
    if has.get("keep_aspect_ratio"):
        return {"height": int(size["height"]), "width": int(size["width"]), "keep_aspect": True, "multiple": multiple}
    return {name: round(size[name] / multiple) * multiple for name in ("height", "width")}


def _box(kind: str, size: Any) -> dict[str, int]:  # Any: JSON
    found = dict(size or {})
    if not found.get("height") or not found.get("width"):
        raise _unserved(kind, f"its crop_size is {found}")
    return {"height": int(found["height"]), "width": int(found["width"])}


def _three(value: Any) -> list[float]:  # Any: JSON
    return [float(each) for each in value] if isinstance(value, (list, tuple)) else [float(value)] * 3


def _unserved(kind: str, why: str) -> SupportError:
    return SupportError(
        f"Cannot carry the image processor {kind or 'of this model'}.",
        why=why,
        fix="resize to one size in its preprocessor_config.json, or report the checkpoint",
    )

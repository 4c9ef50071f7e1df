"""Pictures in: the steps of a model's image processor with numpy and Pillow alone, and rows of pixels.

The steps are those of transformers' processors on Pillow, in their order: resize, crop, channel order, rescale,
normalize. What comes after the crop is the same for each of the 256 values of a channel, so it is one look-up.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import IntegrityError, SupportError, UsageError
from ..manifest import Step, TaskEntry
from ..toolchain import need
from .task import Files, Input, ModelFacts, Row, Task

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PROCESSOR_FILE", "ImageTask", "image_size", "image_steps"]

PROCESSOR_FILE = "preprocessor_config.json"
MAX_PIXELS = 2**26  # of a resized picture: a line of one pixel would otherwise grow to gigabytes

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers
_WIDE = ("I", "F")  # what the modes of more than 8 bits per channel start with

# Of a processor's switches those that are served here, and those that do nothing to the picture of a classifier.
_SERVED = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order"}
_WITHOUT_EFFECT = {"do_convert_rgb", "do_reduce_labels"}  # the pipeline has made RGB before; there is no label map


def image_steps(has: Mapping[str, Any]) -> tuple[Step, ...]:  # Any: JSON
    """A processor's settings, as transformers gives them with the defaults of its class, as steps.

    Raises:
        SupportError: a step that is not served here, or a picture of no fixed size.
    """
    kind = str(has.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    odd = sorted(name for name in has if name.startswith("do_") and has[name] and name not in _SERVED | _WITHOUT_EFFECT)
    if odd:
        raise _unserved(kind, f"it has the step {odd[0]}")
    steps: list[Step] = [Step("rgb")]
    if has.get("do_resize"):
        steps += _resize(kind, has)
    if has.get("do_center_crop"):
        steps.append(Step("center_crop", _box(kind, has.get("crop_size"))))
    if not any("height" in step.options for step in steps):
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
    return tuple(steps)


def image_size(steps: Sequence[Step]) -> tuple[int, int]:
    """Height and width of what the steps make of any picture."""
    last = [step.options for step in steps if "height" in step.options][-1]
    return int(last["height"]), int(last["width"])


def _resize(kind: str, has: Mapping[str, Any]) -> list[Step]:
    size = {name: value for name, value in dict(has.get("size") or {}).items() if value is not None}
    resample = has.get("resample")
    if resample is None or not 0 <= int(resample) < len(_FILTERS):
        raise _unserved(kind, f"its filter is {resample!r}")
    how = {"filter": _FILTERS[int(resample)]}
    edge = size.get("shortest_edge")
    if kind.startswith("ConvNext") and edge:
        if edge >= 384:
            return [Step("resize", {"height": edge, "width": edge, **how})]
        whole = int(edge / has["crop_pct"])
        return [Step("resize", {"shortest_edge": whole, **how}), Step("center_crop", {"height": edge, "width": edge})]
    if has.get("crop_pct") is not None:
        raise _unserved(kind, "it resizes by crop_pct in a way of its own")
    if kind.startswith("Levit") and edge:
        return [Step("resize", {"shortest_edge": int(256 / 224 * edge), **how})]
    if set(size) == {"height", "width"} or set(size) == {"shortest_edge"}:
        return [Step("resize", {**{name: int(value) for name, value in size.items()}, **how})]
    raise _unserved(kind, f"its size is {size}")


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


class ImageTask(Task):
    """A task whose input is a picture: a path, the bytes of a file, a Pillow image, or an array [height, width, channels]."""

    modality: ClassVar[str] = "image"
    processors: ClassVar[tuple[str, ...]] = ("image_processor",)
    picture_kind: ClassVar[str] = "a path, bytes, a Pillow image, or a uint8 array [height, width, channels]"

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        self.entry_ = entry
        self._files = files
        unknown = [step.step for step in entry.preprocess if step.step not in _STEPS]
        if unknown:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why=f"this runtime does not know the step {unknown[0]!r}",
                fix="update satchel-runtimes on this device",
            )
        self._image = need("PIL.Image", extra="vision", to=f"serve {entry.name}")
        self._ops = need("PIL.ImageOps", extra="vision", to=f"serve {entry.name}")
        try:
            self.height, self.width = image_size(entry.preprocess)
            self._table = _table(entry.preprocess)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why=f"its steps are not complete ({error!r})",
                fix="convert the model again",
            ) from None

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"file": text}, {}

    @property
    def shape(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def size(self) -> int:
        return self.height

    def is_single(self, inputs: Input) -> bool:
        return not isinstance(inputs, (list, tuple))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return [Row({"pixel_values": self.pixels(self.picture(item))}, 1)]

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """An RGB picture as the model takes it, [channels, height, width]."""
        for step in self.entry_.preprocess:
            if step.step == "resize":
                picture = self._resized(picture, step.options)
            elif step.step == "center_crop":
                picture = self._cropped(picture, step.options["height"], step.options["width"])
        values: np.ndarray = np.asarray(picture)
        if any(step.step == "flip_channels" for step in self.entry_.preprocess):
            values = values[:, :, ::-1]
        made: np.ndarray = np.empty((3, *values.shape[:2]), self._table.dtype)
        for channel in range(3):
            np.take(self._table[channel], values[:, :, channel], out=made[channel])
        return made

    def _resized(self, picture: Image.Image, size: Mapping[str, Any]) -> Image.Image:
        width, height = picture.size
        if "shortest_edge" in size:
            short, long = min(width, height), max(width, height)
            edges = (size["shortest_edge"], int(size["shortest_edge"] * long / short))
            new = edges if width <= height else edges[::-1]
        else:
            new = (size["width"], size["height"])
        if math.prod(new) > MAX_PIXELS:
            raise UsageError(
                f"Cannot use a picture of {width}x{height} pixels.",
                why=f"it would be resized to {new[0]}x{new[1]}",
                fix="crop it to what there is to see",
            )
        return picture.resize(new, resample=_FILTERS.index(size["filter"]))

    def _cropped(self, picture: Image.Image, height: int, width: int) -> Image.Image:
        """From the middle; what lies outside of the picture is black. An odd rest goes where transformers has it."""
        top, left = (picture.height - height) // 2, (picture.width - width) // 2
        return picture.crop((left, top, left + width, top + height))

    def picture(self, item: Input) -> Image.Image:
        """What a user gave, upright and in RGB, as the pipeline has it before the processor.

        Raises:
            UsageError: it is no picture, or one that would lose what it shows.
        """
        if isinstance(item, np.ndarray):
            return self._of_array(item)
        given, name = item, str(item)
        name = name if len(name) <= 80 else f"…{name[-79:]}"  # the end of a path is what tells it from others
        if isinstance(item, Mapping) and set(item) == {"file"} and isinstance(item["file"], str):
            given, name = self._files.read(item["file"]), item["file"]  # a sample that travels in the bundle
        if isinstance(given, (bytes, bytearray, memoryview)):
            name = f"of {len(given):,} bytes" if given is item else name
            given = io.BytesIO(given)
        elif not isinstance(given, (str, os.PathLike, self._image.Image)):
            raise self._wrong(type(item).__name__, str(item)[:40])
        if isinstance(given, str) and given.startswith(("http://", "https://")):
            raise UsageError(
                f"Cannot read the picture {name}.", why="a device reads files", fix="download it and name the file"
            )
        image = given if isinstance(given, self._image.Image) else self._opened(given, name)
        # What decoders raise for broken files, each its own.
        broken = (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            IndexError,
            struct.error,
            self._image.DecompressionBombError,
        )
        try:
            self._check_mode(image, name)
            upright: Image.Image = self._ops.exif_transpose(image)
            return upright if upright.mode == "RGB" else upright.convert("RGB")
        except broken as error:
            raise _unreadable(name, error) from None

    def _opened(self, given: Any, name: str) -> Image.Image:  # Any: a path or a stream
        try:
            opened: Image.Image = self._image.open(given)
            return opened
        except (OSError, SyntaxError, ValueError, self._image.DecompressionBombError) as error:
            raise _unreadable(name, error) from None

    def _check_mode(self, image: Image.Image, name: str) -> None:
        if image.mode.startswith(_WIDE):
            raise UsageError(
                f"Cannot use the picture {name}.",
                why=f"its mode is {image.mode}: more than 8 bits per pixel, and all above 255 would be white",
                fix="scale its values to 0..255 and save it as 8 bits",
            )
        if not image.width or not image.height:
            raise UsageError(f"Cannot use the picture {name}.", why="it has no pixels", fix="give one that has")

    def _of_array(self, array: np.ndarray) -> Image.Image:
        channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
        if array.dtype != np.uint8 or channels not in (1, 3, 4) or not array.size:
            raise self._wrong("an array", f"{array.dtype} {list(array.shape)}")
        flat = array[:, :, 0] if array.ndim == 3 and channels == 1 else array
        made: Image.Image = self._image.fromarray(np.ascontiguousarray(flat)).convert("RGB")
        return made

    def _wrong(self, kind: str, value: str) -> UsageError:
        return UsageError(
            f"Cannot run {self.name} on {kind} {value}.",
            why=f"it takes {self.picture_kind}, or a list of them",
            fix="pass one of these",
        )


def _table(steps: Sequence[Step]) -> np.ndarray:
    """What becomes of each value of each channel, computed as transformers computes a picture."""
    values: np.ndarray = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    for step in steps:
        if step.step == "rescale":
            values = (values.astype(np.float64) * step.options["factor"]).astype(np.float32)
            if step.options.get("offset"):
                values += np.float32(step.options["offset"])
        elif step.step == "normalize":
            mean, std = (np.array(step.options[name], np.float32)[:, None] for name in ("mean", "std"))
            values = (values.astype(np.float32) - mean) / std
    return values.astype(np.float32)


_STEPS = ("rgb", "resize", "center_crop", "flip_channels", "rescale", "normalize")


def _unreadable(name: str, error: Exception) -> UsageError:
    path = isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError))
    return UsageError(
        f"Cannot read the picture {name}.",
        why=str(getattr(error, "strerror", None) or error or type(error).__name__),
        fix="check the path" if path else "give a whole picture file, for instance JPEG or PNG",
    )

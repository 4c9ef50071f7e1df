"""Pictures in: the steps of a model's image processor with numpy and Pillow alone, and rows of pixels.

The steps are those of transformers' processors on Pillow, in their order: resize, crop, channel order, rescale,
normalize. What comes after the crop is the same for each of the 256 values of a channel, so it is one look-up. Then what
a few models have beyond: pad, or colours by number.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Optional

import numpy as np

from ..errors import IntegrityError, UsageError
from ..manifest import Step, TaskEntry
from ..toolchain import need
from .image_steps import FILTERS, STEPS, image_size, image_steps, resized_size, thumbnail_size
from .patches import drawn_header, flattened, gridded, headed_size, open_font, with_header
from .task import Files, Input, ModelFacts, Row, Task

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PROCESSOR_FILE", "ImageTask", "image_size", "image_steps"]

PROCESSOR_FILE = "preprocessor_config.json"
MAX_PIXELS = 2**26  # of a resized picture: a line of one pixel would otherwise grow to gigabytes

_WIDE = ("I", "F")  # what the modes of more than 8 bits per channel start with


class ImageTask(Task):
    """A task whose input is a picture: a path, the bytes of a file, a Pillow image, or an array [height, width, channels]."""

    modality: ClassVar[str] = "image"
    processors: ClassVar[tuple[str, ...]] = ("image_processor",)
    other_steps: ClassVar[tuple[str, ...]] = ()  # of another modality, for a task that has several
    any_size: ClassVar[bool] = False  # whether a model may take each picture in a size of its own
    max_pixels: ClassVar[int] = MAX_PIXELS  # of what goes into the model
    picture_kind: ClassVar[str] = "a path, bytes, a Pillow image, or a uint8 array [height, width, channels]"

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        self.entry_ = entry
        self._files = files
        known = (*STEPS, *self.other_steps)
        unknown = [step.step for step in entry.preprocess if step.step not in known]
        if unknown:
            raise IntegrityError(
                f"Cannot serve {entry.name} from {files.path}.",
                why=f"this runtime does not know the step {unknown[0]!r}",
                fix="update satchel-runtimes on this device",
            )
        self._image = need("PIL.Image", extra="vision", to=f"serve {entry.name}")
        self._ops = need("PIL.ImageOps", extra="vision", to=f"serve {entry.name}")
        try:
            self.fixed = image_size(entry.preprocess)  # height and width; None: each picture has its own
            self._table = _table(entry.preprocess)
            self._clusters = _clusters(entry.preprocess)
            named = {step.step: step.options for step in entry.preprocess}
            self._patches, self._header, self._grid = (named.get(each) for each in ("patches", "header", "grid"))
            self._font = open_font(files.read(self._header["font"]), self._header) if self._header else None
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
        return f"{self.fixed[0]}x{self.fixed[1]}" if self.fixed else ""

    @property
    def size(self) -> int:
        return self.fixed[0] if self.fixed else 1  # what was measured is the first golden picture

    def is_single(self, inputs: Input) -> bool:
        return not isinstance(inputs, (list, tuple))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        picture = self.picture(item)
        return [Row(self.tensors(picture), 1, (picture.height, picture.width))]

    def seen(self, item: Input) -> Any:  # Any: an RGB picture, or a list of them
        """What of an input the processor is given."""
        return self.picture(item)

    def tensors(self, picture: Image.Image) -> dict[str, np.ndarray]:
        """What the graph takes of an RGB picture, without the batch axis."""
        if self._patches is not None:
            return flattened(np.asarray(picture), self._patches)
        values = self.pixels(picture)
        if self._grid is not None:
            return gridded(values, self._grid)
        if self._clusters is None:
            return {"pixel_values": values}
        return {"input_ids": _nearest(values, self._clusters)}

    def header(self, item: Input) -> str:
        """The text that is drawn above what is seen of an input; empty: none is."""
        return ""

    def looked(self, item: Input) -> dict[str, np.ndarray]:
        """What the graph takes of the picture in an input, without the batch axis."""
        seen, text = self.seen(item), self.header(item)
        if self._header is not None:
            drawn = drawn_header(text, self._font, self._header, self.max_pixels)
            width, above, below = headed_size(seen, drawn)
            self._check_size(seen, above + below, width)
            seen = with_header(seen, drawn)
        return self.tensors(seen)

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """An RGB picture as the model takes it, [channels, height, width]."""
        for step in self.entry_.preprocess:
            if step.step == "resize":
                picture = self._resized(picture, step.options)
            elif step.step == "thumbnail":
                height, width = thumbnail_size(step.options, picture.height, picture.width)
                if (height, width) != (picture.height, picture.width):
                    self._check_size(picture, height, width)
                    picture = picture.resize((width, height), resample=FILTERS.index(step.options["filter"]))
            elif step.step == "align_long_axis":
                picture = _aligned(picture, step.options["height"], step.options["width"])
            elif step.step == "frame":
                picture = _framed(picture, step.options["height"], step.options["width"])
            elif step.step == "center_crop":
                picture = self._cropped(picture, step.options["height"], step.options["width"])
        self._check_size(picture, picture.height, picture.width)
        values: np.ndarray = np.asarray(picture)
        if any(step.step == "flip_channels" for step in self.entry_.preprocess):
            values = values[:, :, ::-1]
        made: np.ndarray = np.empty((3, *values.shape[:2]), self._table.dtype)
        for channel in range(3):
            np.take(self._table[channel], values[:, :, channel], out=made[channel])
        for step in self.entry_.preprocess:
            if step.step == "pad":
                made = _mirrored(made, step.options["multiple"])
        return made

    def _resized(self, picture: Image.Image, size: Mapping[str, Any]) -> Image.Image:
        height, width = resized_size(size, picture.height, picture.width)
        self._check_size(picture, height, width)
        return picture.resize((width, height), resample=FILTERS.index(size["filter"]))

    def _check_size(self, picture: Image.Image, height: int, width: int) -> None:
        """Raises: UsageError where nothing would be left of a picture, or too much for a device's memory."""
        if height * width > self.max_pixels or not height or not width:
            limit = f"it takes at most {self.max_pixels:,} pixels" if height and width else "nothing would be left"
            raise UsageError(
                f"Cannot use a picture of {picture.width}x{picture.height} pixels.",
                why=f"the model would see it as {width}x{height}; {limit}",
                fix="crop it to what there is to see" if height and width else "give a larger one",
            )

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


def _aligned(picture: Image.Image, height: int, width: int) -> Image.Image:
    """On its side where it lies across the size."""
    across = (width < height and picture.width > picture.height) or (width > height and picture.width < picture.height)
    return picture.rotate(-90, expand=True) if across else picture


def _framed(picture: Image.Image, height: int, width: int) -> Image.Image:
    """In the middle of black; an odd rest is below and to the right.

    Raises:
        UsageError: it does not fit, as a page that is wider than the size is when its height does.
    """
    top, left = (height - picture.height) // 2, (width - picture.width) // 2
    if top < 0 or left < 0:
        raise UsageError(
            f"Cannot put a picture of {picture.width}x{picture.height} pixels into one of {width}x{height}.",
            why="the model's processor fits its longer side alone",
            fix="crop it, or pad it to the proportions of a page",
        )
    return picture.crop((-left, -top, width - left, height - top))


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


def _mirrored(values: np.ndarray, multiple: int) -> np.ndarray:
    """Up to the next multiple below and to the right, a whole one where it is a multiple already."""
    height, width = values.shape[1:]
    below, right = multiple - height % multiple, multiple - width % multiple
    padded: np.ndarray = np.pad(values, ((0, 0), (0, below), (0, right)), mode="symmetric")
    return padded


def _clusters(steps: Sequence[Step]) -> Optional[np.ndarray]:
    """The colours of a model that reads pictures as numbers of colours, float64 [colours, 3]."""
    found = [step.options["clusters"] for step in steps if step.step == "quantize_colors"]
    return np.array(found[0]) if found else None


def _nearest(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The number of the nearest colour for each pixel, row by row, int64 [pixels]; a tie goes to the first."""
    pixels = values.reshape(3, -1).T
    distances = (pixels**2).sum(axis=1)[:, None] - 2 * (pixels @ clusters.T) + (clusters.T**2).sum(axis=0)[None]
    found: np.ndarray = distances.argmin(axis=1)
    return found


def _unreadable(name: str, error: Exception) -> UsageError:
    path = isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError))
    return UsageError(
        f"Cannot read the picture {name}.",
        why=str(getattr(error, "strerror", None) or error or type(error).__name__),
        fix="check the path" if path else "give a whole picture file, for instance JPEG or PNG",
    )

"""Pictures as Pix2Struct takes them: in patches, as many as fit into a number, each with its row and column; and a question is
drawn above the picture, so that it is read as the rest of the page is.

Steps, roundings and numbers are those of `Pix2StructImageProcessor`; the resize is torch's, bilinear with antialiasing, whose
places are float32.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import IntegrityError, UsageError
from ..toolchain import need

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "MASK",
    "PATCHES",
    "PLACES",
    "drawn_header",
    "flattened",
    "grid_places",
    "gridded",
    "headed_size",
    "open_font",
    "with_header",
]

PATCHES, MASK = "flattened_patches", "attention_mask"
PLACES = "patch_places"  # row and column of each patch, where they stand in a grid


def flattened(picture: np.ndarray, step: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A picture, uint8 [height, width, 3], as float32 [patches, 2 + values], whose first two are row and column from 1 up.

    transformers fills them up with zeros, which its mask leaves out; here there are none.
    """
    high, wide, most = int(step["height"]), int(step["width"]), int(step["most"])
    values: np.ndarray = picture.astype(np.float32)
    if step["normalize"]:
        spread = max(values.std(), 1.0 / math.sqrt(values.size))
        values -= values.mean()
        values /= spread
    height, width = picture.shape[:2]
    scale = (most * (high / height) * (wide / width)) ** 0.5
    rows = max(min(int(scale * height / high), most), 1)
    columns = max(min(int(scale * width / wide), most), 1)
    values = _resized(_resized(values, columns * wide, 1), rows * high, 0)
    parts = values.reshape(rows, high, columns, wide, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    places = np.indices((rows, columns)).reshape(2, -1).T + 1
    found: np.ndarray = np.concatenate([places.astype(np.float32), parts], axis=1)
    return {PATCHES: found, MASK: np.ones(len(found), dtype=np.int64)}


def grid_places(rows: int, columns: int, merge: int) -> np.ndarray:
    """Row and column of each patch where those that become one token follow each other, int64 [patches, 2]."""
    places = np.indices((rows, columns)).reshape(2, rows // merge, merge, columns // merge, merge)
    found: np.ndarray = places.transpose(1, 3, 2, 4, 0).reshape(-1, 2)
    return found


def gridded(values: np.ndarray, step: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Qwen2-VL's patches of a picture, [3, height, width], each as often as frames of a film are one patch."""
    patch, merge, frames = int(step["patch"]), int(step["merge"]), int(step["frames"])
    rows, columns = values.shape[1] // patch, values.shape[2] // patch
    shape = (3, rows // merge, merge, patch, columns // merge, merge, patch)
    parts = values.reshape(shape).transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    found: np.ndarray = np.repeat(parts, frames, axis=5).reshape(rows * columns, -1)
    return {"pixel_values": found, PLACES: grid_places(rows, columns, merge)}


def _resized(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """One axis at another size: each new value is the mean of the old ones below a triangle, as wide as one of the larger."""
    length = values.shape[axis]
    scale = np.float32(length) / np.float32(size)
    support = np.float32(max(scale, np.float32(1)))
    # What torch rounds to float32 is rounded here: of a large picture a place differs by more than a value's own rounding.
    centers = (np.float64(scale) * (np.arange(size) + 0.5)).astype(np.float32)
    first = np.maximum(((centers - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    last = np.minimum(((centers + support).astype(np.float64) + 0.5).astype(np.int64), length)
    narrow = np.float32(1) / scale if scale >= 1 else np.float32(1)
    taps: np.ndarray = np.arange(int((last - first).max()))
    places = first[:, None] + taps
    distances = (places.astype(np.float32) - centers[:, None]).astype(np.float64) + 0.5
    weights = 1 - np.abs((distances * np.float64(narrow)).astype(np.float32))
    weights = np.where(places < last[:, None], np.maximum(weights, 0), 0).astype(np.float32)
    weights /= np.cumsum(weights, axis=1, dtype=np.float32)[:, -1:]  # one after the other: numpy's sum is more exact
    shape = (1, size, 1) if axis else (size, 1, 1)
    found: np.ndarray = np.zeros((values.shape[0], size, 3) if axis else (size, *values.shape[1:]), np.float32)
    for tap in taps:
        near = np.take(values, np.minimum(places[:, tap], length - 1), axis=axis)
        near *= weights[:, tap].reshape(shape)
        found += near
    return found


def open_font(data: bytes, step: Mapping[str, Any]) -> Any:  # Any: of Pillow, without types
    """Raises: IntegrityError for what is no font."""
    fonts = need("PIL.ImageFont", extra="vision", to="draw a question")
    try:
        return fonts.truetype(io.BytesIO(data), size=int(step["size"]), encoding="UTF-8")
    except OSError as error:
        raise IntegrityError(
            f"Cannot read the font {step['font']}.", why=str(error), fix="convert again, with a TrueType font"
        ) from None


def drawn_header(text: str, font: Any, step: Mapping[str, Any], most_pixels: int) -> Image.Image:
    """Black on white, in lines of so many characters.

    Raises:
        UsageError: it cannot be drawn, or it would be too large.
    """
    image: Any = need("PIL.Image", extra="vision", to="draw a question")
    draw = need("PIL.ImageDraw", extra="vision", to="draw a question")
    lines = "\n".join(textwrap.TextWrapper(width=int(step["columns"])).wrap(text))
    try:
        _, _, right, below = draw.Draw(image.new("RGB", (1, 1))).textbbox((0, 0), lines, font=font)
    except (ValueError, RuntimeError, OSError) as error:  # Pillow's, each for another character or length
        raise UsageError(
            "Cannot draw the question.",
            why=f"Pillow says: {error}",
            fix="leave out control characters and what is no text",
        ) from None
    margin = int(step["margin"])
    width, height = int(right) + 2 * margin, int(below) + 2 * margin
    if width * height > most_pixels:
        raise UsageError(
            f"Cannot draw a question of {len(text):,} characters.",
            why=f"it would be a picture of {width}x{height}; this task takes at most {most_pixels:,} pixels",
            fix="ask a shorter one",
        )
    made: Image.Image = image.new("RGB", (width, height), "white")
    draw.Draw(made).text((margin, margin), lines, fill="black", font=font)
    return made


def headed_size(picture: Image.Image, header: Image.Image) -> tuple[int, int, int]:
    """The common width, and the heights of both, which keep their proportions."""
    width = max(header.width, picture.width)
    return width, int(header.height * (width / header.width)), int(picture.height * (width / picture.width))


def with_header(picture: Image.Image, header: Image.Image) -> Image.Image:
    image: Any = need("PIL.Image", extra="vision", to="draw a question")
    width, above, below = headed_size(picture, header)
    made: Image.Image = image.new("RGB", (width, above + below), "white")
    made.paste(header.resize((width, above)), (0, 0))
    made.paste(picture.resize((width, below)), (0, above))
    return made

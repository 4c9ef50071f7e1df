"""The built-in pictures: those that every conversion is judged on, and others that a static scheme is calibrated on.

They are drawn by code, alike on every machine: gradients, shapes, stripes, soft and hard textures and noise, in many
sizes and aspect ratios. A bundle carries the judged ones as PNG files, so a device replays them without this code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from satchel_runtimes.tasks import task_class
from satchel_runtimes.toolchain import need

__all__ = ["CALIBRATION_PICTURES", "PICTURES", "draw", "write_pictures"]

PICTURES = tuple(f"golden/pictures/{number:02}.png" for number in range(64))
# None of these is judged, as with texts.
CALIBRATION_PICTURES = tuple(f"calibration/{number:02}.png" for number in range(48))
_CALIBRATION_SEED = 1000

_SIZES = ((96, 96), (128, 72), (72, 128), (160, 120), (61, 97), (224, 224), (33, 33), (200, 50), (120, 160), (48, 190))


def write_pictures(tasks: Sequence[str], folder: Path) -> list[str]:
    """Draw what tasks on pictures need below `folder`; the names of those that a bundle carries."""
    if not any("image" in task_class(name).modality.split("+") for name in tasks):
        return []
    for first, names in ((0, PICTURES), (_CALIBRATION_SEED, CALIBRATION_PICTURES)):
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            draw(first + number).save(folder / name, optimize=True)
    return list(PICTURES)


def draw(number: int) -> Any:  # Any: an image of a package imported late
    """One picture of the endless row."""
    image = need("PIL.Image", extra="vision", to="draw the built-in pictures")
    chance = np.random.RandomState(number)  # its stream is frozen, unlike that of newer generators
    width, height = _SIZES[chance.randint(len(_SIZES))]
    kind = _KINDS[number % len(_KINDS)]
    return image.fromarray(kind(height, width, chance))


def _gradient(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """From one colour to another, along a direction."""
    one, other = _colours(chance, 2)
    rows, columns = np.mgrid[:height, :width]
    down, right = chance.randint(0, 5, 2) + (1, 0)
    place = rows * down * width + columns * right * height
    return _mixed(one, other, place, int(place.max()))


def _disc(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """A few discs, one over the other, on a gradient."""
    picture = _gradient(height, width, chance)
    rows, columns = np.mgrid[:height, :width]
    for colour in _colours(chance, chance.randint(1, 6)):
        row, column = chance.randint(height), chance.randint(width)
        radius = chance.randint(4, max(height, width) // 2)
        picture[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = colour
    return picture


def _boxes(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """A street of houses: a sky, a ground, upright boxes with windows."""
    picture = _gradient(height, width, chance)
    ground = height * 3 // 4
    picture[ground:] = _colours(chance, 1)[0]
    left = 0
    while left < width:
        wide, high = chance.randint(8, 40), chance.randint(8, ground)
        wall, window = _colours(chance, 2)
        picture[ground - high : ground, left : left + wide - 2] = wall
        picture[ground - high + 3 : ground - 3 : 7, left + 3 : left + wide - 5 : 5] = window
        left += wide
    return picture


def _stripes(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """Bands of two colours, in any direction."""
    one, other = _colours(chance, 2)
    rows, columns = np.mgrid[:height, :width]
    band = (rows * chance.randint(0, 4) + columns * chance.randint(1, 4)) // chance.randint(2, 24)
    striped: np.ndarray = np.where((band % 2 == 0)[..., None], one, other)
    return striped


def _checks(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """A board of several colours."""
    colours = _colours(chance, 4)
    rows, columns = np.mgrid[:height, :width]
    step = chance.randint(3, 30)
    found: np.ndarray = colours[(rows // step * 3 + columns // step) % 4]
    return found


def _clouds(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """Soft noise: a coarse grid of colours, drawn large."""
    image = need("PIL.Image", extra="vision", to="draw the built-in pictures")
    coarse = chance.randint(0, 256, (chance.randint(2, 9), chance.randint(2, 9), 3)).astype(np.uint8)
    large = image.fromarray(coarse).resize((width, height), resample=2)
    soft: np.ndarray = np.array(large) // 4 * 4  # fewer values: a third of the file
    return soft


def _rings(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """Waves around a point, as in wood or water."""
    one, other = _colours(chance, 2)
    rows, columns = np.mgrid[:height, :width]
    distance = (rows - chance.randint(height)) ** 2 + (columns - chance.randint(width)) ** 2
    wave = distance // chance.randint(5, 60) % 64
    return _mixed(one, other, np.minimum(wave, 64 - wave), 32)


def _noise(height: int, width: int, chance: np.random.RandomState) -> np.ndarray:
    """Grain over a colour. Small, for noise cannot be packed."""
    height, width = min(height, 64), min(width, 64)
    grain = chance.randint(-(2 ** chance.randint(2, 8)), 2 ** chance.randint(2, 8), (height, width, 3))
    noisy: np.ndarray = np.clip(_colours(chance, 1)[0].astype(np.int64) + grain, 0, 255).astype(np.uint8)
    return noisy


_KINDS = (_gradient, _disc, _boxes, _stripes, _checks, _clouds, _rings, _noise)


def _colours(chance: np.random.RandomState, count: int) -> np.ndarray:
    return chance.randint(0, 256, (count, 3)).astype(np.uint8)


def _mixed(one: np.ndarray, other: np.ndarray, place: np.ndarray, whole: int) -> np.ndarray:
    """Whole numbers throughout, so that no machine rounds another way."""
    share = place[..., None]
    mixed: np.ndarray = (one.astype(np.int64) * (whole - share) + other.astype(np.int64) * share) // max(whole, 1)
    return mixed.astype(np.uint8)

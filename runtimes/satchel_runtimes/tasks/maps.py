"""Maps over a picture, such as depths or masks: brought to another size as torch brings them, with numpy alone."""

from __future__ import annotations

import numpy as np

__all__ = ["BICUBIC", "BILINEAR", "best_of", "resized"]

BILINEAR, BICUBIC = "bilinear", "bicubic"

_CUBIC = -0.75  # torch's coefficient; Pillow has -0.5
_BAND = 2**24  # values that one band of a map with many channels may have at a time


def resized(maps: np.ndarray, height: int, width: int, kind: str = BILINEAR) -> np.ndarray:
    """The same as `torch.nn.functional.interpolate(maps, (height, width), mode=kind, align_corners=False)`.

    Args:
        maps: float32 [..., rows, columns].
        kind: BILINEAR or BICUBIC.

    Returns:
        float32 [..., height, width]; sums are in another order than torch's, so 1e-6 may differ.
    """
    return _along(_along(maps, -1, width, kind), -2, height, kind)


def best_of(maps: np.ndarray, height: int, width: int, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of a picture the channel of `maps` that is largest there, after `resized`.

    It is computed in bands of rows: 150 channels of a photograph would have gigabytes.

    Args:
        maps: float32 [channels, rows, columns].

    Returns:
        int64 [height, width], and for each channel how many pixels reach the threshold, int64 [channels].
    """
    wide = _along(maps, -1, width, BILINEAR)
    places, weights = _taps(maps.shape[-2], height, BILINEAR)
    found: np.ndarray = np.empty((height, width), np.int64)
    reached: np.ndarray = np.zeros(len(maps), np.int64)
    rows = max(1, _BAND // max(maps.shape[0] * width, 1))
    for first in range(0, height, rows):
        band = slice(first, first + rows)
        values = _sum(wide, -2, places[band], weights[band])
        found[band] = values.argmax(axis=0)
        reached += (values >= threshold).sum(axis=(1, 2))
    return found, reached


def _along(maps: np.ndarray, axis: int, size: int, kind: str) -> np.ndarray:
    if maps.shape[axis] == size:
        return maps
    return _sum(maps, axis, *_taps(maps.shape[axis], size, kind))


def _sum(maps: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Each value along the axis as a weighted sum of a few of the old ones."""
    shape = [1] * maps.ndim
    shape[axis] = len(places)
    made: np.ndarray = np.take(maps, places[:, 0], axis=axis) * weights[:, 0].reshape(shape)
    for tap in range(1, places.shape[1]):
        made += np.take(maps, places[:, tap], axis=axis) * weights[:, tap].reshape(shape)
    return made


def _taps(old: int, new: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Which of `old` places each of `new` ones is made of, int64 [new, taps], and their float32 weights."""
    # torch rounds the scale to float32, and the place after product and difference, at once.
    centre = ((np.arange(new) + 0.5) * float(np.float32(old / new)) - 0.5).astype(np.float32)
    if kind == BILINEAR:
        centre = np.maximum(centre, 0)
    first = np.floor(centre)
    rest = centre - first
    offsets = (0, 1) if kind == BILINEAR else (-1, 0, 1, 2)
    far = [np.abs(rest - offset) for offset in offsets]
    weights = [1 - each if kind == BILINEAR else _cubic(each) for each in far]
    places = np.clip(first.astype(np.int64)[:, None] + np.array(offsets), 0, old - 1)
    return places, np.stack(weights, axis=1).astype(np.float32)


def _cubic(far: np.ndarray) -> np.ndarray:
    near = ((_CUBIC + 2) * far - (_CUBIC + 3)) * far * far + 1
    rest = ((far - 5) * far + 8) * far * _CUBIC - 4 * _CUBIC
    result: np.ndarray = np.where(far <= 1, near, rest)
    return result

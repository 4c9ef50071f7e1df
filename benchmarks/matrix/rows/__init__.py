"""The rows, a file for each kind of model. A new architecture is one entry in one of them."""

from __future__ import annotations

from ..row import Row
from . import (
    audio,
    decoders,
    detectors,
    documents,
    generators,
    hearing,
    joined,
    moses,
    pages,
    pixels,
    seeing,
    speakers,
    tables,
    text,
    towers,
    translators,
    video,
    vision,
    writers,
)

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (
    *text.ROWS,
    *moses.ROWS,
    *decoders.ROWS,
    *generators.ROWS,
    *writers.ROWS,
    *translators.ROWS,
    *hearing.ROWS,
    *pixels.ROWS,
    *seeing.ROWS,
    *speakers.ROWS,
    *vision.ROWS,
    *detectors.ROWS,
    *audio.ROWS,
    *towers.ROWS,
    *video.ROWS,
    *documents.ROWS,
    *tables.ROWS,
    *joined.ROWS,
    *pages.ROWS,
)

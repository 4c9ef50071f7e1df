"""The part of the training rows that a search judges by, so that its result can be judged on rows that it never saw."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example

from .data import Data

__all__ = ["hold_out"]

_OF_HUNDRED = 20
_MOST = 1000  # more take longer in every trial, and narrow the interval little
_LEAST = 30


def hold_out(data: Data) -> Data:
    """The same data with a fifth of the training rows in place of the evaluation rows.

    The content of an input decides, so that a repeated one is on one side, and the side is that of every run. Where
    there are too few rows to train on, the calibration rows are judged by.

    Raises:
        UsageError: too few of both.
    """
    held = [each for each in data.train if _place(each) < _OF_HUNDRED]
    if len(held) >= _LEAST:
        kept = tuple(each for each in data.train if _place(each) >= _OF_HUNDRED)
        return dataclasses.replace(data, train=kept, evaluation=tuple(held[:_MOST]))
    if len(data.calibration) >= _LEAST:
        return dataclasses.replace(data, evaluation=data.calibration[:_MOST])
    raise UsageError(
        f"Cannot search with {data.path}.",
        why=f"a search judges by rows that its result is not judged on: of {len(data.train)} training rows {len(held)} are "
        f"held out, and there are {len(data.calibration)} for calibration; at least {_LEAST} are needed",
        fix="add rows for training, or name a file or folder for them (train, validation, test)",
    )


def _place(example: Example) -> int:
    content = json.dumps(example.input, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    return int(hashlib.sha256(b"held out" + content).hexdigest()[:8], 16) % 100

"""TorchScript archives that keep what they have alike in one file beside them.

An archive is a zip of the graph's code and of one member for each tensor. What several graphs of a model have is taken out of them:
`SHARED` in each says which members are missing and by what name the common file, a zip too, has them.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Union

from ..errors import IntegrityError

__all__ = ["SHARED", "whole"]

SHARED = "satchel-shared.json"  # {member: name in the common file}


def whole(graph: Union[str, bytes], weights: Union[str, bytes], where: str) -> io.BytesIO:
    """The archive as it was written, in memory.

    Raises:
        IntegrityError: the two do not belong together.
    """
    made = io.BytesIO()
    try:
        with _opened(graph) as own, _opened(weights) as common, zipfile.ZipFile(made, "w") as joined:
            taken = json.loads(own.read(SHARED))
            for name in own.namelist():
                if name != SHARED:
                    joined.writestr(name, own.read(name))
            for name, digest in taken.items():
                joined.writestr(name, common.read(digest))
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
        raise IntegrityError(
            f"Cannot load {where}.", why=f"its weights do not fit the graph: {error}", fix="convert the model again"
        ) from None
    made.seek(0)
    return made


def _opened(given: Union[str, bytes]) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(given) if isinstance(given, bytes) else given)

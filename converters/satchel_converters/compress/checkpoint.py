"""A training run as one file: weights, optimizer, random numbers and figures, from which it goes on as if nothing was.

safetensors holds all of it, so loading one runs no code; a new file takes the place of the old in one step.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from satchel_runtimes.errors import SatchelError

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    tensors: Mapping[str, torch.Tensor]
    figures: Mapping[str, Any]  # Any: JSON


def write_checkpoint(file: Path, checkpoint: Checkpoint) -> None:
    """Raises: SatchelError where there is no room for it, or the folder cannot be written."""
    from safetensors.torch import save

    beside = file.with_name(f".{file.name}.{os.getpid()}")
    # Tied weights are one tensor under two names, which safetensors would refuse.
    tensors = {
        name: each.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, each in checkpoint.tensors.items()
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(save(tensors, {"figures": json.dumps(checkpoint.figures)}))
        os.replace(beside, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise SatchelError(
            f"Cannot write the checkpoint {file}.",
            why=f"{'the disk is full: ' if full else ''}{error.strerror}",
            fix=f"free {sum(each.nbytes for each in tensors.values()) / 2**20:.0f} MiB there, or choose another disk: "
            "checkpoints lie beside --out, those of convert in SATCHEL_CACHE",
        ) from None


def read_checkpoint(file: Path, run: str) -> Checkpoint | None:
    """What an earlier run of the same name left; None where there is none, or it is of another run or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            figures = json.loads(opened.metadata()["figures"])
            if figures.get("run") != run:
                return None
            return Checkpoint({name: opened.get_tensor(name) for name in opened.keys()}, figures)  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None

"""The weights of a graph that is being exported lie in memory once: as the model's own until they are written, then as the file.

A graph is traced for its structure alone, and given views of the module's tensors by their names. Once it is saved, the module
reads its weights from the file, whose pages the engine that checks the export maps as well.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from satchel_runtimes.errors import ParityError
from satchel_runtimes.toolchain import need

__all__ = ["Bound", "bind_weights", "read_from_file"]

_SMALL = 1 << 20  # bytes of a tensor that may as well be there twice
_OFTEN = 1 << 27  # bytes after which what was freed is given back to the system


@dataclass(frozen=True)
class Bound:
    """A module's tensor, and the order of its axes in which a graph has it."""

    tensor: torch.Tensor
    order: tuple[int, ...]

    @property
    def view(self) -> torch.Tensor:
        return self.tensor.detach().permute(self.order)


def bind_weights(program: Any, module: torch.nn.Module) -> Mapping[str, Bound]:  # Any: onnx_ir.Model, without types
    """Give a graph that was traced without its weights the module's own, for the inputs that have their names.

    A weight that the graph only ever turns over becomes the turned view. One that it also takes as it is, an embedding table
    that is the head too, is stored once and turned by the engine when it loads the graph.
    """
    ir = need("onnx_ir", extra="convert", to="export to ONNX", of="satchel")
    adapters = need("onnx_ir.tensor_adapters", extra="convert", to="export to ONNX", of="satchel")
    graph, tensors = program.graph, module.state_dict(keep_vars=True)
    bound: dict[str, Bound] = {}
    for value in [each for each in graph.inputs if each.name in tensors]:
        graph.inputs.remove(value)
        tensor = tensors[value.name]
        order = tuple(range(tensor.ndim))
        users = [node for node, _ in value.uses()]
        turned = {tuple(n.attributes["perm"].as_ints()) if n.op_type == "Transpose" else () for n in users}
        if len(turned) == 1 and turned != {()}:
            (order,) = turned
            for node in users:
                node.outputs[0].replace_all_uses_with(value)
                graph.remove(node, safe=True)
        bound[value.name] = Bound(tensor, order)
        view = bound[value.name].view
        value.shape = ir.Shape(list(view.shape))
        value.const_value = adapters.TorchTensor(view, name=value.name)
        graph.register_initializer(value)
    return bound


def read_from_file(bound: Mapping[str, Bound], file: Path) -> Callable[[], None]:
    """Let the large ones be what a saved graph has in its file of weights; what they were is freed.

    Returns: what gives their memory back until they are read again.

    Raises:
        ParityError: something else was written.
    """
    ir = need("onnx_ir", extra="convert", to="export to ONNX", of="satchel")
    maps: list[mmap.mmap] = []
    freed = 0
    for name, value in ir.load(file).graph.initializers.items():
        lies = value.const_value
        if name not in bound or not isinstance(lies, ir.ExternalTensor) or lies.nbytes < _SMALL:
            continue
        own = bound[name]
        at = lies.offset or 0
        page = at % mmap.ALLOCATIONGRANULARITY
        with Path(lies.path).open("rb") as opened:
            # Copied where something writes to it, which nothing does: torch wants memory that it could write.
            mapped = mmap.mmap(opened.fileno(), lies.nbytes + page, access=mmap.ACCESS_COPY, offset=at - page)
        raw = torch.frombuffer(mapped, dtype=own.tensor.dtype, offset=page, count=own.tensor.numel())
        written = raw.reshape(own.view.shape)
        if not torch.equal(written, own.view):
            raise ParityError(
                f"The weights of {file.name} were written wrongly.",
                why=f"{name} is not what the model has",
                fix="check the disk; no bundle was written",
            )
        own.tensor.data = written.permute(tuple(int(place) for place in np.argsort(own.order)))
        maps.append(mapped)
        freed += lies.nbytes
        if freed > _OFTEN:
            freed = 0
            _give_back()
    return lambda: _let_go(maps)


def _let_go(maps: Sequence[mmap.mmap]) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):  # elsewhere the system takes such pages when it needs them
        for each in maps:
            each.madvise(mmap.MADV_DONTNEED)
    _give_back()


def _give_back() -> None:
    """glibc keeps what was freed between two things that are in use; others do not."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)

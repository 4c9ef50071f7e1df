"""Rotary positions as one operator in ONNX: by torch's own steps they are a third of a decoder's nodes.

Models call the `apply_rotary_pos_emb` of their own module. Where that turns halves of a head, as most do, an export calls
onnxruntime's RotaryEmbedding in its place:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.RotaryEmbedding
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["fused_rotary", "plain_turn", "turns_halves"]

_NAME = "apply_rotary_pos_emb"


@contextlib.contextmanager
def plain_turn(model: torch.nn.Module) -> Iterator[None]:
    """Inside, a model that turns neighbours does so by reshapes: of a flattened end torch's exporter does not know the rank, and of
    repeats it keeps the traced size."""
    module = sys.modules[type(model).__module__]
    own = getattr(module, _NAME, None)
    if own is None or not _agrees(own, _by_neighbours):
        yield
        return
    setattr(module, _NAME, _by_neighbours)
    try:
        yield
    finally:
        setattr(module, _NAME, own)


def _by_neighbours(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    size = int(cos.shape[-1])
    half = [each[:, None, :, : size // 2, None] for each in (cos, sin)]

    def turned(states: torch.Tensor) -> torch.Tensor:
        first, second = states[..., 0:size:2, None], states[..., 1:size:2, None]
        pairs = torch.cat([first * half[0] - second * half[1], second * half[0] + first * half[1]], dim=-1)
        flat = pairs.reshape(states.shape[0], states.shape[1], states.shape[2], size)
        return torch.cat([flat, states[..., size:]], dim=-1)

    return turned(q), turned(k)


@contextlib.contextmanager
def fused_rotary(model: torch.nn.Module, halves: bool) -> Iterator[None]:
    """Inside, and while torch exports to ONNX, the model's own rotary positions are the operator, if they turn halves."""
    module = sys.modules[type(model).__module__]
    if not halves or not torch.onnx.is_in_onnx_export():
        yield
        return
    own = getattr(module, _NAME)
    setattr(module, _NAME, _operator(own))
    try:
        yield
    finally:
        setattr(module, _NAME, own)


def _operator(own: Callable[..., Any]) -> Callable[..., Any]:
    tables: dict[int, tuple[torch.Tensor, ...]] = {}  # all layers turn by the same angles

    def apply(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **others: Any) -> Any:
        if others or q.shape[-1] != cos.shape[-1] or cos.dim() != 3:
            return own(q, k, cos, sin, **others)
        if id(cos) not in tables:
            batch, length, size = cos.shape
            half = int(size) // 2
            rows = torch.arange(batch * length).reshape(batch, length)
            # The operator wants a table and each token's row in it. The angles are those of the tokens already.
            tables[id(cos)] = (rows, cos[..., :half].reshape(-1, half), sin[..., :half].reshape(-1, half), cos)
        rows, cosines, sines, _ = tables[id(cos)]
        return tuple(_Rotary.apply(each, rows, cosines, sines, int(each.shape[1])) for each in (q, k))  # type: ignore[no-untyped-call]  # torch's own

    return apply


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, *others: Any) -> torch.Tensor:
        return torch.zeros(list(map(int, states.shape)))  # its shape alone: see `attention`

    @staticmethod
    def symbolic(g: Any, states: Any, rows: Any, cosines: Any, sines: Any, heads: int) -> Any:
        # Heads side by side, as products and attention have them: the exporter's optimizer takes transposes out that meet.

        def constant(numbers: list[int]) -> Any:
            return g.op("Constant", value_t=torch.tensor(numbers))

        flat = g.op("Reshape", g.op("Transpose", states, perm_i=[0, 2, 1, 3]), constant([0, 0, -1]))
        turned = g.op("com.microsoft::RotaryEmbedding", flat, rows, cosines, sines, num_heads_i=heads)
        turned.setType(states.type().with_sizes([None, None, None]))
        return g.op("Transpose", g.op("Reshape", turned, constant([0, 0, heads, -1])), perm_i=[0, 2, 1, 3])


def turns_halves(model: torch.nn.Module) -> bool:
    """Whether the model has rotary positions that turn one half of a head with the other."""
    own = getattr(sys.modules[type(model).__module__], _NAME, None)
    return own is not None and _agrees(own, _by_halves)


def _by_halves(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    turned = [torch.cat([-each[..., 4:], each[..., :4]], dim=-1) for each in (q, k)]
    return tuple(each * cos[:, None] + other * sin[:, None] for each, other in zip((q, k), turned, strict=True))


@functools.lru_cache(maxsize=64)  # asked again while torch.export traces, where nothing can be compared
def _agrees(own: Callable[..., Any], other: Callable[..., Any]) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k, angles = (torch.randn(shape, generator=generator) for shape in ((1, 2, 3, 8), (1, 1, 3, 8), (1, 3, 4)))
    cos, sin = (torch.cat([each, each], dim=-1) for each in (angles.cos(), angles.sin()))
    try:
        found = own(q, k, cos, sin)
    except (RuntimeError, TypeError, ValueError, IndexError):  # made for other shapes, or with other arguments
        return False
    pairs = zip(other(q, k, cos, sin), found, strict=True)
    return all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in pairs)

"""Attention over a cache that is written in place, for every architecture that asks transformers' attention interface.

transformers passes queries and the new keys and values to the function that is registered under `NAME`, before anything was
cached (https://huggingface.co/docs/transformers/attention_interface). Here they meet the cache that `attending` holds: new
keys and values go to the places that position_ids says, and a query sees the places up to its own. So no mask is needed, rows
of different lengths lie side by side without holes, and padding on the right is written over by the next token.

In ONNX that is one operator, onnxruntime's GroupQueryAttention, which works in the cache's own memory:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupQueryAttention
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

__all__ = [
    "AMONG",
    "NAME",
    "Asked",
    "Held",
    "across",
    "among",
    "attend",
    "attending",
    "held_capacity",
    "held_positions",
    "held_present",
    "register",
    "writing_in_place",
    "written",
]

NAME = "satchel"
AMONG = "satchel-among"  # of an encoder that sees all of its input, in place of torch's own

Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values, [batch, key heads, capacity, head size]
Shape = tuple[int, int]
Holder = TypeVar("Holder", "Held", "Asked")


@dataclass
class Held:
    """The cache during one call: layers take their part in the order in which they come."""

    positions: torch.Tensor  # [batch, sequence], int64, each row in a run
    past: Sequence[Pair]
    present: list[Pair] = field(default_factory=list)
    crossing: bool = False  # whether the next keys are an encoder's, which are all seen and never added to
    before: Sequence[Pair] = ()  # of each layer: keys and values that every query sees beside those of its own text
    seen: torch.Tensor | None = None  # of those keys: [batch, encoder sequence], 1 where there is one; None: everywhere
    asked: list[torch.Tensor] = field(
        default_factory=list
    )  # by layer, of an encoder: scaled queries, by token and head
    near: torch.Tensor | None = None  # places in layers with a sliding window, where these are others; as `positions`

    def next(self) -> Pair:
        return self.past[len(self.present)]


@dataclass
class Asked:
    """What layers ask for, while nothing is computed: the shapes of the cache that they need."""

    shapes: list[tuple[Shape, Shape]] = field(default_factory=list)  # heads and size of keys and of values
    windows: list[int | None] = field(default_factory=list)  # tokens that each sees; None: all
    crossing: bool = False


_HELD: list[Held | Asked] = []


@contextlib.contextmanager
def attending(held: Holder) -> Iterator[Holder]:
    _HELD.append(held)
    try:
        yield held
    finally:
        _HELD.pop()


def register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_ATTENTION_FUNCTIONS.register(AMONG, _attend_among)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,  # ALiBi's, one of each head: of a place's number, which shifts all scores alike
    position_bias: torch.Tensor | None = None,  # T5's, [batch, heads, sequence, capacity]; it has none across
    **others: Any,  # dropout and what only other implementations read
) -> tuple[torch.Tensor, None]:
    """[batch, heads, sequence, head size] to [batch, sequence, heads, head size]."""
    held, heads, kept = _HELD[-1], int(query.shape[1]), int(key.shape[1])
    scale = float(scaling if scaling is not None else query.shape[-1] ** -0.5)
    if isinstance(held, Asked):
        if not held.crossing:
            held.shapes.append(((kept, int(key.shape[3])), (kept, int(value.shape[3]))))
            held.windows.append(None if sliding_window is None else int(sliding_window))
        held.crossing = False
        return torch.zeros(query.shape[0], query.shape[2], heads, value.shape[3]), None
    if held.crossing:
        held.crossing = False
        by_token = query.transpose(1, 2)
        held.asked.append(by_token if scale == 1.0 else by_token * scale)
        return across(query, key, value, held.seen, scale, heads), None
    past_key, past_value = held.next()
    window = -1 if sliding_window is None else int(sliding_window)
    # The operator has one size for keys and values, of whole groups of eight.
    same = int(key.shape[-1]) == int(value.shape[-1]) and int(key.shape[-1]) % 8 == 0
    places = held.positions if held.near is None or window < 0 else held.near
    plain = (query, key, value, past_key, past_value, places, scale, window, float(softcap or 0.0))
    before = held.before[len(held.present)] if held.before else None
    more = (s_aux, slopes, position_bias, before)
    if torch.onnx.is_in_onnx_export() and same and all(each is None for each in more):
        result, keys, values = _Fused.apply(*plain, heads, kept)  # type: ignore[no-untyped-call]  # torch's own
    else:
        result, keys, values = _attention(*plain, *more)
    held.present.append((keys, values))
    return result.reshape(result.shape[0], result.shape[1], heads, int(value.shape[-1])), None


class _Fused(torch.autograd.Function):
    """The operator, for torch's tracing exporter. It records what `forward` does as well and throws that away, badly where it is
    much; so that gives shapes alone, and what the graph computes is compared with the module afterwards."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: Any, value: torch.Tensor, *given: Any) -> Any:
        batch, heads, length, _ = (int(size) for size in query.shape)
        past_key, past_value = given[:2]
        result = torch.zeros(batch, length, heads * int(value.shape[-1]))
        return result, torch.zeros(list(map(int, past_key.shape))), torch.zeros(list(map(int, past_value.shape)))

    @staticmethod
    def symbolic(
        g: Any,
        query: Any,
        key: Any,
        value: Any,
        past_key: Any,
        past_value: Any,
        positions: Any,
        scale: float,
        window: int,
        softcap: float,
        heads: int,
        kept: int,
    ) -> Any:
        def constant(numbers: Any) -> Any:
            return g.op("Constant", value_t=torch.tensor(numbers))

        int32 = 6
        last = g.op("Gather", positions, constant(-1), axis_i=1)  # of each row: the places before it are its cache
        total = g.op("Add", g.op("ReduceMax", positions, keepdims_i=0), constant(1))
        softcaps = {"softcap_f": softcap} if softcap else {}
        result, present_key, present_value = g.op(
            "com.microsoft::GroupQueryAttention",
            _flat(g, query),
            _flat(g, key),
            _flat(g, value),
            past_key,
            past_value,
            g.op("Cast", last, to_i=int32),
            g.op("Cast", total, to_i=int32),
            num_heads_i=heads,
            kv_num_heads_i=kept,
            scale_f=scale,
            local_window_size_i=window,
            **softcaps,
            outputs=3,
        )
        # Said here, or the exporter casts what it does not know.
        result.setType(query.type().with_sizes([None, None, None]))
        present_key.setType(past_key.type())
        present_value.setType(past_value.type())
        return result, present_key, present_value


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_key: torch.Tensor,
    past_value: torch.Tensor,
    positions: torch.Tensor,
    scale: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None,
    slopes: torch.Tensor | None,
    position_bias: torch.Tensor | None,
    before: Pair | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same in plain operators: [batch, sequence, heads * size], and the cache with the new keys and values in it."""
    keys, values = written(past_key, key, positions), written(past_value, value, positions)
    batch, heads, length, size = query.shape
    kept, capacity = keys.shape[1], keys.shape[2]
    groups = int(heads) // int(kept)
    grouped = query.reshape(batch, kept, groups * length, size) * scale
    scores = torch.matmul(grouped, keys.transpose(2, 3))
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    places = torch.arange(capacity, device=positions.device)
    seen = places <= positions[:, :, None]
    if window > 0:
        seen = seen & (places > positions[:, :, None] - window)
    bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    bias = bias[:, None].expand(batch, groups, length, capacity).reshape(batch, 1, groups * length, capacity)
    if slopes is not None:
        lines = slopes.reshape(1, kept, groups, 1, 1) * places
        scores = scores + lines.expand(1, kept, groups, length, capacity).reshape(1, kept, groups * length, capacity)
    if position_bias is not None:
        scores = scores + position_bias.reshape(batch, kept, groups * length, capacity)
    scores = scores + bias
    if sinks is not None:
        sink = sinks.reshape(1, kept, groups, 1).expand(batch, kept, groups, length)
        scores = torch.cat([scores, sink.reshape(batch, kept, groups * length, 1)], dim=-1)
    if before is not None:
        scores = torch.cat([scores, torch.matmul(grouped, before[0].transpose(2, 3))], dim=-1)
    whole = torch.softmax(scores, dim=-1)
    result = torch.matmul(whole[..., :capacity], values)
    if before is not None:
        result = result + torch.matmul(whole[..., capacity:], before[1])
    result = result.reshape(batch, heads, length, values.shape[-1])
    return result.transpose(1, 2).reshape(batch, length, heads * values.shape[-1]), keys, values


def held_positions() -> torch.Tensor | None:
    """Of the tokens of the decoder's call; None in an encoder's."""
    return _HELD[-1].positions if _HELD and isinstance(_HELD[-1], Held) else None


def held_capacity() -> int:
    """Of the cache in the decoder's call."""
    held = _HELD[-1]
    assert isinstance(held, Held)  # it has positions
    return held.past[0][0].shape[2]


def held_present() -> Pair:
    """The keys and values of the layer that attended last in the decoder's call, those of its new tokens among them."""
    held = _HELD[-1]
    assert isinstance(held, Held)  # it has positions
    return held.present[-1]


def across(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None, scale: float, heads: int
) -> torch.Tensor:
    """Attention to an encoder's tokens, [batch, sequence, heads, head size]."""
    batch, _, length, size = query.shape
    kept, places = key.shape[1], key.shape[2]
    if torch.onnx.is_in_onnx_export() and heads == int(kept):
        found: torch.Tensor = _FusedAcross.apply(query, key, value, seen, scale, heads)  # type: ignore[no-untyped-call]  # torch's own
        return found.reshape(found.shape[0], found.shape[1], heads, int(value.shape[3]))
    groups = heads // int(kept)
    scores = torch.matmul(query.reshape(batch, kept, groups * length, size) * scale, key.transpose(2, 3))
    if seen is not None:
        bias = torch.where(seen.to(torch.bool), 0.0, torch.finfo(torch.float32).min)
        scores = scores + bias.reshape(batch, 1, 1, places)
    result = torch.matmul(torch.softmax(scores, dim=-1), value).reshape(batch, heads, length, value.shape[3])
    return result.transpose(1, 2)


class _FusedAcross(torch.autograd.Function):
    """onnxruntime's MultiHeadAttention, with keys and values as they lie in the cache:
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention"""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: Any, value: torch.Tensor, *given: Any) -> torch.Tensor:
        batch, heads, length, _ = (int(size) for size in query.shape)
        return torch.zeros(batch, length, heads * int(value.shape[-1]))  # its shape alone: as of `_Fused`

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, seen: Any, scale: float, heads: int) -> Any:
        nothing = g.op("prim::Constant")
        nothing.setType(torch._C.OptionalType.ofTensor())
        masked = [] if seen is None else [nothing, g.op("Cast", seen, to_i=6)]
        return _multi_head(g, query, key, value, *masked, num_heads_i=heads, scale_f=scale)


def among(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention of all tokens to each other, [batch, sequence, heads, head size], from and to as many heads of one size.

    onnxruntime's operator never holds the scores of all of them: of whisper's 1,500 frames its attention takes 0.79 of the time,
    where keys and values come by token.
    """
    heads = int(query.shape[1])
    if not torch.onnx.is_in_onnx_export():
        return across(query, key, value, None, scale, heads)
    found: torch.Tensor = _FusedAmong.apply(query, key, value, scale, heads)  # type: ignore[no-untyped-call]  # torch's own
    return found.reshape(found.shape[0], found.shape[1], heads, int(value.shape[3]))


def _attend_among(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,  # what only some implementations read
) -> tuple[torch.Tensor, None]:
    """As torch's own, but for ONNX the one operator where every token sees every other."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    every = attention_mask is None and not getattr(module, "is_causal", True)
    if torch.onnx.is_in_onnx_export() and every and query.shape[1] == key.shape[1]:
        return among(query, key, value, float(scaling if scaling is not None else query.shape[-1] ** -0.5)), None
    found: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **others
    )
    return found


class _FusedAmong(torch.autograd.Function):
    """The same operator, with keys and values by token, where its own way through the scores is the fastest."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: Any, value: torch.Tensor, *given: Any) -> torch.Tensor:
        batch, heads, length, _ = (int(size) for size in query.shape)
        return torch.zeros(batch, length, heads * int(value.shape[-1]))

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, scale: float, heads: int) -> Any:
        return _multi_head(g, query, _flat(g, key), _flat(g, value), num_heads_i=heads, scale_f=scale)


def _multi_head(g: Any, query: Any, *given: Any, **settings: Any) -> Any:
    result = g.op("com.microsoft::MultiHeadAttention", _flat(g, query), *given, **settings)
    result.setType(query.type().with_sizes([None, None, None]))
    return result


def _flat(g: Any, states: Any) -> Any:
    """[batch, heads, sequence, size] to [batch, sequence, heads * size]."""
    shape = g.op("Constant", value_t=torch.tensor([0, 0, -1]))
    return g.op("Reshape", g.op("Transpose", states, perm_i=[0, 2, 1, 3]), shape)


def written(past: torch.Tensor, new: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """`past` with `new` at its places.

    torch.export, on the way to LiteRT, has no scatter there: each place looks for its token instead.
    """
    if torch.compiler.is_exporting():
        offset = torch.arange(past.shape[2], device=positions.device) - positions[:, :1]
        here = ((offset >= 0) & (offset < new.shape[2]))[:, None, :, None]
        if new.shape[2] == 1:
            return torch.where(here, new, past)
        index = offset.clamp(0, new.shape[2] - 1)[:, None, :, None].expand(past.shape)
        return torch.where(here, new.gather(2, index), past)
    index = positions[:, None, :, None].expand(new.shape)
    return past.scatter_(2, index, new) if _IN_PLACE else past.scatter(2, index, new)


_IN_PLACE: list[bool] = []


@contextlib.contextmanager
def writing_in_place() -> Iterator[None]:
    """For a graph that writes the cache where it lies, which loses the example's. The compilers of other engines want what comes in
    and what goes out apart."""
    _IN_PLACE.append(True)
    try:
        yield
    finally:
        _IN_PLACE.pop()

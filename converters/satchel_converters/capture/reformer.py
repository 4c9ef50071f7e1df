"""Reformer without a sort: its own code sorts tokens by their hash and cuts them into chunks, in buffers whose sizes and whose
very branches depend on the length of the text. Here every token is compared with every other, and looks at those that would
lie in its chunk and the ones beside it: a token's place in the sort is the number of tokens before it.

The sums are the same, and the answer no longer depends on how far a batch is padded. The price is memory that grows with the
square of the length, as in any other encoder.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/reformer/modeling_reformer.py,
`LSHSelfAttention`, `LocalSelfAttention`, `ReformerModel.forward`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import SupportError

from .rewrite import capture_rewritten

if TYPE_CHECKING:
    import transformers

    from ..component import Component
    from . import Loaded

__all__ = ["FORWARDS", "add_constants", "capture"]

_MASKED, _SELF = -1e9, -1e5  # logits of padding, and of a token for itself, which it chooses where there is no other
_ELSEWHERE = -1e30  # of what lies in another chunk: never chosen, not even then


def _forward(
    self: Any, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **_: Any
) -> transformers.modeling_outputs.BaseModelOutput:
    from transformers.modeling_outputs import BaseModelOutput

    assert input_ids is not None and attention_mask is not None
    hidden = self.embeddings.word_embeddings(input_ids) + self.places[: input_ids.shape[1]]
    lengths = [getattr(self.config, f"{kind}_attn_chunk_length") for kind in set(self.config.attn_layers)]
    # Alone, a text longer than a chunk is padded to whole chunks: so many tokens there are in each round.
    count, multiple = attention_mask.sum(-1), math.lcm(*lengths)
    size = torch.where(count > min(lengths), (count + multiple - 1) // multiple * multiple, count)
    streams = hidden, hidden
    for layer in self.encoder.layers:
        attention = layer.attention
        look = _lsh if hasattr(attention.self_attention, "query_key") else _local
        found = look(attention.self_attention, attention.layer_norm(streams[1]), attention_mask, size)
        first = streams[0] + attention.output(found)
        streams = first, streams[1] + layer.feed_forward(first)
    return BaseModelOutput(last_hidden_state=self.encoder.layer_norm(torch.cat(streams, dim=-1)))


def _local(attention: Any, hidden: torch.Tensor, mask: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        _heads(attention, layer(hidden)) for layer in (attention.query, attention.key, attention.value)
    )
    dots = _masked(attention, query @ (key / attention.attention_head_size**0.5).transpose(-1, -2), mask)
    chunks = torch.arange(hidden.shape[1]) // attention.chunk_length
    times = _times(attention, chunks[None, None, :], size)
    times = torch.where((size <= attention.chunk_length)[:, None, None, None], 1, times)
    return _merged(_attend(dots, times, value)[0])


def _lsh(attention: Any, hidden: torch.Tensor, mask: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    rounds, length = attention.num_hashes, hidden.shape[1]
    query, value = (_heads(attention, layer(hidden)) for layer in (attention.query_key, attention.value))
    key = attention._len_and_dim_norm(query, attention.attention_head_size**0.5)
    dots = _masked(attention, query @ key.transpose(-1, -2), mask)
    places = torch.arange(length)
    dots = torch.where(places[:, None] == places, _SELF, dots)

    buckets = _buckets(attention, query)  # [batch, heads, rounds, sequence]
    one, other = buckets[..., :, None], buckets[..., None, :]
    before = (other < one) | ((other == one) & (places < places[:, None]))
    rank = (before & mask[:, None, None, None, :].bool()).sum(-1)
    chunks = (torch.arange(rounds)[:, None] * size[:, None, None, None] + rank) // attention.chunk_length
    times = _times(attention, chunks.flatten(2), rounds * size)  # all rounds lie one behind the other
    whole = torch.arange(rounds).repeat_interleave(length)
    same_round = (whole[:, None] == whole).long()
    short = (size <= attention.chunk_length)[:, None, None, None]
    times = torch.where(short, same_round, times)

    found, weights = _attend(dots.repeat(1, 1, rounds, rounds), times, value.repeat(1, 1, rounds, 1))
    apart = (*buckets.shape, -1)
    # Not a softmax, which would be the same but for the rounding of a token that sees itself alone, at -1e5. A text of one
    # chunk is not hashed: its rounds are alike.
    weights = weights.reshape(apart)
    shares = (weights - torch.logsumexp(weights, dim=2, keepdim=True)).exp()
    shares = torch.where(short[..., None], 1 / rounds, shares)
    return _merged((found.reshape(apart) * shares).sum(2))


def _buckets(attention: Any, vectors: torch.Tensor) -> torch.Tensor:
    """The hash of each token in each round: which of some random directions is nearest."""
    rotated = torch.einsum("bmtd,mdhr->bmhtr", vectors, attention.rotations)
    found, start, product = torch.zeros_like(rotated[..., 0], dtype=torch.long), 0, 1
    for factor in _factors(attention.num_buckets):
        part = rotated[..., start : start + factor // 2]
        found = found + product * torch.cat([part, -part], dim=-1).argmax(-1)
        start, product = start + factor // 2, product * factor
    return found


def _masked(attention: Any, dots: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    seen = mask[:, None, None, :].bool()
    if attention.is_decoder:
        places = torch.arange(dots.shape[-1])
        seen = seen & (places <= places[:, None])
    return torch.where(seen, dots, _MASKED)


def _times(attention: Any, chunks: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """How often each token looks at each other one: the chunks beside a chunk go round in a circle, which may be short."""
    total = (size // attention.chunk_length).clamp(min=1)[:, None, None, None]
    apart = chunks[..., None, :] - chunks[..., :, None]
    steps = range(-attention.num_chunks_before, attention.num_chunks_after + 1)
    return torch.stack([((apart - step) % total == 0).long() for step in steps]).sum(0)


def _attend(dots: torch.Tensor, times: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each token takes from the others, and the logarithm of the sum of their weights."""
    logits = torch.where(times > 0, dots + times.clamp(min=1).float().log(), _ELSEWHERE)
    weight = torch.logsumexp(logits, dim=-1, keepdim=True)
    return (logits - weight).exp() @ value, weight


def _heads(attention: Any, values: torch.Tensor) -> torch.Tensor:
    return values.reshape(*values.shape[:2], attention.num_attention_heads, attention.attention_head_size).transpose(
        1, 2
    )


def _merged(values: torch.Tensor) -> torch.Tensor:
    return values.transpose(1, 2).flatten(2)


def _factors(buckets: int | list[int]) -> list[int]:
    return [buckets] if isinstance(buckets, int) else list(buckets)


FORWARDS = {"ReformerModel": _forward}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    config = loaded.model.config
    hashed = "lsh" in config.attn_layers
    for name, what in (
        ("hash_seed", "hashes by chance, anew for each text"),
        ("num_buckets", "counts buckets by its first text"),
    ):
        if hashed and getattr(config, name) is None:
            raise SupportError(
                f"Cannot convert {loaded.source.id}.",
                why=f"it {what}, as config.json sets no {name}: no two answers are the same",
                fix=f"set {name} in config.json, for instance to {0 if name == 'hash_seed' else 64}",
            )
    add_constants(loaded.model, loaded.source.facts.max_length)
    return capture_rewritten(loaded, FORWARDS)


def add_constants(model: Any, length: int) -> None:
    """Give the parts of a model what its own code makes anew for each text: directions of hashes, and places."""
    config = model.config
    for module in model.modules():
        if type(module).__name__ == "LSHSelfAttention":
            shape = (config.num_attention_heads, config.attention_head_size, config.num_hashes)
            numbers = torch.Generator().manual_seed(config.hash_seed)
            drawn = torch.randn((*shape, sum(_factors(config.num_buckets)) // 2), generator=numbers)
            module.register_buffer("rotations", drawn, persistent=False)
        if type(module).__name__ == "ReformerModel":
            with torch.no_grad():
                places = module.embeddings.position_embeddings(torch.arange(length)[None])[0].clone()
            module.register_buffer("places", places, persistent=False)

"""Qwen2-VL: patches of a picture of any size, and a decoder whose tokens are turned by three numbers each.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen2_vl/modeling_qwen2_vl.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.tasks.grid_pictures import DELTA, TURNS
from satchel_runtimes.tasks.image_text_to_text import FEATURES, image_tokens
from satchel_runtimes.tasks.patches import PLACES, grid_places

from ..component import Axis, Component, Input, Output
from .attention import Asked, Held, among, attending
from .decoder import Decoder, Reference, attending_copy, check, component_of, refused
from .encoder_decoder import alike
from .seeing_decoder import embedded

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]

_GRIDS = ((4, 6), (6, 4))  # rows and columns of the traced pictures' tokens: as many, in other places
_WORDS = 9  # of the text that the capture is checked on


class _Sight(torch.nn.Module):
    """Patches of pictures of one number, with their places, to `image_features`."""

    def __init__(self, model: Any) -> None:  # Any: without types
        super().__init__()
        self.visual, self.config = model.model.visual, model.config

    def forward(self, pixel_values: torch.Tensor, patch_places: torch.Tensor) -> dict[str, torch.Tensor]:
        sees = self.visual
        # Each patch is one kernel of the convolution.
        states = torch.nn.functional.linear(pixel_values, sees.patch_embed.proj.weight.flatten(1))
        angles = (patch_places[..., None].to(torch.float32) * sees.rotary_pos_emb.inv_freq).flatten(2)
        scale = sees.rotary_pos_emb.attention_scaling
        cos, sin = (torch.cat([each, each], dim=-1)[:, :, None] * scale for each in (angles.cos(), angles.sin()))
        for block in sees.blocks:
            states = states + _attention(block.attn, block.norm1(states), cos, sin)
            states = states + block.mlp(block.norm2(states))
        merger = sees.merger
        merged = merger.ln_q(states).reshape(states.shape[0], -1, merger.hidden_size)
        return {FEATURES: merger.mlp(merged)}


def _attention(self: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Of one picture to itself: transformers has several in one row, and cuts them apart."""
    batch, count = states.shape[:2]
    query, key, value = self.qkv(states).reshape(batch, count, 3, self.num_heads, self.head_dim).unbind(2)
    query, key = (each * cos + _turned(each) * sin for each in (query, key))
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    # In ONNX one operator, which never holds the scores of all patches.
    found = among(query, key, value, float(self.scaling))
    result: torch.Tensor = self.proj(found.flatten(2))
    return result


def _turned(states: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    return torch.cat([-states[..., half:], states[..., :half]], dim=-1)


class _SightReference(torch.nn.Module):
    """The checkpoint's own, one picture after the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, patch_places: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = []
        for pixels, places in zip(pixel_values, patch_places, strict=True):
            found = self.model.model.visual(pixels, grid_thw=_grid(places))
            rows.append(found.pooler_output)
        return {FEATURES: torch.stack(rows)}


def _grid(places: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.ones(1, dtype=torch.int64), places.amax(dim=0) + 1])[None]


def _turns(positions: torch.Tensor, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The three numbers of tokens at these positions, [3, batch, sequence]."""
    own = others[TURNS]
    last = own.shape[1] - 1
    index = positions.clamp(max=last)[:, :, None].expand(-1, -1, 3)
    more = torch.where((positions <= last)[:, :, None], own.gather(1, index), 0)
    return (positions[:, :, None] + others[DELTA][:, :, None] + more).permute(2, 0, 1)


class _Reader(Decoder):
    """The language model over words and features."""

    def __init__(self, model: Any, first: int) -> None:
        super().__init__(model, 0)
        self.first = first

    def logits(self, input_ids: torch.Tensor, held: Held, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        states = embedded(self.model.get_input_embeddings(), input_ids, others[FEATURES], self.first)
        positions = held.positions if isinstance(held, Held) else torch.zeros_like(input_ids)
        found = self.model.model.language_model(
            inputs_embeds=states, position_ids=_turns(positions, others), use_cache=False
        )
        result: torch.Tensor = self.model.get_output_embeddings()(found.last_hidden_state)
        return result


class _ReaderReference(Reference):
    def __init__(self, model: Any, first: int) -> None:
        super().__init__(model)
        self.first = first

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        states = embedded(self.model.get_input_embeddings(), input_ids, others[FEATURES], self.first)
        positions = cache.get_seq_length() + torch.arange(input_ids.shape[1])[None]
        found = self.model.model.language_model(
            inputs_embeds=states, position_ids=_turns(positions, others), past_key_values=cache, use_cache=True
        )
        result: torch.Tensor = self.model.get_output_embeddings()(found.last_hidden_state)
        return result


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError where the model answers otherwise."""
    words = image_tokens(loaded.task.entry(loaded.facts()).preprocess)
    sees, first = loaded.model.config.vision_config, words["first"]
    merge = int(sees.spatial_merge_size)
    values = int(sees.in_channels * sees.temporal_patch_size * sees.patch_size**2)
    batch, grid = Axis("batch"), Axis("grid", merge**2, multiple=merge**2)
    places = torch.stack([torch.from_numpy(grid_places(*each, merge)) for each in _grids(merge)])
    pixels = torch.randn((2, places.shape[1], values), generator=torch.Generator().manual_seed(0))
    example = {"pixel_values": pixels, PLACES: places}
    sight, reference = _Sight(loaded.model).eval(), _SightReference(loaded.model)
    with torch.no_grad():
        made, expected = sight(**example)[FEATURES], reference(**example)[FEATURES]
    if not alike(made, expected):
        raise refused(f"the pictures of {loaded.source.id}", "its features differ from transformers' own")
    width = made.shape[2]
    encoder = Component(
        "image_encoder",
        sight,
        (Input("pixel_values", "float32", (batch, grid, values)), Input(PLACES, "int64", (batch, grid, 2))),
        (Output(FEATURES, "float32", (batch, Axis("places"), width)),),
        example,
        reference=reference,
    )

    reader = _Reader(attending_copy(loaded), first)
    # A word, the first picture and other words; the numbers of a picture's tokens are other than their places.
    seen, side = made.shape[1], max(_grids(merge)[0]) // merge
    inside = places[0, :: merge**2] // merge
    turns = torch.cat([torch.zeros(1, 3), torch.nn.functional.pad(inside, (1, 0)) + 1]).to(torch.int64)
    delta = side - seen
    turns = turns - torch.arange(len(turns))[:, None] - delta
    beside = {
        Input(FEATURES, "float32", (Axis("batch"), Axis("places"), width)): made,
        Input(TURNS, "int64", (Axis("batch"), Axis("text"), 3)): turns.repeat(2, 1, 1),
        Input(DELTA, "int64", (Axis("batch"), 1)): torch.full((2, 1), delta),
    }
    with attending(Asked()) as asked, torch.no_grad():
        others = {spec.name: value[:1] for spec, value in beside.items()}
        reader.logits(torch.ones(1, 2, dtype=torch.int64), asked, others)  # type: ignore[arg-type]  # nothing is held yet
    reader.layers = len(asked.shapes)
    decoder = component_of(
        loaded, reader, asked.shapes, _ReaderReference(loaded.model, first), name="language_model", beside=beside
    )
    ids = decoder.remade(1, _WORDS)["input_ids"]  # type: ignore[misc]  # it has one
    ids = torch.cat([ids[:, :1], first + torch.arange(seen)[None], ids[:, 1:]], dim=1)
    given = {"pixel_values": pixels[0], "image_grid_thw": _grid(places[0])}
    theirs = torch.where(ids < first, ids, words["id"])
    kinds = (ids >= first).to(torch.int64)
    with torch.no_grad():
        expected = loaded.model(input_ids=theirs, mm_token_type_ids=kinds, **given).logits[0]
        check(loaded, decoder, ids, expected)
    return encoder, decoder


def _grids(merge: int) -> tuple[tuple[int, int], ...]:
    return tuple((rows * merge, columns * merge) for rows, columns in _GRIDS)

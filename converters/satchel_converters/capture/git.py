"""GIT: its decoder reads the picture's tokens before its own, and these see each other only. So what each layer makes of them is
an encoder's, once for a picture, and every token of the text sees it together with the tokens before.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/git/modeling_git.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from satchel_runtimes.tasks.image import image_steps

from ..component import Axis, Component, Input, Output
from .attention import Asked, Held, attend, attending, register
from .decoder import Caches, Decoder, Reference, check, component_of, refused
from .encoder_decoder import alike, cross, named
from .image import picture_input
from .rewrite import rewritten

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]

_WORDS = 11


class _Sight(torch.nn.Module):
    """A picture to the keys and values of its tokens in each layer."""

    def __init__(self, model: Any) -> None:  # Any: without types
        super().__init__()
        self.git, self.config = model.git, model.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.git.visual_projection(self.git.image_encoder(pixel_values).last_hidden_state)
        pairs = []
        for layer in self.git.encoder.layer:
            own = layer.attention.self
            key, value = (_by_head(own, each(states)) for each in (own.key, own.value))
            pairs.append((key, value))
            states = layer(states)
        return named(pairs, None, False)


class _SightReference(torch.nn.Module):
    """The checkpoint's own, from transformers' cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        cache: Any = DynamicCache()  # its layers are of several classes
        ids = torch.ones(len(pixel_values), 1, dtype=torch.int64)
        self.model(input_ids=ids, pixel_values=pixel_values, past_key_values=cache, use_cache=True)
        return named([(each.keys[:, :, :-1], each.values[:, :, :-1]) for each in cache.layers], None, False)


def _by_head(attention: Any, flat: torch.Tensor) -> torch.Tensor:
    return flat.reshape(flat.shape[0], -1, attention.num_attention_heads, attention.attention_head_size).transpose(1, 2)


def _attention(self: Any, hidden_states: torch.Tensor, *others: Any, **named: Any) -> Any:
    query, key, value = (_by_head(self, each(hidden_states)) for each in (self.query, self.key, self.value))
    result, _ = attend(self, query, key, value, None)
    return result.flatten(2), None


class _Writer(Decoder):
    def logits(self, input_ids: torch.Tensor, held: Held, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        git = self.model.git
        placed = None
        if isinstance(held, Held):
            held.before = [(others[cross(i, "key")], others[cross(i, "value")]) for i in range(self.layers)]
            placed = held.positions
        states = git.embeddings(input_ids=input_ids, position_ids=placed)
        result: torch.Tensor = self.model.output(git.encoder(states).last_hidden_state)
        return result


@dataclass
class _AfterPicture:
    """transformers' cache, of which only the words are counted."""

    cache: Any = field(default_factory=DynamicCache)
    picture: int = 0

    def get_seq_length(self) -> int:
        return int(self.cache.get_seq_length()) - self.picture

    def crop(self, length: int) -> None:
        self.cache.crop(length + self.picture)


class _WriterReference(Reference):
    def new_state(self, batch: int) -> Caches:
        return Caches([_AfterPicture() for _ in range(batch)])

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if not cache.picture:
            for layer in range(self.model.config.num_hidden_layers):
                cache.cache.update(others[cross(layer, "key")], others[cross(layer, "value")], layer)
            cache.picture = others[cross(0, "key")].shape[2]
        places = cache.get_seq_length() + torch.arange(input_ids.shape[1])[None]
        result: torch.Tensor = self.model(
            input_ids=input_ids, position_ids=places, past_key_values=cache.cache, use_cache=True
        ).logits
        return result


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError where the model answers otherwise, or sees several pictures at once."""
    if loaded.model.config.num_image_with_embedding:
        raise refused(loaded.source.id, "it was trained for films")
    spec, pictures = picture_input(image_steps(loaded.facts().image_processor))
    sight, reference = _Sight(loaded.model).eval(), _SightReference(loaded.model)
    with torch.no_grad():
        made, expected = sight(pictures), reference(pictures)
    if any(not alike(made.get(name), each) for name, each in expected.items()):
        raise refused(f"the pictures of {loaded.source.id}", "its keys and values differ from transformers' own")
    batch = Axis("batch")
    axes = {name: (batch, *value.shape[1:]) for name, value in made.items()}
    outputs = tuple(Output(name, "float32", axes[name]) for name in made)
    encoder = Component("encoder", sight, (spec,), outputs, {spec.name: pictures}, reference=reference)

    register()
    model = rewritten(loaded.model, {"GitSelfAttention.forward": _attention}, shared=True)
    writer, ids = _Writer(model, 0), torch.ones(2, 1, dtype=torch.int64)
    with attending(Asked()) as asked, torch.no_grad():
        writer.logits(ids, asked, made)  # type: ignore[arg-type]  # nothing is held yet
    writer.layers = len(asked.shapes)
    beside = {Input(name, "float32", axes[name]): value for name, value in made.items()}
    decoder = component_of(loaded, writer, asked.shapes, _WriterReference(loaded.model), name="decoder", beside=beside)
    ids = decoder.remade(1, _WORDS)["input_ids"]  # type: ignore[misc]  # it has one
    with torch.no_grad():
        expected_logits = loaded.model(input_ids=ids, pixel_values=pictures[:1]).logits[0, -_WORDS:]
    check(loaded, decoder, ids, expected_logits)
    return encoder, decoder

"""IDEFICS: between the layers of a language model lie others that look at a picture, each word at the last one before it.

What those make of a picture's tokens, their keys and values, is an encoder's, once for a picture. The decoder is told of each place
in them which tokens see it.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/idefics/modeling_idefics.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.tasks.gated_pictures import SEEN, cross_name

from ..component import Axis, Component, Input, Output
from .attention import Asked, Held, attending
from .decoder import KINDS, Decoder, Reference, attending_copy, check, component_of, refused
from .encoder_decoder import alike
from .image import picture_input
from .rewrite import rewritten

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture"]

_MOST = 4  # pictures of a conversation where graphs have fixed sizes
_WORDS = 9  # of the text that the capture is checked on
_END = 2**31 - 1  # a token number that no text has: seen to the end


def _by_head(attention: Any, flat: torch.Tensor) -> torch.Tensor:  # Any: without types
    return flat.reshape(flat.shape[0], -1, attention.num_heads, attention.head_dim).transpose(1, 2)


class _Sight(torch.nn.Module):
    """Pictures to the keys and values of the layers that look at them, [pictures, heads, tokens, size]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.config = model.model, model.config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.body.vision_model(pixel_values=pixel_values).last_hidden_state
        if self.config.use_resampler:
            states = self.body.perceiver_resampler(states)
        made = {}
        for number, layer in enumerate(self.body.gated_cross_attn_layers):
            own = layer.cross_attn
            key, value = (_by_head(own, each(states)) for each in (own.k_proj, own.v_proj))
            made[cross_name(number, "key")] = own.k_layer_norm(key) if own.qk_layer_norms else key
            made[cross_name(number, "value")] = value
        return made


class _SightReference(torch.nn.Module):
    """The checkpoint's own, as its layers project them, one picture after the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        found: list[dict[str, torch.Tensor]] = []
        hooks = [_parts(layer.cross_attn) for layer in self.model.model.gated_cross_attn_layers]

        def note(name: str, own: Any) -> Any:
            def noted(module: torch.nn.Module, given: Any, made: torch.Tensor) -> None:
                found[-1][name] = made[0] if made.dim() == 4 else _by_head(own, made)[0]

            return noted

        kept = [
            part.register_forward_hook(note(cross_name(number, kind), layer.cross_attn))
            for number, layer in enumerate(self.model.model.gated_cross_attn_layers)
            for kind, part in zip(KINDS, hooks[number], strict=True)
        ]
        try:
            for each in pixel_values:
                found.append({})
                ones = torch.ones(1, 1, 1, dtype=torch.int64)
                self.model(input_ids=ones[0], pixel_values=each[None, None], image_attention_mask=ones)
        finally:
            for hook in kept:
                hook.remove()
        return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def _parts(attention: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The modules whose answers are keys and values as they are attended to."""
    return attention.k_layer_norm if attention.qk_layer_norms else attention.k_proj, attention.v_proj


def _embedded(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Words of two tables; transformers picks those of the second by their places."""
    first = self.num_embeddings
    words = torch.nn.functional.embedding(input_ids.clamp(max=first - 1), self.weight)
    if not self.num_additional_embeddings:
        return words
    others = self.additional_embedding((input_ids - first).clamp(min=0))
    return torch.where((input_ids < first)[:, :, None], words, others)


class _Head(torch.nn.Module):
    """The output embeddings of both tables."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    @property
    def weight(self) -> torch.Tensor:
        more = [self.head.additional_fc.weight] if self.head.out_additional_features else []
        return torch.cat([self.head.weight, *more])

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(states)
        return result


class _Writer(Decoder):
    def __init__(self, model: Any) -> None:
        model.set_output_embeddings(_Head(model.get_output_embeddings()))
        super().__init__(model, 0)

    def logits(self, input_ids: torch.Tensor, held: Held, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        body, positions = self.model.model, torch.zeros_like(input_ids)
        if isinstance(held, Held):
            positions = held.positions
        seen = _sees(others[SEEN], positions)
        bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]
        gate = seen.any(dim=2)[:, :, None]
        states = body.embed_tokens(input_ids)
        for number, layer in enumerate(body.layers):
            if number % body.cross_layer_interval == 0:
                place = number // body.cross_layer_interval
                pair = [others[cross_name(place, kind)] for kind in KINDS]
                states = _looked(body.gated_cross_attn_layers[place], states, pair, bias, gate)
            states = layer(states, position_ids=positions)
        result: torch.Tensor = self.model.get_output_embeddings()(body.norm(states))
        return result


def _sees(places: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Whether a token sees a place in the pictures, [batch, sequence, places]."""
    first, end = places[:, None, :, 0], places[:, None, :, 1]
    return (first <= positions[:, :, None]) & (positions[:, :, None] < end)


def _looked(
    layer: Any, states: torch.Tensor, pair: list[torch.Tensor], bias: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    own, key, value = layer.cross_attn, *pair
    query = _by_head(own, own.q_proj(layer.input_layernorm(states)))
    if own.qk_layer_norms:
        query = own.q_layer_norm(query)
    scores = torch.matmul(query * own.scaling, key.transpose(2, 3)) + bias
    found = torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2).flatten(2)
    found = torch.where(gate, own.o_proj(found), 0.0)
    states = states + torch.tanh(layer.alpha_cross_attn) * found
    result: torch.Tensor = states + torch.tanh(layer.alpha_dense) * layer.mlp(layer.post_attention_layernorm(states))
    return result


class _WriterReference(Reference):
    """The checkpoint on pictures of which nothing is left but what its layers project: the keys and values that are given."""

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        body, config = self.model.model, self.model.config
        tokens = _tokens(config)
        positions = cache.get_seq_length() + torch.arange(input_ids.shape[1])[None]
        seen = _sees(others[SEEN][:, ::tokens], positions).to(torch.int64)
        width = config.vision_config.embed_dim
        states = torch.zeros(1, seen.shape[2], tokens, width)
        name = "perceiver_embeddings" if config.use_resampler else "image_encoder_embeddings"
        hooks = []
        for number, layer in enumerate(body.gated_cross_attn_layers):
            for kind, part in zip(KINDS, _parts(layer.cross_attn), strict=True):
                hooks.append(part.register_forward_hook(_given(others[cross_name(number, kind)])))
        try:
            result: torch.Tensor = self.model(
                input_ids=input_ids,
                past_key_values=cache,
                use_cache=True,
                image_attention_mask=seen,
                **{name: states},
            ).logits
        finally:
            for hook in hooks:
                hook.remove()
        return result


def _given(heads: torch.Tensor) -> Any:
    def given(module: torch.nn.Module, taken: Any, made: torch.Tensor) -> torch.Tensor:
        return heads if made.dim() == 4 else heads.transpose(1, 2).flatten(2)

    return given


def _tokens(config: Any) -> int:
    """Of a picture."""
    if config.use_resampler:
        return int(config.perceiver_config.resampler_n_latents)
    return int((config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1)


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError where the model answers otherwise."""
    spec, pictures = picture_input(loaded.task.entry(loaded.facts()).preprocess)
    sight, reference = _Sight(loaded.model).eval(), _SightReference(loaded.model)
    with torch.no_grad():
        made, expected = sight(pictures), reference(pictures)
    if any(not alike(made.get(name), each) for name, each in expected.items()):
        raise refused(f"the pictures of {loaded.source.id}", "its keys and values differ from transformers' own")
    outputs = tuple(Output(name, "float32", (Axis("batch"), *value.shape[1:])) for name, value in made.items())
    encoder = Component("image_encoder", sight, (spec,), outputs, {spec.name: pictures}, reference=reference)

    words = {"IdeficsDecoupledEmbedding.forward": _embedded}
    writer = _Writer(rewritten(attending_copy(loaded), words, shared=True))
    tokens = _tokens(loaded.model.config)
    # Two pictures in each of two texts; the first is seen by two tokens, and before it is none.
    places = torch.tensor([[2, 4], [4, _END]]).repeat_interleave(tokens, dim=0)
    joined = {name: torch.cat([value[0], value[1]], dim=1) for name, value in made.items()}
    whole = {name: torch.stack([value, value.flip(1)]) for name, value in joined.items()}
    whole[SEEN] = places[None].repeat(2, 1, 1)
    with attending(Asked()) as asked, torch.no_grad():
        writer.logits(torch.ones(2, 2, dtype=torch.int64), asked, whole)  # type: ignore[arg-type]  # nothing is held yet
    writer.layers = len(asked.shapes)
    axis = Axis("places", buckets=(_MOST * tokens,))
    beside = {
        Input(name, "int64", (Axis("batch"), axis, 2))
        if name == SEEN
        else Input(name, "float32", (Axis("batch"), value.shape[1], axis, value.shape[3])): value
        for name, value in whole.items()
    }
    decoder = component_of(
        loaded, writer, asked.shapes, _WriterReference(loaded.model), name="language_model", beside=beside
    )
    ids = decoder.remade(1, _WORDS)["input_ids"]  # type: ignore[misc]  # it has one
    sees = _sees(places[None, ::tokens], torch.arange(_WORDS)[None]).to(torch.int64)
    with torch.no_grad():
        theirs = loaded.model(input_ids=ids, pixel_values=pictures[None], image_attention_mask=sees).logits[0]
        check(loaded, decoder, ids, theirs)
    return encoder, decoder

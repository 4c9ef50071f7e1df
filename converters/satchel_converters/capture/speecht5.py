"""SpeechT5 that speaks, as three graphs: the encoder with the decoder's keys and values of it, a step of the decoder over a cache that is
written in place, and postnet and vocoder.

The dropout before the decoder is a part of the model and is drawn in each call, also when it speaks (Shen et al. 2017,
https://arxiv.org/abs/1712.05884, section 2.2). Here what stays is an input. transformers draws it for all frames so far, of which the
last alone is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from transformers import DynamicCache, EncoderDecoderCache, SpeechT5HifiGan

from satchel_runtimes.errors import IntegrityError, SupportError
from satchel_runtimes.sessions.cache import POSITIONS

from ..component import Axis, Component, Input, Output
from ..source import SourceModel
from .attention import Held, attend, attending
from .decoder import KINDS, Caches, example_positions, past, presents, with_cache
from .encoder_decoder import cross, named

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture", "kept_frames", "vocoder_of"]

_LENGTH, _FRAMES = 13, 23  # of the traced examples


def capture(loaded: Loaded) -> tuple[Component, ...]:
    model: Any = loaded.model  # Any: attributes of modules have no types
    config = model.config
    assert loaded.source.vocoder is not None  # the task asks for one before the work
    vocoder = vocoder_of(loaded.source.vocoder)
    batch, places = Axis("batch"), Axis("encoder_sequence")
    ids = torch.arange(2 * _LENGTH).reshape(2, _LENGTH) * 37 % (config.vocab_size - 4) + 4
    encoder = _Encoder(model).eval()
    with torch.no_grad():
        across = encoder(ids)
    pairs = {
        Input(name, "float32", (batch, each.shape[1], places, each.shape[3])): each for name, each in across.items()
    }
    sequence = Axis("sequence", maximum=config.max_text_positions)
    outputs = tuple(Output(each.name, "float32", (batch, each.axes[1], sequence, each.axes[3])) for each in pairs)
    frames = torch.randn((2, _FRAMES, config.num_mel_bins), generator=torch.Generator().manual_seed(0))
    sound = _Vocoder(model, vocoder).eval()
    return (
        Component(
            "encoder",
            encoder,
            (Input("input_ids", "int64", (batch, sequence)),),
            outputs,
            {"input_ids": ids},
            reference=_OwnEncoder(model).eval(),
        ),
        _decoder(model, pairs),
        Component(
            "vocoder",
            sound,
            (Input("spectrogram", "float32", (batch, Axis("frames"), config.num_mel_bins)),),
            (Output("waveform", "float32", (batch, Axis("samples"))),),
            {"spectrogram": frames},
            reference=sound,
        ),
    )


def vocoder_of(source: SourceModel) -> SpeechT5HifiGan:
    """Raises: SupportError, IntegrityError where its weights and its config.json do not fit each other."""
    load: Any = SpeechT5HifiGan.from_pretrained  # Any: what it gives depends on what it is told
    told = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, "dtype": "float32"}
    try:
        model, info = load(source.folder, **told)
    except (ValueError, OSError, RuntimeError) as error:
        raise SupportError(
            f"Cannot load the vocoder {source.id}.",
            why=str(error).strip().splitlines()[0][:300],
            fix="check that the folder is complete",
        ) from None
    if info["missing_keys"]:
        raise IntegrityError(
            f"Cannot load the vocoder {source.id}.",
            why=f"the checkpoint lacks {len(info['missing_keys'])} weights, the first is {min(info['missing_keys'])}",
            fix="download it again, and let it finish",
        )
    found: SpeechT5HifiGan = model.eval()
    return found


def _decoder(model: Any, pairs: Mapping[Input, torch.Tensor]) -> Component:  # Any: as above
    config = model.config
    batch, sequence = Axis("batch"), Axis("sequence", maximum=config.max_speech_positions)
    units, layers = config.speech_decoder_prenet_units, config.speech_decoder_prenet_layers
    wide = config.num_mel_bins * config.reduction_factor

    def example(rows: int, length: int, kept: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(length)
        return {
            "input_values": torch.randn((rows, length, config.num_mel_bins), generator=generator),
            POSITIONS: example_positions(rows, length),
            "kept": (torch.rand((rows, length, units * layers), generator=generator) < 0.5).to(torch.float32),
        }

    voice = torch.randn((2, config.speaker_embedding_dim), generator=torch.Generator().manual_seed(1))
    size = config.hidden_size // config.decoder_attention_heads
    shape = (config.decoder_attention_heads, size)
    return with_cache(
        "decoder",
        _Decoder(model),
        [(shape, shape)] * config.decoder_layers,
        _OwnDecoder(model).eval(),
        (
            Input("input_values", "float32", (batch, sequence, config.num_mel_bins)),
            Input(POSITIONS, "int64", (batch, sequence)),
            Input("kept", "float32", (batch, sequence, units * layers)),
        ),
        (
            Output("frames", "float32", (batch, sequence, wide)),
            Output("stop", "float32", (batch, sequence, config.reduction_factor)),
        ),
        example,
        {Input("speaker_embeddings", "float32", (batch, config.speaker_embedding_dim)): voice, **pairs},
    )


class _Encoder(torch.nn.Module):
    """With what each layer of the decoder makes of its states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.model.speecht5.encoder(input_values=input_ids, return_dict=True).last_hidden_state
        return named(self.pairs(input_ids, states), None, False)

    def pairs(self, input_ids: torch.Tensor, states: torch.Tensor) -> Any:
        layers = [each.encoder_attn for each in self.model.speecht5.decoder.wrapped_decoder.layers]
        return [(_heads(each, each.k_proj(states)), _heads(each, each.v_proj(states))) for each in layers]


class _OwnEncoder(_Encoder):
    """From transformers' own cache."""

    def pairs(self, input_ids: torch.Tensor, states: torch.Tensor) -> Any:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        nothing = torch.zeros(len(input_ids), 1, self.config.hidden_size)
        self.model.speecht5.decoder.wrapped_decoder(
            hidden_states=nothing, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        layers: list[Any] = cache.cross_attention_cache.layers  # of several classes
        return [(each.keys, each.values) for each in layers]


class _Decoder(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.layers = model.speecht5.decoder.wrapped_decoder.layers

    def forward(
        self,
        input_values: torch.Tensor,
        position_ids: torch.Tensor,
        kept: torch.Tensor,
        speaker_embeddings: torch.Tensor,
        **others: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        states = self.prenet(input_values, position_ids, kept, speaker_embeddings)
        count = range(len(self.layers))
        pairs = [(others[past(i, "key")], others[past(i, "value")]) for i in count]
        with attending(Held(position_ids, pairs)) as held:
            for i, layer in enumerate(self.layers):
                own = layer.self_attn
                key, value = (_heads(own, each(states)) for each in (own.k_proj, own.v_proj))
                states = layer.self_attn_layer_norm(states + _attended(own, states, key, value))
                held.crossing = True
                theirs = [others[cross(i, kind)] for kind in KINDS]
                states = layer.encoder_attn_layer_norm(states + _attended(layer.encoder_attn, states, *theirs))
                states = layer.final_layer_norm(states + layer.feed_forward(states))
        return {**_spoken(self.model, states), **presents(held)}

    def prenet(self, frames: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor, voice: torch.Tensor) -> Any:
        net, units = self.model.speecht5.decoder.prenet, self.config.speech_decoder_prenet_units
        states, louder = frames, 1 / (1 - self.config.speech_decoder_prenet_dropout)
        for i, layer in enumerate(net.layers):
            states = torch.relu(layer(states)) * kept[..., i * units : (i + 1) * units] * louder
        places = net.encode_positions
        states = net.final_layer(states) + places.alpha * places.pe[0][positions]
        voice = torch.nn.functional.normalize(voice)[:, None].expand(-1, states.shape[1], -1)
        return torch.relu(net.speaker_embeds_layer(torch.cat([states, voice], dim=-1)))


def _heads(attention: Any, states: torch.Tensor) -> torch.Tensor:
    return states.reshape(*states.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def _attended(attention: Any, states: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
    query = _heads(attention, attention.q_proj(states))
    result, _ = attend(attention, query, key, value, None, scaling=attention.scaling)
    return attention.out_proj(result.flatten(2))


def _spoken(model: Any, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """The frames before the postnet, and the chance of each to be the last."""
    ends = model.speech_decoder_postnet
    return {"frames": ends.feat_out(states), "stop": torch.sigmoid(ends.prob_out(states))}


class _OwnDecoder(torch.nn.Module):
    """The checkpoint with transformers' own prenet and cache, one text after the other."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def new_state(self, batch: int) -> Caches:
        return Caches([EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in range(batch)])

    def forward(
        self,
        input_values: torch.Tensor,
        position_ids: torch.Tensor,
        kept: torch.Tensor,
        speaker_embeddings: torch.Tensor,
        state: Caches | None = None,
        **others: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        decoder, rows = self.model.speecht5.decoder, []
        for row, cache in enumerate((state or self.new_state(len(input_values))).rows):
            first, count = int(position_ids[row, 0]), position_ids.shape[1]
            across = DynamicCache()
            for i in range(self.config.decoder_layers):
                key, value = (others[cross(i, kind)][row : row + 1] for kind in KINDS)
                across.update(key, value, i)
            # Frames before are in the cache; here they stand for their number alone.
            frames = torch.nn.functional.pad(input_values[row : row + 1], (0, 0, first, 0))
            with kept_frames(torch.nn.functional.pad(kept[row], (0, 0, first, 0)), self.config):
                states = decoder.prenet(frames, speaker_embeddings[row : row + 1])[:, -count:]
            found = decoder.wrapped_decoder(
                hidden_states=states,
                encoder_hidden_states=torch.zeros(1, others[cross(0, "key")].shape[2], self.config.hidden_size),
                past_key_values=EncoderDecoderCache(cache.self_attention_cache, across),
                use_cache=True,
            ).last_hidden_state
            rows.append(_spoken(self.model, found))
        return {name: torch.cat([each[name] for each in rows]) for name in rows[0]}


@contextlib.contextmanager
def kept_frames(kept: torch.Tensor, config: Any) -> Iterator[None]:  # Any: a SpeechT5Config
    """transformers' prenet with this in place of its draws: for each frame 1 where a unit stays, [frames, layers * units]."""
    parts = kept.reshape(len(kept), config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units)
    calls = 0

    def draw(values: torch.Tensor, p: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return parts[: len(values), (calls - 1) % config.speech_decoder_prenet_layers]

    with mock.patch.object(torch, "bernoulli", draw):
        yield


class _Vocoder(torch.nn.Module):
    def __init__(self, model: Any, vocoder: SpeechT5HifiGan) -> None:
        super().__init__()
        self.postnet, self.vocoder, self.config = model.speech_decoder_postnet, vocoder, vocoder.config

    def forward(self, spectrogram: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"waveform": self.vocoder(self.postnet.postnet(spectrogram))}

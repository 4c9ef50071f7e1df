"""VITS as two graphs: what a text's letters are and how long they last, and the sound of frames.

transformers draws noise inside the model (https://github.com/huggingface/transformers/blob/main/src/transformers/models/vits/modeling_vits.py),
and makes as many frames as the noise says. Here noise is an input, and letters become frames between the graphs. What remains is
rewritten where a trace would keep one length: relative positions, and the spline of the durations, which picks values by a mask.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from ..component import Axis, Component, Input, Output
from .rewrite import rewritten

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture", "drawn"]

_LENGTH, _FRAMES = 11, 23  # of the traced examples
_LETTERS, _SOUNDING = (128, 512), (128, 512)  # tokens and frames of formats with fixed sizes


def capture(loaded: Loaded) -> tuple[Component, ...]:
    model: Any = rewritten(loaded.model, {"VitsAttention": _attention, "VitsConvFlow": _conv_flow})
    del model.posterior_encoder  # of training
    for module in model.modules():
        _settle(module)
    generator = torch.Generator().manual_seed(0)
    size, config = model.config.flow_size, model.config
    batch, sequence, frames = Axis("batch"), Axis("sequence", buckets=_LETTERS), Axis("frames", buckets=_SOUNDING)
    ids = torch.arange(2 * _LENGTH).reshape(2, _LENGTH) * 37 % config.vocab_size
    inputs = {
        Input("input_ids", "int64", (batch, sequence)): ids,
        Input("duration_noise", "float32", (batch, sequence, 2)): torch.randn((*ids.shape, 2), generator=generator),
    }
    latents = {Input("latents", "float32", (batch, frames, size)): torch.randn((2, _FRAMES, size), generator=generator)}
    speaker = {}
    if config.num_speakers > 1:
        speaker[Input("speaker_id", "int64", (batch,))] = torch.tensor([0, config.num_speakers - 1])
    letters = {Input("attention_mask", "int64", (batch, sequence)): torch.ones_like(ids)}
    sounding = {Input("frames_mask", "float32", (batch, frames)): torch.ones(2, _FRAMES)}
    of_letters = [Output(name, "float32", (batch, sequence, size)) for name in ("prior_means", "prior_log_variances")]
    durations = Output("durations", "float32", (batch, sequence))
    waveform = Output("waveform", "float32", (batch, Axis("samples")))
    return (
        _component(
            "encoder", (_Encoder(model), _OwnEncoder(loaded.model)), inputs, letters, speaker, *of_letters, durations
        ),
        _component("decoder", (_Decoder(model), _Decoder(loaded.model)), latents, sounding, speaker, waveform),
    )


def _component(
    name: str,
    modules: tuple[torch.nn.Module, torch.nn.Module],
    inputs: Mapping[Input, torch.Tensor],
    masks: Mapping[Input, torch.Tensor],
    speaker: Mapping[Input, torch.Tensor],
    *outputs: Output,
) -> Component:
    """The graph without masks, since texts are spoken one by one; and with them where padding fills a fixed size."""

    def made(given: Mapping[Input, torch.Tensor], fixed: Component | None = None) -> Component:
        example = {spec.name: each for spec, each in given.items()}
        module, reference = (each.eval() for each in modules)
        return Component(name, module, tuple(given), outputs, example, reference=reference, fixed=fixed)

    return made({**inputs, **speaker}, made({**inputs, **masks, **speaker}))


def _settle(module: torch.nn.Module) -> None:
    """A weight that is made of a direction and a length, once and not in each call.

    torch's `remove_parametrizations` changes the class, which a copy shares with the model that it is of.
    """
    if torch.nn.utils.parametrize.is_parametrized(module, "weight"):
        weight = torch.nn.Parameter(module.weight.detach())  # type: ignore[operator]  # modules have no types
        del module.parametrizations
        module.__class__ = type(module).__mro__[1]
        module.register_parameter("weight", weight)


class _Encoder(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(
        self,
        input_ids: torch.Tensor,
        duration_noise: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        speaker_id: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        there = (torch.ones_like(input_ids) if attention_mask is None else attention_mask)[..., None].to(torch.float32)
        found = self.read(input_ids, there, attention_mask is not None)
        voice = _voice(self.model, speaker_id)
        states, there = found.last_hidden_state.transpose(1, 2), there.transpose(1, 2)
        predictor = self.model.duration_predictor
        if self.config.use_stochastic_duration_prediction:
            lasting = self.drawn(predictor, states, there, voice, duration_noise.transpose(1, 2))
        else:
            # The noise is an input all the same, so that a device need not know.
            lasting = predictor(states, there, voice) + 0.0 * duration_noise[:, None, :, 0]
        return {
            "prior_means": found.prior_means,
            "prior_log_variances": found.prior_log_variances,
            "durations": torch.exp(lasting).squeeze(1),
        }

    def read(self, input_ids: torch.Tensor, there: torch.Tensor, padded: bool) -> Any:
        """The text encoder without transformers' mask, whose making depends on the length."""
        encoder: Any = self.model.text_encoder
        states = encoder.embed_tokens(input_ids) * math.sqrt(self.config.hidden_size)
        bias = (1.0 - there[:, None].transpose(2, 3)) * torch.finfo(torch.float32).min if padded else None
        for layer in encoder.encoder.layers:
            (states,) = layer(states, there, attention_mask=bias)
        means, variances = torch.split(
            encoder.project(states.transpose(1, 2)).transpose(1, 2), self.config.flow_size, 2
        )
        return _Found(states, means, variances)

    def drawn(self, predictor: Any, states: torch.Tensor, there: torch.Tensor, voice: Any, noise: torch.Tensor) -> Any:
        """transformers' predictor, backwards from the noise to what the letters last."""
        given = predictor.conv_pre(states)
        if voice is not None:
            given = given + predictor.cond(voice)
        given = predictor.conv_proj(predictor.conv_dds(given, there)) * there
        *flows, _, last = reversed(predictor.flows)  # one of them changes nothing that is used
        for flow in (*flows, last):
            noise, _ = flow(torch.flip(noise, [1]), there, global_conditioning=given, reverse=True)
        return noise[:, :1]


class _Found:
    def __init__(self, states: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> None:
        self.last_hidden_state, self.prior_means, self.prior_log_variances = states, means, variances


class _OwnEncoder(_Encoder):
    """By the checkpoint's own code."""

    def read(self, input_ids: torch.Tensor, there: torch.Tensor, padded: bool) -> Any:
        return self.model.text_encoder(input_ids=input_ids, padding_mask=there, return_dict=True)

    def drawn(self, predictor: Any, states: torch.Tensor, there: torch.Tensor, voice: Any, noise: torch.Tensor) -> Any:
        with drawn(noise):
            return predictor(states, there, voice, reverse=True, noise_scale=1.0)


class _Decoder(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(
        self, latents: torch.Tensor, frames_mask: torch.Tensor | None = None, speaker_id: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        voice = _voice(self.model, speaker_id)
        there = (torch.ones_like(latents[:, :, 0]) if frames_mask is None else frames_mask)[:, None]
        frames = self.model.flow(latents.transpose(1, 2), there, voice, reverse=True)
        with contextlib.nullcontext() if frames_mask is None else _unheard(self.model.decoder, there):
            return {"waveform": self.model.decoder(frames, voice).squeeze(1)}


@contextlib.contextmanager
def _unheard(generator: torch.nn.Module, there: torch.Tensor) -> Iterator[None]:
    """Every convolution sees zeros where there is no sound, as it does at the end of a sound alone."""

    def cut(module: torch.nn.Module, args: Any) -> tuple[torch.Tensor]:
        (values,) = args
        samples = values.shape[-1] // there.shape[-1]
        mask = there[..., None].expand(-1, -1, -1, samples).reshape(there.shape[0], 1, values.shape[-1])
        return (values * mask,)

    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    convolutions = [each for each in generator.modules() if isinstance(each, kinds) and each.kernel_size[0] > 1]
    hooks = [each.register_forward_pre_hook(cut) for each in convolutions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _voice(model: Any, speaker_id: torch.Tensor | None) -> torch.Tensor | None:
    return None if speaker_id is None else model.embed_speaker(speaker_id).unsqueeze(-1)


@contextlib.contextmanager
def drawn(durations: torch.Tensor, frames: torch.Tensor | None = None) -> Iterator[None]:
    """transformers' model with this noise in place of chance, [batch, 2, tokens] and as many of [batch, size, frames] as it asks for."""

    def like(wanted: torch.Tensor, **_: Any) -> torch.Tensor:
        assert frames is not None  # a whole model is called
        return frames[..., : wanted.shape[-1]]

    with mock.patch.multiple(torch, randn=lambda *_, **__: durations, randn_like=like):
        yield


def _attention(
    self: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **others: Any
) -> tuple[torch.Tensor, None]:
    """VitsAttention.forward: relative positions by index, where transformers pads, reshapes and cuts to the length of the trace."""
    batch, length, _ = hidden_states.shape

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(batch, length, self.num_heads, self.head_dim).transpose(1, 2)

    query = heads(self.q_proj(hidden_states) * self.scaling)
    key, value = heads(self.k_proj(hidden_states)), heads(self.v_proj(hidden_states))
    scores = torch.matmul(query, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    if not self.window_size:
        result = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.out_proj(result.transpose(1, 2).reshape(batch, length, self.embed_dim)), None
    window = self.window_size
    places = torch.arange(length)
    away = (places[None, :] - places[:, None]).clamp(-window - 1, window + 1) + window + 1
    table = torch.nn.functional.pad(self.emb_rel_k[0], (0, 0, 1, 1))  # nothing beyond the window
    near = torch.matmul(query, table.transpose(0, 1))
    whole = torch.softmax(scores + near.gather(3, away.expand(batch, self.num_heads, length, length)), dim=-1)
    steps = places[:, None] + torch.arange(-window, window + 1)
    inside = ((steps >= 0) & (steps < length)).to(whole.dtype)
    index = torch.minimum(steps.clamp(min=0), places[-1:]).expand(batch, self.num_heads, length, 2 * window + 1)
    result = torch.matmul(whole, value) + torch.matmul(whole.gather(3, index) * inside, self.emb_rel_v[0])
    return self.out_proj(result.transpose(1, 2).reshape(batch, length, self.embed_dim)), None


def _conv_flow(
    self: Any, inputs: torch.Tensor, padding_mask: torch.Tensor, global_conditioning: Any = None, reverse: bool = False
) -> tuple[torch.Tensor, None]:
    """VitsConvFlow.forward in reverse, with every value computed and those outside the spline taken as they came.

    Its formulas are those of Durkan et al. 2019, section 3.1 and appendix A.1 (https://arxiv.org/abs/1906.04032).
    """
    first, second = torch.split(inputs, [self.half_channels] * 2, dim=1)
    states = self.conv_dds(self.conv_pre(first), padding_mask, global_conditioning)
    states = self.conv_proj(states) * padding_mask
    batch, channels, length = first.shape
    states = states.reshape(batch, channels, -1, length).permute(0, 1, 3, 2)
    bins, bound, root = self.num_bins, self.tail_bound, math.sqrt(self.filter_channels)
    widths, heights, slopes = states[..., :bins] / root, states[..., bins : 2 * bins] / root, states[..., 2 * bins :]
    lefts, widths = _edges(widths, bound)
    lows, heights = _edges(heights, bound)
    edge = torch.full_like(slopes[..., :1], math.log(math.exp(1 - _LEAST) - 1))
    slopes = _LEAST + torch.nn.functional.softplus(torch.cat([edge, slopes, edge], dim=-1))
    within = second.clamp(-bound, bound)
    tops = torch.cat([lows[..., 1:-1], lows[..., -1:] + 1e-6], dim=-1)
    place = (within[..., None] >= tops).sum(-1, keepdim=True)

    def at(values: torch.Tensor) -> torch.Tensor:
        return values.gather(-1, place)[..., 0]

    ratio = at(heights / widths)
    slope, height = at(slopes[..., :-1]), at(heights)
    bend = slope + at(slopes[..., 1:]) - 2 * ratio
    above = within - at(lows[..., :-1])
    a = height * (ratio - slope) + above * bend
    b = height * slope - above * bend
    c = -ratio * above
    solved = 2 * c / (-b - torch.sqrt(b * b - 4 * a * c)) * at(widths) + at(lefts[..., :-1])
    made = torch.where((second >= -bound) & (second <= bound), solved, second)
    return torch.cat([first, made], dim=1) * padding_mask, None


_LEAST = 1e-3  # of a bin's width and height, and of a slope


def _edges(values: torch.Tensor, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where bins begin and end, from -bound to bound, and their sizes."""
    bins = values.shape[-1]
    sizes = _LEAST + (1 - _LEAST * bins) * torch.softmax(values, dim=-1)
    inner = 2 * bound * torch.cumsum(sizes, dim=-1)[..., :-1] - bound
    first = torch.full_like(values[..., :1], -bound)
    edges = torch.cat([first, inner, -first], dim=-1)
    return edges, edges[..., 1:] - edges[..., :-1]

"""Speech encoders over samples (wav2vec2 and its kin) that answer to a padded sound exactly as to the sound alone.

transformers' own attention mask keeps padding out of the attention, and no further: the first layer of most checkpoints
normalises over the whole time, padding with it (`feat_extract_norm="group"`; its documentation says not to mask these at all,
https://huggingface.co/docs/transformers/model_doc/wav2vec2), the convolutions of a conformer and of data2vec carry padding that has
become non-zero back into the sound, and SEW joins the last odd frame with padding. So here

- group norms take mean and deviation over the valid frames alone,
- every convolution over frames sees zeros beyond them, as it does at the end of a sound alone,
- SEW's joined frames end where those of the sound alone end.

For a sound without padding nothing changes. The model itself is called without a mask, and hooks put masks where they belong: its own
way is indexing by booleans (`hidden_states[~mask] = 0`), whose size depends on the data, and which no static format has.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["of_any_length"]


class _Valid:
    """What the layers of one call must know of its lengths. One for a model and its copies: hooks refer to it."""

    samples: torch.Tensor  # [batch], valid ones
    frames: torch.Tensor  # [batch, frames], bool
    joined: torch.Tensor  # [batch, frames of the attention], bool

    def __deepcopy__(self, memo: dict[int, Any]) -> _Valid:
        return self


def of_any_length(model: torch.nn.Module, kernels: Sequence[int], strides: Sequence[int]) -> torch.nn.Module:
    """A copy of the model; what was given remains the reference.

    Args:
        model: with a head for classes or for CTC.
        kernels: sizes of the convolutions over samples.
        strides: theirs.
    """
    made = copy.deepcopy(model)
    valid = _Valid()

    def lengths_known(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        valid.samples = kwargs["attention_mask"].sum(-1)
        return args, {name: value for name, value in kwargs.items() if name != "attention_mask"}

    made.register_forward_pre_hook(lengths_known, with_kwargs=True)
    for name, module in list(made.named_modules()):
        if isinstance(module, torch.nn.Conv1d) and module.kernel_size[0] > 1 and "feature_extractor" not in name:
            module.register_forward_pre_hook(lambda _, args: (_masked(args[0], valid.frames[:, None]),))
        if hasattr(module, "pos_conv_embed"):
            _mask_encoder(module, kernels, strides, valid)
        for child_name, child in list(module.named_children()):
            if isinstance(child, torch.nn.GroupNorm) and child.num_groups == child.num_channels:
                setattr(module, child_name, _ValidNorm(child, valid, kernels[:1], strides[:1]))
    head: Any = getattr(made, "projector", None)  # Any: attributes of modules have no types
    if head is not None:
        head.register_forward_hook(lambda _, args, found: _for_mean(found, valid.frames))
    return made


def _after(lengths: torch.Tensor, kernels: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths


def _inside(lengths: torch.Tensor, count: int) -> torch.Tensor:
    """Bool [batch, count]."""
    return torch.arange(count, device=lengths.device)[None] < lengths[:, None]


def _masked(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return values * mask.to(values.dtype)


def _for_mean(found: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """So that the head's mean over all frames is that over the valid ones."""
    share = found.shape[1] / frames.sum(-1, keepdim=True).to(found.dtype)
    return _masked(found, frames[..., None]) * share[..., None]


class _ValidNorm(torch.nn.Module):
    """A group norm of one channel per group, whose statistics leave padding out."""

    def __init__(self, norm: torch.nn.GroupNorm, valid: _Valid, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.valid, self.kernels, self.strides = valid, kernels, strides

    def forward(self, values: torch.Tensor) -> torch.Tensor:  # [batch, channels, time]
        lengths = _after(self.valid.samples, self.kernels, self.strides)
        inside = _inside(lengths, values.shape[2])[:, None]
        count = lengths.to(values.dtype)[:, None, None]
        centred = values - _masked(values, inside).sum(2, keepdim=True) / count
        variance = _masked(centred * centred, inside).sum(2, keepdim=True) / count
        return centred / torch.sqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]


def _mask_encoder(encoder: Any, kernels: Sequence[int], strides: Sequence[int], valid: _Valid) -> None:  # Any: as above
    """Zero what comes in beyond the valid frames, and tell each layer's attention which they are."""
    factor = encoder.config.squeeze_factor if hasattr(encoder, "upsample") else 1

    def entered(module: torch.nn.Module, args: Any) -> tuple[Any, ...]:
        lengths, count = _after(valid.samples, kernels, strides), args[0].shape[1]
        valid.frames = _inside(lengths, count)
        valid.joined = _inside(torch.div(lengths, factor, rounding_mode="floor"), count // factor)
        return (_masked(args[0], valid.frames[..., None]), *args[1:])

    def attends(layer: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = valid.joined
        if not by_key:
            mask = (1.0 - mask.to(args[0].dtype))[:, None, None] * torch.finfo(args[0].dtype).min
        return args, {**kwargs, "attention_mask": mask}

    attention = getattr(encoder.layers[0], "attention", None)
    # WavLM wants a row per sound where the others want what is added to the scores.
    by_key = attention is not None and "position_bias" in inspect.signature(attention.forward).parameters
    encoder.register_forward_pre_hook(entered)
    for layer in encoder.layers:
        layer.register_forward_pre_hook(attends, with_kwargs=True)
    if hasattr(getattr(encoder, "embed_positions", None), "cached_sequence_length"):
        # A conformer's rotary positions keep those of the last length, and a trace would have these for ever.
        encoder.embed_positions.register_forward_pre_hook(_forget)
    if factor > 1:
        _split_as_alone(encoder, factor, valid)


def _forget(positions: Any, args: Any) -> None:  # Any: as above
    positions.cached_sequence_length = None


def _split_as_alone(encoder: Any, factor: int, valid: _Valid) -> None:  # Any: as above
    """SEW joins `factor` frames into one and splits them again; what is left over of a sound's frames becomes 0.

    Its own branch on whether any are left over would be traced for one parity of the length alone.
    """

    def padded(module: torch.nn.Module, args: Any, found: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(found, (0, 0, 0, factor))

    def cut(module: torch.nn.Module, args: Any, found: Any) -> Any:
        whole = torch.div(valid.frames.sum(-1), factor, rounding_mode="floor") * factor
        last = found.last_hidden_state[:, : valid.frames.shape[1]]
        found["last_hidden_state"] = _masked(last, _inside(whole, valid.frames.shape[1])[..., None])
        return found

    encoder.upsample.register_forward_hook(padded)
    encoder.register_forward_hook(cut)

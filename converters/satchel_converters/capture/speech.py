"""Speech encoders over samples (wav2vec2 and its kin) that answer to a padded sound exactly as to the sound alone.

transformers' own attention mask keeps padding out of the attention, and no further: the first layer of most checkpoints
normalises over the whole time, padding with it (`feat_extract_norm="group"`; its documentation says not to pad these at all,
https://huggingface.co/docs/transformers/model_doc/wav2vec2), a conformer's and data2vec's convolutions carry padding that has become non-zero back
into the sound, and SEW joins the last odd frame with padding. So here

- group norms take mean and deviation over the valid frames alone,
- every convolution over frames sees zeros beyond them, as it does at the end of a sound alone,
- SEW's joined frames end where those of the sound alone end.

For a sound without padding nothing changes. All of it is arithmetic on lengths, without the data-dependent indexing of the
original, so every format can have it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["of_any_length"]


class _Valid:
    """What the layers of one call must know of its lengths. One for a model and its copies: hooks refer to it."""

    samples: torch.Tensor  # [batch]
    frames: torch.Tensor  # [batch, frames], bool
    hidden: torch.Tensor  # [batch, frames, width], SEW's frames before they are joined

    def __deepcopy__(self, memo: dict[int, Any]) -> _Valid:
        return self


def of_any_length(model: torch.nn.Module, kernels: Sequence[int], strides: Sequence[int]) -> torch.nn.Module:
    """A copy of the model; what was given remains the reference."""
    made = copy.deepcopy(model)
    valid = _Valid()

    def lengths_known(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        valid.samples = kwargs["attention_mask"].sum(-1)

    def frames_of(count: int, attention_mask: torch.Tensor, add_adapter: bool | None = None) -> torch.Tensor:
        lengths = _after(valid.samples, kernels, strides)
        valid.frames = torch.arange(count, device=lengths.device)[None] < lengths[:, None]
        return valid.frames

    made.register_forward_pre_hook(lengths_known, with_kwargs=True)
    for name, module in list(made.named_modules()):
        if hasattr(module, "_get_feature_vector_attention_mask"):
            module._get_feature_vector_attention_mask = frames_of
        if isinstance(module, torch.nn.Conv1d) and module.kernel_size[0] > 1 and "feature_extractor" not in name:
            module.register_forward_pre_hook(lambda _, args: (args[0] * valid.frames[:, None].to(args[0].dtype),))
        if hasattr(module, "upsample") and hasattr(module, "pos_conv_embed"):
            _join_as_alone(module, made.config.squeeze_factor, valid)
        for child_name, child in list(module.named_children()):
            if isinstance(child, torch.nn.GroupNorm) and child.num_groups == child.num_channels:
                setattr(module, child_name, _ValidNorm(child, valid, kernels[:1], strides[:1]))
    return made


def _after(lengths: torch.Tensor, kernels: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths


class _ValidNorm(torch.nn.Module):
    """A group norm of one channel per group, whose statistics leave padding out."""

    def __init__(self, norm: torch.nn.GroupNorm, valid: _Valid, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.valid, self.kernels, self.strides = valid, kernels, strides

    def forward(self, values: torch.Tensor) -> torch.Tensor:  # [batch, channels, time]
        lengths = _after(self.valid.samples, self.kernels, self.strides)
        inside = (torch.arange(values.shape[2], device=values.device)[None] < lengths[:, None])[:, None].to(
            values.dtype
        )
        count = lengths.to(values.dtype)[:, None, None]
        centred = values - (values * inside).sum(2, keepdim=True) / count
        variance = (centred * centred * inside).sum(2, keepdim=True) / count
        return centred / torch.sqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]


def _join_as_alone(encoder: torch.nn.Module, factor: int, valid: _Valid) -> None:
    """SEW's encoder, which joins `factor` frames into one and splits them again; the rest of a sound's frames become 0.

    Its own branch on whether frames are left over would be traced for one parity of the length alone.
    """

    def only_whole(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hidden, mask = (*args, kwargs.get("attention_mask"))[:2]
        valid.hidden = hidden * mask[..., None].to(hidden.dtype)
        return (valid.hidden.clone(),), {**kwargs, "attention_mask": _whole(mask, factor)}

    def padded(module: torch.nn.Module, args: Any, found: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(found, (0, 0, 0, factor))

    def cut(module: torch.nn.Module, args: Any, kwargs: Any, found: Any) -> Any:
        mask = _whole(valid.frames, factor)
        last = found.last_hidden_state[:, : mask.shape[1]]
        found["last_hidden_state"] = last * mask[..., None].to(last.dtype)
        return found

    encoder.register_forward_pre_hook(only_whole, with_kwargs=True)
    # The last odd frame is part of what the positions are computed from, though it is joined with none.
    encoder.pos_conv_embed.register_forward_pre_hook(lambda _, args: (valid.hidden.transpose(1, 2),))
    encoder.upsample.register_forward_hook(padded)
    encoder.register_forward_hook(cut, with_kwargs=True)


def _whole(mask: torch.Tensor, factor: int) -> torch.Tensor:
    lengths = torch.div(mask.sum(-1), factor, rounding_mode="floor") * factor
    return torch.arange(mask.shape[1], device=mask.device)[None] < lengths[:, None]

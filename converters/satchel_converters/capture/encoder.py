"""The generic way: a text encoder with or without a head, one graph from token ids to the task's outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..component import Axis, Component, Input, Output

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["LENGTH", "TEXT_INPUTS", "capture", "padding", "text_example"]

# What each input is filled with beyond a text's own tokens; the pad ids come from the tokenizer.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LENGTH = 11  # tokens of the traced texts


class _Encoder(torch.nn.Module):
    """Takes and returns plain named tensors, with the attention mask as most engines and fusions want it.

    The 4-D float mask is built here: boolean masks come out as operators that old engines lack (tflite-runtime has no
    GATHER_ND 5), and transformers passes a 4-D mask through as it is.
    """

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...], float_mask: bool) -> None:
        super().__init__()
        self.model, self.outputs, self.float_mask = model, outputs, float_mask
        self.config = model.config  # transformers' exporter looks for it

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.float_mask:
            mask = inputs["attention_mask"][:, None, None, :].to(torch.float32)
            inputs = {**inputs, "attention_mask": (1.0 - mask) * torch.finfo(torch.float32).min}
        result = self.model(**inputs, return_dict=True)
        return {name: result[name] for name in self.outputs}


def capture(loaded: Loaded, beside: Mapping[str, tuple[Input, torch.Tensor]] | None = None) -> tuple[Component, ...]:
    """One graph over a text.

    Args:
        beside: further inputs, each with an example of two rows; where one has a sequence, it is of `LENGTH` tokens.
    """
    beside = beside or {}
    accepted = inspect.signature(loaded.model.forward).parameters
    named = loaded.tokenizer.model_input_names
    wanted = [name for name in TEXT_INPUTS if name in named and name in accepted and name not in beside]
    example = text_example(loaded, wanted) | {name: made for name, (_, made) in beside.items()}
    names = loaded.task.head(loaded.source.facts.config)[1]
    module = _Encoder(loaded.model, names, _takes_float_mask(loaded.model, names, example)).eval()
    with torch.no_grad():
        results = module(**example)
    batch = Axis("batch")
    sequence = Axis("sequence", maximum=loaded.source.facts.max_length)
    texts = [Input(name, "int64", (batch, sequence), padding(loaded, name)) for name in wanted]
    inputs = (*texts, *(spec for spec, _ in beside.values()))
    outputs = tuple(
        Output(name, "float32", _axes(results[name], example["input_ids"], batch, sequence), "attention_mask")
        for name in names
    )
    return (Component("model", module, inputs, outputs, example),)


def text_example(loaded: Loaded, wanted: list[str], length: int = LENGTH) -> dict[str, torch.Tensor]:
    """Two texts of different length, so that the mask matters, and no size equal to another by accident."""
    vocabulary = len(loaded.tokenizer)
    ids = torch.arange(2 * length).reshape(2, length) * 37 % max(vocabulary - 10, 1) + 5
    ids = ids.clamp(max=vocabulary - 1)
    mask = torch.ones_like(ids)
    rest = length * 2 // 3
    ids[1, rest:], mask[1, rest:] = loaded.tokenizer.pad_token_id or 0, 0
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: made[name] for name in wanted}


def _takes_float_mask(model: torch.nn.Module, names: tuple[str, ...], example: dict[str, torch.Tensor]) -> bool:
    """Whether the model gives the same answer with a ready 4-D mask; some architectures build their own from 2-D."""
    if "attention_mask" not in example:
        return False
    with torch.no_grad():
        plain = _Encoder(model, names, False)(**example)
        try:
            ready = _Encoder(model, names, True)(**example)
        except (ValueError, RuntimeError, IndexError, TypeError, AssertionError):  # they refuse it in as many ways
            return False
    valid = example["attention_mask"].bool()
    return all(_same(plain[name], ready[name], valid) for name in names)


def _same(plain: torch.Tensor, ready: torch.Tensor, valid: torch.Tensor) -> bool:
    if plain.shape != ready.shape:  # made of the mask's
        return False
    if plain.shape[:2] == valid.shape:
        plain, ready = plain[valid], ready[valid]
    # A model that answers NaN is refused by the parity gate, with words for it; here both ways are then alike.
    largest = float(torch.nan_to_num(plain).abs().max())
    return bool(torch.allclose(plain, ready, rtol=1e-4, atol=1e-5 * largest, equal_nan=True))


def _axes(value: torch.Tensor, ids: torch.Tensor, batch: Axis, sequence: Axis) -> tuple[Axis | int, ...]:
    axes: list[Any] = list(value.shape)
    axes[0] = batch
    if len(axes) > 1 and axes[1] == ids.shape[1]:
        axes[1] = sequence
    return tuple(axes)


def padding(loaded: Loaded, name: str) -> float:
    if name == "input_ids":
        return float(loaded.tokenizer.pad_token_id or 0)
    return float(loaded.tokenizer.pad_token_type_id) if name == "token_type_ids" else 0.0

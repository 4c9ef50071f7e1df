"""The vocabulary that the user's texts need: fewer rows in the embeddings, and a tokenizer that agrees with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .sites import unsupported
from .tokenizer_files import TokenizerFiles

__all__ = ["Trimmed", "trim"]

_CHECKED = 4  # texts whose answers are compared before and after
_MOST_TOKENS = 32  # of each of them


@dataclass(frozen=True)
class Trimmed:
    """What the vocabulary lost, by the old numbers of the tokens."""

    removed: tuple[int, ...]
    notes: tuple[str, ...]


def trim(model: PreTrainedModel, folder: Path, texts: Sequence[str]) -> Trimmed:
    """Keep the tokens of the texts, the special ones and the single characters; rewrite model, config and tokenizer.

    Raises:
        SupportError: a tokenizer or a model whose tokens cannot be numbered anew.
    """
    table = model.get_input_embeddings() if model.main_input_name == "input_ids" else None
    if not isinstance(table, nn.Embedding) or getattr(model.config, "is_encoder_decoder", False):
        raise unsupported(
            model, "vocabulary", "it is not an encoder of text or a language model with one table of tokens"
        )
    files = TokenizerFiles.read(folder)
    rows = table.num_embeddings
    if files.largest >= rows:
        raise unsupported(model, "vocabulary", f"the tokenizer in {folder.name} has tokens beyond its {rows} rows")
    trimmed = files.trimmed(texts, _config_ids(model))
    renumbered = trimmed.renumbered
    _check_positions(model, renumbered)
    samples = [files.ids(text)[:_MOST_TOKENS] for text in texts[:_CHECKED]]
    before = [_answer(model, ids) for ids in samples]
    _take_rows(model, list(renumbered))
    _renumber(model, renumbered)
    after = [_answer(model, [renumbered[token] for token in ids]) for ids in samples]
    if not all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max())) for a, b in zip(before, after, strict=True)
    ):
        raise unsupported(model, "vocabulary", "it answers otherwise to the same tokens under their new numbers")
    notes = trimmed.write(folder)
    gone = tuple(row for row in range(rows) if row not in renumbered)
    share = sum(1 for text in texts if text)
    return Trimmed(gone, (f"{len(renumbered)} of {rows} tokens are kept for {share} texts", *notes))


def _take_rows(model: PreTrainedModel, kept: list[int]) -> None:
    """Move the rows that stay to the front, and let transformers cut the rest from table, head, bias and config."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(table, nn.Embedding)
    rows = table.num_embeddings
    # Weight and bias are looked at by identity: a tied one is moved once.
    tensors = {id(each): each for each in (table.weight, *(head.parameters() if head is not None else ()))}
    with torch.no_grad():
        for tensor in tensors.values():
            if len(tensor) == rows:
                tensor[: len(kept)] = tensor[kept].clone()
    model.resize_token_embeddings(len(kept), mean_resizing=False)


def _renumber(model: PreTrainedModel, renumbered: Mapping[int, int]) -> None:
    """New numbers for the tokens that config, generation config and modules name."""
    generation = getattr(model, "generation_config", None)
    for place in (model.config, *([generation] if generation is not None else []), *model.modules()):
        for name, value in list(vars(place).items()):
            if name.endswith(("_token_id", "_token_ids")):
                setattr(place, name, _new(value, renumbered))
            elif name == "vocab_size":
                setattr(place, name, len(renumbered))
    table = model.get_input_embeddings()
    pad = getattr(model.config, "pad_token_id", None)
    if isinstance(table, nn.Embedding) and table.padding_idx is not None:
        table.padding_idx = pad


def _new(value: object, renumbered: Mapping[int, int]) -> object:
    if isinstance(value, (list, tuple)):
        return [_new(each, renumbered) for each in value]
    # A number that no token of the tokenizer has meant nothing before; a stale one would mean another token now.
    return renumbered.get(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _config_ids(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that the config names, which stay whatever the texts say."""
    values = [value for name, value in vars(model.config).items() if name.endswith("_token_id")]
    flat = [each for value in values for each in (value if isinstance(value, (list, tuple)) else [value])]
    return frozenset(each for each in flat if isinstance(each, int))


def _check_positions(model: PreTrainedModel, renumbered: Mapping[int, int]) -> None:
    """RoBERTa counts positions from the number of its padding token, so that one may not change."""
    for module in model.modules():
        positions = getattr(module, "position_embeddings", None)
        pad = getattr(positions, "padding_idx", None)
        if isinstance(positions, nn.Embedding) and pad is not None and renumbered.get(pad) != pad:
            raise unsupported(
                model,
                "vocabulary",
                f"its positions are counted from the padding token {pad}, whose number would change",
            )


@torch.no_grad()
def _answer(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    was_training = model.training
    model.train(False)
    result: Tensor = model.base_model(torch.tensor([list(ids) or [0]], device=model.device), return_dict=True)[0]
    model.train(was_training)
    return result

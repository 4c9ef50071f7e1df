"""Language models that see: a graph from pictures to what the language model reads in place of words, and the language model.

The decoder's graph takes token numbers alone: those from `first` up are not words but places in `image_features`, so that one
graph reads words and pictures, and writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.tasks.image_text_to_text import FEATURES, image_tokens

from ..component import Axis, Component, Input, Output
from .attention import Asked, Held, attending
from .decoder import Decoder, Reference, attending_copy, check, component_of, refused
from .image import picture_input

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["capture", "embedded"]

_PROJECTORS = ("multi_modal_projector", "connector", "language_projection")  # as transformers' models name theirs
_WORDS = 9  # of the text behind a picture that the capture is checked on


class _Seen(Exception):  # no error: it ends a call where what was seen is in the language model's width
    """What comes behind would take the pictures of a batch apart."""


class _Sight(torch.nn.Module):
    """Pictures to `image_features`, [pictures, tokens, width]."""

    def __init__(self, model: Any) -> None:  # Any: one of many classes
        super().__init__()
        self.model, self.config = model, model.config
        named = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
        self.projector = next(named[name] for name in _PROJECTORS if name in named)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        found: list[torch.Tensor] = []

        def reached(module: torch.nn.Module, args: Any, features: torch.Tensor) -> None:
            found.append(features)
            if not torch.compiler.is_exporting():  # torch.export counts the modules that it is in
                raise _Seen

        hook = self.projector.register_forward_hook(reached)
        try:
            with contextlib.suppress(_Seen):
                self.model.get_image_features(pixel_values=pixel_values)
        finally:
            hook.remove()
        return {FEATURES: found[0]}


class _SightReference(torch.nn.Module):
    """transformers' own features, one picture after the other."""

    def __init__(self, model: Any, tiled: bool) -> None:
        super().__init__()
        self.model, self.tiled = model, tiled

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = []
        for each in pixel_values:
            found = self.model.get_image_features(pixel_values=each[None, None] if self.tiled else each[None])
            rows.append(found.pooler_output[0])
        return {FEATURES: torch.stack(rows)}


def embedded(table: torch.nn.Module, ids: torch.Tensor, features: torch.Tensor, first: int) -> torch.Tensor:
    """Of words the rows of the table, of numbers from `first` up those of the features: [batch, sequence, width]."""
    places = (ids - first).clamp(min=0)[:, :, None].expand(-1, -1, features.shape[-1])
    words: torch.Tensor = table(ids.clamp(max=first - 1))
    return torch.where((ids < first)[:, :, None], words, features.gather(1, places))


class _Reader(Decoder):
    """The language model over words and features."""

    def __init__(self, model: Any, first: int) -> None:
        super().__init__(model, 0)
        self.first = first

    def logits(self, input_ids: torch.Tensor, held: Held, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        states = embedded(self.model.get_input_embeddings(), input_ids, others[FEATURES], self.first)
        placed = {"position_ids": held.positions} if self.takes_positions and isinstance(held, Held) else {}
        result: torch.Tensor = self.model(inputs_embeds=states, use_cache=False, return_dict=True, **placed).logits
        return result


class _ReaderReference(Reference):
    def __init__(self, model: Any, first: int) -> None:
        super().__init__(model)
        self.first = first

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        states = embedded(self.model.get_input_embeddings(), input_ids, others[FEATURES], self.first)
        result: torch.Tensor = self.model(inputs_embeds=states, past_key_values=cache, use_cache=True).logits
        return result


def _language(model: Any) -> Any:  # Any: as above
    """The part that writes: a language model of its own, or the whole, where its head belongs to that."""
    own = getattr(model, "language_model", None)
    return model if own is None or own.get_output_embeddings() is None else own


def capture(loaded: Loaded, seeing: Any = None) -> tuple[Component, ...]:
    """
    Args:
        seeing: the model, rewritten where its pictures need it.

    Raises:
        SupportError: a part answers otherwise than the model.
    """
    steps = loaded.task.entry(loaded.facts()).preprocess
    words = image_tokens(steps)
    spec, pictures = picture_input(steps)
    sight, tiled = _Sight(seeing or loaded.model).eval(), words["tiles"]
    reference = _SightReference(loaded.model, tiled)
    with torch.no_grad():
        made, expected = sight(pictures)[FEATURES], reference(pictures)[FEATURES]
    close = 1e-4 * float(expected.abs().max())
    if made.shape != expected.shape or not torch.allclose(made, expected, atol=close):
        raise refused(f"the pictures of {loaded.source.id}", "its features differ from transformers' own")
    if made.shape[1] != words["count"]:
        why = f"it makes {made.shape[1]} tokens of one, and its settings say {words['count']}"
        raise refused(f"the pictures of {loaded.source.id}", why)
    pictures_axis, width = Axis("batch"), made.shape[2]
    spec = Input(spec.name, spec.dtype, (pictures_axis, *spec.axes[1:]), spec.padding)
    output = Output(FEATURES, "float32", (pictures_axis, *made.shape[1:]))
    encoder = Component("image_encoder", sight, (spec,), (output,), {spec.name: pictures}, reference=reference)

    model = attending_copy(loaded)
    reader, first = _Reader(_language(model), words["first"]), words["first"]
    table: Any = reader.model.get_input_embeddings()
    if len(table.weight) < first:
        raise refused(loaded.source.id, f"config.json says {first} words, and it has {len(table.weight)}")
    with attending(Asked()) as asked, torch.no_grad():
        reader.logits(torch.ones(1, 2, dtype=torch.int64), asked, {FEATURES: made[:1]})  # type: ignore[arg-type]  # nothing is held yet
    reader.layers = len(asked.shapes)
    seen = Input(FEATURES, "float32", (Axis("batch"), Axis("places"), width))
    decoder = component_of(
        loaded,
        reader,
        asked.shapes,
        _ReaderReference(_language(loaded.model), first),
        name="language_model",
        beside={seen: made},
    )
    ids = decoder.remade(1, _WORDS)["input_ids"]  # type: ignore[misc]  # it has one
    ids = torch.cat([ids[:, :2], first + torch.arange(made.shape[1])[None], ids[:, 2:]], dim=1)
    theirs = torch.where(ids < first, ids, words["id"])
    picture = pictures[:1, None] if tiled else pictures[:1]
    with torch.no_grad():
        check(loaded, decoder, ids, loaded.model(input_ids=theirs, pixel_values=picture).logits[0])
    return encoder, decoder

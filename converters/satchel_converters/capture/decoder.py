"""Language models: one graph that reads a prompt and writes the next token, with its cache in place.

`sequence` tokens at `position_ids` go in, and of those that `logits_positions` picks come logits: all of a text that is judged,
the last of a prompt, the one of a step.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import SupportError
from satchel_runtimes.generation.contrastive import STATES
from satchel_runtimes.sessions.cache import CAPACITY, POSITIONS

from ..component import Axis, Component, Input, Output
from . import attention
from .attention import Held, attending
from .older_decoders import OLDER
from .rewrite import rewritten
from .rotary import fused_rotary, turns_halves

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["Reference", "capture"]

_LENGTH, _CAPACITY = 11, 16  # of the traced example; no size equal to another by accident
_CLOSE = 1e-4  # of the largest logit: float32 sums in another order


class _Kept(torch.nn.Module):
    """The output embeddings, of the tokens that are asked for: those of a prompt are a fifth of a small model's work."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head
        self.places: torch.Tensor | None = None
        self.states: torch.Tensor | None = None  # of the last call

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        assert self.places is not None  # set at the start of each call
        index = self.places[:, :, None].expand(-1, -1, states.shape[-1])
        self.states = states.gather(1, index)
        result: torch.Tensor = self.head(self.states)
        return result


class Decoder(torch.nn.Module):
    """The model with its cache as named tensors."""

    def __init__(self, model: Any, layers: int) -> None:
        super().__init__()
        self.model, self.layers, self.config = model, layers, model.config
        self.kept = _Kept(model.get_output_embeddings())
        model.set_output_embeddings(self.kept)
        self.halves = turns_halves(model)
        self.takes_positions = POSITIONS in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, logits_positions: torch.Tensor, **past: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        self.kept.places = logits_positions
        given = {POSITIONS: position_ids} if self.takes_positions else {}
        pairs = [(past[_past(i, "key")], past[_past(i, "value")]) for i in range(self.layers)]
        with fused_rotary(self.model, self.halves), attending(Held(position_ids, pairs)) as held:
            result = self.model(input_ids=input_ids, use_cache=False, return_dict=True, **given)
        if len(held.present) != self.layers:
            raise SupportError(
                f"Cannot capture {type(self.model).__name__} with its cache.",
                why=f"{len(held.present)} of its {self.layers} layers asked for attention where transformers lets others in",
                fix="an architecture that needs a rewrite gets one file in satchel_converters/capture/",
            )
        presents = {_present(i, kind): each for i, pair in enumerate(held.present) for kind, each in zip(_KINDS, pair)}
        assert self.kept.states is not None  # the head ran
        return {"logits": result.logits, STATES: self.kept.states, **presents}


_KINDS = ("key", "value")


def _past(layer: int, kind: str) -> str:
    return f"past_{kind}_{layer}"


def _present(layer: int, kind: str) -> str:
    return f"present_{kind}_{layer}"


@dataclass
class _Caches:
    """transformers' own, one for each text."""

    rows: list[Any]

    def hold(self, tokens: int) -> None:
        """They grow by themselves."""

    def select(self, rows: Sequence[int], tokens: int) -> None:
        self.rows = [copy.deepcopy(self.rows[int(row)]) for row in rows]


class Reference(torch.nn.Module):
    """The checkpoint with transformers' own cache, one text after the other: nothing here is padded or shared."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.states = torch.empty(0)
        # What the logits are made of; some models have one more projection behind their last hidden state.
        model.get_output_embeddings().register_forward_pre_hook(lambda head, given: setattr(self, "states", given[0]))

    def new_state(self, batch: int) -> _Caches:
        from transformers import DynamicCache

        return _Caches([DynamicCache() for _ in range(batch)])

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        logits_positions: torch.Tensor,
        state: _Caches | None = None,
    ) -> dict[str, torch.Tensor]:
        rows = []
        for row, cache in enumerate((state or self.new_state(len(input_ids))).rows):
            first = int(position_ids[row, 0])
            if cache.get_seq_length() > first:  # padding, or tokens that were rejected
                cache.crop(first)
            given = input_ids[row : row + 1]
            found = self.model(input_ids=given, past_key_values=cache, use_cache=True)
            places = logits_positions[row]
            rows.append((found.logits[0, places], self.states[0, places]))
        return {name: torch.stack(each) for name, each in zip(("logits", STATES), zip(*rows, strict=True), strict=True)}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError where the model answers otherwise with its cache outside."""
    attention.register()
    model: Any = rewritten(loaded.model, OLDER, shared=True)
    model.set_attn_implementation(attention.NAME)
    # A loop over the experts that tokens chose is the example's own; this takes the weights of each token's experts.
    model.set_experts_implementation("batched_mm")
    shapes = _cache_shapes(loaded)
    module = Decoder(model, len(shapes)).eval()
    batch, sequence = Axis("batch"), Axis("sequence", maximum=loaded.source.facts.max_length)
    kept, capacity = Axis("kept"), Axis(CAPACITY)
    inputs = [
        Input("input_ids", "int64", (batch, sequence), float(loaded.tokenizer.pad_token_id or 0)),
        Input(POSITIONS, "int64", (batch, sequence)),
        Input("logits_positions", "int64", (batch, kept)),
    ]
    head: Any = module.kept.head
    width, size = head.weight.shape
    outputs = [Output("logits", "float32", (batch, kept, width)), Output(STATES, "float32", (batch, kept, size))]
    for layer, pair in enumerate(shapes):
        for kind, (heads, size) in zip(_KINDS, pair, strict=True):
            axes = (batch, heads, capacity, size)
            inputs.append(Input(_past(layer, kind), "float32", axes))
            outputs.append(Output(_present(layer, kind), "float32", axes, role="state"))
    vocabulary = len(loaded.tokenizer)

    def remade(rows: int, length: int) -> Mapping[str, torch.Tensor]:
        return _example(inputs, vocabulary, rows, length)

    component = Component(
        "model",
        module,
        tuple(inputs),
        tuple(outputs),
        remade(2, _LENGTH),
        reference=Reference(loaded.model),
        remade=remade,
        state={_past(i, kind): _present(i, kind) for i in range(len(shapes)) for kind in _KINDS},
    )
    _check(loaded, component)
    return (component,)


def _cache_shapes(loaded: Loaded) -> list[list[tuple[int, int]]]:
    """Heads and size of keys and values by layer, as the model's own cache has them."""
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.no_grad():
        loaded.model(input_ids=torch.ones(1, 2, dtype=torch.int64), past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    return [[(each.shape[1], each.shape[3]) for each in (layer.keys, layer.values)] for layer in layers]


def _example(inputs: list[Input], vocabulary: int, rows: int, length: int) -> dict[str, torch.Tensor]:
    """A prompt of several texts; what one text goes on with; or, of a length of one, a step of several texts.

    These are all that a decoder is called with. The cache is not empty, so that what lies beyond a row would show.
    """
    ids = torch.arange(rows * length).reshape(rows, length) * 37 % max(vocabulary - 10, 1) + 5
    first = torch.arange(rows) * 2 + 4 if length == 1 or rows == 1 else torch.zeros(rows, dtype=torch.int64)
    made = {
        "input_ids": ids.clamp(max=vocabulary - 1),
        POSITIONS: first[:, None] + torch.arange(length),
        "logits_positions": torch.arange(length).repeat(rows, 1),
    }
    capacity = max(_CAPACITY, length + 6)
    generator = torch.Generator().manual_seed(0)
    for each in inputs[len(made) :]:
        _, heads, _, size = each.axes
        made[each.name] = torch.randn((rows, int(heads), capacity, int(size)), generator=generator)  # type: ignore[arg-type]  # both are fixed
    return made


def _check(loaded: Loaded, component: Component) -> None:
    """The first tokens of a text at once, the others one by one, against the model on the whole text."""
    prompt, steps = 7, 4
    example = component.remade(1, prompt + steps)  # type: ignore[misc]  # set above
    ids, positions = example["input_ids"], torch.arange(prompt + steps)[None]
    past = {name: example[name] for name in component.state}
    with torch.no_grad():
        expected = loaded.model(input_ids=ids).logits[0]
        found = []
        for first, end in [(0, prompt), *((prompt + i, prompt + i + 1) for i in range(steps))]:
            places = torch.arange(end - first)[None]
            try:
                result = component.module(ids[:, first:end], positions[:, first:end], places, **past)
            except (RuntimeError, IndexError, TypeError) as error:  # of shapes that are others than the cache's
                raise SupportError(
                    f"Cannot capture {loaded.source.id} with its cache.",
                    why=f"{loaded.source.architecture}: {str(error).splitlines()[0][:200]}",
                    fix="an architecture that needs a rewrite gets one file in satchel_converters/capture/",
                ) from None
            found.append(result["logits"][0])
            past = {name: result[output] for name, output in component.state.items()}
    worst = float((torch.cat(found) - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    if not worst <= _CLOSE:
        raise SupportError(
            f"Cannot capture {loaded.source.id} with its cache.",
            why=f"{loaded.source.architecture} answers otherwise by {worst:.2g} of its largest logit",
            fix="an architecture that needs a rewrite gets one file in satchel_converters/capture/",
        )

"""Language models: one graph that reads a prompt and writes the next token, with its cache in place.

`sequence` tokens at `position_ids` go in, and of those that `logits_positions` picks come logits: all of a text that is judged,
the last of a prompt, the one of a step.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import SupportError
from satchel_runtimes.generation.contrastive import STATES
from satchel_runtimes.sessions.cache import CAPACITY, POSITIONS, WINDOW_CAPACITY, WINDOW_POSITIONS

from ..component import Axis, Component, Input, Output
from . import attention
from .attention import Asked, Held, Shape, attending
from .led import LED
from .older_decoders import OLDER
from .placed import PLACED
from .prophetnet import PROPHETNET
from .rewrite import rewritten
from .rotary import fused_rotary, turns_halves
from .speech_to_text import SPEECH_TO_TEXT

if TYPE_CHECKING:
    from . import Loaded

__all__ = [
    "KINDS",
    "Caches",
    "Decoder",
    "Reference",
    "attending_copy",
    "capture",
    "check",
    "component_of",
    "example_positions",
    "past",
    "presents",
    "refused",
    "with_cache",
]

_LENGTH, _CAPACITY = 11, 16  # of the traced example; no size equal to another by accident
_LEFT = 2  # tokens that the windows of an example have left behind
_PROMPT, _STEPS = 7, 4  # tokens of the text that the capture is checked on
_CLOSE = 1e-4  # of the largest logit: float32 sums in another order


class _Kept(torch.nn.Module):
    """The output embeddings, of the tokens that are asked for: those of a prompt are a fifth of a small model's work."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head = head
        self.places: torch.Tensor | None = None
        self.states: torch.Tensor | None = None  # of the last call

    @property
    def weight(self) -> torch.Tensor:
        return self.head.weight  # type: ignore[return-value]  # as of all projections

    @property
    def bias(self) -> Any:  # Any: a parameter or None; some models keep a name for it
        return getattr(self.head, "bias", None)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self.places is None:  # an encoder's graph ends before
            return self.head(states)  # type: ignore[no-any-return]  # modules have no types
        self.states = _at(states, self.places)
        result: torch.Tensor = self.head(self.states)
        return result


def _at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of [batch, tokens, …] those at some places of each row."""
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[-1]))


class Decoder(torch.nn.Module):
    """The model with its cache as named tensors."""

    more: Mapping[str, int] = {}  # outputs of each kept token beside logits and states, and their sizes

    def __init__(self, model: Any, layers: int) -> None:
        super().__init__()
        self.model, self.layers, self.config = model, layers, model.config
        self.kept = _Kept(model.get_output_embeddings())
        model.set_output_embeddings(self.kept)
        self.halves = turns_halves(model)
        self.takes_positions = POSITIONS in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        logits_positions: torch.Tensor,
        **others: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        self.kept.places = logits_positions
        pairs = [(others.pop(past(i, "key")), others.pop(past(i, "value"))) for i in range(self.layers)]
        with (
            fused_rotary(self.model, self.halves),
            attending(Held(position_ids, pairs, near=others.pop(WINDOW_POSITIONS, None))) as held,
        ):
            logits = self.logits(input_ids, held, others)
        if len(held.present) != self.layers:
            raise refused(
                f"{type(self.model).__name__} with its cache",
                f"{len(held.present)} of its {self.layers} layers asked for attention where transformers lets others in",
            )
        self.kept.places = None
        assert self.kept.states is not None  # the head ran
        more = {name: _at(each, logits_positions) for name, each in self.noted(held).items()}
        return {"logits": logits, STATES: self.kept.states, **more, **presents(held)}

    def noted(self, held: Held) -> dict[str, torch.Tensor]:
        """What `more` names, [batch, tokens, size]."""
        return {}

    def logits(self, input_ids: torch.Tensor, held: Held, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One call of the model; `others` are the graph's own inputs."""
        given = {POSITIONS: held.positions} if self.takes_positions else {}
        result: torch.Tensor = self.model(input_ids=input_ids, use_cache=False, return_dict=True, **given).logits
        return result


def refused(what: str, why: str) -> SupportError:
    return SupportError(
        f"Cannot capture {what}.",
        why=why,
        fix="an architecture that needs a rewrite gets one file in satchel_converters/capture/",
    )


KINDS = ("key", "value")


def past(layer: int, kind: str) -> str:
    return f"past_{kind}_{layer}"


def presents(held: Held) -> dict[str, torch.Tensor]:
    """The cache after a call, as outputs."""
    return {_present(i, kind): each for i, pair in enumerate(held.present) for kind, each in zip(KINDS, pair)}


def _present(layer: int, kind: str) -> str:
    return f"present_{kind}_{layer}"


@dataclass
class Caches:
    """transformers' own, one for each text."""

    rows: list[Any]
    wanted: Collection[str] | None = None  # as of a session's; all are computed

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

    def new_state(self, batch: int) -> Caches:
        from transformers import DynamicCache

        return Caches([DynamicCache() for _ in range(batch)])

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        logits_positions: torch.Tensor,
        state: Caches | None = None,
        **others: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        rows = []
        for row, cache in enumerate((state or self.new_state(len(input_ids))).rows):
            first = int(position_ids[row, 0])
            if cache.get_seq_length() > first:  # padding, or tokens that were rejected
                cache.crop(first)
            given = {name: each[row : row + 1] for name, each in others.items()}
            found = {"logits": self.logits(input_ids[row : row + 1], cache, given), STATES: self.states, **self.noted()}
            rows.append({name: each[0, logits_positions[row]] for name, each in found.items()})
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def noted(self) -> Mapping[str, torch.Tensor]:
        """As of `Decoder`, of the last call."""
        return {}

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Those of one text, which goes on from what its cache holds."""
        result: torch.Tensor = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True).logits
        return result


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError where the model answers otherwise with its cache outside."""
    model = attending_copy(loaded)
    with attending(Asked()) as asked, torch.no_grad():
        model(input_ids=torch.ones(1, 2, dtype=torch.int64), use_cache=False)
    if not asked.shapes:  # as XLM, which writes into a mask behind the text and reads all anew for each token
        why = f"none of the layers of {loaded.source.architecture} asks for attention over a text that it has read"
        raise refused(f"{loaded.source.id} with its cache", why)
    component = component_of(
        loaded, Decoder(model, len(asked.shapes)), asked.shapes, Reference(loaded.model), windows=asked.windows
    )
    ids = component.remade(1, _PROMPT + _STEPS)["input_ids"]  # type: ignore[misc]  # it has one
    with torch.no_grad():
        check(loaded, component, ids, loaded.model(input_ids=ids).logits[0])
    return (component,)


def attending_copy(loaded: Loaded) -> Any:  # Any: one of many classes
    """The model with its weights shared, whose layers ask `attend`."""
    attention.register()
    model: Any = rewritten(loaded.model, {**OLDER, **PLACED, **LED, **SPEECH_TO_TEXT, **PROPHETNET}, shared=True)
    model.set_attn_implementation(attention.NAME)
    # A loop over the experts that tokens chose is the example's own; this takes the weights of each token's experts.
    model.set_experts_implementation("batched_mm")
    # To warn of padding it would read the tokens, which a compiler that traces on a device of its own cannot.
    for each in model.modules():
        if hasattr(each, "warn_if_padding_and_no_attention_mask"):
            each.warn_if_padding_and_no_attention_mask = _unheeded
    return model


def _unheeded(*given: Any) -> None:
    """Nothing is padded here that a mask would have to say."""


def component_of(
    loaded: Loaded,
    module: Decoder,
    shapes: Sequence[tuple[Shape, Shape]],
    reference: Reference,
    *,
    name: str = "model",
    beside: Mapping[Input, torch.Tensor] | None = None,
    windows: Sequence[int | None] = (),
) -> Component:
    """A decoder's graph.

    Args:
        shapes: heads and size of keys and values, by layer.
        windows: tokens that each layer sees; of those that see the last ones alone the cache has an axis of its own.
        beside: what each call is given too, with an example of two rows.
    """
    batch, sequence = Axis("batch"), Axis("sequence", maximum=loaded.source.facts.max_length)
    kept = Axis("kept")
    reader = loaded.processors.by_name.get("tokenizer")  # none where tokens are colours
    seen = [each for each in windows if each is not None]
    if 2 * max(seen, default=0) >= (sequence.maximum or 0):  # a text never leaves as much behind
        seen = []
    inputs = (
        Input("input_ids", "int64", (batch, sequence), float(reader.pad_token_id or 0) if reader else 0.0),
        Input(POSITIONS, "int64", (batch, sequence)),
        Input("logits_positions", "int64", (batch, kept)),
        *([Input(WINDOW_POSITIONS, "int64", (batch, sequence))] if seen else ()),
    )
    head: Any = module.kept.head
    width, size = head.weight.shape
    sizes = {"logits": width, STATES: size, **module.more}
    outputs = [Output(each, "float32", (batch, kept, wide)) for each, wide in sizes.items()]
    vocabulary = min(len(reader), width) if reader else width

    def example(rows: int, length: int, kept: int) -> dict[str, torch.Tensor]:
        made = _example(vocabulary, rows, length)
        if kept:
            made["logits_positions"] = made["logits_positions"][:, -kept:]
        if seen:  # as of a text whose first tokens are left behind, where it has as many
            made[WINDOW_POSITIONS] = made[POSITIONS] - made[POSITIONS][:, :1].clamp(max=_LEFT)
        return made

    return with_cache(name, module, shapes, reference, inputs, outputs, example, beside or {}, windows if seen else ())


def with_cache(
    name: str,
    module: torch.nn.Module,
    shapes: Sequence[tuple[Shape, Shape]],
    reference: torch.nn.Module,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    example: Callable[[int, int, int], dict[str, torch.Tensor]],
    beside: Mapping[Input, torch.Tensor],
    windows: Sequence[int | None] = (),
) -> Component:
    """A graph with a cache of keys and values.

    Args:
        inputs, outputs: those of each call.
        example: makes the inputs, for so many rows of such a length, of which so many are asked for; 0: all.
        beside: other inputs, which are the same in each call, with an example of two rows.
        windows: as of `component_of`, where a cache has an axis of its own for them.
    """
    batch, capacity, room = Axis("batch"), Axis(CAPACITY), Axis(WINDOW_CAPACITY)
    caches: list[Input] = []
    states: list[Output] = []
    for layer, pair in enumerate(shapes):
        for kind, (heads, size) in zip(KINDS, pair, strict=True):
            axes = (batch, heads, room if windows and windows[layer] is not None else capacity, size)
            caches.append(Input(past(layer, kind), "float32", axes))
            states.append(Output(_present(layer, kind), "float32", axes, role="state"))

    def remade(rows: int, length: int, *, capacity: int = 0, kept: int = 0, **sizes: int) -> Mapping[str, torch.Tensor]:
        capacity = capacity or max(_CAPACITY, length + 6)
        sizes = {WINDOW_CAPACITY: capacity + 3, **sizes, CAPACITY: capacity}
        others = {}
        for each, given in beside.items():
            value = given[torch.arange(rows) % len(given)]
            for place, axis in enumerate(each.axes):
                if isinstance(axis, Axis) and axis.name in sizes:
                    index = torch.arange(sizes[axis.name]) % value.shape[place]
                    value = value.index_select(place, index)
            others[each.name] = value
        return {**example(rows, length, kept), **others, **_cache(caches, {**sizes, "batch": rows})}

    return Component(
        name,
        module.eval(),
        (*inputs, *beside, *caches),
        (*outputs, *states),
        remade(2, _LENGTH),
        reference=reference,
        remade=remade,
        state={past(i, kind): _present(i, kind) for i in range(len(shapes)) for kind in KINDS},
        window=max((each for each in windows if each is not None), default=None),
    )


def _example(vocabulary: int, rows: int, length: int) -> dict[str, torch.Tensor]:
    """A prompt of several texts; what one text goes on with; or, of a length of one, a step of several texts.

    These are all that a decoder is called with.
    """
    ids = torch.arange(rows * length).reshape(rows, length) * 37 % max(vocabulary - 10, 1) + 5
    return {
        "input_ids": ids.clamp(max=vocabulary - 1),
        POSITIONS: example_positions(rows, length),
        "logits_positions": torch.arange(length).repeat(rows, 1),
    }


def example_positions(rows: int, length: int) -> torch.Tensor:
    first = torch.arange(rows) * 2 + 4 if length == 1 or rows == 1 else torch.zeros(rows, dtype=torch.int64)
    return first[:, None] + torch.arange(length)


def _cache(inputs: Sequence[Input], sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Not empty, so that what lies beyond a row would show."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        each.name: [sizes[axis.name] if isinstance(axis, Axis) else axis for axis in each.axes] for each in inputs
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def check(loaded: Loaded, component: Component, ids: torch.Tensor, expected: torch.Tensor) -> None:
    """The first tokens of a text at once, the others one by one, against the model on the whole text.

    Args:
        ids: [1, tokens].
        expected: the model's own logits, [tokens, vocabulary].

    Raises:
        SupportError: they differ.
    """
    length = ids.shape[1]
    example = dict(component.remade(1, length))  # type: ignore[misc]  # a decoder has it
    positions = torch.arange(length)[None]
    found = []
    with torch.no_grad():
        for first, end in [(0, length - _STEPS), *((i, i + 1) for i in range(length - _STEPS, length))]:
            example["input_ids"], example[POSITIONS] = ids[:, first:end], positions[:, first:end]
            if WINDOW_POSITIONS in example:
                example[WINDOW_POSITIONS] = positions[:, first:end]
            example["logits_positions"] = torch.arange(end - first)[None]
            try:
                result = component.module(**example)
            except (RuntimeError, IndexError, TypeError) as error:  # of shapes that are others than the cache's
                why = f"{loaded.source.architecture}: {str(error).splitlines()[0][:200]}"
                raise refused(f"{loaded.source.id} with its cache", why) from None
            found.append(result["logits"][0])
            example.update({name: result[output] for name, output in component.state.items()})
    worst = float((torch.cat(found) - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    if not worst <= _CLOSE:
        why = f"{loaded.source.architecture} answers otherwise by {worst:.2g} of its largest logit"
        raise refused(f"{loaded.source.id} with its cache", why)

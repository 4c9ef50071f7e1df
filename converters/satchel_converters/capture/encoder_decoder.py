"""Models that read with one part and write with another: a graph of the encoder and one of the decoder.

The encoder's graph ends where the decoder's attention to it begins, with the keys and values of each layer: they are the same for
every token that is written. What the decoder writes itself lies in a cache as that of any language model, see `decoder`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from satchel_runtimes.tasks.spoken_words import QUERIES, alignment

from ..component import Axis, Component, Input, Output
from . import attention
from .attention import Asked, Held, Pair, attending
from .decoder import KINDS, Caches, Decoder, Reference, attending_copy, check, component_of, refused
from .encoder_inputs import inputs_of
from .prophetnet import ONE_BY_ONE
from .rotary import plain_turn

if TYPE_CHECKING:
    from . import Loaded

__all__ = ["alike", "capture", "cross", "named"]

_MASK = "encoder_attention_mask"  # the decoder's: which of the encoder's tokens there are
_STATES = "encoder_hidden_states"  # likewise
_POSITIONS = "decoder_position_ids"  # where a model takes them
_WRITTEN = 11  # tokens of the text that the capture is checked on


def cross(layer: int, kind: str) -> str:
    return f"cross_{kind}_{layer}"


class _Steps(EncoderDecoderCache):
    """transformers' cache, in whose place `attend` finds its own. It notes what comes next, and for an encoder's graph what the
    layers make of its states."""

    is_sliding = is_linear = is_dummy = ()  # what masks would ask, and there are none

    def __init__(self, held: Held | Asked, cross: Sequence[Pair] | None) -> None:
        self._held, self._given = held, cross
        self.made: list[Pair] = []
        self.is_updated = _Always(cross is not None)
        self.self_attention_cache = SimpleNamespace(update=self._own, get_seq_length=self.get_seq_length)  # type: ignore[assignment]  # all that is asked of it
        self.cross_attention_cache = SimpleNamespace(update=self._theirs, layers=_Layers(self))  # type: ignore[assignment]  # all that is asked of it

    def get_seq_length(self, layer_idx: int = 0) -> Any:  # Any: transformers says int, and adds it to positions
        return self._held.positions[:, :1] if isinstance(self._held, Held) else 0

    def _own(self, key: torch.Tensor, value: torch.Tensor, *others: Any, **more: Any) -> Pair:
        self._held.crossing = False
        return key, value

    def _theirs(self, key: torch.Tensor, value: torch.Tensor, *others: Any, **more: Any) -> Pair:
        self._held.crossing = True
        self.made.append((key, value))
        return key, value

    def layer(self, number: int) -> SimpleNamespace:
        assert self._given is not None  # `is_updated` says whether it is
        self._held.crossing = True
        key, value = self._given[number]
        return SimpleNamespace(keys=key, values=value)


class _Always(dict[int, bool]):
    """One answer for every layer."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self._answer = answer

    def get(self, key: int, default: Any = None) -> bool:
        return self._answer


class _Layers:
    def __init__(self, cache: _Steps) -> None:
        self._cache = cache

    def __getitem__(self, number: int) -> SimpleNamespace:
        return self._cache.layer(number)


@contextlib.contextmanager
def _mask_of(model: Any, given: torch.Tensor | None = None) -> Iterator[list[torch.Tensor | None]]:  # Any: a model
    """The mask with which the decoder is called, which some models make from the encoder's; `given` is passed in its place."""
    found: list[torch.Tensor | None] = []

    def called(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        found.append(kwargs.get(_MASK))
        return args, {**kwargs, _MASK: given} if given is not None else kwargs

    hook = model.get_decoder().register_forward_pre_hook(called, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


@dataclass
class _States(BaseModelOutput):
    """An encoder's answer, as every model takes it."""

    attention_mask: torch.Tensor | None = None
    global_attentions: Any = None  # as LED has them


def _first_token(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of a text that nobody reads: the keys and values of the encoder's states do not depend on it."""
    given = next(iter(inputs.values()))
    return torch.ones(given.shape[0], 1, dtype=torch.int64, device=given.device)


class _Read(Exception):  # no error: it ends a call where the decoder begins
    """What the encoder found."""

    def __init__(self, states: torch.Tensor, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.states, self.mask = states, mask


@dataclass
class _Unread(ModelOutput):
    """A decoder's answer that nothing is made of."""

    loss: Any = None  # of a decoder with a head of its own
    last_hidden_state: torch.Tensor | None = None
    last_hidden_state_ngram: torch.Tensor | None = None  # this and two more as ProphetNet has them
    hidden_states_ngram: Any = None
    ngram_attentions: Any = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    cross_attentions: Any = None


class _Encoder(torch.nn.Module):
    """The encoder, and of each layer of the decoder the projections of what that found, which `_projections` lists.

    The decoder itself is not called: what it would make of a token that nobody reads hangs on the graph by the shapes alone.
    """

    def __init__(self, model: Any, projections: Sequence[_Projection], whole: bool) -> None:
        super().__init__()
        self.model, self.config, self.projections, self.whole = model, model.config, projections, whole

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        found: list[_Read] = []

        def reached(**given: Any) -> _Unread:
            found.append(_Read(given[_STATES], given.get(_MASK)))
            if not torch.compiler.is_exporting():
                raise found[0]
            # torch.export counts the modules that it is in, and what is raised would leave it in them.
            nothing = torch.zeros(given[_STATES].shape[0], 1, self.model.get_output_embeddings().weight.shape[1])
            return _Unread(last_hidden_state=nothing, last_hidden_state_ngram=nothing, logits=nothing)

        decoder = self.model.get_decoder()
        rewritten = vars(decoder).get("forward")
        decoder.forward = reached
        try:
            with plain_turn(self.model), contextlib.suppress(_Read):
                self.model(**inputs, decoder_input_ids=_first_token(inputs), return_dict=True)
        finally:
            del decoder.forward
            if rewritten is not None:
                decoder.forward = rewritten
        (read,) = found
        return named([each.pair(read.states) for each in self.projections], read.mask, self.whole)


@dataclass
class _Projection:
    """How a layer's keys and values are made of the encoder's states: by two modules, or by one that gives both."""

    modules: Sequence[torch.nn.Module]
    heads: tuple[int, int]  # of keys and of values
    sizes: tuple[int, int]

    def pair(self, states: torch.Tensor) -> Pair:
        found = [module(states) for module in self.modules]
        if len(found) == 1:
            width = self.heads[0] * self.sizes[0]
            found = [found[0][..., :width], found[0][..., width:]]
        if len(found) != len(KINDS):
            raise RuntimeError(f"{len(found)} modules of a layer take the encoder's states")
        return self._by_head(found[0], 0), self._by_head(found[1], 1)

    def _by_head(self, flat: torch.Tensor, kind: int) -> torch.Tensor:
        shape = (flat.shape[0], flat.shape[1], self.heads[kind], self.sizes[kind])
        return flat.reshape(shape).transpose(1, 2)


def _projections(model: Any, example: Mapping[str, torch.Tensor]) -> list[_Projection]:  # Any: as above
    """Found by a call with something to read, from what the decoder's layers do with the encoder's states."""
    asked, called = Asked(), []
    cache, hooks = _Steps(asked, None), []
    states: list[torch.Tensor] = []

    def entered(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        states.append(kwargs[_STATES])

    def projected(module: torch.nn.Module, args: Any, found: Any) -> None:
        if states and args and args[0] is states[-1]:
            called.append((module, len(cache.made)))

    decoder = model.get_decoder()
    hooks.append(decoder.register_forward_pre_hook(entered, with_kwargs=True))
    hooks += [each.register_forward_hook(projected) for each in decoder.modules() if not list(each.children())]
    ids = _first_token(example)
    try:
        with attending(asked), torch.no_grad():
            model(**example, decoder_input_ids=ids, decoder_attention_mask=torch.ones_like(ids), past_key_values=cache)
    finally:
        for hook in hooks:
            hook.remove()
    made = []
    for layer, (key, value) in enumerate(cache.made):
        modules = [module for module, place in called if place == layer]
        heads, sizes = (key.shape[1], value.shape[1]), (key.shape[3], value.shape[3])
        made.append(_Projection(modules, heads, sizes))
    return made


def _aligned(model: Any) -> dict[int, list[int]]:  # Any: as above
    """The heads that look at what is being said, by layer; none of most models."""
    config = getattr(model, "generation_config", None)
    found: dict[int, list[int]] = {}
    for layer, head in alignment({"alignment_heads": getattr(config, "alignment_heads", None)}):
        found.setdefault(layer, []).append(head)
    return found


def _takes_positions(model: Any) -> bool:  # Any: as above
    accepted = inspect.signature(model.forward).parameters
    # A pair of two models hands what begins with "decoder_" on to the second.
    pair = hasattr(model, "decoder") and any(each.kind is each.VAR_KEYWORD for each in accepted.values())
    decoder = inspect.signature(model.decoder.forward).parameters if pair else {}
    return _POSITIONS in accepted or _POSITIONS.removeprefix("decoder_") in decoder


class _Writer(Decoder):
    """The decoder over an encoder's keys and values."""

    def __init__(self, model: Any, layers: int, across: int, width: int) -> None:
        super().__init__(model, layers)
        self.across, self.width = across, width
        self.takes_positions = _takes_positions(model)
        self.aligned = _aligned(model)
        if self.aligned:
            heads = sum(map(len, self.aligned.values()))
            layer: Any = model.get_decoder().layers[0]  # of whisper
            self.more = {QUERIES: heads * layer.encoder_attn.head_dim}

    def noted(self, held: Held) -> dict[str, torch.Tensor]:
        if not self.aligned:
            return {}
        chosen = [held.asked[layer][:, :, heads] for layer, heads in self.aligned.items()]
        return {QUERIES: torch.cat(chosen, dim=2).flatten(2)}

    def logits(self, input_ids: torch.Tensor, held: Held, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        held.seen = others.get(_MASK)
        pairs = [(others[cross(i, "key")], others[cross(i, "value")]) for i in range(self.across)]
        # Whose keys are there already.
        states = torch.zeros(input_ids.shape[0], 1, self.width, device=input_ids.device)
        placed = {_POSITIONS: held.positions} if self.takes_positions and isinstance(held, Held) else {}
        with plain_turn(self.model):
            result: torch.Tensor = self.model(
                encoder_outputs=_States(last_hidden_state=states),
                decoder_input_ids=input_ids,
                decoder_attention_mask=torch.ones_like(input_ids),
                past_key_values=_Steps(held, pairs),
                use_cache=True,
                return_dict=True,
                **placed,
            ).logits
        return result


class _EncoderReference(torch.nn.Module):
    """The checkpoint's own keys and values, from transformers' own cache."""

    def __init__(self, model: Any, whole: bool) -> None:
        super().__init__()
        self.model, self.whole = model, whole

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with _mask_of(self.model) as masks:
            self.model(**inputs, decoder_input_ids=_first_token(inputs), past_key_values=cache, use_cache=True)
        layers: list[Any] = cache.cross_attention_cache.layers  # of several classes
        return named([(each.keys, each.values) for each in layers], masks[0], self.whole)


class _WriterReference(Reference):
    def __init__(self, model: Any, width: int) -> None:
        super().__init__(model)
        self.width = width
        self.aligned = _aligned(model)
        self.queries: dict[int, torch.Tensor] = {}
        for place in self.aligned:
            across = model.get_decoder().layers[place].encoder_attn
            across.q_proj.register_forward_hook(functools.partial(self._asked, place, across))

    def _asked(self, place: int, across: Any, module: torch.nn.Module, given: Any, found: torch.Tensor) -> None:
        by_head = (found * across.scaling).unflatten(-1, (across.num_heads, across.head_dim))
        self.queries[place] = by_head[:, :, self.aligned[place]].flatten(2)

    def noted(self) -> Mapping[str, torch.Tensor]:
        return {QUERIES: torch.cat([self.queries[each] for each in self.aligned], dim=2)} if self.aligned else {}

    def new_state(self, batch: int) -> Caches:
        return Caches([EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in range(batch)])

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        across, layer = DynamicCache(), 0
        while cross(layer, "key") in others:
            across.update(others[cross(layer, "key")], others[cross(layer, "value")], layer)
            layer += 1
        whole = EncoderDecoderCache(cache.self_attention_cache, across)
        states = torch.zeros(1, others[cross(0, "key")].shape[2], self.width)
        with _mask_of(self.model, others.get(_MASK)):
            result: torch.Tensor = self.model(
                encoder_outputs=_States(last_hidden_state=states),
                decoder_input_ids=input_ids,
                past_key_values=whole,
                use_cache=True,
            ).logits
        return result


class _OneByOne(_WriterReference):
    """Of a model whose own code is right for one token at a time only."""

    def logits(self, input_ids: torch.Tensor, cache: Any, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found, states = [], []
        for place in range(input_ids.shape[1]):
            found.append(super().logits(input_ids[:, place : place + 1], cache, others))
            states.append(self.states[:, 0])  # of the first of its streams
        self.states = torch.cat(states, dim=1)
        return torch.cat(found, dim=1)


def named(pairs: Sequence[Pair], mask: torch.Tensor | None, whole: bool) -> dict[str, torch.Tensor]:
    """The outputs of an encoder's graph; `whole` says that a mask is wanted where the model makes none."""
    made = {cross(i, kind): each for i, pair in enumerate(pairs) for kind, each in zip(KINDS, pair)}
    if mask is None and whole:
        key = pairs[0][0]
        mask = torch.ones(key.shape[0], key.shape[2], device=key.device)
    return made if mask is None else {**made, _MASK: mask.to(torch.int64)}


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """Raises: SupportError where the decoder answers otherwise with its cache outside."""
    model: Any = attending_copy(loaded)
    for each in model.get_decoder().modules():  # also where transformers has one way, and `older_decoders` another
        if hasattr(each, "config"):
            each.config._attn_implementation = attention.NAME
    inputs = inputs_of(loaded)
    example = {spec.name: made for spec, made in inputs.items()}
    length = next((axis for spec in inputs for axis in spec.axes[1:] if isinstance(axis, Axis)), None)
    # The encoder attends as it was loaded; where nothing is padded, in ONNX by one operator.
    known: dict[int, Any] = {}
    for mine, theirs in zip(model.get_encoder().modules(), loaded.model.get_encoder().modules(), strict=True):
        if hasattr(theirs, "config"):
            mine.config = theirs.config
            if length is None and theirs.config._attn_implementation == "sdpa":
                mine.config = copy.deepcopy(theirs.config, known)
                mine.config._attn_implementation = attention.AMONG
    reference = _EncoderReference(loaded.model, length is not None)
    module = _Encoder(model, _projections(model, example), length is not None).eval()
    with torch.no_grad():
        expected = reference(**example)
        try:
            made = module(**example)
        except RuntimeError as error:  # of projections that are others, or none
            why = f"{loaded.source.architecture}: {str(error).splitlines()[0][:200]}"
            raise refused(loaded.source.id, why) from None
    if any(not alike(made.get(name), each) for name, each in expected.items()):
        raise refused(loaded.source.id, "its decoder does more with the encoder's states than to project them")
    batch = Axis("batch")
    if length is None:
        places: Axis | int = made[cross(0, "key")].shape[2]
    else:
        places = Axis("encoder_sequence")

    def axes(value: torch.Tensor) -> tuple[Axis | int, ...]:
        return (batch, places) if value.dim() == 2 else (batch, value.shape[1], places, value.shape[3])

    kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in made.items()}
    encoder = Component(
        "encoder",
        module,
        tuple(inputs),
        tuple(Output(name, kinds[name], axes(value)) for name, value in made.items()),
        example,
        reference=reference,
    )
    writer, asked = _writer(loaded, model, made)
    beside = {Input(name, kinds[name], axes(value)): value for name, value in made.items()}
    alone = loaded.source.model_type in ONE_BY_ONE
    theirs = (_OneByOne if alone else _WriterReference)(loaded.model, writer.width)
    decoder = component_of(loaded, writer, asked.shapes, theirs, name="decoder", beside=beside)
    ids = decoder.remade(1, _WRITTEN)["input_ids"]  # type: ignore[misc]  # it has one
    with torch.no_grad():
        if alone:
            wanted = theirs.logits(ids, theirs.new_state(1).rows[0], {name: value[:1] for name, value in made.items()})
        else:
            first = {name: value[:1] for name, value in example.items()}
            wanted = loaded.model(**first, decoder_input_ids=ids).logits
        check(loaded, decoder, ids, wanted[0])
    return encoder, decoder


def alike(ours: torch.Tensor | None, theirs: torch.Tensor) -> bool:
    close = 1e-4 * float(theirs.abs().max())
    return ours is not None and ours.shape == theirs.shape and torch.allclose(ours.to(theirs.dtype), theirs, atol=close)


def _writer(loaded: Loaded, model: Any, made: Mapping[str, torch.Tensor]) -> tuple[_Writer, Asked]:  # Any: as above
    """The decoder, and what its layers ask for."""
    width = int(loaded.model.get_encoder().config.hidden_size)
    across = sum(name.startswith("cross_key") for name in made)
    writer, asked = _Writer(model, 0, across, width), Asked()
    ids = torch.ones(2, 1, dtype=torch.int64)
    with attending(asked), torch.no_grad():
        writer.logits(ids, asked, made)  # type: ignore[arg-type]  # nothing is held yet
    writer.layers = len(asked.shapes)
    return writer, asked

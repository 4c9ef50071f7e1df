"""How text is generated: the settings of `generation_config.json`, and what a caller says instead of them.

Names, meanings and defaults are those of transformers' GenerationConfig:
https://huggingface.co/docs/transformers/main_classes/text_generation#transformers.GenerationConfig
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from ..errors import SupportError, UsageError

__all__ = ["GenerationConfig"]

_LENGTH = 20  # tokens in all, where nobody says anything

# What transformers can do and this cannot: the values that ask for nothing, and what a user may do instead.
_ABSENT: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "assistant_early_exit": ((None,), "pass a smaller predictor as assistant_model"),
    "assistant_ensemble_weight": ((None,), "leave it out: assistants guess, and the model decides"),
    "constraints": ((None, []), "say what the text must be by regex, grammar or json_schema"),
    "dola_layers": ((None,), "use repetition_penalty"),
    "force_words_ids": ((None, []), "say what the text must be by regex, grammar or json_schema"),
    "low_memory": ((None, False), "use a smaller top_k"),
    "output_attentions": ((None, False), "ask transformers for them"),
    "output_hidden_states": ((None, False), "use the task feature-extraction"),
    "output_logits": ((None, False), "run the graph itself: `predictor.graphs`"),
    "output_scores": ((None, False), "run the graph itself: `predictor.graphs`"),
    "penalty": ((None,), "use repetition_penalty"),
    "token_healing": ((None, False), "end the prompt with a whole word"),
    "watermarking_config": ((None, {}), "mark the text where it is used"),
}
# Of these, what `predict` would have to give in another form; in a file they say how transformers is to answer, not what.
_OF_ANSWERS = ("output_attentions", "output_hidden_states", "output_logits", "output_scores")


@dataclass(frozen=True)
class GenerationConfig:
    """All that decides which tokens come. Lengths count tokens; of a decoder alone, those of the prompt too."""

    max_length: Optional[int] = None
    max_new_tokens: Optional[int] = None
    min_length: int = 0
    min_new_tokens: Optional[int] = None
    max_time: Optional[float] = None  # seconds, after which a text ends with its next token
    stop_strings: tuple[str, ...] = ()

    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0  # of groups of beams
    penalty_alpha: Optional[float] = None  # of contrastive search
    prompt_lookup_num_tokens: Optional[int] = None
    max_matching_ngram_size: int = 2
    num_assistant_tokens: int = 20

    temperature: float = 1.0
    top_h: Optional[float] = None
    top_k: int = 50
    top_p: float = 1.0
    min_p: Optional[float] = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: Optional[int] = None

    length_penalty: float = 1.0
    early_stopping: Union[bool, str] = False
    num_return_sequences: int = 1

    guidance_scale: float = 1.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    exponential_decay_length_penalty: Optional[tuple[int, float]] = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: Optional[int] = None
    forced_eos_token_id: tuple[int, ...] = ()
    forced_decoder_ids: tuple[tuple[int, int], ...] = ()  # places and their tokens, as transformers 4 had them
    remove_invalid_values: bool = False
    renormalize_logits: bool = False

    bos_token_id: Optional[int] = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: Optional[int] = None
    decoder_start_token_id: Optional[int] = None

    @staticmethod
    def read(saved: Mapping[str, Any]) -> GenerationConfig:
        """That of `generation_config.json`; keys that decide nothing about tokens are left out.

        Raises:
            SupportError: it asks for a strategy that is not here.
        """
        for name, (nothing, instead) in _ABSENT.items():
            if saved.get(name) not in nothing and name not in _OF_ANSWERS:
                raise SupportError(
                    "Cannot generate as generation_config.json says.",
                    why=f"it sets {name} to {saved[name]!r}, which satchel does not have",
                    fix=f"take {name} out of the model's generation_config.json, and convert again; {instead}",
                )
        known = {field.name for field in dataclasses.fields(GenerationConfig)}
        return GenerationConfig().changed({name: value for name, value in saved.items() if name in known})

    def changed(self, given: Mapping[str, Any]) -> GenerationConfig:
        """With other values, which are checked; None takes the default back.

        Raises:
            UsageError: an unknown name, or a value that no strategy takes.
        """
        fields = {field.name: field for field in dataclasses.fields(self)}
        absent = next((name for name in given if name in _ABSENT), None)
        if absent is not None:
            raise UsageError(
                f"Cannot use {absent}={given[absent]!r}.",
                why="transformers has it, satchel has not",
                fix=_ABSENT[absent][1],
            )
        unknown = sorted(set(given) - set(fields))
        if unknown:
            raise UsageError(
                f"Cannot use the option {unknown[0]!r}.",
                why="generation has no such setting",
                fix=f"choose among {', '.join(fields)}",
            )
        values: dict[str, Any] = {
            name: fields[name].default if value is None else _frozen(name, value) for name, value in given.items()
        }
        # Who says how many new tokens means that, whatever the model's own file says of the length in all.
        if values.get("max_new_tokens") is not None and "max_length" not in values:
            values["max_length"] = None
        if values.get("max_length") is not None and "max_new_tokens" not in values:
            values["max_new_tokens"] = None
        made = dataclasses.replace(self, **values)
        made._check()
        return made

    def _check(self) -> None:
        least: Sequence[tuple[str, float]] = (
            ("max_length", 1),
            ("max_new_tokens", 1),
            ("min_length", 0),
            ("min_new_tokens", 0),
            ("num_beams", 1),
            ("num_beam_groups", 1),
            ("num_return_sequences", 1),
            ("num_assistant_tokens", 1),
            ("prompt_lookup_num_tokens", 1),
            ("max_matching_ngram_size", 1),
            ("top_k", 0),
            ("no_repeat_ngram_size", 0),
            ("encoder_no_repeat_ngram_size", 0),
        )
        for name, smallest in least:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < smallest):
                raise _odd(name, value, f"it is a whole number from {smallest:g} up")
        for name in ("temperature", "repetition_penalty", "encoder_repetition_penalty"):
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0:
                raise _odd(
                    name, getattr(self, name), "it is a number above 0; do_sample=False takes the likeliest token"
                )
        for name in ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "penalty_alpha"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not 0 <= value <= 1):
                raise _odd(name, value, "it is a number from 0 to 1")
        if self.top_h is not None and (not _is_number(self.top_h) or not 0 < self.top_h <= 1):
            raise _odd("top_h", self.top_h, "it is a number above 0, at most 1")
        for name in ("max_time", "guidance_scale", "length_penalty", "diversity_penalty"):
            value = getattr(self, name)
            if value is not None and not _is_number(value):
                raise _odd(name, value, "it is a number")
        if self.early_stopping not in (True, False, "never"):
            raise _odd("early_stopping", self.early_stopping, "it is True, False or 'never'")
        if self.num_return_sequences > 1 and not self.do_sample and self.num_return_sequences > self.num_beams:
            raise _odd(
                "num_return_sequences",
                self.num_return_sequences,
                f"without sampling, {self.num_beams} beam{'s give' if self.num_beams > 1 else ' gives'} as many texts",
            )

        if self.num_beam_groups > 1 or self.diversity_penalty:
            self._check_groups()

    def _check_groups(self) -> None:
        if self.num_beam_groups == 1 or self.num_beams % self.num_beam_groups:
            raise _odd(
                "num_beam_groups",
                self.num_beam_groups,
                f"{self.num_beams} beams are shared out evenly to several groups",
            )
        if self.diversity_penalty <= 0:
            raise _odd(
                "diversity_penalty",
                self.diversity_penalty,
                "it is a number above 0; without it all groups are the same",
            )
        if self.do_sample:
            raise _odd("do_sample", True, "groups of beams are not drawn")

    @property
    def contrastive(self) -> bool:
        return bool(self.penalty_alpha) and self.top_k > 1 and self.num_beams == 1 and not self.do_sample

    def longest(self, prompt: int) -> int:
        """Tokens in all, for a prompt of so many."""
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        return self.max_length if self.max_length is not None else max(_LENGTH, prompt + 1)


def _frozen(name: str, value: Any) -> Any:  # Any: JSON, or what a caller wrote
    if name in ("stop_strings",):
        return (value,) if isinstance(value, str) else tuple(value)
    if name in ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
        return (value,) if isinstance(value, int) else tuple(value)
    if name == "forced_decoder_ids":  # of whisper's some name no token: what is spoken says which
        return tuple((int(place), int(token)) for place, token in value if token is not None)
    if name == "bad_words_ids":
        return tuple(tuple(each) for each in value)
    if name == "sequence_bias":
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple((tuple(ids), float(bias)) for ids, bias in pairs)
    return tuple(value) if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _odd(name: str, value: object, why: str) -> UsageError:
    return UsageError(f"Cannot use {name}={value!r}.", why=why, fix="choose another value, or leave it out")

"""From a prompt to tokens: greedy search and sampling, one token per text and step.

Every strategy is a generator of steps. A step is what came to each text; whoever takes them may stop at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from ..errors import ParityError, SatchelError, UsageError
from ..sessions import Session
from ..tasks.task import softmax
from .config import GenerationConfig
from .form import Held
from .guidance import Guidance
from .scores import Rule, apply, rules_of
from .texts import Texts

__all__ = ["Chosen", "Prompt", "Stops", "draw", "likeliest", "no_token", "one_by_one"]

# Whether a text ends with its last token, for another reason than its length or an end token: from all tokens of the text.
Stops = Callable[[np.ndarray], bool]


@dataclass(frozen=True)
class Prompt:
    """What generation starts from.

    `ids` are the decoder's first tokens, `beside` is what each call of it is given too, [1, …], and `encoder_ids` are the
    tokens of an encoder's text, which some rules read. `context` is what the model can hold, and `own` are a task's rules.
    `given` is what the graph reads in place of `ids`, as many, where some of them stand for what is no word. `form` is what the
    new text must be, and `unguided` what guidance leads away from, where it is more than the last token.
    """

    ids: Sequence[int]
    context: int
    beside: Optional[Mapping[str, np.ndarray]] = None
    encoder_ids: Optional[np.ndarray] = None
    own: Sequence[Rule] = ()
    given: Optional[np.ndarray] = None
    form: Optional[Held] = None
    unguided: Optional[Sequence[int]] = None

    @property
    def read(self) -> np.ndarray:
        """What the graph reads, int64 [tokens]."""
        return np.array(self.ids, dtype=np.int64) if self.given is None else self.given

    def longest(self, config: GenerationConfig) -> int:
        """Tokens in all.

        Raises:
            UsageError: the prompt leaves no room for one.
        """
        longest = min(config.longest(len(self.ids)), self.context)
        if len(self.ids) >= longest:
            bound = "the model can hold" if longest == self.context else "max_length allows"
            raise UsageError(
                f"Cannot go on from {len(self.ids)} tokens.",
                why=f"{bound} {longest} in all",
                fix="shorten the prompt" + ("" if longest == self.context else ", or raise max_length"),
            )
        return longest

    def rules(self, config: GenerationConfig, session: Session) -> list[Rule]:
        """Raises: UsageError for guidance of what is no text alone, or where the model cannot hold what it leads away from."""
        longest = self.longest(config)
        own = self.own if self.form is None else [*self.own, self.form]
        rules = rules_of(config, len(self.ids), longest, self.encoder_ids, own)
        return rules if config.guidance_scale == 1.0 else [self._guidance(config, session, longest), *rules]

    def _guidance(self, config: GenerationConfig, session: Session, longest: int) -> Guidance:
        if self.beside is not None or self.given is not None:
            raise UsageError(
                f"Cannot use guidance_scale={config.guidance_scale}.",
                why="this model reads more than a text",
                fix="leave guidance_scale out",
            )
        start = self.ids[-1:] if self.unguided is None else self.unguided
        if len(start) + longest - len(self.ids) > self.context:
            raise UsageError(
                f"Cannot lead away from a text of {len(start)} tokens.",
                why=f"with {longest - len(self.ids)} new ones it is longer than the {self.context} that the model can hold",
                fix="shorten negative_prompt, or lower max_new_tokens",
            )
        return Guidance(session, config.guidance_scale, start, len(self.ids), longest)


@dataclass(frozen=True)
class Chosen:
    """The token that came to a text, and whether the text ends with it."""

    token: int
    ended: bool


def one_by_one(
    session: Session, prompts: Sequence[Prompt], config: GenerationConfig, stops: Stops, random: np.random.Generator
) -> Iterator[list[Optional[Chosen]]]:
    """Greedy search, or sampling: what came to each prompt, None where its text had ended before."""
    longest = [prompt.longest(config) for prompt in prompts]
    rules = [prompt.rules(config, session) for prompt in prompts]
    written: list[np.ndarray] = [np.empty(most, dtype=np.int64) for most in longest]
    for ids, prompt in zip(written, prompts):
        ids[: len(prompt.ids)] = prompt.ids
    counts = [len(prompt.ids) for prompt in prompts]
    texts = Texts(session, len(prompts), max(longest), _together(prompts))
    logits = texts.read([prompt.read for prompt in prompts])
    going = list(range(len(prompts)))  # the prompt of each row that is left
    while True:
        step: list[Optional[Chosen]] = [None] * len(prompts)
        for row, place in enumerate(going):
            ids, count = written[place], counts[place]
            scores = apply(rules[place], ids[:count], logits[row])
            token = draw(scores, random) if config.do_sample else likeliest(scores)
            ids[count] = token
            counts[place] = count + 1
            ended = token in config.eos_token_id or counts[place] >= longest[place] or stops(ids[: count + 1])
            step[place] = Chosen(token, ended)
        yield step
        left = [row for row, place in enumerate(going) if not step[place].ended]  # type: ignore[union-attr]  # it ran
        if not left:
            return
        if len(left) < len(going):
            texts.select(np.array(left))
            going = [going[row] for row in left]
        logits = texts.step(np.array([written[place][counts[place] - 1] for place in going]))


def likeliest(scores: np.ndarray) -> int:
    """Raises: UsageError where no token can come."""
    token = int(scores.argmax())  # of a NaN, where there is one
    if not math.isfinite(scores[token]):
        raise no_token(float(scores[token]))
    return token


def draw(scores: np.ndarray, random: np.random.Generator) -> int:
    """A token by chance. Raises: UsageError where none can come."""
    likeliest(scores)
    possible = np.flatnonzero(scores > -np.inf)
    chances = np.cumsum(softmax(scores[possible]), dtype=np.float64)
    return int(possible[np.searchsorted(chances, random.random() * chances[-1], side="right")])


def no_token(best: float) -> SatchelError:
    """The error for scores of which the largest is no number."""
    if best == -math.inf:
        return UsageError(
            "Cannot choose the next token.",
            why="the rules of this generation leave none",
            fix="take one of them back: bad_words_ids, suppress_tokens, min_new_tokens, or what the text must be",
        )
    return ParityError(
        "Cannot choose the next token.",
        why=f"the graph answers {best}, which is no score",
        fix="verify the bundle on this device (`satchel verify`), or convert the model again; remove_invalid_values=True "
        "goes on all the same",
    )


def _together(prompts: Sequence[Prompt]) -> Optional[dict[str, np.ndarray]]:
    first = prompts[0].beside
    if first is None or len(prompts) == 1:
        return None if first is None else dict(first)
    return {name: np.concatenate([prompt.beside[name] for prompt in prompts if prompt.beside]) for name in first}

"""Text from a decoder with a cache: every strategy of `generate`, with numpy and one engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable, Optional

import numpy as np

from ..errors import UsageError
from ..sessions import Session
from .assisted import Assistant, Guesser, Lookup, assisted
from .beams import beam_search
from .config import GenerationConfig
from .contrastive import contrastive
from .diverse import diverse_beam_search
from .form import KINDS, Form, Tokens
from .scores import Rule
from .search import Chosen, Prompt, Stops, one_by_one
from .texts import Texts

__all__ = [
    "KINDS",
    "Chosen",
    "Form",
    "GenerationConfig",
    "Prompt",
    "Rule",
    "Stops",
    "Texts",
    "Tokens",
    "generate",
    "never",
    "stream",
]


def never(ids: np.ndarray) -> bool:
    return False


def stream(
    session: Session,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    stops: Stops = never,
    *,
    assistant: Optional[Session] = None,
) -> Iterator[list[Optional[Chosen]]]:
    """Tokens as they come: for each step what came to each prompt, None where its text has ended. Stop taking them to cancel.

    Args:
        session: a decoder.
        prompts: several are generated side by side where the strategy is greedy search or sampling.
        stops: told all tokens of a text, says whether it ends here.
        assistant: a smaller decoder with the same vocabulary, whose guesses are confirmed several at a time.

    Raises:
        UsageError: no room for a token, several prompts with a strategy for one, or beams, whose texts change as they grow.
    """
    random = np.random.default_rng(config.seed)
    if config.num_beams > 1:
        raise UsageError(
            "Cannot stream a beam search.", why="its best text may change with every token", fix="use num_beams=1"
        )
    if _alone(config, assistant):
        if len(prompts) > 1:
            raise UsageError(
                "Cannot stream several texts.", why="this strategy has one at a time", fix="give one prompt"
            )
        if config.contrastive:
            return contrastive(session, prompts[0], config, stops)
    if len(prompts) == 1:
        (prompt,) = prompts
        guesser: Optional[Guesser] = prompt.form
        if assistant is not None:
            guesser = Assistant(assistant, prompt, config, random)
        elif config.prompt_lookup_num_tokens is not None:
            guesser = Lookup(config.prompt_lookup_num_tokens, config.max_matching_ngram_size)
        if guesser is not None:
            return assisted(session, prompt, config, stops, random, guesser)
    return one_by_one(session, prompts, config, stops, random)


def generate(
    session: Session,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    stops: Stops = never,
    *,
    assistant: Optional[Session] = None,
    heard: Optional[Callable[[int, Chosen], None]] = None,
) -> list[list[list[int]]]:
    """The new tokens of each prompt, `num_return_sequences` texts of them; arguments as of `stream`.

    Args:
        heard: is told each token as it comes, with the number of its text among all.

    Raises:
        UsageError: as of `stream`, of beams only where `heard` is told.
    """
    copies = config.num_return_sequences
    if config.num_beams > 1 and heard is None:
        random = np.random.default_rng(config.seed)
        made = []
        for prompt in prompts:
            if config.num_beam_groups > 1:
                *_, best = diverse_beam_search(session, prompt, config, stops)
            else:
                *_, best = beam_search(session, prompt, config, stops, random)
            made.append([ids[len(prompt.ids) :].tolist() for ids in best])
        return made
    asked = [prompt for prompt in prompts for _ in range(copies)]
    texts: list[list[int]] = []
    for group in [[each] for each in asked] if _alone(config, assistant) else [asked]:
        found: list[list[int]] = [[] for _ in group]
        for step in stream(session, group, config, stops, assistant=assistant):
            for place, chosen in enumerate(step):
                if chosen is not None:
                    found[place].append(chosen.token)
                    if heard is not None:
                        heard(len(texts) + place, chosen)
        texts += found
    return [texts[place : place + copies] for place in range(0, len(texts), copies)]


def _alone(config: GenerationConfig, assistant: Optional[Session]) -> bool:
    """Whether the strategy has one text at a time."""
    return config.contrastive or assistant is not None or config.prompt_lookup_num_tokens is not None

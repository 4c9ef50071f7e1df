"""Beam search, also sampled, as transformers 5 has it, including when it stops:
https://github.com/huggingface/transformers/blob/main/src/transformers/generation/utils.py, `_beam_search`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..sessions import Session
from ..tasks.task import log_softmax, softmax
from .config import GenerationConfig
from .scores import apply
from .search import Prompt, Stops, no_token
from .texts import Texts

__all__ = ["NEAR_OUT", "OUT", "Beam", "beam_search", "checked", "largest"]

OUT = -1.0e9  # of a beam that only fills a place
NEAR_OUT = OUT / 2


@dataclass(frozen=True)
class Beam:
    """A text of the search, prompt included."""

    ids: np.ndarray
    score: float  # the sum of the logarithms; of a finished one, over its length to the power of length_penalty


def beam_search(
    session: Session, prompt: Prompt, config: GenerationConfig, stops: Stops, random: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """The best texts so far after each step, prompt included, the best first; `num_return_sequences` in the end."""
    longest, rules = prompt.longest(config), prompt.rules(config, session)
    beams, start = config.num_beams, len(prompt.ids)
    first = np.array(prompt.ids, dtype=np.int64)
    texts = Texts(session, 1, longest, prompt.beside)
    logits = np.repeat(texts.read([prompt.read]), beams, axis=0)
    texts.select(np.zeros(beams, dtype=np.int64))
    running = [Beam(first, 0.0 if each == 0 else OUT) for each in range(beams)]
    finished: list[Beam] = []
    kept = max(2, 1 + len(config.eos_token_id)) * beams
    while True:
        scores = np.stack(
            [apply(rules, beam.ids, log_softmax(row)) + np.float32(beam.score) for beam, row in zip(running, logits)]
        )
        checked(scores)
        best = _sampled(scores, kept, random) if config.do_sample else largest(scores.ravel(), kept)
        size = scores.shape[1]
        came = [Beam(np.append(running[each // size].ids, each % size), float(scores.ravel()[each])) for each in best]
        length = len(running[0].ids) + 1
        ends = [bool(beam.ids[-1] in config.eos_token_id or length >= longest or stops(beam.ids)) for beam in came]
        full = len(finished) >= beams and config.early_stopping is True
        if not full:
            over = float(length - start) ** config.length_penalty
            done = [
                Beam(beam.ids, beam.score / over)
                for beam, end in zip(came[:beams], ends[:beams])
                if end and beam.score > NEAR_OUT
            ]
            finished = sorted(finished + done, key=lambda beam: -beam.score)[:beams]
        order = sorted(range(len(came)), key=lambda each: -(came[each].score + (OUT if ends[each] else 0.0)))[:beams]
        running = [Beam(came[each].ids, came[each].score + (OUT if ends[each] else 0.0)) for each in order]
        yield [beam.ids for beam in finished or running]
        if all(ends) or (len(finished) >= beams and config.early_stopping is True):
            break
        if finished and running[0].score <= NEAR_OUT:  # nothing else may be said
            break
        if not _may_improve(running, finished, config, length - start, longest - start):
            break
        texts.select(np.array([best[each] // size for each in order]))
        logits = texts.step(np.array([beam.ids[-1] for beam in running]))
    yield [beam.ids for beam in (finished or running)[: config.num_return_sequences]]


def _may_improve(
    running: list[Beam], finished: list[Beam], config: GenerationConfig, length: int, longest: int
) -> bool:
    if len(finished) < config.num_beams:
        return True
    hoped = longest if config.early_stopping == "never" and config.length_penalty > 0 else length
    return bool(running[0].score / float(hoped) ** config.length_penalty > finished[-1].score)


def checked(scores: np.ndarray) -> np.ndarray:
    """The scores as they are. Raises: UsageError where they say nothing: what is compared with NaN is neither more nor less."""
    best = float(scores.max())
    if not math.isfinite(best):
        raise no_token(best)
    return scores


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest, the largest first."""
    places = np.argpartition(-values, count - 1)[:count]
    result: np.ndarray = places[np.argsort(-values[places], kind="stable")]
    return result


def _sampled(scores: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Places by chance, none twice."""
    flat = scores.ravel()
    chances: np.ndarray = softmax(flat).astype(np.float64)
    count = min(count, int((chances > 0).sum()))
    found: np.ndarray = random.choice(len(flat), count, replace=False, p=chances / chances.sum())
    return found

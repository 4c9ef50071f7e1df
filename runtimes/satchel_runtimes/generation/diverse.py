"""Diverse beam search (Vijayakumar et al. 2016, https://arxiv.org/abs/1610.02424): groups of beams, each of which pays for tokens
that the groups before it took at the same step. As transformers 4 had it, including when a group stops; 5 has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..sessions import Session
from ..tasks.task import log_softmax
from .beams import NEAR_OUT, OUT, Beam, checked, largest
from .config import GenerationConfig
from .scores import apply
from .search import Prompt, Stops
from .texts import Texts

__all__ = ["diverse_beam_search"]


@dataclass
class _Group:
    running: list[Beam]
    rows: list[int]  # where the texts of the beams stand among all
    finished: list[Beam] = field(default_factory=list)
    done: bool = False


def diverse_beam_search(
    session: Session, prompt: Prompt, config: GenerationConfig, stops: Stops
) -> Iterator[list[np.ndarray]]:
    """Like `beam_search`: the best texts of all groups."""
    longest, rules = prompt.longest(config), prompt.rules(config, session)
    size, start = config.num_beams // config.num_beam_groups, len(prompt.ids)
    first = np.array(prompt.ids, dtype=np.int64)
    texts = Texts(session, 1, longest, prompt.beside)
    logits = np.repeat(texts.read([prompt.read]), config.num_beams, axis=0)
    texts.select(np.zeros(config.num_beams, dtype=np.int64))
    groups = [
        _Group([Beam(first, 0.0 if each == 0 else OUT) for each in range(size)], list(range(place, place + size)))
        for place in range(0, config.num_beams, size)
    ]
    pad = config.pad_token_id if config.pad_token_id is not None else next(iter(config.eos_token_id), None)
    for length in range(start + 1, longest + 1):
        taken: np.ndarray = np.zeros(logits.shape[1], dtype=np.float32)  # by the groups before, at this step
        for group in groups:
            if group.done:  # transformers goes on with pads there, and has the others pay for them
                if pad is not None:
                    taken[pad] += size
                continue
            paid = np.float32(config.diversity_penalty) * taken
            scores = np.stack(
                [
                    apply(rules, beam.ids, log_softmax(logits[row]) - paid) + np.float32(beam.score)
                    for beam, row in zip(group.running, group.rows)
                ]
            )
            _step(group, checked(scores), config, stops, start)
            group.done = group.done or _is_done(group, config, float(scores.max()), length - start, longest - start)
            for beam in group.running:
                taken[beam.ids[-1]] += 1
        yield _best(groups, config)
        left = [group for group in groups if not group.done]
        if not left or length == longest:
            break
        texts.select(np.array([row for group in left for row in group.rows]))
        for place, group in enumerate(left):
            group.rows = list(range(place * size, place * size + size))
        logits = texts.step(np.array([beam.ids[-1] for group in left for beam in group.running]))
    for group in groups:
        if not group.done:
            for beam in group.running:
                _finish(group, beam, config, start)
    yield _best(groups, config)[: config.num_return_sequences]


def _step(group: _Group, scores: np.ndarray, config: GenerationConfig, stops: Stops, start: int) -> None:
    """Each beam of a group goes on by a token; those that end are finished."""
    size, width = scores.shape
    running: list[Beam] = []
    rows: list[int] = []
    for rank, place in enumerate(largest(scores.ravel(), max(2, 1 + len(config.eos_token_id)) * size)):
        row, token = divmod(int(place), width)
        beam = Beam(np.append(group.running[row].ids, token), float(scores[row, token]))
        if token in config.eos_token_id or stops(beam.ids):
            if rank < size:
                _finish(group, beam, config, start)
        elif len(running) < size:
            running.append(beam)
            rows.append(group.rows[row])
    if not running or (group.finished and running[0].score <= NEAR_OUT):  # nothing else may be said
        group.done = True
        return
    while len(running) < size:
        running.append(Beam(running[0].ids, OUT))
        rows.append(rows[0])
    group.running, group.rows = running, rows


def _finish(group: _Group, beam: Beam, config: GenerationConfig, start: int) -> None:
    """Keep a text if it is among the best so many of its group."""
    if beam.score <= NEAR_OUT:
        return
    over = float(len(beam.ids) - start) ** config.length_penalty
    found = [*group.finished, Beam(beam.ids, beam.score / over)]
    group.finished = sorted(found, key=lambda each: -each.score)[: len(group.running)]


def _is_done(group: _Group, config: GenerationConfig, best: float, length: int, longest: int) -> bool:
    if len(group.finished) < len(group.running):
        return False
    if config.early_stopping is True:
        return True
    hoped = longest if config.early_stopping == "never" and config.length_penalty > 0 else length
    return bool(group.finished[-1].score >= best / float(hoped) ** config.length_penalty)


def _best(groups: list[_Group], config: GenerationConfig) -> list[np.ndarray]:
    found = [beam for group in groups for beam in group.finished]
    if not found:
        found = [group.running[0] for group in groups]
    return [beam.ids for beam in sorted(found, key=lambda each: -each.score)]

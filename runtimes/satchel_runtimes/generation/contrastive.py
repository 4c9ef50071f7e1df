"""Contrastive search (Su et al. 2022, https://arxiv.org/abs/2202.06417): likely tokens that do not repeat what was said.

Of the `top_k` likeliest tokens the one with the largest (1 - penalty_alpha) * chance - penalty_alpha * similarity is taken,
where the similarity is the largest cosine of the token's own state with any before it. transformers 4 had it, 5 has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import numpy as np

from ..errors import SupportError
from ..sessions import Session
from ..tasks.task import softmax
from .config import GenerationConfig
from .scores import apply
from .search import Chosen, Prompt, Stops, likeliest
from .texts import Texts

__all__ = ["STATES", "contrastive"]

STATES = "hidden_states"  # the output of what the logits are made of, [batch, kept, width]


def contrastive(
    session: Session, prompt: Prompt, config: GenerationConfig, stops: Stops
) -> Iterator[list[Optional[Chosen]]]:
    """Like `one_by_one` for one prompt."""
    if STATES not in {spec.name for spec in session.outputs}:
        raise SupportError(
            "Cannot search contrastively.",
            why=f"the graph has no output {STATES!r}, which the method compares",
            fix="leave penalty_alpha out",
        )
    longest, rules = prompt.longest(config), prompt.rules(config, session)
    texts = Texts(session, 1, longest, prompt.beside)
    ids = np.array(prompt.ids, dtype=np.int64)
    outputs = texts.outputs([prompt.read])
    logits, before = outputs["logits"][0, -1], _unit(outputs[STATES][0])
    alpha = np.float32(config.penalty_alpha)
    texts.select(np.zeros(config.top_k, dtype=np.int64))
    while True:
        scored = apply(rules, ids, logits)
        likeliest(scored)  # or says why there is none
        chances = softmax(scored)
        tokens = np.argsort(-chances, kind="stable")[: config.top_k]
        outputs = texts.outputs([tokens[row : row + 1] for row in range(config.top_k)])
        states = _unit(outputs[STATES][:, 0])
        scores = (1 - alpha) * chances[tokens] - alpha * (states @ before.T).max(axis=1)
        best = int(scores.argmax())
        ids = np.append(ids, tokens[best])
        ended = tokens[best] in config.eos_token_id or len(ids) >= longest or stops(ids)
        yield [Chosen(int(tokens[best]), ended)]
        if ended:
            return
        logits, before = outputs["logits"][best, 0], np.concatenate([before, states[best : best + 1]])
        texts.select(np.full(config.top_k, best))


def _unit(states: np.ndarray) -> np.ndarray:
    result: np.ndarray = states / np.linalg.norm(states, axis=-1, keepdims=True)
    return result

"""The right answers of each task, in the form in which a loss compares them with the model's decisions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example
from satchel_runtimes.tasks import Row

from .losses import IGNORED

if TYPE_CHECKING:
    from .objective import Objective

__all__ = ["Sample", "samples_of"]

_MASKED = 0.15  # of the tokens, as in BERT


@dataclass(frozen=True)
class Sample:
    """The rows that belong together, their targets, and the positions that decide (none: each row decides once)."""

    rows: tuple[Row, ...]
    targets: tuple[np.ndarray, ...] = ()
    places: tuple[np.ndarray, ...] = ()

    @property
    def length(self) -> int:
        return max(row.length for row in self.rows)


def samples_of(objective: Objective, example: Example, mixing: random.Random) -> list[Sample]:
    """One example as samples: most are one, a long context becomes one per window."""
    maker = _MAKERS.get(objective.task.name, _labelled)
    return maker(objective, example, mixing)


def _rows(objective: Objective, item: Any, **options: Any) -> list[Row]:  # Any: what the task takes
    return objective.task.encode(item, objective.task.check_options(options))


def _labelled(objective: Objective, example: Example, mixing: random.Random) -> list[Sample]:
    """A label for the whole input, several, or a number."""
    (row,) = _rows(objective, example.input)
    target = example.target
    if objective.kind == "number":
        if target is not None and (isinstance(target, bool) or not isinstance(target, (int, float))):
            raise _odd(objective, target, "a number")
        value = np.full(max(1, len(objective.labels)), np.nan if target is None else target, np.float32)
    elif objective.kind == "multi":
        value = np.full(len(objective.labels), np.nan, np.float32)
        if target is not None:
            value[:] = 0
            value[[_label(objective, name) for name in ([target] if isinstance(target, str) else target)]] = 1
    else:
        value = np.array(IGNORED if target is None else _label(objective, target))
    return [Sample((row,), (value,))]


def _words(objective: Objective, example: Example, mixing: random.Random) -> list[Sample]:
    """A label per word. Every piece of a word is trained, since a device reads every piece: the first carries the
    word's label, and those after a B- its I-, where the model has one."""
    target = example.target
    if isinstance(target, Mapping):
        words, labels = target.get("tokens", example.input), target.get("labels")
    else:
        words, labels = example.input, target
    if isinstance(words, str):
        if labels is not None:
            raise _odd(
                objective, target, "{'tokens': [words], 'labels': [one for each]}, or an input that is a list of words"
            )
        (row,) = _rows(objective, words)
    else:
        (row,) = _rows(objective, list(words), is_split_into_words=True)
    tokens = row.extra.tokens
    if labels is not None and len(labels) != len(words):
        raise _odd(objective, target, f"a label for each of its {len(words)} words")
    value = np.full(len(tokens), IGNORED)
    for place, word in enumerate(tokens.words.tolist()):
        if labels is not None and word >= 0:
            name = str(labels[word])
            inner = "I-" + name[2:]
            goes_on = place > 0 and tokens.words[place - 1] == word and name.startswith("B-")
            value[place] = _label(objective, inner if goes_on and inner in objective.labels else name)
    places = ~tokens.special
    return [Sample((row,), (value[places],), (places,))]


def _span(objective: Objective, example: Example, mixing: random.Random) -> list[Sample]:
    """Where an answer starts and ends, in each window of its context; [CLS] where the window does not hold it."""
    found = []
    span = _answer(objective, example)
    for row in _rows(objective, example.input):
        tokens, allowed = row.extra.tokens, row.extra.allowed
        start = end = IGNORED
        if span is not None:
            inside = np.flatnonzero(
                (tokens.sequences == 1) & (tokens.offsets[:, 0] < span[1]) & (tokens.offsets[:, 1] > span[0])
            )
            whole = len(inside) and tokens.offsets[inside[0], 0] <= span[0] and tokens.offsets[inside[-1], 1] >= span[1]
            if whole and span[1] > span[0]:
                start, end = int(inside[0]), int(inside[-1])
            elif allowed[0]:
                start = end = 0
        found.append(Sample((row,), (np.array([start]), np.array([end])), (allowed, allowed)))
    return found


def _answer(objective: Objective, example: Example) -> tuple[int, int] | None:
    """The characters of the first answer; an empty range says that there is none in the context."""
    target = example.target
    if isinstance(target, Mapping):  # as SQuAD has it
        starts = target.get("answer_start", target.get("start", ()))
        texts = target.get("text", ())
        pairs = list(zip(texts, starts, strict=False)) if isinstance(texts, (list, tuple)) else [(texts, starts)]
    elif isinstance(target, (list, tuple)):
        pairs = [
            (each.get("text"), each.get("start")) if isinstance(each, Mapping) else (each, None) for each in target
        ]
    elif target is None:
        return None
    else:
        pairs = [(target, None)]
    if not pairs:
        return (0, 0)
    text, start = pairs[0]
    context = example.input["context"]
    if isinstance(text, str) and start is None:
        start = context.find(text)
    if not isinstance(text, str) or not isinstance(start, int) or context[start : start + len(text)] != text:
        raise _odd(objective, target, "texts that stand in the context, with the place where each starts")
    return (start, start + len(text)) if text else (0, 0)


def _embedded(objective: Objective, example: Example, mixing: random.Random) -> list[Sample]:
    """A text alone, or a pair of texts and how similar they are."""
    if isinstance(example.input, str):
        (row,) = _rows(objective, example.input)
        return [Sample((row,))]
    rows = tuple(_rows(objective, text)[0] for text in example.input)
    if example.target is None:
        return [Sample((row,)) for row in rows]
    if len(rows) != 2 or isinstance(example.target, bool) or not isinstance(example.target, (int, float)):
        raise _odd(objective, example.target, "a number for how similar two texts are, about 0 to 1")
    return [Sample(rows, (np.array(example.target, np.float32),))]


def _masked(objective: Objective, example: Example, mixing: random.Random) -> list[Sample]:
    """Words to guess: some of the text's tokens, drawn once by the seed, behind the mask."""
    task: Any = objective.task  # Any: FillMask, whose own encode wants a mask in the text
    encoding = task.encoding(example.input)
    row = task.row(encoding)
    ids = row.tensors["input_ids"]
    special = np.array(encoding.special_tokens_mask, dtype=bool)
    candidates = np.flatnonzero(~special)
    if not len(candidates):
        return []
    places = np.zeros(len(ids), dtype=bool)
    places[mixing.sample(candidates.tolist(), max(1, round(_MASKED * len(candidates))))] = True
    value = ids[places].copy()
    hidden = np.where(places, task.mask_id, ids)
    return [Sample((Row({**row.tensors, "input_ids": hidden}, row.length, row.extra),), (value,), (places,))]


def _label(objective: Objective, name: Any) -> int:  # Any: what the data says
    if str(name) not in objective.labels:
        known = ", ".join(list(objective.labels)[:12]) + (" …" if len(objective.labels) > 12 else "")
        raise UsageError(
            f"Cannot train on the label {name!r}.",
            why=f"the model knows {known or 'no labels'}",
            fix="correct the data, or give the model a head for these labels: satchel train",
        )
    return objective.labels[str(name)]


def _odd(objective: Objective, target: Any, wanted: str) -> UsageError:  # Any: what the data says
    return UsageError(
        f"Cannot train {objective.task.name} on the answer {str(target)[:60]!r}.",
        why=f"it takes {wanted}",
        fix="correct the data",
    )


_MAKERS: dict[str, Callable[[Objective, Example, random.Random], list[Sample]]] = {
    "token-classification": _words,
    "question-answering": _span,
    "sentence-embedding": _embedded,
    "fill-mask": _masked,
}

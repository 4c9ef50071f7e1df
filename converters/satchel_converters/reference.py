"""What the model itself says: the torch reference, run on the same rows that the artifact will see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from satchel_runtimes.errors import ParityError
from satchel_runtimes.golden import GoldenItem, run_items
from satchel_runtimes.manifest import TensorSpec
from satchel_runtimes.sessions import Session, Tensors
from satchel_runtimes.tasks import Task
from satchel_runtimes.tasks.audio import AudioTask
from satchel_runtimes.tasks.image import ImageTask

from .component import Component, specs

if TYPE_CHECKING:
    from .capture import Loaded

__all__ = ["reference_answers", "torch_graphs", "with_beginnings"]


@dataclass(frozen=True)
class _TorchSession:
    """The loaded checkpoint behind the contract of every session. Nothing of the capture is in the way, so an error
    there shows as a difference."""

    loaded: Loaded
    component: Component

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return specs(tuple(each for each in self.component.inputs if each.name not in self.component.state))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return specs(tuple(each for each in self.component.outputs if each.role != "state"))

    @property
    def used(self) -> Mapping[str, str | int | None]:
        return {"engine": f"torch {torch.__version__}", "threads": torch.get_num_threads(), "delegate": None}

    def new_state(self, batch: int = 1, capacity: int = 0) -> Any:  # Any: the reference's own
        part: Any = self.component.reference
        return part.new_state(batch) if self.component.state else None

    def run(self, tensors: Mapping[str, np.ndarray], state: Any = None) -> Tensors:
        with torch.inference_mode():
            given = {k: torch.from_numpy(v) for k, v in tensors.items()} | ({"state": state} if state else {})
            part = self.component.reference
            result = part(**given) if part is not None else self.loaded.model(**given, return_dict=True)
        return {output.name: result[output.name].float().numpy() for output in self.outputs}

    def close(self) -> None:
        pass


def torch_graphs(loaded: Loaded, components: Sequence[Component]) -> dict[str, Session]:
    """The checkpoint itself, as a task runs graphs."""
    return {component.name: _TorchSession(loaded, component) for component in components}


def with_beginnings(
    loaded: Loaded, components: Sequence[Component], tasks: Mapping[str, Task], items: Sequence[GoldenItem]
) -> list[GoldenItem]:
    """Golden items with what the model itself chooses about each, such as the first tokens that it writes: what a decoder reads on
    every machine."""
    graphs = torch_graphs(loaded, components)
    made = []
    with _one_thread():
        for item in items:
            begun = tasks[item.task].begun(graphs, item.input, item.options)
            made.append(GoldenItem(item.task, item.input, {**item.options, **begun}))
    return made


def reference_answers(
    loaded: Loaded,
    components: Sequence[Component],
    tasks: Mapping[str, Task],
    items: Sequence[GoldenItem],
    on_sample: Callable[[], None] | None = None,
) -> list[dict[str, np.ndarray]]:
    """The reference model's answers, one dictionary per item.

    Raises:
        ParityError: the bundle's tokenizer gives other ids than the model's own, or its steps other pixels.
    """
    for name in loaded.processors.by_name:  # the model sees the same rows as the artifact, so parity would not tell
        _CHECKS[name](loaded, tasks, items)
    graphs = torch_graphs(loaded, components)
    with _one_thread():
        return run_items(tasks, graphs, items, on_sample=on_sample)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A short text gains nothing from two, which wait for each other where the machine has other work, and the sum's order stays the
    same from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_tokens(loaded: Loaded, tasks: Mapping[str, Task], items: Sequence[GoldenItem]) -> None:
    for item in items:
        task = tasks[item.task]
        options = task.check_options(item.options)
        texts = task.texts(item.input, options)
        rows = [row for row in task.encode(item.input, options) if "input_ids" in row.tensors] if texts else []
        if len(rows) != len(texts):
            continue  # pairs and windows are compared by the task's answer
        for text, row in zip(texts, rows, strict=True):
            ours = row.tensors["input_ids"].tolist()
            bound = {"truncation": True, "padding": "max_length", "max_length": max(len(ours), 1)}
            theirs = loaded.tokenizer(text, **bound)["input_ids"]
            whole = loaded.tokenizer(text)["input_ids"]
            if ours != theirs or (len(whole) != len(ours) and len(ours) < task.max_length):  # type: ignore[attr-defined]  # text tasks
                raise ParityError(
                    f"The tokenizer of {loaded.source.id} cannot be carried.",
                    why=f"the bundle gives other ids than transformers for {text[:40]!r}",
                    fix="report this checkpoint; no bundle was written",
                )


_PIXELS = 1e-6  # of the largest value: float32 rounding; the steps are computed in transformers' own order


def _check_pixels(loaded: Loaded, tasks: Mapping[str, Task], items: Sequence[GoldenItem]) -> None:
    for item in items:
        task = tasks[item.task]
        assert isinstance(task, ImageTask)
        ours = task.looked(item.input)
        theirs = loaded.processors.looked(task.seen(item.input), task.header(item.input))
        alike = all(_same_pixels(ours[name], np.asarray(theirs[name][0])) for name in ours)
        if not alike:
            raise ParityError(
                f"The image processor of {loaded.source.id} cannot be carried.",
                why=f"{type(loaded.processors.image_processor).__name__} gives other pixels than the steps read from it for {item.input}",
                fix="report this checkpoint; no bundle was written",
            )


def _same_pixels(ours: np.ndarray, theirs: np.ndarray) -> bool:
    if ours.ndim and ours.shape[1:] == theirs.shape[1:] and not theirs[len(ours) :].any():
        theirs = theirs[: len(ours)]  # a processor may fill up with zeros
    if ours.shape != theirs.shape:
        return False
    return bool(np.abs(ours - theirs).max() <= _PIXELS * max(np.abs(theirs).max(), 1))


# Of the largest value: float32 rounding of means, and of transforms in another grouping. Whisper's extractor in torch is 6e-5 away
# from itself in numpy, which the steps follow.
_SAMPLES = 1e-4


def _check_sounds(loaded: Loaded, tasks: Mapping[str, Task], items: Sequence[GoldenItem]) -> None:
    extractor = loaded.processors.feature_extractor
    for item in items:
        task = tasks[item.task]
        assert isinstance(task, AudioTask)
        sound = task.sound(item.input)
        samples = sound.samples(task.rate, 0, sound.length_at(task.rate))
        found = task.row_of(sound).tensors
        name = next(iter(found))
        ours, theirs = (
            found[name],
            np.asarray(extractor(samples, sampling_rate=task.rate, return_tensors="np")[name][0]),
        )
        alike = ours.shape == theirs.shape and np.abs(ours - theirs).max() <= _SAMPLES * max(np.abs(theirs).max(), 1)
        if not alike:
            raise ParityError(
                f"The feature extractor of {loaded.source.id} cannot be carried.",
                why=f"{type(extractor).__name__} gives other features than the steps read from it for {item.input}",
                fix="report this checkpoint; no bundle was written",
            )


_CHECKS: Mapping[str, Callable[[Loaded, Mapping[str, Task], Sequence[GoldenItem]], None]] = {
    "tokenizer": _check_tokens,
    "image_processor": _check_pixels,
    "feature_extractor": _check_sounds,
}

"""Golden samples: inputs before preprocessing, what the reference said, and what the artifact said where it was built.

The first shows that the model was kept, the second that another device computes the same. A device replays them alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from .bundle import Bundle
from .errors import IntegrityError
from .parity import CLASSES, RAW, SAME_ARTIFACT, Limits, Parity, Record, judge, numeric_class, record, spread_positions
from .predictor import Predictor
from .sessions import Session, Tensors
from .tasks import Row, Task
from .tasks.task import WIDE
from .tensors import pack_tensors, unpack_tensors

__all__ = [
    "CONVERSION",
    "DEVICE",
    "LISTS",
    "MAX_ELEMENTS",
    "RAW_LIMIT",
    "SAME",
    "Answers",
    "GoldenItem",
    "Replay",
    "answers_of",
    "golden_records",
    "inputs_to_json",
    "judge_tasks",
    "read_items",
    "records_from_bytes",
    "records_of",
    "records_to_bytes",
    "replay",
    "run_items",
]

MAX_ELEMENTS = 64_000  # values of one golden file; beyond, seeded positions, norms and top entries stand for the rest

SAME, DEVICE, CONVERSION, LISTS = "same", "device", "conversion", "lists"  # what a replay finds

RAW_LIMIT = 65_536  # values of one raw output that are compared
_RAW_VALUES = 32  # of each raw output in a bundle; what the user sees gets the rest
_WHOLE, _SPREAD, _LISTED = 0, 1, 2  # how a record's positions are found again

Answers = Mapping[str, np.ndarray]  # "row/judged/name" or "row/raw/name" -> the whole array


@dataclass(frozen=True)
class GoldenItem:
    """One input as a user would give it, for one task."""

    task: str
    input: Any
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Replay:
    """A bundle's golden samples, replayed here; each mapping is by task."""

    reference: Mapping[str, Parity]  # against the model that was converted
    artifact: Mapping[str, Parity]  # against the same artifact on the machine that built it
    batched: Mapping[str, Parity]  # lists, against the reference of single inputs

    @property
    def passed(self) -> bool:
        return self.finding == SAME

    @property
    def finding(self) -> str:
        """What it comes to: the same answers, another `DEVICE`, a `CONVERSION` that lost too much, or other `LISTS`.

        Where this machine does not compute what the build machine did, nothing here says what the conversion cost.
        """
        parts = {DEVICE: self.artifact, CONVERSION: self.reference, LISTS: self.batched}
        return next((name for name, part in parts.items() if not all(each.passed for each in part.values())), SAME)


def answers_of(task: Task, row: Row, outputs: Tensors, place: int = 0) -> dict[str, np.ndarray]:
    """What is compared of one row: the arrays that the user sees, and the raw outputs.

    A raw output as wide as a vocabulary is cut to the same spread positions wherever this runs.
    """
    scores = task.score(outputs, row)
    answers = {f"{place}/judged/{name}": np.array(scores[name]) for name in task.judged if name in scores}
    for name, value in outputs.items():
        if value.size > RAW_LIMIT:
            value = value.ravel()[spread_positions(value.size, RAW_LIMIT, 0)]
        answers[f"{place}/raw/{name}"] = np.array(value)
    return answers


def run_items(
    tasks: Mapping[str, Task],
    graphs: Mapping[str, Session],
    items: Sequence[GoldenItem],
    *,
    batch_size: int = 1,
    on_sample: Optional[Callable[[], None]] = None,
) -> list[dict[str, np.ndarray]]:
    """The answers of some graphs to golden items, one dictionary per item. The reference model is one more graph.

    Tasks of one bundle share most rows (a text is the same ids for its embedding and for its features): each is run once.
    """
    answers: list[dict[str, np.ndarray]] = [{} for _ in items]
    rows: dict[tuple[str, bytes], Row] = {}
    users: dict[tuple[str, bytes], list[tuple[int, int, Row]]] = {}
    joined: dict[int, dict[int, tuple[Row, Tensors]]] = {}
    for i, item in enumerate(items):
        task = tasks[item.task]
        if task.joint:
            joined[i] = {}
        for place, row in enumerate(task.encode(item.input, task.check_options(item.options))):
            rows[row.key] = row
            users.setdefault(row.key, []).append((i, place, row))
    for component in dict.fromkeys(component for component, _ in rows):
        keys = [key for key in rows if key[0] == component]
        groups = [keys] if batch_size > 1 else [[key] for key in keys]
        for group in groups:
            runner = tasks[items[users[group[0]][0][0]].task]  # tasks that share rows run them alike
            for k, outputs in runner.forward(graphs, [rows[key] for key in group], batch_size):
                for i, place, row in users[group[k]]:
                    answers[i].update(answers_of(tasks[items[i].task], row, outputs, place))
                    if i in joined:
                        joined[i][place] = (row, tasks[items[i].task].score(outputs, row))
                    if on_sample is not None and place == 0:
                        on_sample()
    for i, found in joined.items():
        pairs = [found[place] for place in sorted(found)]
        whole = tasks[items[i].task].join([row for row, _ in pairs], [scores for _, scores in pairs])
        answers[i].update({f"0/judged/{name}": np.array(value) for name, value in whole.items()})
    return answers


def records_of(
    tasks: Mapping[str, Task], items: Sequence[GoldenItem], answers: Sequence[Answers], *, keep: int
) -> list[dict[str, Record]]:
    """Records of the answers to some items, at most about `keep` values of each array."""
    return [
        {name: record(_kind(tasks[item.task], name), array, keep=keep, seed=index) for name, array in each.items()}
        for index, (item, each) in enumerate(zip(items, answers))
    ]


def golden_records(
    tasks: Mapping[str, Task], items: Sequence[GoldenItem], answers: Sequence[Answers]
) -> list[dict[str, Record]]:
    """Records as a bundle carries them: `MAX_ELEMENTS` values in all, most of them for what the user sees."""
    kinds = [{name: _kind(tasks[item.task], name) for name in each} for item, each in zip(items, answers)]
    raw = [each[name].size for of, each in zip(kinds, answers) for name in each if of[name] == RAW]
    seen = [each[name].size for of, each in zip(kinds, answers) for name in each if of[name] != RAW]
    small = min(_RAW_VALUES, MAX_ELEMENTS // 4 // max(len(raw), 1))
    share = _share(seen, MAX_ELEMENTS - sum(min(size, small) for size in raw))
    return [
        {
            name: record(of[name], array, keep=small if of[name] == RAW else share, seed=index)
            for name, array in each.items()
        }
        for index, (of, each) in enumerate(zip(kinds, answers))
    ]


def _share(sizes: Sequence[int], budget: int) -> int:
    """Values per array when small arrays leave their part of the budget to the large ones."""
    left = budget
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return max(share, 1)
        left -= size
    return budget


def _kind(task: Task, name: str) -> str:
    _, group, tail = name.split("/", 2)
    return RAW if group == "raw" else task.judged[tail]


def inputs_to_json(items: Sequence[GoldenItem]) -> str:
    return json.dumps([{"task": i.task, "input": i.input, "options": dict(i.options)} for i in items], indent=0) + "\n"


def read_items(bundle: Bundle) -> list[GoldenItem]:
    name = bundle.manifest.golden.inputs
    try:
        raw = json.loads(bundle.read(name))
        return [GoldenItem(each["task"], each["input"], each["options"]) for each in raw]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"Cannot read the golden samples of {bundle.path}.", why=f"{name}: {error}", fix="convert the model again"
        ) from None


def records_to_bytes(samples: Sequence[Mapping[str, Record]]) -> bytes:
    """One safetensors file: four arrays that hold the parts of all records in turn, and an index of the records.

    A tensor per record would spend more on names than on values.
    """
    index: list[list[Any]] = []
    parts: dict[str, list[np.ndarray]] = {"values": [], "positions": [], "top": [], "lead": []}
    for place, records in enumerate(samples):
        for name, each in records.items():
            spread = each.positions is not None and each.kind not in WIDE
            top = each.top if each.top is not None else np.zeros(0)
            index.append(
                [
                    place,
                    name,
                    each.kind,
                    list(each.shape),
                    each.norm,
                    each.peak,
                    len(each.values),
                    _SPREAD if spread else _WHOLE,
                    len(top),
                ]
            )
            parts["values"].append(each.values)
            if each.positions is not None and not spread:
                index[-1][7] = _LISTED
                parts["positions"].append(each.positions)
            if each.top is not None and each.lead is not None:
                parts["top"].append(each.top)
                parts["lead"].append(each.lead)
    dtypes = {"values": np.float32, "positions": np.int32, "top": np.int32, "lead": np.float32}
    tensors = {
        name: np.concatenate(arrays).astype(dtypes[name]) if arrays else np.zeros(0, dtypes[name])
        for name, arrays in parts.items()
    }
    text = json.dumps(index, separators=(",", ":")).encode()
    return pack_tensors({**tensors, "index": np.frombuffer(text, dtype=np.uint8)})


def records_from_bytes(data: bytes, where: str) -> list[dict[str, Record]]:
    """Raises: IntegrityError where the index does not fit the arrays."""
    tensors = unpack_tensors(data, where)
    samples: list[dict[str, Record]] = []
    at = dict.fromkeys(("values", "positions", "top", "lead"), 0)

    def take(part: str, count: int) -> np.ndarray:
        found = tensors[part][at[part] : at[part] + count]
        if len(found) != count:
            raise ValueError(f"{part} ends early")
        at[part] += count
        return found

    try:
        for place, name, kind, shape, norm, peak, count, how, tops in json.loads(tensors["index"].tobytes()):
            while len(samples) <= place:
                samples.append({})
            values = take("values", count)
            positions = None
            if how == _SPREAD:
                positions = spread_positions(int(np.prod(shape)), count, place)
            elif how == _LISTED:
                positions = take("positions", count)
            top, lead = (take("top", tops), take("lead", tops)) if kind in WIDE else (None, None)
            samples[place][name] = Record(kind, tuple(shape), values, positions, norm, peak, top, lead)
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"Cannot read the golden samples in {where}.", why=str(error), fix="convert the model again"
        ) from None
    return samples


def replay(predictor: Predictor, *, limits: Optional[Limits] = None, batch_size: int = 8) -> Replay:
    """Run a bundle's golden samples here and compare with what travelled in it.

    Args:
        predictor: a loaded bundle.
        limits: against the reference; those of the scheme's numeric class by default.
        batch_size: of the lists that are compared with single inputs.
    """
    bundle = predictor.bundle
    golden, scheme = bundle.manifest.golden, bundle.manifest.target.scheme
    items = read_items(bundle)
    reference = records_from_bytes(bundle.read(golden.reference), golden.reference)
    artifact = records_from_bytes(bundle.read(golden.artifact), golden.artifact)
    if not len(items) == len(reference) == len(artifact):
        raise IntegrityError(
            f"Cannot replay the golden samples of {bundle.path}.",
            why=f"there are {len(items)} inputs, {len(reference)} reference and {len(artifact)} artifact answers",
            fix="convert the model again",
        )
    tasks = {name: predictor.open_task(name) for name in predictor.tasks}
    single = run_items(tasks, predictor.graphs, items)
    listed = run_items(tasks, predictor.graphs, items, batch_size=batch_size)
    kind = numeric_class(scheme)
    wanted = limits or CLASSES[kind]
    return Replay(
        judge_tasks(items, reference, single, wanted),
        judge_tasks(items, artifact, single, SAME_ARTIFACT[kind]),
        judge_tasks(items, reference, listed, wanted, what="in batches"),
    )


def judge_tasks(
    items: Sequence[GoldenItem],
    reference: Sequence[Mapping[str, Record]],
    answers: Sequence[Answers],
    limits: Limits,
    *,
    what: str = "single",
) -> dict[str, Parity]:
    """Parity of each task on its own samples."""
    judged = {}
    for name in dict.fromkeys(item.task for item in items):
        places = [i for i, item in enumerate(items) if item.task == name]
        judged[name] = judge([reference[i] for i in places], [answers[i] for i in places], limits, what=what)
    return judged

"""The worker's side of compressing and training: from job file and rows to a model's folder."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from satchel_runtimes.errors import UsageError
from satchel_runtimes.examples import Example, read_examples
from satchel_runtimes.tasks import task_class

from ..capture import load_model
from ..processors import load_processors
from ..source import SourceModel
from . import COMPRESS, COMPRESSION, HELD_OUT, MODEL, TRAIN, FineTune
from .distill import Distill
from .frozen import frozen_body
from .losses import Said, embedding_loss, hard_loss, hidden_loss, soft_loss
from .models import check_same_tokens, drop_modules, is_head, load_headed, open_task, processors_of, student_of
from .objective import Batch, Objective
from .prune import Prune, Pruned, prune
from .scoring import score_of
from .training import History, Schedule, Score, Tell, train

if TYPE_CHECKING:
    import transformers

__all__ = ["run_compress"]

_HELD_OUT, _MOST_HELD_OUT = 0.1, 400  # of the rows to train on, where none were given to decide when to stop
_TAYLOR_ROWS = 512  # what decides about importance; more change little
_CHECKPOINT = "checkpoint.safetensors"
_RATE, _HEAD_RATE, _UNTRAINED_RATE = 1e-4, 1e-3, 1e-3


def run_compress(folder: Path, tell: Tell) -> None:
    """Read the job in `folder`, and leave the model in `folder/model`."""
    raw = json.loads((folder / COMPRESS).read_text())
    source = SourceModel.from_job(raw["source"])
    rows, held_out = read_examples(folder / TRAIN), read_examples(folder / HELD_OUT)
    began = time.monotonic()
    torch.manual_seed(raw["asked"]["seed"])
    made = folder / MODEL
    made.mkdir()
    processors_of(source, made)
    job = _Job(raw, source, made, rows, held_out, Path(raw["checkpoints"]) / _CHECKPOINT, tell)
    model, about = (_compress if raw["kind"] == "compress" else _fine_tune)(job)
    tell("save", f"{sum(each.numel() for each in model.parameters()):,} parameters")
    model.save_pretrained(made)
    about = {
        "satchel_compression": 1,
        "kind": raw["kind"],
        "source": source.id,
        "revision": source.revision,
        "task": raw["task"],
        "asked": raw["asked"],
        "rows": {"train": len(rows), "held_out": len(held_out)},  # unless training says what it has split off
        **about,
        "seconds": round(time.monotonic() - began, 1),
        "torch": torch.__version__,
    }
    (made / COMPRESSION).write_text(json.dumps(about, indent=1) + "\n", "utf-8")


@dataclasses.dataclass(frozen=True)
class _Job:
    raw: dict[str, Any]  # Any: JSON
    source: SourceModel
    folder: Path  # of what is made; its processors are there already
    rows: tuple[Example, ...]
    held_out: tuple[Example, ...]
    checkpoint: Path
    tell: Tell

    @property
    def task(self) -> str:
        return str(self.raw["task"])

    @property
    def seed(self) -> int:
        return int(self.raw["asked"]["seed"])

    def split(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """Rows to learn from, and rows that decide when to stop."""
        if self.held_out:
            return self.rows, self.held_out
        order = list(range(len(self.rows)))
        random.Random(self.seed).shuffle(order)
        count = min(_MOST_HELD_OUT, round(_HELD_OUT * len(order)))
        if not count:
            raise UsageError(
                "Cannot train.",
                why=f"{len(order)} rows are too few: a tenth of them decides when to stop",
                fix="give at least 10 rows for training",
            )
        return [self.rows[i] for i in order[count:]], [self.rows[i] for i in order[:count]]

    def counts(self) -> dict[str, int]:
        return dict(zip(("train", "held_out"), map(len, self.split()), strict=True))

    def set_length(self) -> None:
        """The model was trained on texts of this length, so that is where a device cuts them."""
        file, longest = self.folder / "tokenizer_config.json", self.raw["asked"]["max_length"]
        if longest is not None and file.is_file():
            raw = json.loads(file.read_text("utf-8"))
            raw["model_max_length"] = min(longest, raw.get("model_max_length") or longest)
            file.write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @property
    def made(self) -> SourceModel:
        """The folder that is being made, as a source."""
        return dataclasses.replace(self.source, folder=self.folder)


def _compress(job: _Job) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    asked = job.raw["asked"]
    wanted = Prune(**asked["prune"]) if asked["prune"] else None
    distill = Distill(**asked["distill"]) if asked["distill"] else None
    job.tell("load", f"{job.source.name}, {job.source.parameters:,} parameters")
    loaded = load_model(job.source, job.task)
    teacher, named = loaded.model, None
    if "tokenizer" in loaded.processors.by_name:
        loaded.tokenizer.save_pretrained(job.folder)
        job.set_length()
    before = sum(each.numel() for each in teacher.parameters())
    if job.raw["student"]:
        source = SourceModel.from_job(job.raw["student"])
        if "tokenizer" in loaded.processors.by_name:
            check_same_tokens(job.source, source)
        named = student_of(source, job.task, teacher)
    removed: dict[str, Any] = {}
    notes: list[str] = []
    if wanted is not None and wanted.vocabulary:
        texts = sorted({text for row in job.rows for text in _texts(row.input)})
        trim = Prune(vocabulary=True)
        if named is not None:  # its own copy of the same tokenizer, trimmed by the same texts
            beside = job.folder.parent / "student"
            beside.mkdir()
            processors_of(job.made, beside)
            prune(named, beside, trim, texts=texts)
        _note(prune(teacher, job.folder, trim, texts=texts), removed, notes, job.tell)
    objective = Objective(open_task(job.task, job.made, loaded.processors, asked["max_length"]), teacher, job.seed)
    student = named if named is not None else (copy.deepcopy(teacher) if distill else teacher)
    shape = _shape(wanted, distill, teacher)
    if shape is not None:
        job.tell("prune", "what matters least on the data")
        batches = objective.batches(_some(job.rows, job.seed), 16) if shape.needs_data else None
        _note(prune(student, None, shape, batches, objective.loss), removed, notes, job.tell)
    about: dict[str, Any] = {"removed": _counts(removed), "notes": notes}
    if distill is not None:
        history = _distil(job, distill, objective, teacher, student, derived=named is None)
        about |= {"training": dataclasses.asdict(history), "rows": job.counts()}
    from .marks import fill_marked

    fill_marked(student)
    about["parameters"] = {"before": before, "after": sum(each.numel() for each in student.parameters())}
    return student, about


def _shape(wanted: Prune | None, distill: Distill | None, teacher: transformers.PreTrainedModel) -> Prune | None:
    """What is pruned beside the vocabulary, with what makes a student of the teacher.

    Raises:
        UsageError: --prune and --distill both say how many layers or neurons there are, or no layer would be left.
    """
    found = {each.name: getattr(wanted, each.name) for each in dataclasses.fields(Prune)} if wanted else {}
    found["vocabulary"] = False
    for kind in ("layers", "ffn"):
        given = getattr(distill, kind, None)
        if given is not None and found.get(kind):
            raise UsageError(
                f"Cannot take {kind} from both --prune and --distill.",
                why="one says what goes, the other what stays",
                fix=f"leave {kind} out of one of them",
            )
    if distill is not None and distill.ffn is not None:
        found["ffn"] = 1 - distill.ffn
    if distill is not None and distill.layers is not None:
        total = int(teacher.config.num_hidden_layers)
        if distill.layers > total:
            raise UsageError(
                f"Cannot derive a student of {distill.layers} layers.",
                why=f"its teacher has {total}",
                fix=f"choose at most {total}, or name a student",
            )
        found["layers"] = float(total - distill.layers)
    if not any(found.get(kind) for kind in ("ffn", "heads", "layers", "channels", "weights")):
        return None
    return Prune(**found)


def _distil(
    job: _Job,
    wanted: Distill,
    objective: Objective,
    teacher: transformers.PreTrainedModel,
    student: transformers.PreTrainedModel,
    *,
    derived: bool,
) -> History:
    device = _device()
    rows, held_out = (objective.batches(each, wanted.batch) for each in job.split())
    similar = objective.kind == "similarity"
    weights = _Weights(
        1 - wanted.lambda_,
        0.0 if similar else wanted.lambda_,
        wanted.embedding if wanted.embedding is not None else float(similar),
        wanted.hidden,
    )
    torch.nn.Module.to(teacher, device).requires_grad_(False)  # transformers' own has no types
    torch.nn.Module.to(student, device)
    _check_widths(objective, teacher, student, rows[0].to(device), weights)
    if derived:  # they are the teacher's own, most of the parameters, and the same for both
        student.get_input_embeddings().requires_grad_(False)
    known: dict[tuple[int, int], Said] = {}  # the teacher says the same in every epoch
    deep = {"embedding": bool(weights.embedding), "hidden": bool(weights.hidden)}

    def of_teacher(part: int, number: int, batch: Batch) -> Said:
        if (part, number) not in known:
            with torch.no_grad():
                said = objective.ask(teacher, batch.to(device), **deep)
            if weights.hidden:  # too much to keep
                return said
            known[part, number] = said
        return known[part, number]

    def loss(number: int, batch: Batch) -> torch.Tensor | None:
        return weights.loss(
            objective, objective.ask(student, batch, **deep), of_teacher(0, number, batch), batch, wanted
        )

    def score() -> Score:
        return score_of(
            objective.kind,
            held_out,
            lambda number, batch: objective.ask(student, batch.to(device), **deep),
            lambda number, batch, said: weights.loss(objective, said, of_teacher(1, number, batch), batch, wanted),
            lambda number, batch: of_teacher(1, number, batch),
        )

    rate = wanted.learning_rate or (_RATE if derived else _UNTRAINED_RATE)
    schedule = Schedule(
        wanted.length,
        wanted.steps,
        wanted.minutes,
        rate,
        seed=job.seed if wanted.seed is None else wanted.seed,
        patience=wanted.patience,
        dropout=False,
    )
    return train(
        student, rows, loss, score, schedule, job.tell, stage="distil", checkpoint=job.checkpoint, run=job.raw["run"]
    )


@dataclasses.dataclass(frozen=True)
class _Weights:
    hard: float
    soft: float
    embedding: float
    hidden: float

    def loss(
        self, objective: Objective, ours: Said, theirs: Said, batch: Batch, wanted: Distill
    ) -> torch.Tensor | None:
        parts = []
        if self.hard and batch.targets:
            hard = hard_loss(objective.kind, ours, [each.to(_device()) for each in batch.targets])
            parts += [self.hard * hard] if hard is not None else []
        if self.soft:
            soft = soft_loss(objective.kind, ours, theirs, wanted.temperature)
            parts += [self.soft * soft] if soft is not None else []
        if self.embedding:
            parts.append(self.embedding * embedding_loss(ours, theirs))
        if self.hidden:
            parts.append(self.hidden * hidden_loss(ours, theirs))
        return torch.stack(parts).sum() if parts else None


def _check_widths(
    objective: Objective,
    teacher: torch.nn.Module,
    student: torch.nn.Module,
    batch: Batch,
    weights: _Weights,
) -> None:
    """Raises: UsageError for vectors of teacher and student that cannot be compared."""
    deep = {"embedding": bool(weights.embedding), "hidden": bool(weights.hidden)}
    with torch.no_grad():
        theirs, ours = objective.ask(teacher, batch, **deep), objective.ask(student.eval(), batch, **deep)
    widths = [
        (each.shape[-1]) for said in (theirs, ours) for each in (*said.hidden[-1:], said.embedding) if each is not None
    ]
    if len(set(widths)) > 1:
        raise UsageError(
            "Cannot compare the states of teacher and student.",
            why=f"they are {widths[0]} and {widths[-1]} wide",
            fix="leave hidden and embedding out, or choose a student of the teacher's width",
        )


def _fine_tune(job: _Job) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:

    asked = FineTune(**job.raw["asked"])
    job.tell("load", f"{job.source.name}, {job.source.parameters:,} parameters")
    labels = _labels_of(job)
    torch.manual_seed(asked.seed)
    model = load_headed(job.source, job.task, labels)
    processors = load_processors(job.made, task_class(job.task, job.source.facts.config).needs(job.source.facts.config))
    if "tokenizer" in processors.by_name:
        processors.tokenizer.save_pretrained(job.folder)
        job.set_length()
    if job.task != "sentence-embedding":
        drop_modules(job.made)
    made = dataclasses.replace(job.made, config=model.config.to_dict())
    objective = Objective(open_task(job.task, made, processors, asked.max_length), model, asked.seed)
    rows, held_out = (objective.batches(each, asked.batch) for each in job.split())
    device = _device()
    torch.nn.Module.to(model, device)
    fixed = asked.minutes is not None or asked.steps is not None
    epochs = asked.epochs or (None if fixed else 60.0 if asked.head_only else 3.0)
    schedule = Schedule(
        epochs,
        asked.steps,
        asked.minutes,
        asked.learning_rate or (_HEAD_RATE if asked.head_only else _RATE),
        head_rate=None if asked.learning_rate else _HEAD_RATE,
        seed=asked.seed,
        patience=max(asked.patience, 10) if asked.head_only else asked.patience,
        dropout=not asked.head_only,
    )

    def hard(said: Said, batch: Batch) -> torch.Tensor | None:
        return hard_loss(objective.kind, said, [each.to(device) for each in batch.targets])

    ask: dict[str, Callable[[int], Said]]
    if asked.head_only:
        both = [each.to(device) for each in (*rows, *held_out)]
        job.tell("features", "the body runs once", total=len(both))
        said = frozen_body(model, objective, both, lambda: job.tell("features", step=1))
        ask = {"rows": said, "held_out": lambda number: said(len(rows) + number)}
    else:
        ask = {
            "rows": lambda number: objective.ask(model, rows[number].to(device)),
            "held_out": lambda number: objective.ask(model, held_out[number].to(device)),
        }
    history = train(
        model,
        rows,
        lambda number, batch: hard(ask["rows"](number), batch),
        lambda: score_of(
            objective.kind,
            held_out,
            lambda number, batch: ask["held_out"](number),
            lambda number, batch, said: hard(said, batch),
        ),
        schedule,
        job.tell,
        checkpoint=job.checkpoint,
        run=job.raw["run"],
        is_head=lambda name: is_head(model, name),
    )
    count = sum(each.numel() for each in model.parameters())
    counts = {"parameters": {"before": count, "after": count}, "rows": job.counts()}
    return model, {"training": dataclasses.asdict(history), **counts}


def _labels_of(job: _Job) -> dict[str, Any]:
    """id2label and its kin, from the data; none for tasks without labels."""
    if job.task in ("sentence-embedding", "fill-mask", "question-answering"):
        return {}
    targets = [each.target for each in job.rows if each.target is not None]
    if not targets:
        raise UsageError("Cannot train.", why="no row has a label", fix="name the column of the labels")
    if all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in targets):
        return {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    several = job.task != "token-classification" and any(isinstance(each, list) for each in targets)
    names = sorted(set(_targets(job.rows)))
    if len(names) < 2:
        raise UsageError(
            "Cannot train a classifier.",
            why=f"all rows have the label {names[0]!r}" if names else "there are no labels",
            fix="give rows of at least two labels",
        )
    kind = "multi_label_classification" if several else "single_label_classification"
    found = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return found if job.task == "token-classification" else {**found, "problem_type": kind}


def _targets(rows: Sequence[Example]) -> Iterator[str]:
    for row in rows:
        target = row.target.get("labels", ()) if isinstance(row.target, Mapping) else row.target
        yield from (
            str(each) for each in ([target] if isinstance(target, str) else target or ()) if isinstance(each, str)
        )


def _texts(value: Any) -> Iterator[str]:  # Any: what a task takes
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _texts(each)


def _some(rows: Sequence[Example], seed: int) -> Sequence[Example]:
    return rows if len(rows) <= _TAYLOR_ROWS else random.Random(seed).sample(rows, _TAYLOR_ROWS)


def _note(pruned: Pruned, removed: dict[str, Any], notes: list[str], tell: Tell) -> None:
    removed.update(pruned.removed)
    notes += pruned.notes
    tell("prune", f"{pruned.parameters_before:,} to {pruned.parameters_after:,} parameters")


def _counts(removed: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, dict[str, int]]:
    return {kind: {place: len(units) for place, units in places.items()} for kind, places in removed.items()}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

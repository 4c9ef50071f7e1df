"""Models to train: a teacher's copy, a student that was named, and a body that gets a new head."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satchel_runtimes.errors import IntegrityError, SupportError, UsageError
from satchel_runtimes.tasks import Task, task_class

from ..processors import Processors, load_processors
from ..source import SourceModel
from ..stage import open_tasks

if TYPE_CHECKING:
    import transformers

__all__ = ["check_same_tokens", "drop_modules", "is_head", "load_headed", "open_task", "processors_of", "student_of"]


def load_headed(source: SourceModel, task: str, labels: Mapping[str, Any]) -> transformers.PreTrainedModel:
    """A model for a task, with a new head where the checkpoint has none, or one for other labels.

    Args:
        labels: id2label, label2id and problem_type of its config.

    Raises:
        SupportError: transformers cannot load it for this task.
        IntegrityError: the checkpoint lacks more than a head.
    """
    import transformers

    auto = getattr(transformers, task_class(task).auto_model)
    try:
        model, info = auto.from_pretrained(
            source.folder,
            dtype="float32",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=source.trust_remote_code,
            **labels,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise SupportError(
            f"Cannot load {source.id} for {task}.",
            why=f"transformers {transformers.__version__}: {str(error).strip().splitlines()[0][:300]}",
            fix="check that the folder is complete and that the task fits the model",
        ) from None
    mismatched = [str(each[0] if isinstance(each, tuple) else each) for each in info["mismatched_keys"]]
    absent = sorted(name for name in (*info["missing_keys"], *mismatched) if not is_head(model, name))
    if absent:
        raise IntegrityError(
            f"Cannot train {source.id} for {task}.",
            why=f"the checkpoint lacks {len(absent)} weights of its body, the first is {absent[0]}",
            fix="take a checkpoint that is whole",
        )
    found: transformers.PreTrainedModel = model
    return found


def is_head(model: transformers.PreTrainedModel, name: str) -> bool:
    """Whether a parameter belongs to the head and not to the body. A pooler is on the way to a head alone."""
    return model.base_model is not model and (not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name)


def student_of(source: SourceModel, task: str, teacher: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """A student that was named, with a head for the teacher's labels."""
    config = teacher.config
    if task == "sentence-embedding" or task == "fill-mask" or task == "question-answering":
        return load_headed(source, task, {})
    labels = {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
    return load_headed(source, task, labels)


def check_same_tokens(teacher: SourceModel, student: SourceModel) -> None:
    """Teacher and student read one batch of tokens, so these must mean the same to both.

    Raises:
        UsageError: their tokenizers differ.
    """
    ours, theirs = (_tokenizer(each) for each in (student, teacher))
    if ours == theirs:
        return
    differ = sorted(part for part in {*ours, *theirs} if ours.get(part) != theirs.get(part))
    raise UsageError(
        f"Cannot distil {teacher.id} into {student.id}.",
        why=f"their tokenizers differ (in {', '.join(differ)}), and what the teacher says of a token is learned for the "
        "same token of the student",
        fix="choose a student with the teacher's tokenizer, or derive one: layers=3,ffn=0.5",
    )


def _tokenizer(source: SourceModel) -> dict[str, Any]:
    """What decides about tokens: not the truncation and padding that were set last."""
    loaded = load_processors(source, ("tokenizer",)).tokenizer
    raw: dict[str, Any] = json.loads(loaded.backend_tokenizer.to_str())
    return {part: value for part, value in raw.items() if part not in ("truncation", "padding", "version")}


def open_task(task: str, source: SourceModel, processors: Processors, max_length: int | None) -> Task:
    """The task as a device will run it, from the processors that lie in the source's folder."""
    facts = dataclasses.replace(processors, source=source).facts(max_length)
    return open_tasks([task_class(task).entry(facts)], source.folder)[task]


def processors_of(source: SourceModel, folder: Path) -> None:
    """Copy all that a model's folder holds beside its weights: tokenizer, image processor, modules, licence."""
    import shutil

    left = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx", ".ckpt", ".pt", ".ot", ".index.json", ".gguf")
    for file in source.folder.rglob("*"):
        place = file.relative_to(source.folder)
        if file.is_file() and not place.name.endswith(left) and not any(part.startswith(".") for part in place.parts):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)


def drop_modules(made: SourceModel) -> None:
    """Without the files of sentence-transformers, by which a folder embeds sentences whatever head it has."""
    import shutil

    for module in made.facts.modules:
        if module["path"]:
            shutil.rmtree(made.folder / module["path"], ignore_errors=True)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (made.folder / name).unlink(missing_ok=True)

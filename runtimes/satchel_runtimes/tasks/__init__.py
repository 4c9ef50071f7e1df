"""Every task by its name in `transformers.pipeline`. A new task is one new file, and one line in `_MODULES`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import unknown_name
from ..manifest import TaskEntry
from .task import Files, Row, Task

__all__ = ["Row", "Task", "list_tasks", "open_task", "task_class", "task_name"]

_MODULES = {
    "audio-classification": ".audio_classification",
    "automatic-speech-recognition": ".automatic_speech_recognition",
    "depth-estimation": ".depth_estimation",
    "document-question-answering": ".document_question_answering",
    "feature-extraction": ".feature_extraction",
    "fill-mask": ".fill_mask",
    "image-classification": ".image_classification",
    "image-feature-extraction": ".image_feature_extraction",
    "image-segmentation": ".image_segmentation",
    "image-text-retrieval": ".image_text_retrieval",
    "image-text-to-text": ".image_text_to_text",
    "image-to-image": ".image_to_image",
    "image-to-text": ".image_to_text",
    "multiple-choice": ".multiple_choice",
    "object-detection": ".object_detection",
    "question-answering": ".question_answering",
    "region-question-answering": ".region_question_answering",
    "sentence-embedding": ".sentence_embedding",
    "sentence-similarity": ".sentence_similarity",
    "summarization": ".summarization",
    "table-question-answering": ".table_question_answering",
    "text-classification": ".text_classification",
    "text2text-generation": ".text2text_generation",
    "text-generation": ".text_generation",
    "text-to-speech": ".text_to_speech",
    "time-series-forecasting": ".time_series_forecasting",
    "token-classification": ".token_classification",
    "translation": ".translation",
    "unconditional-image-generation": ".unconditional_image_generation",
    "video-classification": ".video_classification",
    "visual-question-answering": ".visual_question_answering",
    "voice-activity-detection": ".voice_activity_detection",
    "zero-shot-audio-classification": ".zero_shot_audio_classification",
    "zero-shot-classification": ".zero_shot_classification",
    "zero-shot-image-classification": ".zero_shot_image_classification",
    "zero-shot-object-detection": ".zero_shot_object_detection",
}

_ALSO = {"text-to-audio": "text-to-speech"}  # what transformers calls a task too


def list_tasks() -> tuple[str, ...]:
    return tuple(_MODULES)


def task_name(name: str) -> str:
    """The name that satchel has for a task."""
    return _ALSO.get(name, name)


def task_class(name: str, config: Optional[Mapping[str, Any]] = None) -> type[Task]:
    """The class that serves a task, for a model of this config.json where one is known; its file is imported now and not before.

    Raises:
        UsageError: no task has this name.
    """
    name = task_name(name)
    if name not in _MODULES:
        raise unknown_name("task", name, _MODULES)
    found: type[Task] = importlib.import_module(_MODULES[name], __name__).TASK
    return found if config is None else found.for_model(config)


def open_task(entry: TaskEntry, files: Files) -> Task:
    """A bundle's task, with what it reads from there."""
    return task_class(entry.name).for_entry(entry)(entry, files)

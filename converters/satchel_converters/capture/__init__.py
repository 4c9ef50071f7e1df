"""From a checkpoint to components. An architecture that needs more than the generic way is one file in this folder.

A file has `capture(model, task, inputs) -> tuple[Component, ...]` and is named in `_BY_MODEL_TYPE`.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from satchel_runtimes.errors import IntegrityError, SupportError
from satchel_runtimes.tasks import Task, task_class
from satchel_runtimes.tasks.rewriting import RewritingTask
from satchel_runtimes.tasks.task import ModelFacts

from ..component import Component
from ..lean import import_transformers
from ..processors import Processors, load_processors
from ..source import SourceModel

if TYPE_CHECKING:
    import transformers

__all__ = ["Loaded", "capture", "load_model"]

_BY_MODEL_TYPE: dict[str, str] = {
    "blip": ".blip",
    "bloom": ".bloom",
    "canine": ".canine",
    "convbert": ".neighbours",
    "d_fine": ".rt_detr",
    "depth_anything": ".depth_anything",
    "efficientnet": ".efficientnet",
    "flaubert": ".xlm",
    "flava": ".flava",
    "funnel": ".funnel",
    "gemma2": ".eager",
    "gemma3_text": ".eager",
    "layoutlmv3": ".layoutlmv3",
    "longformer": ".longformer",
    "mistral": ".eager",
    "mobilebert": ".neighbours",
    "mobilevitv2": ".mobilevitv2",
    "modernbert": ".modernbert",
    "nystromformer": ".neighbours",
    "perceiver": ".perceiver",
    "reformer": ".reformer",
    "rt_detr": ".rt_detr",
    "rt_detr_v2": ".rt_detr",
    "tapas": ".tapas",
    "vilt": ".vilt",
    "vit_mae": ".vit_mae",
    "vits": ".vits",
    "xlm": ".xlm",
    "xmod": ".xmod",
    "xlnet": ".xlnet",
}
_WRITING: dict[str, str] = {  # of models that write, where the task's own way is not enough
    "blip": ".blip_captions",
    "blip visual-question-answering": ".blip_answers",
    "blip-2 image-to-text": ".blip_2_t5",
    "blip-2 visual-question-answering": ".blip_2_t5",
    "git": ".git",
    "idefics": ".idefics",
    "idefics3": ".idefics3",
    "qwen2_vl": ".qwen2_vl",
    "smolvlm": ".idefics3",
    "speecht5 text-to-speech": ".speecht5",
}
_BY_TASK: dict[str, str] = {  # of several graphs, or called in another way
    "image-text-retrieval": ".two_towers",
    "image-text-to-text": ".seeing_decoder",
    "multiple-choice": ".choices",
    "region-question-answering": ".regions",
    "text-generation": ".decoder",
    "unconditional-image-generation": ".decoder",
    "video-classification": ".video",
    "zero-shot-audio-classification": ".two_towers",
    "zero-shot-image-classification": ".two_towers",
    "zero-shot-object-detection": ".open_detector",
}
_GENERIC = {
    "text": ".encoder",
    "image": ".image",
    "audio": ".audio",
    "series": ".series",
    "image+text": ".joined",
}  # by modality


@dataclass(frozen=True)
class Loaded:
    """The reference: the model in float32, and the processors that belong to it."""

    source: SourceModel
    task: type[Task]
    model: transformers.PreTrainedModel
    processors: Processors

    def facts(self, max_length: int | None = None, bound: Sequence[int] = ()) -> ModelFacts:
        """Those of the processors, with the model's own scalars, such as the scale of CLIP's similarities."""
        scalars = {name: float(value.detach()) for name, value in self.model.named_parameters() if value.numel() == 1}
        config = getattr(self.model, "generation_config", None)
        generation = {k: v for k, v in (config.to_dict() if config else {}).items() if v is not None}
        return dataclasses.replace(
            self.processors.facts(max_length, bound),
            scalars=scalars,
            generation=generation,
            whole=self.model.config.to_dict(),
        )

    @property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        return self.processors.tokenizer


def load_model(source: SourceModel, task_name: str, attention: str | None = None) -> Loaded:
    """Load weights in float32 and the processors, and check that every weight of the model came from the checkpoint.

    Args:
        attention: an implementation by transformers' name ("eager"); its own choice by default.

    Raises:
        ToolchainError: torch or transformers is missing.
        IntegrityError: weights that do not fit the config, or a head that the checkpoint does not have.
        SupportError: an architecture that transformers does not know, or a tokenizer without a fast form.
    """
    transformers = import_transformers(f"load {source.id}")
    _quiet(transformers)
    task = task_class(task_name, source.facts.config)
    chosen = {"attn_implementation": attention} if attention else {}
    common = {"local_files_only": True, "trust_remote_code": source.trust_remote_code}
    head = task.head(source.facts.config)[0]
    # Where transformers has no Auto class for a task, the class that the checkpoint names.
    auto = getattr(transformers, source.architecture if head == "architecture" else head)
    try:
        model, info = auto.from_pretrained(
            source.folder,
            dtype="float32",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **chosen,
            **common,
        )
        processors = load_processors(source, task.needs(source.facts.config))
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        # transformers reports every mismatch between files and classes with one of these.
        said = str(error).strip().splitlines()[0]
        fix = "check that the folder is complete and that the task fits the model; --task names another"
        if "does not recognize this architecture" in said:
            fix = "update transformers; if the repository brings the model's code, --trust-remote-code runs it"
        elif isinstance(error, ImportError):
            fix = "install what it names beside satchel"
        raise SupportError(
            f"Cannot load {source.id} for {task_name}.",
            why=f"transformers {transformers.__version__}: {said[:300]}",
            fix=fix,
        ) from None
    _check_loading(source, task, info)
    from ..compress.marks import remove_marked  # needs torch, which is only sure from here on

    remove_marked(model)  # what pruning left in the folder as zeros: the artifact is really smaller without it
    return Loaded(source, task, model.eval(), processors)


def capture(loaded: Loaded) -> tuple[Component, ...]:
    """The model's exportable graphs."""
    generic = _BY_TASK.get(loaded.task.name) or _GENERIC[loaded.task.modality]
    # What an architecture needs as an encoder it does not as a decoder.
    if issubclass(loaded.task, RewritingTask):
        generic = ".encoder_decoder"
    by_type, kind = (_WRITING if loaded.task.generates else _BY_MODEL_TYPE), loaded.source.model_type
    name = by_type.get(f"{kind} {loaded.task.name}") or by_type.get(kind, generic)
    module = importlib.import_module(name, __name__)
    components: tuple[Component, ...] = module.capture(loaded)
    return components


def _check_loading(source: SourceModel, task: type[Task], info: dict[str, Any]) -> None:
    mismatched = sorted(str(each[0] if isinstance(each, tuple) else each) for each in info["mismatched_keys"])
    # The pooler is not on the way to any output of a body without a head.
    missing = sorted(key for key in info["missing_keys"] if task.auto_model != "AutoModel" or "pooler." not in key)
    if mismatched:
        raise IntegrityError(
            f"Cannot load {source.id}.",
            why=f"{len(mismatched)} weights have another shape than config.json says, the first is {mismatched[0]}",
            fix="take the config.json that belongs to these weights",
        )
    if missing:
        raise IntegrityError(
            f"Cannot load {source.id} for {task.name}.",
            why=f"the checkpoint lacks {len(missing)} weights of {task.auto_model}, the first is {missing[0]}; "
            "transformers would fill them with random numbers",
            fix="name the task that the model was trained for with --task, or train the head first",
        )


def _quiet(transformers: Any) -> None:  # Any: a module
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

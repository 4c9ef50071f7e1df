"""What a row of the matrix is, and what all builders of small models share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

__all__ = ["LABELS", "Row", "lively", "named_labels", "save", "statistics", "tokenizer"]

LABELS = ("cat", "dog", "house", "tree", "boat", "cup")

# For every tokenizer the same little text to learn words from; the golden texts are others.
_CORPUS = (
    "The small model answers quickly and keeps its words on the phone.",
    "Where is the order that I placed on Monday? It has not arrived yet!",
    "A cat, a dog and a boat are in the picture of the house under the tree.",
    "She reads one book in the morning, two in the evening, and none at noon.",
    "Prices rose by 12 percent in 2024; the report names 3 reasons (see page 7).",
    "Der Zug nach Berlin fährt um acht Uhr. Le musée est fermé le lundi. 電車は来ます。",
)

Oracle = Callable[[Path, Sequence[Any], Mapping[str, Any]], list[Any]]


@dataclass(frozen=True)
class Row:
    """One architecture for one task."""

    architecture: str  # by the name that the issue and transformers have for it: its model_type
    task: str
    build: Callable[[Path], None]  # writes a Hub folder: config.json, model.safetensors, processors
    inputs: tuple[Any, ...]  # what `predict` and the pipeline are asked; of different lengths or sizes
    options: Mapping[str, Any] = field(default_factory=dict)  # of `predict` and the pipeline alike
    oracle: Oracle | None = None  # in place of `transformers.pipeline`, for tasks that it does not have
    absent: Mapping[str, str] = field(default_factory=dict)  # format -> why the engine itself cannot have it
    fast: bool = False  # one of those that `make test` runs

    @property
    def name(self) -> str:
        return f"{self.architecture} {self.task}"


def named_labels(config: transformers.PretrainedConfig, labels: Sequence[str] = LABELS) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}


def lively(model: transformers.PreTrainedModel, seed: int = 0, scale: float = 1.0) -> transformers.PreTrainedModel:
    """Random weights as large as trained ones: a fresh initialisation answers nearly zero, or the same to everything.

    Matrices and kernels get a deviation of `scale / sqrt(inputs)`, so that a layer keeps the size of what it is given; biases
    and gains are moved too, or an export could lose them unseen.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2:
                rows = parameter.shape[-1] if "embed" in name.lower() else int(np.prod(parameter.shape[1:]))
                parameter.copy_(noise * scale / max(rows, 1) ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.1)
            else:  # a gain: around what it was
                parameter.add_(noise * 0.1)
    return model.eval()


def statistics(model: transformers.PreTrainedModel, run: Callable[[], Any]) -> transformers.PreTrainedModel:
    """Give batch norms the statistics of what really comes in, as training leaves them; `run` calls the model once."""
    norms = [each for each in model.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        run()
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def tokenizer(kind: str, **special: Any) -> transformers.PreTrainedTokenizerFast:
    """A real tokenizer, trained on a few lines: "wordpiece", "bpe" (byte-level) or "unigram".

    Args:
        special: names of special tokens that differ from the kind's own, such as `mask_token`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind == "wordpiece":
        names = {
            "unk_token": "[UNK]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=list(names.values()), show_progress=False
        )
    elif kind == "bpe":
        names = {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "cls_token": "<s>",
        }
        names |= {"sep_token": "</s>", "mask_token": "<mask>"}
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        order = list(dict.fromkeys(names.values()))
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=order, initial_alphabet=alphabet, show_progress=False
        )
    else:
        names = {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "cls_token": "<s>",
        }
        names |= {"sep_token": "</s>", "mask_token": "<mask>"}
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        order = list(dict.fromkeys(names.values()))
        trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=order, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(_CORPUS, trainer)
    names |= special
    first, last = names["cls_token"], names["sep_token"]
    ids = [(name, made.token_to_id(name)) for name in (first, last)]
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ids
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **names)


def save(
    folder: Path, model: transformers.PreTrainedModel, *processors: Any, **config: Any
) -> None:  # Any: no common class
    """Write the folder as `save_pretrained` does, with `config` added to config.json."""
    model.save_pretrained(folder)
    for each in processors:
        each.save_pretrained(folder)
    if config:
        whole = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps({**whole, **config}, indent=2) + "\n", "utf-8")

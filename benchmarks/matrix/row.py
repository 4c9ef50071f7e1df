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

__all__ = ["CORPUS", "LABELS", "Row", "lively", "named_labels", "save", "statistics", "tokenizer"]

LABELS = ("cat", "dog", "house", "tree", "boat", "cup")

# For every tokenizer the same little text to learn words from; the golden texts are others.
CORPUS = (
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

    def write(self, folder: Path) -> None:
        """Build it, the same in every process: a class's own initialisation is drawn, and `lively` moves some of it only."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.build(folder)


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
    """A real tokenizer that knows the words of a few lines: "wordpiece", "bpe" (byte-level) or "unigram".

    It is the same in every process, or a row would be another model each time: trainers break ties by chance, so the pieces
    of one are made here and those of the other are sorted.

    Args:
        special: names of special tokens that differ from the kind's own, such as `mask_token`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    names = {
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
    }
    order = list(dict.fromkeys(names.values()))
    if kind == "wordpiece":
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}
        normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        pieces = [*names.values(), *_word_pieces(normalizer, splitter)]
        made = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        made.add_special_tokens(list(names.values()))
        made.normalizer, made.pre_tokenizer, made.decoder = normalizer, splitter, decoders.WordPiece()
    elif kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, special_tokens=order, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(CORPUS, trainer)
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=order, unk_token="<unk>", show_progress=False)
        made.train_from_iterator(CORPUS, trainer)
        found = json.loads(made.to_str())["model"]["vocab"][len(order) :]
        found = sorted(((piece, round(score, 2)) for piece, score in found), key=lambda each: (-each[1], each[0]))
        made.model = models.Unigram([*((name, 0.0) for name in order), *found], unk_id=order.index("<unk>"))
    names |= special
    first, last = names["cls_token"], names["sep_token"]
    ids = [(name, made.token_to_id(name)) for name in (first, last)]
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=ids
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **names)


def _word_pieces(normalizer: Any, splitter: Any) -> list[str]:  # Any: of `tokenizers`
    """Characters, and the words of the corpus: every second one whole, the others in two parts."""
    lines = [splitter.pre_tokenize_str(normalizer.normalize_str(line)) for line in CORPUS]
    words = sorted({word for line in lines for word, _ in line})
    characters = sorted(set("".join(words)))
    parts = [[word] if place % 2 else [word[:3], f"##{word[3:]}"] for place, word in enumerate(words) if len(word) > 3]
    return list(
        dict.fromkeys(
            [*characters, *(f"##{each}" for each in characters), *(piece for part in parts for piece in part)]
        )
    )


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

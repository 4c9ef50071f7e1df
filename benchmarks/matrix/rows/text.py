"""Models that read text."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..row import LABELS, Row, lively, named_labels, save, tokenizer

__all__ = ["ROWS", "text_row"]

_TEXTS = (
    "Where is my order?",
    "A small model that answers quickly is often better than a large one that does not.",
    "No.",
)
_SMALL: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 140,
}
_INPUTS: Mapping[str, Mapping[str, Any]] = {
    "wordpiece": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    "bpe": {},
    "unigram": {},
}
_HEADS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
    "multiple-choice": "AutoModelForMultipleChoice",
    "question-answering": "AutoModelForQuestionAnswering",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "sentence-embedding": "AutoModel",
    "sentence-similarity": "AutoModel",
}
_QUESTIONS = (
    {"text": "The train was late.", "choices": ["We waited.", "We took the book that lay on the table.", "No."]},
    {"text": "She opened the door, and then the window, for it was warm.", "choices": ["It was cold.", "It was warm."]},
    {"text": "Rain.", "choices": ["An umbrella is what you need."]},
)


def _choose(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """Choices as the model's documentation has them: pairs side by side, one softmax."""
    words = transformers.AutoTokenizer.from_pretrained(model)
    head = transformers.AutoModelForMultipleChoice.from_pretrained(model).eval()
    alone = []
    for each in inputs:
        choices = each["choices"]
        pairs = words([each["text"]] * len(choices), choices, padding=True, return_tensors="pt")
        with torch.no_grad():
            scores = head(**{name: value[None] for name, value in pairs.items()}).logits[0].softmax(0).tolist()
        ranked = sorted(zip(choices, scores, strict=True), key=lambda pair: -pair[1])
        alone.append([{"label": choice, "score": score} for choice, score in ranked])
    return [*alone, *alone]


def _features(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline's nested lists as the arrays that they are."""
    ask = transformers.pipeline("feature-extraction", model=str(model))
    return [np.array(ask(each)) for each in (*inputs, *inputs)]


def _span(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The likeliest span of at most 15 tokens, as the pipeline of transformers 4 found it."""
    words = transformers.AutoTokenizer.from_pretrained(model)
    head = transformers.AutoModelForQuestionAnswering.from_pretrained(model).eval()
    alone = []
    for each in inputs:
        encoded = words(each["question"], each["context"], return_tensors="pt")
        inside = torch.tensor([part == 1 for part in encoded.sequence_ids()])
        with torch.no_grad():
            found = head(**encoded)
        # The token that opens the sequence takes part in the softmax, as the answer that there is none.
        allowed = inside | (torch.arange(len(inside)) == 0)
        start, end = (
            logits[0].masked_fill(~allowed, -10000).softmax(0) * inside
            for logits in (found.start_logits, found.end_logits)
        )
        spans = (start[:, None] * end[None, :]).triu().tril(14)
        first, last = divmod(int(spans.argmax()), len(inside))
        since, until = encoded.token_to_chars(first).start, encoded.token_to_chars(last).end
        score = float(spans.max())
        alone.append({"score": score, "start": since, "end": until, "answer": each["context"][since:until]})
    return [*alone, *alone]


def _embeddings(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """Means over the tokens, of length 1: what the modules beside the model say."""
    words, body = (
        transformers.AutoTokenizer.from_pretrained(model),
        transformers.AutoModel.from_pretrained(model).eval(),
    )
    alone = []
    for each in inputs:
        with torch.no_grad():
            states = body(**words(each, return_tensors="pt")).last_hidden_state[0]
        alone.append(torch.nn.functional.normalize(states.mean(0), dim=0).numpy())
    return [*alone, *alone]


def _cosines(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    alone = []
    for each in inputs:
        source, *others = _embeddings(model, [each["source_sentence"], *each["sentences"]], options)[
            : 1 + len(each["sentences"])
        ]
        alone.append([float(source @ other) for other in others])
    return [*alone, *alone]


_ORACLES = {
    "multiple-choice": _choose,
    "feature-extraction": _features,
    "question-answering": _span,
    "sentence-embedding": _embeddings,
    "sentence-similarity": _cosines,
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "text-classification": {"top_k": None},
    "question-answering": {"align_to_words": False},  # spans of one word would be added up
    "zero-shot-classification": {"candidate_labels": ["a train", "the house in the north", "cooking"]},
}
_INPUTS_OF: Mapping[str, tuple[Any, ...]] = {
    "multiple-choice": _QUESTIONS,
    "question-answering": (
        {"question": "Where is my order?", "context": "The order was placed on Monday, and it has not arrived yet."},
        {"question": "Who?", "context": "She reads two books in the evening."},
        {"question": "What is better?", "context": _TEXTS[1]},
    ),
    "sentence-similarity": (
        {"source_sentence": _TEXTS[0], "sentences": [_TEXTS[1], "The order is here."]},
        {"source_sentence": _TEXTS[1], "sentences": ["No."]},
        {"source_sentence": "Rain.", "sentences": list(_TEXTS)},
    ),
}
_LABELS_OF = {
    "question-answering": ("start", "end"),
    "zero-shot-classification": ("contradiction", "neutral", "entailment"),
}
_MODULES = (
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
)


def _build(config: Callable[..., Any], kind: str, sizes: Mapping[str, Any], task: str, folder: Path) -> None:
    """A model of a config class with a tokenizer of its kind and the task's head."""
    words = tokenizer(kind, **_INPUTS[kind])
    special = {
        f"{name}_token_id": found
        for name in ("pad", "bos", "eos", "cls", "sep")
        if (found := getattr(words, f"{name}_token_id")) is not None
    }
    given = {"vocab_size": len(words), **special, **_SMALL, **sizes}
    made = config(**{name: value for name, value in given.items() if value is not None})
    named_labels(made, _LABELS_OF.get(task, LABELS))
    words.model_max_length = 128
    save(folder, lively(getattr(transformers, _HEADS[task]).from_config(made)), words)
    if task.startswith("sentence-"):
        (folder / "modules.json").write_text(json.dumps(_MODULES), "utf-8")
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": made.hidden_size, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")


def text_row(
    name: str,
    config: Callable[..., Any],
    kind: str = "wordpiece",
    task: str = "text-classification",
    *,
    fast: bool = False,
    absent: Mapping[str, str] | None = None,
    **sizes: Any,
) -> Row:
    texts = _TEXTS
    if task == "fill-mask":
        mask = tokenizer(kind).mask_token
        texts = (f"Where is my {mask}?", f"A small model that {mask} quickly is often better than a large one.", mask)
    build = functools.partial(_build, config, kind, sizes, task)
    if name == "funnel":  # transformers itself fails on less than five tokens
        texts = (*_TEXTS[:2], "No, never again!")
    return Row(
        name,
        task,
        build,
        _INPUTS_OF.get(task, texts),
        _OPTIONS.get(task, {}),
        oracle=_ORACLES.get(task),
        absent=absent or {},
        fast=fast,
    )


_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 4}
_MOBILEBERT = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32}
_REMBERT = {"input_embedding_size": 16, "output_embedding_size": 40}
_OWN_NAMES: Mapping[str, Any] = dict.fromkeys(_SMALL)  # for configs that name their sizes otherwise
_FUNNEL = {**_OWN_NAMES, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 2, 1]}
_REFORMER: Mapping[str, Any] = {
    "attention_head_size": 8,
    "attn_layers": ["local", "lsh"],
    "axial_pos_embds_dim": (12, 20),
    "axial_pos_shape": (10, 14),
    "feed_forward_size": 48,
    "hash_seed": 7,
    "is_decoder": False,
    "local_attn_chunk_length": 8,
    "lsh_attn_chunk_length": 16,
    "num_buckets": 8,
    "num_hashes": 2,
}
_XLNET = {**_OWN_NAMES, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
_XMOD = {"languages": ["en_XX", "de_DE"], "default_language": "en_XX", "adapter_reduction_factor": 2}
_NEAR = {"local_attention": 8, "layer_types": ["full_attention", "sliding_attention"]}


def _characters(config: Callable[..., Any], words: Any, sizes: Mapping[str, Any], head: str, folder: Path) -> None:
    """A model that reads characters or bytes, with its tokenizer, which has no file."""
    made = config(**sizes)
    named_labels(made)
    save(folder, lively(getattr(transformers, head).from_config(made)), words(model_max_length=128))


_MASKED = (
    "Where is my [MASK]rder?",
    "A small model that answers quickly is o[MASK]ten better than a large one.",
    "[MASK]o.",
)


def _of_characters(name: str, config: Any, words: Any, task: str, **sizes: Any) -> Row:
    build = functools.partial(_characters, config, words, sizes, _HEADS[task])
    return Row(name, task, build, _MASKED if task == "fill-mask" else _TEXTS, _OPTIONS.get(task, {}))


def _splinter(folder: Path) -> None:
    """With its own tokenizer, which puts a token for the answer behind the question."""
    vocabulary = tokenizer("wordpiece").get_vocab()
    words = transformers.SplinterTokenizer(vocab={**vocabulary, "[QUESTION]": len(vocabulary)}, model_max_length=128)
    ids = {name: words.convert_tokens_to_ids(f"[{name.upper()}]") for name in ("pad", "question")}
    config = transformers.SplinterConfig(
        vocab_size=len(words), pad_token_id=ids["pad"], question_token_id=ids["question"], **_SMALL
    )
    save(folder, lively(transformers.SplinterForQuestionAnswering(config)), words)


_CANINE = {**_SMALL, "num_hash_buckets": 160, "local_transformer_stride": 16}
_PERCEIVER = {
    "num_latents": 8,
    "d_latents": 32,
    "d_model": 24,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
    "max_position_embeddings": 128,
}

ROWS: tuple[Row, ...] = (
    text_row("bert", transformers.BertConfig, fast=True),
    text_row("bert", transformers.BertConfig, task="multiple-choice"),
    text_row("bert", transformers.BertConfig, task="question-answering"),
    text_row("bert", transformers.BertConfig, task="sentence-embedding"),
    text_row("bert", transformers.BertConfig, task="sentence-similarity"),
    text_row("roberta", transformers.RobertaConfig, "bpe", "zero-shot-classification"),
    text_row("roberta", transformers.RobertaConfig, "bpe"),
    text_row("xlm-roberta", transformers.XLMRobertaConfig, "unigram", "token-classification"),
    text_row("camembert", transformers.CamembertConfig, "unigram", "fill-mask"),
    text_row("albert", transformers.AlbertConfig, "unigram", embedding_size=16),
    text_row("electra", transformers.ElectraConfig, embedding_size=16),
    text_row("distilbert", transformers.DistilBertConfig, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    text_row("mobilebert", transformers.MobileBertConfig, task="fill-mask", **_MOBILEBERT),
    text_row("deberta", transformers.DebertaConfig, "bpe", **_DEBERTA),
    text_row(
        "deberta-v2", transformers.DebertaV2Config, "unigram", position_buckets=8, norm_rel_ebd="layer_norm", **_DEBERTA
    ),
    text_row("mpnet", transformers.MPNetConfig, task="feature-extraction"),
    text_row("modernbert", transformers.ModernBertConfig, "bpe", "fill-mask", **_NEAR),
    text_row("squeezebert", transformers.SqueezeBertConfig, embedding_size=32),
    text_row("roformer", transformers.RoFormerConfig, task="token-classification", embedding_size=16),
    text_row("nystromformer", transformers.NystromformerConfig, "unigram"),
    text_row("convbert", transformers.ConvBertConfig, embedding_size=16),
    text_row("xlm-roberta-xl", transformers.XLMRobertaXLConfig, "unigram", "fill-mask"),
    text_row("roberta-prelayernorm", transformers.RobertaPreLayerNormConfig, "bpe"),
    text_row("ernie", transformers.ErnieConfig, task="fill-mask"),
    text_row("data2vec-text", transformers.Data2VecTextConfig, "bpe"),
    text_row("esm", transformers.EsmConfig, task="fill-mask", token_dropout=False, mask_token_id=4),
    text_row("xmod", transformers.XmodConfig, "unigram", "token-classification", **_XMOD),
    text_row("luke", transformers.LukeConfig, "bpe", "fill-mask", entity_vocab_size=10, entity_emb_size=16),
    text_row("eurobert", transformers.EuroBertConfig, "bpe", "fill-mask", num_key_value_heads=2, head_dim=8),
    text_row("bert-generation", transformers.BertGenerationConfig, "unigram", "feature-extraction"),
    text_row("jina_embeddings_v3", transformers.JinaEmbeddingsV3Config, "unigram", "feature-extraction"),
    text_row("nomic_bert", transformers.NomicBertConfig, task="fill-mask"),
    text_row("rembert", transformers.RemBertConfig, "unigram", **_REMBERT),
    text_row("megatron-bert", transformers.MegatronBertConfig, task="fill-mask"),
    text_row("ibert", transformers.IBertConfig, "bpe"),
    text_row("xlm", transformers.XLMConfig, "bpe", **_XLM),
    text_row("flaubert", transformers.FlaubertConfig, "bpe", **_XLM),
    text_row("longformer", transformers.LongformerConfig, "bpe", attention_window=8),
    text_row("longformer", transformers.LongformerConfig, "bpe", "token-classification", attention_window=[8, 16]),
    text_row("reformer", transformers.ReformerConfig, "unigram", **_REFORMER),
    text_row("reformer", transformers.ReformerConfig, "unigram", "question-answering", **_REFORMER),
    text_row("big_bird", transformers.BigBirdConfig, "unigram", block_size=16),
    text_row("xlnet", transformers.XLNetConfig, "unigram", **_XLNET),
    text_row("funnel", transformers.FunnelConfig, **_FUNNEL),
    Row(
        "splinter",
        "question-answering",
        _splinter,
        _INPUTS_OF["question-answering"],
        _OPTIONS["question-answering"],
        _span,
    ),
    _of_characters("canine", transformers.CanineConfig, transformers.CanineTokenizer, "text-classification", **_CANINE),
    _of_characters(
        "perceiver", transformers.PerceiverConfig, transformers.PerceiverTokenizer, "text-classification", **_PERCEIVER
    ),
    _of_characters(
        "perceiver", transformers.PerceiverConfig, transformers.PerceiverTokenizer, "fill-mask", **_PERCEIVER
    ),
)

"""Rewritten text architectures say what their models say, padding changes nothing, and the tasks beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.cell import model_of
from benchmarks.matrix.row import lively
from benchmarks.matrix.rows import ROWS
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import EncoderDecoderCache

from satchel_converters.capture import (
    canine,
    capture,
    funnel,
    load_model,
    longformer,
    modernbert,
    neighbours,
    reformer,
    xlm,
    xlnet,
)
from satchel_converters.capture.rewrite import rewritten
from satchel_converters.processors import _characters
from satchel_converters.source import find_source
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.tasks import task_class
from satchel_runtimes.tasks.characters import CharacterTokenizer
from satchel_runtimes.tasks.task import ModelFacts

PERCEIVER = transformers.PerceiverTokenizer(model_max_length=40)

# Other orders of the same sums in float32: 4e-6 of the largest value is seen, and a wrong mask shows as 1e-2 or more.
TOLERANCE = 2e-5

_SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 90,
}
_XLM = {"vocab_size": 100, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 90, "pad_token_id": 0}
_FUNNEL = {"vocab_size": 100, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 2, 1]}
_CANINE = {**_SMALL, "num_hash_buckets": 64, "local_transformer_stride": 16}
_XLNET = {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
_REFORMER = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "attention_head_size": 8,
    "is_decoder": False,
    "axial_pos_embds_dim": (12, 20),
    "axial_pos_shape": (9, 10),
    "max_position_embeddings": 90,
    "pad_token_id": 0,
    "attn_layers": ["local", "lsh"],
    "local_attn_chunk_length": 4,
    "lsh_attn_chunk_length": 8,
    "hash_seed": 3,
    "num_hashes": 2,
    "num_buckets": 4,
}
_CIRCLE = {
    **_REFORMER,
    "attn_layers": ["lsh", "local", "lsh"],
    "num_hashes": 1,
    "axial_pos_embds": False,
    "lsh_num_chunks_after": 1,
    "local_num_chunks_before": 2,
    "num_buckets": [4, 2],
}
_MOBILE = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
_LAYERS = ["full_attention", "sliding_attention"]
_MODERN = {"local_attention": 8, "layer_types": _LAYERS, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}

Rewrite = Callable[[torch.nn.Module], torch.nn.Module]


def by(forwards: dict[str, Callable[..., Any]]) -> Rewrite:
    return lambda model: rewritten(model, forwards)


def _without_sort(model: torch.nn.Module) -> torch.nn.Module:
    reformer.add_constants(model, 90)
    return rewritten(model, reformer.FORWARDS)


# Class, sizes, and what rewrites it. The two of Longformer differ in whether a token is attended to globally.
REWRITES: dict[str, tuple[str, str, Mapping[str, Any], Rewrite]] = {
    "longformer classifier": ("Longformer", "SequenceClassification", {"attention_window": 8}, by(longformer.FORWARDS)),
    "longformer tagger": ("Longformer", "TokenClassification", {"attention_window": [8, 16]}, by(longformer.FORWARDS)),
    "funnel classifier": ("Funnel", "SequenceClassification", _FUNNEL, by(funnel.FORWARDS)),
    "funnel tagger": ("Funnel", "TokenClassification", _FUNNEL, by(funnel.FORWARDS)),
    "canine classifier": ("Canine", "SequenceClassification", _CANINE, by(canine.FORWARDS)),
    "canine tagger": ("Canine", "TokenClassification", _CANINE, by(canine.FORWARDS)),
    "xlnet classifier": ("XLNet", "SequenceClassification", _XLNET, by(xlnet.FORWARDS)),
    "reformer classifier": ("Reformer", "SequenceClassification", _REFORMER, _without_sort),
    "reformer with a circle of chunks": ("Reformer", "MaskedLM", _CIRCLE, _without_sort),
    "reformer that looks back": ("Reformer", "SequenceClassification", _REFORMER | {"is_decoder": True}, _without_sort),
    "xlm classifier": ("XLM", "SequenceClassification", _XLM, by(xlm.FORWARDS)),
    "flaubert classifier": ("Flaubert", "SequenceClassification", _XLM, by(xlm.FORWARDS)),
    "modernbert tagger": ("ModernBert", "TokenClassification", _MODERN, modernbert.with_masks),
    "mobilebert tagger": ("MobileBert", "TokenClassification", _MOBILE, neighbours.without_padding),
    "convbert tagger": ("ConvBert", "TokenClassification", {"embedding_size": 16}, neighbours.without_padding),
    "nystromformer tagger": ("Nystromformer", "TokenClassification", {}, neighbours.without_padding),
}
_OWN_SIZES = ("Reformer", "Funnel", "Canine", "XLNet", "XLM", "Flaubert")


def pair_of(name: str) -> tuple[Any, torch.nn.Module]:
    kind, head, sizes, rewrite = REWRITES[name]
    config = getattr(transformers, f"{kind}Config")(**({} if kind in _OWN_SIZES else _SMALL), **sizes)
    head = {"XLNet": "XLNetFor", "XLM": "XLMFor"}.get(kind, f"{kind}For") + head
    model = lively(getattr(transformers, head)(config))
    return model, rewrite(model)


def text_of(length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(length)[None] * 37 % 83 + 7
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_is_the_model_that_it_stands_for(name: str) -> None:
    model, made = pair_of(name)

    with torch.no_grad():
        errors = [error(model(**text_of(n)).logits, made(**text_of(n)).logits) for n in (5, 6, 7, 8, 9, 17, 40)]

    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("name", REWRITES)
def test_a_padded_text_gets_the_answer_that_it_gets_alone(name: str) -> None:
    model, made = pair_of(name)
    errors = []

    with torch.no_grad():
        for length in (5, 8, 9, 17, 30):
            text = text_of(length)
            padded = {key: torch.nn.functional.pad(value, (0, 41 - length)) for key, value in text.items()}
            found = made(**padded).logits
            found = found[:, :length] if found.dim() == 3 else found
            errors.append(error(model(**text).logits, found))

    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("name", ["hash_seed", "num_buckets"])
def test_a_reformer_whose_answers_are_chance_is_refused(name: str, tmp_path: Path) -> None:
    model = model_of(next(row for row in ROWS if row.architecture == "reformer"), tmp_path)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps({**config, name: None}), "utf-8")

    with pytest.raises(SupportError, match=f"set {name} in config.json"):
        capture(load_model(find_source(model), "text-classification"))


def test_flaubert_with_norms_before_is_what_transformers_means_it_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers 5.23 asks its cache for one layer's part, which that class no longer gives.
    monkeypatch.setattr(EncoderDecoderCache, "__getitem__", lambda self, _: self, raising=False)
    model = lively(transformers.FlaubertForSequenceClassification(transformers.FlaubertConfig(**_XLM, pre_norm=True)))

    with torch.no_grad():
        expected, found = model(**text_of(9)).logits, rewritten(model, xlm.FORWARDS)(**text_of(9)).logits

    assert error(expected, found) < TOLERANCE


def test_funnel_and_canine_answer_texts_that_are_too_short_for_transformers() -> None:
    for name, length in (("funnel classifier", 3), ("canine classifier", 2)):
        model, made = pair_of(name)

        with pytest.raises(RuntimeError):
            model(**text_of(length))
        assert torch.isfinite(made(**text_of(length)).logits).all()


@pytest.mark.parametrize("kind", ["Canine", "Perceiver"])
@pytest.mark.parametrize("text", ["", "ok", "Zoë  😀\n[MASK] x[SEP]", "電車は来ます。 " * 20])
def test_characters_and_bytes_are_those_of_transformers(kind: str, text: str) -> None:
    theirs = getattr(transformers, f"{kind}Tokenizer")(model_max_length=40)
    options = {**_characters(theirs), "max_length": 40, "truncation": "longest_first", "side": "right"}
    ours = CharacterTokenizer(options, truncate=True)

    alone, pair = theirs(text, truncation=True), theirs(text, "and a pair", truncation=True)

    assert ours.encode(text).ids == alone["input_ids"]
    assert ours.encode(text, "and a pair").ids == pair["input_ids"]
    assert ours.encode(text, "and a pair").type_ids == pair.get("token_type_ids", [0] * len(pair["input_ids"]))


@given(ids=st.lists(st.integers(0, 261), max_size=30), skip=st.booleans())
def test_bytes_are_decoded_as_transformers_does(ids: list[int], skip: bool) -> None:
    options = {**_characters(PERCEIVER), "max_length": 40, "truncation": "longest_first", "side": "right"}
    ours = CharacterTokenizer(options, truncate=True)

    assert ours.decode(ids, skip_special_tokens=skip) == PERCEIVER.decode(ids, skip_special_tokens=skip)


class _Same:
    """A graph whose logits are the length of the text, and whose states are its ids."""

    def __init__(self) -> None:
        named = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = [SimpleNamespace(name=name, padding=0, shape=("batch", "sequence")) for name in named]
        self.outputs = [SimpleNamespace(name=name, shape=("batch",)) for name in ("logits", "last_hidden_state")]

    rows = 0

    def run(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.rows += len(tensors["input_ids"])
        lengths = tensors["attention_mask"].sum(1, keepdims=True).astype(np.float32)
        states = np.stack([tensors["input_ids"] % 7, tensors["input_ids"] % 5], 2).astype(np.float32)
        return {"logits": lengths, "last_hidden_state": states * tensors["attention_mask"][..., None]}


def task_of(name: str) -> Any:
    theirs = transformers.PerceiverTokenizer(model_max_length=40)
    kind = task_class(name)
    facts = ModelFacts(config={}, max_length=40, characters=_characters(theirs))
    return kind(kind.entry(facts), SimpleNamespace(path=Path("here"), read=lambda name: b""))


def test_multiple_choice_ranks_any_number_of_choices() -> None:
    task = task_of("multiple-choice")

    (found,) = task.run({"model": _Same()}, [{"text": "a", "choices": ["b", "bbb", "bb"]}], {})

    assert [each["label"] for each in found] == ["bbb", "bb", "b"]
    assert sum(each["score"] for each in found) == pytest.approx(1)


def test_what_comes_again_in_a_list_is_computed_once() -> None:
    task, graph = task_of("sentence-similarity"), _Same()
    asked = [{"source_sentence": each, "sentences": ["same", "other"]} for each in ("same", "new", "other", "same")]

    found = task.run({"model": graph}, asked, {})

    assert graph.rows == len({"same", "new", "other"})
    assert found == [task.run({"model": _Same()}, [each], {})[0] for each in asked]


def test_sentence_similarity_is_a_cosine_for_each_sentence() -> None:
    task = task_of("sentence-similarity")

    (found,) = task.run({"model": _Same()}, [{"source_sentence": "same", "sentences": ["same", "other"]}], {})

    assert found[0] == pytest.approx(1, abs=1e-6)
    assert -1 <= found[1] < 1


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("multiple-choice", "a text"),
        ("multiple-choice", {"text": "a", "choices": []}),
        ("multiple-choice", {"text": "a", "choices": "b"}),
        ("multiple-choice", {"text": 3, "choices": ["b"]}),
        ("sentence-similarity", {"source_sentence": "a", "sentences": []}),
        ("sentence-similarity", {"source_sentence": "a", "sentences": [1]}),
        ("sentence-similarity", ["a"]),
        ("sentence-similarity", {"source_sentence": "\ud800", "sentences": ["a"]}),
    ],
)
def test_what_is_no_question_is_refused_with_a_way_out(name: str, given: Any) -> None:
    task = task_of(name)

    with pytest.raises(UsageError):
        task.run({"model": _Same()}, [given], {})

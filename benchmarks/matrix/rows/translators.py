"""Translators with the tokenizers that transformers has in Python alone: SentencePiece, and a vocabulary that is not its own."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers

from ..row import CORPUS, Row, lively, save
from .writers import BART, TEXTS

__all__ = ["MARIAN_LANGUAGES", "ROWS", "m2m_100", "m2m_tokenizer", "marian", "marian_tokenizer", "spelling"]

MARIAN_LANGUAGES = (">>fra<<", ">>deu<<")


def spelling(folder: Path, name: str, kind: str, lines: Sequence[str], size: int, **settings: Any) -> list[str]:
    """Train a SentencePiece model, write it, and say its pieces."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=made,
        model_type=kind,
        vocab_size=size,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(made.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    return [model.id_to_piece(number) for number in range(model.get_piece_size())]


def marian_tokenizer(folder: Path) -> Any:  # Any: of transformers, without types
    """As those of opus-mt: one vocabulary for both languages, in which some pieces of a text are not."""
    source = spelling(folder, "source.spm", "unigram", CORPUS, 150)
    target = spelling(folder, "target.spm", "unigram", CORPUS[::-1], 120, character_coverage=0.98)
    rare = set(source[-12:])
    pieces = [each for each in dict.fromkeys((*target, *source, "ß", "日")) if each not in rare]
    names = dict.fromkeys(("</s>", "<unk>", *pieces, *MARIAN_LANGUAGES, "<pad>"))
    vocabulary = {name: number for number, name in enumerate(each for each in names if each != "<s>")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    return transformers.MarianTokenizer(*files, source_lang="eng", target_lang="mul", model_max_length=128)


def marian(folder: Path, *, seed: int = 4) -> None:
    reader = marian_tokenizer(folder)
    special = {"pad_token_id": reader.pad_token_id, "eos_token_id": 0, "forced_eos_token_id": 0, "bos_token_id": 0}
    special |= {"decoder_start_token_id": reader.pad_token_id, "bad_words_ids": [[reader.pad_token_id]]}
    config = transformers.MarianConfig(vocab_size=len(reader), **{**BART, **special})
    save(folder, lively(transformers.MarianMTModel(config), seed, 2.0), reader)


def m2m_tokenizer(folder: Path) -> Any:  # Any: as above
    """A vocabulary in another order than the pieces, and the languages behind it."""
    pieces = spelling(folder, "sentencepiece.bpe.model", "bpe", CORPUS, 200)
    known = [each for each in pieces if each not in ("<s>", "</s>", "<unk>")][:-6]
    names = ("<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys((*known[::-1], "ß")))
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}), "utf-8")
    files = [str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model")]
    plain = transformers.M2M100Tokenizer(*files)
    languages = list(plain.lang_token_to_id)  # special tokens, as the files of the checkpoints say
    return transformers.M2M100Tokenizer(*files, additional_special_tokens=languages, model_max_length=128)


def m2m_100(folder: Path, *, seed: int = 2) -> None:
    reader = m2m_tokenizer(folder)
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    size = max(reader.lang_code_to_id.values()) + 1 + reader.num_madeup_words
    config = transformers.M2M100Config(vocab_size=size, **{**BART, **special})
    save(folder, lively(transformers.M2M100ForConditionalGeneration(config), seed, 2.0), reader)


def _translates(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What `generate` writes about each text, as the last pipeline did it: the source is the tokenizer's, the target comes first."""
    settings = dict(options)
    source, target = settings.pop("src_lang", None), settings.pop("tgt_lang")
    reader = transformers.AutoTokenizer.from_pretrained(model)
    loaded: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(model).eval()
    named = "" if source else f">>{target}<< "  # Marian's is told in the text
    if source:
        reader.src_lang = source
        settings["forced_bos_token_id"] = reader.get_lang_id(target)
    found = []
    for text in inputs:
        with torch.inference_mode():
            (ids,) = loaded.generate(**reader(named + text, return_tensors="pt"), **settings)
        found.append({"translation_text": reader.decode(ids, skip_special_tokens=True)})
    return [*([each] for each in found), *found]


_BEAMS = {
    "max_new_tokens": 12,
    "num_beams": 2,
    "no_repeat_ngram_size": 1,
}  # random weights would say one thing again and again

ROWS: tuple[Row, ...] = (
    Row("marian, SentencePiece", "translation", marian, TEXTS, {"tgt_lang": "fra", **_BEAMS}, oracle=_translates),
    Row(
        "m2m_100, SentencePiece",
        "translation",
        m2m_100,
        TEXTS,
        {"src_lang": "de", "tgt_lang": "fr", **_BEAMS},
        oracle=_translates,
    ),
)

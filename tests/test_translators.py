"""Translators whose tokenizers are in Python, and languages by their codes: what the last pipeline of transformers wrote."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from benchmarks.matrix.row import lively, save, tokenizer
from benchmarks.matrix.rows import ROWS
from benchmarks.matrix.rows.translators import m2m_100, marian
from benchmarks.matrix.rows.writers import BART, TEXTS
from tests.test_rewriting import Kept

from satchel_converters import reference
from satchel_converters.capture import capture, load_model
from satchel_converters.source import find_source, tasks_for
from satchel_converters.stage import open_tasks
from satchel_runtimes import load
from satchel_runtimes.errors import ParityError, SupportError, UsageError
from satchel_runtimes.golden import GoldenItem
from satchel_runtimes.tasks.piece_tokenizer import PIECES_FILE

SETTINGS: Mapping[str, Any] = {"max_new_tokens": 12, "num_beams": 2, "no_repeat_ngram_size": 1}
ODD = ("  Ａ  ﬁ ½ 🙂 日本\u200b ", ">>x<< </s> ßß", "e\u0301e\u0301e\u0301 ......")


def kept(build: Callable[[Path], None], folder: Path) -> Kept:
    torch.manual_seed(0)
    build(folder)
    return Kept(folder)


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return kept(marian, tmp_path_factory.mktemp("translators") / "opus")


@pytest.fixture(scope="module")
def m2m(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return kept(m2m_100, tmp_path_factory.mktemp("translators") / "m2m")


class TestMarian:
    def test_translates_any_text_as_transformers_does(self, opus: Kept) -> None:
        for text in (*TEXTS, *ODD):
            found = opus.opened.predict(text, **SETTINGS)

            assert found == [{"translation_text": opus.expected(text, **SETTINGS)[0]}]

    def test_a_language_is_the_word_in_front_of_the_text(self, opus: Kept) -> None:
        wanted = {code: opus.expected(f">>{code}<< {TEXTS[1]}", **SETTINGS)[0] for code in ("fra", "deu")}

        for code, text in wanted.items():
            assert opus.opened.predict(TEXTS[1], tgt_lang=code, **SETTINGS) == [{"translation_text": text}]
            said = opus.opened.predict(f">>{code}<< {TEXTS[1]}", **SETTINGS)
            assert said == [{"translation_text": text}]
        assert wanted["fra"] != wanted["deu"]

    def test_a_language_that_it_does_not_know_is_refused_with_those_that_it_does(self, opus: Kept) -> None:
        with pytest.raises(UsageError, match=r"tgt_lang='tlh'(.|\n)*fra, deu"):
            opus.opened.predict(TEXTS[0], tgt_lang="tlh")
        with pytest.raises(UsageError, match=r"src_lang='fra'(.|\n)*among eng"):
            opus.opened.predict(TEXTS[0], src_lang="fra")

    def test_a_device_needs_no_package_to_read_texts(self, opus: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = opus.opened.predict(TEXTS[0], **SETTINGS)
        for name in ("tokenizers", "sentencepiece"):
            monkeypatch.setitem(sys.modules, name, None)

        assert load(opus.folder.with_suffix(".satchel"), threads=1).predict(TEXTS[0], **SETTINGS) == wanted

    def test_a_stream_says_what_predict_says(self, opus: Kept) -> None:
        settings = {**SETTINGS, "num_beams": 1}

        pieces = list(opus.opened.stream(TEXTS[1], **settings))

        assert "".join(pieces).strip() == opus.opened.predict(TEXTS[1], **settings)[0]["translation_text"]


class TestM2M:
    def test_the_source_is_marked_and_the_target_comes_first(self, m2m: Kept) -> None:
        found = {}
        for source, target in (("en", "fr"), ("de", "zu")):
            m2m.reader.src_lang = source
            first = m2m.reader.get_lang_id(target)
            for text in (TEXTS[1], ODD[0]):
                wanted = m2m.expected(text, forced_bos_token_id=first, **SETTINGS)
                found[source, text] = m2m.opened.predict(text, src_lang=source, tgt_lang=target, **SETTINGS)
                assert found[source, text] == [{"translation_text": wanted[0]}]
        assert found["en", TEXTS[1]] != found["de", TEXTS[1]]

    def test_english_is_the_source_where_none_is_named(self, m2m: Kept) -> None:
        named = m2m.opened.predict(TEXTS[0], src_lang="en", tgt_lang="fr", **SETTINGS)

        assert m2m.opened.predict(TEXTS[0], tgt_lang="fr", **SETTINGS) == named

    def test_it_must_be_told_into_which_language(self, m2m: Kept) -> None:
        with pytest.raises(UsageError, match=r"pass tgt_lang, one of af, am,(.|\n)*zu"):
            m2m.opened.predict(TEXTS[0], src_lang="en")

    def test_an_unknown_language_is_refused_with_those_that_there_are(self, m2m: Kept) -> None:
        for options in ({"tgt_lang": "fr_XX"}, {"src_lang": "fr_XX", "tgt_lang": "fr"}):
            with pytest.raises(UsageError, match=r"_lang='fr_XX'(.|\n)*af, am,"):
                m2m.opened.predict(TEXTS[0], **options)


def test_a_bundle_that_would_read_other_pieces_is_refused(opus: Kept, tmp_path: Path) -> None:
    """As one would whose table of characters were lost."""
    loaded = load_model(find_source(opus.folder), "translation")
    loaded.processors.save(tmp_path, {})
    entry = loaded.task.entry(loaded.facts())
    items = [GoldenItem("translation", text, {}) for text in (*TEXTS, *ODD)]
    reference._check_tokens(loaded, open_tasks((entry,), tmp_path), items)
    pieces = json.loads((tmp_path / PIECES_FILE).read_text("utf-8"))
    pieces["speller"]["table"] = ""
    (tmp_path / PIECES_FILE).write_text(json.dumps(pieces), "utf-8")

    with pytest.raises(ParityError, match="other ids than transformers"):
        reference._check_tokens(loaded, open_tasks((entry,), tmp_path), items)


def test_xlm_fills_masks_and_is_not_asked_to_write(tmp_path: Path) -> None:
    next(row for row in ROWS if row.name == "xlm, Moses fill-mask").write(tmp_path)
    source = find_source(tmp_path)

    assert tasks_for(source, None)[0] == "fill-mask"
    with pytest.raises(SupportError, match="none of the layers of XLMWithLMHeadModel asks"):
        capture(load_model(source, "text-generation"))


def mbart(kind: str, folder: Path) -> None:
    """Languages are special tokens: MBart's behind the text, those of MBart-50 in front of it."""
    made = tokenizer("unigram").backend_tokenizer
    vocabulary = [(name, score) for name, score in json.loads(made.to_str())["model"]["vocab"]]
    cls = getattr(transformers, kind)
    reader = cls(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE", model_max_length=128)
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = transformers.MBartConfig(vocab_size=len(reader), **{**BART, **special})
    save(folder, lively(transformers.MBartForConditionalGeneration(config), 0, 2.0), reader)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MBartTokenizer", "MBart50Tokenizer"])
def test_mbart_is_told_its_languages(kind: str, tmp_path: Path) -> None:
    model = kept(functools.partial(mbart, kind), tmp_path / "model")
    for source, target in (("en_XX", "de_DE"), ("fr_XX", "ro_RO")):
        model.reader.src_lang = source
        first = model.reader.convert_tokens_to_ids(target)
        for text in TEXTS:
            wanted = model.expected(text, forced_bos_token_id=first, **SETTINGS)
            found = model.opened.predict(text, src_lang=source, tgt_lang=target, **SETTINGS)
            assert found == [{"translation_text": wanted[0]}]
    named = model.opened.predict(TEXTS[0], src_lang="en_XX", tgt_lang="de_DE", **SETTINGS)
    assert model.opened.predict(TEXTS[0], **SETTINGS) == named
    with pytest.raises(UsageError, match="en_XX"):
        model.opened.predict(TEXTS[0], tgt_lang="en")

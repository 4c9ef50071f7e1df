"""Tokenizers that transformers has in Python alone: a bundle's gives the same ids and the same texts, whatever a text holds."""

from __future__ import annotations

import base64
import functools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from benchmarks.matrix.row import CORPUS
from benchmarks.matrix.rows.moses import flaubert_tokenizer, xlm_tokenizer
from benchmarks.matrix.rows.translators import m2m_tokenizer, marian_tokenizer, spelling
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2

from satchel_converters.processors import load_processors
from satchel_converters.source import find_source
from satchel_converters.tokenizer_build import _speller, pieces_of
from satchel_runtimes.errors import SupportError, ToolchainError
from satchel_runtimes.tasks.piece_tokenizer import PieceTokenizer
from satchel_runtimes.tasks.sentence_pieces import Speller
from satchel_runtimes.tasks.text import Tokens

# Parts of texts on which tokenizers part ways: ties, runs of spaces and of what is unknown, signs that a table puts for others, several
# characters that are one, special tokens and what only looks like them.
PARTS = (
    *("a", "aa", "b", "ab", "-", ".", "...", "The", "model", "order", "Where is", "number 12", "Zug", "musée"),
    *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u2581", "\u2581\u2581", "\ufffd"),
    *("é", "e\u0301", "\u0301", "A\u0301\u0323", "Å", "ﬁ", "½", "²", "Ａ", "ｶﾞ", "한국", "\u1112\u1161\u11ab", "ß", "ßß", "日", "日本"),
    *("🙂", "👩\u200d👩\u200d👧", "\u0000", "\u0007", "\x7f", "\u202e", "İ", "ΑΣ"),
    *("don't", "it's", "U.S.", "Mr. X", "No. 5", "No. a", "p. 3", "art. 5", "l'eau", "M.", "1,000", "1,a", ",", "'", "''", '"', "``"),
    *("(", ")", "« ", " »", "“", "’", "—", "…", "，", "。 ", "．", "５", " %", " :", "nº\u00a0", "DOTMULTI", "$5", "€", "A/B", "a-b", ".'"),
    *("<unk>", "</s>", "<s>", "<pad>", "<mask>", " <mask> ", ">>fra<<", ">>deu<<", ">>x<<", ">>", "<<", "__en__", "__fr__", "__", "<lang:fr>"),
)  # fmt: skip


def hostile(seed: int, most: int = 25) -> str:
    draw = random.Random(seed)
    other = ((0x20, 0x300), (0x300, 0xD7FF), (0xE000, 0x1FFFF))
    return "".join(
        draw.choice(PARTS) if draw.random() < 0.85 else chr(draw.randint(*draw.choice(other)))
        for _ in range(draw.randint(0, most))
    )


TEXTS = st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=20).map("".join)


def speech_tokenizer(folder: Path) -> Any:  # Any: classes of transformers, without types
    """SpeechT5's: characters, and two tokens that were added."""
    spelling(folder, "spm_char.model", "char", CORPUS, 80)
    made = transformers.SpeechT5Tokenizer(vocab_file=str(folder / "spm_char.model"))
    made.add_tokens([transformers.AddedToken("<mask>", lstrip=True), "<ctc_blank>"])
    return made


def listening_tokenizer(folder: Path) -> Any:
    """Speech2Text's: languages are pieces, and texts are written in capitals."""
    languages = [f"<lang:{each}>" for each in ("pt", "fr", "ru", "nl", "ro", "it", "es", "de")]
    pieces = spelling(folder, "sentencepiece.bpe.model", "unigram", CORPUS, 150, user_defined_symbols=languages)
    names = dict.fromkeys(("<s>", "<pad>", "</s>", "<unk>", *pieces[3:-5]))
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}), "utf-8")
    files = [str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model")]
    return transformers.Speech2TextTokenizer(*files, lang_codes="mustc", tgt_lang="fr", do_upper_case=True)


def parted_tokenizer(folder: Path) -> Any:
    """Marian's, with a vocabulary for each language."""
    both = marian_tokenizer(folder)
    names = ("<pad>", "</s>", "<unk>", *sorted(each for each in both.encoder if len(each) < 3))
    (folder / "target_vocab.json").write_text(
        json.dumps({name: number for number, name in enumerate(dict.fromkeys(names))})
    )
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json", "target_vocab.json")]
    return transformers.MarianTokenizer(*files, separate_vocabs=True)


MADE: dict[str, Callable[[Path], Any]] = {
    "marian": marian_tokenizer,
    "marian of two vocabularies": parted_tokenizer,
    "m2m_100": m2m_tokenizer,
    "speecht5": speech_tokenizer,
    "speech_to_text": listening_tokenizer,
    "xlm": xlm_tokenizer,
    "flaubert": functools.partial(flaubert_tokenizer, do_lowercase=True),
}


class Both:
    """A tokenizer of transformers and what a bundle makes of it."""

    def __init__(self, theirs: Any, folder: Path) -> None:
        theirs.save_pretrained(folder)
        self.theirs = type(theirs).from_pretrained(folder)
        self.spec = json.loads(json.dumps(pieces_of(self.theirs)))

    def ours(self, length: int = 0) -> PieceTokenizer:
        cut = {"max_length": length, "truncation": "longest_first", "side": "right"}
        return PieceTokenizer(self.spec, cut, truncate=length > 0)


@pytest.fixture(scope="module", params=MADE)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("pieces")
    return Both(MADE[request.param](folder), folder)


def test_ids_are_those_of_transformers_on_two_thousand_hostile_texts(both: Both) -> None:
    ours, unknown = both.ours(), 0

    for seed in range(2000):
        text = hostile(seed)
        ids = ours.encode(text).ids
        assert ids == both.theirs(text)["input_ids"], repr(text)
        unknown += both.theirs.unk_token_id in ids

    assert 1000 < unknown < 2000  # texts with what the vocabulary lacks, and without


@settings(max_examples=40, deadline=None)
@given(text=TEXTS, other=TEXTS)
def test_so_they_are_on_any_text(both: Both, text: str, other: str) -> None:
    assert both.ours().encode(text).ids == both.theirs(text)["input_ids"]
    assert both.ours().encode(text, other).ids == both.theirs(text, other)["input_ids"]
    plain = both.theirs(text, add_special_tokens=False)["input_ids"]
    assert both.ours().encode(text, add_special_tokens=False).ids == plain
    cut = both.theirs(text, truncation=True, max_length=9)["input_ids"]
    assert both.ours(9).encode(text).ids == cut


@pytest.mark.parametrize("skip", [True, False])
def test_texts_of_ids_are_those_of_transformers(both: Both, skip: bool) -> None:
    ours, draw = both.ours(), random.Random(0)
    known = [int(number) for number in both.spec["tokens"]]

    for seed in range(500):
        ids = ours.encode(hostile(seed)).ids if seed % 2 else draw.choices(known, k=12)
        ids = [each for each in ids if each in known]  # of two vocabularies one has numbers that the other lacks
        wanted = both.theirs.decode(ids, skip_special_tokens=skip)
        assert ours.decode(ids, skip_special_tokens=skip) == wanted, ids


KINDS = ("unigram", "bpe", "char")
SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "spaces kept": {"remove_extra_whitespaces": False},
    "no space in front": {"add_dummy_prefix": False},
    "the space behind": {"treat_whitespace_as_suffix": True},
    "bytes": {"byte_fallback": True},
    "own symbols": {"user_defined_symbols": ["aa", "...", "\u2581\u2581", "日本"], "control_symbols": ["<x>"]},
    "no table": {"normalization_rule_name": "identity"},
}


@pytest.mark.parametrize("own", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_those_of_sentencepiece(kind: str, own: str, tmp_path: Path) -> None:
    room = 300 if own == "bytes" else 0
    spelling(tmp_path, "model", kind, CORPUS, 150 + room, **SETTINGS[own])
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model"))
    ours = Speller(json.loads(json.dumps(_speller(theirs))))

    for seed in range(150):
        text = hostile(seed)
        pieces = ours.pieces(text)
        assert pieces == theirs.encode(text, out_type=str), repr(text)
        mixed = [
            *pieces[:4],
            "\u2581zz\u2581",
            "<x>",
            "<unk>",
            "<s>",
            "<0xE6>",
            "<0x97>",
            "<0xA5>",
            "<0xE6>",
            *pieces[4:],
        ]
        assert ours.text(mixed) == theirs.decode(mixed), mixed


def with_ties(folder: Path, **types: int) -> Any:
    """A model in which pieces can be put together in several ways that are equally good."""
    spelling(folder, "model", "unigram", CORPUS, 150)
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "model").read_bytes())
    there = {each.piece for each in model.pieces}
    for number, name in enumerate(("aa", "aaa", "ab", "aba", "--", "---", "..", "...", "ba")):
        if name not in there:
            model.pieces.add(piece=name, score=-6.1 - number / 7, type=types.get("kind", 1))
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def tied(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(("a", "aa", "b", "-", ".", "...")) for _ in range(draw.randint(1, 30)))


def test_of_pieces_that_are_equally_good_the_same_are_taken_which_tokenizers_does_not_do(tmp_path: Path) -> None:
    theirs = with_ties(tmp_path)
    spec = _speller(theirs)
    ours = Speller(spec)
    scores = [(theirs.id_to_piece(number), theirs.get_score(number)) for number in range(theirs.get_piece_size())]
    other = tokenizers.models.Unigram(scores, unk_id=0)

    differ = 0
    for seed in range(500):
        text = tied(seed)
        wanted = theirs.encode(text, out_type=str)
        assert ours.pieces(text) == wanted
        differ += [each.value for each in other.tokenize(f"\u2581{text}")] != wanted

    assert differ > 25  # the reason for a tokenizer of our own


@pytest.mark.parametrize("kind", [4, 5], ids=["always taken", "not used"])
def test_pieces_of_other_types_are_treated_as_sentencepiece_does(kind: int, tmp_path: Path) -> None:
    theirs = with_ties(tmp_path, kind=kind)
    ours = Speller(_speller(theirs))

    for seed in range(300):
        assert ours.pieces(tied(seed)) == theirs.encode(tied(seed), out_type=str)


def test_a_lost_table_shows(tmp_path: Path) -> None:
    """The comparison above would see it."""
    spelling(tmp_path, "model", "unigram", CORPUS, 150)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "model"))
    spec = _speller(theirs)
    assert len(base64.b64decode(spec["table"])) > 100_000

    spec["table"] = ""

    assert Speller(spec).pieces("ﬁ Ａ") != theirs.encode("ﬁ Ａ", out_type=str)


def test_a_lone_surrogate_is_no_text(both: Both) -> None:
    with pytest.raises(UnicodeEncodeError):
        both.ours().encode("a\ud800")


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "changed", "why"),
        [
            ("marian", {"sp_model_kwargs": {"enable_sampling": True}}, "by chance"),
            ("speecht5", {"normalize": True}, "numbers out in words"),
            ("speecht5", {"legacy": False}, "SentencePiece's own way"),
            ("m2m_100", {"split_special_tokens": True}, "cuts special tokens"),
        ],
    )
    def test_a_setting_that_cannot_be_carried(
        self, name: str, changed: dict[str, Any], why: str, tmp_path: Path
    ) -> None:
        made = MADE[name](tmp_path)
        made.save_pretrained(tmp_path)

        with pytest.raises(SupportError, match=why):
            pieces_of(type(made).from_pretrained(tmp_path, **changed))

    def test_a_word_of_its_own(self, tmp_path: Path) -> None:
        made = speech_tokenizer(tmp_path)
        made.add_tokens([transformers.AddedToken("cat", single_word=True)])

        with pytest.raises(SupportError, match="single_word"):
            pieces_of(made)

    def test_a_model_of_whole_words(self, tmp_path: Path) -> None:
        spelling(tmp_path, "spm_char.model", "word", CORPUS, 60)
        made = transformers.SpeechT5Tokenizer(vocab_file=str(tmp_path / "spm_char.model"))

        with pytest.raises(SupportError, match="model_type is 3"):
            pieces_of(made)

    def test_a_package_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        xlm_tokenizer(tmp_path)
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm", "architectures": ["XLMModel"]}), "utf-8")
        monkeypatch.setitem(sys.modules, "sacremoses", None)

        with pytest.raises(ToolchainError, match="sacremoses"):
            load_processors(find_source(tmp_path), ["tokenizer"])

    def test_places_in_a_text_that_nobody_knows(self, tmp_path: Path) -> None:
        made = Both(xlm_tokenizer(tmp_path), tmp_path)

        with pytest.raises(SupportError, match="does not say where"):
            Tokens.of(made.ours().encode("a text"))  # type: ignore[arg-type]  # as tasks do with either

    def test_a_class_that_nobody_knows(self, tmp_path: Path) -> None:
        assert pieces_of(transformers.ByT5Tokenizer()) is None
        transformers.ByT5Tokenizer().save_pretrained(tmp_path)
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
        config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 8}
        (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")

        with pytest.raises(SupportError, match="ByT5Tokenizer is in Python"):
            load_processors(find_source(tmp_path), ["tokenizer"])

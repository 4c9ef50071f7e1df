"""Texts from an encoder and a decoder: translations, summaries and transcripts are those that transformers writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from benchmarks.matrix.rows.writers import WRITERS, translator, writer

import satchel
from satchel_converters.capture import attention, capture, load_model
from satchel_converters.source import find_source, tasks_for
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.tasks.task import ModelFacts

QUICK = ("bart", "t5")  # absolute and relative positions
TEXTS = ("Where is my order?", "A small model that answers quickly is often better than a large one.", "No.")


def converted(model: Path, **options: Any) -> Predictor:
    out = model.with_suffix(".satchel")
    satchel.convert(model, device="generic-x86-64", quantize="fp32", prefer="size", out=out, **options)
    return load(out, threads=1, trust=True)


class Kept:
    """A checkpoint and its bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = converted(folder)
        auto = transformers.AutoModelForSeq2SeqLM
        self.model: Any = auto.from_pretrained(folder).eval()
        self.reader: Any = transformers.AutoTokenizer.from_pretrained(folder)

    def expected(self, text: str, **options: Any) -> list[str]:
        with torch.inference_mode():
            found = self.model.generate(**self.reader(text, return_tensors="pt"), **options)
        return [self.reader.decode(each, skip_special_tokens=True) for each in found]


@pytest.fixture(scope="module", params=QUICK)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("rewriters") / request.param
    torch.manual_seed(0)
    own = {"task_specific_params": {"summarization": {"prefix": "say: ", "min_length": 6}}}
    writer(request.param, folder, **own)
    return Kept(folder)


class TestTexts:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 20},
            {"max_new_tokens": 15, "num_beams": 3},
            {"max_new_tokens": 15, "num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.3},
            {"max_new_tokens": 12, "forced_bos_token_id": 9, "no_repeat_ngram_size": 2},
            {"max_new_tokens": 12, "encoder_no_repeat_ngram_size": 2, "repetition_penalty": 1.4},
            {"max_new_tokens": 12, "encoder_repetition_penalty": 1.5},
        ],
        ids=str,
    )
    def test_are_those_of_transformers(self, kept: Kept, options: Mapping[str, Any]) -> None:
        for text in TEXTS:
            found = kept.opened.predict(text, task="text2text-generation", **options)

            assert [each["generated_text"] for each in found] == kept.expected(text, **options)

    def test_of_a_list_are_those_of_its_inputs_alone(self, kept: Kept) -> None:
        options = {"task": "text2text-generation", "max_new_tokens": 15}

        together = kept.opened.predict(list(TEXTS), **options)

        assert together == [kept.opened.predict(text, **options)[0] for text in TEXTS]
        assert len({each["generated_text"] for each in together}) > 1

    def test_one_bundle_serves_every_task_of_its_head_with_the_settings_for_each(self, kept: Kept) -> None:
        plain = kept.opened.predict(TEXTS[0], task="translation", max_new_tokens=12)
        summary = kept.opened.predict(TEXTS[0], task="summarization", max_new_tokens=12)

        assert set(kept.opened.tasks) == {"text2text-generation", "summarization", "translation"}
        assert plain == [{"translation_text": kept.expected(TEXTS[0], max_new_tokens=12)[0]}]
        wanted = kept.expected("say: " + TEXTS[0], max_new_tokens=12, min_length=6)
        assert summary == [{"summary_text": wanted[0]}]

    def test_an_answer_may_be_begun(self, kept: Kept) -> None:
        begun = kept.reader("house", add_special_tokens=False)["input_ids"]
        start = kept.model.generation_config.decoder_start_token_id

        (found,) = kept.opened.predict(
            TEXTS[0], task="text2text-generation", decoder_input_ids=begun, max_new_tokens=10
        )

        theirs = kept.expected(TEXTS[0], decoder_input_ids=torch.tensor([[start, *begun]]), max_new_tokens=10)
        assert found["generated_text"] == theirs[0]

    def test_the_pieces_of_a_stream_are_the_answer(self, kept: Kept) -> None:
        options = {"task": "text2text-generation", "max_new_tokens": 20}

        pieces = list(kept.opened.stream(TEXTS[1], **options))

        assert "".join(pieces) == kept.opened.predict(TEXTS[1], **options)[0]["generated_text"]
        assert len(pieces) > 3

    def test_a_language_that_nobody_trained_is_refused(self, kept: Kept) -> None:
        with pytest.raises(UsageError, match="between the two that it was trained for"):
            kept.opened.predict(TEXTS[0], task="translation", tgt_lang="fr")

    def test_a_number_is_no_text(self, kept: Kept) -> None:
        with pytest.raises(UsageError, match="takes a string"):
            kept.opened.predict(3, task="summarization")


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("translators") / "nllb"
    torch.manual_seed(0)
    translator(folder)
    return Kept(folder)


class TestLanguages:
    def test_the_source_is_marked_and_the_target_comes_first(self, languages: Kept) -> None:
        reader = languages.reader
        for source, target in (("eng_Latn", "fra_Latn"), ("deu_Latn", "spa_Latn")):
            reader.src_lang = source
            wanted = languages.expected(
                TEXTS[1], forced_bos_token_id=reader.convert_tokens_to_ids(target), max_new_tokens=12
            )

            found = languages.opened.predict(TEXTS[1], src_lang=source, tgt_lang=target, max_new_tokens=12)

            assert found == [{"translation_text": wanted[0]}]

    def test_those_of_the_tokenizer_are_taken_where_none_is_named(self, languages: Kept) -> None:
        named = languages.opened.predict(TEXTS[0], src_lang="eng_Latn", tgt_lang="fra_Latn", max_new_tokens=8)

        assert languages.opened.predict(TEXTS[0], max_new_tokens=8) == named

    def test_an_unknown_one_is_refused_with_those_that_there_are(self, languages: Kept) -> None:
        with pytest.raises(UsageError, match=r"tgt_lang='klingon'(.|\n)*fra_Latn"):
            languages.opened.predict(TEXTS[0], tgt_lang="klingon")


def test_a_decoder_that_does_not_look_at_its_encoder_is_refused(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> torch.Tensor:
        return torch.zeros_like(query).transpose(1, 2)

    loaded = load_model(find_source(kept.folder), "translation")
    monkeypatch.setattr(attention, "across", blind)

    with pytest.raises(SupportError, match="answers otherwise by"):
        capture(loaded)


def test_a_checkpoint_that_does_not_say_how_a_text_starts_is_refused(tmp_path: Path) -> None:
    from satchel_runtimes.tasks.text2text_generation import TASK

    with pytest.raises(SupportError, match="decoder_start_token_id"):
        TASK.entry(ModelFacts({}, 64))


def test_the_task_of_a_checkpoint_is_told_by_its_class(tmp_path: Path) -> None:
    for name, task in (
        ("PegasusForConditionalGeneration", "summarization"),
        ("MarianMTModel", "translation"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
    ):
        config = {"architectures": [name], "is_encoder_decoder": True}
        source = SimpleNamespace(
            id=name, architecture=name, facts=ModelFacts(config, 64, ctc={}), model_type=json.dumps(name)
        )
        assert tasks_for(source, None)[0] == task  # type: ignore[arg-type]  # all that is read of one


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite", "torchscript"])
@pytest.mark.parametrize("model_type", sorted(WRITERS))
def test_every_architecture_writes_as_transformers_does(model_type: str, format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    writer(model_type, tmp_path / "model")
    opened = converted(tmp_path / "model", format=format)
    reader: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    for options in ({"max_new_tokens": 15}, {"max_new_tokens": 12, "num_beams": 3}):
        found = opened.predict(list(TEXTS), task="text2text-generation", **options)
        for text, each in zip(TEXTS, found, strict=True):
            with torch.inference_mode():
                theirs = model.generate(**reader(text, return_tensors="pt"), **options)[0]
            assert each["generated_text"] == reader.decode(theirs, skip_special_tokens=True)

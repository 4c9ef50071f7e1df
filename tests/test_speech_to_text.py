"""Speech2Text: sounds as its extractor sees them, and texts as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.rows.hearing import ROWS, speech_to_text

import satchel
from satchel_converters.capture import Loaded, capture, load_model
from satchel_converters.reference import torch_graphs
from satchel_converters.source import find_source
from satchel_converters.stage import open_tasks
from satchel_runtimes import load
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.tasks.task import ModelFacts
from satchel_runtimes.tasks.written_speech import WrittenSpeech

TASK = "automatic-speech-recognition"
SOUNDS = tuple(
    np.random.default_rng(seed).normal(size=length).astype(np.float32) * 0.1
    for seed, length in ((0, 9000), (1, 16000), (2, 640))
)


class Hearing:
    """A checkpoint, and the task over transformers' own model: all of the way but the export."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        speech_to_text(folder, several=True)
        self.loaded: Loaded = load_model(find_source(folder), TASK)
        self.components = capture(self.loaded)
        (folder / "saved").mkdir()
        assert "pieces.json" in self.loaded.processors.save(folder / "saved", {})
        self.task: Any = open_tasks([self.loaded.task.entry(self.loaded.facts())], folder / "saved")[TASK]
        self.graphs = torch_graphs(self.loaded, self.components)
        self.reader: Any = transformers.Speech2TextTokenizer.from_pretrained(folder)
        self.extractor: Any = transformers.Speech2TextFeatureExtractor.from_pretrained(folder)

    def predict(self, *sounds: np.ndarray, **options: Any) -> list[Any]:
        return self.task.run(self.graphs, sounds, self.task.check_options(options))

    def expected(self, samples: np.ndarray, **options: Any) -> str:
        given = self.extractor(samples, sampling_rate=16000, return_tensors="pt")
        model: Any = self.loaded.model
        with torch.inference_mode():
            return self.reader.decode(model.generate(**given, **options)[0], skip_special_tokens=True)


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Hearing:
    return Hearing(tmp_path_factory.mktemp("hearing") / "s2t")


def test_features_are_those_of_the_extractor(hearing: Hearing) -> None:
    for samples in SOUNDS:
        theirs = hearing.extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]

        ours = hearing.task.row_of(hearing.task.sound(samples)).tensors["input_features"]

        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert np.abs(theirs).max() > 0.9


def test_silence_has_no_features_where_transformers_has_nan(hearing: Hearing) -> None:
    silence = np.zeros(8000, np.float32)

    ours = hearing.task.row_of(hearing.task.sound(silence)).tensors["input_features"]

    assert np.abs(ours).max() < 1e-5  # float32's mean of equal numbers is not quite that number
    assert isinstance(hearing.predict(silence, max_new_tokens=5)[0]["text"], str)


@pytest.mark.parametrize("options", [{"max_new_tokens": 12}, {"max_new_tokens": 9, "num_beams": 3}], ids=str)
def test_texts_are_those_of_transformers(hearing: Hearing, options: dict[str, Any]) -> None:
    wanted = [hearing.expected(each, **options) for each in SOUNDS]

    assert [hearing.predict(each, **options)[0]["text"] for each in SOUNDS] == wanted
    assert len(set(wanted)) > 1


def test_the_language_that_is_asked_for_comes_first(hearing: Hearing) -> None:
    for language in ("de", "es"):
        code = hearing.reader.lang_code_to_id[language]
        wanted = hearing.expected(SOUNDS[0], max_new_tokens=12, forced_bos_token_id=code)

        (found,) = hearing.predict(SOUNDS[0], max_new_tokens=12, tgt_lang=language)

        assert found["text"] == wanted
        assert hearing.task.check_options({"tgt_lang": language})["config"].forced_bos_token_id == code


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tgt_lang": "tlh"}, "pt, fr, ru"),
        ({"return_timestamps": True}, "no such tokens"),
        ({"temperature": (0.0, 0.2)}, "a number above 0"),
    ],
)
def test_what_it_cannot_do_is_refused(hearing: Hearing, options: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        hearing.predict(SOUNDS[0], **options)


def test_a_sound_of_less_than_a_frame_is_refused(hearing: Hearing) -> None:
    with pytest.raises(UsageError, match="takes 400"):
        hearing.predict(np.zeros(399, np.float32))


def test_a_padded_sound_is_heard_as_it_is_alone(hearing: Hearing) -> None:
    """In transformers the second convolution hears what the first makes of padding."""
    encoder = hearing.components[0].module
    for frames in (33, 34, 35, 36):
        features = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(frames))
        mask = torch.ones(2, 50, dtype=torch.int64)
        features[1, frames:], mask[1, frames:] = 0, 0
        with torch.no_grad():
            both = encoder(input_features=features, attention_mask=mask)
            alone = encoder(input_features=features[1:, :frames], attention_mask=mask[1:, :frames])

        count = alone["cross_key_0"].shape[2]
        assert both["encoder_attention_mask"].sum(1).tolist() == [13, count]
        for name, value in alone.items():
            if name.startswith("cross"):
                torch.testing.assert_close(both[name][1:, :, :count], value, atol=1e-4, rtol=1e-4)
                assert value.abs().max() > 1


def test_an_extractor_that_adds_noise_is_refused() -> None:
    has = {
        "feature_extractor_type": "Speech2TextFeatureExtractor",
        "dither": 1.0,
        "sampling_rate": 16000,
        "feature_size": 80,
    }

    with pytest.raises(SupportError, match="noise by chance"):
        WrittenSpeech.entry(ModelFacts({}, 64, feature_extractor=has, generation={"decoder_start_token_id": 2}))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite", "torchscript"])
def test_a_bundle_hears_what_transformers_hears_alone_and_in_a_list(format: str, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.architecture == "speech_to_text")
    row.write(tmp_path / "model")
    out = tmp_path / "model.satchel"
    satchel.convert(tmp_path / "model", device="generic-x86-64", quantize="fp32", format=format, prefer="size", out=out)
    opened = load(out, threads=1, trust=True)
    assert row.oracle is not None

    found = opened.predict(list(row.inputs), **row.options)

    assert found == [opened.predict(each, **row.options) for each in row.inputs]
    assert found == row.oracle(tmp_path / "model", row.inputs, row.options)[: len(row.inputs)]
    assert json.loads((out / "bundle.json").read_text())["target"]["format"] == format

"""Sound: files and arrays as transformers' extractors see them, answers as its pipelines give them, and what is no sound."""

from __future__ import annotations

import json
import tracemalloc
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
import transformers
from benchmarks.matrix.agree import difference
from benchmarks.matrix.cell import measure
from benchmarks.matrix.row import Row
from benchmarks.matrix.rows.audio import ROWS

import satchel
from satchel_converters.capture import Loaded, capture, load_model
from satchel_converters.reference import torch_graphs
from satchel_converters.shapes import static_shapes, token_shapes
from satchel_converters.sounds import CALIBRATION_SOUNDS, SOUNDS, draw_sound, write_sounds
from satchel_converters.source import find_source, tasks_for
from satchel_converters.stage import open_tasks
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.manifest import TensorSpec
from satchel_runtimes.sound import open_sound, sound_of
from satchel_runtimes.tasks import Task, task_class
from satchel_runtimes.tasks.audio import AudioTask
from satchel_runtimes.tasks.task import ModelFacts

BY_NAME = {row.name: row for row in ROWS}
SPEECH = [name for name in BY_NAME if "classification" in name and "spectrogram" not in name]
WAVES = {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Small models of the matrix by the names of their rows, each built and loaded once."""
    folder, found = tmp_path_factory.mktemp("audio"), {}

    def of(name: str) -> Loaded:
        if name not in found:
            (folder / name).mkdir()
            BY_NAME[name].write(folder / name)
            found[name] = load_model(find_source(folder / name), BY_NAME[name].task)
        return found[name]

    return of


def _server(loaded: Loaded, folder: Path) -> tuple[AudioTask, Any]:
    """The task and the model itself behind it: all of the way but the export."""
    entry = loaded.task.entry(loaded.processors.facts())
    task = open_tasks([entry], folder)[loaded.task.name]
    assert isinstance(task, AudioTask)
    return task, torch_graphs(loaded, capture(loaded))


def _ask(loaded: Loaded, folder: Path, item: Any, **options: Any) -> Any:
    task, graphs = _server(loaded, folder)
    return task.run(graphs, [item], task.check_options(options))[0]


def _pipeline(loaded: Loaded) -> Any:
    return transformers.pipeline(loaded.task.name, model=loaded.model, **loaded.processors.by_name)


def _wave(seconds: float, number: int = 3000) -> np.ndarray:
    return (draw_sound(number, seconds)[0][:, 0] / 32768).astype(np.float32)


def _wav(path: Path, samples: np.ndarray, rate: int, width: int = 2) -> Path:
    """Whole numbers of `width` bytes, [samples] or [samples, channels]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def _float_wav(samples: np.ndarray, rate: int) -> bytes:
    body = samples.astype("<f4").tobytes()
    head = np.array([3, 1], "<u2").tobytes() + np.array([rate, rate * 4], "<u4").tobytes()
    head += np.array([4, 32], "<u2").tobytes()
    chunks = b"fmt " + np.uint32(16).tobytes() + head + b"LIST\x03\0\0\0abc\0"  # an odd chunk has a byte of padding
    chunks += b"data" + np.uint32(len(body)).tobytes() + body
    return b"RIFF" + np.uint32(4 + len(chunks)).tobytes() + b"WAVE" + chunks


class TestFiles:
    @pytest.mark.parametrize("width", [1, 2, 3, 4])
    def test_whole_numbers_of_every_size_are_the_same_sound(self, width: int, tmp_path: Path) -> None:
        sound = _wave(0.01)
        scaled = np.round(sound.astype(np.float64) * 2 ** (8 * width - 1)).astype("<i8")
        raw = scaled + 128 if width == 1 else scaled
        stored = np.ascontiguousarray(raw.astype("<i8").view("u1").reshape(-1, 8)[:, :width])

        found = open_sound(_wav(tmp_path / "a.wav", stored.ravel(), 16000, width))

        # Half a step of what was stored.
        np.testing.assert_allclose(found.samples(16000, 0, 160), sound, atol=0.51 / 2 ** (8 * width - 1) + 1e-7)

    def test_floats_and_chunks_that_are_not_samples_are_read_from_bytes(self) -> None:
        sound = _wave(0.01)

        np.testing.assert_array_equal(open_sound(_float_wav(sound, 16000)).samples(16000, 0, 160), sound)

    def test_channels_are_averaged(self, tmp_path: Path) -> None:
        sides = np.array([[1000, 3000], [-200, 600]], "<i2")

        found = open_sound(_wav(tmp_path / "a.wav", sides, 8000))

        np.testing.assert_allclose(found.samples(8000, 0, 2) * 32768, [2000, 200], atol=1e-3)

    def test_flac_is_read_with_soundfile(self, tmp_path: Path) -> None:
        soundfile = pytest.importorskip("soundfile")
        soundfile.write(tmp_path / "a.flac", _wave(0.1), 16000)

        found = open_sound(tmp_path / "a.flac")

        np.testing.assert_allclose(found.samples(16000, 0, 1600), _wave(0.1), atol=1e-4)  # 16 bits


class TestResampling:
    @pytest.mark.parametrize("old", [8000, 11025, 22050, 44100, 48000])
    def test_a_tone_stays_that_tone(self, old: int) -> None:
        times = np.arange(old) / old

        found = sound_of(np.sin(2 * np.pi * 440 * times), old).samples(16000, 0, 16000)

        expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
        # Away from the ends, where the filter sees the silence around; a window of six crossings ripples by some 1e-3.
        assert np.abs(found - expected)[400:-400].max() < 3e-3

    def test_what_the_lower_rate_cannot_hold_is_gone(self) -> None:
        high = np.sin(2 * np.pi * 10_000 * np.arange(44100) / 44100)

        found = sound_of(high, 44100).samples(16000, 0, 16000)

        assert np.abs(found)[400:-400].max() < 1e-2

    def test_pieces_are_those_of_the_whole(self) -> None:
        sound = sound_of(_wave(0.7), 44100)
        whole = sound.samples(16000, 0, sound.length_at(16000))

        pieces = [sound.samples(16000, start, start + 777) for start in range(0, len(whole), 777)]

        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)  # sums in another grouping


class TestFeatures:
    @pytest.mark.parametrize("number", range(10))
    def test_waves_are_the_extractors_bit_for_bit(self, number: int, tmp_path: Path) -> None:
        samples, rate = draw_sound(number)
        task = _task("audio-classification", transformers.Wav2Vec2FeatureExtractor(), WAVES)
        sound = task.sound(_wav(tmp_path / "a.wav", samples, rate))

        found = task.row_of(sound).tensors["input_values"]

        mono = sound.samples(16000, 0, sound.length_at(16000))
        theirs = transformers.Wav2Vec2FeatureExtractor()(mono, sampling_rate=16000, return_tensors="np")
        np.testing.assert_array_equal(found, theirs["input_values"][0])

    @pytest.mark.parametrize("seconds", [0.025, 0.1, 0.777, 3.0])
    @pytest.mark.parametrize("settings", [{}, {"num_mel_bins": 64, "max_length": 128, "do_normalize": False}])
    def test_log_mel_is_the_extractors(self, seconds: float, settings: Mapping[str, Any]) -> None:
        extractor = transformers.ASTFeatureExtractor(**settings)
        task = _task("audio-classification", extractor)

        found = task.row_of(sound_of(_wave(seconds), 16000)).tensors["input_values"]

        theirs = extractor(_wave(seconds), sampling_rate=16000, return_tensors="np")["input_values"][0]
        assert found.shape == theirs.shape
        np.testing.assert_allclose(found, theirs, atol=1e-5, rtol=1e-5)

    def test_an_extractor_that_is_not_known_is_refused_by_name(self) -> None:
        with pytest.raises(SupportError, match="SeamlessM4TFeatureExtractor"):
            _task("audio-classification", transformers.SeamlessM4TFeatureExtractor())


def _task(name: str, extractor: Any, config: Mapping[str, Any] | None = None) -> AudioTask:
    settings = json.loads(extractor.to_json_string())
    facts = ModelFacts({"id2label": {"0": "a", "1": "b"}, **(config or {})}, 0, feature_extractor=settings)
    task = open_tasks([task_class(name).entry(facts)], Path())[name]
    assert isinstance(task, AudioTask)
    return task


class TestPadding:
    @pytest.mark.parametrize("name", SPEECH)
    def test_a_padded_sound_is_answered_as_the_sound_alone(self, name: str, models: Any) -> None:
        loaded = models(name)
        component = capture(loaded)[0]
        sound = torch.from_numpy(_wave(0.5))

        for length in (2500, 5123, 6733):  # of odd and even frames: SEW joins two
            values, mask = torch.zeros(2, 8000), torch.zeros(2, 8000, dtype=torch.int64)
            values[0], mask[0] = sound, 1  # a neighbour without padding
            values[1, :length], mask[1, :length] = sound[:length], 1
            with torch.inference_mode():
                alone = loaded.model(sound[None, :length]).logits[0]
                padded = component.module(input_values=values, attention_mask=mask)["logits"][1]
            # float32 in another order of sums; transformers' own mask is wrong here by up to the whole answer.
            assert torch.abs(padded - alone).max() <= 1e-5 * alone.abs().max()

    def test_formats_without_dynamic_axes_have_lengths_in_seconds(self, models: Any) -> None:
        component = capture(models("wav2vec2 audio-classification"))[0]

        found = [shape["samples"] / 16000 for shape in static_shapes(component, (16, 32))]

        assert found == [1, 5, 15]

    def test_formats_whose_lengths_are_of_tokens_refuse_it(self, models: Any) -> None:
        with pytest.raises(SupportError, match="samples"):
            token_shapes(capture(models("wav2vec2 audio-classification"))[0], (16, 32))


class TestAnswers:
    def test_a_sound_is_classified_as_the_pipeline_does(self, models: Any, tmp_path: Path) -> None:
        loaded = models("wav2vec2 audio-classification")
        sound = _wave(0.4)

        for options in ({}, {"top_k": 2}, {"function_to_apply": "none", "top_k": 6}):
            ours, theirs = _ask(loaded, tmp_path, sound, **options), _pipeline(loaded)(sound, **options)
            assert not difference(ours, theirs)

    def test_a_file_an_array_and_a_mapping_are_the_same_sound(self, models: Any, tmp_path: Path) -> None:
        loaded = models("wav2vec2 audio-classification")
        samples, rate = draw_sound(3001, 0.3)
        path = _wav(tmp_path / "a.wav", samples, rate)
        array = open_sound(path).samples(rate, 0, len(samples))

        answers = [
            _ask(loaded, tmp_path, item)
            for item in (
                path,
                str(path),
                path.read_bytes(),
                {"raw": array, "sampling_rate": rate},
                {"array": array.astype(np.float64), "sampling_rate": rate},
                {"file": "a.wav"},
                np.stack([array, array]) if rate == 16000 else {"raw": np.stack([array] * 2), "sampling_rate": rate},
            )
        ]

        assert not any(difference(each, answers[0]) for each in answers[1:])

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"return_timestamps": "char"},
            {"return_timestamps": "word"},
            {"chunk_length_s": 0.5},
            {"chunk_length_s": 0.4, "stride_length_s": (0.1, 0.05), "return_timestamps": "word"},
            {"chunk_length_s": 0.31, "stride_length_s": 0, "return_timestamps": "char"},
        ],
    )
    @pytest.mark.parametrize("seconds", [0.3, 1.0, 1.37])
    def test_speech_is_written_as_the_pipeline_does(
        self, options: Mapping[str, Any], seconds: float, models: Any, tmp_path: Path
    ) -> None:
        loaded = models("wav2vec2 automatic-speech-recognition")
        sound = _wave(seconds)

        ours = _ask(loaded, tmp_path, sound, **options)

        assert ours["text"]
        assert ours == _pipeline(loaded)(sound, **options)

    def test_a_speech_model_is_not_taken_for_one_of_text(self, models: Any) -> None:
        assert tasks_for(models("hubert audio-classification").source, None) == ("audio-classification",)
        assert tasks_for(models("hubert automatic-speech-recognition").source, None) == (
            "automatic-speech-recognition",
        )


class TestLongSounds:
    def test_an_hour_is_written_in_the_memory_of_a_few_pieces(self, models: Any, tmp_path: Path) -> None:
        path = tmp_path / "hour.wav"
        hour = 3600 * 8000
        head = _wav(tmp_path / "head.wav", np.zeros(0, "<i2"), 8000).read_bytes()
        with path.open("wb") as file:  # most of it is a hole
            file.write(head[:40] + np.uint32(2 * hour).tobytes())
            file.truncate(44 + 2 * hour)
        task, _ = _server(models("wav2vec2 automatic-speech-recognition"), tmp_path)
        tracemalloc.start()

        found = task.run({"model": _Silence()}, [path], task.check_options({"chunk_length_s": 20}), 2)

        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == [{"text": ""}]
        assert peak < 40e6  # as floats alone the hour at 16 kHz is 230 MB

    def test_without_pieces_it_is_refused(self, models: Any, tmp_path: Path) -> None:
        task, _ = _server(models("wav2vec2 automatic-speech-recognition"), tmp_path)

        with pytest.raises(UsageError, match="chunk_length_s"):
            task.encode({"raw": np.zeros(16000 * 181, np.float32), "sampling_rate": 16000}, task.options)


class _Silence:
    """A graph that hears nothing, so that memory is the runtime's own."""

    inputs = tuple(TensorSpec(name, "float32", ("batch", "samples")) for name in ("input_values", "attention_mask"))
    outputs = (TensorSpec("logits", "float32", ("batch", "frames", 32)),)

    def run(self, tensors: Mapping[str, np.ndarray], state: object = None) -> dict[str, np.ndarray]:
        batch, samples = tensors["input_values"].shape
        logits = np.zeros((batch, samples // 320, 32), np.float32)
        logits[..., 0] = 5
        return {"logits": logits}


NAN = np.full(4000, 0.1, np.float32)
NAN[77] = np.nan


class TestBadInput:
    @pytest.mark.parametrize(
        ("item", "why"),
        [
            (b"", "it is empty"),
            (b"RIFF\x24\0\0\0WAVEfmt ", "header is not complete"),
            (_float_wav(np.zeros(0), 16000), "no samples"),
            (_float_wav(NAN, 16000), "sample 77 is NaN"),
            (NAN, "sample 77 is NaN"),
            ({"raw": NAN, "sampling_rate": 8000}, "sample 77 is NaN"),
            (np.zeros(399, np.float32), "takes 400"),
            (np.zeros((4000, 2), np.float32), r"\[channels, samples\]"),
            (np.zeros(4000, np.int16), "floats"),
            ({"raw": np.zeros(4000, np.float32)}, "sampling_rate"),
            ({"raw": np.zeros(4000, np.float32), "sampling_rate": 0}, "sampling rate is 0"),
            ({"raw": np.zeros(4000, np.float32), "sampling_rate": 16000.5}, "sampling rate is 16000.5"),
            ({"raw": np.zeros(400_000, np.float32), "sampling_rate": 44099}, "no common measure"),
            ("no-such.wav", "No such file"),
            (".", "is a directory"),
            ("https://example.org/a.wav", "a device reads files"),
            (17, "it takes a path"),
        ],
    )
    def test_what_is_no_sound_is_refused_with_a_way_out(self, item: Any, why: str) -> None:
        task = _task("audio-classification", transformers.Wav2Vec2FeatureExtractor(), WAVES)

        with pytest.raises(UsageError, match=f"(?i){why}"):
            task.encode(item, {})

    @pytest.mark.parametrize("options", [{"chunk_length_s": -1}, {"chunk_length_s": 1, "stride_length_s": 0.6}])
    def test_pieces_that_cannot_be_are_refused(self, options: Any, models: Any, tmp_path: Path) -> None:
        task, _ = _server(models("wav2vec2 automatic-speech-recognition"), tmp_path)

        with pytest.raises(UsageError, match="chunk_length_s"):
            task.encode(_wave(1.0), task.check_options(options))


class TestSeries:
    def _server(self, models: Any, tmp_path: Path) -> tuple[Task, Any]:
        loaded = models("patchtst time-series-forecasting")
        task = open_tasks([loaded.task.entry(loaded.processors.facts())], tmp_path)[loaded.task.name]
        return task, torch_graphs(loaded, capture(loaded))

    def test_the_last_steps_of_a_past_are_read(self, models: Any, tmp_path: Path) -> None:
        task, graphs = self._server(models, tmp_path)
        past = np.random.RandomState(0).randn(80, 3).astype(np.float32)

        long, cut = task.run(graphs, [past, {"values": past[-64:].tolist()}], {})

        assert long.shape == (12, 3)
        np.testing.assert_allclose(long, cut, rtol=1e-5)

    @pytest.mark.parametrize(
        ("past", "why"),
        [
            (np.zeros((63, 3)), "at least 64 steps of 3 channels"),
            (np.zeros((64, 2)), "at least 64 steps of 3 channels"),
            (np.full((64, 3), np.nan), "NaN"),
            ({"values": "no"}, "no array"),
            ({"values": [["a"] * 3] * 64}, "could not convert"),
        ],
    )
    def test_another_past_is_refused(self, past: Any, why: str, models: Any, tmp_path: Path) -> None:
        task, _ = self._server(models, tmp_path)

        with pytest.raises(UsageError, match=why):
            task.encode(past, {})


def test_transcripts_are_judged_by_their_word_errors(models: Any, tmp_path: Path) -> None:
    model = models("wav2vec2 automatic-speech-recognition").source.folder
    out = satchel.convert(
        model, device="generic-x86-64", quantize="fp32", prefer="size", out=tmp_path / "speech.satchel"
    )
    (tmp_path / "sounds").mkdir()
    write_sounds(["automatic-speech-recognition"], tmp_path / "sounds")
    files = sorted((tmp_path / "sounds").rglob("*.wav"))[:12]
    with satchel.load(out) as speech:
        said = [speech.predict(file)["text"] for file in files]
    right = [
        text if place % 3 else f"{text} and more" for place, text in enumerate(said)
    ]  # two words missing in each third
    rows = [{"audio": str(file), "text": text} for file, text in zip(files, right, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")

    found = satchel.evaluate(out, data=tmp_path / "rows.jsonl", reference=model, split="all").metrics[0]

    assert any(said)
    assert found.metric == "wer"
    assert found.value == pytest.approx(jiwer.wer(right, said), abs=1e-6)
    assert found.drop == 0


def test_the_built_in_sounds_are_small_and_alike_everywhere(tmp_path: Path) -> None:
    names = write_sounds(["audio-classification"], tmp_path)

    assert names == list(SOUNDS)
    assert sum((tmp_path / name).stat().st_size for name in names) < 1_000_000
    assert all((tmp_path / name).is_file() for name in CALIBRATION_SOUNDS)
    assert open_sound(tmp_path / SOUNDS[0]).length == 16000  # latency is measured on this one: a second
    assert write_sounds(["text-classification"], tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "tflite"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_every_row_answers_as_the_pipeline_in_every_format(row: Row, format: str, tmp_path: Path) -> None:
    cell = measure(row, format, tmp_path)

    assert cell.status == "ok", cell.why

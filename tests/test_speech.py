"""Models that speak: the sound is that of transformers under the same noise, and what would be heard is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from benchmarks.matrix.agree import difference
from benchmarks.matrix.rows.speakers import (
    SAID,
    VOICE,
    characters,
    letters,
    speecht5,
    speecht5_speech,
    vits,
    vits_speech,
    vocoder,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.conversions import append_node, damage, run

import satchel
from satchel import attempt
from satchel_benchmarks.comparison import table
from satchel_converters.capture import capture, load_model
from satchel_converters.letters import letters_of
from satchel_converters.source import find_source
from satchel_converters.tokenizer_build import pieces_of
from satchel_runtimes import Predictor, load
from satchel_runtimes.bench import bench
from satchel_runtimes.errors import IntegrityError, ParityError, SupportError, UsageError
from satchel_runtimes.parity import CLASSES, judge, record
from satchel_runtimes.sound import open_sound, write_wav
from satchel_runtimes.tasks import speaking
from satchel_runtimes.tasks.letters import LetterTokenizer
from satchel_runtimes.tasks.piece_tokenizer import PieceTokenizer
from satchel_runtimes.tasks.task import SOUND

DEVICE = "generic-x86-64"
SPOKEN = {"seed": 6, "speaker_embeddings": VOICE, "threshold": 0.9, "minlenratio": 0.5, "maxlenratio": 4.0}


def written(write: Callable[..., None], folder: Path, **own: Any) -> Path:
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        write(folder, **own)
    return folder


def converted(model: Path, **options: Any) -> Path:
    out = model.with_suffix(".satchel")
    common = {"device": DEVICE, "format": "onnx", "quantize": "fp32", "prefer": "size", "out": out, "replace": True}
    return satchel.convert(model, **{**common, **options})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speakers")


@pytest.fixture(scope="module")
def singing(place: Path) -> Path:
    """A VITS."""
    return written(vits, place / "vits")


@pytest.fixture(scope="module")
def spelling(place: Path) -> Path:
    """A SpeechT5 with its vocoder."""
    return written(speecht5, place / "speecht5")


@pytest.fixture(scope="module")
def at_once(singing: Path) -> Predictor:
    return load(converted(singing), threads=1)


@pytest.fixture(scope="module")
def by_frames(spelling: Path) -> Predictor:
    return load(converted(spelling), threads=1)


TEXT = st.text(st.sampled_from("kab KZé日本İß\n\t .?'-▁țţ<>unkpad") | st.characters(codec="utf-8"), max_size=40)


class TestLetters:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"language": "ron"},
            {"normalize": False},
            {"add_blank": False},
            {"normalize": False, "add_blank": False, "pad_token": "<pad>"},
        ],
    )
    def test_ids_are_those_of_transformers(self, options: dict[str, Any]) -> None:
        reader = letters(**options)
        ours = LetterTokenizer(letters_of(reader))

        @settings(max_examples=100, deadline=None)
        @given(TEXT)
        def check(text: str) -> None:
            assert ours.encode(text).ids == reader(text)["input_ids"]

        check()

    def test_a_capital_of_the_vocabulary_stays_one(self, tmp_path: Path) -> None:
        (tmp_path / "vocab.json").write_text(json.dumps({"_": 0, "A": 1, "a": 2, "ch": 3, "b": 4, " ": 5}))
        reader = transformers.VitsTokenizer(str(tmp_path / "vocab.json"), phonemize=False, pad_token="_")

        ours = LetterTokenizer(letters_of(reader))

        for text in ("AbaB chA", "CHch", "  b  "):
            assert ours.encode(text).ids == reader(text)["input_ids"]

    def test_texts_in_sounds_need_a_program_and_are_refused(self) -> None:
        with pytest.raises(SupportError, match="phonemizer"):
            letters_of(letters(phonemize=True))

    def test_other_letters_than_roman_ones_need_a_program(self) -> None:
        ours = LetterTokenizer(letters_of(letters(is_uroman=True)))

        assert ours.encode("abc").ids
        with pytest.raises(UsageError, match="uroman"):
            ours.encode("где")


class TestCharacters:
    def test_ids_are_those_of_transformers(self) -> None:
        reader = characters()
        spec = pieces_of(reader)
        assert spec is not None
        cut = {"max_length": 10, "truncation": "do_not_truncate", "side": "right"}
        ours = PieceTokenizer(spec, cut, truncate=False)

        @settings(max_examples=200, deadline=None)
        @given(TEXT | st.sampled_from(["a<mask> b", " <s>x", "<ctc_blank>", "e\u0301", "ﬁ½"]))
        def check(text: str) -> None:
            assert ours.encode(text).ids == reader(text)["input_ids"]

        check()

    def test_numbers_that_are_written_in_words_are_refused(self) -> None:
        with pytest.raises(SupportError, match="numbers"):
            pieces_of(characters(normalize=True))


class TestAtOnce:
    @pytest.mark.parametrize(
        "options",
        [{}, {"seed": 9, "speaking_rate": 0.7}, {"seed": 2, "noise_scale": 0.1, "noise_scale_duration": 1.2}],
    )
    def test_the_sound_is_that_of_transformers(
        self, at_once: Predictor, singing: Path, options: dict[str, Any]
    ) -> None:
        ours = [at_once.predict(each, **options) for each in SAID] + at_once.predict(list(SAID), **options)

        assert ours[0]["audio"].dtype == np.float32
        assert not difference(ours, vits_speech(singing, SAID, options))

    def test_a_seed_is_a_sound(self, at_once: Predictor) -> None:
        first, again, other = (at_once.predict(SAID[0], seed=seed)["audio"] for seed in (1, 1, 2))
        free = [at_once.predict(SAID[0], seed=None)["audio"] for _ in range(2)]

        assert np.array_equal(first, again)
        assert not np.array_equal(first, other[: len(first)])
        assert not np.array_equal(*(each[:500] for each in free))

    def test_a_long_text_in_pieces_is_the_same(self, at_once: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the frames that a piece hears on its sides make that so."""
        text = " ".join(SAID * 4)
        whole = at_once.predict(text)["audio"]
        monkeypatch.setattr(speaking, "_PIECE", 50)

        pieces = at_once.predict(text)["audio"]

        assert len(whole) > 4 * 50 * 32
        np.testing.assert_allclose(pieces, whole, atol=1e-5)
        task: Any = at_once.open_task("text-to-speech")
        monkeypatch.setitem(task.settings, "context", 1)
        assert np.abs(at_once.predict(text)["audio"] - whole).max() > 1e-3

    def test_letters_last_as_long_as_is_said(self, at_once: Predictor) -> None:
        count = len(letters()("no")["input_ids"])

        assert len(at_once.predict("no", durations=[2] * count)["audio"]) == 2 * count * 32
        for wrong in ([2], [-1] * count, [0.5] * count, ["a"] * count, [[1], [1, 2]], 3):
            with pytest.raises(UsageError, match="durations"):
                at_once.predict("no", durations=wrong)

    def test_both_names_of_the_task_are_known(self, at_once: Predictor) -> None:
        assert at_once.predict("no", task="text-to-audio")["sampling_rate"] == 16000

    def test_what_pads_a_fixed_size_is_not_heard(self, singing: Path) -> None:
        """LiteRT's graphs have fixed sizes. Each convolution of the vocoder hears what is beside it, padding too."""
        loaded = load_model(find_source(singing), "text-to-speech")
        for component in capture(loaded):
            assert component.fixed is not None
            whole = {name: each[:1] for name, each in component.fixed.example.items()}
            short = {name: each[:, :7] for name, each in whole.items() if name in component.example}
            marked = {name: each.clone() for name, each in whole.items()}
            for name, each in marked.items():
                each[:, 7:] *= 0 if "mask" in name else 1

            with torch.no_grad():
                alone = component.module(**short)
                padded, unmarked = component.fixed.module(**marked), component.fixed.module(**whole)

            for name, each in alone.items():
                torch.testing.assert_close(padded[name][:, : each.shape[1]], each, rtol=1e-5, atol=1e-6)
                assert float((unmarked[name][:, : each.shape[1]] - each).abs().max()) > 1e-3

    @pytest.mark.slow
    @pytest.mark.parametrize("format", ["onnx", "torchscript"])
    def test_several_speakers(self, place: Path, format: str) -> None:
        many = {"num_speakers": 3, "speaker_embedding_size": 8}
        model = written(vits, place / f"many-{format}", **many)
        opened = load(converted(model, format=format), threads=1, trust=True)
        options = {"speaker_id": 1, "seed": 5}

        ours = [opened.predict(each, **options) for each in SAID]

        assert not difference(ours, vits_speech(model, SAID, options)[: len(SAID)])
        with pytest.raises(UsageError, match="from 0 to 2"):
            opened.predict("no", speaker_id=3)


class TestByFrames:
    @pytest.mark.parametrize("options", [SPOKEN, {**SPOKEN, "seed": 1, "threshold": 0.2, "minlenratio": 1.0}])
    def test_the_sound_is_that_of_transformers(
        self, by_frames: Predictor, spelling: Path, options: dict[str, Any]
    ) -> None:
        ours = [by_frames.predict(each, **options) for each in SAID] + by_frames.predict(list(SAID), **options)

        assert not difference(ours, speecht5_speech(spelling, SAID, options))

    def test_the_cache_grows(self, by_frames: Predictor, spelling: Path) -> None:
        options = {**SPOKEN, "minlenratio": 15.0, "maxlenratio": 16.0}

        ours = by_frames.predict(SAID[1], **options)

        assert len(ours["audio"]) > 256 * 2 * 32
        assert not difference([ours], speecht5_speech(spelling, SAID[1:2], options)[:1])

    def test_a_voice_is_numbers_or_a_file(self, by_frames: Predictor, tmp_path: Path) -> None:
        np.save(tmp_path / "voice.npy", np.array([VOICE]))

        read = by_frames.predict("no", **{**SPOKEN, "speaker_embeddings": str(tmp_path / "voice.npy")})

        assert np.array_equal(read["audio"], by_frames.predict("no", **SPOKEN)["audio"])

    @pytest.mark.parametrize("voice", [[1.0, 2.0], [VOICE, VOICE], [float("nan")] * 20, "none.npy", [[1], [1, 2]]])
    def test_a_voice_of_another_shape_is_refused(self, by_frames: Predictor, voice: Any) -> None:
        with pytest.raises(UsageError, match="voice|speaker_embeddings"):
            by_frames.predict("no", speaker_embeddings=voice)

    def test_without_a_voice_nobody_speaks(self, by_frames: Predictor) -> None:
        with pytest.raises(UsageError, match="--speaker"):
            by_frames.predict("no")

    def test_a_speech_without_end_is_stopped(self, by_frames: Predictor) -> None:
        with pytest.raises(UsageError, match="Cannot end"):
            by_frames.predict(SAID[1], **{**SPOKEN, "minlenratio": 90.0, "maxlenratio": 100.0})

    def test_a_text_that_is_too_long_is_refused_and_not_cut(self, by_frames: Predictor) -> None:
        with pytest.raises(UsageError, match="holds 120"):
            by_frames.predict("a" * 130, **SPOKEN)


class TestBadTexts:
    @pytest.mark.parametrize(("text", "why"), [("", "empty"), (" \n", "empty"), ("日本語", "none of its letters")])
    def test_a_text_without_anything_to_say(
        self, at_once: Predictor, by_frames: Predictor, text: str, why: str
    ) -> None:
        for opened in (at_once, by_frames):
            with pytest.raises(UsageError, match=why):
                opened.predict(text)

    @pytest.mark.parametrize(
        "options",
        [
            {"seed": -1},
            {"seed": 0.5},
            {"speaking_rate": 0},
            {"speaking_rate": "fast"},
            {"noise_scale": float("nan")},
            {"speaker_id": 0},
            {"voice": 1},
        ],
    )
    def test_bad_options_are_refused_by_name(self, at_once: Predictor, options: dict[str, Any]) -> None:
        (name,) = options
        with pytest.raises(UsageError, match=name.replace("speaker_id", "speaker")):
            at_once.predict("no", **options)

    def test_what_is_no_text(self, at_once: Predictor) -> None:
        with pytest.raises(UsageError, match="takes a string"):
            at_once.predict([1])

    def test_a_sound_of_hours_is_refused(self, at_once: Predictor) -> None:
        with pytest.raises(UsageError, match="may take 600"):
            at_once.predict("no", speaking_rate=1e-6)


class TestParity:
    @pytest.mark.parametrize(
        ("part", "output"), [("vocoder", "waveform"), pytest.param("decoder", "frames", marks=pytest.mark.slow)]
    )
    def test_a_part_that_was_broken_is_refused(
        self, spelling: Path, by_frames: Predictor, part: str, output: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def quieter(model: onnx.ModelProto) -> None:
            if model.graph.output[0].name == output:
                append_node(model, "Mul", np.array(0.95, np.float32))

        damage(monkeypatch, quieter)

        with pytest.raises(ParityError):
            converted(spelling, out=spelling.with_name(f"broken-{part}.satchel"))

    def test_what_is_heard_is_judged_in_decibels(self) -> None:
        reference = np.random.RandomState(0).uniform(-60, 0, (40, 80)).astype(np.float32)
        other = np.random.RandomState(1).uniform(-60, 0, (40, 80)).astype(np.float32)
        records = [{"sound": record(SOUND, each)} for each in (reference, other)]

        def judged(scheme: str, wrong: float) -> Any:
            return judge(records, [{"sound": each + wrong} for each in (reference, other)], CLASSES[scheme])

        assert judged("fp32", 0.01).passed and not judged("fp32", 0.2).passed
        assert judged("int8", 0.9).passed and not judged("int8", 1.1).passed
        assert not judge(records, [{"sound": reference[:-1]}, {"sound": other}], CLASSES["int4"]).passed
        assert judged("int8", 0.9).figures["decibels_mean"] == pytest.approx(0.9, abs=1e-4)


class TestConversion:
    def test_a_model_of_spectrograms_needs_a_vocoder(self, spelling: Path, tmp_path: Path) -> None:
        mute = Path(shutil.copytree(spelling, tmp_path / "mute", ignore=shutil.ignore_patterns("vocoder")))

        with pytest.raises(UsageError, match="--vocoder"):
            converted(mute)

    def test_a_vocoder_must_be_one_and_fit(self, spelling: Path, singing: Path, tmp_path: Path) -> None:
        wide = written(vocoder, tmp_path / "wide", model_in_dim=24)
        pickled = Path(shutil.copytree(wide, tmp_path / "pickled"))
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")

        with pytest.raises(UsageError, match="16 bands, the vocoder takes 24"):
            converted(spelling, vocoder=wide)
        with pytest.raises(UsageError, match="VitsModel"):
            converted(spelling, vocoder=singing)
        with pytest.raises(IntegrityError, match="pytorch_model.bin"):
            converted(spelling, vocoder=pickled)

    @pytest.mark.parametrize("option", ["vocoder", "speaker"])
    def test_a_model_that_needs_none_refuses_it(self, singing: Path, option: str) -> None:
        with pytest.raises(UsageError, match="takes none"):
            converted(singing, **{option: singing})

    def test_a_speaker_of_another_size_is_refused(self, spelling: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "voice.npy", np.ones(512))
        with pytest.raises(UsageError, match="512"):
            converted(spelling, speaker=tmp_path / "voice.npy")

    @pytest.mark.slow
    def test_a_speaker_may_lie_in_the_bundle(self, spelling: Path, by_frames: Predictor, tmp_path: Path) -> None:
        np.save(tmp_path / "voice.npy", np.array(VOICE, np.float32))
        options = {name: each for name, each in SPOKEN.items() if name != "speaker_embeddings"}

        made = converted(spelling, speaker=tmp_path / "voice.npy", out=tmp_path / "voiced.satchel")

        with load(made, threads=1) as opened:
            assert np.array_equal(opened.predict("no", **options)["audio"], by_frames.predict("no", **SPOKEN)["audio"])

    @pytest.mark.parametrize(
        ("model", "format", "why"),
        [("spelling", "tflite", "reads the frames"), ("spelling", "neuron", "cache"), ("singing", "neuron", "frames")],
    )
    def test_formats_that_cannot_refuse_before_the_work(
        self, request: pytest.FixtureRequest, model: str, format: str, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempt, "stage_for", lambda *_, **__: pytest.fail("the long work was begun"))
        kit = {"kit": True, "prefer": "latency", "quantize": None, "device": "inf2"} if format == "neuron" else {}

        with pytest.raises(SupportError, match=why) as error:
            converted(request.getfixturevalue(model), format=format, **kit)

        assert error.value.exit_code == 14

    def test_bark_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bark", "architectures": ["BarkModel"]}))
        save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")

        with pytest.raises(SupportError, match="EnCodec") as error:
            converted(tmp_path)

        assert error.value.exit_code == 14

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("model", "format"),
        [("singing", "onnx"), ("spelling", "onnx"), ("singing", "torchscript"), ("spelling", "torchscript")]
        + [("singing", "tflite")],
    )
    def test_other_ways_to_the_same_sound(self, request: pytest.FixtureRequest, model: str, format: str) -> None:
        folder: Path = request.getfixturevalue(model)
        scheme = "int8-weights" if format == "onnx" else "fp32"
        out = folder.with_name(f"{model}-{format}.satchel")
        options = {} if model == "singing" else SPOKEN

        made = converted(folder, format=format, quantize=scheme, out=out, task="text-to-audio")

        with load(made, threads=1, trust=True) as opened:
            ours = [opened.predict(each, **options) for each in SAID]
        assert all(np.abs(each["audio"]).max() > 0.1 for each in ours)
        if scheme == "fp32":
            oracle = vits_speech if model == "singing" else speecht5_speech
            assert not difference(ours, oracle(folder, SAID, options)[: len(SAID)])


class TestCommand:
    def test_it_writes_wav_files(self, at_once: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        bundle = str(at_once.bundle.path)

        one = run("predict", bundle, SAID[0], "-o", "said.wav", "--json")
        two = run("predict", bundle, *SAID[:2])
        again = run("predict", bundle, SAID[2], "--json")

        answer = json.loads(one.stdout)
        spoken = at_once.predict(SAID[0])
        assert answer == {"path": "said.wav", "seconds": round(len(spoken["audio"]) / 16000, 3), "sampling_rate": 16000}
        sound = open_sound("said.wav")
        np.testing.assert_allclose(sound.samples(16000, 0, sound.length_at(16000)), spoken["audio"], atol=1e-4)
        assert "speech.wav" in two.stdout and "speech-2.wav" in two.stdout
        assert json.loads(again.stdout)["path"] == "speech-3.wav"

    def test_a_file_that_cannot_be_written(self, at_once: Predictor, tmp_path: Path) -> None:
        found = run("predict", str(at_once.bundle.path), "no", "-o", str(tmp_path / "none" / "said.wav"))

        assert found.returncode == 2
        assert "Cannot write" in found.stderr

    def test_loud_samples_are_cut(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "loud.wav", np.array([0.0, 2.0, -2.0], np.float32), 8000)

        sound = open_sound(str(tmp_path / "loud.wav"))

        np.testing.assert_allclose(sound.samples(8000, 0, 3), [0.0, 1.0, -1.0], atol=1e-4)

    def test_bench_says_how_long_a_second_of_sound_takes(self, at_once: Predictor) -> None:
        few: dict[str, Any] = {"max_seconds": 0.05, "max_runs": 10, "warmup": 0, "cold_starts": 0}

        (found,) = bench(at_once.bundle.path, lengths=(16, 48), **few)

        assert sorted(found.spoken_s) == sorted(found.latency)
        assert min(found.spoken_s.values()) > 0
        assert any("seconds for one of sound" in row[0] for row in table([found]))
        assert set(found.to_plain()["spoken_s"]) == {str(each) for each in found.latency}

"""A whisper and its bundle: what is heard, and when, is what transformers hears, and whatever comes in has an end."""

from __future__ import annotations

import dataclasses
import json
import runpy
import threading
import tracemalloc
import wave
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from benchmarks.matrix.rows.hearing import whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.conversions import run
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter
from transformers.models.whisper.tokenization_whisper import (
    LANGUAGES,
    TO_LANGUAGE_CODE,
    _combine_tokens_into_words,
)

import satchel
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.manifest import Step
from satchel_runtimes.sound import open_sound
from satchel_runtimes.tasks.marked_times import Marks, cut
from satchel_runtimes.tasks.spoken_languages import CODES, NAMES
from satchel_runtimes.tasks.spoken_words import QUERIES, _turns, token_times, words_of
from satchel_runtimes.tasks.task import ModelFacts
from satchel_runtimes.tasks.tried_again import packed
from satchel_runtimes.tasks.whisper import Whisper

RATE = 16000
PROMPT = [407, 50, 61, 72, 83]


def converted(model: Path, **options: Any) -> Predictor:
    out = model.with_suffix(".satchel")
    satchel.convert(model, device="generic-x86-64", quantize="fp32", prefer="size", out=out, **options)
    return load(out, threads=1, trust=True)


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Something like speech: tones that come and go."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * f * time) for f in random.uniform(100, 3000, 6))
    swell = np.abs(np.sin(2 * np.pi * random.uniform(0.3, 3) * time))
    return (tones * swell / 8 + random.normal(size=len(time)) * 0.01).astype(np.float32)


def write_wave(file: Path, samples: np.ndarray, times: int) -> None:
    """The same samples so many times, one after the other."""
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        for _ in range(times):
            out.writeframes((samples * 30000).clip(-32768, 32767).astype("<i2").tobytes())


class Hearing:
    """A whisper and its bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = converted(folder)
        self.model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
        self.reader: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self.extractor: Any = transformers.WhisperFeatureExtractor.from_pretrained(folder)

    def expected(self, samples: np.ndarray, **options: Any) -> Any:
        long = {"truncation": False, "padding": "longest"} if len(samples) > 30 * RATE else {}
        given = self.extractor(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, **long)
        with torch.inference_mode():
            return self.model.generate(**given, **options)


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Hearing:
    folder = tmp_path_factory.mktemp("hearers") / "whisper"
    torch.manual_seed(0)
    whisper(folder)
    return Hearing(folder)


def test_the_encoder_never_holds_the_scores_of_all_its_frames(hearing: Hearing) -> None:
    encoder = onnx.load(hearing.folder.with_suffix(".satchel") / "encoder.onnx")
    kinds = [node.op_type for node in encoder.graph.node]

    assert kinds.count("MultiHeadAttention") == hearing.model.config.encoder_layers
    assert "Softmax" not in kinds


class TestSpeech:
    def test_is_what_transformers_hears(self, hearing: Hearing) -> None:
        # Untrained, it would say when things are said where nobody asked; transformers then reads on from there.
        marks = [i for name, i in hearing.reader.get_vocab().items() if name.startswith("<|") and "." in name]
        assert len(marks) > 1500
        for seed, own in enumerate(({"language": "de"}, {"language": "en", "translate": True}, {})):
            samples = voice(1.5 + seed, seed)
            theirs = {"task": "translate"} if own.get("translate") else {}
            theirs |= {name: value for name, value in own.items() if name == "language"}
            ids = hearing.expected(samples, **theirs, suppress_tokens=marks)[0]
            wanted = hearing.reader.decode(ids, skip_special_tokens=True)

            assert hearing.opened.predict(samples, **own, suppress_tokens=marks)["text"] == wanted
            assert wanted

    @pytest.mark.parametrize("timed", [None, True, "word"])
    def test_says_in_which_language_as_the_pipeline_does(self, hearing: Hearing, timed: bool | str | None) -> None:
        pipe: Any = transformers.pipeline(
            "automatic-speech-recognition",
            model=hearing.model,
            tokenizer=hearing.reader,
            feature_extractor=hearing.extractor,
        )
        # Untrained, it would name languages in the middle of a text.
        named = [hearing.reader.convert_tokens_to_ids(f"<|{each}|>") for each in ("de", "en", "fr")]
        samples, options = voice(3.0, 1), {"max_new_tokens": 30, "suppress_tokens": named}
        theirs = pipe(
            {"raw": samples, "sampling_rate": RATE},
            return_language=True,
            return_timestamps=timed,
            generate_kwargs={"num_beams": 1, **options},
        )

        found = hearing.opened.predict(samples, return_language=True, return_timestamps=timed, **options)

        heard = {each["language"] for each in theirs["chunks"]}
        assert {each["language"] for each in found["chunks"]} == heard
        assert len(heard) == 1
        assert heard <= {"german", "english", "french"}
        assert set(found["chunks"][0]) == set(theirs["chunks"][0])

    def test_takes_a_language_by_its_name_too(self, hearing: Hearing) -> None:
        by_code, by_name = (hearing.opened.predict(voice(2.0), language=each) for each in ("de", "German"))

        assert by_code == by_name

    def test_of_a_list_is_that_of_each_alone(self, hearing: Hearing) -> None:
        sounds = [voice(seconds, int(seconds)) for seconds in (1.0, 4.0, 2.0)]

        together = hearing.opened.predict(sounds, language="en")

        assert together == [hearing.opened.predict(each, language="en") for each in sounds]

    @pytest.mark.parametrize("seconds", [3.0, 47.0, 75.0])
    def test_says_when_as_transformers_does_however_long_it_is(self, hearing: Hearing, seconds: float) -> None:
        samples = voice(seconds, 3)
        theirs = hearing.expected(samples, language="en", return_timestamps=True, return_segments=True)
        wanted = [
            (float(each["start"]), float(each["end"]), hearing.reader.decode(each["tokens"], skip_special_tokens=True))
            for each in theirs["segments"][0]
        ]

        found = hearing.opened.predict(samples, language="en", return_timestamps=True)["chunks"]

        assert [each["text"] for each in found] == [text for _, _, text in wanted]
        np.testing.assert_allclose([each["timestamp"] for each in found], [each[:2] for each in wanted], atol=1e-6)

    def test_a_long_sound_has_the_text_of_its_windows(self, hearing: Hearing) -> None:
        samples = voice(47.0, 3)

        timed = hearing.opened.predict(samples, language="en", return_timestamps=True)

        assert hearing.opened.predict(samples, language="en") == {"text": timed["text"]}

    @pytest.mark.parametrize("samples", [np.zeros(RATE, np.float32), np.zeros(RATE * 40, np.float32)])
    def test_silence_and_noise_come_to_an_end(self, hearing: Hearing, samples: np.ndarray) -> None:
        assert isinstance(hearing.opened.predict(samples)["text"], str)
        noise = np.random.default_rng(0).normal(size=len(samples)).astype(np.float32)
        assert isinstance(hearing.opened.predict(noise, return_timestamps=True)["text"], str)

    def test_what_it_cannot_do_is_refused(self, hearing: Hearing) -> None:
        for options, why in (
            ({"language": "tlh"}, "knows de, en, fr"),
            ({"return_timestamps": "char"}, "or each word"),
            ({"temperature": (0.0, -1)}, "a number from 0 up"),
            ({"temperature": ()}, "a number from 0 up"),
            ({"compression_ratio_threshold": "2"}, "it is a number"),
            ({"no_speech_threshold": 0.6}, "unlikely too"),
            ({"initial_prompt": "A", "prompt_ids": [1]}, "leave one out"),
            ({"initial_prompt": "A <|de|> B"}, "<|de|>"),
            ({"prompt_condition_type": "all-segments"}, "condition_on_prev_tokens=True"),
        ):
            with pytest.raises(UsageError, match=why):
                hearing.opened.predict(voice(1.0), **options)

    @pytest.mark.parametrize("seconds", [3.0, 47.0])
    def test_words_come_when_transformers_says(self, hearing: Hearing, seconds: float) -> None:
        samples = voice(seconds, 3)
        own: dict[str, Any] = {"language": "en", "return_timestamps": True}
        theirs = hearing.expected(samples, **own, return_token_timestamps=True, return_segments=True)
        wanted, last = [], 0.0
        for each in theirs["segments"][0]:
            times = each["token_timestamps"].tolist()
            spoken = [(i, t) for i, t in enumerate(each["tokens"].tolist()) if t < hearing.reader.eos_token_id]
            words, _, places = _combine_tokens_into_words(hearing.reader, [t for _, t in spoken], "english")
            begin = [last, *times[:-1]]
            wanted += [(word, begin[spoken[at[0]][0]], times[spoken[at[-1]][0]]) for word, at in zip(words, places)]
            last = times[-1] if times else last

        found = hearing.opened.predict(samples, language="en", return_timestamps="word")

        assert [each["text"] for each in found["chunks"]] == [word for word, _, _ in wanted]
        ours = np.array([each["timestamp"] for each in found["chunks"]])
        near = np.abs(ours - np.array([each[1:] for each in wanted])) < 0.021  # a frame, and its rounding
        # Untrained heads look everywhere alike, so that float32 decides between two ways now and then; trained ones do not.
        assert near.mean() > 0.9
        assert len(np.unique(ours)) >= 3
        assert found["text"] == hearing.opened.predict(samples, **own)["text"]

    def test_without_heads_that_look_at_what_is_said_there_are_no_words(self, hearing: Hearing) -> None:
        entry = hearing.opened.manifest.tasks[0]
        steps = [Step(each.step, {**each.options, "alignment": []}) for each in entry.postprocess]
        task: Any = Whisper(dataclasses.replace(entry, postprocess=tuple(steps)), hearing.opened.bundle)

        with pytest.raises(UsageError, match="no alignment_heads"):
            task.check_options({"return_timestamps": "word"})

    @pytest.mark.parametrize(
        "options",
        [
            {"condition_on_prev_tokens": True},
            {"prompt_ids": PROMPT},
            {"prompt_ids": PROMPT, "condition_on_prev_tokens": True},
            {"prompt_ids": PROMPT, "condition_on_prev_tokens": True, "prompt_condition_type": "all-segments"},
            {"temperature": 0.0, "logprob_threshold": -1.5, "no_speech_threshold": 0.0},
            {
                "temperature": (0.0, 0.4),
                "compression_ratio_threshold": 0.9,
                "top_k": 1,
                "condition_on_prev_tokens": True,
            },
            {"temperature": (0.0, 0.4), "logprob_threshold": -0.5, "top_k": 1, "condition_on_prev_tokens": True},
            {  # transformers lets each window be longer than the one before where only max_length is said
                "num_beams": 2,
                "max_new_tokens": 20,
                "temperature": 0.0,
                "logprob_threshold": -2.0,
                "no_speech_threshold": 0.0005,
            },
        ],
        ids=lambda options: ",".join(options),
    )
    def test_windows_know_of_each_other_what_they_do_in_transformers(
        self, hearing: Hearing, options: Mapping[str, Any]
    ) -> None:
        samples, own = voice(47.0, 3), {"language": "en", "return_timestamps": True}
        begun = {"prompt_ids": torch.tensor(options["prompt_ids"])} if "prompt_ids" in options else {}
        theirs = hearing.expected(samples, **own, **{**options, **begun}, return_segments=True)["segments"][0]
        wanted = [hearing.reader.decode(each["tokens"], skip_special_tokens=True) for each in theirs]

        found = hearing.opened.predict(samples, **own, **options)["chunks"]

        assert [each["text"] for each in found] == wanted
        assert wanted != [each["text"] for each in hearing.opened.predict(samples, **own)["chunks"]]

    @pytest.mark.parametrize("timed", [False, True])
    def test_a_prompt_stands_before_a_short_sound(self, hearing: Hearing, timed: bool) -> None:
        text = "The small model answers"
        # As above: untrained it would say when without being asked.
        marks = [i for name, i in hearing.reader.get_vocab().items() if name.startswith("<|") and "." in name]
        others = {} if timed else {"suppress_tokens": marks}
        ids = hearing.reader.get_prompt_ids(text, return_tensors="pt")
        theirs = hearing.expected(voice(2.0, 5), language="en", prompt_ids=ids, return_timestamps=timed, **others)[0]
        wanted = hearing.reader.decode(theirs, skip_special_tokens=True)
        options = {"language": "en", "return_timestamps": timed, **others}

        found = hearing.opened.predict(voice(2.0, 5), initial_prompt=text, **options)["text"]

        assert found == wanted
        assert found != hearing.opened.predict(voice(2.0, 5), **options)["text"]

    def test_what_repeats_itself_is_written_again_at_the_next_temperature(self, hearing: Hearing) -> None:
        marks = [i for name, i in hearing.reader.get_vocab().items() if name.startswith("<|") and "." in name]
        samples, options = voice(4.0, 2), {"language": "en", "seed": 3, "suppress_tokens": marks}
        greedy = hearing.opened.predict(samples, **options)["text"]
        heated = hearing.opened.predict(samples, temperature=1.0, **options)["text"]
        ids = hearing.expected(samples, language="en", suppress_tokens=marks)[0].tolist()
        ratio = packed(ids, hearing.model.config.vocab_size)

        tried = {
            limit: hearing.opened.predict(
                samples, temperature=(0.0, 1.0), compression_ratio_threshold=limit, **options
            )["text"]
            for limit in (ratio * 0.9, ratio * 1.1)
        }

        assert greedy != heated
        assert list(tried.values()) == [heated, greedy]

    def test_the_pieces_of_a_stream_are_the_text_however_long_the_sound_is(self, hearing: Hearing) -> None:
        for seconds, options in ((2.0, {}), (2.0, {"return_timestamps": True}), (47.0, {})):
            pieces = list(hearing.opened.stream(voice(seconds, 3), language="en", **options))

            assert "".join(pieces) == hearing.opened.predict(voice(seconds, 3), language="en", **options)["text"]
            assert len(pieces) > 1

    def test_a_stream_is_cancelled_between_windows(self, hearing: Hearing) -> None:
        stop, taken = threading.Event(), []

        for piece in hearing.opened.stream(voice(47.0, 3), language="en", cancel=stop):
            taken.append(piece)
            stop.set()

        assert len(taken) == 1

    @pytest.mark.parametrize("kind", ["silence", "noise", "music", "clipped", "one sample", "loud", "very quiet"])
    def test_whatever_it_is_it_comes_to_an_end(self, hearing: Hearing, kind: str) -> None:
        count = 31 * RATE
        time, random = np.arange(count) / RATE, np.random.default_rng(1)
        chord = sum(np.sin(2 * np.pi * f * time) for f in (220, 277.2, 329.6))
        sound = {
            "silence": np.zeros(count),
            "noise": random.normal(size=count),
            "music": chord * 0.2 * (1 + np.sign(np.sin(2 * np.pi * 2 * time))),
            "clipped": np.clip(50 * voice(31.0), -1, 1),
            "one sample": np.array([0.3]),
            "loud": random.normal(size=count) * 32768,
            "very quiet": random.normal(size=count) * 1e-30,
        }[kind].astype(np.float32)
        again = {"temperature": (0.0, 0.4, 1.0), "compression_ratio_threshold": 1.35, "seed": 1}
        sure = {"logprob_threshold": -1.0, "no_speech_threshold": 0.6}

        for options in ({}, {**again, **sure, "return_timestamps": "word", "condition_on_prev_tokens": True}):
            found = hearing.opened.predict(sound, language="en", **options)

            assert isinstance(found["text"], str)
            for chunk in found.get("chunks", ()):
                assert (
                    0 <= chunk["timestamp"][0] <= chunk["timestamp"][1] <= 31.02 + 29
                )  # windows may say more than they hold

    def test_what_words_need_is_answered_only_where_it_is_asked_for(self, hearing: Hearing) -> None:
        decoder = hearing.opened.graphs["decoder"]
        task: Any = hearing.opened.open_task("automatic-speech-recognition")
        (prompt,) = task.prompts(hearing.opened.graphs, [voice(1.0)], task.check_options({"language": "en"}))
        ids = np.array([prompt.ids])
        places = np.arange(ids.shape[1])[None]
        given = {"input_ids": ids, "position_ids": places, "logits_positions": places, **prompt.beside}
        state = decoder.new_state(1, 8)
        assert state is not None

        whole = decoder.run(given, state)
        state.wanted = {"logits"}
        part = decoder.run(given, state)
        for array in whole.values():  # memory that the engine may not write to any more
            array.setflags(write=False)
        kept = {name: array.copy() for name, array in whole.items()}
        decoder.run({**given, "input_ids": ids[:, ::-1]}, state)

        assert set(whole) > {"logits", QUERIES}
        assert set(part) == {"logits"}
        np.testing.assert_array_equal(part["logits"], whole["logits"])
        assert np.abs(whole[QUERIES]).max() > 0.1
        for name, array in kept.items():
            np.testing.assert_array_equal(whole[name], array)

    def test_the_command_shows_a_text_as_it_is_written(self, hearing: Hearing, tmp_path: Path) -> None:
        file = tmp_path / "voice.wav"
        write_wave(file, voice(2.0, 3), 1)

        done = run("predict", hearing.folder.with_suffix(".satchel"), file, "--stream", "--option", "language=en")
        pieces = run(
            "predict", hearing.folder.with_suffix(".satchel"), file, "--stream", "--option", "language=en", "--json"
        )

        text = hearing.opened.predict(str(file), language="en")["text"]
        assert done.stdout == text + "\n"
        assert "".join(map(json.loads, pieces.stdout.splitlines())) == text
        assert len(pieces.stdout.splitlines()) > 1

    def test_no_samples_are_no_sound(self, hearing: Hearing) -> None:
        with pytest.raises(UsageError, match="no samples"):
            hearing.opened.predict(np.zeros(0, np.float32))

    @settings(max_examples=6, deadline=None)
    @given(
        sound=st.one_of(
            arrays(np.float32, st.integers(1, 4000), elements=st.floats(-1e4, 1e4, width=32)),
            st.tuples(st.integers(0, 10), st.floats(0.001, 31)).map(lambda made: voice(made[1], made[0])),
        ),
        timed=st.sampled_from([None, True, "word"]),
        sure=st.booleans(),
    )
    def test_wild_sounds_have_texts_too(
        self, hearing: Hearing, sound: np.ndarray, timed: bool | str | None, sure: bool
    ) -> None:
        options: dict[str, Any] = {"temperature": (0.0, 0.5), "logprob_threshold": -2.0} if sure else {}

        found = hearing.opened.predict(sound, return_timestamps=timed, **options)

        assert isinstance(found["text"], str)

    @pytest.mark.slow
    def test_ten_minutes_take_no_more_memory_than_one(self, hearing: Hearing, tmp_path: Path) -> None:
        peaks = []
        for minutes in (1, 10):
            file = tmp_path / f"{minutes}.wav"
            write_wave(file, voice(60.0, 3), minutes)
            tracemalloc.start()
            hearing.opened.predict(str(file), language="en", max_new_tokens=4)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

        assert peaks[1] < 1.2 * peaks[0]  # the text itself grows; ten minutes of samples alone are 38 MB
        assert peaks[1] < 30e6

    def test_a_checkpoint_with_noise_in_its_features_is_refused(self) -> None:
        facts = ModelFacts({"is_encoder_decoder": True}, 64)
        has = {"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1, "sampling_rate": RATE}
        generation = {"decoder_start_token_id": 3}
        with pytest.raises(SupportError, match="noise by chance"):
            Whisper.entry(ModelFacts(facts.config, 64, feature_extractor=has, generation=generation))


MARKS = st.lists(st.integers(0, 29), max_size=10)  # 12 stands for "without timestamps", 13 to 29 are these
UNTIMED, END = 12, 9


@settings(max_examples=200, deadline=None)
@given(said=MARKS, seed=st.integers(0, 2**32 - 1), first=st.sampled_from([None, 3]), scale=st.floats(0.1, 5))
def test_timestamps_come_in_the_order_of_transformers(
    said: list[int], seed: int, first: int | None, scale: float
) -> None:
    scores = (np.random.default_rng(seed).normal(size=30) * scale).astype(np.float32)
    prompt = [1, 2]
    config = SimpleNamespace(
        no_timestamps_token_id=UNTIMED, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=first
    )
    theirs = transformers.WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt))  # type: ignore[arg-type]  # as it reads one
    wanted = theirs(torch.tensor([[*prompt, *said]]), torch.tensor(scores)[None])[0].numpy()

    found = Marks(UNTIMED, END, len(prompt), first)(np.array([*prompt, *said]), scores.copy())

    np.testing.assert_array_equal(found, wanted)


@settings(max_examples=300, deadline=None)
@given(said=MARKS.filter(bool), frames=st.integers(1, 3000))
def test_a_window_is_cut_where_transformers_cuts_it(said: list[int], frames: int) -> None:
    segments, moved = transformers.WhisperForConditionalGeneration._retrieve_segment(
        seek_sequence=torch.tensor(said),
        seek_outputs=[None],
        time_offset=torch.zeros(1, dtype=torch.float64),
        timestamp_begin=UNTIMED + 1,
        seek_num_frames=torch.tensor([frames]),
        time_precision=0.02,
        time_precision_features=0.01,
        input_stride=2,
        prev_idx=0,
        idx=0,
        return_token_timestamps=False,
        decoder_input_ids=torch.zeros(1, 3),
    )

    parts, ours = cut(said, UNTIMED + 1, frames)

    assert ours == int(moved)
    assert [part.ids for part in parts] == [each["tokens"].tolist() for each in segments]
    times = [(float(each["start"]), float(each["end"])) for each in segments]
    np.testing.assert_allclose([(part.start, part.end) for part in parts], times, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_way_through_time_is_that_of_transformers(sizes: tuple[int, int, int], seed: int) -> None:
    weights = np.random.default_rng(seed).random(sizes).astype(np.float32)
    theirs = torch.from_numpy(weights)[None]
    spread, mean = torch.std(theirs, dim=-2, keepdim=True, unbiased=False), torch.mean(theirs, dim=-2, keepdim=True)
    matrix = _median_filter((theirs - mean) / spread, 7).mean(dim=1)[0]
    tokens, frames = _dynamic_time_warping(-matrix.double().numpy())
    wanted = frames[np.pad(np.diff(tokens), (1, 0), constant_values=1).astype(bool)]

    np.testing.assert_array_equal(_turns(-matrix.double().numpy()), wanted)
    if sizes[1] != 2:  # of two tokens each is as far from their mean, and float32's last digit decides
        np.testing.assert_array_equal(token_times(weights, 7), wanted)


def test_languages_have_the_names_of_transformers() -> None:
    assert NAMES == LANGUAGES
    assert CODES == TO_LANGUAGE_CODE


PIECES = st.lists(
    st.sampled_from([*" '\"([{-.,!?:¿“”。、aé日本", " a", " word", " (", "n't", ".)", " -", "\ufffd"]), max_size=14
)


@settings(max_examples=300, deadline=None)
@given(pieces=PIECES, spaced=st.booleans())
def test_tokens_make_the_words_of_transformers(pieces: list[str], spaced: bool) -> None:
    def decoded(ids: Any, **others: Any) -> str:
        return "".join(pieces[i] for i in ids)

    reader = SimpleNamespace(decode=decoded, eos_token_id=10**6, language=None)
    ids = list(range(len(pieces)))
    words, _, places = _combine_tokens_into_words(reader, ids, "english" if spaced else "chinese")

    found = words_of(ids, decoded, spaced=spaced)

    assert [each.text for each in found] == words
    assert [(each.first, each.last) for each in found] == [(at[0], at[-1]) for at in places]


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, 51863), min_size=1, max_size=60), vocabulary=st.sampled_from([51864, 400, 65536]))
def test_tokens_pack_as_in_transformers(ids: list[int], vocabulary: int) -> None:
    ids = [each % vocabulary for each in ids]

    theirs = transformers.WhisperForConditionalGeneration._retrieve_compression_ratio(torch.tensor(ids), vocabulary)

    assert packed(ids, vocabulary) == theirs


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, Any, list[np.ndarray]]:
    """whisper-tiny.en from a bundle and in transformers' pipeline, and recorded prompts."""
    models = runpy.run_path(str(Path(__file__).resolve().parents[1] / "examples" / "real_models.py"))
    folder = models["whisper"]()
    out = tmp_path_factory.mktemp("real") / "whisper.satchel"
    satchel.convert(folder, device="generic-x86-64", quantize="fp32", prefer="size", out=out)
    pipe = transformers.pipeline("automatic-speech-recognition", model=str(folder), dtype=torch.float32)
    sounds = [open_sound(file) for file, _ in models["spoken"]()]
    return load(out, threads=1), pipe, [each.samples(RATE, 0, each.length_at(RATE)) for each in sounds]


@pytest.mark.slow
class TestRealSpeech:
    def expected(self, pipe: Any, samples: np.ndarray, timed: Any, **options: Any) -> Any:
        plain = {"num_beams": 1, "max_new_tokens": None, "max_length": 448}
        return pipe(
            {"raw": samples, "sampling_rate": RATE}, return_timestamps=timed, generate_kwargs={**plain, **options}
        )

    def test_words_and_their_times_are_those_of_the_pipeline(self, real: Any) -> None:
        opened, pipe, sounds = real
        for samples in [*sounds[::40], np.concatenate(sounds[:28])]:
            wanted = self.expected(pipe, samples, "word")

            found = opened.predict(samples, return_timestamps="word")

            assert found["text"] == wanted["text"]
            assert [each["text"] for each in found["chunks"]] == [each["text"] for each in wanted["chunks"]]
            times = [[each["timestamp"] for each in answer["chunks"]] for answer in (found, wanted)]
            np.testing.assert_allclose(times[0], times[1], atol=0.0201)  # a frame

    @pytest.mark.parametrize(
        "options",
        [
            {"condition_on_prev_tokens": True},
            {"temperature": 0.0, "logprob_threshold": -0.3, "no_speech_threshold": 0.1},
            {"initial_prompt": "Asterisk, PBX, voicemail: agent's number."},
        ],
        ids=lambda options: ",".join(options),
    )
    def test_long_sounds_have_the_texts_of_the_pipeline(self, real: Any, options: dict[str, Any]) -> None:
        opened, pipe, sounds = real
        samples, theirs = np.concatenate(sounds[:28]), dict(options)
        if "initial_prompt" in options:
            ids = pipe.tokenizer.get_prompt_ids(theirs.pop("initial_prompt"))
            theirs["prompt_ids"] = torch.from_numpy(ids)

        found = opened.predict(samples, return_timestamps=True, **options)["text"]

        assert found == self.expected(pipe, samples, True, **theirs)["text"]
        assert len(found) > 500

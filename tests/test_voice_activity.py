"""voice-activity-detection: segments of frames, in seconds, as the frames of the model in torch say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from benchmarks.matrix.agree import difference
from benchmarks.matrix.rows.audio import ROWS

from satchel_converters.capture import Loaded, capture, load_model
from satchel_converters.reference import torch_graphs
from satchel_converters.sounds import draw_sound
from satchel_converters.source import find_source, tasks_for
from satchel_converters.stage import open_tasks
from satchel_runtimes.errors import SupportError, UsageError
from satchel_runtimes.tasks import Row, task_class
from satchel_runtimes.tasks.audio import AudioTask
from satchel_runtimes.tasks.task import ModelFacts

LISTENERS = {row.architecture: row for row in ROWS if row.task == "voice-activity-detection"}
EXTRACTOR = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}
CONFIG: dict[str, Any] = {
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "id2label": {"0": "speech", "1": "music"},
}


def _task(**config: Any) -> AudioTask:
    entry = task_class("voice-activity-detection").entry(
        ModelFacts({**CONFIG, **config}, 0, feature_extractor=EXTRACTOR)
    )
    task = open_tasks([entry], Path())["voice-activity-detection"]
    assert isinstance(task, AudioTask)
    return task


def _segments(speech: str, music: str = "", **options: Any) -> Any:
    """Of frames written as digits: tenths of the probability."""
    task = _task()
    tracks = [[int(digit) / 10 for digit in each.ljust(len(speech), "0")] for each in (speech, music)]
    scores = {"probabilities": np.array(tracks, np.float32).T}
    return task.answer(None, [Row({}, 1)], [scores], task.check_options(options))


def _spans(found: Any) -> list[tuple[str, float, float]]:
    return [(each["label"], each["start"], each["end"]) for each in found]


def _loaded(architecture: str, folder: Path) -> Loaded:
    LISTENERS[architecture].write(folder)
    return load_model(find_source(folder), "voice-activity-detection")


def test_a_segment_is_a_run_of_likely_frames_with_their_mean() -> None:
    found = _segments("0079800000")

    assert _spans(found) == [("speech", 0.04, 0.1)]  # a frame is 320 samples at 16 kHz: 0.02 s
    assert found[0]["score"] == pytest.approx(0.8, abs=1e-6)  # float32


def test_segments_reach_both_ends_and_labels_may_overlap() -> None:
    found = _segments("9990099999", "0099000000")

    assert _spans(found) == [("speech", 0.0, 0.06), ("music", 0.04, 0.08), ("speech", 0.1, 0.2)]


@pytest.mark.parametrize("frames", ["0000000000", "5555555555"])
def test_without_a_frame_above_the_threshold_there_is_no_segment(frames: str) -> None:
    assert _segments(frames) == []


def test_a_gap_as_long_as_the_shortest_silence_stays() -> None:
    # 0.14 * 50 is a little more than 7 in floating point: the seven frames of the second gap are still 0.14 s.
    found = _segments("9900000099" + "0000000" + "9", min_silence_s=0.14)

    assert _spans(found) == [("speech", 0.0, 0.2), ("speech", 0.34, 0.36)]


def test_short_segments_are_left_out_after_gaps_are_filled() -> None:
    found = _segments("9090900000900", min_silence_s=0.04, min_duration_s=0.1)

    assert _spans(found) == [("speech", 0.0, 0.1)]


def test_a_higher_threshold_keeps_fewer_frames() -> None:
    assert _spans(_segments("0696000000", threshold=0.6 + 1e-6)) == [("speech", 0.04, 0.06)]


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"threshold": "high"},
        {"min_silence_s": -1},
        {"min_duration_s": True},
        {"min_duration_s": float("inf")},
    ],
)
def test_options_that_cannot_be_are_refused_before_the_model_runs(options: Any) -> None:
    task = _task()

    with pytest.raises(UsageError, match=next(iter(options))):
        task.encode(np.zeros(4000, np.float32), task.check_options(options))


def test_labels_exclude_each_other_where_the_config_says_so() -> None:
    logits = {"logits": np.array([[3.0, 1.0]], np.float32)}

    alone = _task().score(logits, Row({}, 1))["probabilities"]
    exclusive = _task(problem_type="single_label_classification").score(logits, Row({}, 1))["probabilities"]

    np.testing.assert_allclose(alone, 1 / (1 + np.exp([[-3.0, -1.0]])), rtol=1e-6)  # float32
    assert exclusive.sum() == pytest.approx(1, abs=1e-6)


def test_a_feature_extractor_that_is_not_served_is_refused() -> None:
    facts = ModelFacts(CONFIG, 0, feature_extractor={"feature_extractor_type": "SeamlessM4TFeatureExtractor"})

    with pytest.raises(SupportError, match="SeamlessM4T"):
        task_class("voice-activity-detection").entry(facts)


@pytest.mark.parametrize("architecture", ["wav2vec2", "wavlm"])
def test_segments_are_those_of_the_model_in_torch(architecture: str, tmp_path: Path) -> None:
    loaded = _loaded(architecture, tmp_path)
    entry = loaded.task.entry(loaded.processors.facts())
    task = open_tasks([entry], tmp_path)[loaded.task.name]
    graphs = torch_graphs(loaded, capture(loaded))
    oracle = LISTENERS[architecture].oracle
    assert oracle is not None

    for number, seconds in enumerate((0.3, 0.77)):
        sound = (draw_sound(3000 + number, seconds)[0][:, 0] / 32768).astype(np.float32)
        expected = oracle(tmp_path, [sound], {"threshold": 0.5})[0]

        (found,) = task.run(graphs, [sound], task.options)

        assert expected
        assert not difference(found, expected)


def test_the_task_is_found_by_the_name_of_the_head(tmp_path: Path) -> None:
    LISTENERS["wav2vec2"].write(tmp_path)

    assert tasks_for(find_source(tmp_path), None)[0] == "voice-activity-detection"


def test_transformers_has_no_pipeline_of_this_name() -> None:
    with pytest.raises(KeyError, match="voice-activity-detection"):
        transformers.pipelines.check_task("voice-activity-detection")

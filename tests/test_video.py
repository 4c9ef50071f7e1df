"""video-classification: frames in every form that a user has them, as transformers' pipeline answers for a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import transformers
from benchmarks.matrix.agree import difference
from benchmarks.matrix.rows.video import ROWS
from PIL import Image

import satchel
from satchel_converters.pictures import draw
from satchel_runtimes import Predictor, load
from satchel_runtimes.errors import SatchelError, UsageError

FRAMES = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video") / "timesformer"
    folder.mkdir()
    next(row for row in ROWS if row.architecture == "timesformer").write(folder)
    return folder


@pytest.fixture(scope="module")
def ours(model: Path) -> Predictor:
    out = satchel.convert(model, device="generic-x86-64", quantize="fp32", out=model.with_suffix(".satchel"))
    return load(out, threads=1)


@pytest.fixture(scope="module")
def theirs(model: Path) -> Any:
    steps = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    return transformers.pipeline("video-classification", model=str(model), image_processor=steps)


def clip(count: int, number: int = 4101, height: int = 80, width: int = 96) -> np.ndarray:
    picture = np.asarray(draw(number).convert("RGB").resize((width + 2 * count, height)))
    return np.stack([picture[:, 2 * place : 2 * place + width] for place in range(count)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Thirty frames as MPEG-4, whose encoder every build of FFmpeg has."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 80, 96, "yuv420p"
        for frame in clip(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"frame_sampling_rate": 3}, {"function_to_apply": "sigmoid"}])
def test_a_file_is_answered_as_the_pipeline_answers_it(
    ours: Predictor, theirs: Any, file: Path, options: dict[str, Any]
) -> None:
    assert difference(ours.predict(file, **options), theirs(str(file), **options)) == ""


def test_bytes_and_several_files_are_answered_alike(ours: Predictor, file: Path) -> None:
    alone = ours.predict(str(file))

    assert ours.predict(file.read_bytes()) == alone
    assert difference(ours.predict([str(file), file]), [alone, alone]) == ""


def test_frames_are_an_array_or_pictures(ours: Predictor) -> None:
    frames = clip(FRAMES)
    pictures = [Image.fromarray(each) for each in frames]

    found = ours.predict(frames)

    assert ours.predict(pictures) == found
    assert ours.predict(list(frames)) == found
    assert difference(ours.predict([frames, pictures]), [found, found]) == ""


def test_of_more_frames_as_many_as_the_model_takes_are_seen_evenly_spread(ours: Predictor) -> None:
    frames = clip(22)

    assert ours.predict(frames) == ours.predict(frames[[0, 3, 6, 9, 12, 15, 18, 21]])


def test_frames_of_another_order_are_another_video(ours: Predictor) -> None:
    frames = clip(FRAMES)

    assert difference(ours.predict(frames[::-1]), ours.predict(frames)) != ""


@pytest.mark.parametrize(
    ("video", "said"),
    [
        (clip(3), "it has 3 frames, and the model takes 8"),
        (clip(FRAMES).astype(np.float32), "uint8"),
        ([], None),
        ("missing.mp4", "No such file"),
        (b"no video at all", "Invalid data"),
        (7, "a list of pictures"),
    ],
)
def test_what_is_no_video_is_refused_in_words(ours: Predictor, video: Any, said: str | None) -> None:
    if said is None:
        assert ours.predict(video) == []
        return
    with pytest.raises(UsageError) as refused:
        ours.predict(video)

    assert said in str(refused.value)


def test_a_file_with_too_few_frames_names_how_many_it_would_need(ours: Predictor, file: Path) -> None:
    with pytest.raises(SatchelError, match="takes 8 of 71"):
        ours.predict(file, frame_sampling_rate=10)

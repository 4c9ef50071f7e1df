"""video-classification: what happens in a video."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from ..toolchain import need
from .image_classification import ImageClassification
from .task import Files, Input, ModelFacts, Row
from .text import whole_number

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TASK"]


class VideoClassification(ImageClassification):
    """`predict("clip.mp4")` is `[{"label", "score"}, …]`, best first; for a list of videos one such list per video.

    A video is a path or the bytes of a file, for which the extra "video" is needed, or its frames: a list of pictures, or a
    uint8 array [frames, height, width, 3]. Of a file the first frames are taken, one in `frame_sampling_rate`, as the
    pipeline does; of more frames than the model takes as many, evenly spread.

    Options as in the pipeline: `top_k`, `function_to_apply`, `frame_sampling_rate`.
    """

    name = "video-classification"
    options = {**ImageClassification.options, "frame_sampling_rate": 1}
    auto_model = "AutoModelForVideoClassification"
    architectures = ("ForVideoClassification",)
    other_steps = ("frames",)
    picture_kind = "a path, bytes, a list of pictures, or a uint8 array [frames, height, width, 3]"
    columns = {"video": ("video", "file", "path", "video_path", "file_name"), "label": ("label", "labels", "class")}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        self.frames: int = entry.option("frames", "count")

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        found = super().entry(facts)
        frames = Step("frames", {"count": int(facts.config["num_frames"])})
        return TaskEntry(cls.name, (frames, *found.preprocess), found.postprocess)

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        return {"pan": text}, {}

    @property
    def shape(self) -> str:
        return f"{self.frames} frames of {super().shape}"

    def is_single(self, inputs: Input) -> bool:
        """A list of pictures is one video; a list of paths, arrays of frames or lists is several."""
        if not isinstance(inputs, (list, tuple)) or not inputs:
            return not isinstance(inputs, (list, tuple))
        first = inputs[0]
        if isinstance(first, np.ndarray):
            return first.ndim < 4
        return not isinstance(first, (str, os.PathLike, bytes, bytearray, list, tuple, Mapping))

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        return [Row(self.tensors(self.seen(item, whole_number(options, "frame_sampling_rate"))), 1)]

    def tensors(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:  # type: ignore[override]  # what `seen` gives
        return {"pixel_values": np.stack([self.pixels(each) for each in pictures])}

    def seen(self, item: Input, every: int = 1) -> Sequence[Image.Image]:
        """The frames that the model sees, upright and in RGB.

        Raises:
            UsageError: it is no video, or one of too few frames.
        """
        if isinstance(item, Mapping) and set(item) == {"pan"}:  # a sample that travels in the bundle
            return self._panned(self.picture({"file": item["pan"]}))
        if isinstance(item, (str, os.PathLike, bytes, bytearray)):
            given, name = (io.BytesIO(item), "the bytes") if isinstance(item, (bytes, bytearray)) else (item, str(item))
            frames: Sequence[Any] = self._decoded(given, name, every)
        elif isinstance(item, np.ndarray) and item.ndim == 4:
            frames = list(item)
        elif isinstance(item, (list, tuple)):
            frames = item
        else:
            kind = f"{item.dtype} {list(item.shape)}" if isinstance(item, np.ndarray) else str(item)[:40]
            raise self._wrong(type(item).__name__, kind)
        if len(frames) < self.frames:
            raise UsageError(
                "Cannot classify the video.",
                why=f"it has {len(frames)} frames, and the model takes {self.frames}"
                + (f" of {every * (self.frames - 1) + 1}" if every > 1 else ""),
                fix="give a longer one",
            )
        return [self.picture(frames[i]) for i in _spread(len(frames), self.frames)]

    def _decoded(self, given: Any, name: str, every: int) -> list[np.ndarray]:  # Any: a path or a stream
        av = need("av", extra="video", to="read videos")
        wanted = set(_spread(self.frames * every, self.frames))
        found = []
        try:
            with av.open(given) as container:
                for place, frame in enumerate(container.decode(video=0)):
                    if place in wanted:
                        found.append(frame.to_ndarray(format="rgb24"))
                    if len(found) == len(wanted):
                        break
        except (OSError, ValueError, IndexError) as error:  # av's own errors are one of these, too
            raise UsageError(
                f"Cannot read the video {name[-80:]}.",
                why=str(getattr(error, "strerror", None) or error),
                fix="check the path, and that it is a whole video, for instance MP4",
            ) from None
        return found

    def _panned(self, picture: Image.Image) -> list[Image.Image]:
        """A view of half the width that goes from left to right."""
        half = max(picture.width // 2, 1)
        starts = np.linspace(0, picture.width - half, self.frames).astype(int).tolist()
        return [picture.crop((start, 0, start + half, picture.height)) for start in starts]


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` places, evenly from the first to the last, rounded down as the pipeline does."""
    places: list[int] = np.linspace(0, count - 1, num=wanted, dtype=np.int64).tolist()
    return places


TASK = VideoClassification

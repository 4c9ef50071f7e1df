"""image-text-to-text: a language model that sees answers about pictures, or talks about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np

from ..errors import SupportError, UsageError
from ..generation import Prompt
from ..manifest import Step, TaskEntry
from ..sessions import Session, Tensors
from .generative import OPTIONS
from .image import ImageTask, image_steps
from .image_steps import FILTERS, TILED, processor_kind
from .picture_writers import writes_apart
from .task import Files, Input, ModelFacts, Row, Task
from .text import tokenize_step
from .text_generation import TextGeneration, is_chat

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FEATURES", "TASK", "image_tokens"]

FEATURES = "image_features"  # of the decoder: what it reads in place of words, [batch, places, width]
_LONGEST = 4096  # pixels of a side, beyond which Idefics3's processor never goes


def image_tokens(steps: Sequence[Step]) -> Mapping[str, Any]:
    """The options of the step that says how a picture stands in a text."""
    return next(step.options for step in steps if step.step == "image_tokens")


class ImageTextToText(TextGeneration, ImageTask):
    """`predict({"image": "picture.jpg", "text": "What is it?"})` is `[{"input_text", "generated_text"}]`; `"images"` takes several.
    A text that has the model's own marks for pictures goes in as it is, any other becomes a user's message.

    A conversation, a list of `{"role", "content"}` whose contents are lists of `{"type": "image", "image": …}` and
    `{"type": "text", "text": …}`, comes back with the assistant's message behind it.

    Options: `return_full_text` (True), `tools`, and every setting of `GenerationConfig` by its name.
    """

    name = "image-text-to-text"
    modality = "image+text"
    text_kind = picture_kind = "{'image', 'text'}, or a conversation"
    options = {"return_full_text": True, "tools": None, **OPTIONS}
    component = "language_model"
    auto_model = "AutoModelForImageTextToText"
    architectures = ("ForConditionalGeneration", "IdeficsForVisionText2Text")
    processors = ("image_processor", "tokenizer")
    other_steps = ("tokenize", "image_tokens", "chat")
    columns = {
        "image": ("image", "file", "path", "picture", "image_path", "file_name"),
        "text": ("question", "text", "prompt"),
        "answer": ("answer", "answers", "label"),
    }
    optional = frozenset({"answer"})
    target = "answer"
    metrics = ("chrf",)
    shape, size = Task.shape, Task.size  # inputs have a length

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        ImageTask.__init__(self, entry, files)
        TextGeneration.__init__(self, entry, files)
        self._words = image_tokens(entry.preprocess)
        self._tiles = next((step.options for step in entry.preprocess if step.step == "tiles"), None)

    @classmethod
    def for_model(cls, config: Mapping[str, Any]) -> type[Task]:
        return _others().get(str(config.get("model_type")), cls)

    @classmethod
    def for_entry(cls, entry: TaskEntry) -> type[Task]:
        return _others().get(image_tokens(entry.preprocess).get("family", ""), cls)

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        kind = facts.config.get("model_type")
        return kind in _COUNTS and not (kind == "blip-2" and writes_apart(facts.config))

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        """Raises: SupportError for a family of models that is not known here."""
        config = facts.config
        kind = str(config.get("model_type"))
        if kind not in _COUNTS:
            raise SupportError(
                f"Cannot show pictures to a model of the type {kind}.",
                why=f"known are {', '.join(_COUNTS)}",
                fix="a family is one line in image_text_to_text.py, and one file in satchel_converters/capture/",
            )
        # Saved under either name.
        number = next(config[name] for name in ("image_token_id", "image_token_index") if config.get(name) is not None)
        text = config["text_config"]
        words = {
            "id": int(number),
            "first": int(text["vocab_size"]),
            "count": _COUNTS[kind](config),
            "tiles": processor_kind(facts.image_processor) in TILED,
            "ahead": kind in _AHEAD,
        }
        steps = [*image_steps(facts.image_processor), tokenize_step(facts), Step("image_tokens", words)]
        if facts.chat_template:
            steps.append(Step("chat", {"file": facts.chat_template, "special_tokens": dict(facts.special_tokens)}))
        # transformers asks the language model alone, which has settings of its own.
        own = {name: text[name] for name in _ENDS if kind in _AHEAD and text.get(name) is not None}
        return TaskEntry(cls.name, tuple(steps), (cls.generate_step(facts, **own),))

    @classmethod
    def sample(cls, text: Any, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        picture, words = text
        said = words if words.strip() else "What is it?"
        return {"image": {"file": picture}, "text": said}, {}

    def is_single(self, inputs: Input) -> bool:
        return isinstance(inputs, Mapping) or is_chat(inputs)

    def seen(self, item: Input) -> Image.Image:
        return self.picture(self._parts(item)[1][0])

    def texts(self, item: Input, options: Mapping[str, Any]) -> Sequence[str]:
        return ()  # the processor puts more into them

    def tensors(self, picture: Image.Image) -> dict[str, np.ndarray]:
        if self._tiles is None:
            return ImageTask.tensors(self, picture)
        views, _ = self._views(picture)
        return {"pixel_values": np.stack([self.pixels(view) for view in views])}

    def encode(self, item: Input, options: Mapping[str, Any]) -> list[Row]:
        read = self._read(item, options)
        ids = read["input_ids"][: self.max_length]
        return [Row({**read, "input_ids": ids}, len(ids))]

    def prompts(
        self, graphs: Mapping[str, Session], items: Sequence[Input], options: Mapping[str, Any]
    ) -> list[Prompt]:
        made, least = [], self._words["count"]
        for item in items:
            read = self._read(item, options)
            ids = read["input_ids"]
            if len(ids) >= self.max_length:
                raise UsageError(
                    f"Cannot go on with pictures and a text of {len(ids)} tokens together.",
                    why=f"the model can hold {self.max_length} in all"
                    + (f", and a picture is at least {least}" if least else ""),
                    fix="give fewer pictures or less text",
                )
            known = np.where(ids < self._words["first"], ids, self._words["id"])
            beside = self.beside(graphs, [Row(read, len(ids))])
            made.append(Prompt(known.tolist(), self.max_length, beside, given=ids))
        return made

    def beside(self, graphs: Mapping[str, Session], rows: Sequence[Row]) -> Tensors:
        """What was seen, one row after the other, filled up to the longest."""
        encoder = graphs["image_encoder"]
        found = [encoder.run({"pixel_values": row.tensors["pixel_values"]})[FEATURES] for row in rows]
        flat = [each.reshape(-1, each.shape[-1]) for each in found]
        longest = max(map(len, flat))
        return {FEATURES: np.stack([np.pad(each, ((0, longest - len(each)), (0, 0))) for each in flat])}

    def score(self, outputs: Tensors, row: Row) -> Tensors:
        words = np.minimum(
            row.tensors["input_ids"], outputs["logits"].shape[1] - 1
        )  # what is no word comes from nobody
        return super().score(outputs, Row({"input_ids": words}, row.length))

    def answered(self, item: Input, prompt: Prompt, ids: list[int], options: Mapping[str, Any]) -> dict[str, Any]:
        said = item if is_chat(item) else str(item["text"])
        found = super().answered(said, prompt, ids, options)
        return {"input_text": said, **found}

    def assistant(self, options: Mapping[str, Any]) -> Optional[Session]:
        return None  # it would have to see too

    def run(
        self, graphs: Mapping[str, Session], inputs: Sequence[Input], options: Mapping[str, Any], batch_size: int = 0
    ) -> list[Any]:
        # One after the other: how much each sees differs.
        return super().run(graphs, inputs, options, 1)

    def _read(self, item: Input, options: Mapping[str, Any]) -> Tensors:
        """Token numbers, of which those from `first` up are places in the features; and pixels, [pictures, 3, height, width]."""
        said, pictures = self._parts(item)
        if self._words["ahead"]:
            return self._ahead(said, pictures)
        text = self._conversation(said, options.get("tools")) if is_chat(said) else said
        mark = str(self.tokenizer.id_to_token(self._words["id"]))
        pieces, pixels = self._pieces(text.split(mark), mark, len(pictures)), []
        whole = pieces[0]
        for given, after in zip(pictures, pieces[1:]):
            picture = self.picture(given)
            made = self.tensors(picture)["pixel_values"]
            pixels.append(made if self._tiles is not None else made[None])
            whole += self._marks(picture, mark) + after
        ids: np.ndarray = np.array(self.encoding(whole, special=not is_chat(said), cut=False).ids, dtype=np.int64)
        seen = ids == self._words["id"]
        known = np.where(seen, self._words["first"] + np.cumsum(seen) - 1, ids)
        return {"input_ids": known, "pixel_values": np.concatenate(pixels)}

    def _pieces(self, pieces: list[str], mark: str, pictures: int) -> list[str]:
        """Raises: UsageError where a text has other marks than pictures."""
        if len(pieces) != pictures + 1:
            raise UsageError(
                f"Cannot read a text with {len(pieces) - 1} marks {mark} and {pictures} pictures.",
                why="each picture stands at a mark",
                fix=f"put {mark} into the text once for each picture, or none at all",
            )
        return pieces

    def _ahead(self, text: str, pictures: Sequence[Any]) -> Tensors:
        """As of `_read`, of a model that reads its pictures before the text and has no marks for them there."""
        pixels = np.stack([self.tensors(self.picture(each))["pixel_values"] for each in pictures])
        ids = np.array(self.encoding(text, cut=False).ids, dtype=np.int64)
        before = self._words["first"] + np.arange(len(pixels) * self._words["count"])
        return {"input_ids": np.concatenate([before, ids]), "pixel_values": pixels}

    def _parts(self, item: Input) -> tuple[Any, list[Any]]:
        """A text or conversation, and its pictures."""
        if is_chat(item):
            if item[-1]["role"] == "assistant" and not isinstance(item[-1].get("content"), str):
                raise UsageError(
                    "Cannot go on with the last message.",
                    why="what the assistant has begun to say is text, and its content is a list of parts",
                    fix='give it as a string, or end with a message of the role "user"',
                )
            parts = [part for each in item for part in _content(each)]
            return item, self._given([part.get("image") for part in parts if part.get("type") == "image"])
        if not isinstance(item, Mapping) or not isinstance(item.get("text"), str):
            raise self._wrong(type(item).__name__, str(item)[:40])
        several = item.get("images", item.get("image"))
        pictures = self._given(list(several) if isinstance(several, (list, tuple)) else [several])
        mark = self.tokenizer.id_to_token(self._words["id"])
        if (mark is not None and mark in item["text"]) or not self._talks():
            return item["text"], pictures
        shown = [{"type": "image", "image": each} for each in pictures]
        return [{"role": "user", "content": [*shown, {"type": "text", "text": item["text"]}]}], pictures

    def _given(self, pictures: list[Any]) -> list[Any]:
        if not pictures or any(each is None for each in pictures):
            raise UsageError(
                "Cannot look at nothing.", why="there is no picture", fix='give one, or several, as "image" or "images"'
            )
        return pictures

    def _talks(self) -> bool:
        return any(step.step == "chat" for step in self.entry_.preprocess)

    def _marks(self, picture: Image.Image, mark: str) -> str:
        """What stands in the text for a picture."""
        marks = mark * int(self._words["count"])
        if self._tiles is None:
            return marks
        _, (rows, columns) = self._views(picture)
        fake = "<fake_token_around_image>"
        whole = f"{fake}<global-img>{marks}{fake}"
        if not rows:
            return whole
        lines = ("".join(f"{fake}<row_{i}_col_{j}>{marks}" for j in range(1, columns + 1)) for i in range(1, rows + 1))
        return "".join(f"{line}\n" for line in lines) + f"\n{whole}"

    def _views(self, picture: Image.Image) -> tuple[list[Image.Image], tuple[int, int]]:
        """A large picture in tiles, row by row, and small as a whole; and rows and columns, 0 where there are no tiles.

        Steps and roundings are those of `Idefics3ImageProcessor`.
        """
        assert self._tiles is not None
        side, resample = self._tiles["side"], FILTERS.index(self._tiles["filter"])
        if self._tiles["longest_edge"]:
            height, width = _longest(picture.height, picture.width, self._tiles["longest_edge"])
            picture = picture.resize((width, height), resample=resample)
        if not self._tiles["split"]:
            return [picture.resize((side, side), resample=resample)], (0, 0)
        height, width = _whole_tiles(picture.height, picture.width, side)
        picture = picture.resize((width, height), resample=resample)
        rows, columns = height // side, width // side
        if rows * columns == 1:
            return [picture], (0, 0)
        places = [(j * side, i * side) for i in range(rows) for j in range(columns)]
        tiles = [picture.crop((left, top, left + side, top + side)) for left, top in places]
        return [*tiles, picture.resize((side, side), resample=resample)], (rows, columns)


def _others() -> Mapping[str, type[Task]]:
    """Families whose pictures stand otherwise in a text."""
    from .gated_pictures import GatedPictures  # which build on this
    from .grid_pictures import GridPictures

    return {"idefics": GatedPictures, "qwen2_vl": GridPictures}


def _longest(height: int, width: int, edge: int) -> tuple[int, int]:
    ratio = width / height
    if width >= height:
        width, height = edge, int(edge / ratio)
        height += height % 2
    else:
        width, height = int(edge * ratio), edge
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    if width >= height and width > _LONGEST:
        width, height = _LONGEST, int(_LONGEST / (width / height))
    elif height > width and height > _LONGEST:
        width, height = int(_LONGEST * (width / height)), _LONGEST
    return max(height, 1), max(width, 1)


def _whole_tiles(height: int, width: int, side: int) -> tuple[int, int]:
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        return math.ceil(int(width / ratio) / side) * side, width
    height = math.ceil(height / side) * side
    return height, math.ceil(int(height * ratio) / side) * side


def _patches(config: Mapping[str, Any]) -> int:
    sees = config["vision_config"]
    return int((sees["image_size"] // sees["patch_size"]) ** 2)


def _llava(config: Mapping[str, Any]) -> int:
    own = 1 if config["vision_config"].get("model_type", "").startswith("clip") else 0  # a token for the whole picture
    left_out = 1 if config.get("vision_feature_select_strategy", "default") == "default" else 0
    return _patches(config) + own - left_out


def _shuffled(config: Mapping[str, Any]) -> int:
    return _patches(config) // int(config.get("scale_factor", 2)) ** 2


def _queries(config: Mapping[str, Any]) -> int:
    return int(config["num_query_tokens"])


_AHEAD = ("blip-2",)  # what reads its pictures before the text
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# model_type -> how many tokens a picture, or a tile of one, is.
_COUNTS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "blip-2": _queries,
    "idefics3": _shuffled,
    "llava": _llava,
    "smolvlm": _shuffled,
}


def _content(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, (list, tuple)) else []


TASK = ImageTextToText

"""`predict` of eleven tasks against the bare engine behind the processors of transformers, which do the same work.

The models are rows of the matrix: so small that what stands before and behind the engine is most of the time, which is the
hardest case. Both sides run one loaded engine, call by call in turn. The baseline ends with the engine's outputs, or with
the processor's own post-processing where it has one. Then the parts alone: pixels, and the log-mel spectrogram.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import satchel
from satchel_converters.pictures import draw
from satchel_converters.processors import load_processors
from satchel_converters.sounds import draw_sound
from satchel_converters.source import find_source
from satchel_runtimes import Predictor, load
from satchel_runtimes.measure import interleave, ratio
from setting import MADE, ROOT, arguments, figure_of, tell

sys.path.insert(0, str(ROOT))
from benchmarks.matrix.cell import model_of
from benchmarks.matrix.rows import ROWS

Call = Callable[[], object]
_TEXT = "A small model that answers quickly is often better than a large one that does not."
_QUESTION = {
    "question": "What is better?",
    "context": f"{_TEXT} The parcel arrived two days late, and the box was crushed.",
}


@dataclass(frozen=True)
class Setting:
    """What a task is asked, and how a user of transformers would ask its processor and the engine."""

    row: str  # of the matrix: its name
    item: Any  # Any: what `predict` takes
    encode: Callable[[Mapping[str, Any], Any], Mapping[str, np.ndarray]]  # processors, item -> what the engine takes
    # processors, item, what was encoded, outputs -> the answer
    finish: Callable[[Mapping[str, Any], Any, Mapping[str, np.ndarray], Mapping[str, np.ndarray]], object] | None = None
    options: Mapping[str, Any] | None = None


def _tokens(processors: Mapping[str, Any], text: str) -> Mapping[str, np.ndarray]:
    return dict(processors["tokenizer"](text, return_tensors="np", truncation=True))


def _pair(processors: Mapping[str, Any], item: Mapping[str, str]) -> Mapping[str, np.ndarray]:
    given = {"return_overflowing_tokens": True, "return_offsets_mapping": True, "truncation": "only_second"}
    return dict(
        processors["tokenizer"](
            item["question"], item["context"], max_length=128, stride=64, padding=True, return_tensors="np", **given
        )
    )


def _pixels(processors: Mapping[str, Any], picture: Image.Image) -> Mapping[str, np.ndarray]:
    return dict(processors["image_processor"](picture, return_tensors="np"))


def _features(processors: Mapping[str, Any], wave: np.ndarray) -> Mapping[str, np.ndarray]:
    return dict(processors["feature_extractor"](wave, sampling_rate=16000, return_tensors="np"))


def _labelled_tokens(processors: Mapping[str, Any], text: str) -> Mapping[str, np.ndarray]:
    given = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    return dict(processors["tokenizer"](text, return_tensors="np", truncation=True, **given))


def _softmax(values: np.ndarray) -> np.ndarray:
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    found: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return found


def _entities(
    processors: Mapping[str, Any], text: str, made: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> object:
    """As by hand: one mapping per token with its label, score and place."""
    scores = _softmax(outputs["logits"][0])
    names = processors["tokenizer"].convert_ids_to_tokens(made["input_ids"][0])
    labels = scores.argmax(axis=1)
    return [
        {
            "entity": int(labels[i]),
            "score": scores[i, labels[i]],
            "index": i,
            "word": names[i],
            "start": int(made["offset_mapping"][0, i, 0]),
            "end": int(made["offset_mapping"][0, i, 1]),
        }
        for i in np.flatnonzero(made["special_tokens_mask"][0] == 0)
    ]


def _answer(
    processors: Mapping[str, Any],
    item: Mapping[str, str],
    made: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
) -> object:
    """As by hand: the likeliest span of at most 15 tokens of the context."""
    inside = made["token_type_ids"][0] == 1
    start, end = (_softmax(np.where(inside, outputs[f"{side}_logits"][0], -10000)) for side in ("start", "end"))
    spans = np.tril(np.triu(np.outer(start, end)), 14)
    first, last = divmod(int(spans.argmax()), len(inside))
    since, until = int(made["offset_mapping"][0, first, 0]), int(made["offset_mapping"][0, last, 1])
    return {"score": spans[first, last], "start": since, "end": until, "answer": item["context"][since:until]}


def _letters(processors: Mapping[str, Any], _: object, __: object, outputs: Mapping[str, np.ndarray]) -> object:
    return {"text": processors["tokenizer"].decode(outputs["logits"][0].argmax(axis=-1))}


class _Outputs(dict):  # type: ignore[type-arg]  # what post-processing of transformers reads: tensors by name
    __getattr__ = dict.__getitem__


def _tensors(outputs: Mapping[str, np.ndarray]) -> _Outputs:
    return _Outputs({name: torch.from_numpy(value) for name, value in outputs.items()})


def _boxes(processors: Mapping[str, Any], picture: Image.Image, _: object, outputs: Mapping[str, np.ndarray]) -> object:
    sizes = torch.tensor([[picture.height, picture.width]])
    return processors["image_processor"].post_process_object_detection(_tensors(outputs), 0.3, sizes)


def _segments(
    processors: Mapping[str, Any], picture: Image.Image, _: object, outputs: Mapping[str, np.ndarray]
) -> object:
    sizes = [(picture.height, picture.width)]
    labels = processors["image_processor"].post_process_semantic_segmentation(_tensors(outputs), sizes)[0].numpy()
    return [Image.fromarray((labels == each).astype(np.uint8) * 255) for each in np.unique(labels)]


def _depth(processors: Mapping[str, Any], picture: Image.Image, _: object, outputs: Mapping[str, np.ndarray]) -> object:
    sizes = [(picture.height, picture.width)]
    found = processors["image_processor"].post_process_depth_estimation(_tensors(outputs), sizes)[0]["predicted_depth"]
    values = found.numpy()
    return Image.fromarray(((values - values.min()) / (values.max() - values.min()) * 255).astype(np.uint8))


_WAVE = (draw_sound(2001, 1.3)[0][:, 0] / 32768).astype(np.float32)
_PICTURE = draw(3001).convert("RGB").resize((640, 480))
SETTINGS = (
    Setting("bert text-classification", _TEXT, _tokens),
    Setting("roformer token-classification", _TEXT, _labelled_tokens, _entities),
    Setting("mpnet feature-extraction", _TEXT, _tokens),
    Setting("bert question-answering", _QUESTION, _pair, _answer),
    Setting("vit image-classification", _PICTURE, _pixels),
    Setting("dinov2 image-feature-extraction", _PICTURE, _pixels),
    Setting("detr object-detection", _PICTURE, _pixels, _boxes, {"threshold": 0.3}),
    Setting("segformer image-segmentation", _PICTURE, _pixels, _segments),
    Setting("dpt depth-estimation", _PICTURE, _pixels, _depth),
    Setting("audio-spectrogram-transformer audio-classification", _WAVE, _features),
    Setting("wav2vec2 automatic-speech-recognition", _WAVE, _features, _letters),
)


def bundle_of(row: str) -> tuple[Path, Path]:
    """The row's model and its bundle in ONNX, float32."""
    (found,) = [each for each in ROWS if each.name == row]
    model = model_of(found, MADE / "tasks")
    out = MADE / "tasks" / f"{model.name}.satchel"
    satchel.convert(
        model, device="generic-x86-64", quantize="fp32", task=found.task, prefer="size", out=out, replace=True
    )
    return model, out


def bare(setting: Setting, processors: Mapping[str, Any], predictor: Predictor) -> Call:
    session = predictor.graphs["model"]
    engine = session._engine  # type: ignore[attr-defined]  # two sessions of one file differ by more than is measured
    names = [spec.name for spec in session.outputs]
    wanted = {spec.name: spec.dtype for spec in session.inputs}

    def ask() -> object:
        made = setting.encode(processors, setting.item)
        outputs = dict(
            zip(
                names,
                engine.run(None, {name: made[name].astype(dtype, copy=False) for name, dtype in wanted.items()}),
                strict=True,
            )
        )
        return setting.finish(processors, setting.item, made, outputs) if setting.finish else outputs

    return ask


def main() -> None:
    asked = arguments(__doc__ or "", seconds=5.0)
    torch.set_num_threads(1)
    before, figures = os.getloadavg(), []
    for setting in SETTINGS:
        model, out = bundle_of(setting.row)
        predictor = load(out, threads=1)
        task = predictor.open_task(predictor.tasks[0])
        processors = load_processors(find_source(model), task.processors).by_name
        options = setting.options or {}
        pairs = {
            "predict": (lambda: predictor.predict(setting.item, **options), bare(setting, processors, predictor))  # noqa: B023
        }
        if "image_processor" in processors:
            pairs["pixels"] = (
                lambda: task.tensors(task.picture(setting.item)),  # type: ignore[attr-defined]  # noqa: B023
                lambda: setting.encode(processors, setting.item),  # noqa: B023
            )
        if "spectrogram" in setting.row:
            pairs["log-mel"] = (
                lambda: task.encode(setting.item, task.check_options({})),  # noqa: B023
                lambda: setting.encode(processors, setting.item),  # noqa: B023
            )
        for what, (ours, theirs) in pairs.items():
            times = interleave({"ours": ours, "theirs": theirs}, warmup=20, max_runs=5000, max_seconds=asked.seconds)
            target = 1.05 if what == "predict" else 1.0
            found = ratio(times["ours"], times["theirs"])
            note = f"{np.median(times['ours']) * 1e3:.2f} ms against {np.median(times['theirs']) * 1e3:.2f}"
            figures.append(figure_of(f"{setting.row}: {what}", found, target=target, note=note))
        predictor.close()
    tell("Tasks against transformers' processors and the bare engine", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()

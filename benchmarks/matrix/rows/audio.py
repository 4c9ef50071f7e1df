"""Models that hear, and models of time series."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from satchel_converters.sounds import draw_sound

from ..row import LABELS, Row, lively, named_labels, save, statistics

__all__ = ["ROWS"]


def _wave(number: int, seconds: float) -> np.ndarray:
    """A sound that is not one of the golden ones, as an array at 16 kHz."""
    samples, _ = draw_sound(number, seconds)
    return (samples[:, 0] / 32768).astype(np.float32)


_SOUNDS = (_wave(2000, 0.5), _wave(2001, 1.3), _wave(2002, 0.131))

_SMALL: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 24,
}


def _speak(model: Any) -> Any:  # Any: models of many classes
    values = torch.from_numpy(np.stack([_wave(number, 0.8)[:6400] for number in (2010, 2011, 2012)]))
    return model(values)


def _classifier(config: Callable[..., Any], sizes: Mapping[str, Any], folder: Path) -> None:
    made = config(**{**_SMALL, **sizes})
    named_labels(made)
    model = lively(transformers.AutoModelForAudioClassification.from_config(made))
    statistics(model, lambda: _speak(model))
    with torch.no_grad():  # means over time differ little from sound to sound
        model.classifier.weight *= 8
    save(folder, model, transformers.Wav2Vec2FeatureExtractor())


def _recognizer(config: Callable[..., Any], sizes: Mapping[str, Any], folder: Path) -> None:
    words = speech_tokenizer()
    made = config(vocab_size=len(words), pad_token_id=words.pad_token_id, **{**_SMALL, **sizes})
    model = lively(transformers.AutoModelForCTC.from_config(made))
    statistics(model, lambda: _speak(model))
    save(folder, model, transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True), words)


def speech_tokenizer() -> transformers.Wav2Vec2CTCTokenizer:
    """Letters, as wav2vec2's English checkpoints have them."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({name: number for number, name in enumerate(names)}))
        return transformers.Wav2Vec2CTCTokenizer(str(file))


def _listener(config: Callable[..., Any], sizes: Mapping[str, Any], folder: Path) -> None:
    made = config(**{**_SMALL, **sizes})
    named_labels(made, ("first speaker", "second speaker"))
    model = lively(transformers.AutoModelForAudioFrameClassification.from_config(made))
    statistics(model, lambda: _speak(model))
    save(folder, model, transformers.Wav2Vec2FeatureExtractor())


def _voices(folder: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """Segments frame by frame, of sounds one at a time: there is no pipeline."""
    model = transformers.AutoModelForAudioFrameClassification.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    exclusive = model.config.problem_type == "single_label_classification"
    alone = []
    for each in inputs:
        values = extractor(each, sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            logits = model(values).logits[0]
        found = (logits.softmax(-1) if exclusive else logits.sigmoid()).double().numpy()
        segments: list[dict[str, Any]] = []
        for number, label in model.config.id2label.items():
            open_: list[float] = []
            for frame, value in enumerate([*found[:, number], 0.0]):
                if value > options["threshold"]:
                    open_.append(value)
                elif open_:
                    first = (frame - len(open_)) * 0.02
                    segments.append({"label": label, "score": np.mean(open_), "start": first, "end": frame * 0.02})
                    open_ = []
        alone.append(sorted(segments, key=lambda segment: (segment["start"], segment["end"])))
    return [*alone, *alone]


def _spectrogram(folder: Path) -> None:
    made = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_length=128,
        num_mel_bins=64,
    )
    named_labels(made)
    model = lively(transformers.ASTForAudioClassification(made))
    save(folder, model, transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=128))


def _forecaster(config: Callable[..., Any], sizes: Mapping[str, Any], folder: Path) -> None:
    made = config(context_length=64, num_input_channels=3, prediction_length=12, **sizes)
    made.architectures = [f"{config.__name__.removesuffix('Config')}ForPrediction"]
    model = lively(getattr(transformers, made.architectures[0])(made))
    past = torch.randn((8, 64, 3), generator=torch.Generator().manual_seed(0)).cumsum(1)
    save(folder, statistics(model, lambda: model(past_values=past)))


def _forecasts(folder: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """By the model itself: there is no pipeline."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    with torch.no_grad():
        found = [model(past_values=torch.from_numpy(each[None, -64:])).prediction_outputs[0].numpy() for each in inputs]
    return [*found, *found]


def _past(number: int, steps: int) -> np.ndarray:
    return np.random.RandomState(number).randn(steps, 3).cumsum(0).astype(np.float32)


def _forecast(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    pasts = (_past(0, 64), 100 * _past(1, 64), _past(2, 90))
    build = functools.partial(_forecaster, config, sizes)
    return Row(name, "time-series-forecasting", build, pasts, oracle=_forecasts)


def _classify(name: str, config: Callable[..., Any], *, fast: bool = False, **sizes: Any) -> Row:
    build = functools.partial(_classifier, config, sizes)
    return Row(name, "audio-classification", build, _SOUNDS, {"top_k": len(LABELS)}, fast=fast)


def _recognize(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    build = functools.partial(_recognizer, config, sizes)
    return Row(name, "automatic-speech-recognition", build, _SOUNDS, {"return_timestamps": "word"})


def _listen(name: str, config: Callable[..., Any], **sizes: Any) -> Row:
    build = functools.partial(_listener, config, sizes)
    return Row(name, "voice-activity-detection", build, _SOUNDS, {"threshold": 0.5}, oracle=_voices)


_SEW: Mapping[str, Any] = {"conv_dim": (16,) * 13, "squeeze_factor": 2}
_DATA2VEC: Mapping[str, Any] = {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}
# What the large checkpoints have, beside the base ones: another norm in the convolutions, and norms before attention.
_STABLE: Mapping[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}

ROWS: tuple[Row, ...] = (
    _classify("wav2vec2", transformers.Wav2Vec2Config, fast=True),
    _recognize("wav2vec2", transformers.Wav2Vec2Config, **_STABLE),
    _classify("wav2vec2-conformer", transformers.Wav2Vec2ConformerConfig),
    _recognize("wav2vec2-conformer", transformers.Wav2Vec2ConformerConfig, position_embeddings_type="rotary"),
    _classify("hubert", transformers.HubertConfig),
    _recognize("hubert", transformers.HubertConfig, **_STABLE),
    _classify("wavlm", transformers.WavLMConfig, num_buckets=32, max_bucket_distance=40),
    _recognize("wavlm", transformers.WavLMConfig, num_buckets=32, max_bucket_distance=40),
    _classify("sew", transformers.SEWConfig, **_SEW),
    _recognize("sew", transformers.SEWConfig, **_SEW),
    _classify("unispeech", transformers.UniSpeechConfig, num_ctc_classes=32),
    _recognize("unispeech", transformers.UniSpeechConfig, num_ctc_classes=32),
    _classify("unispeech-sat", transformers.UniSpeechSatConfig, num_ctc_classes=32),
    _recognize("unispeech-sat", transformers.UniSpeechSatConfig, num_ctc_classes=32),
    _classify("data2vec-audio", transformers.Data2VecAudioConfig, **_DATA2VEC),
    _recognize("data2vec-audio", transformers.Data2VecAudioConfig, **_DATA2VEC),
    _listen("wav2vec2", transformers.Wav2Vec2Config, use_weighted_layer_sum=True),
    _listen("wav2vec2-conformer", transformers.Wav2Vec2ConformerConfig),
    _listen(
        "wavlm",
        transformers.WavLMConfig,
        num_buckets=32,
        max_bucket_distance=40,
        problem_type="single_label_classification",
    ),
    _listen("data2vec-audio", transformers.Data2VecAudioConfig, **_DATA2VEC),
    _listen("unispeech-sat", transformers.UniSpeechSatConfig, num_ctc_classes=32, **_STABLE),
    Row(
        "audio-spectrogram-transformer",
        "audio-classification",
        _spectrogram,
        _SOUNDS,
        {"top_k": len(LABELS)},
    ),
    _forecast("patchtst", transformers.PatchTSTConfig, patch_length=8, patch_stride=4, d_model=32, ffn_dim=48),
    _forecast("patchtsmixer", transformers.PatchTSMixerConfig, patch_length=8, patch_stride=8, d_model=16),
)

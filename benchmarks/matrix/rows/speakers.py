"""Models that speak, beside transformers with the same noise."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from satchel_converters.capture.speecht5 import kept_frames
from satchel_converters.capture.vits import drawn

from ..row import Row, lively, save, statistics

__all__ = [
    "ROWS",
    "SAID",
    "VOICE",
    "characters",
    "letters",
    "speecht5",
    "speecht5_speech",
    "vits",
    "vits_speech",
    "vocoder",
]

SAID = ("Where is the order?", "A small model that answers quickly.", "no")

_VITS: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 48,
    "flow_size": 16,
    "spectrogram_bins": 33,
    "upsample_initial_channel": 32,
    "upsample_rates": (8, 4),
    "upsample_kernel_sizes": (16, 8),
    "resblock_kernel_sizes": (3, 7),
    "resblock_dilation_sizes": ((1, 3), (1, 3)),
    "duration_predictor_num_flows": 2,
    "prior_encoder_num_flows": 2,
    "prior_encoder_num_wavenet_layers": 2,
    "posterior_encoder_num_wavenet_layers": 1,
}


def letters(**options: Any) -> transformers.VitsTokenizer:
    """As MMS has them: small letters, one of which is the padding."""
    names = ["k", "'", *"abcdefghijlmnopqrstuvwxyz", "-", " "]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({name: number for number, name in enumerate(names)}))
        return transformers.VitsTokenizer(str(file), **{"phonemize": False, "pad_token": "k", **options})


def vits(folder: Path, **own: Any) -> None:
    reader = letters()
    config = transformers.VitsConfig(vocab_size=len(reader), **{**_VITS, **own})
    model = lively(transformers.VitsModel(config), 3)
    with torch.no_grad():  # letters that last a few frames, as they do in speech
        if config.use_stochastic_duration_prediction:
            model.duration_predictor.flows[0].translate[:] = torch.tensor([[-1.0], [0.0]])
            model.duration_predictor.flows[0].log_scale[:] = torch.tensor([[0.5], [0.0]])
    save(folder, model, reader)


def vits_speech(folder: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline, with the noise that satchel draws from the seed in place of torch's."""
    model = transformers.VitsModel.from_pretrained(folder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    options = dict(options)
    seed = options.pop("seed", 0)
    for name in ("noise_scale", "noise_scale_duration"):
        setattr(model, name, options.pop(name, getattr(model, name)))
    ask = transformers.pipeline("text-to-speech", model=model, tokenizer=reader)
    made = []
    for each in inputs:
        random = np.random.RandomState(seed)
        count = len(reader(each)["input_ids"])
        lasting = torch.from_numpy(random.standard_normal((count, 2)).astype(np.float32)).T[None]
        frames = random.standard_normal((10_000, model.config.flow_size)).astype(np.float32)
        with drawn(lasting, torch.from_numpy(frames).T[None]):
            made.append(ask(each, forward_params=options))
    return [*made, *made]


_SPEECHT5: Mapping[str, Any] = {
    "hidden_size": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 16,
    "speech_decoder_prenet_units": 24,
    "speech_decoder_postnet_units": 24,
    "speech_decoder_postnet_layers": 2,
    "speaker_embedding_dim": 20,
    "max_speech_positions": 400,
    "max_text_positions": 120,
    "conv_dim": (16,),
    "conv_stride": (5,),
    "conv_kernel": (10,),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
VOICE = [round(float(each), 3) for each in np.random.RandomState(5).standard_normal(20)]
_ALPHABET = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 'é-.,?!;:0123456789"


def characters(**options: Any) -> transformers.SpeechT5Tokenizer:
    """A SentencePiece model of characters, as the one of microsoft/speecht5_tts."""
    import sentencepiece

    made = io.BytesIO()
    ids = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "<pad>"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_ALPHABET] * 3),
        model_writer=made,
        model_type="char",
        vocab_size=100,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **ids,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spm_char.model"
        file.write_bytes(made.getvalue())
        reader = transformers.SpeechT5Tokenizer(str(file), **options)
        reader.add_tokens(["<mask>", "<ctc_blank>"])
        reader.save_pretrained(folder)
        return transformers.SpeechT5Tokenizer.from_pretrained(folder)


def vocoder(folder: Path, **own: Any) -> None:
    small = {name: value for name, value in _VITS.items() if name.startswith(("upsample", "resblock"))}
    config = transformers.SpeechT5HifiGanConfig(**{**small, "model_in_dim": 16, **own})
    model = lively(transformers.SpeechT5HifiGan(config), 1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        model.mean.copy_(torch.randn(config.model_in_dim, generator=generator))
        model.scale.copy_(1 + torch.rand(config.model_in_dim, generator=generator))
    save(folder, model)


def speecht5(folder: Path, **own: Any) -> None:
    """With its vocoder in a folder of its own."""
    reader = characters()
    config = transformers.SpeechT5Config(vocab_size=len(reader), **{**_SPEECHT5, **own})
    model = lively(transformers.SpeechT5ForTextToSpeech(config), 0)
    post = model.speech_decoder_postnet
    frames = torch.randn((4, 50, config.num_mel_bins), generator=torch.Generator().manual_seed(0))
    statistics(model, lambda: post.postnet(frames))
    with torch.no_grad():
        post.prob_out.bias -= 2.0
    save(folder, model, reader)
    (folder / "vocoder").mkdir()
    vocoder(folder / "vocoder")


def speecht5_speech(folder: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pipeline, with satchel's draws in the decoder's prenet in place of torch's."""
    model = transformers.SpeechT5ForTextToSpeech.from_pretrained(folder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    sound = transformers.SpeechT5HifiGan.from_pretrained(folder / "vocoder").eval()
    ask = transformers.pipeline("text-to-speech", model=model, tokenizer=reader, vocoder=sound)
    given = {**options, "speaker_embeddings": torch.tensor([options["speaker_embeddings"]])}
    seed, config = given.pop("seed", 0), model.config
    made = []
    for each in inputs:
        random = np.random.RandomState(seed)
        units = config.speech_decoder_prenet_layers * config.speech_decoder_prenet_units
        kept = torch.from_numpy(random.random_sample((config.max_speech_positions, units)) < 0.5)
        with kept_frames(kept.to(torch.float32), config):
            made.append(ask(each, forward_params=given))
    return [*made, *made]


_FRAMES = {"tflite": "LiteRT has decoders that read tokens here; this one reads the frames that it wrote."}

ROWS: tuple[Row, ...] = (
    Row("vits", "text-to-speech", vits, SAID, {"seed": 3, "speaking_rate": 1.25}, oracle=vits_speech),
    Row(
        "vits, many speakers",
        "text-to-speech",
        functools.partial(vits, num_speakers=3, speaker_embedding_size=8, use_stochastic_duration_prediction=False),
        SAID,
        {"seed": 4, "speaker_id": 2, "noise_scale": 0.3},
        oracle=vits_speech,
    ),
    Row(
        "speecht5",
        "text-to-speech",
        speecht5,
        SAID,
        {"seed": 6, "speaker_embeddings": VOICE, "threshold": 0.9, "minlenratio": 0.5, "maxlenratio": 4.0},
        oracle=speecht5_speech,
        absent=_FRAMES,
    ),
)

"""Models that hear with one part and write with another."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..row import Row, lively, save, tokenizer

__all__ = ["ROWS", "moonshine", "speech_to_text", "whisper"]

_LANGUAGES = ("en", "de", "fr")


def whisper(folder: Path, *, seed: int = 0, multilingual: bool = True) -> None:
    """A whisper with its own special tokens, timestamps and windows of 30 seconds; only its layers are small."""
    made = json.loads(tokenizer("bpe").backend_tokenizer.to_str())["model"]
    reader = transformers.WhisperTokenizer(
        vocab=made["vocab"], merges=[tuple(each) for each in made["merges"]], model_max_length=1024
    )
    names = ["<|startoftranscript|>", *(f"<|{each}|>" for each in _LANGUAGES if multilingual)]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    names += [f"<|{place * 0.02:.2f}|>" for place in range(1501)]
    reader.add_special_tokens({"additional_special_tokens": names})
    code = reader.convert_tokens_to_ids
    end, begin = code("<|endoftext|>"), code("<|startoftranscript|>")
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": begin}
    config = transformers.WhisperConfig(
        vocab_size=len(reader),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=16,
        max_target_positions=64,
        begin_suppress_tokens=None,
        suppress_tokens=None,
        **special,
    )
    model = lively(transformers.WhisperForConditionalGeneration(config), seed, 2.0)
    several = {
        "lang_to_id": {f"<|{each}|>": code(f"<|{each}|>") for each in _LANGUAGES},
        "task_to_id": {each: code(f"<|{each}|>") for each in ("transcribe", "translate")},
    }
    model.generation_config = transformers.GenerationConfig(
        **special,
        max_length=40,
        is_multilingual=multilingual,
        no_timestamps_token_id=code("<|notimestamps|>"),
        prev_sot_token_id=code("<|startofprev|>"),
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
        max_initial_timestamp_index=50,
        suppress_tokens=[20, 21],
        begin_suppress_tokens=[30, end],
        return_timestamps=False,
        **(several if multilingual else {}),
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    save(folder, model, reader, extractor)


def _hears(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """The pieces of speech that whisper's own `generate` finds."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(model)
    loaded: Any = transformers.WhisperForConditionalGeneration.from_pretrained(model).eval()
    found = []
    for samples in inputs:
        given = extractor(samples, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
        with torch.inference_mode():
            parts = loaded.generate(**given, **options, return_segments=True)["segments"][0]
        texts = [reader.decode(each["tokens"], skip_special_tokens=True) for each in parts]
        times = [(float(each["start"]), float(each["end"])) for each in parts]
        chunks = [{"text": text, "timestamp": time} for text, time in zip(texts, times, strict=True)]
        found.append({"text": "".join(texts), "chunks": chunks})
    return [*found, *found]


def moonshine(folder: Path, *, seed: int = 0) -> None:
    """It hears samples themselves, of any length."""
    reader = tokenizer("bpe")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 2}
    heads = {f"{side}_num_attention_heads": 4 for side in ("encoder", "decoder")}
    special = {"bos_token_id": reader.bos_token_id, "eos_token_id": reader.eos_token_id}
    start = {"decoder_start_token_id": reader.bos_token_id, "pad_token_id": reader.pad_token_id}
    config = transformers.MoonshineConfig(vocab_size=len(reader), **sizes, **heads, **special, **start)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    model = lively(transformers.MoonshineForConditionalGeneration(config), seed, 2.0)
    save(folder, model, reader, extractor)


def _hears_samples(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    reader = transformers.AutoTokenizer.from_pretrained(model)
    loaded: Any = transformers.MoonshineForConditionalGeneration.from_pretrained(model).eval()
    found = []
    for samples in inputs:
        with torch.inference_mode():
            (ids,) = loaded.generate(torch.from_numpy(samples)[None], **options)
        found.append({"text": reader.decode(ids, skip_special_tokens=True)})
    return [*found, *found]


def speech_to_text(folder: Path, *, seed: int = 0, several: bool = False) -> None:
    """A Speech2Text with a SentencePiece model of its own; `several` writes in eight languages."""
    import sentencepiece

    lines, model = ["the small model answers quickly", "where is the order", "a cat a dog and a boat"] * 4, io.BytesIO()
    languages = [f"<lang:{each}>" for each in ("pt", "fr", "ru", "nl", "ro", "it", "es", "de") if several]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        user_defined_symbols=languages,
    )
    folder.mkdir(parents=True, exist_ok=True)
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces, words = folder / "sentencepiece.bpe.model", folder / "vocab.json"
    pieces.write_bytes(model.getvalue())
    words.write_text(json.dumps({made.id_to_piece(place): place for place in range(len(made))}))
    codes = {"lang_codes": "mustc", "tgt_lang": "fr"} if several else {}
    reader = transformers.Speech2TextTokenizer(str(words), str(pieces), model_max_length=64, **codes)
    extractor = transformers.Speech2TextFeatureExtractor(feature_size=16, num_mel_bins=16)
    config = transformers.Speech2TextConfig(
        vocab_size=len(reader),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        input_feat_per_channel=16,
        conv_channels=24,
        max_source_positions=600,
        max_target_positions=64,
    )
    model_ = lively(transformers.Speech2TextForConditionalGeneration(config), seed, 2.0)
    save(folder, model_, reader, extractor)


def _reads(model: Path, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
    """What Speech2Text's `generate` writes about each sound."""
    reader = transformers.AutoTokenizer.from_pretrained(model)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(model)
    loaded: Any = transformers.Speech2TextForConditionalGeneration.from_pretrained(model).eval()
    settings = dict(options)
    target = settings.pop("tgt_lang", None)
    if target is not None:
        settings["forced_bos_token_id"] = reader.lang_code_to_id[target]
    found = []
    for samples in inputs:
        given = extractor(samples, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            (ids,) = loaded.generate(**given, **settings)
        found.append({"text": reader.decode(ids, skip_special_tokens=True)})
    return [*found, *found]


def _sound(seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * 16000)) / 16000
    return (np.sin(2 * np.pi * (300 + 200 * np.sin(5 * time)) * time) * 0.3).astype(np.float32)


ROWS: tuple[Row, ...] = (
    Row(
        "whisper",
        "automatic-speech-recognition",
        whisper,
        (_sound(1.5), _sound(4.0)),
        {"language": "en", "return_timestamps": True, "max_new_tokens": 20},
        oracle=_hears,
    ),
    Row(
        "moonshine",
        "automatic-speech-recognition",
        moonshine,
        (_sound(1.5), _sound(0.6)),
        {"max_new_tokens": 12},
        oracle=_hears_samples,
        absent={"tflite": "Samples of any length: its decoder would hear the padding of a fixed one."},
    ),
    *(
        Row(
            f"speech_to_text{', several languages' if several else ''}",
            "automatic-speech-recognition",
            functools.partial(speech_to_text, several=several),
            (_sound(1.5), _sound(0.6)),
            {"max_new_tokens": 12, **({"tgt_lang": "de"} if several else {})},
            oracle=_reads,
        )
        for several in (False, True)
    ),
)

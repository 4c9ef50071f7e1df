"""What stands before a model: its tokenizer, image processor and feature extractor, as transformers loads them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from satchel_runtimes.errors import IntegrityError, SupportError, ToolchainError
from satchel_runtimes.tasks.image_steps import FONT_FILE
from satchel_runtimes.tasks.patches import PLACES
from satchel_runtimes.tasks.piece_tokenizer import PIECES_FILE
from satchel_runtimes.tasks.speaking import VOICE_FILE
from satchel_runtimes.tasks.task import ModelFacts

from .lean import import_transformers
from .letters import alphabet_of, letters_of
from .source import SourceModel
from .tokenizer_build import pieces_of

if TYPE_CHECKING:
    import transformers

__all__ = ["Processors", "load_processors"]

# By the names that tasks declare: the Auto class, and what it is told. An image processor on Pillow is what a device can
# do alike; torchvision's resizes otherwise.
_AUTO: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tokenizer": ("AutoTokenizer", {}),
    "image_processor": ("AutoImageProcessor", {"backend": "pil"}),
    "feature_extractor": ("AutoFeatureExtractor", {}),
}
# By model_type, where transformers' own tokenizer is in Python: one that splits texts alike and is a tokenizer.json. What
# TAPAS does beyond that, with tables, is the task's.
_FAST: Mapping[str, str] = {"tapas": "BertTokenizer"}
_FILES = (
    "config.json",
    "tokenizer.json",
    PIECES_FILE,
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "preprocessor_config.json",
    FONT_FILE,
)


# Tokenizers of transformers that need no vocabulary: what they read, and what they add to its number.
_UNITS = {"CanineTokenizer": ("character", 0), "PerceiverTokenizer": ("byte", 6)}


@dataclass(frozen=True)
class Processors:
    """Those of one model that its task needs."""

    source: SourceModel
    by_name: Mapping[str, Any]  # Any: classes of transformers, most of them without types
    pieces: Mapping[str, Any] | None = None  # what pieces.json says, of a tokenizer that transformers has in Python

    @property
    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        found: transformers.PreTrainedTokenizerBase = self.by_name["tokenizer"]
        return found

    @property
    def image_processor(self) -> Any:
        return self.by_name["image_processor"]

    @property
    def feature_extractor(self) -> Any:
        return self.by_name["feature_extractor"]

    @property
    def _font(self) -> Path | None:
        """Of a processor that draws questions."""
        file = self.source.folder / FONT_FILE
        draws = getattr(self.by_name.get("image_processor"), "is_vqa", False)
        return file if draws and file.is_file() else None

    def facts(self, max_length: int | None = None, bound: Sequence[int] = ()) -> ModelFacts:
        """What the files said, corrected by the processors themselves: many of their values are defaults of their class.

        Args:
            max_length: tokens that were asked for.
            bound: lengths of graphs with static shapes: what none of them holds is cut.
        """
        facts = self.source.facts
        for name in ("image_processor", "feature_extractor"):
            if name in self.by_name:
                facts = dataclasses.replace(facts, **{name: json.loads(self.by_name[name].to_json_string())})
        if "tokenizer" not in self.by_name:
            return facts
        tokenizer = self.tokenizer
        longest = [max(bound)] if bound else []
        return dataclasses.replace(
            facts,
            max_length=min(max_length or facts.max_length, facts.max_length, tokenizer.model_max_length, *longest),
            truncation_side=tokenizer.truncation_side,
            mask_token=tokenizer.mask_token,
            pad_id=tokenizer.pad_token_id or 0,
            separator_box=tuple(getattr(tokenizer, "sep_token_box", facts.separator_box)),
            special_tokens={
                name: str(getattr(tokenizer, name))
                for name in ("unk_token", "pad_token", "bos_token", "eos_token")
                if getattr(tokenizer, name, None)
            },
            chat_template="chat_template.jinja" if tokenizer.chat_template else "",
            languages=_languages(tokenizer),
            added_tokens={str(name): number for name, number in tokenizer.get_added_vocab().items()},
            font=self._font is not None,
            clean_up_spaces=bool(tokenizer.clean_up_tokenization_spaces),
            ctc=ctc_of(tokenizer),
            characters=_characters(tokenizer),
            tokenizer_file=PIECES_FILE if self.pieces else facts.tokenizer_file,
            letters=letters_of(tokenizer),
            alphabet=alphabet_of(tokenizer),
            table=_table(tokenizer) if self.source.model_type == "tapas" else {},
        )

    def looked(self, picture: Any, header: str) -> Mapping[str, Any]:
        """What transformers makes of a picture, with a text above it where there is one."""
        if not header:
            found: Any = self.image_processor(picture, return_tensors="np")
            if not isinstance(found, Mapping):  # IDEFICS has nothing else
                return {"pixel_values": found}
            return _gridded(self.image_processor, found) if "image_grid_thw" in found else found
        # It fetches its own font from the Hub, and takes another in this part alone.
        whole = np.asarray(picture).transpose(2, 0, 1)
        drawn = self.image_processor.render_header(whole, header, font_path=str(self._font))
        made: Mapping[str, Any] = self.image_processor(
            drawn, is_vqa=False, input_data_format="channels_first", return_tensors="np"
        )
        return made

    def save(self, folder: Path, config: Mapping[str, Any]) -> list[str]:
        """Write them into `folder`, with config.json and what a format adds to it; the names of the files."""
        for each in self.by_name.values():
            each.save_pretrained(folder)
        if self.pieces:
            text = json.dumps(self.pieces, ensure_ascii=False, separators=(",", ":"))
            (folder / PIECES_FILE).write_text(text + "\n", "utf-8")
        shutil.copyfile(self.source.folder / "config.json", folder / "config.json")
        if config:  # what the format says there to other tools
            whole = json.loads((folder / "config.json").read_text("utf-8"))
            (folder / "config.json").write_text(json.dumps({**whole, **config}, indent=2) + "\n", "utf-8")
        if (self.source.folder / "generation_config.json").is_file():
            shutil.copyfile(self.source.folder / "generation_config.json", folder / "generation_config.json")
        if self._font is not None:
            shutil.copyfile(self._font, folder / FONT_FILE)
        if self.source.voice is not None:
            shutil.copyfile(self.source.voice, folder / VOICE_FILE)
        return [name for name in (*_FILES, VOICE_FILE) if (folder / name).is_file()]


def _gridded(processor: Any, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Patches of one picture, and their places as the model makes them."""
    import torch
    from transformers.vision_utils import get_vision_position_ids

    grid = torch.from_numpy(np.asarray(found["image_grid_thw"]))
    places = get_vision_position_ids(grid, processor.merge_size)
    return {"pixel_values": np.asarray(found["pixel_values"])[None], PLACES: places[None].numpy()}


def ctc_of(tokenizer: Any) -> dict[str, Any]:  # Any: classes of transformers, most of them without types
    """How a tokenizer for CTC makes text of the tokens of frames; empty for any other."""
    if type(tokenizer).__name__ != "Wav2Vec2CTCTokenizer":
        return {}
    names = tokenizer.convert_ids_to_tokens(range(max(tokenizer.get_vocab().values()) + 1))
    return {
        "tokens": names,
        "unknown": tokenizer.unk_token,
        "blank": tokenizer.pad_token,
        "delimiter": tokenizer.word_delimiter_token,
        "space": tokenizer.replace_word_delimiter_char,
        "lower": bool(tokenizer.do_lower_case),
        "clean_up": bool(tokenizer.clean_up_tokenization_spaces),
    }


def load_processors(source: SourceModel, names: Sequence[str]) -> Processors:
    """Load what `names` lists from the source's folder.

    Raises:
        IntegrityError: the folder lacks a processor's file.
        ToolchainError: a package that the tokenizer needs is not installed.
        SupportError: a tokenizer that is in Python and of no kind that can be carried.
        ValueError, KeyError, OSError, RuntimeError: what transformers raises for files that are missing or do not fit.
    """
    transformers = import_transformers(f"load {source.id}")
    found = {}
    for name in names:
        auto, options = _AUTO[name]
        if name == "tokenizer":
            auto = _FAST.get(source.model_type, auto)
        try:
            found[name] = getattr(transformers, auto).from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=source.trust_remote_code, **options
            )
        except ImportError as error:
            raise ToolchainError(
                f"Cannot load the {name.replace('_', ' ')} of {source.id}.",
                why=" ".join(str(error).split())[:200],
                fix="pip install 'satchel[convert]'",
            ) from error
        except (OSError, TypeError) as error:  # a TypeError is a vocabulary whose path is None
            if name != "tokenizer" and (source.folder / "preprocessor_config.json").is_file():
                raise
            raise _incomplete(source, name) from error
    if "tokenizer" in found and not _knows_words(found["tokenizer"]):
        raise _incomplete(source, "tokenizer")
    if hasattr(found.get("image_processor"), "apply_ocr"):
        found["image_processor"].apply_ocr = False  # a device reads a page's words itself, or is given them
    tokenizer = found.get("tokenizer")
    # One for CTC only joins the tokens of frames, which the bundle says how to do; one of characters needs no vocabulary.
    known = (lambda found: type(found).__name__ in _UNITS, letters_of, ctc_of)
    if tokenizer is None or tokenizer.is_fast or any(each(tokenizer) for each in known):
        return Processors(source, found)
    pieces = pieces_of(tokenizer)
    if pieces is None:
        raise SupportError(
            f"Cannot convert {source.id}.",
            why=f"{type(tokenizer).__name__} is in Python, and satchel does not know what it does",
            fix="use a checkpoint with tokenizer.json",
        )
    return Processors(source, found, pieces)


def _knows_words(tokenizer: Any) -> bool:
    """Without its files transformers makes some tokenizers of their special tokens alone, to which all texts are alike."""
    if type(tokenizer).__name__ in _UNITS:
        return True
    return len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) > 2


def _incomplete(source: SourceModel, name: str) -> IntegrityError:
    file = "tokenizer.json or vocabulary" if name == "tokenizer" else "preprocessor_config.json"
    return IntegrityError(
        f"Cannot load the {name.replace('_', ' ')} of {source.id}.",
        why=f"the folder has no {file} that transformers can read",
        fix="copy all files of the model's repository, not its weights alone",
    )


def _table(tokenizer: Any) -> dict[str, Any]:
    """What TapasTokenizer keeps of a table, with its defaults."""
    given = tokenizer.init_kwargs
    return {
        "columns": given.get("max_column_id") or tokenizer.model_max_length,
        "rows": given.get("max_row_id") or tokenizer.model_max_length,
        "cell_length": given.get("cell_trim_length", -1),
        "headers": not given.get("strip_column_names", False),
        "empty": str(given.get("empty_token", "[EMPTY]")),
    }


_LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")  # as MBart ("en_XX") and NLLB ("eng_Latn") name them


def _languages(tokenizer: Any) -> dict[str, Any]:
    """How a tokenizer of several languages marks that of a text: tokens before and after it, null where the language's stands;
    or a word in front of it that names the one to translate into."""
    if getattr(tokenizer, "supported_language_codes", None):  # Marian's, such as ">>fra<<"
        words = {name[2:-2]: name for name in tokenizer.supported_language_codes}
        return {"words": words, "src_lang": tokenizer.source_lang}
    if not hasattr(tokenizer, "set_src_lang_special_tokens"):  # Speech2Text's has languages to write, and none to read
        spoken = getattr(tokenizer, "lang_code_to_id", None)
        return {"codes": spoken, "tgt_lang": tokenizer.tgt_lang} if spoken else {}
    added = tokenizer.get_added_vocab()
    codes = getattr(tokenizer, "lang_code_to_id", None) or {n: i for n, i in added.items() if _LANGUAGE.fullmatch(n)}
    source = tokenizer.src_lang or next(iter(codes))
    tokenizer.set_src_lang_special_tokens(source)
    sides = {"before": tokenizer.prefix_tokens, "after": tokenizer.suffix_tokens}
    marks = {side: [None if each == codes[source] else each for each in ids] for side, ids in sides.items()}
    return {"codes": dict(codes), "src_lang": source, "tgt_lang": getattr(tokenizer, "tgt_lang", None), **marks}


def _characters(tokenizer: Any) -> dict[str, Any]:
    """Options of the step "characters", read from what the tokenizer does; none for one with a vocabulary."""
    if type(tokenizer).__name__ not in _UNITS:
        return {}
    unit, offset = _UNITS[type(tokenizer).__name__]
    first, last = tokenizer("")["input_ids"]
    pair = tokenizer("a", "a")
    return {
        "unit": unit,
        "offset": offset,
        "first": first,
        "last": last,
        "pair_type": pair.get("token_type_ids", [0])[-1],
        # One that is a single character is its own number anyway.
        "specials": {str(name): i for name, i in tokenizer.get_added_vocab().items() if len(str(name)) > 1},
    }

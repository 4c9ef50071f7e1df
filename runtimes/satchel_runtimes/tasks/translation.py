"""translation: the same in another language."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Optional

import numpy as np

from ..errors import UsageError
from ..manifest import Step, TaskEntry
from .rewriting import TextRewriting
from .task import Files, Input, ModelFacts

__all__ = ["TASK"]


class Translation(TextRewriting):
    """`predict("Guten Morgen")` is `[{"translation_text"}]`, as `transformers.pipeline` of 4.57 had it.

    Options: `src_lang` and `tgt_lang`, codes of the checkpoint's own ("en_XX", "deu_Latn", "fr", "fra"), where it knows several; and
    those of text2text-generation.
    """

    name = "translation"
    answer_key = "translation_text"
    options = {**TextRewriting.options, "src_lang": None, "tgt_lang": None}
    architectures = ("MarianMTModel", "M2M100ForConditionalGeneration", "MBartForConditionalGeneration")
    columns = {"text": ("text", "source", "sentence"), "target": ("translation", "target", "reference")}

    def __init__(self, entry: TaskEntry, files: Files) -> None:
        super().__init__(entry, files)
        found = next((step.options for step in entry.preprocess if step.step == "languages"), None)
        self._languages: Optional[Mapping[str, Any]] = found
        self._prefixes: Mapping[str, str] = entry.option("prefixes", "by_pair", {})

    @classmethod
    def entry(cls, facts: ModelFacts) -> TaskEntry:
        made = super().entry(facts)
        own = facts.config.get("task_specific_params") or {}
        by_pair = {
            name.partition("_")[2]: params["prefix"]
            for name, params in own.items()
            if name.startswith("translation_") and params.get("prefix")
        }
        steps = [Step("languages", dict(facts.languages))] if facts.languages else []
        steps += [Step("prefixes", {"by_pair": by_pair})] if by_pair else []
        return TaskEntry(cls.name, (*steps, *made.preprocess), made.postprocess)

    @classmethod
    def sample(cls, text: str, index: int, facts: ModelFacts) -> tuple[Input, dict[str, Any]]:
        """Into another language than the text's, where the checkpoint does not say into which."""
        item, options = super().sample(text, index, facts)
        known = facts.languages
        if "codes" in known and not known["tgt_lang"]:
            options["tgt_lang"] = next(each for each in known["codes"] if each != known["src_lang"])
        return item, options

    def check_options(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        found = dict(super().check_options(given))
        if self._languages is None:
            if (found["src_lang"] or found["tgt_lang"]) and not self._prefixes:
                raise UsageError(
                    "Cannot choose a language.",
                    why="this checkpoint translates between the two that it was trained for",
                    fix="leave src_lang and tgt_lang out",
                )
            return found
        if "words" in self._languages:
            self._known(found, "src_lang", [each for each in (self._languages["src_lang"],) if each])
            self._known(found, "tgt_lang", self._languages["words"])
            return found
        codes = self._languages["codes"]
        for name in ("src_lang", "tgt_lang"):
            found[name] = found[name] or self._languages[name]
            self._known(found, name, codes)
        if found["tgt_lang"] is not None:
            found["config"] = found["config"].changed({"forced_bos_token_id": codes[found["tgt_lang"]]})
        elif found["config"].forced_bos_token_id is None and self.start(found)[0] not in codes.values():
            raise UsageError(
                "Cannot translate without a language to translate into.",
                why="the checkpoint has several, and none is its own",
                fix=f"pass tgt_lang, one of {', '.join(codes)}",
            )
        return found

    def _known(self, options: Mapping[str, Any], name: str, languages: Collection[str]) -> None:
        if options[name] is not None and options[name] not in languages:
            raise UsageError(
                f"Cannot translate with {name}={options[name]!r}.",
                why="the checkpoint does not know this language",
                fix=f"choose among {', '.join(languages)}" if languages else f"leave {name} out",
            )

    def ids_of(self, item: str, options: Mapping[str, Any]) -> np.ndarray:
        if self._languages is None or "words" in self._languages:
            return super().ids_of(self._asked(item, options), options)
        code = self._languages["codes"][options["src_lang"]]
        before, after = (
            [code if each is None else each for each in self._languages[side]] for side in ("before", "after")
        )
        room = self.max_length - len(before) - len(after)
        words = list(self.encoding(item, special=False, cut=False).ids)
        ids: np.ndarray = np.array([*before, *words[:room], *after], dtype=np.int64)
        return ids

    def _asked(self, item: str, options: Mapping[str, Any]) -> str:
        """With the words that a checkpoint of several languages is told by which are meant."""
        if self._languages is not None:
            return f"{self._languages['words'][options['tgt_lang']]} {item}" if options["tgt_lang"] else item
        if not (options["src_lang"] or options["tgt_lang"]):
            return item
        pair = f"{options['src_lang']}_to_{options['tgt_lang']}"
        if pair not in self._prefixes:
            raise UsageError(
                f"Cannot translate {options['src_lang']} to {options['tgt_lang']}.",
                why="the checkpoint was not trained for this pair",
                fix=f"choose among {', '.join(self._prefixes)}",
            )
        return self._prefixes[pair] + item


TASK = Translation

"""summarization: what a text says, in fewer words."""

from __future__ import annotations

from .rewriting import TextRewriting

__all__ = ["TASK"]


class Summarization(TextRewriting):
    """`predict(text)` is `[{"summary_text"}]`, as `transformers.pipeline` of 4.57 had it; options as of text2text-generation."""

    name = "summarization"
    answer_key = "summary_text"
    architectures = ("PegasusForConditionalGeneration", "PegasusXForConditionalGeneration")
    columns = {"text": ("text", "article", "document", "dialogue"), "target": ("summary", "highlights", "target")}


TASK = Summarization

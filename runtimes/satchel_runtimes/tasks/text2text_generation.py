"""text2text-generation: a text is answered by a text, as the checkpoint was trained to."""

from __future__ import annotations

from .rewriting import TextRewriting
from .task import ModelFacts

__all__ = ["TASK"]


class Text2TextGeneration(TextRewriting):
    """`predict("Translate to German: Good morning")` is `[{"generated_text"}]`, as `transformers.pipeline` of 4.57 had it.

    Options: `decoder_input_ids`, tokens that the answer begins with, and every setting of `GenerationConfig` by its name, such as
    `max_new_tokens` or `num_beams`. Texts beyond the encoder's length are cut.
    """

    name = "text2text-generation"
    architectures = (
        *(
            f"{name}ForConditionalGeneration"
            for name in ("T5", "Bart", "Blenderbot", "BlenderbotSmall", "LED", "Mvp", "ProphetNet")
        ),
        "EncoderDecoderModel",
    )
    columns = {"text": ("text", "input", "source", "question", "sentence"), "target": ("target", "output", "answer")}

    @classmethod
    def fits(cls, facts: ModelFacts) -> bool:
        return facts.config.get("model_type") not in ("speech-encoder-decoder", "vision-encoder-decoder")


TASK = Text2TextGeneration

"""What transformers 4.55 writes by diverse beam search and by contrastive search, which it was the last to have itself.

    .cache/peers/searches/bin/python benchmarks/peers/record_searches.py MODEL OUT.json

MODEL is the folder that `python -m tests.recorded_searches MODEL` writes. Prompts and texts are tokens: no tokenizer is asked.
"""

from __future__ import annotations

import itertools
import json
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

Case = dict[str, Any]  # Any: the JSON of a case, whose options are those of `generate`

PROMPTS = ([0, 17, 230, 45, 99], [0, 300, 12], [0, 64, 64, 210, 8, 31, 150, 77, 390])
PAD = 1  # groups that have ended go on with it
LOGITS = 24  # that are recorded: another model would have others


def beams(**options: Any) -> Case:
    return {"diversity_penalty": 0.5, "max_new_tokens": 16, "num_return_sequences": options["num_beams"], **options}


def cases(model: Any) -> Iterator[Case]:
    for prompt in PROMPTS:
        for groups, size, penalty in ((2, 1, 0.3), (2, 2, 0.5), (3, 2, 1.0), (4, 1, 5.0), (2, 3, 0.1)):
            yield {
                "prompt": prompt,
                "options": beams(num_beams=groups * size, num_beam_groups=groups, diversity_penalty=penalty),
            }
        # End tokens that come: what the groups write without them, at several places.
        plain = written(model, prompt, beams(num_beams=4, num_beam_groups=2))
        ends = [plain[0][3], plain[2][5], plain[1][9]]
        for early, over in itertools.product((False, True, "never"), (0.0, 1.0, 2.5, -1.0)):
            yield {
                "prompt": prompt,
                "options": beams(
                    num_beams=6, num_beam_groups=3, eos_token_id=ends[:2], early_stopping=early, length_penalty=over
                ),
            }
        for eos in ([ends[0]], [ends[1]], ends):
            yield {"prompt": prompt, "options": beams(num_beams=4, num_beam_groups=2, eos_token_id=eos)}
        yield {
            "prompt": prompt,
            "options": beams(
                num_beams=4, num_beam_groups=2, num_return_sequences=1, repetition_penalty=1.4, no_repeat_ngram_size=2
            ),
        }
        yield {
            "prompt": prompt,
            "options": beams(
                num_beams=4, num_beam_groups=4, eos_token_id=ends[:1], min_new_tokens=6, bad_words_ids=[[ends[1]]]
            ),
        }
        for alpha, count in ((0.6, 4), (0.2, 2), (0.8, 8), (1.0, 3), (0.4, 20)):
            yield {"prompt": prompt, "options": {"penalty_alpha": alpha, "top_k": count, "max_new_tokens": 24}}
        yield {
            "prompt": prompt,
            "options": {
                "penalty_alpha": 0.6,
                "top_k": 4,
                "max_new_tokens": 24,
                "eos_token_id": ends,
                "repetition_penalty": 1.2,
            },
        }


def written(model: Any, prompt: list[int], options: Case) -> list[list[int]]:
    """The new tokens of each text, up to its end token; which of several ends it, 4.x does not say."""
    given = {"eos_token_id": None, "pad_token_id": PAD, "do_sample": False, **options}
    found = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **given)
    ends = set(options.get("eos_token_id", ()))
    return [list(itertools.takewhile(lambda token: token not in ends, each[len(prompt) :].tolist())) for each in found]


def main(model_folder: Path, out: Path) -> None:
    if not transformers.__version__.startswith("4.55."):
        raise SystemExit(
            f"transformers {transformers.__version__} is no oracle here: run in the environment of make_env.sh searches"
        )
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1, :LOGITS].tolist()
        found = [case | {"texts": written(model, case["prompt"], case["options"])} for case in cases(model)]
    record = {
        "versions": {
            "python": platform.python_version(),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "model": {
            "builder": "tests/recorded_searches.py",
            # A folder whose norms differ is another model, and its texts are not these.
            "norms": {
                name: model.get_parameter(name).double().norm().item()
                for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight")
            },
            "pad_token_id": PAD,
            "logits": logits,  # of the last token of the first prompt
        },
        "cases": found,
    }
    out.write_text(json.dumps(record, separators=(",", ":")).replace('{"prompt"', '\n{"prompt"') + "\n", "utf-8")
    print(f"{len(found)} cases in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

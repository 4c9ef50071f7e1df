"""Whether SmolLM2-135M-Instruct writes the same from a bundle in fp32 as in transformers: the likeliest tokens, one for one.

    python benchmarks/generation_exact.py [--prompts 20] [--tokens 200] [--threads 2]

Where two texts part, the gap says why: how far apart the two tokens' logits are in transformers. float32 in another order of
sums moves a logit by about 1e-5 of the largest; a gap of that size is a tie, a larger one an error. Exits 1 if one is larger.
"""

from __future__ import annotations

import os
import runpy
import sys

import numpy as np

from satchel_converters.samples import TEXTS
from satchel_runtimes import load
from setting import ROOT, Figure, arguments, tell

TIE = 1e-3  # of a logit; those of a text are between -20 and 30


def main() -> None:
    asked = arguments(__doc__ or "", prompts=20, tokens=200, threads=2)
    before = os.getloadavg()
    import torch
    import transformers

    speed = runpy.run_path(str(ROOT / "benchmarks" / "generation_speed.py"))
    source = runpy.run_path(str(ROOT / "examples" / "real_models.py"))["smollm2"]()
    predictor = load(speed["bundle"]("fp32", source), threads=asked.threads)
    torch.set_num_threads(asked.threads)
    reader = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    prompts = [text for text in TEXTS if text.isascii() and len(text) > 30][: asked.prompts]
    equal, tied, wrong = 0, 0, 0
    for prompt in prompts:
        given = reader(prompt, return_tensors="pt")
        with torch.inference_mode():
            wanted = model.generate(**given, max_new_tokens=asked.tokens, do_sample=False)[0].tolist()
        length = given["input_ids"].shape[1]
        text = predictor.predict(prompt, max_new_tokens=asked.tokens)[0]["generated_text"]
        if text == prompt + reader.decode(wanted[length:], skip_special_tokens=True):
            equal += 1
            continue
        found = reader(text)["input_ids"]
        place = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), min(len(found), len(wanted)) - 1)
        with torch.inference_mode():
            logits = model(torch.tensor([wanted[:place]])).logits[0, -1].numpy()
        gap = float(np.abs(logits[wanted[place]] - logits[found[place]]))
        tied, wrong = tied + (gap <= TIE), wrong + (gap > TIE)
        print(f"{prompt[:40]!r} differs at token {place - length}, logit gap {gap:.2g}", file=sys.stderr)
    count = len(prompts)
    figures = [
        Figure("texts that are the same", equal, equal, equal, count, ""),
        Figure("texts that part at a tie", tied, tied, tied, count, "", target=0),
        Figure("texts that part elsewhere", wrong, wrong, wrong, count, "", target=0),
    ]
    title = f"SmolLM2-135M-Instruct, {asked.tokens} tokens behind {count} prompts"
    tell(title, figures, before, asked.json, f"{asked.threads} threads")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

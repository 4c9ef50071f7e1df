"""A writer of text in a process of its own, which writes when it is asked over a pipe. Runs in the environment of its peer.

    python benchmarks/peers/writer.py KIND MODEL THREADS

A line of JSON on stdin, {"ids": [...], "tokens": n}, is answered by one on stdout: the likeliest n tokens behind the ids, when the
first and the last of them were there, and the peak memory of this process. The first line, before anything is asked, says {}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

Writer = Callable[[Sequence[int], int], Iterator[object]]  # something for each token, the tokens themselves at last


def satchel(model: str, threads: int) -> Writer:
    import numpy as np

    from satchel_runtimes import load
    from satchel_runtimes.generation import GenerationConfig, Prompt, stream

    session = load(model, threads=threads).graphs["model"]

    def write(ids: Sequence[int], tokens: int) -> Iterator[object]:
        config = GenerationConfig(max_new_tokens=tokens)
        prompt = Prompt(np.array(ids), len(ids) + tokens)
        found = []
        for (chosen,) in stream(session, [prompt], config):
            assert chosen is not None  # a single text
            found.append(chosen.token)
            yield None
        yield found

    return write


def transformers(model: str, threads: int) -> Writer:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    return _generates(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval())


def optimum(model: str, threads: int) -> Writer:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return _generates(ORTModelForCausalLM.from_pretrained(model, session_options=options))


def _generates(model: object) -> Writer:
    """By transformers' own `generate`, whose streamer is told of each token."""
    import torch

    class Told:
        """Times alone: `generate` gives it the prompt first."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: object) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def write(ids: Sequence[int], tokens: int) -> Iterator[object]:
        told, given = Told(), torch.tensor([list(ids)])
        with torch.inference_mode():
            made = model.generate(  # type: ignore[attr-defined]  # of one of many classes
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                streamer=told,
            )
        yield from told.times[1:]
        yield made[0, len(ids) :].tolist()

    return write


def genai(model: str, threads: int) -> Writer:
    import onnxruntime_genai as og

    config = og.Config(model)
    options = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    opened = og.Model(config)

    def write(ids: Sequence[int], tokens: int) -> Iterator[object]:
        params = og.GeneratorParams(opened)
        length = len(ids) + tokens
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = og.Generator(opened, params)
        generator.append_tokens(list(ids))
        found = []
        for _ in range(tokens):
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
            yield None
        yield found

    return write


KINDS = {each.__name__: each for each in (satchel, transformers, optimum, genai)}


def _peak_mb() -> float:
    """Of this process: what Linux says of its own pages, for a child inherits its parent's figure over exec."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def main(kind: str, model: str, threads: int) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    write = KINDS[kind](model, threads)
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        times, ids = [], None
        start = time.perf_counter()
        for each in write(asked["ids"], asked["tokens"]):
            if isinstance(each, list):
                ids = each
            else:
                times.append((each if isinstance(each, float) else time.perf_counter()) - start)
        made = {"first": times[0], "last": times[-1], "ids": ids, "peak_mb": _peak_mb()}
        print(json.dumps(made), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""A language model as large as one likes, written layer by layer, and the memory of a process with all that it starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch
import transformers
from safetensors.torch import save_file

__all__ = ["Usage", "random_llama", "room_for", "watched"]


def random_llama(
    folder: Path,
    tokenizer: transformers.PreTrainedTokenizerBase,
    *,
    hidden: int,
    inner: int,
    layers: int,
    tied: bool,
    vocabulary: int = 0,
) -> int:
    """Write a Llama of random bfloat16 weights in several safetensors files; the number of its parameters. No more than one
    layer is in memory at a time."""
    heads = hidden // 64
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = transformers.LlamaConfig(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
        **special,
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    parts = [_ends(config, tied), *(_layer(config, number) for number in range(layers))]
    files: dict[str, str] = {}
    count = size = 0
    for number, part in enumerate(parts):
        file = f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        tensors = {name: _weights(shape) for name, shape in part.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
        count += sum(each.numel() for each in tensors.values())
        size += sum(each.nbytes for each in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return count


def _ends(config: transformers.LlamaConfig, tied: bool) -> dict[str, Sequence[int]]:
    table = (config.vocab_size, config.hidden_size)
    return {
        "model.embed_tokens.weight": table,
        "model.norm.weight": (config.hidden_size,),
        **({} if tied else {"lm_head.weight": table}),
    }


def _layer(config: transformers.LlamaConfig, number: int) -> dict[str, Sequence[int]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * hidden // config.num_attention_heads
    shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {f"model.layers.{number}.{name}.weight": shape for name, shape in shapes.items()}


def _weights(shape: Sequence[int]) -> torch.Tensor:
    """So that each layer matters and what comes next is clear now and then: a product's result is twice as lively as it was."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(*shape) * (2.0 / shape[1] ** 0.5)).to(torch.bfloat16)


class Usage:
    """What a process and its descendants held, sampled: of pages that several map, each its part (PSS)."""

    def __init__(self) -> None:
        self.peak = 0
        self.by_stage: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.stage = "start"

    def add(self, used: int, seconds: float) -> None:
        self.peak = max(self.peak, used)
        self.by_stage[self.stage] = max(self.by_stage.get(self.stage, 0), used)
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + seconds


def watched(command: Sequence[str], *, every: float = 0.1) -> tuple[subprocess.CompletedProcess[str], Usage]:
    """Run a command to its end. The stage is the last that it named on stderr, as `satchel convert` does."""
    usage = Usage()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said: list[str] = []

    def read() -> None:
        assert process.stderr is not None  # PIPE above
        for line in process.stderr:
            said.append(line)
            word = line.strip().partition(" ")[0].rstrip(":")
            usage.stage = word if word.isalpha() else usage.stage

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    before = time.monotonic()
    while process.poll() is None:
        now = time.monotonic()
        usage.add(sum(_held(process.pid)), now - before)
        before = now
        time.sleep(every)
    reader.join()
    assert process.stdout is not None
    return subprocess.CompletedProcess(command, process.returncode, process.stdout.read(), "".join(said)), usage


def _held(pid: int) -> Iterator[int]:
    """Bytes of each process of the tree. Reading them takes the kernel a moment, and a process may end meanwhile."""
    try:
        found = psutil.Process(pid)
        tree = [found, *found.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in tree:
        try:
            for line in Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    yield int(line.split()[1]) * 1024
        except OSError:
            continue


def room_for(memory: int, disk: int, folder: Path) -> str:
    """Why there is not so much memory and disk; empty where there is."""
    free = psutil.virtual_memory().available
    if free < memory:
        return f"{free / 1e9:.1f} GB of memory are free, {memory / 1e9:.1f} are needed"
    left = shutil.disk_usage(folder).free
    if left < disk:
        return f"{left / 1e9:.1f} GB of disk are free, {disk / 1e9:.1f} are needed"
    if not os.path.isfile("/proc/self/smaps_rollup"):
        return "this system does not say what memory a process holds"
    return ""

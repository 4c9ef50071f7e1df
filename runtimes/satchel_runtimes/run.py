"""What a bundle costs on one machine, as `bench` finds it and as JSON carries it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from .manifest import to_plain
from .measure import Latency

__all__ = ["Cold", "Json", "Run", "Throughput", "Writing"]

Json = Any  # what `json.loads` gives back for a run


@dataclass(frozen=True)
class Throughput:
    """Inputs per second where `predict` gets a list of mixed lengths; the bounds are of the median, at 95 %."""

    inputs: int
    batch_size: int
    per_second: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Writing:
    """Tokens a second behind the first one, one text at a time; the bounds are of the median, at 95 %."""

    tokens: int
    per_second: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Cold:
    """A fresh process to its first answer, or a page. `process_s` is all of it, from its start to its exit."""

    n: int
    process_s: float
    fastest_s: float
    slowest_s: float
    import_s: float
    load_s: float
    predict_s: float
    peak_rss_bytes: Optional[int]  # None where a browser does not tell


@dataclass(frozen=True)
class Run:
    """One bundle, measured on one machine. Latency is of `predict`, text in and answer out, by tokens of the input; where the
    task writes, out comes the first token."""

    bundle: str
    device: str
    format: str
    scheme: str
    engine: str
    task: str
    threads: Optional[int]  # None: as many as the engine likes
    latency: Mapping[int, Latency]
    throughput: Optional[Throughput]  # None of a page in a browser, which answers one input at a time
    cold: Optional[Cold]
    size_bytes: int
    machine: Mapping[str, object]
    load_before: tuple[float, ...]
    load_after: tuple[float, ...]
    versions: Mapping[str, Optional[str]]
    when: str
    together: str  # the same for runs that were measured in turn
    samples: Mapping[int, np.ndarray] = field(compare=False, repr=False)  # seconds; in memory only
    shape: str = ""  # the one shape of inputs without a length: 224x224; latency is by its height
    writing: Optional[Writing] = None
    spoken_s: Mapping[int, float] = field(default_factory=dict)  # of a task that speaks: seconds of sound, by tokens

    def to_plain(self) -> dict[str, Json]:
        """As JSON knows it, lengths as strings; without the single samples."""
        plain: dict[str, Json] = to_plain(dataclasses.replace(self, samples={}))
        del plain["samples"]
        for name in ("latency", "spoken_s"):
            plain[name] = {str(tokens): each for tokens, each in plain[name].items()}
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Json]) -> Run:
        """A run that another machine made, without its single samples."""
        latency = {int(tokens): Latency(**each) for tokens, each in plain["latency"].items()}
        cold = Cold(**plain["cold"]) if plain["cold"] else None
        made: dict[str, Json] = {
            "latency": latency,
            "throughput": Throughput(**plain["throughput"]) if plain["throughput"] else None,
            "cold": cold,
            "spoken_s": {int(tokens): each for tokens, each in plain["spoken_s"].items()},
            "samples": {},
        }
        made["writing"] = Writing(**plain["writing"]) if plain["writing"] else None
        return cls(**{**plain, **made})

    def to_json(self) -> str:
        return json.dumps(self.to_plain(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

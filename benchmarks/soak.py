"""Whether `predict` grows memory: 100,000 calls on int8 MiniLM with texts of many lengths, and lists now and then."""

from __future__ import annotations

import os
import random
from pathlib import Path

from satchel_runtimes import load
from setting import Figure, arguments, bundle, tell

_WORDS = [
    "where",
    "is",
    "my",
    "order",
    "and",
    "when",
    "will",
    "it",
    "come",
    "back",
    "to",
    "the",
    "shop",
    "in",
    "the",
    "old",
    "town",
    "of",
    "the",
    "north",
]
_LONGEST = 120  # words
_SETTLED = 10_000


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    asked = arguments(__doc__ or "", calls=100_000)
    choose = random.Random(0)
    predictor = load(bundle("int8-dynamic"), threads=1)
    before, sizes = os.getloadavg(), {}
    # onnxruntime's arena grows once for the largest input that it meets. Left to chance that came after 75,000 calls, a
    # step of 1.1 MiB that would read as growth; so it comes first, and what grows after it is a leak.
    longest = " ".join((_WORDS * _LONGEST)[:_LONGEST])
    predictor.predict(longest)
    predictor.predict([longest] * 3)
    for done in range(1, asked.calls + 1):
        words = min(int(choose.expovariate(1 / 8)) + 1, _LONGEST)  # mostly questions, some paragraphs
        text = " ".join(choose.choices(_WORDS, k=words))
        predictor.predict([text, text[:20], "Yes."] if done % 50 == 0 else text)
        if done % (asked.calls // 20 or 1) == 0 or done == min(_SETTLED, asked.calls):
            sizes[done] = rss_mb()
    settled = sizes[min(_SETTLED, asked.calls)]
    figures = [Figure(f"RSS after {done:,} calls", round(mb, 2), mb, mb, 1, "MiB") for done, mb in sizes.items()]
    growth = sizes[asked.calls] - settled
    figures.append(Figure(f"growth after the first {_SETTLED:,} calls", growth, growth, growth, 1, "MiB", target=1.0))
    tell(f"{asked.calls:,} calls of predict", figures, before, asked.json, "1 thread")


if __name__ == "__main__":
    main()

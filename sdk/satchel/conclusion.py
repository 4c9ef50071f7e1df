"""What a comparison comes to, in sentences: which candidate ships, what else would be worth a look, and what to mind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from satchel_benchmarks.comparison import compare as speed
from satchel_runtimes.manifest import to_plain

from .choice import Choice
from .compared import NO_TOOLCHAIN, Pair, Row, figure_words
from .options import Prepared

__all__ = ["notes_on", "summary_of"]

_FASTER = 1.1  # the lower bound of a speed-up that is worth a word
_SMALLER = 0.9
_MB = 2**20


def summary_of(prepared: Prepared, ships: Row | None, choice: Choice) -> str:
    device, options = prepared.profile.name, prepared.options
    if ships is not None:
        among = "of these, the first" if options.formats or options.schemes else "the first"
        return f"{ships.label} ships: {among} in the order of {device} that passes every gate."
    error = choice.error
    return f"Nothing ships for {device}: {error.what} {error.why}" if error else f"Nothing ships for {device}."


def notes_on(
    prepared: Prepared, rows: Sequence[Row], pairs: Sequence[Pair], ships: Row | None, *, absolute: bool
) -> tuple[str, ...]:
    return (
        *_missing(rows),
        *(_other(prepared, rows, row, ships) for row in rows if row.passed and row is not ships and _worth(row, ships)),
        *_machine(prepared, rows, absolute),
        *_cut(rows, pairs),
        *_apart(prepared, pairs),
    )


def _missing(rows: Sequence[Row]) -> Iterator[str]:
    for format in dict.fromkeys(row.format for row in rows if row.status == NO_TOOLCHAIN):
        row = next(each for each in rows if each.format == format and each.status == NO_TOOLCHAIN)
        yield f"{format} was not compared: {row.why}; {row.fix}."


def _worth(row: Row, ships: Row | None) -> bool:
    return ships is None or _faster(ships, row) is not None or _smaller(ships, row)


def _faster(ships: Row, row: Row) -> tuple[int, float] | None:
    """The longest input that both were measured with, and the speed there, where it is surely higher."""
    if ships.run is None or row.run is None:
        return None
    found = speed(ships.run, row.run)
    last = max(found, key=lambda each: each.tokens, default=None)
    return (last.tokens, last.ratio.value) if last and last.ratio and last.ratio.low > _FASTER else None


def _smaller(ships: Row, row: Row) -> bool:
    return row.size_bytes is not None and ships.size_bytes is not None and row.size_bytes <= _SMALLER * ships.size_bytes


def _other(prepared: Prepared, rows: Sequence[Row], row: Row, ships: Row | None) -> str:
    """A passing candidate that does not ship, beside the one that does."""
    way = f"--format {row.format}"
    first = next(each for each in rows if each.format == row.format and each.passed)
    if first is not row or prepared.options.schemes:
        way += f" --quantize {row.scheme}"
    if ships is None:
        return f"{row.label} passes every gate; {way} ships it."
    words = []
    faster = _faster(ships, row)
    if faster is not None:
        words.append(
            f"{faster[1]:.1f} × as fast as {ships.label} at {ships.run.shape if ships.run and ships.run.shape else f'{faster[0]} tokens'}"
        )
    if row.size_bytes is not None and ships.size_bytes is not None:
        more = (row.size_bytes - ships.size_bytes) / _MB
        words.append(f"{abs(more):.1f} MiB {'larger' if more > 0 else 'smaller'}")
    return f"{row.label} is {' and '.join(words)}; {way} ships it."


def _machine(prepared: Prepared, rows: Sequence[Row], absolute: bool) -> Iterator[str]:
    runs = [row.run for row in rows if row.run is not None]
    if runs and not absolute:
        yield (
            f"Speed and memory were measured on {runs[0].machine['processor'] or 'this machine'}, not on "
            f"{prepared.profile.name}: sizes and answers hold there, the order by speed may not."
        )
    load = max([each[0] for run in runs for each in (run.load_before, run.load_after) if each], default=0.0)
    cores = runs[0].machine["cores"] if runs else None
    if isinstance(cores, int) and load > cores:
        yield f"The machine was busy (load {load:.1f} on {cores} cores): ratios hold better than milliseconds."


def _cut(rows: Sequence[Row], pairs: Sequence[Pair]) -> Iterator[str]:
    longest = {row.format: row.max_tokens for row in rows if row.max_tokens is not None}
    if len(set(longest.values())) > 1:
        words = ", ".join(f"{format} at {tokens}" for format, tokens in longest.items())
        left = max((pair.left_out for pair in pairs), default=0)
        apart = f"; the {left} samples where that differs are not compared between formats" if left else ""
        yield f"Longer texts are cut: {words} tokens{apart}."


def _apart(prepared: Prepared, pairs: Sequence[Pair]) -> Iterator[str]:
    """Formats that should say the same in the same scheme, and do not."""
    for pair in pairs:
        task = next((name for name in prepared.tasks if name in pair.parity and not pair.parity[name].passed), None)
        if task is not None and pair.one.partition(" ")[2] == pair.other.partition(" ")[2]:
            found = pair.parity[task]
            why = found.why or figure_words(to_plain(found))
            yield f"{pair.one} and {pair.other} differ by more than {pair.numbers} allows: {task}, {why}."

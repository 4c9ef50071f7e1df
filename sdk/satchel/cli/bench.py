"""satchel bench"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from .show import as_json, numbers, progress_on_stderr, table

__all__ = ["bench", "on_options"]


def on_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reaches for a device."""
    command = click.option(
        "--python", help="The interpreter on the device, e.g. satchel/bin/python; python3 by default."
    )(command)
    return click.option(
        "--on",
        "targets",
        multiple=True,
        metavar="TARGET",
        help="local, ssh://[user@]host[:port], browser, or adb://serial; several in turn.",
    )(command)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@on_options
@click.option("--sustain", type=float, default=0.0, metavar="MINUTES", help="With --on: minutes of load afterwards.")
@click.option("--profile", is_flag=True, help="With --on: time by operator too, after all that is timed.")
@click.option("--https", is_flag=True, help="With --on browser: a link over https, so that a page has all threads.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    help="For --https: a PEM file with a certificate that the phone trusts, and its key.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The runs as a file for `satchel report`.")
@click.option(
    "--compare",
    "old",
    type=click.Path(path_type=Path),
    help="An earlier --out; exit 12 where this is slower beyond noise.",
)
@click.option("--threads", type=int, help="Threads of the engine; the bundle's own preference by default.")
@click.option("--lengths", default="16,64,128", show_default=True, help="Tokens of the inputs.")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Time limit per length.")
@click.option("--runs", type=int, default=500, show_default=True, help="Limit of runs per length.")
@click.option("--warmup", type=int, default=5, show_default=True, help="Runs that are not counted.")
@click.option("--cold-starts", type=int, default=5, show_default=True, help="Fresh processes to start.")
@click.option("--delegate", help="An accelerator of the engine, by name or by the path of its library.")
@click.option("--cores", help="NeuronCores of a Neuron bundle: 4, 7-15 or 0,2-3.")
@click.option(
    "--trust", is_flag=True, help="Load a bundle whose graphs are code (torchscript), from a source you trust."
)
@click.option("--json", "json_", is_flag=True, help="The runs on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def bench(
    bundles: tuple[Path, ...],
    targets: tuple[str, ...],
    python: str | None,
    sustain: float,
    profile: bool,
    https: bool,
    certificate: Path | None,
    out: Path | None,
    old: Path | None,
    lengths: str,
    seconds: float,
    runs: int,
    json_: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Measure BUNDLES: latency by input length, a list, cold start in a fresh process, peak memory.

    On this machine several bundles are measured in turn and compared with the first. A ratio is not reported where the
    spread makes it meaningless; the table says so. With --on each bundle is copied to the device, its golden samples are
    replayed there (exit 10 where they differ), and only then is it measured.

    \b
    satchel bench minilm.satchel
    satchel bench minilm.satchel --on local --on ssh://pi@raspberrypi.local --sustain 5 -o runs.json
    satchel bench minilm.satchel --on ssh://pi@raspberrypi.local --compare runs.json
    satchel bench minilm.satchel --on browser --https
    """
    from satchel_benchmarks.comparison import compare, regressions
    from satchel_benchmarks.comparison import table as rows_of
    from satchel_benchmarks.transports.device import OWN
    from satchel_runtimes.bench import bench as measure
    from satchel_runtimes.errors import UsageError
    from satchel_runtimes.manifest import to_plain
    from satchel_runtimes.run import Run

    from ..on_devices import bench_on, read_runs, write_runs
    from ..progress import Reporter

    before = read_runs(old) if old is not None else None
    if sustain and not targets:
        raise UsageError("Cannot --sustain.", why="it needs a process of its own", fix="add --on local")
    if profile and not targets:
        raise UsageError("Cannot --profile.", why="it is done by a device's agent", fix="add --on local")
    secure = str(certificate) if certificate else OWN if https else None
    if secure is not None and not any(each.partition(":")[0] == "browser" for each in targets):
        raise UsageError("Cannot serve https.", why="nothing is served to a browser here", fix="add --on browser")
    if (out is not None or old is not None) and not targets:
        targets = ("local",)
    settings = {"lengths": numbers(lengths), "max_seconds": seconds, "max_runs": runs, **given}
    with progress_on_stderr(quiet=quiet) as progress:
        reporter = Reporter(progress, None)

        def tell(words: str) -> None:
            reporter.tell("bench", words)

        if targets:
            asked = {**settings, "sustain_s": sustain * 60, "profile": profile}
            results = bench_on(targets, bundles, asked, python=python, https=secure, tell=tell)
            found: Sequence[Run] = [Run.from_plain(each["run"]) for each in results]
        else:
            found = measure(*bundles, **settings, on_step=tell)
            results = []
    if out is not None:
        write_runs(results, out)
    comparisons = [compare(found[0], other) for other in found[1:]]
    worse = regressions(before, results) if before is not None else []
    if json_:
        as_json(
            {
                "runs": [run.to_plain() for run in found],
                "results": results,
                "against_first": [to_plain(comparison) for comparison in comparisons],
                "against_old": [to_plain(each) for each in worse],
            }
        )
    else:
        head, *rows = rows_of(found)
        names = list(dict.fromkeys(f"{run.machine['processor']}, {run.machine['cores']} cores" for run in found))
        table("; ".join(names), head, [*_of_devices(results), *rows])
        _show_comparisons(found, comparisons)
        _show_profiles(results)
        for each in worse:
            click.echo(f"{each.what}: {each.words}")
    if any(each.slower for each in worse):
        raise _slower(worse, old)


def _of_devices(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows that only runs on devices have."""
    if not results:
        return []
    rows = [
        (
            "on",
            *(each["on"] + (" (emulated)" if each["run"]["machine"].get("emulated") else "") for each in results),
        ),
        ("golden samples", *(each["replay"]["finding"] for each in results)),
    ]
    if any("sustained" in each for each in results):
        rows.append(("first and last minute, ms", *(_sustained_words(each.get("sustained")) for each in results)))
    return rows


def _show_profiles(results: Sequence[Mapping[str, Any]]) -> None:
    for each in results:
        found = each.get("profile")
        if not found:
            continue
        name = f"{each['bundle']['name']} {each['bundle']['format']} {each['bundle']['scheme']} on {each['on']}"
        if found["why"]:
            click.echo(f"\n{name}: no time by operator: {found['why']}")
            continue
        rows = [
            (row["operator"], row["component"], str(row["nodes"]), f"{row['ms']:.3f}", f"{row['share']:.0%}")
            for row in found["operators"][:10]
        ]
        click.echo()
        table(f"{name}, by operator", ("operator", "component", "nodes", "ms a call", "share"), rows)


def _sustained_words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    temperatures = [each["celsius"] for each in found["windows"] if each["celsius"] is not None]
    warm = f", {temperatures[0]:.0f} to {max(temperatures):.0f} °C" if temperatures else ""
    joules = found["joules_per_call"]
    energy = f", {joules * 1e3:.1f} mJ a call ({found['sensor']})" if joules is not None else ""
    return f"{found['first']['p50_ms']:.2f}, {found['last']['p50_ms']:.2f}{warm}{energy}"


def _show_comparisons(found: Sequence[Any], comparisons: Sequence[Any]) -> None:
    first = found[0]
    for other, comparison in zip(found[1:], comparisons, strict=True):
        click.echo(
            f"\n{other.bundle} {other.format} {other.scheme} against {first.bundle} {first.format} {first.scheme}"
        )
        for each in comparison:
            ratio = each.ratio
            said = (
                f"{ratio.value:.2f} x as fast ({ratio.low:.2f} to {ratio.high:.2f})"
                if ratio
                else f"no ratio: {each.why}"
            )
            click.echo(f"  {first.shape or f'{each.tokens} tokens'}: {said}")


def _slower(worse: Sequence[Any], old: Path | None) -> Exception:
    from satchel_runtimes.errors import LatencyError

    named = [each for each in worse if each.slower]
    return LatencyError(
        f"{len(named)} of {len(worse)} figures are slower than in {old}.",
        why="; ".join(f"{each.what}: {each.words}" for each in named),
        fix="look at what changed since then, or write a new baseline with --out",
    )

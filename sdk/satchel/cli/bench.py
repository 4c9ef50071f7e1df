"""satchel bench"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .show import as_json, numbers, progress_on_stderr, table

__all__ = ["bench"]


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
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
    bundles: tuple[Path, ...], lengths: str, seconds: float, runs: int, json_: bool, quiet: bool, **given: Any
) -> None:
    """Measure BUNDLES on this machine: latency by input length, a list, cold start in a fresh process, peak memory.

    Several bundles are measured in turn and compared with the first. A ratio is not reported where the spread makes it
    meaningless; the table says so.
    """
    from satchel_benchmarks.bench import bench as measure
    from satchel_benchmarks.run import compare
    from satchel_benchmarks.run import table as rows_of
    from satchel_runtimes.manifest import to_plain

    from ..progress import Reporter

    with progress_on_stderr(quiet=quiet) as progress:
        reporter = Reporter(progress, None)
        found = measure(
            *bundles,
            lengths=numbers(lengths),
            max_seconds=seconds,
            max_runs=runs,
            on_step=lambda words: reporter.tell("bench", words),
            **given,
        )
    comparisons = [compare(found[0], other) for other in found[1:]]
    if json_:
        as_json(
            {
                "runs": [run.to_plain() for run in found],
                "against_first": [to_plain(comparison) for comparison in comparisons],
            }
        )
        return
    head, *rows = rows_of(found)
    table(f"{found[0].machine['processor']}, {found[0].machine['cores']} cores", head, rows)
    for other, comparison in zip(found[1:], comparisons, strict=True):
        click.echo(
            f"\n{other.bundle} {other.format} {other.scheme} against {found[0].bundle} {found[0].format} {found[0].scheme}"
        )
        for each in comparison:
            ratio = each.ratio
            said = (
                f"{ratio.value:.2f} x as fast ({ratio.low:.2f} to {ratio.high:.2f})"
                if ratio
                else f"no ratio: {each.why}"
            )
            click.echo(f"  {found[0].shape or f'{each.tokens} tokens'}: {said}")

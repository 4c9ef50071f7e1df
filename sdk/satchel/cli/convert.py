"""satchel convert"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .show import as_json, columns, progress_on_stderr, size, table

__all__ = ["convert", "show"]


@click.command()
@click.argument("model", required=False)
@click.option("--device", help="A device profile (satchel devices), or the path of one in TOML.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The bundle's folder.  [default: <model>.satchel]")
@click.option("--format", "format_", help="One format (satchel formats); otherwise the first that passes.")
@click.option(
    "--quantize", help="One scheme, e.g. int8-dynamic; auto: the fastest that passes; otherwise the first that passes."
)
@click.option("--task", help="The main task (satchel tasks); inferred from the model by default.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--trust-remote-code", is_flag=True, help="Run the repository's own modelling code.")
@click.option("--opset", type=int, help="An older ONNX opset than the device's engine reads.")
@click.option("--sequence-length", type=int, help="Cut texts at this many tokens.")
@click.option("--threads", type=int, help="Threads of the engine on the device.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="A file of inputs that int8-static takes its ranges from."
)
@click.option("--calibration-method", help="minmax, percentile or entropy ranges of onnx int8-static.")
@click.option("--min-cosine", type=float, help="Of the worst calibration sample in int8-mixed.")
@click.option("--io-dtype", default="float32", show_default=True, help="float32, or int8 ends of int8-static graphs.")
@click.option("--toolchain", help="Convert in this toolchain's own environment (satchel toolchain list).")
@click.option("--max-convert-memory-mb", type=float, help="Stop a step that takes more memory than this, in MiB.")
@click.option("--max-convert-seconds", type=float, help="Stop a step of the conversion that takes longer.")
@click.option("--data", type=click.Path(path_type=Path), help="Labelled rows that candidates are judged on (exit 11).")
@click.option("--columns", callback=columns, metavar="A=B,…", help="Columns of the data, e.g. text=review,label=stars.")
@click.option("--drop-overlaps", is_flag=True, help="Leave rows out of training that evaluation has as well.")
@click.option("--max-drop", type=float, help="Refuse (exit 11) what loses more points on the data, e.g. 1.0.")
@click.option("--prune", help="Remove parts first, e.g. vocabulary,ffn=0.5 (docs/pruning.md); --data decides which.")
@click.option("--distill", help="Learn from the original, e.g. layers=3,epochs=3 (docs/distillation.md).")
@click.option("--vocoder", help="Of a model that writes spectrograms: a folder or a Hub id.")
@click.option(
    "--speaker", type=click.Path(path_type=Path), help="A .npy file: the voice that the bundle speaks with by default."
)
@click.option("--max-latency-ms", type=float, help="Refuse (exit 12) above this, at the longest measured input.")
@click.option("--max-size-mb", type=float, help="Refuse (exit 13) a larger bundle, in MiB.")
@click.option("--max-memory-mb", type=float, help="Refuse (exit 13) a higher peak of a fresh process, in MiB.")
@click.option("--prefer", default="latency", show_default=True, help="latency, or size to keep a slower small scheme.")
@click.option("--require", multiple=True, metavar="GATE", help="Refuse where this gate cannot be judged here.")
@click.option("--replace", is_flag=True, help="Exchange an existing bundle of that name, in one step.")
@click.option("--keep-failed", is_flag=True, help="Keep a refused bundle, marked so that no runtime loads it.")
@click.option("--no-cache", is_flag=True, help="Capture and export again, even if an earlier run did.")
@click.option("--report", type=click.Path(path_type=Path), help="Where the report goes.  [default: beside the bundle]")
@click.option(
    "--kit", is_flag=True, help="Write a compile kit, to be finished where the vendor's compiler is (inf1, inf2 …)."
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="A TOML file with these options by name; options beside it win."
)
@click.option("--write-recipe", type=click.Path(path_type=Path), help="Write the recipe that makes this bundle again.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done, what would be refused, and how large it would be."
)
@click.option("--json", "json_", is_flag=True, help="The report on stdout, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def convert(
    ctx: click.Context, /, recipe: Path | None, no_cache: bool, dry_run: bool, json_: bool, quiet: bool, **_: Any
) -> None:
    """Convert MODEL, a Hub id or a local folder, into a bundle for one device.

    Every candidate is replayed through the runtime that the device uses. One that is wrong, slow or too big is refused
    with its own exit code, and nothing is left behind but the report.

    \b
    satchel convert sentence-transformers/all-MiniLM-L6-v2 --device raspberry-pi-5 -o minilm.satchel
    satchel convert ./my-model --device generic-x86-64 --quantize int8-dynamic --max-size-mb 30 --json
    satchel convert --recipe recipe.toml
    """
    from ..convert import run
    from ..recipe import options_from

    options = options_from(recipe, {**_given(ctx), **({"cache": False} if no_cache else {})})
    if dry_run:
        _dry_run(options, json_)
        return
    reports: list[dict[str, Any]] = []
    try:
        with progress_on_stderr(quiet=quiet) as progress:
            done = run(options, progress=progress, on_report=reports.append)
    finally:
        for report in reports if json_ else ():
            as_json(report)
    if not json_:
        show(done.report)
        click.echo(f"\n{done.bundle}")
        if options.kit and not quiet:
            click.echo(f"a kit, not a bundle yet; where the compiler is: python {done.bundle / 'finish.py'}", err=True)


_OF_THE_COMMAND = ("recipe", "no_cache", "dry_run", "json_", "quiet")


def _given(ctx: click.Context) -> dict[str, Any]:
    """The options that stand on the command line, defaults left out: a recipe says the rest."""
    spoken = click.core.ParameterSource.COMMANDLINE
    return {
        name.rstrip("_"): value
        for name, value in ctx.params.items()
        if name not in _OF_THE_COMMAND and ctx.get_parameter_source(name) is spoken
    }


def show(report: dict[str, Any]) -> None:
    for each in report["candidates"]:
        rows = [(verdict["gate"], verdict["status"].replace("_", " "), verdict["why"]) for verdict in each["verdicts"]]
        table(f"{each['format']} {each['scheme']}", ("gate", "verdict", "figures"), rows)
    named = report["chosen"]
    chosen = next(
        each for each in report["candidates"] if (each["format"], each["scheme"]) == (named["format"], named["scheme"])
    )
    if report["kit"]:
        return  # how large the bundle is shows when it is compiled
    if report["compression"]:
        counts = report["compression"]["parameters"]
        click.echo(f"\ncompressed from {counts['before']:,} to {counts['after']:,} parameters")
    before, after = report["source_bytes"], chosen["size_bytes"]
    smaller = f": {before / after:.1f} x smaller" if after < before else ""
    if len(report["candidates"]) > 1:
        click.echo(f"\n{chosen['format']} {chosen['scheme']}: {report['choice']}")
    click.echo(f"\nsize   {size(before)} of weights before, {size(after)} bundle after{smaller}")


def _dry_run(options: Any, json_: bool) -> None:  # Any: Options, imported late
    from ..dry_run import forecast

    found = forecast(options)
    if json_:
        as_json(found)
        return
    click.echo(
        f"{found['model']} for {found['device']}: {', '.join(found['tasks'])}; {found['parameters']:,} parameters"
    )
    rows = [
        (
            f"{each['format']} {each['scheme']}",
            "would be refused" if each["refused"] else "would be tried",
            size(each["size_bytes"]),
            ", ".join(f"{tokens}: {ms:.1f}" for tokens, ms in each["estimate_ms"].items()) or "not known",
            each["why"] or each["engine"],
        )
        for each in found["candidates"]
    ]
    table("", ("candidate", "", "size, about", "ms by tokens, at least", ""), rows)
    click.echo(f"\nwould write {found['out']} and {found['report']}; nothing was written")

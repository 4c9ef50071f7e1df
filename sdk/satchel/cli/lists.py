"""satchel devices, formats, tasks: what there is to choose from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from .show import as_json, key_values, table

__all__ = ["devices", "formats", "tasks"]

_json = click.option("--json", "json_", is_flag=True, help="As JSON.")


class _Devices(click.Group):
    """`satchel devices NAME` shows a profile; what is no name is a command of its own."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            return "show", self.commands["show"], args
        return super().resolve_command(ctx, args)


@click.group(cls=_Devices, invoke_without_command=True, subcommand_metavar="[NAME | contribute RUN]")
@_json
@click.pass_context
def devices(ctx: click.Context, json_: bool) -> None:
    """List device profiles, or show the one called NAME.

    \b
    satchel devices
    satchel devices raspberry-pi-5
    satchel devices contribute runs.json
    """
    from satchel_device_profiles import list_profiles, load_profile

    ctx.obj = json_
    if ctx.invoked_subcommand is not None:
        return
    profiles = [load_profile(each) for each in list_profiles()]
    if json_:
        as_json([dataclasses.asdict(each) for each in profiles])
        return
    rows = [
        (each.name, each.title, each.kind, ", ".join(each.formats), ", ".join(each.schemes), _memory(each.memory_mb))
        for each in profiles
    ]
    table("", ("device", "what it is", "kind", "formats", "schemes, best first", "memory"), rows)


@devices.command("show", hidden=True)
@click.argument("name")
@_json
@click.pass_obj
def _show(wanted: bool, name: str, json_: bool) -> None:
    """Show the profile called NAME."""
    from satchel_device_profiles import load_profile

    about = dataclasses.asdict(load_profile(name))
    if json_ or wanted:
        as_json(about)
    else:
        key_values(about["title"], {key: _words(value) for key, value in _known(about).items()})


@devices.command("contribute")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--device", help="The profile that the runs belong to; the one that their bundles were built for by default."
)
@click.option("--number", type=int, help="Of a file with several runs only this one, numbered as in `satchel report`.")
@_json
@click.pass_obj
def _contribute(wanted: bool, run: Path, device: str | None, number: int | None, json_: bool) -> None:
    """Check RUN, a file that `satchel bench --out` wrote, and format it as entries of a device profile.

    What was emulated, answered wrongly, or measured on a busy or throttled machine is refused.
    """
    from satchel_runtimes.errors import UsageError

    from ..contribute import entries_of, toml_of
    from ..on_devices import read_runs

    results = read_runs(run)
    if number is not None:
        if not 1 <= number <= len(results):
            raise UsageError(f"Cannot take run {number}.", why=f"the file has {len(results)}", fix="name one of them")
        results = [results[number - 1]]
    profile, entries = entries_of(results, device)
    plain = [dataclasses.asdict(each) for each in entries]
    if json_ or wanted:
        as_json({"device": profile.name, "runs": plain})
        return
    click.echo(toml_of(plain), nl=False)
    click.echo(
        f"Add this to the profile {profile.name}: device_profiles/satchel_device_profiles/data/, or your own file.",
        err=True,
    )


@click.command()
@_json
def formats(json_: bool) -> None:
    """List the formats that this satchel writes, and the schemes of each."""
    from satchel_converters.format import format_of, list_formats

    found = [format_of(name) for name in list_formats()]
    if json_:
        as_json(
            [
                {
                    "name": each.name,
                    "about": each.about,
                    "engine": each.engine,
                    "shapes": each.shapes,
                    "needs": each.packages,
                    "schemes": [dataclasses.asdict(scheme) for scheme in each.schemes.values()],
                }
                for each in found
            ]
        )
        return
    rows = [
        (each.name, scheme.name, scheme.purpose, f"{each.engine} {scheme.engine}", scheme.about)
        for each in found
        for scheme in each.schemes.values()
    ]
    table("", ("format", "scheme", "for", "engine", "what it is"), rows)


@click.command()
@_json
def tasks(json_: bool) -> None:
    """List the tasks, named as in transformers.pipeline, and the options of each."""
    from satchel_runtimes.tasks import list_tasks, task_class

    found = [task_class(name) for name in list_tasks()]
    if json_:
        as_json([{"name": each.name, "options": dict(each.options), "heads": each.architectures} for each in found])
        return
    rows = [(each.name, ", ".join(each.architectures), ", ".join(each.options) or "none") for each in found]
    table("", ("task", "architectures that end in", "options of predict"), rows)


def _known(about: dict[str, Any]) -> dict[str, Any]:
    """An unknown fact is absent, in the file and here."""
    return {key: value for key, value in about.items() if value not in (None, (), {}) and _words(value)}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(
            f"{key} {_words(each)}" for key, each in value.items() if each not in (None, (), {}) and _words(each)
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(each) for each in value)
    return "" if value is None else str(value)


def _memory(memory_mb: float | None) -> str:
    return f"{memory_mb:g} MiB" if memory_mb is not None else "not known"

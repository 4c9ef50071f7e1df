"""satchel devices, formats, tasks: what there is to choose from."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from .show import as_json, key_values, table

__all__ = ["devices", "formats", "tasks"]

_json = click.option("--json", "json_", is_flag=True, help="As JSON.")


@click.command()
@click.argument("name", required=False)
@_json
def devices(name: str | None, json_: bool) -> None:
    """List device profiles, or show the one called NAME."""
    from satchel_device_profiles import list_profiles, load_profile

    if name is not None:
        about = dataclasses.asdict(load_profile(name))
        if json_:
            as_json(about)
        else:
            key_values(about["title"], {key: _words(value) for key, value in _known(about).items()})
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

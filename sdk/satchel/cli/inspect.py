"""satchel inspect"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .show import as_json, key_values, size, table

__all__ = ["inspect"]

_MANY = ("golden/pictures/", "golden/sounds/")  # one row for all of each


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "json_", is_flag=True, help="The manifest on stdout, as JSON.")
def inspect(bundle: Path, json_: bool) -> None:
    """Show what BUNDLE holds. Its files are hashed, its graphs are not loaded."""
    from satchel_runtimes.bundle import open_bundle
    from satchel_runtimes.manifest import to_plain

    manifest = open_bundle(bundle, allow_failed=True).manifest
    if json_:
        as_json(to_plain(manifest))
        return
    source, target, engine = manifest.source, manifest.target, manifest.target.engine
    key_values(
        f"{manifest.name}{'  (REFUSED by its gates, kept with --keep-failed)' if manifest.failed else ''}",
        {
            "tasks": ", ".join(each.name for each in manifest.tasks),
            "source": f"{source.id} {source.revision or ''}".strip(),
            "model": f"{source.architecture}, {source.parameters:,} parameters, license {source.license or 'not stated'}",
            "device": target.device,
            "artifact": f"{target.format} {target.scheme}, {size(manifest.measured.size_bytes)}",
            "engine": str(engine),
            "options": ", ".join(f"{key}={value}" for key, value in engine.options.items()) or "none",
            "made with": ", ".join(f"{name} {version}" for name, version in manifest.toolchain.items()),
            "decided": _words(manifest.measured.notes) or "nothing beyond the scheme",
            "measured on": manifest.measured.where,
            "gates": ", ".join(
                f"{gate} {status.replace('_', ' ')}" for gate, status in manifest.measured.verdicts.items()
            ),
        },
    )
    layers = manifest.measured.notes.get("sensitivity", {}).get("layers", ())
    if layers:
        click.echo()
        rows = [
            (each["name"], f"{each['damage']:.5f}", f"{each['cost']:,.0f}", "better precision" if each["kept"] else "")
            for each in layers
        ]
        table("", ("layer", "damage", "cost", ""), rows)
    graphs = [
        (
            graph.component,
            graph.file,
            "; ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in graph.inputs),
            "; ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in graph.outputs),
        )
        for graph in manifest.graphs
    ]
    click.echo()
    table("", ("graph", "file", "inputs", "outputs"), graphs)
    click.echo()
    files = [
        (name, size(digest.bytes), digest.sha256[:16])
        for name, digest in manifest.files.items()
        if not name.startswith(_MANY)
    ]
    for folder in _MANY:
        held = [digest.bytes for name, digest in manifest.files.items() if name.startswith(folder)]
        files += [(f"{folder}*, {len(held)} files", size(sum(held)), "")] if held else []
    table("", ("file", "size", "sha256"), files)


def _words(notes: Mapping[str, Any]) -> str:  # Any: JSON
    """What fits in a line; the layers have a table of their own."""
    return "; ".join(f"{name} {value}" for name, value in notes.items() if not isinstance(value, (dict, list)))

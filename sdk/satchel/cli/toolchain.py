"""satchel toolchain"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .show import as_json, size, table

__all__ = ["overview", "show_overview", "toolchain"]


@click.group()
def toolchain() -> None:
    """Converters in environments of their own.

    For a format whose packages this environment lacks, or must not have. `satchel convert` uses an installed toolchain
    by itself where a package is missing here, or where --toolchain names it.
    """


@toolchain.command("install")
@click.argument("name")
@click.option(
    "--python", type=click.Path(path_type=Path), help="The Python to use.  [default: the one that runs satchel]"
)
@click.option("--replace", is_flag=True, help="Remove what is installed first, and install it again.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def install_(name: str, python: Path | None, replace: bool, quiet: bool) -> None:
    """Install the toolchain NAME, with pinned packages. One that is installed already is left as it is."""
    from satchel_converters.toolchains import toolchain_of
    from satchel_converters.toolchains.install import install

    def tell(line: str) -> None:
        if not quiet and line:
            shown = line if len(line) <= 150 else f"{line[:150]} …"
            click.echo(f"toolchain: {shown}", err=True)

    done = install(toolchain_of(name), tell, python=python, replace=replace)
    tell(f"{name} is installed: {size(done.bytes)}, Python {done.python_version}")
    click.echo(done.folder)


@toolchain.command("list")
@click.option("--json", "json_", is_flag=True, help="As JSON.")
def list_(json_: bool) -> None:
    """List the toolchains, and which of them are installed where."""
    if json_:
        as_json(overview())
    else:
        show_overview("")


@toolchain.command("remove")
@click.argument("name")
def remove_(name: str) -> None:
    """Remove the toolchain NAME, also what an interrupted install or another version of satchel left of it."""
    from satchel_converters.toolchains import toolchain_of
    from satchel_converters.toolchains.install import remove

    removed = remove(toolchain_of(name).name)
    for folder in removed:
        click.echo(folder)
    if not removed:
        click.echo(f"{name} is not installed", err=True)


def overview() -> list[dict[str, Any]]:
    """What there is, for `list` and `doctor`."""
    from satchel_converters.toolchains import find_installed, folders_of, list_toolchains, toolchain_of

    rows = []
    for each in map(toolchain_of, list_toolchains()):
        found = find_installed(each)
        rows.append(
            {
                "name": each.name,
                "about": each.about,
                "formats": each.formats,
                "installed": found is not None,
                "folder": str(found.folder) if found else None,
                "bytes": found.bytes if found else None,
                "needs_mb": each.disk_mb,
                "python": found.python_version if found else None,
                "needs_python": each.python,
                "left_over": [str(folder) for folder in folders_of(each.name) if not found or folder != found.folder],
                "fix": "" if found else f"satchel toolchain install {each.name}",
            }
        )
    return rows


def show_overview(title: str) -> None:
    rows = []
    for each in overview():
        state = f"Python {each['python']}" if each["installed"] else f"missing; needs Python {each['needs_python']}"
        taken = size(each["bytes"]) if each["installed"] else f"about {each['needs_mb']} MiB"
        rows.append((each["name"], ", ".join(each["formats"]), state, taken, each["folder"] or each["fix"]))
        rows += [
            ("", "", "left over", "", f"{folder}; satchel toolchain remove {each['name']}")
            for folder in each["left_over"]
        ]
    table(title, ("toolchain", "converts to", "environment", "size", "where, or how to get it"), rows)

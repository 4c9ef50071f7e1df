"""satchel verify"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .show import as_json, table

__all__ = ["verify"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=int, help="Threads of the engine.")
@click.option(
    "--trust", is_flag=True, help="Load a bundle whose graphs are code (torchscript), from a source you trust."
)
@click.option("--allow-failed", is_flag=True, help="Look at a bundle that its gates refused.")
@click.option("--json", "json_", is_flag=True, help="The result on stdout, as JSON.")
def verify(bundle: Path, threads: int | None, trust: bool, allow_failed: bool, json_: bool) -> None:
    """Hash every file of BUNDLE, then replay its golden samples on this machine.

    Two comparisons: with the model that was converted (was the model kept?) and with the same artifact on the machine
    that built it (does this machine compute the same?). The last line says which of the two differs. A difference is
    exit 10, a damaged file exit 16.
    """
    from satchel_runtimes import load
    from satchel_runtimes.findings import findings
    from satchel_runtimes.golden import replay

    with load(bundle, threads=threads, trust=trust, allow_failed=allow_failed) as predictor:
        found = findings(replay(predictor), predictor.manifest.target.scheme)
        files = len(predictor.manifest.files)
    if json_:
        about = {"bundle": str(bundle), "files": files, "passed": found.passed}
        as_json({**about, "finding": found.finding, "says": found.says, "parity": found.rows})
    else:
        click.echo(f"{files} files match their digests")
        table("", ("against", "task", "verdict", "figures"), [_row(each) for each in found.rows])
    found.check(bundle)
    if not json_:
        click.echo(f"\n{found.says}")


def _row(each: dict[str, Any]) -> tuple[str, str, str, str]:
    figures = "; ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in each["figures"].items())
    return each["against"], each["task"], "same" if each["passed"] else "DIFFERENT", figures or each["why"]

"""satchel verify"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .show import as_json, table

__all__ = ["verify"]

# By `Replay.finding`: the comparison that shows it, and what it means with what to do about it.
_AGAINST = {
    "conversion": "the converted model",
    "device": "this artifact where it was built",
    "lists": "the converted model, in batches",
}
_FINDINGS = {
    "same": ("this machine computes what the build machine did, and {} keeps the model within its limits", ""),
    "device": (
        "this machine computes something else than the one that built the bundle",
        "update the engine on this machine, or convert for it again; do not ship this bundle here",
    ),
    "conversion": (
        "this machine computes what the build machine did; it is the conversion to {} that costs more than it may",
        "convert again with a scheme that is closer to float32; another machine would answer the same",
    ),
    "lists": (
        "single inputs are answered as they should be, but lists are not",
        "predict one input at a time (batch_size=1), or report this with the bundle's scheme, {}",
    ),
}


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
    from satchel_runtimes.errors import ParityError
    from satchel_runtimes.golden import replay

    with load(bundle, threads=threads, trust=trust, allow_failed=allow_failed) as predictor:
        found = replay(predictor)
        files, scheme = len(predictor.manifest.files), predictor.manifest.target.scheme
    says, fix = _FINDINGS[found.finding]
    says, fix = says.format(scheme), fix.format(scheme)
    parts = {
        _AGAINST["conversion"]: found.reference,
        _AGAINST["device"]: found.artifact,
        _AGAINST["lists"]: found.batched,
    }
    rows: list[dict[str, Any]] = [
        {
            "against": against,
            "task": task,
            "passed": parity.passed,
            "samples": parity.samples,
            "figures": dict(parity.figures),
            "limits": dict(parity.limits),
            "why": parity.why,
            "where": parity.where,
        }
        for against, part in parts.items()
        for task, parity in part.items()
    ]
    if json_:
        about = {"bundle": str(bundle), "files": files, "passed": found.passed}
        as_json({**about, "finding": found.finding, "says": says, "parity": rows})
    else:
        click.echo(f"{files} files match their digests")
        table("", ("against", "task", "verdict", "figures"), [_row(each) for each in rows])
    if not found.passed:
        against = _AGAINST[found.finding]
        bad = next(each for each in rows if not each["passed"] and each["against"] == against)
        why = f"against {against}, {bad['task']}: {bad['why']} ({bad['where']})"
        raise ParityError(f"{bundle}: {says}", why=why, fix=fix)
    if not json_:
        click.echo(f"\n{says}")


def _row(each: dict[str, Any]) -> tuple[str, str, str, str]:
    figures = "; ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in each["figures"].items())
    return each["against"], each["task"], "same" if each["passed"] else "DIFFERENT", figures or each["why"]

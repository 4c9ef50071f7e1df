"""A page that people look at: one file that opens offline, on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from satchel_runtimes.errors import UsageError

from .drawing import Chart, need_charts

__all__ = ["charts_section", "check_page", "facts", "page", "write_page"]


def check_page(path: Path) -> None:
    """Before the long work: is there what draws, and a folder to write to.

    Raises:
        ToolchainError, UsageError
    """
    need_charts()
    if path.is_dir() or not path.absolute().parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"{path.absolute().parent} is not a folder"
        raise UsageError(f"Cannot write {path}.", why=why, fix="name a file in a folder that is there")


def write_page(text: str, path: Path) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, "utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def page(title: str, label: str, parts: Sequence[str], script: str = "") -> str:
    """Parts of a body as a whole file. Nothing is fetched; of scripts the one that is given runs."""
    style = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    allowed = "default-src 'none'; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed += f"; script-src 'sha256-{digest}'"
    ending = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · satchel {label}</title><style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>{ending}</body></html>\n"
    )


def charts_section(charts: Sequence[Chart]) -> str:
    made = [
        f"<figure><h3>{escape(title)}</h3>{svg}<figcaption>{escape(said)}</figcaption></figure>"
        for title, said, svg in charts
    ]
    return f'<section><h2>Figures</h2><div class="charts">{"".join(made)}</div></section>' if made else ""


def facts(title: str, values: Mapping[str, object]) -> str:
    """Names and values; what is not known is left out."""
    lines = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in values.items() if value
    )
    return f'<section><h2>{escape(title)}</h2><dl class="reading">{lines}</dl></section>'

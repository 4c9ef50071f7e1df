"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .compare_charts import charts_of
from .compared import figure_words
from .page import charts_section, facts, page

__all__ = ["page_of"]

Json = Any  # a comparison's JSON

_MB = 2**20
_NONE = ' class="none"'  # a phone leaves it out
_TONES = {"ships": "ships", "passes": "passes"}  # every other status is a refusal

_READING = (
    ("size", "everything in the bundle: graphs, tokenizer, golden samples."),
    ("load", "median seconds that a fresh process takes to load the bundle, files in the system's cache."),
    ("ms at … tokens", "median of predict, input in and answer out, and its 95 % interval; all candidates in turn."),
    (
        "× fp32, × first",
        (
            "how many times as fast as float32 in the same format, and as the first row, at the longest input, from runs in "
            "turn. “?” where the runs spread too much for a ratio."
        ),
    ),
    ("peak", "the most memory that a fresh process held, Python and the engine included."),
    (
        "against the model",
        (
            "how far the answers are from those of the original model, over the built-in golden samples: the lowest cosine, "
            "the largest relative error, the 95th percentile of total variation."
        ),
    ),
    (
        "same answers",
        (
            "on how many samples the decision is the model's: the top answer; for embeddings the nearest other sample. Near "
            "ties count as other answers here, and not in the parity gate."
        ),
    ),
    ("least like", "the candidate whose answers are furthest from this one's, of those that pass."),
)


def page_of(found: Json) -> str:
    title = escape(f"{found['model']} for {found['device']}")
    good = "ships" if found["ships"] else "refused"
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="lead {good}">{escape(found["summary"])}</p>',
        _list(found["reasons"], "Before it in the order"),
        _list(found["notes"], "Worth knowing"),
        _table(found),
        charts_section(charts_of(found)),
        _matrix(found),
        _machine(found),
        facts("How to read it", dict(_READING)),
    ]
    return page(f"{found['model']} for {found['device']}", "compare", parts)


def _list(lines: Sequence[str], title: str) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="said"><h2>{title}</h2><ul>{items}</ul></section>' if lines else ""


def _table(found: Json) -> str:
    lengths = sorted({int(tokens) for row in found["rows"] for tokens in row["latency_ms"]})
    shape = next((row["shape"] for row in found["rows"] if row["shape"]), "")
    heads = ["candidate", "MiB", "load s", *(f"ms at {shape or tokens}" for tokens in lengths)]
    heads += ["× fp32", "× first", "peak MiB", "against the model", "same answers", "least like"]
    body = []
    for number, row in enumerate(found["rows"], 1):
        tone = _TONES.get(row["status"], "refused")
        name = f'<b class="number">{number}</b> {escape(row["format"])} {escape(row["scheme"])}'
        tag = f'<span class="tag {tone}">{escape(row["status"])}</span>'
        cells = "".join(
            f'<td data-label="{escape(head)}"{_NONE if value == "–" else ""}>{value}</td>'
            for head, value in zip(heads[1:], _values(found, row, lengths), strict=True)
        )
        body.append(f'<tr class="{tone}"><th scope="row">{name} {tag}</th>{cells}</tr>')
        if row["why"]:
            said = f"{row['gate']}: {row['why']}" if row["gate"] else row["why"]
            body.append(
                f'<tr class="why"><td colspan="{len(heads)}">{escape(said)} <em>{escape(row["fix"])}</em></td></tr>'
            )
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    return (
        '<section><h2>Candidates, in the order of the device</h2><div class="wide"><table class="rows"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _values(found: Json, row: Json, lengths: Sequence[int]) -> list[str]:
    task = found["tasks"][0]
    latency = [row["latency_ms"].get(str(tokens)) for tokens in lengths]
    parity, same = row["parity"].get(task), row["agreement"].get(task)
    return [
        _number(row["size_bytes"], _MB, 1),
        _number(row["load_s"], 1, 2),
        *(
            f"{each['p50_ms']:.2f}<small>{each['low_ms']:.2f}–{each['high_ms']:.2f}</small>" if each else "–"
            for each in latency
        ),
        _ratio(row["against_fp32"]),
        _ratio(row["against_first"]),
        _number(row["peak_rss_bytes"], _MB, 0),
        escape(figure_words(parity)) if parity else "–",
        f"{same[0]['same']} of {same[0]['of']}<small>{escape(same[0]['what'])}</small>" if same else "–",
        _least_like(found, f"{row['format']} {row['scheme']}"),
    ]


def _number(value: float | None, unit: float, digits: int) -> str:
    return "–" if value is None else f"{value / unit:.{digits}f}"


def _ratio(speeds: Json) -> str:
    if not speeds:
        return "–"
    last = speeds[max(speeds, key=int)]
    if last["value"] is None:
        return f'<span title="{escape(last["why"])}">?</span>'
    return f"{last['value']:.2f}<small>{last['low']:.2f}–{last['high']:.2f}</small>"


def _least_like(found: Json, label: str) -> str:
    worst = found["least_like"].get(label)
    if worst is None:
        return "–"
    numbers = {f"{row['format']} {row['scheme']}": number for number, row in enumerate(found["rows"], 1)}
    return f"<b>{numbers[worst['other']]}</b> {escape(worst['words'])}"


def _matrix(found: Json) -> str:
    """How often, and how closely, each pair of candidates says the same in the main task."""
    task, pairs = found["tasks"][0], found["pairs"]
    if not pairs:
        return ""
    told = {label for pair in pairs for label in (pair["one"], pair["other"])}
    labels = [(n, f"{row['format']} {row['scheme']}") for n, row in enumerate(found["rows"], 1)]
    labels = [(number, label) for number, label in labels if label in told]
    cells = {frozenset((pair["one"], pair["other"])): pair for pair in pairs}
    lines = []
    for number, label in labels:
        line = "".join(_cell(cells.get(frozenset((label, other))), task) for _, other in labels)
        lines.append(f'<tr><th scope="row"><b class="number">{number}</b> <span>{escape(label)}</span></th>{line}</tr>')
    head = "".join(f'<th scope="col"><b class="number">{number}</b></th>' for number, _ in labels)
    return (
        "<section><h2>Do the candidates agree with each other?</h2><p>The share of samples that both answer alike, and "
        f"how close the answers are, in {escape(task)}. Float32 in two formats should agree to 1e-4; int8 formats round "
        "differently and agree loosely. A red cell is further apart than the looser class of the two allows.</p>"
        f'<div class="wide"><table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(lines)}'
        "</tbody></table></div></section>"
    )


def _cell(pair: Json, task: str) -> str:
    if pair is None:
        return '<td class="self"></td>'
    parity, same = pair["parity"].get(task), pair["agreement"].get(task)
    if parity is None:
        return "<td>–</td>"
    tone = "passes" if parity["passed"] else "refused"
    share = f"{100 * same[0]['same'] / same[0]['of']:.0f} %" if same and same[0]["of"] else "–"
    return f'<td class="{tone}">{share}<small>{escape(figure_words(parity))}</small></td>'


def _machine(found: Json) -> str:
    about = found["machine"]
    memory = f", {about['memory_bytes'] / 2**30:.0f} GiB" if about.get("memory_bytes") else ""
    engines = {row["engine"]: None for row in found["rows"] if row["engine"]}
    versions = {name: version for row in found["rows"] for name, version in row["versions"].items() if version}
    known = {
        "when": found["when"],
        "machine": f"{about['processor'] or about['machine']}, {about['cores']} cores{memory}",
        "system": about["system"],
        "engines": ", ".join(engines) or "none ran",
        "threads": ", ".join(
            {str(row["threads"] or "the engine's choice"): None for row in found["rows"] if row["engine"]}
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "tasks": ", ".join(found["tasks"]),
    }
    return facts("Measured on", known)

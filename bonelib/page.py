"""The pieces of an HTML page: escaped text, tables, figures inlined as PNG."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from bonelib import verdict

STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:50rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25}
h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ccc}h3{font-size:1rem}
img{display:block;max-width:100%;height:auto;margin:.8rem 0}
.wide{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;font-size:.82rem;min-width:60%}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}
.long{overflow-wrap:anywhere}
@media(max-width:480px){th,td{padding-right:.4rem}th{font-size:.76rem}}
td small{display:block;color:#555;white-space:nowrap;font-size:.72rem}
.alarm,.verdict,.absent{padding:.5rem .9rem;border-left:5px solid;margin:.5rem 0}
.alarm{border-color:#DC267F;background:#fdeef5}.verdict{border-color:#648FFF;background:#f1f5ff}
.absent{border-color:#bbb;background:#f6f6f6;color:#444}
@media print{body{max-width:none;font-size:10pt;padding:0}h1,h2,h3{break-after:avoid}h2{margin-top:1.4rem}
img,tr,p{break-inside:avoid}p,thead,tbody tr:nth-child(-n+3){break-after:avoid}
tbody tr:nth-last-child(-n+2){break-before:avoid}img{max-width:12.5cm;max-height:17cm}.wide{overflow:visible}
td small{display:inline;padding-left:.4rem}summary{list-style:none}details::details-content{content-visibility:visible}}
"""
LABELS = {"auroc": "AUROC", "ece": "ECE", "ppv": "PPV", "npv": "NPV", "macro_f1": "macro-F1",
          "weighted_f1": "weighted F1", "class_auroc": "AUROC", "tta": "with TTA", "brier": "Brier score"}  # fmt: skip


def name(key: str) -> str:
    return LABELS.get(key, _words(key))


def _words(key: Any) -> str:
    return str(key).replace("_", " ")


def cell(value: Any) -> str:
    """A cell: a figure with its interval below, a rounded float, or escaped text."""
    if isinstance(value, dict) and "value" in value:
        first, _, rest = verdict.span(value).partition(" (")
        return f"{escape(first)}<small>{escape(rest.rstrip(')'))}</small>" if rest else escape(first)
    if isinstance(value, float):
        return "not defined" if pd.isna(value) else f"{value:.3g}" if abs(value) < 10 else f"{value:.0f}"
    text = "not defined" if value is None else escape(str(value))
    return f'<span class="long">{text}</span>' if max(map(len, text.split()), default=0) > 20 else text


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """An HTML table whose every cell is escaped; wide ones scroll by themselves."""
    head = list(head)
    top = "".join(f"<th>{cell(h)}</th>" for h in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def absent(what: str) -> str:
    return paragraph(f"Not answered: {what}.", "absent")


def pictures(files: Iterable[Path]) -> str:
    """PNG files, inlined."""
    held = ((escape(p.stem.replace("_", " ")), base64.b64encode(p.read_bytes()).decode()) for p in files)
    return "".join(f'<img alt="{name}" src="data:image/png;base64,{data}">' for name, data in held)


def document(title: str, body: str) -> str:
    """A whole page; `body` is HTML already."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>
{body}</body></html>
"""


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def tree(value: Any, depth: int = 0) -> str:
    """JSON of unknown shape as small tables: scalars in one, nested parts under headings, long lists cut."""
    if _records(value):
        keys = list(dict.fromkeys(k for v in value for k in v))[:5]
        more = paragraph(f"and {len(value) - 20} more") if len(value) > 20 else ""
        return table(map(_words, keys), [[short(v.get(k)) for k in keys] for v in value[:20]]) + more
    if isinstance(value, dict):
        deep = {k: v for k, v in value.items() if depth < 2 and v and (isinstance(v, dict) or _records(v))}
        flat = [(_words(k), short(v)) for k, v in value.items() if k not in deep]
        return (table(("", ""), flat) if flat else "") + "".join(
            f"<h3>{escape(_words(k))}</h3>{tree(v, depth + 1)}" for k, v in deep.items()
        )
    return paragraph(short(value))


def short(value: Any) -> Any:
    """Lists and dicts as one line of at most 160 characters; scalars as they are; «none» for what is empty."""
    if value is None or value in ("", [], {}):
        return "none"
    if not isinstance(value, (list, dict)):
        return value
    pairs = enumerate(value) if isinstance(value, list) else value.items()
    parts = [(k, f"{v:.3g}" if isinstance(v, float) else short(v)) for k, v in pairs]
    text = ", ".join(f"{v}" if isinstance(value, list) else f"{k} {v}" for k, v in parts)
    return text if len(text) <= 160 else text[:157] + "…"

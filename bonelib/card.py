"""MODEL_CARD.md, the limits it states, and the checklist of what a paper about the model would have to answer."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bonelib import verdict
from bonelib.config import CLASSES

NOTICE = "For research and teaching. Not a medical device: no diagnosis, and no substitute for DXA."
LIMITS = (
    NOTICE,
    "The labels are those of the folders: their reference standard (DXA of which site, heel ultrasound, or a reader) "
    "and its errors are not known to this software, and bound what any figure can mean.",
    "A test split from the same source says nothing about another hospital, scanner or population: a published hip "
    "model fell from AUROC 0.87 to 0.70 on external data.",
)
# topic (of CLAIM 2024 and TRIPOD+AI), section of the report, artifact without which it is not answered
TOPICS = (
    ("Intended use and users", "use", ""),
    ("Source, dates and setting of the data; eligibility", "", ""),
    ("Ethics approval, consent, registration, funding", "", ""),
    ("Sample size: how it was arrived at", "", ""),
    ("Exclusions counted at every step", "data", "catalog"),
    ("Copies, conflicting labels, de-identification checked", "data", "audit"),
    ("Reference standard: definition and rationale", "", ""),
    ("Reference standard: who annotated, and their agreement", "", ""),
    ("Partitions: how made, and disjoint at which level", "data", "splits"),
    ("Class balance and how it was treated", "data", "splits"),
    ("Participants: demographics of each partition", "", ""),
    ("Model, inputs, outputs and software versions", "settings", "model"),
    ("Training: augmentation, settings, selection of the final model", "training", "history"),
    ("Performance with intervals", "figures", "metrics"),
    ("Comparison with simpler models", "baselines", "metrics"),
    ("Calibration", "calibration", "metrics"),
    ("Subgroups and fairness", "subgroups", "subgroups"),
    ("Failure analysis", "failures", "predictions"),
    ("Explainability and its validation", "explanations", "explain"),
    ("External validation", "", ""),
    ("Limitations", "use", ""),
    ("Code and model available", "settings", "model"),
)


def partition(splits: pd.DataFrame) -> list[tuple]:
    """Rows of split and images of each class."""
    counts = splits.groupby(["split", "label"]).size().unstack(fill_value=0).reindex(columns=CLASSES, fill_value=0)
    return [(part, *map(int, counts.loc[part])) for part in ("train", "val", "test") if part in counts.index]


def checklist(held: dict[str, Any]) -> list[tuple[str, str]]:
    """Each topic with the section that answers it, or «not answered»."""
    held = held | {"subgroups": (held["metrics"] or {}).get("subgroups")}

    def there(key: str) -> bool:
        return not key or (held.get(key) is not None and len(held[key]) > 0)

    return [
        (topic, f"section «{section}»" if section and there(need) else "not answered")
        for topic, section, need in TOPICS
    ]


def _cell(text: Any) -> str:
    """Text that can break neither a Markdown table nor the page it is shown in."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _table(head: tuple, rows: list[tuple]) -> list[str]:
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, ("---",) * len(head), *rows)] + [""]


def markdown(held: dict[str, Any]) -> str:
    """The model card, from the same artifacts as the report."""
    metrics, model, splits = held["metrics"], held["model"], held["splits"]
    lines = ["# Model card", "", NOTICE, "", "## Verdict", ""]
    lines += [f"- {_cell(s)}" for s in (*held["alarms"], *(metrics or {}).get("verdict", []))] or [
        "- No metrics in this run."
    ]
    lines += ["", "## Data", ""]
    if splits is not None:
        lines += _table(("split", *CLASSES), partition(splits))
    else:
        lines += ["No splits.csv in this run.", ""]
    lines += ["## Test split", ""]
    if metrics:
        kinds = list(metrics["test"])
        names = [k for k, v in metrics["test"][kinds[0]].items() if "value" in v]
        rows = [(n.replace("_", " "), *(verdict.span(metrics["test"][k][n]) for k in kinds)) for n in names]
        lines += _table(("figure (95% interval)", *kinds), rows)
    else:
        lines += ["Not evaluated.", ""]
    lines += ["## Model", ""]
    lines += (
        _table(("setting", "value"), [(k, v) for k, v in (model or {}).items()])
        if model
        else ["No model/config.json.", ""]
    )
    lines += ["## Intended use and limits", "", *(f"- {_cell(text)}" for text in LIMITS), "", "## Checklist", ""]
    return "\n".join(lines + _table(("topic", "answered"), checklist(held)))

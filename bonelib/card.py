"""MODEL_CARD.md, the limits it states, and the checklist of what a paper about the model would have to answer."""

from __future__ import annotations

from collections.abc import Sequence
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
SOURCES = (
    "By item number of CLAIM 2024 (doi 10.1148/ryai.240300) and TRIPOD+AI (doi 10.1136/bmj-2023-078378), topics in our own "
    "words. «Not answered» is what only the authors of a study can say, or what this run holds nothing of."
)
TITLES = {
    "data": "The data", "figures": "Figures on the test split", "baselines": "Beside simpler answers",
    "calibration": "Are the probabilities true?", "selective": "Answering only when sure", "subgroups": "Subgroups",
    "failures": "Failures", "explanations": "What the model looks at", "training": "Training",
    "use": "Intended use and limits", "settings": "Settings and versions", "checklist": "Reporting checklist",
}  # fmt: skip
# items of CLAIM 2024 and of TRIPOD+AI, topic, the section that answers it, and the artifact without which it does not
ITEMS = (
    ("1, 2, 4, 6", "1, 2, 3a, 4", "Title, summary, background and aims of the study", "", ""),
    ("3, 41", "3b", "Intended use and users", "use", ""),
    ("", "3c, 14", "Known inequalities, and what was done for fairness", "", ""),
    ("5", "5a, 5b", "Design of the study; source and dates of the data", "", ""),
    ("7, 8", "6a, 6b, 6c", "Setting, eligibility, treatments", "", ""),
    ("9", "7", "Preparation of the data and checks of its quality", "data", "audit"),
    ("10, 35", "20a", "Images left after every exclusion", "data", "catalog"),
    ("11", "", "De-identification", "", ""),
    ("12", "11", "Missing data", "", ""),
    ("13", "9a, 9b, 9c", "How the images were taken, chosen and read", "", ""),
    ("14, 15", "8a", "Reference standard: definition and rationale", "", ""),
    ("16, 17, 18", "8b, 8c", "Reference standard: who read, blinded to what, with what agreement", "", ""),
    ("19, 20", "12a, 21", "Partitions: how made, how large, at which level disjoint", "data", "splits"),
    ("21", "10", "Sample size: how it was arrived at", "", ""),
    ("36", "16, 20b, 20c", "Who the patients of each partition are", "", ""),
    ("", "13", "Class imbalance and how it was treated", "data", "splits"),
    ("22, 23, 24", "12b, 12g, 22", "The model: inputs, start, software, and how to run it", "settings", "model"),
    ("25, 26", "12c", "Training, and how the final model was chosen", "training", "history"),
    ("27", "", "Ensembling: the views of test-time augmentation", "settings", "config"),
    ("28, 29, 32, 37, 38", "12e, 23a", "Performance on internal data, with intervals", "figures", "metrics"),
    ("", "12e", "Comparison with simpler models", "baselines", "metrics"),
    ("", "12f, 24", "Calibration, and recalibration on validation images", "calibration", "metrics"),
    ("", "15", "Output, and thresholds of when to answer", "selective", "metrics"),
    ("", "27a", "What is done with an image that is not like the training images", "selective", "gauge"),
    ("", "23a", "Performance in subgroups", "subgroups", "subgroups"),
    ("", "12d, 23b", "Differences between hospitals or other clusters", "", ""),
    ("30", "", "Robustness or sensitivity analysis", "", ""),
    ("31", "", "Explanations, and how they were validated", "explanations", "explain"),
    ("33", "", "Testing on external data", "", ""),
    ("39", "", "Analysis of failures", "failures", "predictions"),
    ("", "25, 27b, 27c", "Interpretation; expertise needed; next steps", "", ""),
    ("40", "26", "Limitations", "use", ""),
    ("34, 42", "17, 18c, 18d, 19", "Ethics, registration, protocol, involvement of patients", "", ""),
    ("43", "18e, 18f", "Where data, code and model can be had", "", ""),
    ("44", "18a, 18b", "Funding and interests", "", ""),
)


def partition(splits: pd.DataFrame) -> list[tuple[str | int, ...]]:
    """Rows of split and images of each class."""
    counts = splits.groupby(["split", "label"]).size().unstack(fill_value=0).reindex(columns=CLASSES, fill_value=0)
    return [(part, *map(int, counts.loc[part])) for part in ("train", "val", "test") if part in counts.index]


def flow(held: dict[str, Any]) -> list[tuple[str, int]]:
    """Images left after each exclusion, by the audit or else by the tables; empty without a catalog."""
    if held["catalog"] is None:
        return []
    readable = int((held["catalog"]["status"] == "ok").sum())
    counted = {
        "found": len(held["catalog"]),
        "readable": readable,
        "used": readable if held["splits"] is None else len(held["splits"]),
    }
    return list(((held["audit"] or {}).get("flow") or counted).items())


def checklist(held: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Items of CLAIM 2024, items of TRIPOD+AI, topic, and the section that answers it or «not answered»."""
    held = held | {"subgroups": (held["metrics"] or {}).get("subgroups"), "gauge": (held["model"] or {}).get("inputs")}

    def there(key: str) -> bool:
        return not key or (held.get(key) is not None and len(held[key]) > 0)

    return [
        (claim, tripod, topic, f"«{TITLES[section]}»" if section and there(need) else "not answered")
        for claim, tripod, topic, section, need in ITEMS
    ]


def _cell(text: Any) -> str:
    """Text that can break neither a Markdown table nor the page it is shown in."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, ("---",) * len(head), *rows)] + [""]


def markdown(held: dict[str, Any]) -> str:
    """The model card, from the same artifacts as the report."""
    metrics, model, splits = held["metrics"], held["model"], held["splits"]
    lines = ["# Model card", "", NOTICE, "", "## Verdict", ""]
    lines += [f"- {_cell(s)}" for s in held["verdict"]] or ["- No metrics in this run."]
    lines += ["", "## Data", ""]
    lines += _table(("step", "images left"), flow(held)) if flow(held) else ["No catalog.csv in this run.", ""]
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
        _table(("setting", "value"), [(k, v) for k, v in (model or {}).items() if k != "inputs"])
        if model
        else ["No model/config.json.", ""]
    )
    lines += [
        f"## {TITLES['use']}",
        "",
        *(f"- {_cell(text)}" for text in LIMITS),
        "",
        f"## {TITLES['checklist']}",
        "",
        SOURCES,
        "",
    ]
    return "\n".join(lines + _table(("CLAIM", "TRIPOD+AI", "topic", "answered"), checklist(held)))

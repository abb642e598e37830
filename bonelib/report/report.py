"""report.html and MODEL_CARD.md: what the artifacts of a run say, for a person to read."""

import base64
import csv
import re
from collections import defaultdict
from pathlib import Path

import pandas as pd
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from PIL import Image

from bonelib.evaluation.evaluate import failures
from bonelib.evaluation.findings import format_interval, leak_findings
from bonelib.messages import Finding, sort_findings
from bonelib.storage import read_json, write_text
from bonelib.training.model import model_digest

REPORT_FOLDER = Path(__file__).parent
NOTICE = "For research and teaching. Not a medical device: no diagnosis, and no substitute for DXA."
LIMITS = (
    NOTICE,
    "Labels are taken as given: the errors of their reference standard limit what results mean.",
    "A test set from the same source says nothing about another hospital, scanner or population: "
    "a published hip model fell from AUROC 0.87 to 0.70 on external data.",
)
SECTIONS = {
    "data": "Data",
    "metrics": "Metrics on the test set",
    "baselines": "Baselines",
    "calibration": "Calibration: does 80% mean 80%?",
    "abstain": "When to abstain",
    "subgroups": "Subgroups",
    "failures": "Failures",
    "explanations": "Where the model looks",
    "training": "Training",
    "use": "Intended use and limits",
    "settings": "Settings and versions",
    "checklist": "Reporting checklist",
}
RUN_TABLES = ("catalog", "splits", "predictions")
RUN_RECORDS = ("audit", "metrics", "explain", "config")


def read_run(run: Path) -> dict:
    """The artifacts of a run by name, None where absent, and what the report derives from them.

    Of a cross-validation, `model` and `history` are those of the first training. Results of
    another model than the one in the run folder count as absent, and `changed` is True.
    """
    first = min(run.glob("repeat-*-fold-*"), default=run)
    content = {name: _read_artifact(run / f"{name}.csv") for name in RUN_TABLES}
    content |= {name: _read_artifact(run / f"{name}.json") for name in RUN_RECORDS}
    content["model"] = _read_artifact(first / "model" / "config.json")
    content["history"] = _read_artifact(first / "history.csv")
    content["changed"] = _model_changed(run / "model", content["metrics"])
    if content["changed"]:
        content |= {"metrics": None, "predictions": None, "explain": None}
    content["findings"] = _findings(content)
    content["figures"] = _read_figures(run / "figures")
    return content | {"checklist": _checklist(content)}


def _read_artifact(path: Path):
    """A DataFrame or the content of a JSON file; None if there is no such file."""
    if not path.is_file():
        return None
    if path.suffix == ".json":
        return read_json(path)
    # Classes and patients may be numbers.
    texts = dict.fromkeys(["path", "label", "group", "patient"], str)
    return pd.read_csv(path, dtype=texts, low_memory=False)


def _model_changed(folder: Path, metrics: dict | None) -> bool:
    """Whether the metrics are of another model than the one in the folder."""
    evaluated = (metrics or {}).get("model_digest")
    return bool(evaluated and folder.is_dir() and model_digest(folder) != evaluated)


def _findings(content: dict) -> list[Finding]:
    """The findings of the leak check and of each artifact, alarms first."""
    splits = content["splits"]
    found = [] if splits is None else leak_findings(splits, content["catalog"], content["audit"])
    for name in ("audit", "metrics", "explain"):
        found += [Finding(**finding) for finding in (content[name] or {}).get("findings", [])]
    return sort_findings(found)


def _read_figures(folder: Path) -> dict[str, list[dict[str, str]]]:
    """PNG files as {"name", "data"} (base64), in order of time, by their report section or ""."""
    figures = defaultdict(list)
    for path in sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns):
        with Image.open(path) as image:
            section = str(image.info.get("section"))
        data = base64.b64encode(path.read_bytes()).decode()
        figures[section if section in SECTIONS else ""].append({"name": path.stem, "data": data})
    return figures


def _checklist(content: dict) -> list[dict[str, str]]:
    """The rows of checklist.csv, with `answer`: a section, or "" where the run has none."""
    metrics, model = content["metrics"] or {}, content["model"] or {}
    known = content | {"subgroups": metrics.get("subgroups"), "gauge": model.get("gauge")}
    with (REPORT_FOLDER / "checklist.csv").open(encoding="utf-8", newline="") as file:
        items = list(csv.DictReader(file))
    for item in items:
        needed = known.get(item["needs"])
        answered = not item["needs"] or (needed is not None and len(needed) > 0)
        item["answer"] = SECTIONS.get(item["section"], "") if answered else ""
    return items


def _tables(content: dict) -> dict:
    """What the templates show of the tables that are there."""
    shown: dict = {}
    splits = content["splits"]
    if splits is not None:
        counts = pd.crosstab(splits["split"], splits["label"])
        class_names = (content["model"] or {}).get("class_names", list(counts))
        counts = counts.reindex(["train", "val", "test"], columns=class_names, fill_value=0)
        counts["groups"] = splits.groupby("split")["group"].nunique()
        shown["split_counts"] = counts.to_dict("index")
    if content["metrics"] and content["predictions"] is not None:
        class_names = tuple(content["metrics"]["counts"]["images_per_class"])
        tables = failures(content["predictions"], class_names)
        shown["failures"] = {title: rows.to_dict("records") for title, rows in tables.items()}
    return shown


def format_value(value) -> str:
    """Any value as a short text: numbers rounded, lists and mappings on one line."""
    if value is None or isinstance(value, Undefined) or value != value:
        return "not defined"
    if isinstance(value, dict):
        value = [f"{name} {format_value(item)}" for name, item in value.items()]
    if isinstance(value, list):
        return ", ".join(map(format_value, value)) or "none"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 10 else f"{value:.0f}"
    return str(value)


def markdown_text(value) -> str:
    """The value as text of one line that cannot break a Markdown table; Jinja2 escapes its HTML."""
    text = " ".join(format_value(value).split())
    return re.sub(r"([\\|`\[])", r"\\\1", text)


def write_report(run: Path) -> Path:
    """Write report.html and MODEL_CARD.md from what is in the run folder; the report's path."""
    content = read_run(run)
    content |= {"notice": NOTICE, "limits": LIMITS, "titles": SECTIONS, **_tables(content)}
    environment = Environment(autoescape=True, undefined=ChainableUndefined, trim_blocks=True)
    environment.loader = FileSystemLoader(REPORT_FOLDER)
    environment.filters |= {"interval": format_interval, "text": format_value}
    environment.filters["markdown"] = markdown_text
    for name in ("report.html", "MODEL_CARD.md"):
        write_text(run / name, environment.get_template(f"{name.lower()}.j2").render(content))
    return run / "report.html"

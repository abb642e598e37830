"""report.html and MODEL_CARD.md: what the artifacts of a run say, for a person to read."""

import base64
import re
from collections import defaultdict
from pathlib import Path

import pandas as pd
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from PIL import Image

from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.evaluate import failures
from bonelib.evaluation.findings import format_interval, leak_findings
from bonelib.messages import Finding, sort_findings
from bonelib.storage import read_json, write_text
from bonelib.training.model import model_digest, model_folders

REPORT_FOLDER = Path(__file__).parent
NOTICE = "For research and teaching. Not a medical device: no diagnosis, and no substitute for DXA."
LIMITS = (
    NOTICE,
    "Labels are taken as given: the errors of their reference standard limit what results mean.",
    "A test set from the same source says nothing about another hospital, scanner or population: "
    "a published hip model fell from AUROC 0.87 to 0.70 on external data.",
)
# Metadata columns that name a hospital or another cluster.
SITES = {"site", "hospital", "centre", "center", "scanner", "device"}
ARTIFACTS = ("catalog", "splits", "predictions", "audit", "metrics", "explain", "config")


def read_run(run: Path) -> dict:
    """The artifacts of a run by name, None where absent, and what the report derives from them.

    Of a cross-validation, `model` and `history` are those of the first training. Results of
    other models than those in the run folder count as absent, and `changed` is True.
    """
    first = min(run.glob("repeat-*-fold-*"), default=run)
    content = {name: _read_artifact(run, name) for name in ARTIFACTS}
    content["model"] = _read_artifact(first / "model", "config")
    content["history"] = _read_artifact(first, "history")
    content["changed"] = model_changed(run, content["metrics"])
    if content["changed"]:
        content |= {"metrics": None, "predictions": None, "explain": None}
    content["findings"] = _findings(content)
    content["figures"] = _read_figures(run / "figures")
    if content["splits"] is not None:
        content["split_counts"] = _count_splits(content["splits"], content["model"])
        if content["catalog"] is not None:
            content["characteristics"] = _characteristics(content["catalog"], content["splits"])
    if content["metrics"] and content["predictions"] is not None:
        class_names = tuple(content["metrics"]["counts"]["images_per_class"])
        content["failures"] = failures(content["predictions"], class_names)
    return content | {"checklist": _checklist(content)}


def _read_artifact(folder: Path, name: str):
    """The content of a JSON file, a table as a DataFrame, or None if there is neither."""
    if (folder / f"{name}.json").is_file():
        return read_json(folder / f"{name}.json")
    if not (folder / f"{name}.csv").is_file():
        return None
    # Classes and patients may be numbers.
    texts = dict.fromkeys(["path", "label", "group", "patient"], str)
    return pd.read_csv(folder / f"{name}.csv", dtype=texts, low_memory=False)


def model_changed(run: Path, metrics: dict | None) -> bool:
    """Whether the metrics are of other models than those in the run folder."""
    folders = model_folders(run)
    return bool(metrics and folders and metrics.get("model_digest") != model_digest(*folders))


def _findings(content: dict) -> list[Finding]:
    """The findings of the leak check and of each artifact, alarms first."""
    splits = content["splits"]
    found = [] if splits is None else leak_findings(splits, content["catalog"], content["audit"])
    audit, metrics, explain = (content[name] or {} for name in ("audit", "metrics", "explain"))
    for block in (audit, metrics, metrics.get("external", {}), explain):
        found += [Finding(**finding) for finding in block.get("findings", [])]
    return sort_findings(found)


def _read_figures(folder: Path) -> dict[str, list[dict[str, str]]]:
    """PNG files as {"name", "data"} (base64), in order of time, by their report section."""
    figures = defaultdict(list)
    for path in sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns):
        with Image.open(path) as image:
            section = str(image.info.get("section"))
        data = base64.b64encode(path.read_bytes()).decode()
        figures[section].append({"name": path.stem, "data": data})
    return figures


def _checklist(content: dict) -> list[dict[str, str]]:
    """The rows of checklist.csv, with `answer`: a section, or "" where the run has none."""
    metrics, model = content["metrics"] or {}, content["model"] or {}
    known = {name: content[name] for name in (*ARTIFACTS, "model", "history")}
    known |= {"subgroups": metrics.get("subgroups"), "gauge": model.get("gauge"), "": "always"}
    known |= {"external": metrics.get("external"), "site": SITES & {*metrics.get("subgroups", {})}}
    known["characteristics"] = next(iter(content.get("characteristics", {}).values()), None)
    present = [name for name, value in known.items() if value is not None and len(value)]
    items = pd.read_csv(REPORT_FOLDER / "checklist.csv", dtype=str, keep_default_na=False)
    items["answer"] = items["section"].where(items["needs"].isin(present), "")
    return items.to_dict("records")


def _count_splits(splits: pd.DataFrame, model: dict | None) -> dict:
    """Images of each class and groups by split, classes in the model's order."""
    counts = pd.crosstab(splits["split"], splits["label"])
    class_names = (model or {}).get("class_names", list(counts))
    counts = counts.reindex(["train", "val", "test"], columns=class_names, fill_value=0)
    return counts.assign(groups=splits.groupby("split")["group"].nunique()).to_dict("index")


def _characteristics(catalog: pd.DataFrame, splits: pd.DataFrame) -> dict:
    """The metadata of the images of each split: {split: {column: text}}."""
    known = catalog.merge(splits[["path", "split"]], on="path")
    columns = [column for names in metadata_columns(catalog) for column in names]
    return {name: rows[columns].apply(_summary) for name, rows in known.groupby("split")}


def _summary(values: pd.Series) -> str:
    """Mean and deviation of numbers, or the most common text; and how many values are missing."""
    missing = f"{values.isna().sum():,} missing"
    if pd.api.types.is_numeric_dtype(values):
        return f"{values.mean():.3g} ± {values.std():.2g}, {missing}"
    shares = values.value_counts(normalize=True)
    return f"{shares.index[0]} {shares.iloc[0]:.0%}, {missing}" if len(shares) else missing


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
    content = {**read_run(run), "notice": NOTICE, "limits": LIMITS}
    environment = Environment(autoescape=True, undefined=ChainableUndefined, trim_blocks=True)
    environment.loader = FileSystemLoader(REPORT_FOLDER)
    environment.filters.update(interval=format_interval, text=format_value, markdown=markdown_text)
    for name in ("report.html", "MODEL_CARD.md"):
        write_text(run / name, environment.get_template(f"{name.lower()}.j2").render(content))
    return run / "report.html"

"""The run folder's artifacts as one stand-alone report.html, readable on a phone and on paper, and a MODEL_CARD.md."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from bonelib import artifact, card, evaluation, metrics, page, verdict
from bonelib.config import CLASSES
from bonelib.page import absent, paragraph, table

FIGURES = {
    "data": ("flow", "classes", "pictures", "copies", "shortcuts", "splits", "balance"),
    "figures": ("confusion", "roc"),
    "baselines": ("comparison",),
    "calibration": ("reliability",),
    "selective": ("coverage",),
    "failures": ("gallery",),
    "explanations": ("heat",),
    "training": ("steps", "augmentation", "views", "batch", "rates", "history"),
}  # section: what the names of its figure files begin with, in the order in which they are shown
TABLES = ("catalog.csv", "splits.csv", "predictions.csv", "history.csv")
RECORDS = ("audit.json", "metrics.json", "explain.json", "config.json")


def read(run: Path) -> dict[str, Any]:
    """Every artifact of the run folder by its stem; what is absent is None."""
    held: dict[str, Any] = {Path(n).stem: pd.read_csv(run / n) if (run / n).is_file() else None for n in TABLES}
    for name in (*RECORDS, "model/config.json"):
        key = "model" if name.startswith("model") else Path(name).stem
        held[key] = json.loads((run / name).read_text("utf-8")) if (run / name).is_file() else None
    held["figures"] = sorted((run / "figures").glob("*.png"))
    leaks = verdict.leaks(held["splits"], held["catalog"], held["audit"]) if held["splits"] is not None else []
    leaks = list(dict.fromkeys([*leaks, *(held["metrics"] or {}).get("leaks", [])]))
    seen = [s for s in (held["explain"] or {}).get("verdict", []) if s.startswith("Shortcut")]
    said = [*leaks, *verdict.shortcuts(held["audit"]), *seen, *(held["metrics"] or {}).get("verdict", [])]
    return held | {"leaks": leaks, "verdict": sorted(said, key=lambda s: not s.startswith(verdict.ALARMS))}


def _drawn(held: dict[str, Any], section: str) -> str:
    return page.pictures(p for name in FIGURES[section] for p in held["figures"] if p.stem.startswith(name))


def _data(held: dict[str, Any]) -> str:
    splits, steps = held["splits"], card.flow(held)
    out = table(("step", "images left"), steps) if steps else ""
    if splits is not None:
        groups = splits.groupby("split")["group"].nunique()
        out += table(("split", *CLASSES, "groups"), [(*row, int(groups[row[0]])) for row in card.partition(splits)])
        if not held["leaks"]:
            out += paragraph("No group (a patient, or copies of one image) stands on two sides of the test split.")
    out = (out or absent("no catalog.csv and no splits.csv in this run")) + _drawn(held, "data")
    if not held["audit"]:
        return out + absent("no audit of copies, conflicts and shortcuts (audit.json) in this run")
    found = {k: v for k, v in held["audit"].items() if k != "flow"}
    return out + f"<details><summary>What the audit found</summary>{page.tree(found)}</details>"


def _figures(held: dict[str, Any]) -> str:
    m = held["metrics"]
    kinds, gap = list(m["test"]), m["differences"].get("tta_minus_plain")
    columns = [*m["test"].values(), *([gap] if gap else [])]
    names = [k for k, v in columns[0].items() if "value" in v]
    head = ("", *map(page.name, kinds), *(["TTA minus plain"] if gap else []))
    out = paragraph("95% intervals from resampling whole groups; differences are paired.")
    out += table(head, [(page.name(k), *(c.get(k) for c in columns)) for k in names])
    if spread := m.get("spread"):
        out += "<h3>How far the models of the cross-validation differ, plain</h3>"
        head = ("", "mean", "deviation over folds", "over seeds")
        out += table(head, [(page.name(k), *v.values()) for k, v in spread[m["model"]].items()])
    first = m["test"][m["model"]]
    nested = [k for k in ("sensitivity", "specificity", "ppv", "npv", "class_auroc") if k in first]
    out += "<h3>By class</h3>" + table(("", *CLASSES), [(page.name(k), *first[k].values()) for k in nested])
    out += "<h3>Binary read-outs</h3>" + table(("", ""), first["binary"].items())
    rows = [(k, *(m["ordinal"][t][k] for t in kinds)) for k in m["ordinal"][kinds[0]]]
    out += "<h3>Calls by their distance from the truth</h3>" + table(("", *map(page.name, kinds)), rows)
    if m.get("at_prevalence"):
        told = ", ".join(f"{c} {v:.0%}" for c, v in m["at_prevalence"]["prevalence"].items())
        rows = [(page.name(k), *m["at_prevalence"][k].values()) for k in ("ppv", "npv")]
        out += f"<h3>Where the prevalence is {escape(told)}</h3>" + table(("", *CLASSES), rows)
    return out + _drawn(held, "figures")


def _baselines(held: dict[str, Any]) -> str:
    m, shown = held["metrics"], ("auroc", "macro_f1", "accuracy")
    if not m["baselines"]:
        return absent("no baseline was computed, so whether an image model was needed is unknown")
    head = ("", *map(page.name, shown))
    names = {k: verdict.NAMES.get(k, k).removeprefix("the ") for k in m["baselines"]}
    rows = [(f"model, {page.name(k)}", *(v[s] for s in shown)) for k, v in m["test"].items()]
    rows += [(names[k], *(v[s] for s in shown)) for k, v in m["baselines"].items()]
    gaps = [(names[k], *(m["differences"][f"model_minus_{k}"][s] for s in shown)) for k in names]
    out = table(head, rows) + f"<h3>Model ({page.name(m['model'])}) minus each, paired</h3>" + table(head, gaps)
    return out + _drawn(held, "baselines")


def _calibration(held: dict[str, Any]) -> str:
    block = held["metrics"]["calibration"][held["metrics"]["model"]]
    stages = block["before"], block["after"]
    rows = [("ECE", *(s["ece"] for s in stages)), ("ECE of perfect calibration", *(s["ece_floor"] for s in stages))]
    rows += [(f"ECE, {c}", *(s["classwise_ece"][c] for s in stages)) for c in CLASSES]
    rows += [("log loss", *(s["log_loss"] for s in stages))]
    rows += [(f"Brier {'score' if k == 'brier' else k}", *(s["brier"][k] for s in stages)) for k in stages[0]["brier"]]
    told = f"Temperature {block['temperature']:.2f}, fitted on {block['fitted_on']} validation images"
    told += ", after the class shares that training drew were undone." if block.get("priors") else "."
    if not 0.06 < block["temperature"] < 19:
        told += " It lies at the end of its range: too few validation images, or a model that knows nothing."
    if stages[1]["log_loss"] > stages[0]["log_loss"]:
        told += " On the test split it made the probabilities worse."
    return paragraph(told) + table(("", "before", "after"), rows) + _drawn(held, "calibration")


def _selective(held: dict[str, Any]) -> str:
    block = held["metrics"]["selective"][held["metrics"]["model"]]
    told = f"A target accuracy of {block['target_accuracy']:.0%} is reached on validation by no threshold: refer all."
    if block["threshold"] is not None:
        told = (
            f"A target accuracy of {block['target_accuracy']:.0%} is reached on validation from a probability of "
            f"{block['threshold']:.2f}. On test this answers {block['coverage']:.0%} of the images, with accuracy "
            f"{verdict.span(block.get('accuracy'))}, and refers the rest."
        )
    rows = [
        (c, *(part.get(k) for k in ("threshold", "answered", "accuracy"))) for c, part in block["per_class"].items()
    ]
    head = (f"calls, for a PPV of {block['target_accuracy']:.0%}", "from probability", "answered", "PPV on test")
    gauge = (held["model"] or {}).get("inputs")
    told += " Asked about other images, the model refuses blank ones" + (
        f", colour photos, and what lies farther than {gauge['limit']:.1f} from its training images (module inputs)."
        if gauge else " only: too few training images to say what is like them."
    )  # fmt: skip
    return paragraph(told) + table(head, rows) + _drawn(held, "selective")


def _subgroups(held: dict[str, Any]) -> str:
    shown, out = ("auroc", "macro_f1", "accuracy"), ""
    for column, blocks in held["metrics"]["subgroups"].items():
        rows = [(k, f"{b['images']} ({b['groups']})", *(b[s] for s in shown)) for k, b in blocks.items()]
        out += f"<h3>{escape(column)}</h3>" + table(("", "images (groups)", *map(page.name, shown)), rows)
    return out or absent("no metadata column with two subgroups of enough patients in the test split")


def _failures(held: dict[str, Any]) -> str:
    if held["predictions"] is None:
        return absent("no predictions.csv in this run")
    out, head = "", ("image", "true, called", "probabilities")
    for title, rows in evaluation.failures(held["predictions"]).items():
        probs = rows[metrics.PROBS].to_numpy()
        said = [" / ".join(f"{v:.0%}" for v in p) for p in probs]  # in class order
        calls = rows["label"] + ", called " + rows["called"]
        cells = zip(rows["path"], calls, said, strict=True)
        shown = page.pictures(p for p in held["figures"] if p.stem == f"gallery_{title.replace(' ', '_')}")
        out += shown or f"<h3>{escape(title.capitalize())}</h3>"
        out += table(head, cells) if len(rows) else paragraph("None.")
    return out


def _training(held: dict[str, Any]) -> str:
    history, out = held["history"], _drawn(held, "training")
    if history is None or not len(history):
        return absent("no history.csv in this run") + out
    best = history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).iloc[0]
    minutes = history["seconds"].sum() / 60
    told = f"{len(history)} epochs in {minutes:.1f} min. Epoch {int(best['epoch'])} was kept: validation accuracy "
    return paragraph(f"{told}{best['val_accuracy']:.2f}. The test split had no part in the choice.") + out


def _explanations(held: dict[str, Any]) -> str:
    found, out = held["explain"], _drawn(held, "explanations")
    if not found:
        return absent("no checks of heat maps (explain.json) in this run") + out
    told = "".join(map(paragraph, found["verdict"]))
    if "regions" not in found:
        return told + out
    rows = [(k, *(f"{v:.1%}" for v in part.values())) for k, part in found["regions"].items()]
    return told + table(("region, by stated rules", "share of heat", "share of area"), rows) + out


def _settings(held: dict[str, Any]) -> str:
    known = [{k: v for k, v in held[name].items() if k != "inputs"} for name in ("config", "model") if held[name]]
    return "".join(map(page.tree, known)) or absent("no config.json and no model/config.json in this run")


def _use(held: dict[str, Any]) -> str:
    return "".join(map(paragraph, card.LIMITS))


def _checklist(held: dict[str, Any]) -> str:
    head = ("CLAIM", "TRIPOD+AI", "topic", "answered in")
    return paragraph(card.SOURCES) + table(head, card.checklist(held))


SECTIONS = {
    "data": _data, "figures": _figures, "baselines": _baselines, "calibration": _calibration, "selective": _selective,
    "subgroups": _subgroups, "failures": _failures, "explanations": _explanations, "training": _training, "use": _use,
    "settings": _settings, "checklist": _checklist,
}  # fmt: skip
MEASURED = ("figures", "baselines", "calibration", "selective", "subgroups")  # sections that metrics.json feeds


def write(run: Path | str) -> Path:
    """Write report.html and MODEL_CARD.md into the run folder from what lies there; the path of the report."""
    run = Path(run)
    held = read(run)
    body = "".join(paragraph(s, "alarm" if s.startswith(verdict.ALARMS) else "verdict") for s in held["verdict"])
    if held["metrics"] is None:
        body += absent("no metrics.json in this run, so there is no verdict; run 04_evaluate")
    elif reads := held["metrics"].get("test_reads"):
        more = ": each model that was judged here makes the best of them look a little too good" if reads > 1 else ""
        body += paragraph(f"Test split read {reads} time{'s' * (reads != 1)}{more}.")
    for key, section in SECTIONS.items():
        there = held["metrics"] is not None or key not in MEASURED
        body += f'<h2 id="{key}">{card.TITLES[key]}</h2>'
        body += section(held) if there else absent("no metrics.json in this run")
    known = tuple(name for names in FIGURES.values() for name in names)
    if left := [p for p in held["figures"] if not p.stem.startswith(known)]:
        body += f"<h2>More figures</h2>{page.pictures(left)}"
    html = page.document("May this model be believed?", paragraph(card.NOTICE) + body)
    artifact.write(run / "report.html", html)
    artifact.write(run / "MODEL_CARD.md", card.markdown(held))
    return run / "report.html"

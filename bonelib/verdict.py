"""What the figures and the audit say, in sentences. One rule decides every comparison: the paired interval of AUROC."""

from __future__ import annotations

from typing import Any

import pandas as pd

ALARMS = ("Leak", "Shortcut", "The model has learnt nothing")  # how sentences begin that warn
FEW = 5  # patients of a class in the test split below which no comparison is drawn from resampling them
WIDE = 0.1  # half-width of a difference in AUROC above which the test split is called too small
NAMES = {
    "majority": "the majority class",
    "intensity": "the intensity baseline",
    "metadata": "metadata alone",
    "metadata_image": "metadata with simple image features",
    "corners": "the image corners alone",
}


def span(figure: dict[str, Any] | None, signed: bool = False) -> str:
    """«0.71 (0.62 to 0.79)», or «not defined»."""
    if not figure or figure.get("value") is None:
        return "not defined"
    value, low, high = (
        None if (x := figure.get(k)) is None else f"{round(x, 2) + 0.0:{'+' if signed else ''}.2f}"
        for k in ("value", "low", "high")
    )
    return f"{value} (no interval)" if low is None or high is None else f"{value} ({low} to {high})"


def _comparison(difference: dict[str, Any], subject: str, other: str, few: bool) -> str:
    """One sentence from the paired difference in AUROC, with macro-F1 beside it; `few`: not enough patients to say."""
    auroc = difference.get("auroc") or {}
    low, high = auroc.get("low"), auroc.get("high")
    told = f"AUROC {span(auroc, True)}, macro-F1 {span(difference.get('macro_f1'), True)}"
    if few or low is None or high is None:
        return f"{subject} against {other}: too few test images to tell ({told})."
    if low > 0:
        return f"{subject} is better than {other} ({told})."
    if high < 0:
        return f"{subject} is worse than {other} ({told})."
    if (high - low) / 2 > WIDE:
        return f"{subject} against {other}: too few test images to tell ({told})."
    return f"{subject} is not distinguishable from {other} ({told})."


def ranks(auroc: dict[str, Any]) -> bool | None:
    """Whether an AUROC is above chance (0.5): True, False, or None where the interval is too wide to say no."""
    low, high = auroc["low"], auroc["high"]
    if low is None or (low <= 0.5 and (high - low) / 2 > WIDE):
        return None
    return bool(low > 0.5)


def performance(metrics: dict[str, Any]) -> list[str]:
    """The verdict on the model, from `evaluation.evaluate`'s figures alone."""
    figure, counts = metrics["test"][metrics["model"]], metrics["counts"]
    out = []
    scarce = [f"{c} {n}" for c, n in counts["groups_per_class"].items() if n < 10]
    few = min(counts["groups_per_class"].values()) < FEW
    if scarce:
        out.append(f"The test split is small: {', '.join(scarce)} independent patients; read the intervals first.")
    said = {
        True: "The model tells the classes apart better than chance",
        None: "Too few test images to tell whether the model has learnt anything",
        False: "The model has learnt nothing that this test split can show: it is not above the majority class",
    }
    out.append(f"{said[ranks(figure['auroc'])]} (AUROC {span(figure['auroc'])}; chance is 0.50).")
    for name in metrics["baselines"]:
        if name not in ("majority", "corners") and (difference := metrics["differences"].get(f"model_minus_{name}")):
            out.append(_comparison(difference, "The model", NAMES.get(name, name), few))
    if "metadata" not in metrics["baselines"]:
        out.append("No metadata that may predict: whether age or sex alone would do as well is not answered.")
    if difference := metrics["differences"].get("tta_minus_plain"):
        out.append(_comparison(difference, "Test-time augmentation", "plain prediction", few))
    corner = (metrics["baselines"].get("corners") or {}).get("auroc") or {}
    if corner.get("low") is not None and corner["low"] > 0.5:
        out.append(
            f"Shortcut: the corners of the images alone, without the bone, predict the class (AUROC {span(corner)}). "
            "A model can score by markers, exposure or scanner: look at the corners by class first."
        )
    if figure["accuracy"]["value"] > 0.85 and counts["images"] < 300:
        out.append(
            f"Accuracy {figure['accuracy']['value']:.2f} is above what honest studies reach on small public sets: "
            "on real images suspect a leak before celebrating."
        )
    return out


SHARED = {  # what train or val may share with test, and how it is called
    "group": "groups of copies or patients",
    "_split_group": "groups of copies or patients",
    "_cluster": "clusters of copies that the audit found",
    "_picture": "pictures that are one picture when compared again",
    "sha256": "byte-identical files",
    "patient": "patients",
}


def leaks(splits: pd.DataFrame, catalog: pd.DataFrame | None = None, audit: dict[str, Any] | None = None) -> list[str]:
    """A sentence for each way in which train or val share images or patients with test; none if clean.

    The splits' own groups, the catalog's columns of SHARED, and the clusters of audit.json are each asked by themselves.
    """
    table = splits.rename(columns={"group": "_split_group"})
    if catalog is not None:
        known = catalog[["path", *(c for c in SHARED if c in catalog)]].drop_duplicates("path")
        table = table.merge(known, on="path", how="left")
    found = enumerate((audit or {}).get("clusters", []))
    table["_cluster"] = table["path"].map({path: i for i, cluster in found for path in cluster["paths"]})
    out = []
    for column, name in SHARED.items():
        if column in table:
            held = table[table[column].notna() & (table[column].astype(str) != "")]
            sides = (held["split"] == "test").groupby(held[column]).nunique()
            if (sides > 1).any():
                out.append(
                    f"Leak: {int((sides > 1).sum())} {name} stand both in test and in train or val. "
                    "The test figures are too high and mean nothing until the images are split anew."
                )
    return list(dict.fromkeys(out))


def shortcuts(audit: dict[str, Any] | None) -> list[str]:
    """A sentence for each shortcut that audit.json warns of."""
    return [f"Shortcut: {one['warning']}" for one in (audit or {}).get("shortcuts", []) if one["warning"]]

"""What metrics and splits say, as findings; one rule decides every comparison."""

import pandas as pd

from bonelib.messages import Finding

METHOD_NAMES = {"model": "The model", "tta": "Test-time augmentation"}
BASELINE_NAMES = {
    "plain": "plain prediction",
    "majority": "the majority class",
    "intensity": "the intensity baseline",
    "metadata": "metadata alone",
    "frozen_features": "frozen features with logistic regression",
}
# Patients of a class below which the test set is small, and below which nothing is compared.
SMALL_CLASS, MIN_PATIENTS = 10, 5
# Width of an interval of AUROC above which it decides nothing.
MAX_WIDTH = 0.2
# What the training or validation set may not share with the test set: `group` of the catalog and
# `_group` of the splits, `_cluster` of audit.json, `_image` (one number per set of images that are
# the same when compared again), and `_file` (sha256). Metadata never has these names.
LEAK_COLUMNS = ("group", "_group", "_cluster", "_image", "_file", "patient")


def format_interval(leaf: dict | None, signed: bool = False) -> str:
    """A result with its interval, "0.71 (0.62 to 0.79)", or "not defined"."""
    numbers = [leaf[key] for key in ("value", "low", "high")] if leaf else []
    sign = "+" if signed else ""
    # Adding 0.0 makes -0.0 positive.
    texts = [f"{round(n, 2) + 0.0:{sign}.2f}" for n in numbers if n is not None]
    if len(texts) < 3:
        return f"{texts[0]} (no interval)" if texts else "not defined"
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def against_chance(auroc: dict, above: Finding, below: Finding, unclear: str) -> Finding:
    """Which of the findings holds, followed by the AUROC.

    A warning that it is `unclear` where the interval holds 0.5 and is too wide to say no.
    """
    low, high = auroc["low"], auroc["high"]
    found = above if low is not None and low > 0.5 else below
    if low is None or (low <= 0.5 and high - low > MAX_WIDTH):
        found = Finding("warning", unclear)
    return Finding(found.level, f"{found.text} (AUROC {format_interval(auroc)}; chance is 0.50).")


def _comparison(difference: dict, first: str, second: str, patients: int) -> Finding:
    """A finding from the paired difference in AUROC, first minus second.

    patients: of the smallest class.
    """
    auroc, macro_f1 = difference["auroc"], difference["macro_f1"]
    low, high = auroc["low"], auroc["high"]
    results = f"AUROC difference {format_interval(auroc, True)}, "
    results += f"macro-F1 difference {format_interval(macro_f1, True)}"
    if patients >= MIN_PATIENTS and low is not None:
        if low > 0:
            return Finding("note", f"{first} is better than {second} ({results}).")
        if high < 0:
            return Finding("warning", f"{first} is worse than {second} ({results}).")
        if high - low <= MAX_WIDTH:
            return Finding("note", f"{first} is not distinguishable from {second} ({results}).")
    text = f"{first} and {second}: too few test images to compare them"
    return Finding("warning", f"{text} ({results}).")


def _sample_size(accuracy: dict, groups: int) -> Finding:
    """How many test patients an interval of 5 points to either side takes."""
    needed = groups * ((accuracy["high"] - accuracy["low"]) / 0.1) ** 2
    text = f"To know the accuracy to within 5 points takes about {needed:,.0f} test patients"
    return Finding("note", f"{text}; this test set has {groups:,}.")


def performance_findings(metrics: dict) -> list[Finding]:
    """What the content of metrics.json says about the model."""
    test, counts, differences = (metrics[key] for key in ("test", "counts", "differences"))
    auroc, accuracy = (test[metrics["model"]][name] for name in ("auroc", "accuracy"))
    patients = counts["groups_per_class"]
    fewest = min(patients.values())
    above = Finding("note", "The model separates the classes better than chance")
    below = Finding("alarm", "The model has learnt nothing that this test set shows")
    unclear = "Too few test images to see whether the model learnt"
    found = [against_chance(auroc, above, below, unclear)]
    if fewest < SMALL_CLASS:
        listed = ", ".join(f"{name} {count}" for name, count in patients.items())
        text = f"The test set has few independent patients: {listed}. Read the intervals."
        found.append(Finding("warning", text))
    for name, difference in differences.items():
        method, other = name.split("_minus_")
        if other != "majority":
            first = "Fine-tuning" if other == "frozen_features" else METHOD_NAMES[method]
            second = BASELINE_NAMES.get(other, other)
            found.append(_comparison(difference, first, second, fewest))
    if "metadata" not in metrics["baselines"]:
        text = "No metadata that may predict: whether age or sex alone would do as well is unknown."
        found.append(Finding("note", text))
    if accuracy["low"] is not None:
        found.append(_sample_size(accuracy, counts["groups"]))
    if len(patients) < 3:
        text = "Two classes: quadratic kappa and distances of errors need three and are left out."
        found.append(Finding("note", text))
    if several := metrics.get("patients", {}).get("several_labels"):
        text = f"Test patients with images of several classes: {several}. By patient, the class of"
        found.append(Finding("note", f"{text} most images counts; of equally many, the worse one."))
    if accuracy["value"] > 0.85 and counts["images"] < 300:
        score = f"Accuracy {accuracy['value']:.2f}"
        text = f"{score} is more than careful studies of small public sets reach: look for a leak."
        found.append(Finding("warning", text))
    return found


def leak_findings(splits: pd.DataFrame, catalog=None, audit=None) -> list[Finding]:
    """An alarm for each way in which test images or patients are also in train or val.

    The groups of the splits, the LEAK_COLUMNS of the catalog and the clusters of audit.json are
    checked independently.
    """
    table = splits.rename(columns={"group": "_group"})
    if catalog is not None:
        catalog = catalog.rename(columns={"sha256": "_file"})
        columns = [name for name in LEAK_COLUMNS if name in catalog]
        table = table.merge(catalog[["path", *columns]].drop_duplicates("path"), "left", "path")
    clusters = enumerate((audit or {}).get("clusters", []))
    numbers = {path: number for number, cluster in clusters for path in cluster["paths"]}
    table["_cluster"] = table["path"].map(numbers)
    found = []
    for column in [name for name in LEAK_COLUMNS if name in table]:
        known = table[table[column].notna() & (table[column].astype(str) != "")]
        shared = int(((known["split"] == "test").groupby(known[column]).nunique() > 1).sum())
        if shared:
            text = f"Leak: {shared} {column.removeprefix('_')}s are in the test set and in another"
            found.append(Finding("alarm", f"{text} split. Test results are too high: split again."))
    return list(dict.fromkeys(found))

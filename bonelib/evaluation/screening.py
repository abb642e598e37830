"""Could the model screen? A threshold for a wanted sensitivity, and what it costs per 1,000."""

import math

import numpy as np

from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.findings import format_interval
from bonelib.messages import Finding


def screen(val: tuple, test: tuple, class_names: tuple, shares: np.ndarray, wanted: float) -> list:
    """For each cut between the ordered classes what a screening test would reach.

    val, test: labels (N,), calibrated probabilities (N, K), groups (N,). shares: (K,) of the
    classes among 1,000 people. wanted: the sensitivity, reached on validation images by the highest
    possible threshold on the probability of the classes from the cut on. A cut with images on one
    side only is left out. A row: `name`, `threshold`, test `sensitivity` and `specificity` with 95%
    intervals by patient, `positive` (its share), `referred` and `missed` per 1,000.
    """
    rows = []
    for cut, name in enumerate(class_names[1:], 1):
        scores = np.sort(val[1][val[0] >= cut, cut:].sum(1))[::-1]
        if not len(scores) or len(set(test[0] >= cut)) < 2:
            continue
        threshold = float(scores[math.ceil(wanted * len(scores)) - 1])
        referred = test[1][:, cut:].sum(1) >= threshold
        decisions = np.eye(2)[referred.astype(int)]  # (N, 2)
        result = intervals((test[0] >= cut).astype(int), decisions, test[2], ("no", "yes"))
        sensitivity, specificity = result["sensitivity"]["yes"], result["specificity"]["yes"]
        positive = float(np.sum(shares[cut:]) / np.sum(shares))
        missed = positive * (1 - sensitivity["value"])
        false_alarms = (1 - positive) * (1 - specificity["value"])
        row = {"name": name if cut == len(class_names) - 1 else f"{name} or worse"}
        row |= {"threshold": threshold, "sensitivity": sensitivity, "specificity": specificity}
        row |= {"positive": positive, "missed": round(1000 * missed)}
        rows.append(row | {"referred": round(1000 * (positive - missed + false_alarms))})
    return rows


def screening_findings(rows: list[dict], wanted: float) -> list[Finding]:
    """A note for each cut; a warning where the test set shows a lower sensitivity than wanted."""
    found = []
    for row in rows:
        high = row["sensitivity"]["high"]
        text = (
            f"Screening for {row['name']} from a probability of {row['threshold']:.2f} on, chosen "
            f"on validation images for a sensitivity of {wanted:.0%}: on the test set sensitivity "
            f"{format_interval(row['sensitivity'])}, specificity "
            f"{format_interval(row['specificity'])}. Of 1,000 people, {1000 * row['positive']:.0f} "
            f"of whom have it, {row['referred']} would be referred and {row['missed']} missed."
        )
        found.append(Finding("warning" if high is not None and high < wanted else "note", text))
    return found

"""Do the 95% intervals cover the truth 95% of the time? On predictions whose errors patients share.

    python benchmarks/bench_intervals.py [repetitions]

Each repetition draws a test set of so many patients with 1 to 5 images each; the truth is the
result on 200,000 patients. The images of a patient share their class and most of their error, so
they are far from independent. "by patient" is of probabilities averaged over a patient's images,
"sensitivity" that of screening for the last class at a probability of 0.3, and "external" the
difference in AUROC to a second set, of as many patients but 0.4 less skill. The last column is the
coverage of an interval that takes images as independent.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib.config import CLASSES
from bonelib.evaluation.bootstrap import difference, intervals
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import probability_columns
from bonelib.evaluation.subgroups import catalog_results

METRICS = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")
PATIENT_METRICS = ("accuracy", "macro_f1", "auroc")
THRESHOLD = 0.3
BALANCED, SKEWED = (0.34, 0.33, 0.33), (0.6, 0.25, 0.15)
# Patients, class shares, and skill: how far the classes are apart.
SETTINGS = (
    (25, BALANCED, 1.0),
    (50, SKEWED, 0.0),
    (50, SKEWED, 1.0),
    (100, BALANCED, 0.6),
    (100, SKEWED, 1.6),
    (300, SKEWED, 2.0),
)
TestSet = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def draw_test_set(
    rng: np.random.Generator, patients: int, shares: tuple[float, ...], skill: float
) -> TestSet:
    """Labels (N,), probabilities (N, 3) and patients (N,) of one test set."""
    group = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    y = rng.choice(3, patients, p=shares)[group]
    of_patient, of_image = rng.normal(size=(patients, 3))[group], rng.normal(size=(len(y), 3))
    errors = np.sqrt(0.7) * of_patient + np.sqrt(0.3) * of_image
    evidence = np.eye(3)[y] - 0.15 * np.square(np.arange(3) - y[:, None])
    odds = np.exp(skill * evidence + errors)
    return y, odds / odds.sum(1, keepdims=True), group


def patient_results(test_set: TestSet, **sampling: int) -> dict[str, Any]:
    """The metrics by patient, with intervals."""
    y, probabilities, group = test_set
    test = pd.DataFrame(probabilities, columns=probability_columns(CLASSES))
    test = test.assign(path=np.arange(len(y)), label=np.array(CLASSES)[y], group=group)
    catalog = test[["path"]].assign(patient=group)
    options = {"class_names": CLASSES, **sampling}
    return dict(catalog_results(test, catalog, options)["patients"])


def screening_results(test_set: TestSet, **sampling: int) -> dict[str, Any]:
    """Sensitivity for the last class, as `screening.screen` takes it from `intervals`."""
    y, probabilities, group = test_set
    decisions = np.eye(2)[(probabilities[:, 2] >= THRESHOLD).astype(int)]
    results = intervals((y == 2).astype(int), decisions, group, ("no", "yes"), **sampling)
    return dict(results["sensitivity"]["yes"])


def all_results(test_set: TestSet, other: TestSet, **sampling: int) -> dict[str, Any]:
    """Every interval of a test set, by the name of its column."""
    by_image = intervals(*test_set, CLASSES, **sampling)
    found = {name: by_image[name] for name in METRICS}
    by_patient = patient_results(test_set, **sampling)
    found |= {f"{name} by patient": by_patient[name] for name in PATIENT_METRICS}
    found["sensitivity"] = screening_results(test_set, **sampling)
    apart = difference(other, test_set, CLASSES, paired=False, **sampling)
    found["external"] = apart["auroc"]
    y, probabilities, _ = test_set
    alone = intervals(y, probabilities, np.arange(len(y)), CLASSES, **sampling)
    return found | {"accuracy by image": alone["accuracy"]}


def covered(leaf: dict[str, Any], truth: float) -> bool:
    return bool(leaf["low"] <= truth <= leaf["high"])


def main(repetitions: int = 1000) -> None:
    print(f"share of {repetitions} 95% intervals that cover the truth, 500 resamples each\n")
    for patients, shares, skill in SETTINGS:
        rng = np.random.default_rng(1)
        many, other = (draw_test_set(rng, 200_000, shares, s) for s in (skill, skill - 0.4))
        truth = {n: leaf["value"] for n, leaf in all_results(many, other, resamples=1).items()}
        auroc = compute_metrics(*many[:2], CLASSES)["auroc"]
        if (patients, shares, skill) == SETTINGS[0]:
            print(" | ".join(["patients", "classes", "AUROC", *truth]))
        hits, defined = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
        for seed in range(repetitions):
            sets = [draw_test_set(rng, patients, shares, s) for s in (skill, skill - 0.4)]
            for name, leaf in all_results(*sets, resamples=500, seed=seed).items():
                # where a small set has too few patients of a class, there is no interval
                if leaf["low"] is not None:
                    defined[name] += 1
                    hits[name] += covered(leaf, truth[name])
        row = [f"{hits[name] / defined[name]:.1%}" for name in truth]
        classes = "/".join(f"{share:.0%}" for share in shares)
        print(" | ".join([str(patients), classes, f"{auroc:.2f}", *row]), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Do the 95% intervals cover the truth 95% of the time? On predictions whose errors patients share.

    python benchmarks/bench_intervals.py [repetitions]

Each repetition draws a test set of so many patients with 1 to 5 images each; the truth is the
result on 200,000 patients. The images of a patient share their class and most of their error, so
they are far from independent. The columns "by patient" are of probabilities averaged over a
patient's images. The last column is the coverage of an interval that takes images as independent.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib.config import CLASSES
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import probability_columns
from bonelib.evaluation.subgroups import catalog_results

METRICS = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")
PATIENT_METRICS = ("accuracy", "macro_f1", "auroc")
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


def draw_test_set(
    rng: np.random.Generator, patients: int, shares: tuple[float, ...], skill: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels (N,), probabilities (N, 3) and patients (N,) of one test set."""
    group = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    y = rng.choice(3, patients, p=shares)[group]
    of_patient, of_image = rng.normal(size=(patients, 3))[group], rng.normal(size=(len(y), 3))
    errors = np.sqrt(0.7) * of_patient + np.sqrt(0.3) * of_image
    evidence = np.eye(3)[y] - 0.15 * np.square(np.arange(3) - y[:, None])
    odds = np.exp(skill * evidence + errors)
    return y, odds / odds.sum(1, keepdims=True), group


def patient_results(
    y: NDArray[Any], probabilities: NDArray[Any], group: NDArray[Any], **sampling: int
) -> dict[str, Any]:
    """The metrics by patient, with intervals."""
    test = pd.DataFrame(probabilities, columns=probability_columns(CLASSES))
    test = test.assign(path=np.arange(len(y)), label=np.array(CLASSES)[y], group=group)
    catalog = test[["path"]].assign(patient=group)
    options = {"class_names": CLASSES, **sampling}
    return dict(catalog_results(test, catalog, options)["patients"])


def covered(leaf: dict[str, Any], truth: float) -> bool:
    return bool(leaf["low"] <= truth <= leaf["high"])


def main(repetitions: int = 1000) -> None:
    print(f"share of {repetitions} 95% intervals that cover the truth, 500 resamples each\n")
    names = [*METRICS, *(f"{name} by patient" for name in PATIENT_METRICS), "accuracy by image"]
    print(" | ".join(["patients", "classes", "AUROC", *names]))
    for patients, shares, skill in SETTINGS:
        rng = np.random.default_rng(1)
        many = draw_test_set(rng, 200_000, shares, skill)
        truth = compute_metrics(*many[:2], CLASSES)
        patient_truth = patient_results(*many, resamples=1)
        hits = dict.fromkeys(names, 0)
        for seed in range(repetitions):
            y, probabilities, group = draw_test_set(rng, patients, shares, skill)
            results = intervals(y, probabilities, group, CLASSES, resamples=500, seed=seed)
            for name in METRICS:
                hits[name] += covered(results[name], truth[name])
            results = patient_results(y, probabilities, group, resamples=500, seed=seed)
            for name in PATIENT_METRICS:
                value = patient_truth[name]["value"]
                hits[f"{name} by patient"] += covered(results[name], value)
            images = np.arange(len(y))
            alone = intervals(y, probabilities, images, CLASSES, resamples=100, seed=seed)
            hits["accuracy by image"] += covered(alone["accuracy"], truth["accuracy"])
        row = [f"{hits[name] / repetitions:.1%}" for name in names]
        classes = "/".join(f"{share:.0%}" for share in shares)
        print(" | ".join([str(patients), classes, f"{truth['auroc']:.2f}", *row]), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

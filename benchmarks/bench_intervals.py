"""Do the 95% intervals cover the truth 95% of the time? On predictions whose errors patients share.

    python benchmarks/bench_intervals.py [repetitions]

Each repetition draws a test set of so many patients with 1 to 5 images each; the truth is the
result on 200,000 patients. The images of a patient share their class and most of their error, so
they are far from independent. The last column is the coverage of an interval that takes them as
independent.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonelib.config import CLASSES
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.metrics import compute_metrics

METRICS = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")
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


def covered(leaf: dict[str, Any], truth: float) -> bool:
    return bool(leaf["low"] <= truth <= leaf["high"])


def main(repetitions: int = 1000) -> None:
    print(f"share of {repetitions} 95% intervals that cover the truth, 500 resamples each\n")
    head = " ".join(f"{name:>16}" for name in METRICS)
    print(f"{'patients':>8} {'classes':>16} {'AUROC':>5} {head} {'(by image) acc.':>16}")
    for patients, shares, skill in SETTINGS:
        rng = np.random.default_rng(1)
        truth = compute_metrics(*draw_test_set(rng, 200_000, shares, skill)[:2], CLASSES)
        hits = dict.fromkeys((*METRICS, "by image"), 0)
        for seed in range(repetitions):
            y, probabilities, group = draw_test_set(rng, patients, shares, skill)
            results = intervals(y, probabilities, group, CLASSES, resamples=500, seed=seed)
            for name in METRICS:
                hits[name] += covered(results[name], truth[name])
            images = np.arange(len(y))
            alone = intervals(y, probabilities, images, CLASSES, resamples=100, seed=seed)
            hits["by image"] += covered(alone["accuracy"], truth["accuracy"])
        row = " ".join(f"{count / repetitions:16.1%}" for count in hits.values())
        classes = "/".join(f"{share:.0%}" for share in shares)
        print(f"{patients:>8} {classes:>16} {truth['auroc']:>5.2f} {row}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Do the 95% intervals cover the truth 95% of the time? Generated predictions whose errors patients share.

    python benchmarks/bench_intervals.py [repetitions]

Each repetition draws a test split of so many patients with 1 to 5 images each; the truth is the figure of 200,000
patients. A patient's images share their class and most of their error, so the images are far from independent. The last
column is what an interval that takes images as independent would cover.
"""

from __future__ import annotations

import sys

import numpy as np

from bonelib import metrics

NAMES = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")


def draw(rng: np.random.Generator, patients: int, shares: tuple[float, ...], skill: float):
    """Labels (N,), probabilities (N, 3) and patients (N,) of one test split."""
    group = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    y = rng.choice(3, patients, p=shares)[group]
    error = np.sqrt(0.7) * rng.normal(size=(patients, 3))[group] + np.sqrt(0.3) * rng.normal(size=(len(y), 3))
    z = skill * (np.eye(3)[y] - 0.15 * np.square(np.arange(3) - y[:, None])) + error
    z = np.exp(z - z.max(1, keepdims=True))
    return y, z / z.sum(1, keepdims=True), group


def main(repetitions: int = 1000) -> None:
    print(f"share of {repetitions} 95% intervals that hold the truth, 500 resamples each\n")
    head = " ".join(f"{n:>16}" for n in NAMES)
    print(f"{'patients':>8} {'classes':>16} {'AUROC':>5} {head} {'(by image) acc.':>16}")
    for patients, shares, skill in (
        (25, (0.34, 0.33, 0.33), 1.0), (50, (0.6, 0.25, 0.15), 0.0), (50, (0.6, 0.25, 0.15), 1.0),
        (100, (0.34, 0.33, 0.33), 0.6), (100, (0.6, 0.25, 0.15), 1.6), (300, (0.6, 0.25, 0.15), 2.0),
    ):  # fmt: skip
        rng = np.random.default_rng(1)
        truth = metrics.figures(*draw(rng, 200_000, shares, skill)[:2])
        hits = dict.fromkeys((*NAMES, "by image"), 0)
        for i in range(repetitions):
            y, probs, group = draw(rng, patients, shares, skill)
            held = metrics.intervals(y, probs, group, resamples=500, seed=i)
            for name in NAMES:
                hits[name] += held[name]["low"] <= truth[name] <= held[name]["high"]
            alone = metrics.intervals(y, probs, np.arange(len(y)), resamples=100, seed=i)["accuracy"]
            hits["by image"] += alone["low"] <= truth["accuracy"] <= alone["high"]
        row = " ".join(f"{hits[n] / repetitions:16.1%}" for n in (*NAMES, "by image"))
        print(f"{patients:>8} {'/'.join(f'{s:.0%}' for s in shares):>16} {truth['auroc']:>5.2f} {row}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

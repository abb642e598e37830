"""How much accuracy does a wrong split pretend on a set of images, with two cheap classifiers?

    python benchmarks/bench_leakage.py DATA [--backbone NAME --weights FILE] [--repeats 20]

DATA: a folder with one folder per class. The images are audited, which finds copies and patients;
features are those of a frozen pretrained backbone on the thumbnails. All readable images are used,
copies included, as most public notebooks do. Accepts any `BONELIB_<FIELD>`; results are printed,
and the audit is kept in the run folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from imblearn.over_sampling import RandomOverSampler
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from bonelib.config import Config, present_classes
from bonelib.evaluation.baselines import frozen_features, regression
from bonelib.pipeline import audited
from bonelib.split import assign_folds, label_indices
from bonelib.training.model import describe_weights


def compare_protocols(
    features: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    repeats: int,
    seed: int,
    model: Pipeline,
) -> pd.DataFrame:
    """Accuracy of a classifier: one row per split, one column per protocol.

    features: (N, D). groups: (N,), of a patient or of copies. The first two protocols put images of
    a group, or the same image, on both sides.
    """
    rows, everything = [], np.arange(len(y))
    for repeat in range(seed, seed + repeats):
        sampler = RandomOverSampler(random_state=repeat)
        oversampled = sampler.fit_resample(everything[:, None], y)[0][:, 0]
        folds = assign_folds(y, groups, 5, repeat)
        fifth = {"test_size": 0.2, "random_state": repeat}
        halves = {
            "oversample, then split by image": train_test_split(oversampled, **fifth),
            "split by image": train_test_split(everything, **fifth),
            "split by group": (everything[folds > 0], everything[folds == 0]),
        }
        row = {}
        for protocol, (train, test) in halves.items():
            row[protocol] = model.fit(features[train], y[train]).score(features[test], y[test])
        rows.append(row)
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame) -> pd.Series:
    """The mean accuracy of each protocol with the range of 95% of the splits, as text."""
    texts = {}
    for protocol, accuracy in scores.items():
        low, high = np.quantile(accuracy, [0.025, 0.975])
        texts[protocol] = f"{accuracy.mean():.3f} ({low:.3f} to {high:.3f})"
    return pd.Series(texts)


def measure(cfg: Config, repeats: int = 20) -> pd.DataFrame:
    """One row per protocol, one column per classifier."""
    data = audited(cfg)
    readable = data.readable
    class_names = present_classes(cfg, readable["label"])
    y, groups = label_indices(readable["label"], class_names), readable["group"].to_numpy()
    print(
        f"{len(y)} readable images in {len(set(groups))} groups, {len(class_names)} classes; "
        f"features: {describe_weights(cfg)}; {repeats} splits per protocol"
    )
    features = frozen_features(cfg, data.thumbnails)
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    neighbour = compare_protocols(features, y, groups, repeats, cfg.seed, nearest)
    logistic = compare_protocols(features, y, groups, repeats, cfg.seed, regression())
    scores = {"1-nearest neighbour": neighbour, "logistic regression": logistic}
    return pd.DataFrame({name: summary(table) for name, table in scores.items()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--backbone", default="")
    parser.add_argument("--weights", default="")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    form = {name: getattr(arguments, name) for name in ("data", "backbone", "weights")}
    # a run folder of its own, so that no other run of these images is changed
    run = os.environ.get("BONELIB_RUN", f"runs/leakage-{Path(arguments.data).stem}")
    table = measure(Config.load(**form, run=run), arguments.repeats)
    print(f"\nmean accuracy, and the range of 95% of the splits\n{table.to_string()}")


if __name__ == "__main__":
    main()

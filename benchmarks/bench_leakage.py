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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from imblearn.over_sampling import RandomOverSampler
from sklearn.model_selection import train_test_split

from bonelib.config import Config, present_classes
from bonelib.evaluation.baselines import logistic_regression
from bonelib.evaluation.features import frozen_features
from bonelib.evaluation.leakage import PROTOCOLS, TEST_SHARE, compare_protocols
from bonelib.pipeline import audited
from bonelib.split import assign_folds, label_indices
from bonelib.training.model import describe_weights

# Features and classes of the training rows, and features of the test rows, to predicted classes.
Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def regression_classes(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """The classes (N,) that logistic regression predicts."""
    return logistic_regression(x_train, y_train, x_test, int(y_train.max()) + 1).argmax(1)


def compare_with(
    classifier: Classifier,
    features: np.ndarray,
    y: np.ndarray,
    groups: pd.Series,
    repeats: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """`compare_protocols`, on the same splits, with another classifier."""
    rows, everything = [], np.arange(len(y))
    for repeat in range(seed, seed + repeats):
        sampler = RandomOverSampler(random_state=repeat)
        oversampled = sampler.fit_resample(everything[:, None], y)[0][:, 0]
        folds = assign_folds(y, groups.to_numpy(), round(1 / TEST_SHARE), repeat)
        splits = (
            train_test_split(oversampled, test_size=TEST_SHARE, random_state=repeat),
            train_test_split(everything, test_size=TEST_SHARE, random_state=repeat),
            (everything[folds > 0], everything[folds == 0]),
        )
        for protocol, (train, test) in zip(PROTOCOLS, splits, strict=True):
            predicted = classifier(features[train], y[train], features[test])
            rows.append((protocol, repeat, float((predicted == y[test]).mean())))
    return pd.DataFrame(rows, columns=["protocol", "repeat", "accuracy"])


def summary(scores: pd.DataFrame) -> pd.Series:
    """The mean accuracy of each protocol with the range of 95% of the splits, as text."""
    texts = {}
    for protocol in PROTOCOLS:
        accuracy = scores.loc[scores["protocol"] == protocol, "accuracy"]
        low, high = np.quantile(accuracy, [0.025, 0.975])
        texts[protocol] = f"{accuracy.mean():.3f} ({low:.3f} to {high:.3f})"
    return pd.Series(texts)


def measure(cfg: Config, repeats: int = 20) -> pd.DataFrame:
    """One row per protocol, one column per classifier."""
    data = audited(cfg)
    readable = data.readable
    class_names = present_classes(cfg, readable["label"])
    y, groups = label_indices(readable["label"], class_names), readable["group"]
    print(
        f"{len(y)} readable images in {groups.nunique()} groups, {len(class_names)} classes; "
        f"features: {describe_weights(cfg)}; {repeats} splits per protocol"
    )
    features = frozen_features(cfg, data.thumbnails)
    neighbour = compare_protocols(features, y, groups, repeats, cfg.seed)
    regression = compare_with(regression_classes, features, y, groups, repeats, cfg.seed)
    scores = {"1-nearest neighbour": neighbour, "logistic regression": regression}
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

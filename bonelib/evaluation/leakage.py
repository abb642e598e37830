"""What leakage is worth: one cheap classifier under three ways to split the same images."""

import numpy as np
import pandas as pd
from imblearn.over_sampling import RandomOverSampler
from sklearn.base import ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bonelib.split import assign_folds

PROTOCOLS = ("oversample, then split by image", "split by image", "split by group")
TEST_SHARE = 0.2


def compare_protocols(
    features: np.ndarray,
    y: np.ndarray,
    groups: pd.Series,
    repeats: int = 20,
    seed: int = 0,
    classifier: ClassifierMixin | None = None,
) -> pd.DataFrame:
    """`protocol`, `repeat`, `accuracy` of a classifier, one row per split.

    features: (N, D), standardised on the training rows. groups: (N,), of a patient or of copies.
    classifier: of scikit-learn; by default the nearest neighbour (k = 1). The first two protocols
    put images of a group, or the same image, on both sides.
    """
    rows, everything = [], np.arange(len(y))
    model = make_pipeline(StandardScaler(), classifier or KNeighborsClassifier(1))
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
            model.fit(features[train], y[train])
            rows.append((protocol, repeat, model.score(features[test], y[test])))
    return pd.DataFrame(rows, columns=["protocol", "repeat", "accuracy"])


def leakage_sentence(scores: pd.DataFrame) -> str:
    """What the wrong protocols pretend, in words, from `compare_protocols`."""
    means = scores.groupby("protocol")["accuracy"].mean()
    oversampled, by_image, by_group = means[list(PROTOCOLS)]
    return (
        f"Split by group, the nearest neighbour is right on {by_group:.0%} of the test images. "
        f"Split by image it seems to be right on {by_image:.0%}, and oversampled before the split "
        f"on {oversampled:.0%}: with the same images and the same classifier."
    )

"""Rows to folds: whole groups, and each class as evenly as they allow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold


def deal(y: NDArray[Any], groups: NDArray[Any], k: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, (N,) int64 in 0..k-1, the same from every version of scikit-learn.

    The groups are shuffled here: asked to do it, scikit-learn 1.6 (Colab's) mixes up which group has which counts, and
    the folds are not stratified.
    """
    _, group = np.unique(groups, return_inverse=True)
    order = np.random.RandomState(seed).permutation(group.max() + 1)
    folds = np.empty(len(y), np.int64)
    for fold, (_, held_out) in enumerate(StratifiedGroupKFold(k).split(y, y, np.argsort(order)[group])):
        folds[held_out] = fold
    return folds

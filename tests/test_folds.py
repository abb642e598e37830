"""Folds hold whole groups, an even share of each class, and do not hang on the version of scikit-learn."""

import numpy as np
import pytest

from bonelib.folds import deal


def rows(seed):
    """150 rows of 60 groups, most of them of one class."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 60, 150)
    y = rng.integers(0, 3, 60)[group]
    return np.where(rng.random(150) < 0.1, rng.integers(0, 3, 150), y), group


@pytest.mark.parametrize("seed", range(5))
def test_each_fold_gets_an_even_share_of_each_class_and_whole_groups(seed):
    y, group = rows(seed)
    fold = deal(y, group, 5, seed)
    for c in range(3):
        assert np.bincount(fold[y == c], minlength=5) / (y == c).sum() == pytest.approx(np.full(5, 0.2), abs=0.07)
    assert all(len(set(fold[group == g])) == 1 for g in set(group))


def test_seed_decides_and_the_version_of_scikit_learn_does_not():
    y, group = np.arange(12) % 3, np.arange(12) // 2
    assert deal(y, group, 3, 0).tolist() == [0, 0, 2, 2, 1, 1, 2, 2, 1, 1, 0, 0]
    assert deal(y, group, 3, 1).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2]

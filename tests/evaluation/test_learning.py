"""The learning curve never sees the test set, keeps patients together, and is read in words."""

import numpy as np
import pandas as pd

from bonelib.evaluation.learning import SHARES, learning_curve, learning_sentence


def features(rng, count, dimensions, signal):
    y = rng.integers(3, size=count).repeat(2)
    x = rng.standard_normal((2 * count, dimensions))
    x[:, :3] += signal * np.eye(3)[y]
    return x, y, np.arange(count).repeat(2).astype(str)


def test_curve_rises_where_patients_are_few_and_is_flat_where_they_suffice():
    rng = np.random.default_rng(0)
    hard = learning_curve(*features(rng, 60, 40, 2.0), repeats=10)
    easy = learning_curve(*features(rng, 300, 3, 6.0), repeats=10)
    means = hard.groupby("share")["macro_f1"].mean()
    assert list(means.index) == list(SHARES) and means[1.0] > means[0.2] + 0.1
    accuracy = {"value": 0.8, "low": 0.7, "high": 0.9}
    assert "flattened" in learning_sentence(easy, accuracy, 50)
    # twice as precise needs four times the patients
    assert "200 test patients" in learning_sentence(easy, accuracy, 50)


def test_shares_are_of_patients_and_repeats_differ_but_can_be_repeated():
    rng = np.random.default_rng(1)
    data = features(rng, 50, 5, 2.0)
    curve, again = learning_curve(*data, repeats=3), learning_curve(*data, repeats=3)
    pd.testing.assert_frame_equal(curve, again)
    full = curve[curve["share"] == 1.0]
    assert full["patients"].between(38, 42).all()
    assert curve[curve["share"] == 0.2]["patients"].between(7, 9).all()
    assert full["macro_f1"].nunique() > 1

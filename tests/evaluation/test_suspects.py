"""Doubtful labels are found with reasons, and never in the test set by a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bonelib.config import Config
from bonelib.evaluation.suspects import disagreements, review_table
from bonelib.split import Fold, split
from tests.builders import audited_table


def features_of(y: np.ndarray, seed: int, signal: float = 3.0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(len(y), 12))
    x[:, :3] += signal * np.eye(3)[y]
    return x


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_errors_are_found_and_few_others(seed):
    rng, y = np.random.default_rng(seed), np.arange(300) % 3
    wrong = np.isin(np.arange(300), rng.choice(300, 30, replace=False))
    given = np.where(wrong, (y + 1) % 3, y)
    found, p = disagreements(features_of(y, seed), given, np.arange(300), 3)
    assert (found & wrong).sum() / 30 > 0.5
    assert (found & wrong).sum() / found.sum() > 0.7
    assert p.sum(1) == pytest.approx(1)


def test_labels_that_features_cannot_contradict_are_not_doubted():
    y = np.arange(300) % 3
    found, _ = disagreements(features_of(y, 0, signal=6.0), y, np.arange(300), 3)
    assert not found.any()


def test_copies_in_one_group_do_not_confirm_their_own_wrong_label():
    y = np.repeat(np.arange(100) % 3, 2)
    x = np.repeat(features_of(np.arange(100) % 3, 3), 2, axis=0)
    given = y.copy()
    given[:2] = (y[0] + 1) % 3
    found, _ = disagreements(x, given, np.repeat(np.arange(100), 2), 3)
    assert found[:2].all()


def test_review_names_reasons_and_leaves_the_test_set_to_people():
    table = audited_table((40, 40, 40)).assign(sha256="x")
    fold = Fold(Config(), split(table, Config()), np.zeros(0), Path("unused"))
    y = fold.labels
    shifted = np.random.default_rng(0).choice(len(y), len(y) // 10, replace=False)
    x = features_of(np.where(np.isin(np.arange(len(y)), shifted), (y + 1) % 3, y), 0)
    table.loc[[0, 1], "issues"] = ["conflict", "t_score;overlay"]
    table.loc[[2], "issues"] = "conflict;reviewed"
    review = review_table(table, fold, x).set_index("path")
    assert list(review.columns) == ["label", "reason", "sha256", "decision"]
    assert (review["decision"] == "").all() and review.index.is_unique
    assert review["reason"][table["path"][0]].startswith("copies have different labels")
    assert review["reason"][table["path"][1]].startswith("another class by the T-score")
    assert table["path"][2] not in review.index
    by_model = review.index[review["reason"].str.contains("by a classifier")]
    kinds = pd.Series(fold.splits["split"].to_numpy(), fold.splits["path"])[by_model]
    assert len(by_model) > 5 and "test" not in set(kinds)

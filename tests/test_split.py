"""No group on two sides, no oversampled row outside train."""

import numpy as np
import pandas as pd
import pytest

from bonelib import audit, catalog, split
from bonelib.config import CLASSES, Config
from bonelib.split import SplitError


def table(groups_a_class=(40, 25, 15), seed=0) -> pd.DataFrame:
    """An audited table: groups of one to four images."""
    rng = np.random.default_rng(seed)
    rows = [
        {"path": f"{c}/{g}-{i}.png", "label": c, "group": f"{c}{g}", "status": "ok", "issues": ""}
        for c, n in zip(CLASSES, groups_a_class, strict=True)
        for g in range(n)
        for i in range(rng.integers(1, 5))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def assert_nothing_leaks(splits: pd.DataFrame) -> None:
    assert splits.groupby("group")["split"].nunique().max() == 1
    assert (splits.loc[splits["split"] != "train", "draws"] == 0).all()
    assert set(splits["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [0, 3, 5])
def test_no_group_stands_on_two_sides_and_every_row_is_tested_once(folds, seed):
    cfg = Config(folds=folds, seed=seed)
    rows = table(seed=seed)
    tested = []
    for fold in range(folds or 5):
        splits = split.split(rows, cfg, fold)
        assert_nothing_leaks(splits)
        assert (splits["fold"] == fold).equals(splits["split"] == "test")
        tested += splits["path"][splits["split"] == "test"].tolist()
    assert sorted(tested) == sorted(rows["path"])


def test_splits_have_the_asked_shares_and_the_classes_of_the_whole():
    splits = split.split(table((120, 80, 60)), Config(test_size=0.2))
    shares = splits["split"].value_counts(normalize=True)
    assert abs(shares["test"] - 0.2) < 0.03 and abs(shares["val"] - 0.2) < 0.03
    whole = splits["label"].value_counts(normalize=True)
    for _, part in splits.groupby("split"):
        assert (part["label"].value_counts(normalize=True) - whole).abs().max() < 0.06


def test_planted_copies_and_patients_stay_on_one_side(cfg):
    rows, thumbs, root = catalog.catalog(cfg)
    rows, _ = audit.audit(rows, thumbs, cfg, root)
    for seed in range(5):
        splits = split.split(rows, Config(seed=seed))
        assert_nothing_leaks(splits)
        patients = splits.merge(rows[["path", "patient", "sha256"]], on="path")
        assert patients.groupby("patient")["split"].nunique().max() == 1
        assert patients["sha256"].is_unique, "a byte-identical copy is left out, not dealt"
    assert not set(rows.loc[rows["issues"].str.contains("conflict"), "path"]) & set(splits["path"])


@pytest.mark.parametrize("name", ["spine_dxa", "knee_xray"])
def test_real_sets_are_parted_without_leaks(shared, cfg, name):
    real = Config(data=str(shared / "data" / name), cache=cfg.cache)
    rows, thumbs, root = catalog.catalog(real)
    rows, _ = audit.audit(rows, thumbs, real, root)
    assert_nothing_leaks(split.split(rows, real))


def test_oversampling_draws_each_class_equally_often_and_each_row_at_least_once():
    splits = split.split(table(), Config(balance="oversample"))
    train = splits[splits["split"] == "train"]
    drawn = train.groupby("label")["draws"].sum()
    assert drawn.nunique() == 1 and train["draws"].min() == 1


def test_no_balance_draws_every_row_once():
    splits = split.split(table(), Config(balance="weights"))
    assert (splits["draws"] == (splits["split"] == "train")).all()


def test_correction_is_made_once_unless_both_are_asked_for():
    weights = {}
    for balance in ("oversample", "weights", "both", "none"):
        splits = split.split(table(), Config(balance=balance))
        weights[balance] = split.class_weights(splits, balance)
        drawn = splits.groupby("label")["draws"].sum().reindex(CLASSES).to_numpy()
        assert (weights[balance] * drawn).sum() / drawn.sum() == pytest.approx(1), "the mean over what is drawn is 1"
    assert np.allclose(weights["oversample"], 1) and np.allclose(weights["none"], 1)
    counts = (
        split.split(table(), Config(balance="none")).query("split == 'train'")["label"].value_counts().reindex(CLASSES)
    )
    for balance in ("weights", "both"):
        assert np.allclose(weights[balance] * counts, (weights[balance] * counts).iloc[0], rtol=1e-5)


@pytest.mark.parametrize("groups", [(30, 20, 4), (30, 0, 20)])
def test_class_too_small_is_an_error_that_says_how_many_groups_it_needs(groups):
    with pytest.raises(SplitError, match="at least 5 of each class"):
        split.split(table(groups), Config())


def test_split_depends_on_seed_and_repeat_and_on_nothing_else():
    rows = table()
    assert split.split(rows, Config()).equals(split.split(rows, Config()))
    assert split.digest(split.split(rows, Config())) != split.digest(split.split(rows, Config(seed=1)))
    assert split.digest(split.split(rows, Config())) != split.digest(split.split(rows, Config(), repeat=1))

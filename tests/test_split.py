"""No group on two sides, no oversampled row outside train."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bonelib import split
from bonelib.config import CLASSES, Config
from bonelib.messages import DataError
from tests.builders import audited_table as table


def assert_nothing_leaks(splits: pd.DataFrame) -> None:
    assert splits.groupby("group")["split"].nunique().max() == 1
    assert (splits.loc[splits["split"] != "train", "draws"] == 0).all()
    assert set(splits["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [0, 3, 5])
def test_no_group_is_in_two_splits_and_every_row_is_tested_once(folds, seed):
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


def test_planted_copies_and_patients_stay_in_one_split(audited, tiny):
    rows, _ = audited(tiny)
    for seed in range(5):
        splits = split.split(rows, Config(seed=seed))
        assert_nothing_leaks(splits)
        patients = splits.merge(rows[["path", "patient", "sha256"]], on="path")
        assert patients.groupby("patient")["split"].nunique().max() == 1
        assert patients["sha256"].is_unique, "a byte-identical copy is left out, not assigned"
    assert not set(rows.loc[rows["issues"].str.contains("conflict"), "path"]) & set(splits["path"])


@pytest.mark.parametrize("name", ["spine_dxa", "knee_xray"])
def test_real_sets_are_split_without_leaks(audited, real, name):
    assert_nothing_leaks(split.split(audited(real / "data" / name)[0], Config()))


def test_oversampling_draws_each_class_equally_often_and_each_row_at_least_once():
    splits = split.split(table(), Config(balance="oversample"))
    train = splits[splits["split"] == "train"]
    drawn = train.groupby("label")["draws"].sum()
    assert drawn.nunique() == 1 and train["draws"].min() == 1
    assert splits.equals(split.split(table(), Config(balance="both")))


def test_no_balance_draws_every_row_once():
    splits = split.split(table(), Config(balance="weights"))
    assert (splits["draws"] == (splits["split"] == "train")).all()


def test_correction_is_made_once_unless_both_are_asked_for():
    weights = {}
    for balance in ("oversample", "weights", "both", "none"):
        splits = split.split(table(), Config(balance=balance))
        weights[balance] = split.class_weights(splits, balance, CLASSES)
        drawn = splits.groupby("label")["draws"].sum().reindex(CLASSES).to_numpy()
        assert (weights[balance] * drawn).sum() / drawn.sum() == pytest.approx(1), (
            "the mean over what is drawn is 1"
        )
    assert np.allclose(weights["oversample"], 1) and np.allclose(weights["none"], 1)
    counts = (
        split.split(table(), Config(balance="none"))
        .query("split == 'train'")["label"]
        .value_counts()
        .reindex(CLASSES)
    )
    for balance in ("weights", "both"):
        assert np.allclose(
            weights[balance] * counts, (weights[balance] * counts).iloc[0], rtol=1e-5
        )


@pytest.mark.parametrize("groups", [(30, 20, 4), (30, 2, 20)])
def test_class_too_small_is_an_error_that_says_how_many_groups_it_needs(groups):
    with pytest.raises(DataError) as error:
        split.split(table(groups), Config())
    counts = [f"{name} {count}" for name, count in zip(CLASSES, groups, strict=True)]
    for part in [*counts, "5 folds", "at least 5", "test_size"]:
        assert part in str(error.value)
    split.split(table((9, 9, 5)), Config())


def test_a_fold_that_does_not_exist_is_an_error_that_says_which_do():
    for fold in (-1, 5):
        with pytest.raises(DataError) as error:
            split.split(table(), Config(), fold)
        assert f"fold = {fold}" in str(error.value) and "0 to 4" in str(error.value)


def test_groups_that_cannot_be_split_evenly_are_an_error_that_names_split_and_class():
    held = {"a": "NR", "b": "P", "c": "NPR", "d": "R", "e": "NPR"}  # every class in three groups
    labels = dict(zip("NPR", CLASSES, strict=True))
    rows = [
        {"path": g + c, "label": labels[c], "group": g, "status": "ok", "issues": ""}
        for g in held
        for c in held[g]
    ]
    said = set()
    for seed in range(10):
        try:
            assert_nothing_leaks(split.split(pd.DataFrame(rows), Config(folds=3, seed=seed)))
        except DataError as error:
            said.add(str(error).replace(f"seed (now {seed})", "seed (now SEED)"))
    assert said
    for message in said:
        assert message.startswith(("train", "val", "test")) and "fewer folds (now 3)" in message
        assert any(name in message for name in CLASSES) and "SEED" in message


def test_every_class_that_a_split_lacks_is_named(monkeypatch):
    monkeypatch.setattr(split, "assign_folds", lambda y, *given: y)
    with pytest.raises(DataError, match=r"train.*Normal, Osteopenia:"):
        split.split(table(), Config(folds=3))


def test_rows_set_aside_are_in_no_split():
    rows = table()
    rows.loc[0, "status"], rows.loc[1, "issues"] = "empty", "copy;overlay"
    splits = split.split(rows, Config())
    assert set(rows["path"]) - set(splits["path"]) == set(rows["path"].iloc[:2])
    assert list(splits.columns) == ["path", "label", "group", "split", "fold", "draws"]
    assert splits["path"].tolist() == rows["path"].iloc[2:].tolist()


def test_a_given_test_set_is_the_first_fold_alone():
    rows = table()
    given = rows["group"].isin(rows["group"].unique()[::4])
    splits = split.split(
        rows.assign(given_split=np.where(given, "test", "")), Config(given_split="use")
    )
    assert_nothing_leaks(splits)
    assert set(splits["fold"]) == set(range(6))
    assert set(splits["path"][splits["split"] == "test"]) == set(rows["path"][given])
    assert (splits["split"] == "val").equals(splits["fold"] == 1)


def test_class_that_only_a_given_test_set_has_is_an_error_that_counts_it():
    rows = table()
    given = np.where(rows["label"] == "Osteoporosis", "test", "train")
    with pytest.raises(DataError, match="Osteoporosis 0"):
        split.split(rows.assign(given_split=given), Config(given_split="use"))


def test_without_cross_validation_the_share_of_test_gives_the_number_of_folds():
    rows = table((60, 60, 60))
    for share, folds in ((0.2, 5), (0.25, 4), (0.3, 3), (0.1, 10)):
        assert split.split(rows, Config(test_size=share))["fold"].nunique() == folds
    assert split.split(rows, Config(test_size=0.1, folds=3))["fold"].nunique() == 3


def test_val_is_the_fold_after_test_and_the_first_after_the_last():
    rows = table()
    for fold, following in ((0, 1), (4, 0)):
        splits = split.split(rows, Config(), fold)
        assert set(splits.loc[splits["split"] == "val", "fold"]) == {following}


def test_repeats_and_seeds_are_folds_of_their_own():
    rows = table()
    assert split.split(rows, Config(seed=1000))["fold"].equals(
        split.split(rows, Config(), repeat=1)["fold"]
    )
    assert split.split(rows, Config(seed=2)).equals(split.split(rows, Config(seed=2)))
    drawn = [
        split.split(rows, Config(seed=s)).query("split == 'train'")["draws"].tolist()
        for s in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def by_hand() -> pd.DataFrame:
    """Four Normal drawn once, two Osteopenia twice, one Osteoporosis four times; one test row."""
    labels = [CLASSES[0]] * 4 + [CLASSES[1]] * 2 + [CLASSES[2]] * 2
    draws = [1, 1, 1, 1, 2, 2, 4, 0]
    part = ["train"] * 7 + ["test"]
    names = list("abcdefgh")
    table = pd.DataFrame({"path": names, "label": labels, "group": names, "split": part})
    return table.assign(fold=0, draws=draws)


def test_class_weights_and_class_shares_by_hand():
    splits = by_hand()
    assert split.class_weights(splits, "none", CLASSES).tolist() == [1, 1, 1]
    assert split.class_weights(splits, "none", CLASSES).dtype == np.float32
    assert split.class_weights(splits, "oversample", CLASSES).tolist() == [1, 1, 1]
    assert split.class_weights(splits, "both", CLASSES) == pytest.approx(
        np.array([1 / 4, 1 / 2, 1]) * 12 / 7
    )
    once = splits.assign(draws=[1] * 7 + [0])
    assert split.class_weights(once, "weights", CLASSES) == pytest.approx(
        np.array([1 / 4, 1 / 2, 1]) * 7 / 3
    )
    assert split.class_weights(once, "weights", CLASSES).dtype == np.float32


@pytest.mark.parametrize(
    ("balance", "learnt"),
    [
        ("oversample", [1 / 3, 1 / 3, 1 / 3]),
        ("both", [1 / 7, 2 / 7, 4 / 7]),
        ("weights", [1 / 3, 1 / 3, 1 / 3]),
        ("none", [4 / 7, 2 / 7, 1 / 7]),
    ],
)
def test_class_shares_are_those_that_the_loss_sees_and_those_of_the_images(balance, learnt):
    splits = by_hand()
    if balance in ("weights", "none"):
        splits["draws"] = [1] * 7 + [0]
    fold = split.Fold(Config(balance=balance), splits, np.zeros((8, 4, 4), np.uint8), Path())
    assert fold.class_shares[0] == pytest.approx(learnt)
    assert fold.class_shares[1] == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_digest_depends_on_the_splits_and_nothing_else():
    splits = by_hand()
    assert (
        split.split_digest(splits)
        == split.split_digest(splits.assign(age=50))
        == "303531420f7622a6"
    )
    for column, value in (
        ("path", "z"),
        ("label", CLASSES[1]),
        ("split", "val"),
        ("fold", 1),
        ("draws", 3),
    ):
        other = splits.copy()
        other.loc[0, column] = value
        assert split.split_digest(other) != split.split_digest(splits), column


def test_split_depends_on_seed_and_repeat_and_on_nothing_else():
    rows = table()
    assert split.split(rows, Config()).equals(split.split(rows, Config(), fold=0, repeat=0))
    assert split.split_digest(split.split(rows, Config())) != split.split_digest(
        split.split(rows, Config(seed=1))
    )
    assert split.split_digest(split.split(rows, Config())) != split.split_digest(
        split.split(rows, Config(), repeat=1)
    )


def grouped(seed):
    """150 rows of 60 groups, most of them of one class."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 60, 150)
    y = rng.integers(0, 3, 60)[group]
    return np.where(rng.random(150) < 0.1, rng.integers(0, 3, 150), y), group


@pytest.mark.parametrize("seed", range(5))
def test_each_fold_gets_an_even_share_of_each_class_and_whole_groups(seed):
    y, group = grouped(seed)
    fold = split.assign_folds(y, group, 5, seed)
    for c in range(3):
        assert np.bincount(fold[y == c], minlength=5) / (y == c).sum() == pytest.approx(
            np.full(5, 0.2), abs=0.07
        )
    assert all(len(set(fold[group == g])) == 1 for g in set(group))


def test_seed_decides_and_the_version_of_scikit_learn_does_not():
    y, group = np.arange(12) % 3, np.arange(12) // 2
    assert split.assign_folds(y, group, 3, 0).tolist() == [0, 0, 2, 2, 1, 1, 2, 2, 1, 1, 0, 0]
    assert split.assign_folds(y, group, 3, 1).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2]


def test_two_and_five_classes_split_weigh_and_count_as_three_do():
    for names in (("low", "high"), ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4")):
        cfg = Config(class_names=names)
        rows = table((40, 25, 15, 12, 10)[: len(names)], class_names=names)
        splits = split.split(rows, cfg)
        assert_nothing_leaks(splits)
        assert np.allclose(split.class_weights(splits, "oversample", names), 1)
        fold = split.Fold(cfg, splits, np.zeros((len(splits), 4, 4), np.uint8), cfg.root)
        assert fold.class_names == names
        assert [names[y] for y in fold.labels] == splits["label"].tolist()
        assert splits["split"].iloc[fold.rows("val", "test")].isin(["val", "test"]).all()


def test_only_the_classes_that_are_present_are_split():
    rows = table((40, 0, 15))
    splits = split.split(rows, Config())
    fold = split.Fold(Config(), splits, np.zeros((len(splits), 4, 4), np.uint8), Config().root)
    assert fold.class_names == ("Normal", "Osteoporosis") and set(fold.labels) == {0, 1}

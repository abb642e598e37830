"""Groups to train, val and test; how often an epoch draws an image; what a class weighs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from imblearn.over_sampling import RandomOverSampler
from sklearn.model_selection import StratifiedGroupKFold

from bonelib.config import Config, present_classes
from bonelib.data.catalog import usable
from bonelib.messages import DataError
from bonelib.storage import text_digest

SPLIT_COLUMNS = ["path", "label", "group", "split", "fold", "draws"]


@dataclass(frozen=True)
class Fold:
    """One training: its settings, its splits, and the images in their order.

    splits: SPLIT_COLUMNS. images: (N, S, S) uint8. folder: where checkpoints, history.csv and
    model/ go.
    """

    cfg: Config
    splits: pd.DataFrame
    images: np.ndarray
    folder: Path

    @property
    def class_names(self) -> tuple:
        return present_classes(self.cfg, self.splits["label"])

    @property
    def labels(self) -> np.ndarray:
        """(N,) positions in `class_names`."""
        return label_indices(self.splits["label"], self.class_names)

    @property
    def class_shares(self) -> np.ndarray:
        """(2, K): of what the loss learns from, draws times weights; and of the training images."""
        counts, drawn = _class_counts(self.splits, self.class_names)
        learnt = drawn * class_weights(self.splits, self.cfg.balance, self.class_names)
        return np.stack([learnt / learnt.sum(), counts / counts.sum()])

    def rows(self, *names: str) -> np.ndarray:
        """The positions of the rows in the splits with these names."""
        return np.flatnonzero(self.splits["split"].isin(names))


def split(table: pd.DataFrame, cfg: Config, fold: int = 0, repeat: int = 0) -> pd.DataFrame:
    """SPLIT_COLUMNS of every usable row; no group is in two splits.

    Folds are grouped and stratified: `fold` is the test set, the next one the validation set.
    Without cross-validation there are 1 / test_size folds; with `given_split` the given test set
    is fold 0, and the others follow. Raises DataError if a class has too few groups.
    """
    rows = table[usable(table)].reset_index(drop=True)
    is_given = cfg.given_split == "use"
    # without the given test set, if that is used
    is_free = rows["given_split"].ne("test").to_numpy() if is_given else np.full(len(rows), True)
    class_names = present_classes(cfg, rows["label"])
    y = label_indices(rows["label"], class_names)
    k = cfg.folds or round(1 / cfg.test_size)
    if not 0 <= fold < k:
        raise DataError(f"fold = {fold}: allowed is 0 to {k - 1}")
    _check_groups(rows[is_free], class_names, k)
    folds = np.zeros(len(rows), np.int64)
    groups = rows["group"].to_numpy()[is_free]
    folds[is_free] = assign_folds(y[is_free], groups, k, cfg.seed + 1000 * repeat)
    # a given test set is fold 0
    folds[is_free] += is_given
    names = np.select([folds == fold, folds == (fold + 1) % k], ["test", "val"], "train")
    out = rows[["path", "label", "group"]].assign(split=names, fold=folds)
    for name in ("train", "val", "test"):
        missing = set(class_names) - set(out["label"][out["split"] == name])
        if missing:
            raise DataError(
                f"{name} has no image of {', '.join(sorted(missing))}: the groups are too large to "
                f"split evenly, or what leaks was taken from a given test set. Use another seed "
                f"(now {cfg.seed}), fewer folds (now {k}), or given_split = ignore"
            )
    return out.assign(draws=_draws(out, y, cfg))


def assign_folds(y: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The fold of each row, (N,) in 0..k-1: whole groups, each class as evenly as they allow.

    The groups are shuffled here: asked to do it, scikit-learn 1.6 (Colab's) confuses which group
    has which counts, and the folds are not stratified.
    """
    _, group = np.unique(groups, return_inverse=True)
    order = np.random.RandomState(seed).permutation(group.max() + 1)
    folds = np.empty(len(y), np.int64)
    splitter = StratifiedGroupKFold(k)
    for fold, (_, held_out) in enumerate(splitter.split(y, y, np.argsort(order)[group])):
        folds[held_out] = fold
    return folds


def label_indices(labels: pd.Series, class_names: tuple) -> np.ndarray:
    """(N,) positions of the labels in `class_names`."""
    return labels.map(class_names.index).to_numpy(np.int64)


def class_weights(splits: pd.DataFrame, balance: str, class_names: tuple) -> np.ndarray:
    """(K,) what the loss multiplies each class by; their mean over what an epoch draws is 1.

    They come from what is drawn, so oversampling leaves them at 1; only "both" corrects twice, as
    the original notebook did.
    """
    if balance == "none":
        return np.ones(len(class_names), np.float32)
    images, drawn = _class_counts(splits, class_names)
    counts = images if balance == "both" else drawn
    weights = drawn.sum() / counts / (drawn / counts).sum()
    return weights.astype(np.float32)


def split_digest(splits: pd.DataFrame) -> str:
    """A hash of which image is in which split: runs with the same one may be compared."""
    return text_digest(splits[SPLIT_COLUMNS].to_csv(index=False))


def _class_counts(splits: pd.DataFrame, class_names: tuple) -> tuple[np.ndarray, np.ndarray]:
    """(K,) training images of each class, and how many of them an epoch draws."""
    train = splits[splits["split"] == "train"]
    y = label_indices(train["label"], class_names)
    images = np.bincount(y, minlength=len(class_names)).astype(np.float64)
    drawn = np.bincount(y, train["draws"], len(class_names)).astype(np.float64)
    return images, drawn


def _draws(out: pd.DataFrame, y: np.ndarray, cfg: Config) -> np.ndarray:
    """How often an epoch draws each row: once, or as often as RandomOverSampler picks it."""
    train = np.flatnonzero(out["split"] == "train")
    if cfg.balance in ("oversample", "both"):
        sampler = RandomOverSampler(random_state=cfg.seed)
        train = sampler.fit_resample(train[:, None], y[train])[0][:, 0]
    return np.bincount(train, minlength=len(out))


def _check_groups(rows: pd.DataFrame, class_names: tuple, k: int) -> None:
    groups = rows.groupby("label")["group"].nunique().reindex(class_names, fill_value=0)
    if len(groups) < 2 or groups.min() < k:
        listed = ", ".join(f"{name} {count}" for name, count in groups.items())
        raise DataError(
            "too few groups (patients, or images of unknown patients) to split: found "
            f"{listed or 'none'}; {k} folds need at least {k} of each of two or more classes. "
            "Add images, or use fewer folds or a larger test_size"
        )

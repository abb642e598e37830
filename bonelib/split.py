"""Groups to train, val and test; what an epoch draws; what a class weighs."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from imblearn.over_sampling import RandomOverSampler
from numpy.typing import NDArray

from bonelib import audit, folds
from bonelib.config import CLASSES, Config

COLUMNS = ["path", "label", "group", "split", "fold", "draws"]


class SplitError(ValueError):
    """Data that cannot be parted as asked; the message says how many groups each class needs."""


def split(table: pd.DataFrame, cfg: Config, fold: int = 0, repeat: int = 0) -> pd.DataFrame:
    """`path, label, group, split, fold, draws` of every usable row.

    Folds are grouped and stratified (scikit-learn's StratifiedGroupKFold): fold `fold` is the test split, the next one val.
    Without cross-validation there are 1 / test_size folds. No group stands on two sides.
    Raises SplitError if a class has too few groups.
    """
    rows = table[audit.usable(table)].reset_index(drop=True)
    y = rows["label"].map(CLASSES.index).to_numpy(np.int64)
    k = cfg.folds or round(1 / cfg.test_size)
    if not 0 <= fold < k:
        raise SplitError(f"fold = {fold}: allowed is 0 to {k - 1}")
    _check_size(rows, k)
    dealt = folds.deal(y, rows["group"].to_numpy(), k, cfg.seed + 1000 * repeat)
    part = np.select([dealt == fold, dealt == (fold + 1) % k], ["test", "val"], "train")
    out = rows[["path", "label", "group"]].assign(split=part, fold=dealt)
    for name in ("train", "val", "test"):
        missing = set(CLASSES) - set(out["label"][out["split"] == name])
        if missing:
            raise SplitError(
                f"{name} got no image of {', '.join(sorted(missing))}: the groups are too large to part evenly. "
                f"Use another seed (now {cfg.seed}) or fewer folds (now {k})"
            )
    return out.assign(draws=_draws(out, y, cfg))


def class_weights(splits: pd.DataFrame, balance: str) -> NDArray[np.float32]:
    """(3,) float32, mean 1 over what an epoch draws: what the loss multiplies each class by.

    They come from what is drawn, so oversampling leaves them at 1; only `both` corrects twice, as the original did.
    """
    if balance == "none":
        return np.ones(len(CLASSES), np.float32)
    train = splits[splits["split"] == "train"]
    y = train["label"].map(CLASSES.index).to_numpy(np.int64)
    drawn = np.bincount(y, train["draws"], len(CLASSES))
    counts = np.bincount(y, minlength=len(CLASSES)) if balance == "both" else drawn
    weights: NDArray[np.float64] = drawn.sum() / counts / (drawn / counts).sum()
    return weights.astype(np.float32)


def priors(splits: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) shares of the classes in what training draws, and in the training images themselves."""
    train = splits[splits["split"] == "train"]
    y = train["label"].map(CLASSES.index).to_numpy(np.int64)
    drawn, held = (np.bincount(y, w, len(CLASSES)) for w in (train["draws"], None))
    return drawn / drawn.sum(), held / held.sum()


def digest(splits: pd.DataFrame) -> str:
    """A hash of who stands where: two runs with the same one may be compared, and one may resume the other."""
    return hashlib.sha256(splits[COLUMNS].to_csv(index=False).encode()).hexdigest()[:16]


def _draws(out: pd.DataFrame, y: NDArray[np.int64], cfg: Config) -> NDArray[np.int64]:
    """How often an epoch draws each row: training rows once, or as often as RandomOverSampler picks them."""
    train = np.flatnonzero(out["split"] == "train")
    picked = train
    if cfg.balance in ("oversample", "both"):
        sampler = RandomOverSampler(random_state=cfg.seed)
        picked = sampler.fit_resample(train[:, None], y[train])[0][:, 0]
    return np.bincount(picked, minlength=len(out))


def _check_size(rows: pd.DataFrame, k: int) -> None:
    have = rows.groupby("label")["group"].nunique().reindex(CLASSES, fill_value=0)
    if have.min() < k:
        listed = ", ".join(f"{c} {n}" for c, n in have.items())
        raise SplitError(
            f"too few groups (patients, or images of unknown patients) to part: found {listed}; "
            f"{k} folds need at least {k} of each class. Add images, or use fewer folds or a larger test_size"
        )

"""Labels that deserve a second look, for a person to decide."""

import numpy as np
import pandas as pd

from bonelib.data.catalog import has_issue
from bonelib.evaluation.baselines import out_of_fold
from bonelib.evaluation.calibration import apply_temperature, fit_temperature
from bonelib.split import Fold, assign_folds

FOLDS, REPEATS = 5, 5
# Probability of its label below which an image is doubtful.
DOUBTFUL = 0.15


def disagreements(x, y, groups, class_count: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool: which labels a classifier doubts; and (N, K), its calibrated probabilities.

    Logistic regression on features x (N, D), in repeated cross-validation by group: it has not seen
    the images that it judges. A label y is doubted where its probability is below DOUBTFUL.
    """
    folds = [assign_folds(y, groups, FOLDS, seed) for seed in range(REPEATS)]
    judged = [out_of_fold(lambda *masks: [x[m] for m in masks], y, f, class_count) for f in folds]
    p = np.mean(judged, axis=0)
    p = apply_temperature(p, fit_temperature(p, y))
    return (p.argmax(1) != y) & (p[np.arange(len(y)), y] < DOUBTFUL), p


def review_table(table: pd.DataFrame, fold: Fold, x: np.ndarray) -> pd.DataFrame:
    """review.csv: `path`, `label`, `reason`, `sha256`, and an empty column `decision`.

    table: the audited one. x: (N, D), features of the fold's images. The test set is never cleaned
    by a model: only training and validation images are judged by one.
    """
    rows, names = fold.rows("train", "val"), fold.class_names
    groups = fold.splits["group"].to_numpy()[rows]
    is_doubted, p = disagreements(x[rows], fold.labels[rows], groups, len(names))
    paths = fold.splits["path"].to_numpy()[rows[is_doubted]]
    judged = [f"{names[q.argmax()]} by a classifier ({q.max():.0%}); " for q in p[is_doubted]]
    copied = has_issue(table, "conflict").map({True: "copies have different labels; ", False: ""})
    scored = has_issue(table, "t_score").map({True: "another class by the T-score; ", False: ""})
    by_model = table["path"].map(dict(zip(paths, judged, strict=True))).fillna("")
    known = table.assign(reason=(copied + scored + by_model).str.removesuffix("; "), decision="")
    doubtful = known[(known["reason"] != "") & ~has_issue(known, "reviewed", "excluded")]
    return doubtful[["path", "label", "reason", "sha256", "decision"]]

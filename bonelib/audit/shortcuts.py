"""How well the class can be predicted from what is not bone: file, size, borders, metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bonelib.audit.candidates import trim_border
from bonelib.data.images import frame
from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.baselines import encode_metadata
from bonelib.evaluation.bootstrap import intervals
from bonelib.split import assign_folds

CV_FOLDS = 5
# More images do not change the result.
MAX_IMAGES = 4000
# An AUROC from which a shortcut is worth a warning.
MIN_AUROC = 0.6


def measure_suspects(rows: pd.DataFrame, thumbnails: NDArray[np.uint8]) -> pd.DataFrame:
    """What is not bone in each image, one column per suspect, texts or numbers."""
    side = thumbnails.shape[1]
    frames = [frame(w, h, side) for w, h in zip(rows["width"], rows["height"], strict=True)]
    pairs = list(zip(thumbnails, frames, strict=True))
    shown = [image[top:bottom, left:right] for image, (top, bottom, left, right) in pairs]
    inner = [trim_border(image, box) for image, box in pairs]
    kept = [(bottom - top) * (right - left) for top, bottom, left, right in inner]
    edges = [np.concatenate([image[:3].ravel(), image[-3:].ravel()]) for image in shown]
    suspects = pd.DataFrame(
        {
            "file format": rows["format"].astype(str),
            "width": np.log(rows["width"]),
            "height": np.log(rows["height"]),
            "file size": np.log(rows["bytes"]),
            "mean brightness": [image.mean() for image in shown],
            "empty border": [1 - n / image.size for n, image in zip(kept, shown, strict=True)],
            "brightness at the border": [edge.mean() for edge in edges],
            "colour overlay": rows["coloured"],
        },
        index=rows.index,
    )
    return pd.concat([suspects, rows[metadata_columns(rows)[0]]], axis=1)


def find_shortcuts(
    suspects: pd.DataFrame,
    y: NDArray[np.int64],
    groups: pd.Series,
    class_names: tuple[str, ...],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each column of `suspects`: `name`, `auroc` with `low`, `high`, and `warning` or None.

    A suspect gets a warning only if the interval of a grouped cross-validation excludes chance.
    """
    if len(suspects) > MAX_IMAGES:
        chosen = np.random.default_rng(seed).choice(len(suspects), MAX_IMAGES, replace=False)
        chosen.sort()
        suspects, y, groups = suspects.iloc[chosen], y[chosen], groups.iloc[chosen]
    k = min(CV_FOLDS, int(groups.groupby(y).nunique().min()))
    if k < 2 or len(np.unique(y)) < len(class_names):
        return []
    folds = assign_folds(y, groups.to_numpy(), k, seed)
    found = []
    for name in suspects:
        column = suspects[[name]]
        auroc = {"value": 0.5, "low": 0.5, "high": 0.5}
        if column[name].nunique(dropna=False) > 1:
            probabilities = _out_of_fold(column, y, folds, len(class_names))
            auroc = intervals(y, probabilities, groups, class_names, 400, seed)["auroc"]
        entry = {"name": str(name), "auroc": auroc["value"], "low": auroc["low"]}
        found.append(entry | {"high": auroc["high"], "warning": _warning(str(name), auroc)})
    return found


def _out_of_fold(
    column: pd.DataFrame, y: NDArray[np.int64], folds: NDArray[np.int64], class_count: int
) -> NDArray[np.float64]:
    """Probabilities (N, K) of logistic regression on one suspect and, for numbers, its square."""
    probabilities = np.zeros((len(y), class_count))
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        x_train, x_test = encode_metadata(column.iloc[train], column.iloc[test], list(column))
        if list(column) != ["file format"]:
            # a class may be in the middle of the range
            x_train, x_test = (np.hstack([x, np.square(x)]) for x in (x_train, x_test))
        regression = LogisticRegression(max_iter=1000, class_weight="balanced")
        model = make_pipeline(StandardScaler(), regression).fit(x_train, y[train])
        probabilities[np.ix_(test, model.classes_)] = model.predict_proba(x_test)
    return probabilities


def _warning(name: str, auroc: dict[str, Any]) -> str | None:
    if auroc["low"] is None or auroc["low"] <= 0.5 or auroc["value"] < MIN_AUROC:
        return None
    return (
        f"{name[0].upper()}{name[1:]} alone predicts the class with AUROC {auroc['value']:.2f} "
        f"(95% interval {auroc['low']:.2f} to {auroc['high']:.2f}; chance is 0.5). It is not bone: "
        "a model that is no better has not learnt to read the image."
    )

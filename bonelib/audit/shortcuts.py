"""How well the class can be predicted from what is not bone: file, size, borders, metadata."""

from functools import partial

import cv2
import numpy as np
import pandas as pd

from bonelib.data.images import frame
from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.baselines import encode_metadata, out_of_fold
from bonelib.evaluation.bootstrap import intervals
from bonelib.split import assign_folds

CV_FOLDS = 5
# More images do not change the result.
MAX_IMAGES = 4000
# An AUROC from which a shortcut is worth a warning.
MIN_AUROC = 0.6


def measure_suspects(rows: pd.DataFrame, thumbnails: np.ndarray) -> pd.DataFrame:
    """What is not bone in each image, one column per suspect, texts or numbers."""
    sizes = zip(rows["width"], rows["height"], strict=True)
    measured = [_measure(image, *size) for image, size in zip(thumbnails, sizes, strict=True)]
    numbers = rows[["width", "height", "bytes"]].rename(columns={"bytes": "file size"})
    suspects = [
        rows["format"].astype(str).rename("file format"),
        np.log(numbers),
        pd.DataFrame(measured, index=rows.index),
        rows["coloured"].rename("colour overlay"),
        rows[metadata_columns(rows)[0]],
    ]
    return pd.concat(suspects, axis=1)


def find_shortcuts(suspects, y, groups, class_names, seed=0) -> list[dict]:
    """For each column of `suspects`: `name`, `auroc` with `low`, `high`, and `warning` or None.

    A suspect gets a warning only if the interval of a grouped cross-validation excludes chance.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(suspects))[:MAX_IMAGES])
    suspects, y, groups = suspects.iloc[chosen], y[chosen], groups.iloc[chosen]
    counts = groups.groupby(y).nunique()
    if len(counts) < max(2, len(class_names)) or counts.min() < 2:
        return []
    folds = assign_folds(y, groups.to_numpy(), min(CV_FOLDS, int(counts.min())), seed)
    found = []
    for name in suspects:
        auroc = {"value": 0.5, "low": 0.5, "high": 0.5}
        if suspects[name].nunique(dropna=False) > 1:
            features = partial(_features, suspects[[name]])
            probabilities = out_of_fold(features, y, folds, len(class_names))
            auroc = intervals(y, probabilities, groups, class_names, 400, seed)["auroc"]
        entry = {"name": str(name), "auroc": auroc["value"], "low": auroc["low"]}
        found.append(entry | {"high": auroc["high"], "warning": _warning(str(name), auroc)})
    return found


def _measure(thumbnail: np.ndarray, width: int, height: int) -> dict[str, float]:
    top, bottom, left, right = frame(width, height, len(thumbnail))
    image = thumbnail[top:bottom, left:right]
    # the border has the grey level of the corner
    differs = np.abs(image - np.float32(image[0, 0])) > 10
    *_, across, down = cv2.boundingRect(differs.astype(np.uint8))
    return {
        "mean brightness": float(image.mean()),
        "empty border": 1 - across * down / image.size,
        "brightness at the border": float(np.concatenate([image[:3], image[-3:]]).mean()),
    }


def _features(column: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """A suspect and its square, of two masks: a class may be in the middle of the range."""
    encoded = encode_metadata(column[train], column[test], list(column))
    return [np.hstack([x, np.square(x)]) for x in encoded]


def _warning(name: str, auroc: dict) -> str | None:
    if auroc["low"] is None or auroc["low"] <= 0.5 or auroc["value"] < MIN_AUROC:
        return None
    return (
        f"{name[0].upper()}{name[1:]} alone predicts the class with AUROC {auroc['value']:.2f} "
        f"(95% interval {auroc['low']:.2f} to {auroc['high']:.2f}; chance is 0.5). It is not bone: "
        "a model that is no better has not learnt to read the image."
    )

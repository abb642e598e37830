"""What is reached without a network: majority class, texture, metadata, image corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.calibration import Floats
from bonelib.evaluation.predict import probability_columns
from bonelib.split import Fold

Pixels = NDArray[Any]

# Rotation-invariant uniform patterns (Ojala 2002, doi 10.1109/TPAMI.2002.1017623): 0..8 set
# neighbours, 9 for the rest.
_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1
_UNIFORM = (np.roll(_BITS, 1, 1) != _BITS).sum(1) <= 2
_PATTERNS = np.where(_UNIFORM, _BITS.sum(1), 9).astype(np.uint8)
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
# The corners are 2 x 2 cells each of a grid with this many cells per side.
_GRID = 8


def _histogram(values: Pixels, count: int) -> Floats:
    """Shares of the integers 0..count - 1: (count,)."""
    return np.bincount(values.ravel(), minlength=count) / values.size


def _binary_patterns(image: Pixels, radius: int) -> Floats:
    """Histogram (10,) of the local binary patterns of an image (S, S)."""
    code = np.zeros(image.shape, np.uint8)
    for bit, (dy, dx) in enumerate(_NEIGHBOURS):
        neighbour = np.roll(image, (-dy * radius, -dx * radius), (0, 1))
        code |= (neighbour >= image).astype(np.uint8) << bit
    return _histogram(_PATTERNS[code[radius:-radius, radius:-radius]], 10)


def texture_features(image: Pixels) -> Floats:
    """Grey-level histogram, and local binary patterns at 1, 2 and 4 px: (S, S) uint8 to (62,)."""
    patterns = [_binary_patterns(image, radius) for radius in (1, 2, 4)]
    return np.concatenate([_histogram(image >> 3, 32), *patterns])


def corner_features(image: Pixels) -> Floats:
    """Mean and standard deviation of 4 cells in each corner: (S, S) uint8 to (32,)."""
    step = len(image) // _GRID
    cells = image[: step * _GRID, : step * _GRID].reshape(_GRID, step, _GRID, step)
    outer = np.isin(np.arange(_GRID), (0, 1, _GRID - 2, _GRID - 1))
    corners = outer[:, None] & outer
    return np.concatenate([cells.mean((1, 3))[corners], cells.std((1, 3))[corners]])


def majority(y_train: NDArray[np.int64], count: int, class_count: int) -> Floats:
    """The class shares of training for each image, (count, K); the argmax is the largest class."""
    return np.tile(np.bincount(y_train, minlength=class_count) / len(y_train), (count, 1))


def logistic_regression(
    x_train: Pixels, y_train: NDArray[np.int64], x_test: Pixels, class_count: int
) -> Floats:
    """Probabilities (N, K) of logistic regression on standardised features, classes balanced.

    A class without training rows gets probability 0.
    """
    if len(set(y_train.tolist())) < 2:
        return majority(y_train, len(x_test), class_count)
    model = LogisticRegression(C=0.1, class_weight="balanced", solver="newton-cg", max_iter=2000)
    fitted = make_pipeline(StandardScaler(), model).fit(x_train, y_train)
    probabilities = np.zeros((len(x_test), class_count))
    probabilities[:, fitted.classes_] = fitted.predict_proba(x_test)
    return probabilities


def encode_metadata(train: pd.DataFrame, test: pd.DataFrame, columns: list[str]) -> list[Floats]:
    """Metadata of train and test rows as numbers; what is learned comes from train rows alone.

    Numbers are filled with the median and standardised. Texts are one-hot encoded; values of fewer
    than three rows share a column.
    """
    numeric = [c for c in columns if pd.api.types.is_numeric_dtype(train[c])]
    texts = [c for c in columns if c not in numeric]
    train, test = train[columns].copy(), test[columns].copy()
    for table in (train, test):
        filled = table[texts].astype(object)
        table[texts] = filled.where(filled.notna(), "missing").astype(str)
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    rare = {"handle_unknown": "infrequent_if_exist", "min_frequency": 3}
    numbers = (make_pipeline(median, StandardScaler()), numeric)
    words = (OneHotEncoder(sparse_output=False, **rare), texts)
    encoder = make_column_transformer(numbers, words).fit(train)
    return [encoder.transform(table) for table in (train, test)]


def predict_baselines(fold: Fold, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test rows of every baseline: path, label, group, baseline, then p_<class>.

    table: the catalog, whose metadata columns that may predict are used.
    """
    train, test = fold.rows("train"), fold.rows("test")
    y, class_names = fold.labels[train], fold.class_names

    def image_features(function: Callable[[Pixels], Floats]) -> list[Floats]:
        return [np.stack([function(fold.images[row]) for row in rows]) for rows in (train, test)]

    features: dict[str, list[Floats]] = {}
    intensity = image_features(texture_features)
    if table is not None and (columns := metadata_columns(table)[0]):
        known = table.drop_duplicates("path").set_index("path").reindex(fold.splits["path"])
        metadata = encode_metadata(known.iloc[train], known.iloc[test], columns)
        features["metadata"] = metadata
        features["metadata_image"] = [np.hstack(x) for x in zip(metadata, intensity, strict=True)]
    features |= {"intensity": intensity, "corners": image_features(corner_features)}
    probabilities = {"majority": majority(y, len(test), len(class_names))}
    for name, (x_train, x_test) in features.items():
        probabilities[name] = logistic_regression(x_train, y, x_test, len(class_names))
    rows = fold.splits.iloc[test][["path", "label", "group"]].reset_index(drop=True)
    columns = probability_columns(class_names)
    tables = [
        rows.assign(baseline=name).join(pd.DataFrame(values, columns=columns))
        for name, values in probabilities.items()
    ]
    return pd.concat(tables, ignore_index=True)

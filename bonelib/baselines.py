"""What is reached without a network: the majority class, grey levels and texture, metadata, the image corners."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bonelib.config import CLASSES
from bonelib.metrics import PROBS

CATALOG = {
    "path", "label", "patient", "width", "height", "format", "bytes", "sha256", "pixels", "status", "group", "issues",
    "given_split", "split", "fold", "draws",
}  # fmt: skip  # the catalog's own columns: what is left is metadata of the patient
DEFINES = re.compile(
    r"t.?score|z.?score|bmd|density|diagnos|label|class|target|qus|fracture.?risk|frax|(^|_)id$|image|file|name", re.I
)
# rotation-invariant uniform patterns (Ojala 2002, doi 10.1109/TPAMI.2002.1017623): 0..8 set neighbours, 9 for the rest
_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1
_CODE = np.where((np.roll(_BITS, 1, 1) != _BITS).sum(1) <= 2, _BITS.sum(1), 9).astype(np.uint8)
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def metadata_columns(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns that may predict, and those left out because they define the label or name the image."""
    own = [c for c in table.columns if c not in CATALOG and not c.startswith("p_") and table[c].notna().any()]
    return [c for c in own if not DEFINES.search(c)], [c for c in own if DEFINES.search(c)]


def _share(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Histogram of small integers as shares: (count,)."""
    return np.bincount(values.ravel(), minlength=count)[:count] / values.size


def _patterns(grey: NDArray[Any], step: int) -> NDArray[Any]:
    """Local binary patterns of one (H, W) image at a radius, as shares: (10,)."""
    h, w = grey.shape
    inner = grey[step : h - step, step : w - step]
    code = np.zeros(inner.shape, np.uint8)
    for bit, (dy, dx) in enumerate(_AROUND):
        y, x = step * (1 + dy), step * (1 + dx)
        code |= (grey[y : y + inner.shape[0], x : x + inner.shape[1]] >= inner).astype(np.uint8) << bit
    return _share(_CODE[code], 10)


def texture(images: NDArray[Any]) -> NDArray[Any]:
    """Histogram of grey levels and local binary patterns at 1, 2 and 4 px: (N, S, S) uint8 to (N, 62)."""
    return np.stack([np.concatenate([_share(g >> 3, 32), *(_patterns(g, step) for step in (1, 2, 4))]) for g in images])


def corners(images: NDArray[Any], cells: int = 8) -> NDArray[Any]:
    """Mean and spread of the four corners, 2 x 2 cells of a coarse grid each: (N, S, S) uint8 to (N, 32)."""
    step = images.shape[1] // cells
    outer = np.isin(np.arange(cells), (0, 1, cells - 2, cells - 1))
    kept = outer[:, None] & outer
    grids = (g[: step * cells, : step * cells].reshape(cells, step, cells, step) for g in images)
    return np.stack([np.concatenate([g.mean((1, 3))[kept], g.std((1, 3))[kept]]) for g in grids])


def majority(y_train: NDArray[Any], count: int) -> NDArray[Any]:
    """The training shares of the classes for every image: (count, 3); their argmax is the majority class."""
    return np.tile(np.bincount(y_train, minlength=len(CLASSES)) / len(y_train), (count, 1))


def regression(x_train: NDArray[Any], y_train: NDArray[Any], x_test: NDArray[Any]) -> NDArray[Any]:
    """Logistic regression on standardised features, classes weighted equally: (N, 3)."""
    if len(set(y_train)) < 2:
        return majority(y_train, len(x_test))
    model = LogisticRegression(C=0.1, class_weight="balanced", solver="newton-cg", max_iter=2000)
    fitted = make_pipeline(StandardScaler(), model).fit(x_train, y_train)
    probs = np.zeros((len(x_test), len(CLASSES)))
    probs[:, fitted.classes_] = fitted.predict_proba(x_test)  # 0 for classes it never saw
    return probs


def encode(train: pd.DataFrame, test: pd.DataFrame, columns: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Metadata of train and test rows as numbers, learnt on train rows alone.

    Numbers: median-filled and standardised; words: one-hot, those that fewer than three rows share as one.
    """
    train, test = (t[columns].copy() for t in (train, test))
    words = [c for c in columns if not pd.api.types.is_numeric_dtype(train[c])]
    for c in words:
        train[c], test[c] = (t[c].astype(object).where(t[c].notna(), "missing").astype(str) for t in (train, test))
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=3, sparse_output=False)
    numeric = [c for c in columns if c not in words]
    encoder = make_column_transformer((numbers, numeric), (one_hot, words)).fit(train)
    return encoder.transform(train), encoder.transform(test)


def predict(splits: pd.DataFrame, images: NDArray[Any], catalog: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test rows of every baseline: path, label, group, baseline, p_normal, p_osteopenia, p_osteoporosis.

    splits: path, label, group, split. images: (N, S, S) uint8 in the order of splits. catalog: metadata by path.
    """
    train, test = (np.flatnonzero((splits["split"] == part).to_numpy()) for part in ("train", "test"))
    y = splits["label"].map(CLASSES.index).to_numpy()
    features = {"intensity": texture(images), "corners": corners(images)}
    probs = {"majority": majority(y[train], len(test))}
    if catalog is not None and (columns := metadata_columns(catalog)[0]):
        table = catalog.drop_duplicates("path").set_index("path").reindex(splits["path"])
        known = encode(table.iloc[train], table.iloc[test], columns)
        probs["metadata"] = regression(known[0], y[train], known[1])
        both = [np.hstack([k, features["intensity"][rows]]) for k, rows in zip(known, (train, test), strict=True)]
        probs["metadata_image"] = regression(both[0], y[train], both[1])
    probs |= {name: regression(x[train], y[train], x[test]) for name, x in features.items()}
    rows = splits.iloc[test][["path", "label", "group"]].reset_index(drop=True)
    named = [rows.assign(baseline=name, **dict(zip(PROBS, p.T, strict=True))) for name, p in probs.items()]
    return pd.concat(named, ignore_index=True)

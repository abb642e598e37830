"""How well the class can be told from what is not bone: file, size, brightness, borders, overlay, metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bonelib import baselines, metrics
from bonelib.candidates import trim
from bonelib.config import CLASSES
from bonelib.folds import deal
from bonelib.images import frame

FOLDS = 5
MOST = 4000  # images looked at: more don't move the figure


def measure(rows: pd.DataFrame, thumbs: NDArray[Any], overlay: NDArray[Any]) -> pd.DataFrame:
    """What is not bone in each image: a column a suspect, text or number. overlay: (N,) share of coloured pixels."""
    frames = [frame(w, h, thumbs.shape[1]) for w, h in zip(rows["width"], rows["height"], strict=True)]
    shown = [t[a:b, c:d] for t, (a, b, c, d) in zip(thumbs, frames, strict=True)]
    inner = [trim(t, f) for t, f in zip(thumbs, frames, strict=True)]
    area = np.array([(b - a) * (d - c) for a, b, c, d in frames])
    kept = np.array([(b - a) * (d - c) for a, b, c, d in inner])
    out = pd.DataFrame({
        "file format": rows["format"].astype(str), "width": np.log(rows["width"]), "height": np.log(rows["height"]),
        "file size": np.log(rows["bytes"]), "mean brightness": [float(s.mean()) for s in shown],
        "empty border": 1 - kept / area,
        "brightness at the border": [float(np.concatenate([s[:3].ravel(), s[-3:].ravel()]).mean()) for s in shown],
        "colour overlay": overlay,
    }, index=rows.index)  # fmt: skip
    usable, _ = baselines.metadata_columns(rows)
    return pd.concat([out, rows[[c for c in usable if c not in ("given_split", "image")]]], axis=1)


def shortcuts(seen: pd.DataFrame, labels: pd.Series, groups: pd.Series, seed: int = 0) -> list[dict[str, Any]]:
    """For each column of `seen`: `name`, `auroc` with `low`, `high` (grouped cross-validation), `warning` or None.

    A suspect is flagged only when the interval excludes chance; one that does not vary has an auroc of 0.5.
    """
    if len(seen) > MOST:
        some = np.sort(np.random.default_rng(seed).choice(len(seen), MOST, replace=False))
        seen, labels, groups = (x.iloc[some] for x in (seen, labels, groups))
    y = labels.map(CLASSES.index).to_numpy()
    folds = min(FOLDS, int(groups.groupby(y).nunique().min()))
    if folds < 2 or len(np.unique(y)) < len(CLASSES):
        return []
    dealt = deal(y, groups.to_numpy(), folds, seed)
    parts = [(np.flatnonzero(dealt != fold), np.flatnonzero(dealt == fold)) for fold in range(folds)]
    return [_one(str(name), seen[[name]], y, groups.to_numpy(), parts, seed) for name in seen]


def _one(
    name: str, x: pd.DataFrame, y: NDArray[Any], groups: NDArray[Any], parts: list[Any], seed: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "auroc": 0.5, "low": 0.5, "high": 0.5, "warning": None}
    if x.iloc[:, 0].nunique(dropna=False) < 2:
        return found
    probs = np.empty((len(y), len(CLASSES)))
    for train, test in parts:
        known, asked = (np.asarray(part, float) for part in baselines.encode(x.iloc[train], x.iloc[test], list(x)))
        if not name.startswith("file format"):
            known, asked = (np.hstack([part, part**2]) for part in (known, asked))  # a class may lie in the middle
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
        probs[test] = model.fit(known, y[train]).predict_proba(asked)
    auroc = metrics.intervals(y, probs, groups, resamples=400, seed=seed)["auroc"]
    found |= {"auroc": auroc["value"], "low": auroc["low"], "high": auroc["high"]}
    if auroc["low"] is not None and auroc["low"] > 0.5 and auroc["value"] >= 0.6:
        found["warning"] = (
            f"{name[0].upper()}{name[1:]} alone predicts the class with AUROC {auroc['value']:.2f} (95% interval "
            f"{auroc['low']:.2f} to {auroc['high']:.2f}; chance is 0.5). It is not bone: a model that does no better "
            "has not learnt to read the picture."
        )
    return found

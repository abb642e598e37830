"""What each setting changes: every setting trains every fold and seed, paired with the defaults.

    BONELIB_DATA=path BONELIB_FOLDS=5 BONELIB_REPEATS=3 BONELIB_RUN=runs/recipes \\
        python benchmarks/bench_recipes.py

accepts any `BONELIB_<FIELD>`. Each fold's predictions are cached in its run folder, so that an
interrupted table resumes. Arguments `name={"field": value}` replace the rows below the first.

Each image is predicted once per seed by a model that was not trained on it. Differences are
resampled by patient group, all seeds of an image together, so they cover other patients as well as
other seeds. Choosing the best row of this table is a choice on these images: its result is a little
too good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bonelib.config import AUGMENTATIONS, Config, present_classes
from bonelib.evaluation.baselines import (
    choose_strength,
    frozen_features,
    logistic_regression,
    texture_features,
)
from bonelib.evaluation.bootstrap import difference, intervals
from bonelib.evaluation.findings import format_interval
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import predict_splits, prediction_table, probability_columns
from bonelib.pipeline import folds, trained_model
from bonelib.split import Fold, label_indices
from bonelib.storage import write_csv

DEFAULTS = "defaults"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "balance: class weights": {"balance": "weights"},
    "balance: none": {"balance": "none"},
    "smoothing: none": {"label_smoothing": 0.0},
    "frozen: nothing": {"freeze": 0.0},
    "frozen: all but the head, rate 1e-2": {"freeze": 1.0, "lr": 1e-2},
    "EMA: none": {"ema": 0.0},
    "vertical flip: too": {"augment": AUGMENTATIONS},
    "rate 3e-4": {"lr": 3e-4},
}
BASELINES = ("intensity baseline", "frozen features + logistic regression")
METRICS = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")
COMPARED = ("macro_f1", "auroc")


def read_predictions(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"group": str})


def model_predictions(cfg: Config) -> pd.DataFrame:
    """The predictions of a setting's models for their test sets, of all folds and seeds.

    Each fold's predictions are kept as `predictions.csv` in its folder.
    """
    tables = []
    for fold in folds(cfg):
        path = fold.folder / "predictions.csv"
        if not path.exists():
            table = predict_splits(trained_model(fold), fold, ["test"])
            write_csv(path, table.assign(seed=fold.cfg.seed))
            shutil.rmtree(fold.folder / "checkpoints", ignore_errors=True)
        tables.append(read_predictions(path))
    return pd.concat(tables, ignore_index=True)


def baseline_predictions(cfg: Config) -> dict[str, pd.DataFrame]:
    """The same for the intensity baseline, and for frozen features of the untrained backbone.

    Each fold's predictions are kept as `baselines.csv` in its folder.
    """
    tables = []
    features: dict[str, np.ndarray] = {}
    for fold in folds(cfg):
        path = fold.folder / "baselines.csv"
        if not path.exists():
            # The images, and so the features, are the same in every fold.
            features = features or image_features(fold)
            write_csv(path, fit_baselines(fold, features))
        tables.append(read_predictions(path))
    pooled = pd.concat(tables, ignore_index=True)
    return {name: pooled[pooled["baseline"] == name] for name in BASELINES}


def image_features(fold: Fold) -> dict[str, np.ndarray]:
    """The features (N, D) of all images of a fold, by baseline."""
    intensity = np.stack([texture_features(image) for image in fold.images])
    return dict(zip(BASELINES, (intensity, frozen_features(fold.cfg, fold.images)), strict=True))


def fit_baselines(fold: Fold, features: dict[str, np.ndarray]) -> pd.DataFrame:
    """Predictions of the test set by each baseline."""
    train, test, class_count = fold.rows("train"), fold.rows("test"), len(fold.class_names)
    y, groups = fold.labels[train], fold.splits["group"].to_numpy()[train]
    intensity, frozen = (features[name] for name in BASELINES)
    strength = choose_strength(frozen[train], y, groups)
    probabilities = (
        logistic_regression(intensity[train], y, intensity[test], class_count),
        logistic_regression(frozen[train], y, frozen[test], class_count, strength),
    )
    named = dict(zip(BASELINES, probabilities, strict=True))
    return prediction_table(fold, test, "baseline", named).assign(seed=fold.cfg.seed)


def table_row(cfg: Config, name: str, table: pd.DataFrame, base: pd.DataFrame) -> dict[str, str]:
    """One row: metrics with confidence intervals, and the paired difference to `base`."""
    table, base = (t.sort_values(["path", "seed"], ignore_index=True) for t in (table, base))
    if not table[["path", "seed"]].equals(base[["path", "seed"]]):
        sys.exit(f"{name}: other images or seeds than the defaults; use another run folder")
    class_names = present_classes(cfg, table["label"])
    columns = probability_columns(class_names)
    y, groups = label_indices(table["label"], class_names), table["group"]
    probabilities, others = table[columns].to_numpy(), base[columns].to_numpy()
    results = intervals(y, probabilities, groups, class_names, cfg.resamples)
    pair = (y, probabilities, groups), (y, others, groups)
    change = difference(*pair, class_names, cfg.resamples)
    by_seed = [
        compute_metrics(y[rows], probabilities[rows], class_names)["macro_f1"]
        for rows in table.groupby("seed").indices.values()
    ]
    row = {"setting": name}
    row |= {metric: format_interval(results.get(metric)) for metric in METRICS}
    row["macro_f1 by seed"] = " ".join(f"{value:.2f}" for value in by_seed)
    row |= {f"change of {metric}": format_interval(change[metric]) for metric in COMPARED}
    return row


def setting_config(cfg: Config, name: str, change: dict[str, Any]) -> Config:
    """The settings of one row, with a run folder of its own."""
    run = f"{cfg.run}/{name.replace(' ', '_').replace(':', '')}"
    return dataclasses.replace(cfg, run=run, given=cfg.given | change, **change)


def main(arguments: list[str]) -> pd.DataFrame:
    """The table, which is also written to `recipes.csv` in the run folder after each setting."""
    chosen = dict(argument.split("=", 1) for argument in arguments)
    others = {name: json.loads(change) for name, change in chosen.items()}
    settings = {DEFAULTS: {}} | others if others else SETTINGS
    cfg = Config.load()
    rows: list[dict[str, str]] = []
    base = pd.DataFrame()
    for name, change in settings.items():
        # The views are compared once, by the models of the first row.
        views = {} if name == DEFAULTS else {"tta": ("identity",)}
        setting = setting_config(cfg, name, views | change)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            table = model_predictions(setting)
            simple = baseline_predictions(setting) if name == DEFAULTS else {}
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        plain, augmented = (table[table["tta"] == kind] for kind in ("plain", "tta"))
        if name == DEFAULTS:
            base = plain
            simple["defaults, test-time views averaged"] = augmented
        for row_name, predictions in ({name: plain} | simple).items():
            rows.append(table_row(cfg, row_name, predictions, base))
        result = pd.DataFrame(rows)
        # The defaults do not differ from themselves.
        result.loc[0, [f"change of {metric}" for metric in COMPARED]] = ""
        write_csv(cfg.root / "recipes.csv", result)
    print(result.to_string(index=False))
    return result


if __name__ == "__main__":
    main(sys.argv[1:])

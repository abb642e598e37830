"""What each setting of the recipe changes, out of fold: every setting trains every fold and seed, and is paired with the defaults.

    BONELIB_DATA=path BONELIB_FOLDS=5 BONELIB_REPEATS=3 BONELIB_RUN=runs/recipes python benchmarks/bench_recipes.py

takes any `BONELIB_<FIELD>`; a stopped run goes on where it was. Arguments `name={"field": value}` take the place of the rows
below the first. Each image
is predicted once a seed by a model that has not seen it; differences are resampled by patient group, all seeds of an image
together, so they speak of other patients as well as of other seeds. Whoever picks the best of the rows by this table has
used these images to choose: its figure is a little too good.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import torch

from bonelib import baselines, loader, metrics, model, predict, series, train
from bonelib.config import AUGMENTATIONS, CLASSES, Config
from bonelib.verdict import span

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "balance: class weights": {"balance": "weights"},
    "balance: none": {"balance": "none"},
    "smoothing: none": {"label_smoothing": 0.0},
    "frozen: nothing": {"freeze": 0.0},
    "frozen: all but the head, rate 1e-2": {"freeze": 1.0, "lr": 1e-2},
    "layer decay 0.8, frozen: nothing": {"freeze": 0.0, "layer_decay": 0.8},
    "EMA: none": {"ema": 0.0},
    "vertical flip: too": {"augment": AUGMENTATIONS},
    "smoothing: ordinal": {"ordinal": True},
    "mixup 0.2": {"mixup": 0.2},
    "rate 3e-4": {"lr": 3e-4},
    "thawed by quarters to nothing frozen": {"freeze": 0.0, "thaw": 3},
}
SHOWN = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")


def predictions(cfg: Config) -> pd.DataFrame:
    """The pooled out-of-fold predictions of a setting, kept as `predictions.csv` in its run folder."""
    path = cfg.root / "predictions.csv"
    if not path.exists():
        parts, trainings = [], []
        for one, splits, pixels in series.trainings(cfg):
            kept = one.root / "predictions.csv"
            if not kept.exists():
                train.train(one, splits, pixels, one.root)
                predict.held_out(model.load(one.root / "model")[0], splits, pixels, one).to_csv(kept, index=False)
                shutil.rmtree(one.root / "checkpoints")
            parts.append(pd.read_csv(kept, dtype={"group": str}))
            trainings.append((one, splits, pixels))
        series.pooled(cfg, parts, trainings).to_csv(path, index=False)
    return pd.read_csv(path, dtype={"group": str})


def simple(cfg: Config) -> dict[str, pd.DataFrame]:
    """The same for the intensity baseline and for logistic regression on the untrained backbone's features."""
    names, out = ("intensity baseline", "frozen features + logistic regression"), {}
    trainings = list(series.trainings(cfg))
    net = model.build(dataclasses.replace(cfg, dropout=0.0)).eval()
    net.backbone.reset_classifier(0)
    with torch.inference_mode():
        _, splits, pixels = trainings[0]
        batches = loader.plain(pixels, np.arange(len(pixels)), cfg.batch_size)
        features = dict(zip(splits["path"], torch.cat([net(b) for b in batches]).numpy(), strict=True))
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
    for _, splits, pixels in trainings:
        y = splits["label"].map(CLASSES.index).to_numpy()
        fit, test = (np.flatnonzero(splits["split"] == part) for part in ("train", "test"))
        for name, x in zip(
            names, (baselines.texture(pixels), np.stack([features[p] for p in splits["path"]])), strict=True
        ):
            probs = baselines.regression(x[fit], y[fit], x[test])
            tables[name].append(predict.table(splits.iloc[test], probs, "plain"))
    for name in names:
        out[name] = series.pooled(cfg, tables[name], trainings)
    return out


def row(name: str, table: pd.DataFrame, base: pd.DataFrame) -> dict[str, str]:
    """A line of the table: figures of the first kind with intervals, and the difference to `base`, image by image."""
    mine, other = (t.sort_values(["path", "seed"], ignore_index=True) for t in (table, base))
    assert mine[["path", "seed"]].equals(other[["path", "seed"]])
    y, groups = mine["label"].map(CLASSES.index).to_numpy(), mine["group"]
    probs, against = mine[metrics.PROBS].to_numpy(), other[metrics.PROBS].to_numpy()
    held, change = metrics.intervals(y, probs, groups), metrics.paired(y, probs, against, groups)
    seeds = [metrics.figures(y[i], probs[i])["macro_f1"] for i in mine.groupby("seed").indices.values()]
    out = (
        {"setting": name}
        | {f: span(held[f]) for f in SHOWN}
        | {"macro_f1 by seed": " ".join(f"{s:.2f}" for s in seeds)}
    )
    return out | ({} if table is base else {f"change of {f}": span(change[f]) for f in ("macro_f1", "auroc")})


def main(arguments: list[str]) -> None:
    given = {name: json.loads(value) for name, value in (a.split("=", 1) for a in arguments)}
    settings = {"defaults": {}} | given if given else SETTINGS
    cfg = Config.load()
    rows, base = [], None
    for name, change in settings.items():
        if rows:
            change = {"tta": ("identity",)} | change  # the views are compared once, by the first row's models
        one = dataclasses.replace(
            cfg, run=f"{cfg.run}/{name.replace(' ', '_').replace(':', '')}",
            **{k: tuple(v) if isinstance(v, list) else v for k, v in change.items()},
        )  # fmt: skip
        began = time.time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            table = predictions(one)
        print(f"{name}: {time.time() - began:.0f} s", flush=True)
        parts = dict(list(table[table["split"] == "test"].groupby("tta")))
        if base is None:
            base = parts["plain"]
            rows += [row(n, t, base) for n, t in simple(one).items()]
        rows.append(row(name, parts["plain"], base))
        if name == "defaults":
            rows.append(row("defaults, test-time views averaged", parts["tta"], base))
        result = pd.DataFrame(rows)
        result.to_csv(cfg.root / "recipes.csv", index=False)
    print(result.fillna("").to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])

"""An epoch of the routine this project replaces, against bonelib's that tells as much: train, validate, augmented views.

python benchmarks/bench_epoch.py [--rounds 3] [--backbone efficientnet_b3]

The plain routine trains, validates, and then predicts the validation images ten times over, one at a time, each epoch.
bonelib is asked to do the same, and then what it does: the views once, after the last of its epochs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pictures
import plain
import torch
from bench_training import data
from side_by_side import Question, Round, main, process
from torch.utils.data import DataLoader

from bonelib import model, predict, train
from bonelib.config import CLASSES, VIEWS, Config

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"rows": 400 if GPU else 48, "at": 300, "batch": 16, "shrink": 1},
    "toy": {"rows": 20, "at": 32, "batch": 4, "shrink": 8},
}
EACH, ONCE = "an epoch: train, validate, ten views", "the same, bonelib's views once in 30 epochs"
QUESTIONS = {title: Question("s", {"plain": 5}) for title in (EACH, ONCE)}


def ours(cfg: Config, splits: pd.DataFrame, pixels: np.ndarray) -> tuple[float, float]:
    """Seconds of the second epoch, checkpoint included; and of the views of the validation rows."""
    ends: list[float] = []
    train.train(cfg, splits, pixels, cfg.root, lambda history: ends.append(time.perf_counter()))
    net, _ = model.load(cfg.root / "model")
    on = model.device()
    rows = np.flatnonzero(splits["split"] == "val")
    began = time.perf_counter()
    predict.logits(net.to(on), pixels, rows, VIEWS, 2 * cfg.batch_size, model.precision(cfg, on))
    return ends[1] - ends[0], time.perf_counter() - began


def theirs(cfg: Config, splits: pd.DataFrame, folder: Path) -> float:
    """Seconds of the second epoch; the first, which sets things up, goes without the views."""
    paths = [folder / p for p in splits["path"]]
    labels = [CLASSES.index(c) for c in splits["label"]]
    trains, vals = (np.flatnonzero(splits["split"] == part) for part in ("train", "val"))
    augmented, plainly = plain.policy(cfg.image_size), plain.plainly(cfg.image_size)

    def chosen(rows: np.ndarray, how: plain.A.Compose) -> plain.Pictures:
        return plain.Pictures([paths[i] for i in rows], [labels[i] for i in rows], how)

    trainer = plain.Trainer(plain.model(cfg.backbone, cfg.freeze, plain.DEVICE), plain.DEVICE)
    for epoch in range(2):
        began = time.perf_counter()
        trainer.train(
            DataLoader(chosen(trains, augmented), cfg.batch_size, shuffle=True, num_workers=2, drop_last=True)
        )
        trainer.predict(DataLoader(chosen(vals, plainly), cfg.batch_size, num_workers=2))
        if epoch:
            trainer.tta(chosen(vals, augmented))
    return time.perf_counter() - began


def measure(size: str = "full", backbone: str = "") -> Round:
    rows, at, batch, shrink = SIZES[size].values()
    with tempfile.TemporaryDirectory() as kept:
        splits, pixels = data(rows, at, shrink, kept)
        cfg = Config(
            backbone=backbone or ("efficientnet_b3" if size == "full" else "test_efficientnet"), pretrained=False,
            image_size=at, batch_size=batch, epochs=2, resume=False, run=kept,
        )  # fmt: skip
        epoch, views = ours(cfg, splits, pixels)
        folder = pictures.folder("png", rows, shrink)
        plainly = process("plain").submit(theirs, cfg, splits, folder).result()
        return {
            EACH: {"bonelib": epoch + views, "plain": plainly},
            ONCE: {"bonelib": epoch + views / Config().epochs, "plain": plainly},
        }


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")

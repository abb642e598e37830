"""An epoch of the usual notebook against bonelib's: train, validate, predict augmented views.

python benchmarks/bench_epoch.py [--rounds 3] [--backbone efficientnet_b3]

The plain way trains, validates, and then predicts the validation images ten times, one at a time,
in each epoch. bonelib is measured doing the same, and doing what it does by default: the views
once, after the last epoch.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import torch
from bench_training import BACKBONES, make_fold, two_epochs
from images import image_folder
from side_by_side import Question, Round, main, process
from torch.utils.data import DataLoader

from bonelib.config import CLASSES, VIEWS, Config
from bonelib.evaluation.predict import logits
from bonelib.split import Fold
from bonelib.training.device import device, precision
from bonelib.training.loop import fit
from bonelib.training.model import load_model

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"count": 400 if GPU else 48, "side": 300, "batch": 16, "shrink": 1},
    "toy": {"count": 20, "side": 32, "batch": 4, "shrink": 8},
}
EVERY_EPOCH = "an epoch: train, validate, ten views"
ONCE = "the same, bonelib's views once in 30 epochs"
QUESTIONS = {EVERY_EPOCH: Question("s", {"plain": 2}), ONCE: Question("s", {"plain": 5})}


def ours(fold: Fold) -> tuple[float, float]:
    """Seconds of the second epoch, checkpoint included; and of the views of the validation set."""
    ends: list[float] = []
    fit(fold, after_epoch=lambda history: ends.append(time.perf_counter()))
    net = load_model(fold.folder / "model").net
    mode, batch_size = precision(fold.cfg, device()), 2 * fold.cfg.batch_size
    start = time.perf_counter()
    logits(net, fold.images, fold.rows("val"), VIEWS, batch_size, mode)
    return ends[1] - ends[0], time.perf_counter() - start


def plain_way(cfg: Config, splits: pd.DataFrame, folder: Path) -> float:
    """Seconds of the second epoch; the first, which sets things up, predicts no views."""
    paths = [folder / path for path in splits["path"]]
    labels = [CLASSES.index(label) for label in splits["label"]]
    augmented, unchanged = plain.augmentation(cfg.image_size), plain.no_augmentation(cfg.image_size)

    def files(rows: np.ndarray, transform: plain.A.Compose) -> plain.ImageFiles:
        chosen = [paths[i] for i in rows], [labels[i] for i in rows]
        return plain.ImageFiles(*chosen, transform)

    train, val = (np.flatnonzero(splits["split"] == name) for name in ("train", "val"))
    options = {"batch_size": cfg.batch_size, "num_workers": 2}
    trainer = plain.Trainer(plain.build(cfg.backbone, cfg.freeze, plain.DEVICE), plain.DEVICE)
    for epoch in range(2):
        start = time.perf_counter()
        trainer.train(DataLoader(files(train, augmented), shuffle=True, drop_last=True, **options))
        trainer.predict(DataLoader(files(val, unchanged), **options))
        if epoch:
            trainer.tta(files(val, augmented))
    return time.perf_counter() - start


def measure(size: str = "full", backbone: str = "") -> Round:
    count, side, batch, shrink = SIZES[size].values()
    with tempfile.TemporaryDirectory() as run:
        cfg = two_epochs(run, side, batch, backbone or BACKBONES[size])
        fold, folder = make_fold(cfg, count, shrink), image_folder("png", count, shrink)
        epoch, views = ours(fold)
        usual = process("plain").submit(plain_way, cfg, fold.splits, folder).result()
    return {
        EVERY_EPOCH: {"bonelib": epoch + views, "plain": usual},
        ONCE: {"bonelib": epoch + views / Config().epochs, "plain": usual},
    }


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")

"""Does training wait for images? bonelib's training against the same on batches made in advance.

python benchmarks/bench_training.py [--rounds 3] [--backbone efficientnet_b3]

The second epoch of two, with the default settings: on a CPU images are augmented in the main
process, on a GPU by workers. "training waits for batches" is `data_wait` of history.csv: the share
of an epoch spent waiting for batches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import pandas as pd
import torch
from images import image_folder
from loaders import labelled_files
from side_by_side import Question, Round, main

from bonelib.config import CLASSES, Config
from bonelib.data.cache import cached_images
from bonelib.split import Fold, split
from bonelib.training import loop

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"count": 400 if GPU else 128, "side": 300, "batch": 32, "shrink": 1},
    "toy": {"count": 12, "side": 32, "batch": 4, "shrink": 8},
}
BACKBONES = {"full": "efficientnet_b3", "toy": "test_efficientnet"}
CEILING = "batches made in advance"
QUESTIONS = {
    "training against its ceiling": Question("images/s", {CEILING: 0.9 if GPU else 0.95}),
    "training waits for batches": Question("% of the time", at_most=5),
}


def make_fold(cfg: Config, count: int, shrink: int) -> Fold:
    """A fold of `count` generated printouts, each training image drawn once per epoch."""
    folder = image_folder("png", count, shrink)
    paths, labels = labelled_files(folder)
    table = pd.DataFrame({"path": paths, "label": [CLASSES[y] for y in labels], "group": paths})
    splits = split(table.assign(status="ok", issues=""), Config(balance="none"))
    images, _ = cached_images(folder, splits["path"].tolist(), cfg.image_size, cfg.run)
    return Fold(cfg, splits, images, cfg.root)


def two_epochs(run: str, side: int, batch: int, backbone: str) -> Config:
    """Settings of a training of two epochs from random weights."""
    return Config(
        backbone=backbone,
        pretrained=False,
        image_size=side,
        batch_size=batch,
        epochs=2,
        resume=False,
        run=run,
    )


def in_advance(make_batches: Callable[..., Any]) -> Callable[..., list[Any]]:
    """`training_batches`, but with batches that are made only once."""
    return lambda *arguments: list(make_batches(*arguments))


def measure(size: str = "full", backbone: str = "") -> Round:
    count, side, batch, shrink = SIZES[size].values()
    with tempfile.TemporaryDirectory() as run:
        cfg = two_epochs(run, side, batch, backbone or BACKBONES[size])
        # 60% of the images are in the training set
        fold = make_fold(cfg, count * 10 // 6, shrink)
        ours = loop.fit(fold).iloc[-1]
        advance = in_advance(loop.training_batches)
        with mock.patch.object(loop, "training_batches", advance):
            ceiling = loop.fit(fold).iloc[-1]
    rate = "images_per_second"
    return {
        "training against its ceiling": {"bonelib": ours[rate], CEILING: ceiling[rate]},
        "training waits for batches": {"bonelib": 100 * ours["data_wait"]},
    }


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")

"""Does training wait for pictures? bonelib's own training against the same training on batches that lie ready.

python benchmarks/bench_training.py [--rounds 3] [--backbone efficientnet_b3]

The second epoch of two, with the default settings: on a CPU pictures are made in the main process, on a GPU by workers.
`waiting` is `data_wait` of history.csv: the share of an epoch spent waiting for batches.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pictures
import torch
from loaders import files
from side_by_side import Question, Round, main

from bonelib import images, loader, split, train
from bonelib.config import CLASSES, Config

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"rows": 400 if GPU else 128, "at": 300, "batch": 32, "shrink": 1},
    "toy": {"rows": 12, "at": 32, "batch": 4, "shrink": 8},
}
QUESTIONS = {
    "training against its ceiling": Question("images/s", {"batches that lie ready": 0.9 if GPU else 0.95}),
    "training waits for batches": Question("% of the time", at_most=5),
}


def data(rows: int, at: int, shrink: int, kept: str) -> tuple[Any, np.ndarray]:
    """Splits of generated printouts, each training row drawn once, and their pictures (N, S, S)."""
    folder = pictures.folder("png", rows, shrink)
    paths, labels = files(folder)
    table = pd.DataFrame({"path": paths, "label": [CLASSES[y] for y in labels], "group": paths})
    splits = split.split(table.assign(status="ok", issues=""), Config(balance="none"))
    return splits, images.cache(folder, splits["path"].tolist(), at, kept)[0]


def ready(make: Any) -> Any:
    """`loader.training`, but with batches that are made only once."""
    return lambda *given: list(make(*given))


def measure(size: str = "full", backbone: str = "") -> Round:
    rows, at, batch, shrink = SIZES[size].values()
    with tempfile.TemporaryDirectory() as kept:
        splits, pixels = data(rows * 10 // 6, at, shrink, kept)
        cfg = Config(
            backbone=backbone or ("efficientnet_b3" if size == "full" else "test_efficientnet"), pretrained=False,
            image_size=at, batch_size=batch, epochs=2, resume=False, run=kept,
        )  # fmt: skip
        ours = train.train(cfg, splits, pixels, Path(kept)).iloc[-1]
        with mock.patch.object(loader, "training", ready(loader.training)):
            ceiling = train.train(cfg, splits, pixels, Path(kept)).iloc[-1]
    rate = "images_per_second"
    return {
        "training against its ceiling": {"bonelib": ours[rate], "batches that lie ready": ceiling[rate]},
        "training waits for batches": {"bonelib": 100 * ours["data_wait"]},
    }


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")

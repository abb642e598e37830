"""The whole job on 500 images, from the folder to the results: bonelib and the plain notebook way.

python benchmarks/bench_whole.py [--rounds 3] [--backbone efficientnet_b3]

Both train for three epochs with the same split, batches and views; the plain way validates after
each epoch and predicts the test images in ten augmented passes at the end. bonelib also decodes
into its cache, searches for copies, compares with baselines, and writes intervals and the report.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import plain
from bench_training import BACKBONES
from side_by_side import Question, Round, main, process
from torch.utils.data import DataLoader

from bonelib import pipeline, scoring
from bonelib.config import CLASSES, Config
from bonelib.data.sample import make_sample
from bonelib.report.report import write_report

SIZES = {
    "full": {"images": 500, "side": 300, "batch": 16, "epochs": 3},
    "toy": {"images": 60, "side": 32, "batch": 8, "epochs": 1},
}
TITLE = "500 images, from the folder to the results"
QUESTIONS = {TITLE: Question("s", {"plain": 4})}


def ours(cfg: Config) -> pd.DataFrame:
    """The splits of the run, after everything from the audit to the report."""
    data, folds = pipeline.audited(cfg), list(pipeline.folds(cfg))
    models = [pipeline.trained_model(fold) for fold in folds]
    predictions = scoring.predict_folds(cfg, models, folds)
    baselines = scoring.baseline_predictions(cfg, data, folds)
    scoring.evaluate_run(cfg, data, models, folds, predictions, baselines)
    write_report(cfg.root)
    return folds[0].splits


def plain_way(cfg: Config, splits: pd.DataFrame, folder: Path) -> float:
    """Seconds of training, validation after each epoch, and the views of the test set."""
    start = time.perf_counter()
    paths, labels = [folder / path for path in splits["path"]], splits["label"].map(CLASSES.index)
    augmented, unchanged = plain.augmentation(cfg.image_size), plain.no_augmentation(cfg.image_size)

    def files(split: str, transform: plain.A.Compose) -> plain.ImageFiles:
        rows = np.flatnonzero(splits["split"] == split)
        return plain.ImageFiles([paths[i] for i in rows], [labels[i] for i in rows], transform)

    options = {"batch_size": cfg.batch_size, "num_workers": 2}
    trainer = plain.Trainer(plain.build(cfg.backbone, cfg.freeze, plain.DEVICE), plain.DEVICE)
    drawn = files("train", augmented)
    for _ in range(cfg.epochs):
        trainer.train(DataLoader(drawn, shuffle=True, drop_last=True, **options))
        trainer.predict(DataLoader(files("val", unchanged), **options))
    trainer.tta(files("test", augmented))
    return time.perf_counter() - start


def measure(size: str = "full", backbone: str = "") -> Round:
    images, side, batch, epochs = SIZES[size].values()
    with tempfile.TemporaryDirectory() as run:
        folder = make_sample(Path(run, "images"), images=images)
        # the plain way does not oversample
        cfg = Config(
            data=str(folder),
            run=f"{run}/run",
            cache=f"{run}/cache",
            backbone=backbone or BACKBONES[size],
            pretrained=False,
            image_size=side,
            batch_size=batch,
            epochs=epochs,
            balance="none",
        )
        start = time.perf_counter()
        splits = ours(cfg)
        results = {"bonelib": time.perf_counter() - start}
        results["plain"] = process("plain").submit(plain_way, cfg, splits, folder).result()
    return {TITLE: results}


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")

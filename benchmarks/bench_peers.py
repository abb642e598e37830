"""Other ways to train on the same images: the same folds, backbone file and test rows.

    BONELIB_DATA=path BONELIB_BACKBONE=tf_efficientnetv2_b0 BONELIB_WEIGHTS=path.safetensors \\
        BONELIB_FOLDS=5 BONELIB_RUN=runs/peers python benchmarks/bench_peers.py [peer ...]

Peers are bonelib, notebook, fastai, frozen and autogluon; accepts any `BONELIB_<FIELD>`. Each
fold's predictions are kept in its run folder, so that an interrupted table resumes. AutoGluon needs
an environment of its own, named by --autogluon path/to/python.

- notebook: the usual timm loop with the recipe of many public notebooks: oversampling and class
  weights together, everything trained, RGB, the best validation accuracy kept, ten random draws of
  the training augmentation averaged.
- fastai: `vision_learner(...).fine_tune(15)` with its default augmentation, and its `tta`.
- autogluon: `MultiModalPredictor` with `timm_image`, 20 epochs, on the CPU.
- frozen: frozen features and logistic regression, its strength chosen by inner cross-validation.

Differences are to bonelib with test-time views, paired, with intervals by patient group.
"""

from __future__ import annotations

import argparse
import copy
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import torch
from bench_recipes import read_predictions, table_row
from torch.utils.data import DataLoader

from bonelib.config import Config
from bonelib.evaluation.baselines import choose_strength, frozen_features, logistic_regression
from bonelib.evaluation.predict import predict_splits, prediction_table
from bonelib.pipeline import audited, folds, trained_model
from bonelib.split import Fold, class_weights
from bonelib.storage import write_csv

# Probabilities (N, K) of the test rows by kind, "plain" or "tta".
Results = dict[str, np.ndarray]
FASTAI_EPOCHS, AUTOGLUON_EPOCHS, NOTEBOOK_EPOCHS, NOTEBOOK_PATIENCE = 15, 20, 30, 7
AUTOGLUON = Path(__file__).with_name("autogluon_peer.py")


def bonelib_way(fold: Fold, files: pd.DataFrame) -> Results:
    """This project with its defaults."""
    predicted = predict_splits(trained_model(fold), fold, ["test"])
    columns = [name for name in predicted if name.startswith("p_")]
    return {kind: rows[columns].to_numpy() for kind, rows in predicted.groupby("tta")}


def frozen_way(fold: Fold, files: pd.DataFrame) -> Results:
    train, test = fold.rows("train"), fold.rows("test")
    x, y, groups = frozen_features(fold.cfg, fold.images), fold.labels, fold.splits["group"]
    strength = choose_strength(x[train], y[train], groups.to_numpy()[train])
    count = len(fold.class_names)
    return {"plain": logistic_regression(x[train], y[train], x[test], count, strength)}


def notebook_way(fold: Fold, files: pd.DataFrame) -> Results:
    """The usual loop; its copies of minority images are drawn after the split, for a fair test."""
    cfg, size = fold.cfg, fold.cfg.image_size
    augmented, unchanged = plain.augmentation(size), plain.no_augmentation(size)
    labels, paths = fold.labels, files["file"].tolist()

    def images(rows: np.ndarray, transform: plain.A.Compose) -> plain.ImageFiles:
        return plain.ImageFiles([paths[i] for i in rows], labels[rows].tolist(), transform)

    train, val, test = (fold.rows(name) for name in ("train", "val", "test"))
    drawn = np.repeat(train, fold.splits["draws"].to_numpy()[train])
    net = plain.build(cfg.backbone, 0, plain.DEVICE, len(fold.class_names), cfg.weights)
    weights = class_weights(fold.splits, "both", fold.class_names)
    trainer = plain.Trainer(net, plain.DEVICE, torch.from_numpy(weights))
    batches = DataLoader(images(drawn, augmented), cfg.batch_size, shuffle=True, drop_last=True)
    best, best_epoch, state = -1.0, 0, net.state_dict()
    for epoch in range(NOTEBOOK_EPOCHS):
        trainer.train(batches)
        predicted = trainer.predict(DataLoader(images(val, unchanged), cfg.batch_size)).argmax(1)
        accuracy = float(np.mean(predicted.numpy() == labels[val]))
        if accuracy > best:
            best, best_epoch, state = accuracy, epoch, copy.deepcopy(net.state_dict())
        if epoch - best_epoch >= NOTEBOOK_PATIENCE:
            break
    net.load_state_dict(state)
    results = {"plain": trainer.predict(DataLoader(images(test, unchanged), cfg.batch_size))}
    results["tta"] = trainer.tta(images(test, augmented))
    return {kind: p.double().numpy() for kind, p in results.items()}


def fastai_way(fold: Fold, files: pd.DataFrame) -> Results:
    from fastai.vision.all import (
        ImageDataLoaders,
        Resize,
        ResizeMethod,
        accuracy,
        aug_transforms,
        vision_learner,
    )

    cfg, known = fold.cfg, files[files["split"] != "test"]
    loaders = ImageDataLoaders.from_df(
        known.assign(is_valid=known["split"] == "val"),
        path="/",
        fn_col="file",
        label_col="label",
        valid_col="is_valid",
        item_tfms=Resize(cfg.image_size, method=ResizeMethod.Pad, pad_mode="zeros"),
        batch_tfms=aug_transforms(),
        bs=cfg.batch_size,
        num_workers=0,
    )
    weights = {"file": cfg.weights} if cfg.weights else None
    options = {"metrics": accuracy, "pretrained_cfg_overlay": weights}
    learner = vision_learner(loaders, cfg.backbone, **options)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(FASTAI_EPOCHS)
        test = loaders.test_dl(files.loc[files["split"] == "test", "file"].tolist())
        results = {"plain": learner.get_preds(dl=test)[0], "tta": learner.tta(dl=test)[0]}
    order = [list(loaders.vocab).index(name) for name in fold.class_names]
    return {kind: p[:, order].double().numpy() for kind, p in results.items()}


def autogluon_way(python: str) -> Callable[[Fold, pd.DataFrame], Results]:
    """AutoGluon in the environment of another Python."""

    def predict(fold: Fold, files: pd.DataFrame) -> Results:
        cfg = fold.cfg
        with tempfile.TemporaryDirectory() as folder:
            files.to_csv(f"{folder}/files.csv", index=False)
            facts = [folder, cfg.backbone, cfg.weights, cfg.batch_size, AUTOGLUON_EPOCHS, cfg.seed]
            command = [python, str(AUTOGLUON), *map(str, facts)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            predicted = pd.read_csv(f"{folder}/predictions.csv")
        return {"plain": predicted[list(fold.class_names)].to_numpy()}

    return predict


def peer_predictions(cfg: Config, name: str, way: Callable[..., Results]) -> pd.DataFrame:
    """The test predictions of a peer, of all folds and seeds."""
    root, tables = audited(cfg).root.resolve(), []
    for fold in folds(cfg):
        path = fold.folder / f"peer_{name}.csv"
        if not path.exists():
            files = fold.splits.assign(file=[str(root / p) for p in fold.splits["path"]])
            random.seed(cfg.seed)
            np.random.seed(cfg.seed)
            torch.manual_seed(cfg.seed)
            start = time.perf_counter()
            results = way(fold, files)
            table = prediction_table(fold, fold.rows("test"), "tta", results)
            seconds = time.perf_counter() - start
            print(f"{name}, {fold.folder.name}: {seconds:.0f} s", flush=True)
            write_csv(path, table.assign(seed=fold.cfg.seed, seconds=seconds))
        tables.append(read_predictions(path))
    return pd.concat(tables, ignore_index=True)


def main(arguments: list[str]) -> pd.DataFrame:
    """The table, which is also written to `peers.csv` in the run folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("bonelib", "frozen", "notebook", "fastai", "autogluon")
    parser.add_argument("peers", nargs="*", default=names[:-1])
    parser.add_argument("--autogluon", default=sys.executable)
    given = parser.parse_args(arguments)
    ways = (bonelib_way, frozen_way, notebook_way, fastai_way, autogluon_way(given.autogluon))
    chosen = {name: way for name, way in zip(names, ways, strict=True) if name in given.peers}
    cfg, rows = Config.load(), []
    base = peer_predictions(cfg, "bonelib", bonelib_way)
    base = base[base["tta"] == "tta"]
    for name, way in chosen.items():
        table = peer_predictions(cfg, name, way)
        minutes = table.drop_duplicates(["seed", "seconds"])["seconds"].sum() / 60
        for kind, predictions in table.groupby("tta"):
            label = f"{name}, {'test-time augmentation' if kind == 'tta' else kind}"
            row = table_row(cfg, label, predictions, base)
            rows.append(row | {"minutes": f"{minutes:.0f}"})
    result = pd.DataFrame(rows)
    write_csv(cfg.root / "peers.csv", result)
    print(result.to_string(index=False))
    return result


if __name__ == "__main__":
    main(sys.argv[1:])

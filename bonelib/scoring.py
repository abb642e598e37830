"""Predictions, metrics and calibration of a run's models."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib.audit.copies import cluster_numbers
from bonelib.config import Config
from bonelib.data.metadata import metadata_columns
from bonelib.data.quality import fit_gauge
from bonelib.evaluation.baselines import predict_baselines
from bonelib.evaluation.evaluate import count_test_reads, evaluate, fit_on_validation
from bonelib.evaluation.findings import format_interval, leak_findings
from bonelib.evaluation.predict import predict_splits
from bonelib.messages import Finding, sort_findings
from bonelib.pipeline import Audited, folds, trained_model
from bonelib.prediction.answers import load_models, models_digest
from bonelib.split import Fold, class_shares
from bonelib.storage import read_json, write_csv, write_json
from bonelib.training.device import processes
from bonelib.training.model import TrainedModel, amend_model, model_folders

COMPARED_RUNS = ("accuracy", "macro_f1", "auroc")


def predict_folds(cfg: Config, models: list[TrainedModel], folds: list[Fold]) -> pd.DataFrame:
    """predictions.csv: each fold's validation and test images, predicted by its own model."""
    tables = [predict_splits(model, fold) for model, fold in zip(models, folds, strict=True)]
    predictions = _pooled(cfg, tables, folds)
    if processes().is_main_process:
        write_csv(cfg.root / "predictions.csv", predictions)
    return predictions


def baseline_predictions(cfg: Config, data: Audited, folds: list[Fold]) -> pd.DataFrame:
    """The test images as each baseline predicts them, of all folds."""
    return _pooled(cfg, [predict_baselines(fold, data.table) for fold in folds], folds)


def evaluate_run(
    cfg: Config,
    data: Audited,
    models: list[TrainedModel],
    folds: list[Fold],
    predictions: pd.DataFrame,
    baselines: pd.DataFrame,
) -> dict:
    """metrics.json, after the test set was read; calibration goes into the models' config.json."""
    class_names = folds[0].class_names
    metrics = evaluate(
        predictions,
        class_names,
        baselines,
        data.table[["path", *metadata_columns(data.table)[0]]],
        class_shares=class_shares(folds[0].splits, class_names),
        prevalence=np.array(cfg.prevalence) if cfg.prevalence else None,
        target=cfg.target,
        resamples=cfg.resamples,
        seed=cfg.seed,
    )
    digest = models_digest(models)
    ledger = Path(cfg.mirror or cfg.run).parent / "test_reads.json"
    metrics["test_reads"] = count_test_reads(predictions, digest, ledger)
    metrics["model_digest"] = digest
    leaks = [dataclasses.asdict(finding) for finding in find_leaks(data, folds)]
    metrics["findings"] = leaks + metrics["findings"]
    write_json(cfg.root / "metrics.json", metrics)
    learnt = {
        "temperature": metrics["calibration"]["plain"]["temperature"],
        "threshold": metrics["selective"]["plain"]["threshold"],
    }
    _amend(folds, learnt)
    return metrics


def find_leaks(data: Audited, folds: list[Fold]) -> list[Finding]:
    """An alarm for each way in which training or validation images are in the test set, too.

    The images are compared once more, mirrored and rescaled copies included.
    """
    numbers = cluster_numbers(data.thumbnails, data.readable, any_angle=False)
    table = data.readable.assign(_image=numbers)
    found = [leak_findings(fold.splits, table, data.audit) for fold in folds]
    return sort_findings(itertools.chain.from_iterable(found))


def calibrated_models(cfg: Config) -> list[TrainedModel]:
    """The run's models, ready to predict; where missing, trained and calibrated as 03 and 04 do."""
    metas = [read_json(folder / "config.json") for folder in model_folders(cfg.root)]
    if not metas or not all("threshold" in meta for meta in metas):
        made = list(folds(cfg))
        models = [trained_model(fold) for fold in made]
        tables = [
            predict_splits(model, fold, ["val"], ["plain"])
            for model, fold in zip(models, made, strict=True)
        ]
        if processes().is_main_process:
            class_names = made[0].class_names
            shares = class_shares(made[0].splits, class_names)
            pooled = _pooled(cfg, tables, made)
            _amend(made, fit_on_validation(pooled, class_names, shares, cfg.target))
        processes().wait_for_everyone()
    return load_models(cfg.root)


def compare_runs(folder: Path) -> pd.DataFrame:
    """One row per evaluated run in `folder`: settings that differ, and metrics with TTA."""
    rows = {}
    for path in sorted(folder.glob("*/metrics.json")):
        given = path.with_name("config.json")
        settings = read_json(given) if given.is_file() else {}
        test = read_json(path)["test"]["tta"]
        metrics = {name: format_interval(test[name]) for name in COMPARED_RUNS}
        rows[path.parent.name] = settings | metrics
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    filled = [[row.get(name, "default") for name in names] for row in rows.values()]
    table = pd.DataFrame(filled, index=list(rows), columns=names)
    differing = [c for c in table if c in COMPARED_RUNS or table[c].astype(str).nunique() > 1]
    return table[differing]


def _pooled(cfg: Config, tables: list[pd.DataFrame], folds: list[Fold]) -> pd.DataFrame:
    """The folds' tables in one; with cross-validation, `seed` and `fold` say which it was."""
    if not cfg.folds:
        return tables[0]
    named = []
    for table, fold in zip(tables, folds, strict=True):
        number = fold.splits["fold"].iloc[fold.rows("test")[0]]
        named.append(table.assign(seed=fold.cfg.seed, fold=number))
    return pd.concat(named, ignore_index=True)


def _amend(folds: list[Fold], learnt: dict[str, float | None]) -> None:
    """Write into each model's config.json what validation gave, and what its images look like."""
    for fold in folds:
        gauge = fit_gauge(fold.images[fold.rows("train")])
        shares = class_shares(fold.splits, fold.class_names)
        facts: dict = {
            "class_shares": [share.tolist() for share in shares],
            "gauge": gauge,
            "train_images": len(fold.rows("train")),
        }
        amend_model(fold.folder / "model", **learnt, **facts)
        if not gauge:
            print("too few training images to describe them: only blank images will be rejected")

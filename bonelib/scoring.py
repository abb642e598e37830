"""Predictions, metrics and calibration of a run's models."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib.config import Config
from bonelib.data import metadata
from bonelib.data.dicom import patient_id
from bonelib.data.quality import fit_gauge
from bonelib.data.review import REVIEW_FILE
from bonelib.evaluation.baselines import predict_baselines
from bonelib.evaluation.evaluate import count_test_reads, evaluate, fit_on_validation
from bonelib.evaluation.findings import format_interval, leak_findings
from bonelib.evaluation.predict import predict_splits
from bonelib.evaluation.suspects import review_table
from bonelib.messages import Finding, sort_findings
from bonelib.pipeline import Audited, audited, folds, trained_model
from bonelib.prediction.answers import combine_patients, load_models, models_digest
from bonelib.report.report import model_changed
from bonelib.split import Fold
from bonelib.storage import read_json, write_csv, write_json
from bonelib.training.device import processes
from bonelib.training.model import TrainedModel, amend_model, model_folders

COMPARED_RUNS = ("accuracy", "macro_f1", "auroc")


def predict_folds(cfg, models, folds, **chosen: list[str]) -> pd.DataFrame:
    """Each fold's validation and test images, predicted by its own model: predictions.csv.

    chosen: `splits` and `kinds` of `predict_splits`, to predict less.
    """
    pairs = zip(models, folds, strict=True)
    return _pooled(cfg, [predict_splits(model, fold, **chosen) for model, fold in pairs], folds)


def baseline_predictions(cfg: Config, data: Audited, folds: list[Fold]) -> pd.DataFrame:
    """The test images as each baseline predicts them, of all folds."""
    return _pooled(cfg, [predict_baselines(fold, data.table) for fold in folds], folds)


def evaluate_run(cfg, data, models, folds, predictions, baselines) -> dict:
    """The content of metrics.json, written beside predictions.csv; the reading is counted.

    data: Audited. models, folds: of the run. predictions, baselines: tables of `predict_folds` and
    `baseline_predictions`. Calibration goes into the models' config.json.
    """
    class_names, digest = folds[0].class_names, models_digest(models)
    shares = folds[0].class_shares
    metrics = evaluate(predictions, class_names, cfg, baselines, data.table, shares)
    ledger = Path(cfg.mirror or cfg.run).parent / "test_reads.json"
    reads = count_test_reads(predictions, digest, ledger)
    leaks = [dataclasses.asdict(finding) for finding in find_leaks(data, folds)]
    findings = {"findings": leaks + metrics["findings"]}
    metrics |= {"test_reads": reads, "model_digest": digest} | findings
    write_csv(cfg.root / "predictions.csv", predictions)
    write_json(cfg.root / "metrics.json", metrics)
    _calibrate(cfg, folds, predictions)
    return metrics


def write_review(cfg: Config, data: Audited, fold: Fold, features: np.ndarray) -> pd.DataFrame:
    """`review.csv` in the run folder: doubtful labels, for a person to decide.

    features: (N, D) of the fold's images. Copied beside the images, the decisions count from the
    next run on.
    """
    table = review_table(data.table, fold, features)
    write_csv(cfg.root / REVIEW_FILE, table)
    return table


def answer_patients(cfg: Config, models: list, root: Path, answers: Path) -> pd.DataFrame:
    """answers_by_patient.csv, written beside answers.csv if patients are known; else no rows.

    Patients are those of `patient_regex`, a metadata.csv beside the images, DICOM headers, or the
    layout; without `images`, those of the data.
    """
    table = pd.read_csv(answers, keep_default_na=False, dtype={"path": str, "prediction": str})
    paths = table["path"]
    if cfg.images:
        salt = metadata.patient_salt(cfg.cache)
        ids = [metadata.hash_patient(patient_id(root / path), salt) for path in paths]
        known = pd.DataFrame({"path": paths, "patient": ids})
        new = dataclasses.replace(cfg, metadata="")
        patients = metadata.join(known, known[[]], root, new, [])[0]["patient"]
    else:
        catalog = audited(cfg).table.drop_duplicates("path").set_index("path")
        patients = paths.map(catalog["patient"]).fillna("")
    result = combine_patients(table, patients, models)
    if len(result) and processes().is_main_process:
        write_csv(answers.with_name("answers_by_patient.csv"), result, float_format="%.6f")
    return result


def find_leaks(data: Audited, folds: list[Fold]) -> list[Finding]:
    """An alarm for each way in which training or validation images are in the test set, too.

    The images are compared once more, as in the audit.
    """
    table = data.readable.assign(_image=data.clusters)
    found = [leak_findings(fold.splits, table, data.audit) for fold in folds]
    return sort_findings(itertools.chain.from_iterable(found))


def calibrated_models(cfg: Config) -> list[TrainedModel]:
    """The run's models, ready to predict; where missing, trained and calibrated as 03 and 04 do."""
    metas = [read_json(folder / "config.json") for folder in model_folders(cfg.root)]
    if not metas or not all("threshold" in meta for meta in metas):
        made = list(folds(cfg))
        models = [trained_model(fold) for fold in made]
        predictions = predict_folds(cfg, models, made, splits=["val"], kinds=["plain"])
        if processes().is_main_process:
            _calibrate(cfg, made, predictions)
        processes().wait_for_everyone()
    return load_models(cfg.root)


def compare_runs(folder: Path) -> pd.DataFrame:
    """One row per evaluated run in `folder`: settings that differ, and metrics with TTA.

    Metrics of other models than those in the run, trained again since, are "not evaluated".
    """
    rows = {}
    for path in sorted(folder.glob("*/metrics.json")):
        given, found = path.with_name("config.json"), read_json(path)
        settings = read_json(given) if given.is_file() else {}
        settings["labels"] = ", ".join(found["counts"]["images_per_class"])
        metrics = {name: format_interval(found["test"]["tta"][name]) for name in COMPARED_RUNS}
        if model_changed(path.parent, found):
            metrics = dict.fromkeys(COMPARED_RUNS, "not evaluated")
        rows[path.parent.name] = settings | metrics
    table = pd.DataFrame(list(rows.values()), index=list(rows), dtype=object)
    table = table.where(table.notna(), "default")
    differing = [c for c in table if c in COMPARED_RUNS or table[c].astype(str).nunique() > 1]
    return table[differing]


def _pooled(cfg: Config, tables: list[pd.DataFrame], folds: list[Fold]) -> pd.DataFrame:
    """The folds' tables in one; with cross-validation, `seed` and `fold` say which it was."""
    named = []
    for table, fold in zip(tables, folds, strict=True):
        number = fold.splits["fold"].iloc[fold.rows("test")[0]]
        named.append(table.assign(seed=fold.cfg.seed, fold=number) if cfg.folds else table)
    return pd.concat(named, ignore_index=True)


def _calibrate(cfg: Config, folds: list[Fold], predictions: pd.DataFrame) -> None:
    """Write into each model's config.json what validation gave, and what its images look like."""
    first = folds[0]
    learnt = fit_on_validation(predictions, first.class_names, first.class_shares, cfg.target)
    for fold in folds:
        train = fold.rows("train")
        facts = {"class_shares": fold.class_shares.tolist(), "train_images": len(train)}
        gauge = fit_gauge(fold.images[train])
        amend_model(fold.folder / "model", **learnt, **facts, gauge=gauge)

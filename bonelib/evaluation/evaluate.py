"""From predictions.csv to metrics.json: test results, comparisons, calibration, findings."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from bonelib.config import Config
from bonelib.evaluation import calibration
from bonelib.evaluation.bootstrap import difference, intervals
from bonelib.evaluation.findings import performance_findings
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import Arrays, select_rows, to_arrays
from bonelib.evaluation.screening import screen, screening_findings
from bonelib.evaluation.subgroups import catalog_results, count_classes, model_spread
from bonelib.messages import ConfigError, DataError, sort_findings
from bonelib.storage import read_json, text_digest, write_json


def _test_rows(predictions: pd.DataFrame, baselines) -> dict[str, pd.DataFrame]:
    """The test rows of "plain" and "tta" predictions and of each baseline, in the same order."""
    table = predictions
    if baselines is not None:
        others = baselines.rename(columns={"baseline": "tta"}).assign(split="test")
        table = pd.concat([predictions, others], ignore_index=True)
    tests = {name: select_rows(table, name, "test") for name in table["tta"].unique()}
    for name, rows in tests.items():
        if not rows["path"].equals(tests["plain"]["path"]):
            raise DataError(f"{name} and plain predictions are of different test images")
    return tests


def _distances(matrix: np.ndarray) -> dict[str, int]:
    """Predictions by their distance from the true class; {} for fewer than three classes."""
    counts = {"correct": int(matrix.trace())}
    for step in range(1, len(matrix)):
        counts[f"too healthy by {step}"] = int(matrix.trace(-step))
        counts[f"too ill by {step}"] = int(matrix.trace(step))
    return counts if len(matrix) > 2 else {}


def _compare(arrays: dict[str, Arrays], options: dict) -> dict:
    """The blocks about uncalibrated predictions, with their paired differences."""
    y, plain, groups = arrays["plain"]
    blocks = ("test", "confusion", "ordinal", "baselines", "differences")
    out: dict = {name: {} for name in blocks}
    for name, (_, probabilities, _) in arrays.items():
        results = intervals(y, probabilities, groups, **options)
        if name in ("plain", "tta"):
            matrix = confusion_matrix(y, probabilities.argmax(1), labels=range(plain.shape[1]))
            out["test"][name], out["confusion"][name] = results, matrix.tolist()
            out["ordinal"][name] = _distances(matrix)
        else:
            ours = difference(arrays["plain"], arrays[name], **options)
            out["baselines"][name], out["differences"][f"model_minus_{name}"] = results, ours
    if "tta" in arrays:
        gain = difference(arrays["tta"], arrays["plain"], **options)
        out["differences"]["tta_minus_plain"] = gain
    return out


def fit_on_validation(predictions, class_names, class_shares, target) -> dict:
    """What plain validation rows give: `temperature`, and `threshold` for the target accuracy.

    threshold: None if none reaches the target. `fitted_on`: images. class_shares: see `evaluate`.
    """
    y, probabilities, _ = to_arrays(select_rows(predictions, "plain", "val"), class_names)
    undone = calibration.undo_class_shares(probabilities, *class_shares)
    temperature = calibration.fit_temperature(undone, y)
    calibrated = calibration.apply_temperature(undone, temperature)
    threshold = calibration.choose_threshold(y, calibrated, target)
    return {"temperature": temperature, "threshold": threshold, "fitted_on": len(y)}


def describe_calibration(test: Arrays, class_names: tuple) -> dict:
    """How far test probabilities can be taken literally."""
    y, probabilities, groups = test
    scores = compute_metrics(y, probabilities, class_names)
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == y
    block = {name: scores[name] for name in ("ece", "log_loss", "brier")}
    return block | {"reliability": calibration.reliability(confidence, hits, groups)}


def _selective(test: Arrays, class_names: tuple, threshold: float | None) -> dict:
    """Coverage and accuracy on the test set if predictions below the threshold are withheld."""
    y, probabilities, groups = test
    block: dict = {"threshold": threshold, "curve": calibration.coverage_risk(y, probabilities)}
    rows = probabilities.max(1) >= (np.inf if threshold is None else threshold)
    block |= {"answered": int(rows.sum()), "coverage": float(rows.mean())}
    if rows.any():
        answered = y[rows], probabilities[rows], groups[rows]
        block["accuracy"] = intervals(*answered, class_names, resamples=300)["accuracy"]
    return block


def _calibrated(predictions, before: Arrays, class_names: tuple, class_shares, cfg: Config) -> dict:
    """The blocks on calibration, abstaining and screening, of test rows `before` calibration."""
    fitted = fit_on_validation(predictions, class_names, class_shares, cfg.target)
    val = to_arrays(select_rows(predictions, "plain", "val"), class_names)
    val, after = (
        (y, calibration.calibrate(p, fitted["temperature"], class_shares), groups)
        for y, p, groups in (val, before)
    )
    stages = (("before", before), ("after", after))
    stated = fitted | {stage: describe_calibration(arrays, class_names) for stage, arrays in stages}
    stated["priors"] = dict(zip(("learnt_with", "of_the_data"), class_shares.tolist(), strict=True))
    selective = _selective(after, class_names, fitted["threshold"])
    selective["target_accuracy"] = cfg.target
    people = np.array(cfg.prevalence or class_shares[1])
    screening = screen(val, after, class_names, people, cfg.sensitivity)
    blocks = {"calibration": {"plain": stated}, "selective": {"plain": selective}}
    return blocks | {"screening": screening}


def _at_prevalence(test: Arrays, prevalence: tuple, options: dict) -> dict:
    """Results if the classes had the proportions of `prevalence`, K numbers."""
    names, shares = options["class_names"], np.array(prevalence) / sum(prevalence)
    if len(shares) != len(names):
        expected = f"one for each class of the data, {', '.join(names)} (BONELIB_PREVALENCE)"
        raise ConfigError(f"prevalence has {len(shares)} shares: expected {expected}")
    named = dict(zip(names, shares.tolist(), strict=True))
    return {"prevalence": named, **intervals(*test, prevalence=shares, **options)}


def evaluate(predictions, class_names, cfg, baselines=None, catalog=None, shares=None) -> dict:
    """metrics.json's content: results on test rows; val rows give temperature and threshold.

    predictions: predictions.csv. cfg: Config with target, sensitivity, prevalence, resamples, seed.
    baselines: from `predict_baselines`. catalog: path and, where known, patient, T-score and
    metadata. shares: (2, K), of the classes as drawn in training and of the data, to be undone.
    """
    options: dict = {"class_names": class_names, "resamples": cfg.resamples, "seed": cfg.seed}
    shares = np.ones((2, len(class_names))) if shares is None else np.asarray(shares, float)
    tests = _test_rows(predictions, baselines)
    arrays = {name: to_arrays(rows, class_names) for name, rows in tests.items()}
    plain = tests["plain"]
    out: dict = {"model": "plain", "counts": count_classes(plain, class_names)}
    out |= _compare(arrays, options)
    out |= _calibrated(predictions, arrays["plain"], class_names, shares, cfg)
    if "seed" in predictions:
        out["spread"] = {"plain": model_spread(plain, class_names)}
    if cfg.prevalence:
        out["at_prevalence"] = _at_prevalence(arrays["plain"], cfg.prevalence, options)
    out |= {"subgroups": {}} if catalog is None else catalog_results(plain, catalog, options)
    screening = screening_findings(out["screening"], cfg.sensitivity)
    findings = sort_findings(performance_findings(out) + screening)
    return out | {"findings": [asdict(finding) for finding in findings]}


def count_test_reads(predictions: pd.DataFrame, model_digest: str, ledger: Path) -> int:
    """How many different models have read this test set, counted in `ledger` (JSON)."""
    test = predictions.loc[predictions["split"] == "test", ["path", "label"]]
    key = text_digest(test.drop_duplicates().sort_values("path").to_csv(index=False))
    reads = read_json(ledger) if ledger.exists() else {}
    reads[key] = sorted({*reads.get(key, []), model_digest})
    write_json(ledger, reads)
    return len(reads[key])


def failures(predictions: pd.DataFrame, class_names: tuple, count=9) -> dict[str, pd.DataFrame]:
    """Test rows worth a look, with `prediction` and `confidence`: confident errors, unsure ones."""
    rows = select_rows(predictions, "plain", "test")
    probabilities = to_arrays(rows, class_names)[1]
    predicted = np.array(class_names)[probabilities.argmax(1)]
    rows = rows.assign(prediction=predicted, confidence=probabilities.max(1))
    errors = rows[predicted != rows["label"]].nlargest(count, "confidence")
    return {"most confident errors": errors, "least sure": rows.nsmallest(count, "confidence")}

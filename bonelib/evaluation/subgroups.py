"""Results by part of the test set: classes, subgroups, and models of a cross-validation."""

import numpy as np
import pandas as pd

from bonelib.config import CLASSES
from bonelib.data.metadata import metadata_columns
from bonelib.data.tables import t_scores
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.metrics import compute_metrics, map_leaves, number_or_none
from bonelib.evaluation.predict import probability_columns, to_arrays

SUMMARY_METRICS = ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "quadratic_kappa"]
# Groups that a subgroup must have to be reported.
SUBGROUP_MINIMUM = 10
# Where the WHO separates its three classes.
WHO_CUTS = np.array([-1.0, -2.5])


def count_classes(test: pd.DataFrame, class_names: tuple) -> dict:
    """How many images and groups the test rows hold, in all and per class."""
    by_class = test.groupby("label")[["path", "group"]].nunique().reindex(class_names, fill_value=0)
    counts: dict = {"images": test["path"].nunique(), "groups": test["group"].nunique()}
    per_class = {"images_per_class": by_class["path"], "groups_per_class": by_class["group"]}
    return counts | {name: column.to_dict() for name, column in per_class.items()}


def _categories(values: pd.Series) -> pd.Series:
    """The values of a metadata column as texts; more than five different numbers as halves."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 5:
        middle = values.median()
        halves = np.where(values > middle, f"above {middle:g}", f"up to {middle:g}")
        values = values.where(values.isna(), halves)
    return values.astype(object).where(values.notna(), "not known").astype(str)


def _results(test: pd.DataFrame, metrics: list[str], options: dict) -> dict:
    """How many images and groups the test rows hold, and their metrics with intervals."""
    results = intervals(*to_arrays(test, options["class_names"]), **options)
    counts = {"images": test["path"].nunique(), "groups": test["group"].nunique()}
    return counts | {metric: results[metric] for metric in metrics}


def catalog_results(test: pd.DataFrame, catalog: pd.DataFrame, options: dict) -> dict:
    """`subgroups`, and where they are known `patients` and `t_score`, of test rows.

    options: class_names, and those of the bootstrap.
    """
    rows = catalog.drop_duplicates("path").set_index("path").reindex(test["path"])
    known = rows.reset_index(drop=True)
    out: dict = {"subgroups": _subgroup_results(test, known[metadata_columns(catalog)[0]], options)}
    patients = known.get("patient", pd.Series("", known.index))
    patients = patients.where(patients != "")
    if patients.notna().any():
        out["patients"] = _patient_results(test.assign(patient=patients), options)
    scores = t_scores(known)
    if scores is not None and scores.notna().any() and {*options["class_names"]} <= {*CLASSES}:
        out["t_score"] = _t_score_results(test, scores.to_numpy()[:, None], options)
    return out


def _subgroup_results(test: pd.DataFrame, known: pd.DataFrame, options: dict) -> dict:
    """Results by each metadata column, for subgroups of SUBGROUP_MINIMUM groups or more."""
    out = {}
    for column in known:
        parts = test.groupby(_categories(known[column]))
        large = {name: rows for name, rows in parts if rows["group"].nunique() >= SUBGROUP_MINIMUM}
        if len(large) > 1:
            out[column] = {n: _results(rows, SUMMARY_METRICS, options) for n, rows in large.items()}
    return out


def _t_score_results(test: pd.DataFrame, scores: np.ndarray, options: dict) -> list[dict]:
    """Accuracy by distance of the T-scores (N, 1) from the nearest cut-off, one row per bin.

    Osteopenia is at most 0.75 from one; below 0.3 a second scan may change the class.
    """
    distances = np.abs(scores - WHO_CUTS).min(1).round(6)
    names = ["below 0.3", "0.3 to 1", "1 or more"]
    bins = pd.cut(distances, [0, 0.3, 1, np.inf], right=False, labels=names)
    parts = test.groupby(bins, observed=True)
    return [{"distance": name} | _results(rows, ["accuracy"], options) for name, rows in parts]


def _patient_results(test: pd.DataFrame, options: dict) -> dict:
    """The main metrics by `patient`, of probabilities averaged over the patient's images.

    A patient has the class of most images, of equally many the worse one.
    """
    names = options["class_names"]
    known = test.dropna(subset="patient")
    by_patient = known.groupby(["patient", "seed"] if "seed" in test else "patient")
    rows = by_patient[["path", "group"]].first().join(by_patient[probability_columns(names)].mean())
    votes = by_patient["label"].value_counts().unstack(fill_value=0)
    rows["label"] = votes.reindex(columns=names[::-1], fill_value=0).idxmax(axis=1)
    results = _results(rows, SUMMARY_METRICS, options) | {"images": known["path"].nunique()}
    labels = known.groupby("patient")["label"].nunique()
    return results | {"patients": len(labels), "several_labels": int((labels > 1).sum())}


def model_spread(test: pd.DataFrame, class_names: tuple) -> dict:
    """Mean and standard deviations of metrics over the models of a cross-validation."""
    models = {}
    for key, rows in test.groupby(["seed", "fold"]):
        models[key] = compute_metrics(*to_arrays(rows, class_names)[:2], class_names)
    table = pd.DataFrame(models).loc[SUMMARY_METRICS].T.astype(float)
    by_seed = table.groupby(level=0)
    spread = {"mean": table.mean(), "over_folds": by_seed.std().mean()}
    spread["over_seeds"] = by_seed.mean().std()
    return map_leaves(lambda _, number: number_or_none(number), pd.DataFrame(spread).T.to_dict())

"""Results by part of the test set: classes, subgroups, and models of a cross-validation."""

import numpy as np
import pandas as pd

from bonelib.data.metadata import metadata_columns
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.metrics import compute_metrics, map_leaves, number_or_none
from bonelib.evaluation.predict import to_arrays

SUMMARY_METRICS = ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "quadratic_kappa"]
# Groups that a subgroup must have to be reported.
SUBGROUP_MINIMUM = 10


def count_classes(test: pd.DataFrame, class_names: tuple) -> dict:
    """How many images and groups the test rows hold, in all and per class."""
    by_class = test.groupby("label")[["path", "group"]].nunique().reindex(class_names, fill_value=0)
    return {
        "images": test["path"].nunique(),
        "groups": test["group"].nunique(),
        "images_per_class": by_class["path"].to_dict(),
        "groups_per_class": by_class["group"].to_dict(),
    }


def _categories(values: pd.Series) -> pd.Series:
    """The values of a metadata column as texts; more than five different numbers as halves."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 5:
        middle = values.median()
        names = [f"up to {middle:g}", f"above {middle:g}"]
        values = pd.cut(values, [-np.inf, middle, np.inf], labels=names)
    return values.astype(object).where(values.notna(), "not known").astype(str)


def subgroup_results(test: pd.DataFrame, catalog: pd.DataFrame, options: dict) -> dict:
    """Results by each metadata column, for subgroups of SUBGROUP_MINIMUM groups or more."""
    known = test[["path"]].merge(catalog.drop_duplicates("path"), "left", "path")
    out = {}
    for column in metadata_columns(catalog)[0]:
        blocks = {}
        for name, rows in test.groupby(_categories(known[column])):
            groups = rows["group"].nunique()
            if groups >= SUBGROUP_MINIMUM:
                results = intervals(*to_arrays(rows, options["class_names"]), **options)
                summary = {metric: results[metric] for metric in SUMMARY_METRICS}
                blocks[name] = {"images": len(rows), "groups": groups, **summary}
        if len(blocks) > 1:
            out[column] = blocks
    return out


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

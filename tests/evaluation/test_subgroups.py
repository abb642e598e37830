import warnings

import numpy as np
import pandas as pd
import pytest

from bonelib.config import CLASSES
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.predict import probability_columns, select_rows, to_arrays
from tests.builders import evaluate, predictions_table, probability_table


def subgroups(table, names=CLASSES, **columns):
    """The subgroups of the test set by metadata columns, functions of an image's number."""
    paths = table["path"].drop_duplicates().to_numpy()
    values = {name: [value(i) for i in range(len(paths))] for name, value in columns.items()}
    metadata = pd.DataFrame({"path": paths, **values}).sample(frac=1, random_state=0)
    return metadata, evaluate(table, names, catalog=metadata, resamples=30)["subgroups"]


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis")])
def test_results_of_a_subgroup_are_those_of_its_rows(names):
    table = predictions_table(class_names=names)
    metadata, found = subgroups(table, names, site=lambda i: ("north", "south")[i % 2])
    test = select_rows(table, "plain", "test").merge(metadata, on="path")
    assert set(found["site"]) == {"north", "south"}
    for name, block in found["site"].items():
        rows = test[test["site"] == name]
        assert (block["images"], block["groups"]) == (len(rows), rows["group"].nunique())
        expected = intervals(*to_arrays(rows, names), names, resamples=30)
        assert block["auroc"] == expected["auroc"]


def test_subgroups_with_too_few_patients_and_columns_without_two_are_left_out():
    table = predictions_table()
    last = table["path"].nunique() - 1
    _, found = subgroups(
        table, site=lambda i: "east" if i == last else ("north", "south")[i % 2], same=lambda i: 1
    )
    assert set(found) == {"site"} and set(found["site"]) == {"north", "south"}


def test_numbers_are_cut_at_their_median_and_missing_values_are_a_subgroup():
    table = predictions_table(sizes=(3, 30, 90))
    _, found = subgroups(table, age=lambda i: float(i) if i % 3 else np.nan)
    assert len(found["age"]) == 3 and "not known" in found["age"]
    images = [block["images"] for block in found["age"].values()]
    assert sum(images) == len(select_rows(table, "plain", "test"))


def test_up_to_five_different_numbers_are_categories():
    table = predictions_table(sizes=(3, 30, 150))
    _, found = subgroups(table, grade=lambda i: i % 5, score=lambda i: i % 6)
    assert set(found["grade"]) == set("01234")
    assert len(found["score"]) == 2


def test_ten_patients_are_enough_for_a_subgroup_and_nine_are_not():
    table = predictions_table(sizes=(3, 30, 60))
    groups = select_rows(table, "plain", "test")["group"].unique()
    site = dict.fromkeys(groups, "big") | dict.fromkeys(groups[:10], "ten")
    site |= dict.fromkeys(groups[10:19], "nine")
    metadata = table[["path"]].assign(site=table["group"].map(site))
    found = evaluate(table, CLASSES, catalog=metadata, resamples=30)["subgroups"]
    assert set(found["site"]) == {"big", "ten"}


def catalog_of(table, **columns):
    """A catalog of the images of predictions, with columns for them, in another order."""
    paths = table["path"].drop_duplicates()
    return pd.DataFrame({"path": paths, **columns}).sample(frac=1, random_state=0)


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_patients_are_predicted_by_the_mean_of_their_images(names):
    table = predictions_table(class_names=names)
    catalog = table[["path", "group"]].drop_duplicates().rename(columns={"group": "patient"})
    found = evaluate(table, names, catalog=catalog, resamples=30)["patients"]
    test = select_rows(table, "plain", "test")
    means = test.groupby("group")[probability_columns(names)].mean()
    labels = test.groupby("group")["label"].first()
    rows = means.assign(label=labels, group=means.index)
    expected = intervals(*to_arrays(rows, names), names, resamples=30)
    assert found["accuracy"] == expected["accuracy"] and found["auroc"] == expected["auroc"]
    assert (found["quadratic_kappa"]["value"] is None) is (len(names) == 2)
    assert found["patients"] == found["groups"] == len(means)
    assert (found["images"], found["several_labels"]) == (len(test), 0)


def test_patient_has_the_class_of_most_images_or_the_worse_one_and_several_are_reported():
    # patient, class, predicted class
    images = [
        *[("a", 0, 0), ("a", 2, 0), ("a", 0, 2)],
        *[("b", 0, 2), ("b", 2, 2), ("c", 1, 1), ("", 0, 1)],
    ]
    patients, y, predicted = zip(*images, strict=True)
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(7)], "tta": "plain"})
    rows = rows.assign(label=[CLASSES[c] for c in y], group=rows["path"])
    rows = rows.join(probability_table(0.7 * np.eye(3)[list(predicted)] + 0.1))
    table = pd.concat([rows.assign(split=split) for split in ("val", "test")])
    catalog = rows[["path"]].assign(patient=patients)
    results = evaluate(table, CLASSES, catalog=catalog, resamples=30)
    found = results["patients"]
    assert (found["patients"], found["images"], found["several_labels"]) == (3, 6, 2)
    # a is Normal by two of three images, b is Osteoporosis by one of two
    assert found["accuracy"]["value"] == 1 > results["test"]["plain"]["accuracy"]["value"]
    (level,) = [f["level"] for f in results["findings"] if "several classes: 2" in f["text"]]
    assert level == "note"


def test_patient_of_several_seeds_is_predicted_once_per_seed():
    table = predictions_table()
    seeds = pd.concat([table.assign(seed=seed, fold=0) for seed in (0, 1)], ignore_index=True)
    catalog = table[["path", "group"]].drop_duplicates().rename(columns={"group": "patient"})
    one, two = (evaluate(rows, CLASSES, catalog=catalog, resamples=30) for rows in (table, seeds))
    assert one["patients"]["patients"] == two["patients"]["patients"]
    value = one["patients"]["accuracy"]["value"]
    assert two["patients"]["accuracy"]["value"] == pytest.approx(value)


@pytest.mark.parametrize("patient", ["", np.nan, None])
def test_unknown_patients_and_t_scores_are_left_out(patient):
    table = predictions_table()
    catalog = catalog_of(table, patient=patient, t_score=np.nan)
    results = evaluate(table, CLASSES, catalog=catalog, resamples=30)
    assert "patients" not in results and "t_score" not in results
    assert "patients" not in evaluate(table, CLASSES, resamples=30)


@pytest.mark.parametrize("column", ["t_score", "T-Score (spine)", "TSCORE", "lowest T score"])
@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis")])
def test_accuracy_by_distance_of_the_t_score_from_the_nearest_limit(names, column):
    table = predictions_table(sizes=(3, 30, 90), class_names=names)
    scores = np.resize([-1.3, -1.29, -0.7, -2.5, -3.51, 0.0, np.nan], table["path"].nunique())
    catalog = catalog_of(table, **{column: scores})
    found = evaluate(table, names, catalog=catalog, resamples=30)["t_score"]
    assert [row["distance"] for row in found] == ["below 0.3", "0.3 to 1", "1 or more"]
    test = select_rows(table, "plain", "test").merge(catalog, on="path")
    values = [(-1.29, -2.5), (-1.3, -0.7), (-3.51, 0.0)]
    for row, members in zip(found, values, strict=True):
        rows = test[test[column].isin(members)]
        assert (row["images"], row["groups"]) == (len(rows), rows["group"].nunique())
        expected = intervals(*to_arrays(rows, names), names, resamples=30)
        assert row["accuracy"] == expected["accuracy"]


@pytest.mark.parametrize("names", [tuple("abcde"), ("Normal", "Fracture")])
def test_t_scores_say_nothing_about_other_classes(names):
    table = predictions_table(class_names=names)
    assert "t_score" not in evaluate(
        table, names, catalog=catalog_of(table, t_score=-1.0), resamples=30
    )


def test_only_one_column_of_numbers_is_the_t_score():
    table = predictions_table()
    several = {"t_score spine": -1.0, "t_score hip": -2.0}
    for columns in (several, {"t_score": "low"}, {"latest_score": 3.0}, {"first score": 2.0}):
        catalog = catalog_of(table, **columns)
        assert "t_score" not in evaluate(table, CLASSES, catalog=catalog, resamples=30)


def test_few_images_of_a_bin_or_a_patient_give_a_value_without_an_interval_and_no_warning():
    table = predictions_table()
    scores = [-1.0] + [0.5] * (table["path"].nunique() - 1)
    test = table["path"][table["split"] == "test"].unique()
    catalog = pd.DataFrame({"path": [test[0], *test[1:]], "t_score": scores[: len(test)]})
    catalog["patient"] = ["a"] + [""] * (len(test) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(table, CLASSES, catalog=catalog, resamples=30)
    for leaf in (found["t_score"][0]["accuracy"], found["patients"]["accuracy"]):
        assert leaf["value"] in (0.0, 1.0) and leaf["low"] is None

import numpy as np
import pandas as pd
import pytest

from bonelib.config import CLASSES
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.evaluate import evaluate
from bonelib.evaluation.predict import select_rows, to_arrays
from tests.builders import predictions_table


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

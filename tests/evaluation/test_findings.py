import numpy as np
import pandas as pd
import pytest

from bonelib.config import CLASSES
from bonelib.evaluation.findings import (
    BASELINE_NAMES,
    format_interval,
    leak_findings,
    performance_findings,
)
from tests.builders import baseline_table, evaluate, predictions_table


def results(auroc, accuracy=0.7, difference=None, patients=50, images=400, **baselines):
    """The parts of metrics.json that findings come from; results are (low, high)."""

    def leaf(low, high):
        value = 0.5 if low is None else (low + high) / 2
        return {"value": value, "low": low, "high": high}

    test = {"auroc": leaf(*auroc), "accuracy": leaf(accuracy, accuracy)}
    metrics = {"model": "plain", "test": {"plain": test}, "differences": {}, "baselines": {}}
    metrics["counts"] = {
        "images": images,
        "groups": patients + 60,
        "groups_per_class": {"a": patients, "b": 60},
    }
    for name, found in baselines.items():
        metrics["baselines"][name] = {"auroc": leaf(*found)}
        gap = leaf(*(difference or (0.0, 0.0)))
        metrics["differences"][f"model_minus_{name}"] = {"auroc": gap, "macro_f1": gap}
    return metrics


def levels(metrics, word):
    """The levels of the findings that mention a word."""
    return [f.level for f in performance_findings(metrics) if word in f.text]


def test_interval_is_written_with_two_decimals_and_what_is_missing_is_said():
    leaf = {"value": 0.714, "low": 0.62, "high": 0.789}
    assert format_interval(leaf) == "0.71 (0.62 to 0.79)"
    assert format_interval(leaf, signed=True) == "+0.71 (+0.62 to +0.79)"
    zero = {"value": -0.001, "low": -0.1, "high": 0.1}
    assert format_interval(zero, signed=True) == "+0.00 (-0.10 to +0.10)"
    assert format_interval({"value": 0.5, "low": None, "high": None}) == "0.50 (no interval)"
    assert format_interval({"value": 0.5, "low": 0.4, "high": None}) == "0.50 (no interval)"
    nothing = {"value": None, "low": None, "high": None}
    assert format_interval(nothing) == format_interval(None) == "not defined"


@pytest.mark.parametrize(
    ("auroc", "level"),
    [
        ((0.51, 0.9), "note"),
        ((0.3, 0.7), "warning"),
        ((0.4, 0.61), "warning"),
        ((0.45, 0.55), "alarm"),
        ((0.45, 0.64), "alarm"),
        ((0.3, 0.45), "alarm"),
        ((None, None), "warning"),
    ],
)
def test_model_that_learnt_nothing_is_an_alarm_and_an_undecided_one_a_warning(auroc, level):
    assert levels(results(auroc), "chance") == [level]


@pytest.mark.parametrize(
    ("difference", "patients", "level", "word"),
    [
        ((0.01, 0.4), 50, "note", "better"),
        ((-0.4, -0.01), 50, "warning", "worse"),
        ((-0.05, 0.05), 50, "note", "not distinguishable"),
        ((-0.2, 0.2), 50, "warning", "too few"),
        ((0.3, 0.4), 4, "warning", "too few"),
        ((-0.4, -0.3), 4, "warning", "too few"),
    ],
)
def test_comparison_with_a_baseline_follows_the_paired_interval(difference, patients, level, word):
    metrics = results((0.6, 0.8), difference=difference, patients=patients, intensity=(0.5, 0.6))
    (finding,) = [f for f in performance_findings(metrics) if BASELINE_NAMES["intensity"] in f.text]
    assert finding.level == level and word in finding.text
    assert format_interval(metrics["differences"]["model_minus_intensity"]["auroc"], True) in (
        finding.text
    )


def test_comparison_without_an_interval_is_undecided():
    metrics = results((0.6, 0.8), intensity=(0.5, 0.6))
    nothing = {"value": 0.1, "low": None, "high": None}
    metrics["differences"]["model_minus_intensity"] = {"auroc": nothing, "macro_f1": nothing}
    assert levels(metrics, BASELINE_NAMES["intensity"]) == ["warning"]


def test_whether_fine_tuning_was_worth_it_is_one_sentence():
    expected = {"better than": (0.01, 0.4), "worse than": (-0.4, -0.01)}
    expected["not distinguishable from"] = (-0.05, 0.05)
    for words, difference in expected.items():
        metrics = results((0.6, 0.8), difference=difference, frozen_features=(0.5, 0.6))
        (text,) = [f.text for f in performance_findings(metrics) if "Fine-tuning" in f.text]
        gap = metrics["differences"]["model_minus_frozen_features"]["auroc"]
        assert text.startswith(f"Fine-tuning is {words} frozen features")
        assert f"AUROC difference {format_interval(gap, signed=True)}" in text


def test_what_two_classes_leave_out_is_noted_with_the_reason():
    metrics = results((0.6, 0.8))
    assert levels(metrics, "kappa") == ["note"]
    metrics["counts"]["groups_per_class"]["c"] = 60
    assert levels(metrics, "kappa") == []


def test_majority_class_is_no_rival():
    assert levels(results((0.6, 0.8), majority=(0.5, 0.5)), "majority") == []


@pytest.mark.parametrize(
    ("accuracy", "images", "level"), [(0.9, 200, ["warning"]), (0.9, 400, []), (0.85, 200, [])]
)
def test_accuracy_too_good_for_a_small_test_set_is_a_warning(accuracy, images, level):
    assert levels(results((0.6, 0.8), accuracy=accuracy, images=images), "Accuracy") == level


@pytest.mark.parametrize(("patients", "level"), [(9, ["warning"]), (10, [])])
def test_few_patients_of_a_class_are_a_warning_that_names_the_class(patients, level):
    assert levels(results((0.6, 0.8), patients=patients), f"a {patients}") == level


def test_absent_metadata_is_noted():
    assert levels(results((0.6, 0.8)), "metadata") == ["note"]
    assert levels(results((0.6, 0.8), metadata=(0.5, 0.6)), "No metadata") == []


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_findings_of_real_results_are_sorted_by_level_for_any_number_of_classes(names):
    table = predictions_table(2, (9, 60, 150), skill=3.0, class_names=names)
    other = baseline_table(table, 0.0, class_names=names)
    found = evaluate(table, names, other, resamples=100)["findings"]
    order = ["alarm", "warning", "note"]
    assert [f["level"] for f in found] == sorted((f["level"] for f in found), key=order.index)
    (finding,) = [f for f in found if BASELINE_NAMES["intensity"] in f["text"]]
    assert finding["level"] == "note" and "better" in finding["text"]


@pytest.fixture
def splits():
    """Twelve rows of train, val and test, each a group of its own."""
    paths = [f"{i}.png" for i in range(12)]
    names = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    return pd.DataFrame({"path": paths, "group": [f"g{p}" for p in paths], "split": names})


@pytest.mark.parametrize("side", [0, 6], ids=["train", "val"])
@pytest.mark.parametrize("column", ["group", "sha256", "patient", "_image"])
def test_what_test_shares_with_another_split_is_a_leak(splits, column, side):
    catalog = splits[["path"]].assign(patient="", sha256=[f"{i:064x}" for i in range(12)])
    assert leak_findings(splits, catalog) == []
    catalog[column] = [f"own {i}" for i in range(12)]
    catalog.loc[[side, 11], column] = "shared"
    (finding,) = leak_findings(splits, catalog)
    assert finding.level == "alarm" and "1 " in finding.text


def test_group_of_the_splits_in_two_of_them_is_a_leak_without_a_catalog(splits):
    splits.loc[[0, 11], "group"] = "shared"
    assert [finding.level for finding in leak_findings(splits)] == ["alarm"]
    assert len(leak_findings(splits, splits[["path", "group"]])) == 1


def test_sharing_within_one_split_or_between_train_and_val_is_no_leak(splits):
    splits.loc[[0, 1], "group"], splits.loc[[10, 11], "group"] = "first", "second"
    catalog = splits[["path"]].assign(sha256=["same"] * 9 + ["a", "b", "c"])
    assert leak_findings(splits, catalog) == []


def test_unknown_patients_are_not_one_patient(splits):
    for unknown in ("", np.nan, None):
        assert leak_findings(splits, splits[["path"]].assign(patient=unknown)) == []


def test_metadata_of_any_name_is_no_leak(splits):
    catalog = splits[["path"]].assign(image=1, cluster=2, split_group=3, audit_cluster=4)
    assert leak_findings(splits, catalog) == []


def test_cluster_of_the_audit_in_two_splits_is_a_leak_whatever_the_groups_say(splits):
    paths = splits["path"].tolist()
    harmless = [{"paths": paths[:2]}, {"paths": paths[9:11]}]
    assert leak_findings(splits, audit={"clusters": harmless}) == []
    clusters = [*harmless, {"paths": [paths[3], paths[11]]}]
    (finding,) = leak_findings(splits, audit={"clusters": clusters})
    assert finding.level == "alarm"

"""What predicts the class without being bone is measured, and reported only beyond chance."""

import numpy as np
import pandas as pd
import pytest

from bonelib.audit import shortcuts
from bonelib.audit.shortcuts import find_shortcuts, measure_suspects
from bonelib.config import CLASSES


def own_groups(count: int) -> pd.Series:
    """Each image in a group of its own."""
    return pd.Series([f"g{i}" for i in range(count)])


@pytest.mark.parametrize("class_count", [2, 3, 5])
def test_age_that_predicts_the_class_is_reported_and_noise_is_not(class_count):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(class_count), 60)
    ages = 40 + 15 * y + rng.normal(0, 6, len(y))
    suspects = pd.DataFrame({"age": ages, "width": rng.normal(size=len(y))})
    class_names = tuple("ABCDE"[:class_count])
    age, width = find_shortcuts(suspects, y, own_groups(len(y)), class_names)
    assert (age["name"], width["name"]) == ("age", "width")
    assert 0.8 < age["low"] < age["auroc"] <= age["high"] and "AUROC" in age["warning"]
    assert width["low"] < 0.55 and width["warning"] is None


def test_a_class_in_the_middle_of_the_range_is_predicted():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    values = np.where(y, rng.normal(0, 0.3, 120), rng.choice([-2, 2], 120))
    (found,) = find_shortcuts(pd.DataFrame({"x": values}), y, own_groups(120), ("A", "B"))
    assert found["auroc"] > 0.95 and found["warning"]


def test_a_suspect_that_only_names_the_group_is_no_shortcut():
    y = np.repeat([0, 1, 2], 40)
    groups = pd.Series(np.arange(120) // 4).astype(str)
    suspects = pd.DataFrame({"scanner": groups})
    (found,) = find_shortcuts(suspects, y, groups, CLASSES)
    assert found["warning"] is None


def test_a_suspect_without_differences_is_at_chance():
    y = np.repeat([0, 1, 2], 20)
    constant = pd.DataFrame({"width": [7.0] * 60})
    (found,) = find_shortcuts(constant, y, own_groups(60), CLASSES)
    chance = {"name": "width", "auroc": 0.5, "low": 0.5, "high": 0.5, "warning": None}
    assert found == chance


def test_nothing_is_measured_without_two_groups_of_each_class():
    y = np.repeat([0, 1, 2], 20)
    suspects = pd.DataFrame({"width": np.arange(60.0)})
    one_patient = own_groups(60).where(y > 0, "one patient")
    assert find_shortcuts(suspects, y, one_patient, CLASSES) == []
    assert find_shortcuts(suspects[:40], y[:40], own_groups(40), CLASSES) == []
    assert find_shortcuts(suspects[:0], y[:0], own_groups(0), ()) == []


def test_of_a_large_set_a_sample_is_measured(monkeypatch):
    counted, intervals = [], shortcuts.intervals
    monkeypatch.setattr(shortcuts, "MAX_IMAGES", 90)

    def count(y, *args):
        counted.append(len(y))
        return intervals(y, *args)

    monkeypatch.setattr(shortcuts, "intervals", count)
    y = np.repeat([0, 1, 2], 60)
    suspects = pd.DataFrame({"file format": np.repeat(["PNG", "JPEG", "TIFF"], 60)})
    (found,) = find_shortcuts(suspects, y, own_groups(180), CLASSES)
    assert counted == [90] and found["auroc"] == 1
    assert found["warning"].startswith("File format")


def test_what_is_not_bone_is_measured_without_the_letterbox():
    thumbnails = np.zeros((2, 100, 100), np.uint8)
    # a wide image, then one that is black on both sides
    thumbnails[0, 25:75] = 100 + 99 * (np.indices((50, 100)).sum(0) % 2)
    thumbnails[1, :, 20:80] = np.random.default_rng(0).integers(90, 250, (100, 60))
    rows = pd.DataFrame({"width": [200, 100], "height": [100, 100], "format": ["PNG", "JPEG"]})
    rows = rows.assign(bytes=[np.e, 1.0], coloured=[0.0, 0.1], given_split="train")
    rows = rows.assign(age=[50, 60], t_score=[-1, -2])
    measured = measure_suspects(rows, thumbnails)
    own = ["file format", "width", "height", "file size", "mean brightness", "empty border"]
    assert list(measured) == [*own, "brightness at the border", "colour overlay", "age"]
    assert measured["mean brightness"][0] == pytest.approx(149.5)
    assert measured["empty border"].tolist() == pytest.approx([0, 0.4])
    assert measured["brightness at the border"][0] == pytest.approx(149.5)
    assert measured["file size"].tolist() == [1, 0]
    assert measured["colour overlay"].tolist() == [0, 0.1]

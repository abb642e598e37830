"""The split that the data came with is reported, or used without what leaks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from bonelib import pipeline
from bonelib.audit.audit import audit
from bonelib.config import CLASSES, Config
from bonelib.data.catalog import has_issue, load_catalog, usable
from bonelib.messages import DataError
from bonelib.split import split
from tests.builders import blocks, catalog_of, image_folder


def given_folder(folder: Path) -> Path:
    """Of each class: two images of 6 patients in train, of 2 in valid, of 2 in test.

    Two test images leak: one by a copy in train, one by its patient.
    """
    seed = 0
    for name in CLASSES:
        for given, count in (("train", 6), ("valid", 2), ("test", 2)):
            (folder / given / name).mkdir(parents=True)
            for i in range(2 * count):
                path = folder / given / name / f"{given}{name[:-2]}{i // 2:03d}_{i}.png"
                Image.fromarray(blocks(seed)).save(path)
                seed += 1
    name = CLASSES[0]
    shutil.copy(folder / "train" / name / f"train{name[:-2]}000_0.png", folder / "test" / name)
    shutil.move(
        folder / "test" / name / "testNorm000_0.png", folder / "test" / name / "trainNorm001_9.png"
    )
    return folder


def settings(folder: Path, **given: object) -> Config:
    regex = r"^([a-zA-Z]+\d+)_"
    places = {"data": str(folder / "data"), "cache": str(folder / "cache")}
    return Config.load({}, **places, run=str(folder / "run"), patient_regex=regex, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `data`; tests must not change it."""
    folder = tmp_path_factory.mktemp("given")
    given_folder(folder / "data")
    return folder


def test_ignored_split_is_counted_with_what_it_leaks(folder):
    cfg = settings(folder)
    table, results = audit(load_catalog(cfg), cfg)
    given = results["given_split"]
    assert given["setting"] == "ignore"
    assert given["counts"] == {"train": 36, "test": 13, "val": 12}
    leaking = ["test/Normal/trainNorm000_0.png", "test/Normal/trainNorm001_9.png"]
    assert sorted(given["leaking"]) == leaking
    (finding,) = [f for f in results["findings"] if "test 13" in f["text"]]
    assert finding["level"] == "warning" and "2 of the test images" in finding["text"]
    assert not has_issue(table, "leak").any()


def test_used_test_set_is_the_test_set_without_what_leaks(folder):
    cfg = settings(folder, given_split="use")
    table, results = audit(load_catalog(cfg), cfg)
    assert sorted(table["path"][has_issue(table, "leak")]) == results["given_split"]["leaking"]
    splits = split(table, cfg).merge(table[["path", "given_split"]], on="path")
    assert set(splits["given_split"][splits["split"] == "test"]) == {"test"}
    assert set(splits["given_split"][splits["split"] != "test"]) == {"train", "val"}
    assert (splits["split"] == "test").sum() == 13 - 2
    assert splits.groupby("group")["split"].nunique().max() == 1
    assert set(splits["split"]) == {"train", "val", "test"}
    # the copy of a test image is kept where it can be used
    assert "train/Normal/trainNorm000_0.png" in splits["path"].tolist()
    for seed in range(3):
        other = split(table, settings(folder, given_split="use", seed=seed))
        test = other["path"][other["split"] == "test"].tolist()
        assert test == splits["path"][splits["split"] == "test"].tolist()


def test_given_test_set_that_leaks_completely_is_an_error_and_no_other_split(tmp_path):
    given_folder(tmp_path / "data")
    for name in CLASSES:
        for path in list((tmp_path / "data" / "test" / name).iterdir()):
            shutil.copy(path, tmp_path / "data" / "train" / name)
    cfg = settings(tmp_path, given_split="use")
    table, results = audit(load_catalog(cfg), cfg)
    assert len(results["given_split"]["leaking"]) == results["given_split"]["counts"]["test"]
    with pytest.raises(DataError, match="test has no image"):
        split(table, cfg)


def test_audit_made_for_another_use_of_the_split_is_made_again(folder):
    pipeline.audited(settings(folder))
    table = pipeline.audited(settings(folder, given_split="use")).table
    assert has_issue(table, "leak").sum() == 2


def test_data_without_a_given_split_have_no_finding_and_cannot_use_one():
    catalog = catalog_of(4)
    results = audit(catalog, Config())[1]
    assert results["given_split"] == {"setting": "ignore", "counts": {}, "leaking": []}
    assert results["findings"] == []
    with pytest.raises(DataError, match="BONELIB_GIVEN_SPLIT"):
        audit(catalog, Config(given_split="use"))


def test_split_without_leaks_is_a_note():
    splits = ["train", "val", "test", ""]
    results = audit(catalog_of(4, given_split=splits), Config())[1]
    ((level, text),) = [(f["level"], f["text"]) for f in results["findings"]]
    assert level == "note" and "0 of the test images" in text
    assert pd.Series(results["given_split"]["counts"]).sum() == 4


def test_findings_and_issues_of_the_catalog_reach_the_audit(tmp_path):
    image_folder(tmp_path / "data", *(f"{name}/{i}.png" for name in CLASSES for i in range(2)))
    cfg = Config(data=str(tmp_path / "data"), cache=str(tmp_path / "cache"))
    catalog = load_catalog(cfg)
    catalog.table.loc[0, "issues"] = "t_score"
    table, results = audit(catalog, cfg)
    assert has_issue(table, "t_score").tolist()[0] and usable(table)[0]
    assert results["defects"]["t_score"] == [table["path"][0]]

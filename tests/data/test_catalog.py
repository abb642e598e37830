"""Folders and tables become one table with one row per file, or an error that says what to do."""

from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from bonelib.config import CLASSES, Config
from bonelib.data.catalog import CATALOG_COLUMNS, has_issue, load_catalog, locate, usable
from bonelib.data.folders import class_of
from bonelib.messages import DataError
from tests.builders import dicom_file, image_folder

ONE_EACH = [f"{name}/a.png" for name in CLASSES]


def settings(data: Path, **given) -> Config:
    return Config(data=str(data), cache=str(data.parent / "cache"), **given)


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("normal", 0),
        ("0 Normal", 0),
        ("NORMAL_", 0),
        ("Healthy", 0),
        ("nomal", 0),
        ("osteophenia", 1),
        ("1. Osteopenia", 1),
        ("Osteopenic patients", 1),
        ("OSTEOPENIA", 1),
        ("osteoporosis", 2),
        ("Osteoperosis", 2),
        ("2-osteoporotic", 2),
        ("abnormal", None),
        ("non-osteoporosis", None),
        ("osteopenia or osteoporosis", None),
        ("osteopetrosis", None),
        ("images", None),
        ("0", None),
    ],
)
def test_names_are_understood_or_unclear(folder, label):
    assert class_of(folder, CLASSES) == (None if label is None else CLASSES[label])


def test_other_class_names_are_understood_as_they_are_written():
    grades = ("grade 0", "grade 1")
    assert class_of("Grade 1", grades) == "grade 1"
    assert class_of("grade 2", grades) is None and class_of("healthy", grades) is None
    assert class_of("abnormal", ("normal", "abnormal")) == "abnormal"
    assert class_of("healthy", ("Normal", "ill")) == "Normal"


def test_mapping_decides_before_the_name():
    assert class_of("Normal", CLASSES, {"Normal": CLASSES[2]}) == CLASSES[2]
    assert class_of("Normal", CLASSES, {"Normal": ""}) == ""


def test_unclear_folders_are_an_error_that_names_them_and_the_setting(tmp_path):
    data = image_folder(tmp_path / "data", "normal/a.png", "thin/b.png", "thin/c.png", "x/d.png")
    with pytest.raises(DataError, match=r"'thin' \(2 images\), 'x' \(1 images\).*BONELIB_CLASSES"):
        load_catalog(settings(data))


def test_folders_can_be_mapped_and_left_out(tmp_path):
    paths = ("normal/a.png", "thin/b.png", "os/c.png", "junk/d.png", "e.png")
    mapping = {"thin": CLASSES[1], "os": CLASSES[2], "junk": "", ".": ""}
    cfg = settings(image_folder(tmp_path / "data", *paths), classes=mapping)
    table = load_catalog(cfg).table
    assert table[["path", "label"]].to_numpy().tolist() == [
        ["normal/a.png", CLASSES[0]],
        ["os/c.png", CLASSES[2]],
        ["thin/b.png", CLASSES[1]],
    ]


def test_one_class_is_an_error_that_says_what_was_found(tmp_path):
    cfg = settings(image_folder(tmp_path / "data", ONE_EACH[0]))
    with pytest.raises(DataError, match=r"of Normal;.*Osteopenia, Osteoporosis"):
        load_catalog(cfg)


def test_class_names_decide_which_classes_are_expected(tmp_path):
    data = image_folder(tmp_path / "data", "left/a.png", "Right/b.png")
    table = load_catalog(settings(data, class_names=("left", "right"))).table
    assert table["label"].tolist() == ["right", "left"]


def test_columns_come_in_order_and_the_deepest_class_folder_counts(tmp_path):
    paths = [f"Osteoporosis Knee/{s}/{c}/{s}.png" for s in ("train", "Valid") for c in CLASSES]
    table = load_catalog(settings(image_folder(tmp_path / "data", *paths))).table
    assert list(table) == [*CATALOG_COLUMNS, "given_split", "coloured"]
    assert table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert set(table["given_split"]) == {"train", "val"}
    assert set(table["group"]) == set(table["issues"]) == {""}


def test_hidden_and_other_files_are_no_images(tmp_path):
    paths = [*ONE_EACH, "Normal/.b.png", "__MACOSX/Normal/a.png", ".hidden/Normal/a.png"]
    data = image_folder(tmp_path / "data", *paths)
    (data / "Normal" / "notes.txt").write_text("hello")
    (data / "README").write_text("not in a class folder")
    catalog = load_catalog(settings(data))
    assert len(catalog.table) == 3 and catalog.skipped == ["Normal/notes.txt"]


def test_unreadable_file_is_set_aside_with_a_reason(tmp_path):
    data = image_folder(tmp_path / "data", *ONE_EACH)
    (data / "Normal" / "b.png").write_text("no image")
    catalog = load_catalog(settings(data))
    row = catalog.table.set_index("path").loc["Normal/b.png"]
    assert row["status"].startswith("unreadable: ") and row["issues"] == "unreadable"
    assert len(catalog.table) == 4 and len(catalog.thumbnails) == 3
    assert usable(catalog.table).sum() == 3


def test_nothing_readable_is_an_error(tmp_path):
    data = image_folder(tmp_path / "data", *ONE_EACH)
    for path in ONE_EACH:
        (data / path).write_text("no image")
    with pytest.raises(DataError, match="none of 3 files is readable"):
        load_catalog(settings(data))


def test_copies_conflicts_and_blank_images_are_not_used():
    issues = ["", "inverted", "copy", "overlay;conflict", "blank", None]
    table = pd.DataFrame({"issues": issues, "status": "ok"})
    assert usable(table).tolist() == [True, True, False, False, False, True]
    assert has_issue(table, "overlay", "copy").tolist() == [False, False, True, True, False, False]


def table_of(tmp_path: Path, rows: dict[str, list]) -> Config:
    """Settings of a list.csv with these columns, beside three images in x/."""
    data = image_folder(tmp_path / "data", "x/a.png", "x/b.png", "x/c.png")
    pd.DataFrame(rows).to_csv(data / "list.csv", index=False)
    return Config(data=str(data / "list.csv"), cache=str(tmp_path / "cache"))


def test_table_with_paths_and_labels_is_read(tmp_path):
    rows = {"path": ["x/a.png", "x/b.png", "x/c.png"], "label": ["healthy", *CLASSES[1:]]}
    catalog = load_catalog(table_of(tmp_path, rows | {"patient": [1, 1, 2], "age": [50, 60, 70]}))
    first, same, other = catalog.table["patient"]
    assert catalog.table["label"].tolist() == list(CLASSES)
    assert first == same != other and "" not in (first, other)
    assert catalog.table["age"].tolist() == [50, 60, 70]
    assert catalog.root == tmp_path / "data"


def test_rows_of_a_table_can_be_left_out_by_their_label(tmp_path):
    rows = {"path": ["x/a.png", "x/b.png", "x/c.png", "x/none.png"], "label": [*CLASSES, "?"]}
    with pytest.raises(DataError, match="'\\?'"):
        load_catalog(table_of(tmp_path, rows))
    cfg = table_of(tmp_path, rows)
    cfg = Config(data=cfg.data, cache=cfg.cache, classes={"?": ""})
    assert load_catalog(cfg).table["path"].tolist() == rows["path"][:3]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ({"path": ["x/a.png"], "severity": ["Normal"]}, "severity"),
        (
            {"path": ["x/a.png", "x/a.png"], "label": ["Normal", "Osteopenia"]},
            r"rows \[2, 3\].*x/a\.png",
        ),
        ({"path": ["x/a.png"], "class": ["Normal"], "grade": ["0"]}, "'class', 'grade'"),
        ({"path": ["gone.png"], "label": ["Normal"]}, "names the images"),
        ({"path": ["x/a.png"], "t_score": ["-25"]}, "row 2, column 't_score' is '-25'"),
        ({"path": ["x/a.png"], "t_score": [""]}, "row 2, column 't_score'"),
        (
            {"path": ["x/a.png"], "spine t-score": ["-2"], "hip t-score": ["-1"]},
            "one column t_score",
        ),
    ],
)
def test_table_that_is_ambiguous_is_an_error_that_names_the_place(tmp_path, rows, named):
    with pytest.raises(DataError, match=named):
        load_catalog(table_of(tmp_path, rows))


@pytest.mark.parametrize(
    "path", ["{outside}/secret.png", "../secret.png", "x/../../secret.png", "out/secret.png", ""]
)
def test_table_finds_nothing_outside_of_its_folder_and_says_so(tmp_path, path):
    image_folder(tmp_path, "secret.png")
    paths = ["x/a.png", "x/b.png", "x/c.png", path.format(outside=tmp_path)]
    cfg = table_of(tmp_path, {"path": paths, "label": [*CLASSES, "Normal"]})
    (tmp_path / "data" / "out").symlink_to(tmp_path)
    catalog = load_catalog(cfg)
    assert catalog.table["path"].tolist() == paths[:3]
    assert catalog.unmatched == ["list.csv: row 5"]


def test_images_and_rows_without_the_other_are_listed(tmp_path):
    rows = {"path": ["x/a.png", "x/b.png", "x/gone.png"], "label": ["Normal", *CLASSES[1:]]}
    catalog = load_catalog(table_of(tmp_path, rows))
    assert catalog.unmatched == ["list.csv: row 4", "image: x/c.png"]


def test_dicom_is_read_with_and_without_suffix_and_its_patient_only_as_a_hash(tmp_path):
    data = image_folder(tmp_path / "data", *ONE_EACH)
    for name in ("x.dcm", "x", "y"):
        patient = "12" if name == "y" else "4711"
        (data / "Normal" / name).write_bytes(dicom_file(PatientID=patient))
    catalog = load_catalog(settings(data))
    table = catalog.table
    patients = table[table["format"] == "DICOM"].set_index("path")["patient"]
    assert len(patients) == 3 and len(catalog.thumbnails) == 6
    assert patients["Normal/x.dcm"] == patients["Normal/x"] != patients["Normal/y"]
    assert "4711" not in table.to_csv() and "Doe" not in table.to_csv()


def test_patient_in_file_names_is_hashed(tmp_path):
    paths = ["Normal/12_a.png", "osteopenia/12_b.png", "osteoporosis/x.png"]
    data = image_folder(tmp_path / "data", *paths)
    first, same, none = load_catalog(settings(data, patient_regex=r"^(\d+)_")).table["patient"]
    assert first == same != none == "" and first != "12"


def test_data_that_do_not_exist_are_an_error_that_names_them(tmp_path):
    with pytest.raises(DataError, match=r"data = .*nowhere"):
        load_catalog(settings(tmp_path / "nowhere" / "at" / "all"))


def test_owner_and_name_mean_a_kaggle_data_set(tmp_path, monkeypatch):
    kaggle = types.SimpleNamespace(dataset_download=lambda slug: str(tmp_path / slug))
    monkeypatch.setitem(sys.modules, "kagglehub", kaggle)
    assert locate(Config(data="someone/some-set")) == tmp_path / "someone" / "some-set"


def test_sample_is_made_once(tmp_path):
    cfg = Config.load({}, smoke=True, cache=str(tmp_path))
    catalog = load_catalog(cfg)
    made = (catalog.root / "planted.json").stat().st_mtime_ns
    assert locate(cfg) == catalog.root
    assert (catalog.root / "planted.json").stat().st_mtime_ns == made
    assert Counter(catalog.table["status"] == "ok") == {True: 65, False: 2}
    assert set(catalog.table["label"]) == set(CLASSES)


def test_real_data_sets_are_read_completely(real, tmp_path):
    spine = load_catalog(Config(data=str(real / "data" / "spine_dxa"), cache=str(tmp_path)))
    assert Counter(spine.table["label"]) == dict(zip(CLASSES, (48, 48, 42), strict=True))
    assert (spine.table["status"] == "ok").all() and len(spine.thumbnails) == 138
    knee = load_catalog(Config(data=str(real / "data" / "knee_xray"), cache=str(tmp_path))).table
    assert len(knee) == 24 == knee["patient"].nunique()
    assert {"age", "sex", "t_score"} <= set(knee)

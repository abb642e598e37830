"""Folders, tables and metadata become one table, or an error that says what to do."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import catalog, dicom
from bonelib.catalog import DataError
from bonelib.config import CLASSES, Config


@pytest.fixture
def make(tmp_path):
    """A function that makes a data set of tiny pictures at the given paths and gives its settings."""
    rng = np.random.default_rng(0)

    def of(*paths: str, **settings) -> Config:
        for path in paths:
            (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 30), dtype=np.uint8)).save(tmp_path / "data" / path)
        return Config(data=str(tmp_path / "data"), cache=str(tmp_path / "cache"), **settings)

    return of


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("normal", 0), ("0 Normal", 0), ("NORMAL_", 0), ("Healthy", 0), ("nomal", 0),
        ("osteophenia", 1), ("1. Osteopenia", 1), ("Osteopenic patients", 1), ("OSTEOPENIA", 1),
        ("osteoporosis", 2), ("Osteoperosis", 2), ("2-osteoporotic", 2),
        ("abnormal", None), ("non-osteoporosis", None), ("osteopenia or osteoporosis", None), ("images", None), ("0", None),
    ],
)  # fmt: skip
def test_folder_names_are_understood_or_left_alone(folder, label):
    assert catalog.class_of(folder) == (None if label is None else CLASSES[label])


def test_unmatched_folder_is_an_error_that_lists_it_and_says_how_to_map_it(make):
    cfg = make("normal/a.png", "thin/b.png", "thin/c.png")
    with pytest.raises(DataError, match=r"'thin' \(2 images\).*classes="):
        catalog.catalog(cfg)


def test_folders_can_be_mapped_and_left_out(make):
    cfg = make("normal/a.png", "thin/b.png", "os/c.png", "junk/d.png")
    cfg = Config(data=cfg.data, cache=cfg.cache, classes={"thin": CLASSES[1], "os": CLASSES[2], "junk": ""})
    table, _, _ = catalog.catalog(cfg)
    assert dict(zip(table["path"], table["label"], strict=True)) == {
        "normal/a.png": CLASSES[0], "thin/b.png": CLASSES[1], "os/c.png": CLASSES[2],
    }  # fmt: skip


def test_missing_class_is_an_error(make):
    with pytest.raises(DataError, match="none of Osteoporosis"):
        catalog.catalog(make("normal/a.png", "osteopenia/b.png"))


def test_given_splits_are_recognised_and_the_deepest_class_folder_counts(make):
    paths = [f"Osteoporosis Knee/{s}/{c}/{s}.png" for s in ("train", "Val") for c in CLASSES]
    table, _, _ = catalog.catalog(make(*paths))
    assert table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert set(table["given_split"]) == {"train", "val"}


def test_hidden_and_foreign_files_are_no_images(make):
    cfg = make(*(f"{c}/a.png" for c in CLASSES), "Normal/.b.png", "__MACOSX/Normal/a.png")
    (catalog.Path(cfg.data) / "Normal" / "notes.txt").write_text("hello")
    table, _, _ = catalog.catalog(cfg)
    assert len(table) == 3 and table.attrs["ignored"] == ["Normal/notes.txt"]


def test_unreadable_file_is_set_aside_with_a_reason_and_never_a_picture(make):
    cfg = make(*(f"{c}/a.png" for c in CLASSES))
    (catalog.Path(cfg.data) / "Normal" / "b.png").write_text("no picture")
    table, thumbs, _ = catalog.catalog(cfg)
    assert len(table) == 4 and len(thumbs) == 3
    row = table[table["path"] == "Normal/b.png"].iloc[0]
    assert row["status"].startswith("unreadable: holds no") and row["issues"] == "unreadable"


def test_table_with_paths_and_labels_is_read(make):
    cfg = make("x/a.png", "x/b.png", "x/c.png")
    path = catalog.Path(cfg.data) / "list.csv"
    rows = {"path": ["x/a.png", "x/b.png", "x/c.png"], "label": CLASSES, "patient": [1, 1, 2], "age": [50, 60, 70]}
    pd.DataFrame(rows).to_csv(path, index=False)
    table, _, root = catalog.catalog(Config(data=str(path), cache=cfg.cache))
    one, same, other = table["patient"]
    assert list(table["label"]) == list(CLASSES) and one == same != other and "" not in (one, other)
    assert list(table["age"]) == [50, 60, 70] and root == path.parent


def test_table_cannot_reach_outside_its_folder(make):
    cfg = make("a.png")
    path = catalog.Path(cfg.data) / "list.csv"
    pd.DataFrame({"path": ["../../etc/passwd"], "label": ["Normal"]}).to_csv(path, index=False)
    with pytest.raises(DataError, match="leaves the folder"):
        catalog.catalog(Config(data=str(path), cache=cfg.cache))


@pytest.mark.parametrize("key", ["Normal/7.png", "7.png", "7", 7])
def test_metadata_is_matched_by_path_name_or_stem_and_leftovers_are_listed(make, key):
    cfg = make("Normal/7.png", "osteopenia/8.png", "osteoporosis/9.png")
    meta = pd.DataFrame({"id": [key, "unknown"], "Patient Id": [31, 32], "age": [66, 70]})
    meta.to_csv(catalog.Path(cfg.data) / "metadata.csv", index=False)
    table, _, _ = catalog.catalog(cfg)
    row = table.set_index("path").loc["Normal/7.png"]
    assert row["patient"] == dicom.hashed("31", dicom.salt(cfg.cache)) and row["age"] == 66 and "id" not in table
    assert table.attrs["metadata_unmatched"] == [
        "metadata.csv: row 3", "image: osteopenia/8.png", "image: osteoporosis/9.png",
    ]  # fmt: skip


def test_patient_is_found_in_the_file_name(make, tmp_path):
    names = ["Normal/12_a.png", "osteopenia/12_b.png", "osteoporosis/x.png"]
    table, _, _ = catalog.catalog(make(*names, patient_regex=r"^(\d+)_"))
    one, same, none = table["patient"]
    assert one == same == dicom.hashed("12", dicom.salt(tmp_path / "cache")) and none == ""


def test_dicom_with_or_without_extension_is_read_and_its_patient_kept_as_a_hash_only(make, tmp_path):
    pytest.importorskip("pydicom", reason="needs the optional pydicom")
    from tests.test_dicom import RAMP, made

    cfg = make(*(f"{c}/a.png" for c in CLASSES))
    for name in ("x.dcm", "x", "y"):
        (catalog.Path(cfg.data) / "Normal" / name).write_bytes(made(RAMP, PatientID="4711" if name != "y" else "12"))
    table, thumbs, _ = catalog.catalog(cfg)
    rows = table[table["format"] == "DICOM"].set_index("path")["patient"]
    assert len(rows) == 3 and len(thumbs) == 6
    assert rows["Normal/x.dcm"] == rows["Normal/x"] != rows["Normal/y"] and "4711" not in table.to_csv()


def test_unknown_data_is_an_error_that_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match="sub-folder"):
        catalog.catalog(Config(data=str(tmp_path / "nowhere" / "at" / "all")))


def test_kaggle_set_that_cannot_be_fetched_is_an_error_that_says_how_to_go_on(monkeypatch):
    import sys
    import types

    def refuse(slug):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=refuse))
    with pytest.raises(DataError, match=r"could not be fetched \(ConnectionError: no route\).*by hand"):
        catalog.locate(Config(data="someone/some-set"))


def test_real_sets_are_read_whole(shared, tmp_path):
    spine, thumbs, _ = catalog.catalog(Config(data=str(shared / "data" / "spine_dxa"), cache=str(tmp_path)))
    assert spine["label"].value_counts().to_dict() == {"Normal": 48, "Osteopenia": 48, "Osteoporosis": 42}
    assert (spine["status"] == "ok").all() and len(thumbs) == 138
    knee, _, _ = catalog.catalog(Config(data=str(shared / "data" / "knee_xray"), cache=str(tmp_path)))
    assert len(knee) == 24 and knee["patient"].nunique() == 24 and {"age", "sex", "t_score"} <= set(knee)


def test_sample_is_made_once_and_read(tmp_path):
    cfg = Config.load({}, smoke=True, cache=str(tmp_path))
    table, _, root = catalog.catalog(cfg)
    stamp = (root / "planted.json").stat().st_mtime_ns
    assert catalog.locate(cfg) == root and (root / "planted.json").stat().st_mtime_ns == stamp
    assert set(table["label"]) == set(CLASSES) and (table["status"] != "ok").sum() == 2
    shutil.rmtree(root)

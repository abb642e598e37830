"""Metadata are matched to images by name; patients are hashed, and who they are is left out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from bonelib.config import Config
from bonelib.data import metadata
from bonelib.data.tables import read_table
from bonelib.messages import DataError

PATHS = ["Normal/7.png", "osteopenia/8.png", "osteoporosis/9.png"]


def joined(
    root: Path, rows: dict[str, list[object]] | None = None, own: pd.DataFrame | None = None, **cfg
) -> tuple[pd.DataFrame, list[str]]:
    """PATHS joined with a metadata.csv of these columns, and what is on one side only."""
    if rows is not None:
        pd.DataFrame(rows).to_csv(root / "metadata.csv", index=False)
    table = pd.DataFrame({"path": PATHS, "patient": ["", "", "from DICOM"]})
    own = pd.DataFrame(index=table.index) if own is None else own
    return metadata.join(table, own, root, Config(cache=str(root / "cache"), **cfg), [])


def hashed(name: str, root: Path) -> str:
    return metadata.hash_patient(name, metadata.patient_salt(root / "cache"))


@pytest.mark.parametrize("key", ["Normal/7.png", "7.png", "7", "NORMAL/7.PNG"])
def test_rows_are_matched_by_path_name_or_stem_and_leftovers_are_listed(tmp_path, key):
    rows = {"picture": [key, "unknown"], "Patient Id": [31, 32], "age": [66, 70]}
    table, unmatched = joined(tmp_path, rows)
    assert table["patient"].tolist() == [hashed("31", tmp_path), "", "from DICOM"]
    assert table["age"][0] == 66 and table["age"].isna().sum() == 2
    assert list(table) == ["path", "patient", "age"]
    missing = [f"image: {path}" for path in PATHS[1:]]
    assert unmatched == ["metadata.csv: row 3", *missing]


def test_case_distinguishes_names_where_it_must(tmp_path):
    table, unmatched = joined(tmp_path, {"name": ["7", "8", "9", "x"], "age": [1, 2, 3, 4]})
    assert table["age"].tolist() == [1, 2, 3] and unmatched == ["metadata.csv: row 5"]
    paths = pd.DataFrame({"path": ["a/x.png", "a/X.png"], "patient": ""})
    pd.DataFrame({"name": ["x.png", "X.png"], "age": [1, 2]}).to_csv(
        tmp_path / "metadata.csv", index=False
    )
    own = pd.DataFrame(index=paths.index)
    cfg = Config(cache=str(tmp_path / "cache"))
    assert metadata.join(paths, own, tmp_path, cfg, [])[0]["age"].tolist() == [1, 2]


def test_numbers_are_numbers_and_other_values_stay_texts(tmp_path):
    rows = {"name": ["7", "8", "9"], "age": ["50", "", "61.5"], "site": ["007", "008", "x"]}
    rows |= {"value": ["1", "inf", "2"]}
    table, _ = joined(tmp_path, rows)
    assert table["age"].tolist()[::2] == [50, 61.5] and pd.isna(table["age"][1])
    assert table["site"].tolist() == ["007", "008", "x"]
    assert table["value"].tolist() == ["1", "inf", "2"]


@pytest.mark.parametrize("names", [["7", "7", "8"], ["same.png", "8", "9"]])
def test_name_of_several_rows_or_images_is_an_error(tmp_path, names):
    pd.DataFrame({"name": names, "age": [1, 2, 3]}).to_csv(tmp_path / "metadata.csv", index=False)
    paths = ["a/same.png", "b/same.png", "7.png", "8.png", "9.png"]
    paths = paths[:3] if names[0] == "same.png" else paths[2:]
    table = pd.DataFrame({"path": paths, "patient": ""})
    own = pd.DataFrame(index=table.index)
    repeated = names[0]
    with pytest.raises(DataError, match=rf"metadata\.csv: '{repeated}' in the column 'name'"):
        metadata.join(table, own, tmp_path, Config(cache=str(tmp_path / "cache")), [])


def test_metadata_that_name_no_image_are_an_error(tmp_path):
    with pytest.raises(DataError, match="'name'"):
        joined(tmp_path, {"name": ["a", "b"], "age": [1, 2]})


def test_metadata_that_do_not_exist_are_an_error_only_if_they_were_named(tmp_path):
    table, unmatched = joined(tmp_path)
    assert list(table) == ["path", "patient"] and unmatched == []
    with pytest.raises(DataError, match=r"gone\.csv"):
        joined(tmp_path, metadata=str(tmp_path / "gone.csv"))


@pytest.mark.parametrize(
    "text", ["a,b\n1,2,3\n4,5,6\n", "a,b\n1,2\n1,2,3\n", "", "\x81,b\n1,2\n", "a;b,c\n1,2\n"]
)
def test_file_that_is_no_table_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "x.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"x\.csv"):
        read_table(tmp_path / "x.csv", [])


def test_patient_comes_from_the_name_then_the_metadata_then_the_table_then_dicom(tmp_path):
    own = pd.DataFrame({"subject": ["a", "b", ""], "age": ["1", "2", "3"]})
    table, _ = joined(tmp_path, own=own)
    assert table["patient"].tolist() == [*(hashed(n, tmp_path) for n in "ab"), "from DICOM"]
    rows = {"name": ["7", "8"], "MRN": ["c", ""]}
    table, _ = joined(tmp_path, rows, own)
    assert table["patient"].tolist() == [*(hashed(n, tmp_path) for n in "cb"), "from DICOM"]
    table, _ = joined(tmp_path, rows, own, patient_regex=r"^(8)|^7")
    assert table["patient"][:2].tolist() == [hashed("c", tmp_path), hashed("8", tmp_path)]
    table, _ = joined(tmp_path, patient_regex=r"^\d")
    assert table["patient"].tolist() == [hashed(n, tmp_path) for n in "789"]


def test_spreadsheet_numbers_with_gaps_are_the_same_patients(tmp_path):
    table, _ = joined(tmp_path, {"name": ["7", "8", "9"], "patient": ["31.0", "", "31"]})
    assert table["patient"][0] == table["patient"][2] == hashed("31", tmp_path)


def test_pattern_that_matches_no_name_is_an_error(tmp_path):
    with pytest.raises(DataError, match="patient_regex"):
        joined(tmp_path, patient_regex="^x")


@pytest.mark.parametrize(
    "column",
    ["patient_id", "Patient Name", "birth_date", "MRN", "StudyID", "E-Mail", "Date of birth"],
)
def test_columns_that_identify_a_person_are_left_out(tmp_path, column):
    table, _ = joined(tmp_path, {"image": PATHS, column: ["Doe^Jane"] * 3, "age": [1, 2, 3]})
    assert list(table) == ["path", "patient", "age"]
    assert "Doe" not in table.to_csv()


def test_hash_of_a_patient_depends_on_the_salt_of_the_cache(tmp_path):
    salt, other = metadata.patient_salt(tmp_path / "a"), metadata.patient_salt(tmp_path / "b")
    assert salt == metadata.patient_salt(tmp_path / "a") != other and len(salt) == 32
    found = metadata.hash_patient(" 4711 ", salt)
    assert found == metadata.hash_patient("4711", salt) != metadata.hash_patient("4711", other)
    assert len(found) == 16 and "4711" not in found
    assert metadata.hash_patient(" ", salt) == ""


def test_salt_is_for_its_owner_alone_and_one_for_all_who_start_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        salts = set(pool.map(lambda _: metadata.patient_salt(tmp_path / "cache"), range(32)))
    assert len(salts) == 1
    (path,) = (tmp_path / "cache").iterdir()
    assert path.stat().st_mode & 0o077 == 0


def test_damaged_salt_is_an_error_that_names_its_file(tmp_path):
    metadata.patient_salt(tmp_path)
    (tmp_path / "patient-salt").write_bytes(b"half")
    with pytest.raises(DataError, match="patient-salt"):
        metadata.patient_salt(tmp_path)


def test_columns_that_define_the_label_do_not_predict():
    columns = ["path", "label", "group", "issues", "given_split", "coloured", "fold", "draws"]
    columns += ["age", "sex", "T-score", "BMD", "Diagnosis", "file_name"]
    table = pd.DataFrame([[1] * len(columns)], columns=columns).assign(empty=None)
    predicting, defining = metadata.metadata_columns(table)
    assert predicting == ["age", "sex"]
    assert defining == ["T-score", "BMD", "Diagnosis", "file_name"]

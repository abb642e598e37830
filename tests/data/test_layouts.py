"""Labels, folders and tables as people bring them: read with a finding, or a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bonelib.config import CLASSES, Config
from bonelib.data.catalog import Catalog, load_catalog, locate
from bonelib.data.folders import class_of
from bonelib.data.tables import read_table
from bonelib.messages import ConfigError, DataError
from tests.builders import dicom_file, image_folder

ONE_EACH = [f"{name}/{name}.png" for name in CLASSES]


def catalog_of_paths(folder: Path, *paths: str, **given: object) -> Catalog:
    data = image_folder(folder / "data", *paths)
    return load_catalog(Config.load({}, data=str(data), cache=str(folder / "cache"), **given))


def findings(catalog: Catalog, level: str) -> str:
    return "\n".join(finding.text for finding in catalog.findings if finding.level == level)


def labels(catalog: Catalog) -> dict[str, str]:
    return dict(zip(catalog.table["path"], catalog.table["label"], strict=True))


def groups(catalog: Catalog) -> list[int]:
    """The number of each image's patient; 0 where none is known."""
    patients = catalog.table["patient"]
    return [0 if p == "" else 1 + list(patients.unique()).index(p) for p in patients]


def test_clean_folder_of_three_classes_needs_no_finding(tmp_path):
    paths = [f"{name}/{i}.png" for name in CLASSES for i in range(8)]
    catalog = catalog_of_paths(tmp_path, *paths)
    assert catalog.findings == [] and len(catalog.table) == 24
    assert (catalog.table["patient"] == "").all()


# 1. classes


def test_two_of_the_classes_are_enough_and_the_missing_one_is_a_note(tmp_path):
    catalog = catalog_of_paths(tmp_path, "normal/a.png", "osteoporosis/b.png")
    assert "Osteopenia" in findings(catalog, "note")


def test_given_class_names_are_found_in_folders_and_tables(tmp_path):
    paths = [f"{grade}/{grade}.png" for grade in range(5)]
    catalog = catalog_of_paths(tmp_path, *paths, class_names="0,1,2,3,4")
    assert catalog.table["label"].tolist() == list("01234") and catalog.findings == []
    table = pd.DataFrame({"path": paths, "grade": [0, 1, 2, 3, None]})
    table.iloc[:4].to_csv(tmp_path / "data" / "grades.csv", index=False)
    cfg = Config.load(
        {},
        data=str(tmp_path / "data" / "grades.csv"),
        cache=str(tmp_path / "cache"),
        class_names="0,1,2,3,4",
    )
    catalog = load_catalog(cfg)
    assert catalog.table["label"].tolist() == list("0123") and "4" in findings(catalog, "note")


# 2. folders that are left out


@pytest.mark.parametrize("path", ["test/Normal/x.png", "Normal/test/x.png", "a/test/b/x.png"])
def test_empty_class_leaves_out_all_that_is_below_a_folder(tmp_path, path):
    catalog = catalog_of_paths(tmp_path, *ONE_EACH, path, classes='{"test": ""}')
    assert sorted(labels(catalog)) == sorted(ONE_EACH)
    assert "given_split" not in catalog.table or set(catalog.table["given_split"]) == {""}


# 3. folders that name different classes


def test_deeper_folder_of_another_class_is_a_warning_with_counts(tmp_path):
    odd = "Normal/PAT003/OSTEOPOROSIS SCREENING/x.png"
    catalog = catalog_of_paths(tmp_path, *ONE_EACH, odd)
    assert labels(catalog)[odd] == "Normal"
    text = findings(catalog, "warning")
    assert " 1 images" in text and odd in text and "OSTEOPOROSIS SCREENING" in text
    decided = {"OSTEOPOROSIS SCREENING": "Normal"}
    catalog = catalog_of_paths(tmp_path, *ONE_EACH, odd, classes=json.dumps(decided))
    assert labels(catalog)[odd] == "Normal" and catalog.findings == []


@pytest.mark.parametrize(
    "odd",
    [
        "Normal/x/Osteoporosis/a.png",
        "Normal/near normal/a.png",
        "Normal/suspected osteoporosis/a.png",
        "Normal knees/Osteopenia knees/a.png",
        "pre-osteoporosis/a.png",
    ],
)
def test_folders_that_contradict_each_other_are_an_error_that_names_them(tmp_path, odd):
    with pytest.raises(DataError, match="BONELIB_CLASSES") as error:
        catalog_of_paths(tmp_path, *ONE_EACH, odd)
    assert odd in str(error.value)
    # no suggestion says which class it is
    assert '": "Normal"' not in str(error.value)


@pytest.mark.parametrize("top", ["osteoporosis", "Osteoporosis Knee X-ray", "Normal vs abnormal"])
def test_folder_above_all_images_does_not_count(tmp_path, top):
    catalog = catalog_of_paths(tmp_path, *(f"{top}/{path}" for path in ONE_EACH))
    assert catalog.table["label"].tolist() == list(CLASSES) and catalog.findings == []


@pytest.mark.parametrize(
    "name",
    [
        *("near normal", "nearly normal", "pre-osteoporosis", "preosteoporosis", "pre osteopenia"),
        *("borderline osteopenia", "suspected osteoporosis", "Suspicious for osteoporosis"),
        *("possible osteoporosis", "risk of osteoporosis", "probably normal", "non-osteoporotic"),
    ],
)
def test_names_near_a_class_are_unclear(name):
    assert class_of(name, CLASSES) is None


# 4. annotations


@pytest.mark.parametrize("name", ["masks", "Mask", "labels", "seg_masks", "ROI", "heatmaps"])
def test_annotations_in_folders_are_set_aside_and_counted(tmp_path, name):
    paths = [f"{c}/{f}/{i}.png" for c in CLASSES for f in ("images", name) for i in range(3)]
    catalog = catalog_of_paths(tmp_path, *paths)
    assert len(catalog.table) == 9 and not any(f"/{name}/" in path for path in labels(catalog))
    assert (
        findings(catalog, "note").startswith("9 ") and f"Normal/{name}" in catalog.findings[0].text
    )


def test_annotations_beside_their_images_are_set_aside(tmp_path):
    drawn = ["Normal/Normal_mask.png", "Osteopenia/Osteopenia-seg.png"]
    # an image of that name, without another one beside it, is an image
    alone = "Osteoporosis/7_mask.png"
    catalog = catalog_of_paths(tmp_path, *ONE_EACH, *drawn, alone)
    assert sorted(labels(catalog)) == sorted([*ONE_EACH, alone])
    assert findings(catalog, "note").startswith("2 ")


def test_folder_of_masks_beside_the_class_folders_is_set_aside(tmp_path):
    paths = [f"{top}/{path}" for top in ("images", "masks") for path in ONE_EACH]
    catalog = catalog_of_paths(tmp_path, *paths)
    assert len(catalog.table) == 3 and findings(catalog, "note").startswith("3 ")


def test_images_are_no_annotations_where_nothing_else_is_there(tmp_path):
    catalog = catalog_of_paths(tmp_path, *(f"roi/{path}" for path in ONE_EACH))
    assert len(catalog.table) == 3 and catalog.findings == []


# 5. patients of the layout


def patient_paths(form: str, each: int = 3) -> list[str]:
    """Seven patients of each class, with some images each."""
    rows = [(c, 7 * k + p, i) for k, c in enumerate(CLASSES) for p in range(7) for i in range(each)]
    return [form.format(c=c, p=p, i=i) for c, p, i in rows]


@pytest.mark.parametrize(
    "form",
    [
        "{c}/PAT{p:03d}/{i}.png",
        "{c}/{p}/{i}.png",
        "{c}/{p}/view {i}/x.png",
        "{c}/images/patient {p}/study/{i}.png",
        "train/{c}/Miller_{p}/left/{i}.png",
        "{c}/{p:07d}_study1_{i}.png",
        "{c}/OP{p:03d}_{i}.png",
    ],
)
def test_folders_and_names_that_look_like_patients_are_grouped_by_default(tmp_path, form):
    paths = patient_paths(form)
    catalog = catalog_of_paths(tmp_path, *paths)
    table = catalog.table.set_index("path").loc[paths]
    assert table["patient"].nunique() == 21 and "" not in table["patient"].tolist()
    assert (
        table["patient"].to_numpy().reshape(21, 3)[:, 0].tolist() == table["patient"].tolist()[1::3]
    )
    text = findings(catalog, "note")
    assert "63 of 63" in text and "21 patients" in text and "BONELIB_PATIENT_REGEX" in text
    off = catalog_of_paths(tmp_path, *paths, patient_regex="none")
    assert set(off.table["patient"]) == {""}


@pytest.mark.parametrize(
    "form",
    [
        "{c}/image_{p:04d}{i}.png",
        "{c}/{p:04d}{i}.png",
        "{c}/{p:04d}{i}_knee.png",
        "{c}/{c}_{p}_{i}.png",
        "{c}/left/{p}_{i}.png",
        "{c}/case_{p}{i}/x.png",
    ],
)
def test_plain_numbering_is_no_patient(tmp_path, form):
    catalog = catalog_of_paths(tmp_path, *patient_paths(form))
    assert set(catalog.table["patient"]) == {""} and "patients" not in findings(catalog, "note")


def test_numbers_that_begin_again_in_each_class_are_no_patients(tmp_path):
    paths = [f"{c}/{i:04d}_knee.png" for c in CLASSES for i in range(12)]
    assert set(catalog_of_paths(tmp_path, *paths).table["patient"]) == {""}


def test_one_patient_with_two_images_is_enough_for_a_folder_per_patient(tmp_path):
    paths = [f"{c}/PAT{k}-{i}/x.png" for k, c in enumerate(CLASSES) for i in range(12)]
    paths.append("Normal/PAT0-0/y.png")
    assert catalog_of_paths(tmp_path, *paths).table["patient"].nunique() == 36


def test_left_and_right_are_no_patients(tmp_path):
    paths = [f"{c}/{s}/{i}.png" for c in CLASSES for s in ("left", "right") for i in range(5)]
    assert set(catalog_of_paths(tmp_path, *paths).table["patient"]) == {""}


def test_known_patients_come_before_the_layout(tmp_path):
    paths = patient_paths("{c}/PAT{p:03d}/{i}.png")
    image_folder(tmp_path / "data", *paths)
    table = pd.DataFrame({"image": paths, "patient": np.arange(63) // 2})
    table.to_csv(tmp_path / "data" / "metadata.csv", index=False)
    assert catalog_of_paths(tmp_path, *paths).table["patient"].nunique() == 32


def test_patient_regex_sees_the_folders_where_no_file_name_matches(tmp_path):
    paths = ["Normal/PAT1/a.png", "Normal/PAT1/b.png", "Osteopenia/PAT2/a.png"]
    catalog = catalog_of_paths(tmp_path, *paths, patient_regex=r"PAT(\d+)")
    assert groups(catalog) == [1, 1, 2]


# 6. placeholders


@pytest.mark.parametrize(
    "name", ["unknown", "N/A", "None", "Anonymous", "0", "-", "xxx", "not available", "ANON", "??"]
)
def test_placeholders_are_no_patients(tmp_path, name):
    paths = [f"{c}/{i}.png" for c in CLASSES for i in range(4)]
    image_folder(tmp_path / "data", *paths)
    ids = [name if i % 2 else f"P{i}" for i in range(12)]
    pd.DataFrame({"image": paths, "patient_id": ids}).to_csv(
        tmp_path / "data" / "metadata.csv", index=False
    )
    catalog = catalog_of_paths(tmp_path, *paths)
    assert (catalog.table["patient"] == "").sum() == 6 and catalog.findings == []


def test_placeholders_of_dicom_headers_are_no_patients(tmp_path):
    image_folder(tmp_path / "data", *ONE_EACH)
    for number, patient in enumerate(["ANONYMOUS", "ANONYMOUS", "0", "4711", "4711"]):
        (tmp_path / "data" / "Normal" / f"{number}.dcm").write_bytes(dicom_file(PatientID=patient))
    catalog = catalog_of_paths(tmp_path, *ONE_EACH)
    assert catalog.table["patient"].ne("").sum() == 2
    assert catalog.table["patient"][3] == catalog.table["patient"][4] != ""


def test_zero_is_a_patient_where_they_are_numbered_from_zero(tmp_path):
    paths = [f"{c}/{i}.png" for c in CLASSES for i in range(4)]
    image_folder(tmp_path / "data", *paths)
    pd.DataFrame({"image": paths, "pid": np.arange(12) // 2}).to_csv(
        tmp_path / "data" / "metadata.csv", index=False
    )
    assert catalog_of_paths(tmp_path, *paths).table["patient"].nunique() == 6


@pytest.mark.parametrize(
    ("ids", "count"),
    [(["John"] * 12 + [f"P{i}" for i in range(33)], 12), (["P1", *"abcdefghijklmn"] * 3, 45)],
    ids=["a tenth", "every class"],
)
def test_patient_with_too_many_images_or_all_classes_is_a_warning(tmp_path, ids, count):
    paths = [f"{c}/{i:02d}.png" for c in CLASSES for i in range(15)]
    image_folder(tmp_path / "data", *paths)
    pd.DataFrame({"image": paths, "patient": ids}).to_csv(
        tmp_path / "data" / "metadata.csv", index=False
    )
    catalog = catalog_of_paths(tmp_path, *paths)
    assert f"{count} images" in findings(catalog, "warning")


# 7. tables

ROWS = {"Path": ONE_EACH, "Label": ["Normal", "osteopenia", "Osteoporosis"]}


def table_catalog(folder: Path, content: bytes, name: str = "list.csv", **given: object) -> Catalog:
    image_folder(folder / "data", *ONE_EACH)
    (folder / "data" / name).write_bytes(content)
    data = str(folder / "data" / name)
    return load_catalog(Config.load({}, data=data, cache=str(folder / "cache"), **given))


def csv(sep: str = ",", **columns: list) -> str:
    return pd.DataFrame(columns).to_csv(sep=sep, index=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_tables_of_every_separator_and_encoding_are_read(tmp_path, sep, encoding):
    text = csv(sep, **ROWS, Größe=["1", "2", "3"])
    catalog = table_catalog(tmp_path, text.encode(encoding))
    assert labels(catalog) == dict(zip(ONE_EACH, CLASSES, strict=True))
    assert catalog.table["Größe"].tolist() == [1, 2, 3] and catalog.findings == []


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ([f".\\{name}\\{name}.png" for name in CLASSES], "diagnosis"),
        ([f"C:\\Users\\me\\{name}\\{name}.PNG" for name in CLASSES], "Class"),
        ([f"{name}.png" for name in CLASSES], "class_name"),
        ([name.lower() for name in CLASSES], "Target"),
    ],
)
def test_names_of_other_systems_without_folder_or_suffix_are_found(tmp_path, names, label):
    for column in ("image", "File Name", "image_id"):
        text = csv(**{column: names, label: list(CLASSES)})
        assert labels(table_catalog(tmp_path, text.encode())) == dict(
            zip(ONE_EACH, CLASSES, strict=True)
        )


def test_name_of_several_images_is_an_error_with_row_and_paths(tmp_path):
    image_folder(tmp_path / "data", "other/Normal.png")
    text = csv(image=["Osteopenia", "Normal"], label=["Osteopenia", "Normal"])
    with pytest.raises(DataError, match=r"rows \[3\].*Normal/Normal\.png.*other/Normal\.png"):
        table_catalog(tmp_path, text.encode())


def test_numbers_as_labels_need_classes_and_the_error_names_the_row(tmp_path):
    text = csv(path=ONE_EACH, label=["0", "1.0", "2"]).encode()
    with pytest.raises(DataError, match=r"row 2, column 'label' is '0'.*BONELIB_CLASSES"):
        table_catalog(tmp_path, text)
    meaning = dict(zip("012", CLASSES, strict=True))
    catalog = table_catalog(tmp_path, text, classes=json.dumps(meaning))
    assert labels(catalog) == dict(zip(ONE_EACH, CLASSES, strict=True))


def test_empty_rows_are_counted_and_rows_numbered_as_a_spreadsheet_does(tmp_path):
    lines = csv(path=ONE_EACH, label=list(CLASSES)).splitlines()
    text = "\n".join([*lines[:2], ",", "", *lines[2:], ",", ""])
    catalog = table_catalog(tmp_path, text.encode())
    assert len(catalog.table) == 3 and "3 empty rows" in findings(catalog, "note")
    with pytest.raises(DataError, match="row 6"):
        table_catalog(tmp_path, text.replace("Osteoporosis\n", "?\n").encode())


def test_column_split_is_the_given_split(tmp_path):
    text = csv(**ROWS, split=["train", "Validation", "TEST"])
    table = table_catalog(tmp_path, text.encode()).table
    assert table["given_split"].tolist() == ["train", "val", "test"]


def test_excel_tables_are_read_as_data_and_as_metadata(tmp_path):
    pytest.importorskip("openpyxl")
    data = image_folder(tmp_path / "data", *ONE_EACH)
    table = pd.DataFrame(ROWS | {"patient": ["007", "008", "007"], "age": [50, None, 60]})
    table.loc[len(table)] = None
    table.to_excel(data / "list.xlsx", index=False)
    cfg = Config(data=str(data / "list.xlsx"), cache=str(tmp_path / "cache"))
    catalog = load_catalog(cfg)
    assert labels(catalog) == dict(zip(ONE_EACH, CLASSES, strict=True))
    assert groups(catalog) == [1, 2, 1] and catalog.table["age"].tolist()[::2] == [50, 60]
    (data / "list.xlsx").rename(data / "metadata.xlsx")
    catalog = load_catalog(Config(data=str(data), cache=str(tmp_path / "cache")))
    assert groups(catalog) == [1, 2, 1]
    (data / "metadata.xlsx").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"metadata\.xlsx"):
        load_catalog(Config(data=str(data), cache=str(tmp_path / "cache")))


def test_excel_without_its_reader_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Missing optional dependency 'openpyxl'")

    monkeypatch.setattr(pd, "read_excel", refuse)
    with pytest.raises(DataError, match=r"list\.xlsx.*pip install openpyxl"):
        read_table(tmp_path / "list.xlsx", [])


def test_table_that_is_not_used_is_a_note(tmp_path):
    image_folder(tmp_path / "data", *ONE_EACH)
    (tmp_path / "data" / "labels.csv").write_text("image,label\n1,2\n")
    assert "labels.csv" in findings(catalog_of_paths(tmp_path, *ONE_EACH), "note")
    used = str(tmp_path / "data" / "labels.csv")
    (tmp_path / "data" / "labels.csv").write_text(csv(image=ONE_EACH, age=[1, 2, 3]))
    assert catalog_of_paths(tmp_path, *ONE_EACH, metadata=used).findings == []


def test_metadata_may_name_images_by_windows_paths(tmp_path):
    image_folder(tmp_path / "data", *ONE_EACH)
    names = [f"D:\\bones\\{name}.png" for name in CLASSES]
    (tmp_path / "data" / "metadata.tsv").write_text(csv("\t", image=names, age=[1, 2, 3]))
    assert catalog_of_paths(tmp_path, *ONE_EACH).table["age"].tolist() == [1, 2, 3]


# 8. T-scores


def test_t_scores_without_labels_become_the_classes_of_the_who(tmp_path):
    scores = ["-1,0", "-1.1", "\N{MINUS SIGN}2.5"]
    catalog = table_catalog(tmp_path, csv(";", path=ONE_EACH, **{"T-Score": scores}).encode())
    assert labels(catalog) == dict(zip(ONE_EACH, CLASSES, strict=True))
    assert "Normal 1" in findings(catalog, "warning") and "T-Score" in catalog.findings[0].text


@pytest.mark.parametrize("place", ["data", "metadata"])
def test_label_that_contradicts_the_t_score_is_a_warning_and_an_issue(tmp_path, place):
    text = csv(";", path=ONE_EACH, t_score=["-3,1", "-1.5", "-2.6"])
    image_folder(tmp_path / "data", *ONE_EACH)
    if place == "metadata":
        (tmp_path / "data" / "metadata.csv").write_text(text)
        catalog = catalog_of_paths(tmp_path, *ONE_EACH)
    else:
        rows = zip(text.splitlines(), ["label", *CLASSES], strict=True)
        catalog = table_catalog(tmp_path, "\n".join(map(";".join, rows)).encode())
    assert catalog.table["issues"].tolist() == ["t_score", "", ""]
    assert "1 labels" in findings(catalog, "warning") and "-3.1" in findings(catalog, "warning")


# 9. data


@pytest.mark.parametrize(
    "data",
    [
        "https://www.kaggle.com/datasets/owner/some-set",
        "https://kaggle.com/datasets/owner/some-set/data?select=a.png",
        " 'owner/some-set' ",
    ],
)
def test_address_of_a_kaggle_page_is_the_data_set(data):
    cfg = Config.load({"BONELIB_DATA": data})
    assert cfg.data == "owner/some-set" and cfg.run == "runs/some-set"
    assert cfg.given["data"] == data


def test_quotes_around_a_path_are_no_part_of_it(tmp_path):
    assert locate(Config(data=f'"{tmp_path}"')) == tmp_path
    assert Config(images="'a b.png'").images == "a b.png"


@pytest.mark.parametrize(
    ("name", "named"),
    [
        *(("x.rar", "archive"), ("x.7z", "archive"), ("x.tar.gz", "archive"), ("x.tgz", "archive")),
        *(("x.png", "one image"), ("x.dcm", "one image"), ("x.pdf", r"\.pdf"), ("x", "without")),
        *(("gone/away/x.rar", "does not exist"), ("https://x.org/set", "address")),
    ],
)
def test_other_data_get_a_message_about_themselves(tmp_path, name, named):
    data = name if "://" in name else str(tmp_path / name)
    if Path(data).parent.is_dir():
        Path(data).write_bytes(b"content")
    with pytest.raises(DataError, match=named) as error:
        locate(Config(data=data, cache=str(tmp_path / "cache")))
    assert "BONELIB_DATA" in str(error.value) and "form" in str(error.value)


def test_given_test_set_and_folds_exclude_each_other():
    with pytest.raises(ConfigError, match="folds"):
        Config.load({}, given_split="use", folds=5)


def test_backslash_in_the_name_of_a_file_is_no_folder(tmp_path):
    paths = [*ONE_EACH, "Normal/a\\b.png"]
    image_folder(tmp_path / "data", *paths)
    (tmp_path / "data" / "metadata.csv").write_text(csv(image=paths, age=[1, 2, 3, 4]))
    catalog = catalog_of_paths(tmp_path, *paths)
    assert catalog.table.set_index("path").loc[paths, "age"].tolist() == [1, 2, 3, 4]
    (tmp_path / "data" / "metadata.csv").rename(tmp_path / "data" / "list.csv")
    text = csv(path=paths, label=[*CLASSES, "Normal"])
    assert sorted(labels(table_catalog(tmp_path, text.encode()))) == sorted(paths)

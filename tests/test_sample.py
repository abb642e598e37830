from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bonelib import phantom, sample

T_LIMITS = {"Normal": (-1.0, 9.0), "osteophenia": (-2.5, -1.0), "Osteoporosis": (-9.0, -2.5)}
UNSOUND = {"truncated", "empty"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.make(tmp_path_factory.mktemp("data") / "sample", seed=3, images=150)


@pytest.fixture(scope="module")
def planted(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / "planted.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8") as sheet:
        return list(csv.DictReader(sheet))


@pytest.fixture(scope="module")
def good(rows: list[dict[str, str]], planted: list[dict[str, str]]) -> list[dict[str, str]]:
    """The distinct sound pictures: all but what was planted on top."""
    extra = {defect["path"] for defect in planted if defect["of"] and defect["kind"] != "folder_spelling"}
    return [row for row in rows if row["image"] not in extra]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def one(planted: list[dict[str, str]], kind: str) -> dict[str, str]:
    (defect,) = [d for d in planted if d["kind"] == kind]
    return defect


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    first, again, other = (sample.make(tmp_path / name, seed, 36) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert digests(first) == digests(again)
    assert not set(digests(first).values()) & set(digests(other).values()) - {hashlib.sha256(b"").hexdigest()}


def test_a_sample_replaces_an_earlier_one_but_no_other_files(tmp_path: Path) -> None:
    folder = sample.make(tmp_path / "s", seed=1, images=40)
    sample.make(folder, seed=2, images=36)
    assert len(digests(folder)) == 36 + 7 + 2
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="mine holds other files"):
        sample.make(tmp_path / "mine")


def test_too_few_images_is_an_error_that_says_how_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images is 20, expected 36"):
        sample.make(tmp_path / "s", images=20)


@pytest.mark.parametrize("images", [36, 48])
def test_a_smoke_sample_has_seven_patients_a_class(tmp_path: Path, images: int) -> None:
    folder = sample.make(tmp_path / "s", images=images)
    extra = {d["path"] for d in json.loads((folder / "planted.json").read_text()) if d["kind"] != "sixteen_bit"}
    with (folder / "metadata.csv").open() as sheet:
        patients = {
            (r["image"].split("/")[0], r["patient_id"]) for r in csv.DictReader(sheet) if r["image"] not in extra
        }
    assert min(Counter(label for label, _ in patients).values()) >= 7


def test_classes_are_imbalanced_as_in_real_life(good: list[dict[str, str]]) -> None:
    shares = Counter(row["image"].split("/")[0] for row in good)
    assert len(good) == 150
    assert [shares[name] / 150 for name in sample.FOLDERS] == pytest.approx([0.45, 0.33, 0.22], abs=0.01)


def test_every_file_has_a_row_and_every_row_a_file(folder: Path, rows: list[dict[str, str]]) -> None:
    files = {p.relative_to(folder).as_posix() for p in folder.glob("*/*")}
    assert sorted(files) == [row["image"] for row in rows]


def test_a_patient_has_one_to_three_pictures_of_one_class(rows: list[dict[str, str]]) -> None:
    classes: dict[str, list[str]] = {}
    for row in rows:
        classes.setdefault(row["patient_id"], []).append(row["image"].split("/")[0])
    assert all(len(set(labels)) == 1 for labels in classes.values())
    assert set(map(len, classes.values())) == {1, 2, 3}


def test_pictures_of_a_patient_are_no_copies(folder: Path, good: list[dict[str, str]]) -> None:
    prints: dict[str, list[np.ndarray]] = {}
    for row in good:
        small = np.asarray(Image.open(folder / row["image"]).convert("F").resize((24, 24)))
        prints.setdefault(row["patient_id"], []).append(small)
    pairs = [pair for shots in prints.values() for pair in combinations(shots, 2)]
    assert len(pairs) > 30
    assert max(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs) < 0.99


def test_t_score_agrees_with_the_label(rows: list[dict[str, str]]) -> None:
    for row in rows:
        low, high = T_LIMITS[row["image"].split("/")[0]]
        assert low <= float(row["t_score"]) <= high
        assert 30 <= int(row["age"]) <= 95
        assert row["sex"] in ("female", "male")


def test_names_tell_neither_class_nor_patient(rows: list[dict[str, str]]) -> None:
    names = [Path(row["image"]).stem for row in rows]
    assert all(len(name) == 4 and int(name, 16) >= 0 for name in names)
    assert len(set(names)) == len(names)


def auc(values: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive's value is the larger; ties count half."""
    difference = values[positive][:, None] - values[~positive][None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def facts(path: Path) -> list[float]:
    with Image.open(path) as picture:
        top = 4095 if picture.mode.startswith("I") else 255
        return [np.asarray(picture).mean() / top, picture.width, picture.height, picture.format == "JPEG"]


def test_brightness_size_and_format_do_not_tell_the_class(folder: Path, good: list[dict[str, str]]) -> None:
    values = np.array([facts(folder / row["image"]) for row in good], float)  # (N, 4)
    labels = np.array([row["image"].split("/")[0] for row in good])
    for name in sample.FOLDERS:
        for column, what in enumerate(("brightness", "width", "height", "format")):
            assert auc(values[:, column], labels == name) == pytest.approx(0.5, abs=0.16), (name, what)
        assert np.mean(values[labels == name, 3]) == pytest.approx(0.2, abs=0.03)


def test_sides_are_a_few_hundred_pixels(folder: Path, good: list[dict[str, str]]) -> None:
    sizes = [facts(folder / row["image"])[1:3] for row in good]
    assert len(set(map(tuple, sizes))) > 100
    assert min(map(min, sizes)) >= 260
    assert max(map(max, sizes)) <= 420


def test_age_says_little_about_the_class(good: list[dict[str, str]]) -> None:
    ages = np.array([float(row["age"]) for row in good])
    labels = np.array([row["image"].split("/")[0] for row in good])
    ends = labels != "osteophenia"
    assert 0.5 < auc(ages[ends], labels[ends] == "Osteoporosis") < 0.85


def test_what_is_planted_is_listed(planted: list[dict[str, str]]) -> None:
    kinds = Counter(defect["kind"] for defect in planted)
    single = ("folder_spelling", "sixteen_bit", "conflict", "mirrored", "rescaled_jpeg", "truncated", "empty")
    assert kinds == {**dict.fromkeys(single, 1), "byte_identical": 2}


def test_nothing_but_the_listed_copies_is_identical(folder: Path, planted: list[dict[str, str]]) -> None:
    same: dict[str, set[str]] = {}
    for path, digest in digests(folder).items():
        same.setdefault(digest, set()).add(path)
    listed = [{d["path"], d["of"]} for d in planted if d["kind"] in ("byte_identical", "conflict")]
    found = [paths for paths in same.values() if len(paths) > 1]
    assert sorted(map(sorted, found)) == sorted(map(sorted, listed))


def test_copies_are_registered_as_other_patients(rows: list[dict[str, str]], planted: list[dict[str, str]]) -> None:
    patient = {row["image"]: row["patient_id"] for row in rows}
    copies = [d for d in planted if d["kind"] in ("byte_identical", "mirrored", "rescaled_jpeg", "conflict")]
    assert all(patient[d["path"]] != patient[d["of"]] for d in copies)


def test_conflicting_copies_stand_in_two_classes(planted: list[dict[str, str]]) -> None:
    conflict = one(planted, "conflict")
    assert conflict["of"].startswith("Normal/")
    assert conflict["path"].startswith("osteophenia/")
    others = [d for d in planted if d["kind"] not in ("conflict", "folder_spelling", "sixteen_bit")]
    assert all(d["path"].split("/")[0] == d["of"].split("/")[0] for d in others)


def test_mirrored_copy_is_mirrored(folder: Path, planted: list[dict[str, str]]) -> None:
    copy = one(planted, "mirrored")
    assert np.array_equal(pixels(folder / copy["path"])[:, ::-1], pixels(folder / copy["of"]))


def test_rescaled_copy_is_a_smaller_jpeg_of_the_same_picture(folder: Path, planted: list[dict[str, str]]) -> None:
    copy = one(planted, "rescaled_jpeg")
    with Image.open(folder / copy["path"]) as small, Image.open(folder / copy["of"]) as large:
        assert (small.format, large.format) == ("JPEG", "PNG")
        assert small.width < 0.75 * large.width
        a, b = (np.asarray(p.convert("F").resize((64, 64))).ravel() for p in (small, large))
    assert np.corrcoef(a, b)[0, 1] > 0.995


def test_truncated_file_does_not_decode(folder: Path, planted: list[dict[str, str]]) -> None:
    cut = one(planted, "truncated")
    data = (folder / cut["path"]).read_bytes()
    assert (folder / cut["of"]).read_bytes().startswith(data)
    with pytest.raises(OSError, match="truncated"):
        pixels(folder / cut["path"])


def test_empty_file_is_empty(folder: Path, planted: list[dict[str, str]]) -> None:
    assert (folder / one(planted, "empty")["path"]).stat().st_size == 0


def test_sixteen_bit_picture_holds_twelve_bits(folder: Path, planted: list[dict[str, str]]) -> None:
    deep = folder / one(planted, "sixteen_bit")["path"]
    with Image.open(deep) as picture:
        assert picture.mode.startswith("I")
    assert 255 * 8 < pixels(deep).max() <= 4095


def test_all_but_the_damaged_files_decode_to_eight_bit_grey(
    folder: Path, rows: list[dict[str, str]], planted: list[dict[str, str]]
) -> None:
    special = {d["path"] for d in planted if d["kind"] in UNSOUND | {"sixteen_bit"}}
    for row in rows:
        if row["image"] not in special:
            grey = pixels(folder / row["image"])
            assert (grey.ndim, grey.dtype) == (2, np.uint8)
            assert grey.std() > 20


def test_osteoporosis_thins_the_cortex_and_coarsens_the_trabeculae() -> None:
    healthy, worse, worst = map(phantom.Bone.of, (0, 1, 2))
    assert healthy.cortex > worse.cortex > worst.cortex > 0
    assert healthy.volume > worse.volume > worst.volume > 0
    assert healthy.spacing < worse.spacing < worst.spacing

"""The sample is reproducible, its defects are listed, and only the bone depends on the class."""

from __future__ import annotations

import csv
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bonelib.data.phantom import radiograph
from bonelib.data.sample import SAMPLE_FOLDERS, make_sample
from bonelib.messages import DataError
from bonelib.storage import file_digest, list_files

T_LIMITS = {"Normal": (-1.0, 9.0), "osteophenia": (-2.5, -1.0), "Osteoporosis": (-9.0, -2.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("data") / "sample", seed=3, images=150)


@pytest.fixture(scope="module")
def planted(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / "planted.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def good(rows: list[dict[str, str]], planted: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of the distinct good images."""
    added = {defect["path"] for defect in planted if defect["kind"] != "sixteen_bit"}
    return [row for row in rows if row["image"] not in added]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def only(planted: list[dict[str, str]], kind: str) -> dict[str, str]:
    (defect,) = [defect for defect in planted if defect["kind"] == kind]
    return defect


def folder_of(path: str) -> str:
    return path.split("/")[0]


def digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name, *_ in list_files(folder)}


def test_seed_decides_every_byte(tmp_path):
    first = digests(make_sample(tmp_path / "a", 1, 60))
    assert first == digests(make_sample(tmp_path / "b", 1, 60))
    shared = set(first.values()) & set(digests(make_sample(tmp_path / "c", 2, 60)).values())
    (tmp_path / "empty").touch()
    assert shared == {file_digest(tmp_path / "empty")}


def test_sample_is_never_written_over_other_files(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="mine"):
        make_sample(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_runs_at_once_make_one_sample(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: make_sample(tmp_path / "s", 0, 60), range(2)))
    assert made[0] == made[1] and len(list_files(made[0])) == 60 + 7 + 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_smallest_sample_has_seven_patients_of_each_class(tiny):
    with (tiny / "metadata.csv").open() as file:
        patients = {(folder_of(row["image"]), row["patient_id"]) for row in csv.DictReader(file)}
    # Seven defective files have patients of their own.
    assert sum(Counter(label for label, _ in patients).values()) == 30 + 7
    assert min(Counter(label for label, _ in patients).values()) >= 7


def test_classes_are_imbalanced(good):
    counts = Counter(folder_of(row["image"]) for row in good)
    assert len(good) == 150
    shares = [counts[name] / 150 for name in SAMPLE_FOLDERS]
    assert shares == pytest.approx([0.45, 0.33, 0.22], abs=0.02)


def test_every_file_has_a_row_and_every_row_a_file(folder, rows):
    files = {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    assert sorted(files) == [row["image"] for row in rows]


def test_patient_has_two_images_of_one_class(good):
    labels: dict[str, list[str]] = {}
    for row in good:
        labels.setdefault(row["patient_id"], []).append(folder_of(row["image"]))
    assert all(len(found) == 2 and len(set(found)) == 1 for found in labels.values())


def test_images_of_a_patient_are_no_copies(folder, good):
    small: dict[str, list[np.ndarray]] = {}
    for row in good:
        image = Image.open(folder / row["image"]).convert("F").resize((24, 24))
        small.setdefault(row["patient_id"], []).append(np.asarray(image).ravel())
    pairs = [pair for images in small.values() for pair in combinations(images, 2)]
    assert len(pairs) == 75 and max(np.corrcoef(a, b)[0, 1] for a, b in pairs) < 0.99


def test_metadata_are_plausible_and_t_scores_agree_with_the_labels(rows):
    for row in rows:
        low, high = T_LIMITS[folder_of(row["image"])]
        assert low <= float(row["t_score"]) <= high
        assert 30 <= int(row["age"]) <= 95
        assert row["sex"] in ("female", "male")


def test_names_depend_on_neither_class_nor_patient(rows):
    names = [Path(row["image"]).stem for row in rows]
    assert all(len(name) == 4 and int(name, 16) >= 0 for name in names)
    assert len(set(names)) == len(names)


def auroc(values: np.ndarray, positive: np.ndarray) -> float:
    difference = values[positive][:, None] - values[~positive][None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def facts(path: Path) -> list[float]:
    with Image.open(path) as image:
        white = 4095 if image.mode.startswith("I") else 255
        mean = np.asarray(image).mean() / white
        return [mean, image.width, image.height, image.format == "JPEG"]


def test_brightness_size_and_format_do_not_depend_on_the_class(folder, good):
    values = np.array([facts(folder / row["image"]) for row in good], float)  # (N, 4)
    labels = np.array([folder_of(row["image"]) for row in good])
    for name in SAMPLE_FOLDERS:
        for column in range(4):
            found = auroc(values[:, column], labels == name)
            assert found == pytest.approx(0.5, abs=0.16), (name, column)
        assert np.mean(values[labels == name, 3]) == pytest.approx(0.2, abs=0.03)


def test_images_have_many_sizes_of_260_to_420_pixels(folder, good):
    sizes = [facts(folder / row["image"])[1:3] for row in good]
    assert len(set(map(tuple, sizes))) > 100
    assert min(map(min, sizes)) >= 260 and max(map(max, sizes)) <= 420


def test_age_predicts_the_class_a_little(good):
    ages = np.array([float(row["age"]) for row in good])
    labels = np.array([folder_of(row["image"]) for row in good])
    ends = labels != "osteophenia"
    assert 0.5 < auroc(ages[ends], labels[ends] == "Osteoporosis") < 0.85


def test_planted_defects_are_listed(planted):
    single = ("folder_spelling", "sixteen_bit", "conflict", "mirrored")
    single += ("rescaled_jpeg", "truncated", "empty")
    kinds = Counter(defect["kind"] for defect in planted)
    assert kinds == {**dict.fromkeys(single, 1), "byte_identical": 2}


def test_only_the_listed_copies_are_identical(folder, planted):
    paths: dict[str, set[str]] = {}
    for path, digest in digests(folder).items():
        paths.setdefault(digest, set()).add(path)
    identical = ("byte_identical", "conflict")
    listed = [{d["path"], d["of"]} for d in planted if d["kind"] in identical]
    found = [same for same in paths.values() if len(same) > 1]
    assert sorted(map(sorted, found)) == sorted(map(sorted, listed))


def test_copies_are_registered_as_other_patients(rows, planted):
    patient = {row["image"]: row["patient_id"] for row in rows}
    copies = [d for d in planted if d["of"] in patient]
    assert len(copies) == 7 and all(patient[d["path"]] != patient[d["of"]] for d in copies)


def test_only_the_conflicting_copy_changes_its_class(planted):
    conflict = only(planted, "conflict")
    assert folder_of(conflict["of"]) == "Normal" and folder_of(conflict["path"]) == "osteophenia"
    others = [d for d in planted if d["of"].endswith(("png", "jpg")) and d["kind"] != "conflict"]
    assert len(others) == 6
    assert all(folder_of(d["path"]) == folder_of(d["of"]) for d in others)


def test_mirrored_copy_is_mirrored(folder, planted):
    copy = only(planted, "mirrored")
    assert np.array_equal(pixels(folder / copy["path"])[:, ::-1], pixels(folder / copy["of"]))


def test_rescaled_copy_is_a_smaller_jpeg_of_the_same_image(folder, planted):
    copy = only(planted, "rescaled_jpeg")
    with Image.open(folder / copy["path"]) as small, Image.open(folder / copy["of"]) as large:
        assert (small.format, large.format) == ("JPEG", "PNG")
        assert small.width < 0.75 * large.width
        a, b = (np.asarray(i.convert("F").resize((64, 64))).ravel() for i in (small, large))
    assert np.corrcoef(a, b)[0, 1] > 0.995


def test_truncated_file_is_a_part_of_its_source_that_does_not_decode(folder, planted):
    truncated = only(planted, "truncated")
    content = (folder / truncated["path"]).read_bytes()
    assert (folder / truncated["of"]).read_bytes().startswith(content)
    with pytest.raises(OSError, match="truncated"):
        pixels(folder / truncated["path"])
    assert (folder / only(planted, "empty")["path"]).stat().st_size == 0


def test_one_image_has_twelve_bits_and_the_others_eight(folder, rows, planted):
    deep = only(planted, "sixteen_bit")["path"]
    assert 255 * 8 < pixels(folder / deep).max() <= 4095
    damaged = {only(planted, kind)["path"] for kind in ("truncated", "empty")}
    for row in rows:
        if row["image"] not in damaged | {deep}:
            grey = pixels(folder / row["image"])
            assert (grey.ndim, grey.dtype) == (2, np.uint8) and grey.std() > 20


def test_trabeculae_stand_out_with_bone_loss():
    def contrast(loss: float) -> float:
        """Of the detail below the joint; the mean of eight knees."""
        contrasts = []
        for seed in range(8):
            image = radiograph(np.random.default_rng(seed), loss, (400, 400)).astype(np.float32)
            detail = cv2.GaussianBlur(image, (0, 0), 2) - cv2.GaussianBlur(image, (0, 0), 15)
            contrasts.append(detail[220:270, 140:260].std())
        return float(np.mean(contrasts))

    healthy, worse, worst = map(contrast, (0, 1, 2))
    assert healthy < 0.8 * worse < 0.8**2 * worst

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import audit, catalog, defects, images, names, sample, shortcuts
from bonelib.config import Config

SHARED = Path(__file__).parents[2] / "shared"


def run(data, cache):
    cfg = Config(data=str(data), cache=str(cache))
    table, thumbs, root = catalog.catalog(cfg)
    return audit.audit(table, thumbs, cfg, root)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = sample.make(tmp_path_factory.mktemp("sample"), images=120)
    return (*run(folder, tmp_path_factory.mktemp("cache")), json.loads((folder / "planted.json").read_text()))


def test_every_planted_copy_is_found_and_nothing_else(audited):
    _, findings, planted = audited
    kinds = {"conflict", "byte_identical", "mirrored", "rescaled_jpeg"}
    expected = {frozenset((p["path"], p["of"])) for p in planted if p["kind"] in kinds}
    assert {frozenset(c["paths"]) for c in findings["clusters"]} == expected


def test_planted_defects_are_flagged_and_nothing_else(audited):
    _, findings, planted = audited
    broken = {p["path"] for p in planted if p["kind"] in ("truncated", "empty")}
    assert set(findings["defects"]) == {"unreadable"}
    assert set(findings["defects"]["unreadable"]) == broken


def test_copies_with_different_labels_are_set_aside(audited):
    table, _, planted = audited
    pair = next({p["path"], p["of"]} for p in planted if p["kind"] == "conflict")
    assert set(table["path"][audit.has(table, "conflict")]) == pair
    assert not set(table["path"][audit.usable(table)]) & pair


def test_the_flow_of_counts_goes_down_to_what_is_used(audited):
    table, findings, _ = audited
    steps = findings["flow"]
    assert list(steps) == ["found", "readable", "unique", "unconflicted", "used"]
    assert list(steps.values()) == sorted(steps.values(), reverse=True)
    assert steps["found"] == len(table) and steps["used"] == audit.usable(table).sum()


def test_findings_fit_into_json(audited):
    assert json.loads(json.dumps(audited[1])) == audited[1]


def test_groups_join_copies_and_patients_transitively():
    grey = np.random.default_rng(0).integers(0, 255, (5, 224, 224), np.uint8)
    grey[3] = grey[0]  # a copy of p1's picture, registered as p2's
    table = pd.DataFrame({
        "path": [f"{x}.png" for x in "abcde"], "label": "Normal", "patient": ["p1", "p1", "p2", "p2", ""], "width": 224, "height": 224,
        "format": "PNG", "bytes": 9, "sha256": list("vwxyz"), "status": "ok", "group": "", "issues": "",
    })  # fmt: skip
    done, _ = audit.audit(table, grey, Config(), Path())
    assert done["group"].iloc[:4].nunique() == 1
    assert done["group"].iloc[4] != done["group"].iloc[0]
    assert done["issues"].tolist() == ["", "", "", "copy", ""]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_real_spines_give_the_clusters_that_a_person_sees(tmp_path):
    _, findings = run(SHARED / "data" / "spine_dxa", tmp_path)
    seen = [
        {"Normal/26", "Normal/34"}, {"Normal/30", "Normal/32"}, {"Normal/42", "Normal/43"},
        {"Normal/44", "Normal/45", "Normal/46"}, {"osteophenia/47", "osteophenia/48"},
        {"osteophenia/53", "osteophenia/54"}, {"osteoporosis/12", "osteoporosis/13"},
        {"osteoporosis/40", "osteoporosis/41"},
    ]  # fmt: skip
    assert sorted(sorted(c["paths"]) for c in findings["clusters"]) == sorted(
        sorted(f"{n}.png" for n in s) for s in seen
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_different_knees_are_not_joined(tmp_path):
    _, findings = run(SHARED / "data" / "knee_xray", tmp_path)
    assert findings["clusters"] == []


def test_age_that_predicts_the_class_is_flagged_and_noise_is_not():
    rng = np.random.default_rng(0)
    label = pd.Series(np.repeat(["Normal", "Osteopenia", "Osteoporosis"], 60))
    seen = pd.DataFrame({"age": np.repeat([40, 60, 75], 60) + rng.normal(0, 6, 180), "width": rng.normal(size=180)})
    found = {s["name"]: s for s in shortcuts.shortcuts(seen, label, pd.Series(np.arange(180).astype(str)))}
    assert found["age"]["low"] > 0.8 and "predicts the class" in found["age"]["warning"]
    assert found["width"]["low"] < 0.55 and found["width"]["warning"] is None


def test_an_age_far_from_all_others_is_reported_and_a_high_one_is_not():
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(30)], "age": [*range(50, 79), 107]})
    assert [(o["path"], o["value"]) for o in defects.odd_values(rows, ["age"])] == [("29.png", 107)]
    rows["age"] = [*range(50, 79), 84]
    assert defects.odd_values(rows, ["age"]) == []
    rows.loc[3, "age"] = -4
    assert [o["reason"] for o in defects.odd_values(rows, ["age"])] == ["is no possible age"]


def test_defects_of_single_pictures_are_named(tmp_path):
    xray = np.zeros((224, 224), np.uint8)
    xray[:, 60:160] = 150
    xray += np.random.default_rng(0).integers(0, 20, xray.shape, np.uint8)
    colour = np.repeat(xray[:, :, None], 3, 2)
    colour[50:53, 20:200] = (255, 220, 0)
    made = {
        "good.png": xray, "blank.png": np.full((224, 224), 9, np.uint8), "inverted.png": 255 - xray, "tiny.png": xray[:50, 40:90],
        "drawn.png": colour, "long.png": xray[:64], "dark.png": xray // 8,
    }  # fmt: skip
    for name, pixels in made.items():
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(xray).save(tmp_path / "jpeg.png", "JPEG")
    paths = [*made, "jpeg.png"]
    thumbs, rows = images.cache(tmp_path, paths, 224, tmp_path / "cache")
    rows.insert(0, "path", paths)
    found = defects.defects(rows, thumbs, defects.overlays(tmp_path, paths))
    assert dict(zip(paths, found, strict=True)) == {
        "good.png": set(), "blank.png": {"blank"}, "inverted.png": {"inverted"}, "tiny.png": {"tiny"},
        "drawn.png": {"overlay"}, "long.png": {"aspect"}, "dark.png": {"dark"}, "jpeg.png": {"extension"},
    }  # fmt: skip


def test_names_tell_copies_only_of_what_is_there():
    paths = ["a/OP130.jpg", "b/OP130_aug_0.jpeg", "b/OP130_aug_1.jpeg", "a/img (1).png", "a/img (2).png", "a/x.png"]
    paths += ["a/x - Copy.png", "a/x (2).png"]
    links = {(paths[a], paths[b]) for a, b, _ in names.made_from(paths)}
    assert links == {
        ("a/OP130.jpg", "b/OP130_aug_0.jpeg"), ("a/OP130.jpg", "b/OP130_aug_1.jpeg"),
        ("a/x.png", "a/x - Copy.png"), ("a/x.png", "a/x (2).png"),
    }  # fmt: skip


def test_patients_in_file_names_are_suggested_with_their_number():
    said = names.patients([f"{1234567 + i // 3}_study1_{i % 3}.jpg" for i in range(30)])
    assert r"patient_regex = '^(\\d{4,})[_-]'" in said and "10 patients in 30 of 30 images" in said
    assert names.patients([f"N{i}.jpg" for i in range(30)]) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_real_knees_report_the_impossible_age_and_that_age_tells_the_class(tmp_path):
    _, findings = run(SHARED / "data" / "knee_xray", tmp_path)
    assert [(o["path"], o["value"]) for o in findings["metadata"]["odd"]] == [("osteoporosis/OS27.jpg", 107)]
    assert [s["name"] for s in findings["shortcuts"] if s["warning"]] == ["age"]
    assert findings["defects"] == {}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_real_spines_are_seen_to_be_drawn_over(tmp_path):
    table, _ = run(SHARED / "data" / "spine_dxa", tmp_path)
    assert audit.has(table, "overlay").all()

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import audit, defects, images, names, shortcuts
from bonelib.config import Config


@pytest.fixture(scope="module")
def found(audited, tiny):
    """The sample's audited table, the findings, and what was planted in it."""
    return (*audited(tiny), json.loads((tiny / "planted.json").read_text()))


def test_every_planted_copy_is_found_and_nothing_else(found):
    _, findings, planted = found
    kinds = {"conflict", "byte_identical", "mirrored", "rescaled_jpeg"}
    expected = {frozenset((p["path"], p["of"])) for p in planted if p["kind"] in kinds}
    assert {frozenset(c["paths"]) for c in findings["clusters"]} == expected


def test_planted_defects_are_flagged_and_nothing_else(found):
    _, findings, planted = found
    broken = {p["path"] for p in planted if p["kind"] in ("truncated", "empty")}
    assert set(findings["defects"]) == {"unreadable"}
    assert set(findings["defects"]["unreadable"]) == broken


def test_copies_with_different_labels_are_set_aside(found):
    table, _, planted = found
    pair = next({p["path"], p["of"]} for p in planted if p["kind"] == "conflict")
    assert set(table["path"][audit.has(table, "conflict")]) == pair
    assert not set(table["path"][audit.usable(table)]) & pair


def test_the_flow_of_counts_goes_down_to_what_is_used(found):
    table, findings, _ = found
    steps = findings["flow"]
    assert list(steps) == ["found", "readable", "unique", "unconflicted", "used"]
    assert list(steps.values()) == sorted(steps.values(), reverse=True)
    assert steps["found"] == len(table) and steps["used"] == audit.usable(table).sum()


def test_findings_fit_into_json(found):
    assert json.loads(json.dumps(found[1])) == found[1]


def made(count: int, **columns: list) -> tuple[pd.DataFrame, np.ndarray]:
    """A catalogued table of `count` readable images, and as many pictures of noise; `columns` in place of the plain ones."""
    plain = {
        "path": [f"{chr(97 + i)}.png" for i in range(count)], "label": "Normal", "patient": "", "width": 224, "height": 224,
        "format": "PNG", "bytes": 9, "sha256": [f"{i}" for i in range(count)], "status": "ok", "group": "", "issues": "",
    }  # fmt: skip
    table = pd.DataFrame(plain | columns)
    readable = int((table["status"] == "ok").sum())
    return table, np.random.default_rng(0).integers(0, 255, (readable, 224, 224), np.uint8)


def test_groups_join_copies_names_and_patients_transitively():
    table, grey = made(8, patient=["p1", "p1", "p2", "p2", "", None, "", None])
    table["path"] = ["a.png", "b.png", "c.png", "d.png", "e.png", "x/f.png", "y/f_aug_1.png", "g.png"]
    grey[3] = grey[0]  # a copy of p1's picture, registered as p2's
    done, findings = audit.audit(table, grey, Config(), Path())
    assert done["group"].tolist() == ["g00000"] * 4 + ["g00001", "g00002", "g00002", "g00003"]
    assert done["issues"].tolist() == ["", "", "", "copy", "", "", "", ""], "a name binds the group, no more"
    assert findings["named"] == [{"paths": ["x/f.png", "y/f_aug_1.png"], "reason": "named as made from f"}]
    assert (findings["groups"], findings["patients"]) == (4, 2)


def linked(*pairs: tuple[int, int, str, float]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["a", "b", "kind", "confidence"])


def test_the_largest_of_a_set_of_copies_is_kept_then_the_file_of_most_bytes_then_the_first(monkeypatch):
    pairs = linked(
        (6, 7, "x", 1.0), (0, 1, "mirrored; resized", 0.98765), (1, 3, "same file", 1.0), (2, 4, "mirrored", 0.9)
    )
    monkeypatch.setattr(audit.copies, "find", lambda thumbs, rows: pairs)
    table, grey = made(
        9, status=["ok"] * 4 + ["empty"] + ["ok"] * 4, width=[300, 224, 150, 200, 9, 200, 224, 224, 224],
        height=[200, 224, 200, 310, 9, 150, 224, 224, 224], bytes=[9, 99, 10, 9, 9, 11, 8, 8, 8],
        label=["Normal"] * 3 + ["Osteopenia"] + ["Normal"] * 5, format=["PNG", "JPEG"] + ["PNG"] * 7, group="stale",
    )  # fmt: skip
    done, findings = audit.audit(table, grey, Config(), Path())
    assert findings["clusters"] == [
        {"paths": ["h.png", "i.png"], "labels": ["Normal", "Normal"], "kept": "h.png", "kinds": ["x"],
         "confidence": 1.0, "conflict": False},
        {"paths": ["a.png", "b.png", "d.png"], "labels": ["Normal", "Normal", "Osteopenia"], "kept": "d.png",
         "kinds": ["mirrored", "resized", "same file"], "confidence": 0.988, "conflict": True},
        {"paths": ["c.png", "f.png"], "labels": ["Normal", "Normal"], "kept": "f.png", "kinds": ["mirrored"],
         "confidence": 0.9, "conflict": False},
    ]  # fmt: skip
    assert findings["conflicts"] == findings["clusters"][1:2]
    assert findings["defects"] == {"extension": ["b.png"], "unreadable": ["e.png"]}
    both = "conflict;copy"
    assert done["issues"].tolist() == [both, f"{both};extension", "copy", "conflict", "unreadable", "", "", "", "copy"]
    assert done["group"].tolist() == ["g00000"] * 2 + ["g00001", "g00000", "", "g00001", "g00002", "g00003", "g00003"]
    assert findings["flow"] == {"found": 9, "readable": 8, "unique": 4, "unconflicted": 3, "used": 3}
    assert table["issues"].eq("").all() and table["group"].eq("stale").all(), "the given table stays as it is"
    assert list(done) == list(table)


def test_what_is_found_is_told_in_full(monkeypatch):
    asked = {}

    def noted(name, answer):
        return lambda *given: asked.update({name: given}) or answer

    suspects = [{"name": "age", "warning": "Age tells."}, {"name": "width", "warning": None}]
    monkeypatch.setattr(audit.copies, "find", noted("copies", linked()))
    monkeypatch.setattr(audit.defects, "overlays", noted("files", np.arange(9) / 8))
    monkeypatch.setattr(audit.shortcuts, "measure", lambda rows, *given: asked.update(measured=given) or rows[["path"]])
    monkeypatch.setattr(audit.shortcuts, "shortcuts", noted("suspects", suspects))
    table, grey = made(10, status=["ok", "empty"] + ["ok"] * 8, label=["Normal"] * 9 + ["Osteopenia"])
    grey[1] = 7  # c.png is blank
    table["age"], table["given_split"] = [50, 60, 70, 55, 65, 58, 59, 61, 62, -4], ["1"] * 9 + ["x"]
    table.attrs |= {"metadata_unmatched": ["metadata.csv: z"], "ignored": ["notes.txt", "x.txt"]}
    done, findings = audit.audit(table, grey, Config(seed=5), Path("there"))

    readable, used = [f"{x}.png" for x in "acdefghij"], [f"{x}.png" for x in "adefghij"]
    assert asked["files"] == (Path("there"), readable)
    assert asked["copies"][0] is grey and asked["copies"][1]["path"].tolist() == readable
    assert np.array_equal(asked["measured"][0], np.delete(grey, 1, 0))
    assert asked["measured"][1].tolist() == (np.delete(np.arange(9), 1) / 8).tolist()
    seen, labels, groups, seed = asked["suspects"]
    assert list(seen) == ["path"], "the number of a row is no shortcut"
    assert (seen["path"].tolist(), list(seen.index), seed) == (used, list(range(8)), 5)
    assert (labels.tolist(), list(labels.index)) == (["Normal"] * 7 + ["Osteopenia"], list(range(8)))
    assert (groups.tolist(), list(groups.index)) == (["g00000", *(f"g0000{i}" for i in range(2, 9))], list(range(8)))
    assert done["issues"].tolist() == ["", "unreadable", "blank"] + ["overlay"] * 7
    odd = {"path": "j.png", "column": "age", "value": -4, "reason": "is no possible age"}
    assert findings == {
        "flow": {"found": 10, "readable": 9, "unique": 9, "unconflicted": 9, "used": 8}, "clusters": [], "conflicts": [],
        "named": [], "groups": 9, "patients": 0, "shortcuts": suspects, "warnings": ["Age tells."],
        "defects": {"blank": ["c.png"], "overlay": used[1:], "unreadable": ["b.png"]},
        "metadata": {"odd": [odd], "unmatched": ["metadata.csv: z"]},
        "notes": ["No pictures by their names, and passed over: 2 files, e.g. 'notes.txt'.",
                  "j.png: age -4 is no possible age."],
    }  # fmt: skip


def test_as_many_pictures_as_readable_rows_are_asked_for():
    table, grey = made(3, status=["ok", "ok", "empty"])
    with pytest.raises(ValueError) as error:
        audit.audit(table, grey[:1], Config(), Path())
    assert str(error.value) == "found 1 thumbs for 2 readable images, expected as many"


def test_notes_tell_what_was_not_sought_and_which_patients_the_names_show(monkeypatch):
    monkeypatch.setattr(audit.copies, "find", lambda thumbs, rows: linked())
    monkeypatch.setattr(audit.copies, "ANY_ANGLE", 12)
    table, grey = made(13, path=[f"{1234567 + i // 3}_{i % 3}.png" for i in range(13)])
    said = "Of 13 images, above 12 different ones turned and cropped copies are not sought."
    assert audit.audit(table.assign(patient="p1"), grey, Config(), Path())[1]["notes"] == [said]
    notes = audit.audit(table[:12], grey[:12], Config(), Path())[1]["notes"]
    assert len(notes) == 1 and "patient_regex" in notes[0]
    known = made(22)[0].assign(path=[f"n/n{i}_aug_{i}.png" for i in range(22)])
    assert "knee set of 224 pixels" in audit.audit(known, made(22)[1], Config(), Path())[1]["notes"][0]


def test_issues_are_words_apart_from_each_other():
    table = pd.DataFrame({"issues": ["", "copy", "overlay;copy", "copyright", None], "status": "ok"})
    assert audit.has(table, "copy").tolist() == [False, True, True, False, False]
    assert audit.has(table, "copy", "overlay", "x").tolist() == [False, True, True, False, False]
    assert audit.usable(table).tolist() == [True, False, False, True, True]
    assert audit.usable(table.assign(status=["ok", "ok", "ok", "empty", "ok"])).tolist() == [True, *[False] * 3, True]
    for word, used in (("copy", False), ("conflict", False), ("blank", False), ("overlay", True), ("dark", True)):
        assert audit.usable(pd.DataFrame({"issues": [word], "status": "ok"})).tolist() == [used]


def test_real_spines_give_the_clusters_that_a_person_sees(audited, shared):
    _, findings = audited(shared / "data" / "spine_dxa")
    seen = [
        {"Normal/26", "Normal/34"}, {"Normal/30", "Normal/32"}, {"Normal/42", "Normal/43"},
        {"Normal/44", "Normal/45", "Normal/46"}, {"osteophenia/47", "osteophenia/48"},
        {"osteophenia/53", "osteophenia/54"}, {"osteoporosis/12", "osteoporosis/13"},
        {"osteoporosis/40", "osteoporosis/41"},
    ]  # fmt: skip
    assert sorted(sorted(c["paths"]) for c in findings["clusters"]) == sorted(
        sorted(f"{n}.png" for n in s) for s in seen
    )


def test_different_knees_are_not_joined(audited, shared):
    _, findings = audited(shared / "data" / "knee_xray")
    assert findings["clusters"] == []


def test_age_that_predicts_the_class_is_flagged_and_noise_is_not():
    rng = np.random.default_rng(0)
    label = pd.Series(np.repeat(["Normal", "Osteopenia", "Osteoporosis"], 60))
    seen = pd.DataFrame({"age": np.repeat([40, 60, 75], 60) + rng.normal(0, 6, 180), "width": rng.normal(size=180)})
    found = {s["name"]: s for s in shortcuts.shortcuts(seen, label, pd.Series(np.arange(180).astype(str)))}
    assert found["age"]["low"] > 0.8 and "predicts the class" in found["age"]["warning"]
    assert found["width"]["low"] < 0.55 and found["width"]["warning"] is None


def test_what_cannot_be_told_apart_is_no_shortcut():
    label = pd.Series(np.repeat(["Normal", "Osteopenia", "Osteoporosis"], 20))
    group, same = pd.Series(np.arange(60).astype(str)), pd.DataFrame({"width": [7.0] * 60})
    assert shortcuts.shortcuts(same, label, group)[0] == {
        "name": "width", "auroc": 0.5, "low": 0.5, "high": 0.5, "warning": None
    }  # fmt: skip
    assert shortcuts.shortcuts(same, label, group.where(label != "Normal", "one patient")) == []
    assert shortcuts.shortcuts(same[:40], label[:40], group[:40]) == [], "a class is missing"


def test_of_a_large_set_some_images_are_looked_at(monkeypatch):
    asked, intervals = [], shortcuts.metrics.intervals
    monkeypatch.setattr(shortcuts, "MOST", 90)
    monkeypatch.setattr(
        shortcuts.metrics, "intervals", lambda y, *a, **k: asked.append(len(y)) or intervals(y, *a, **k)
    )
    label = pd.Series(np.repeat(["Normal", "Osteopenia", "Osteoporosis"], 60))
    seen = pd.DataFrame({"file format": np.repeat(["PNG", "JPEG", "TIFF"], 60)})
    (found,) = shortcuts.shortcuts(seen, label, pd.Series(np.arange(180).astype(str)))
    assert asked == [90] and found["auroc"] == 1 and found["warning"].startswith("File format alone predicts")


def test_what_is_not_bone_is_measured_by_hand():
    thumbs = np.zeros((2, 100, 100), np.uint8)
    thumbs[0, 25:75] = np.tile(np.arange(100, 200, dtype=np.uint8), (50, 1))  # a wide picture, letterboxed
    thumbs[1, :, 20:80] = np.random.default_rng(0).integers(90, 250, (100, 60))  # black on both sides
    rows = pd.DataFrame({"width": [200, 100], "height": [100, 100], "format": ["PNG", "JPEG"], "bytes": [np.e, 1.0],
                         "age": [50, 60], "t_score": [-1, -2], "given_split": "train"})  # fmt: skip
    seen = shortcuts.measure(rows, thumbs, np.array([0.0, 0.1]))
    assert list(seen) == ["file format", "width", "height", "file size", "mean brightness", "empty border",
                          "brightness at the border", "colour overlay", "age"]  # fmt: skip
    assert seen["mean brightness"][0] == pytest.approx(149.5)
    assert seen["empty border"].tolist() == pytest.approx([0, 0.4])
    assert seen["brightness at the border"][0] == pytest.approx(149.5)
    assert seen["file size"][0] == 1 and seen["colour overlay"].tolist() == [0, 0.1]


def test_a_word_among_numbers_is_reported():
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(12)], "weight": [*range(50, 61), "heavy"], "site": "a"})
    assert defects.odd_values(rows, ["weight", "site"]) == [
        {"path": "11.png", "column": "weight", "value": "heavy", "reason": "is no number, as the others are"}
    ]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((36, 154, 49), "21 groups of its images are identical"),
        ((780, 374, 793), "1,947 images"),
        ((36, 154, 50), None),
    ],
)
def test_known_sets_are_recognised_by_their_counts(counts, words):
    labels = [c for c, n in zip(("Normal", "Osteopenia", "Osteoporosis"), counts, strict=True) for _ in range(n)]
    said = names.known_set(pd.DataFrame({"label": labels, "path": [f"{i}.png" for i in range(len(labels))]}))
    assert said is None if words is None else words in said


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


def test_colour_is_found_in_large_pictures_and_in_those_of_a_palette(tmp_path):
    grey = np.random.default_rng(0).integers(0, 200, (1200, 1400, 1), np.uint8).repeat(3, 2)
    drawn = grey.copy()
    drawn[900:960, 100:1200] = (255, 220, 0)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(drawn).save(tmp_path / "drawn.jpg")
    Image.fromarray(drawn).quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(drawn[..., 0]).save(tmp_path / "l.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:100])
    share = defects.overlays(tmp_path, ["grey.png", "drawn.jpg", "palette.png", "l.png", "broken.png", "absent.png"])
    assert share[[0, 3, 4, 5]].tolist() == [0, 0, 0, 0]
    assert share[1:3] == pytest.approx([60 * 1100 / (1200 * 1400)] * 2, rel=0.1)


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


def test_real_knees_report_the_impossible_age_and_that_age_tells_the_class(audited, shared):
    _, findings = audited(shared / "data" / "knee_xray")
    assert [(o["path"], o["value"]) for o in findings["metadata"]["odd"]] == [("osteoporosis/OS27.jpg", 107)]
    assert [s["name"] for s in findings["shortcuts"] if s["warning"]] == ["age"]
    assert findings["defects"] == {}


def test_real_spines_are_seen_to_be_drawn_over(audited, shared):
    table, _ = audited(shared / "data" / "spine_dxa")
    assert audit.has(table, "overlay").all()

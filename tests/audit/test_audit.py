"""The audit finds what is wrong with a data set, and nothing else."""

import dataclasses
import json

import pandas as pd
import pytest

from bonelib.audit import copies, shortcuts
from bonelib.audit.audit import audit
from bonelib.config import CLASSES, Config
from bonelib.data.catalog import Catalog, has_issue, usable
from tests.builders import catalog_of

LINK_COLUMNS = ["a", "b", "kind", "confidence"]


def links(*pairs: tuple[int, int, str, float]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=LINK_COLUMNS)


def levels_and_texts(results: dict) -> list[tuple[str, str]]:
    return [(finding["level"], finding["text"]) for finding in results["findings"]]


@pytest.fixture(scope="module")
def sample(audited, tiny):
    """The sample's audited table, the audit, and what was planted in it."""
    return (*audited(tiny), json.loads((tiny / "planted.json").read_text()))


def test_every_planted_copy_is_found_and_nothing_else(sample):
    _, results, planted = sample
    kinds = {"conflict", "byte_identical", "mirrored", "rescaled_jpeg"}
    expected = {frozenset((p["path"], p["of"])) for p in planted if p["kind"] in kinds}
    assert len(expected) == 5
    found = {frozenset(cluster["paths"]) for cluster in results["clusters"]}
    assert found == expected


def test_planted_copies_are_described_by_what_was_done(sample):
    _, results, planted = sample
    kinds = {frozenset(cluster["paths"]): cluster["kinds"] for cluster in results["clusters"]}
    words = {"conflict": "same file", "byte_identical": "same file", "mirrored": "mirrored"}
    words["rescaled_jpeg"] = "resized"
    for defect in planted:
        if defect["kind"] in words:
            assert kinds[frozenset((defect["path"], defect["of"]))] == [words[defect["kind"]]]


def test_unreadable_files_are_flagged_and_nothing_else(sample):
    table, results, planted = sample
    broken = {p["path"] for p in planted if p["kind"] in ("truncated", "empty")}
    assert set(results["defects"]) == {"unreadable"}
    assert set(results["defects"]["unreadable"]) == broken
    assert (table["group"] == "").tolist() == (table["issues"] == "unreadable").tolist()
    assert results["metadata"]["odd"] == []


def test_copies_with_different_labels_are_not_used(sample):
    table, results, planted = sample
    pair = next({p["path"], p["of"]} for p in planted if p["kind"] == "conflict")
    assert set(table["path"][has_issue(table, "conflict")]) == pair
    assert not set(table["path"][usable(table)]) & pair
    assert [set(cluster["paths"]) for cluster in results["conflicts"]] == [pair]
    assert any(
        level == "warning" and "2 images" in text for level, text in levels_and_texts(results)
    )


def test_counts_go_down_to_the_images_that_are_used(sample):
    table, results, _ = sample
    counts = results["counts"]
    assert list(counts) == ["found", "readable", "unique", "unconflicted", "used"]
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts["found"] == len(table) and counts["used"] == usable(table).sum()


def test_results_fit_into_json(sample):
    assert json.loads(json.dumps(sample[1])) == sample[1]


@pytest.mark.parametrize("class_names", [("healthy", "ill"), tuple("ABCDE")])
def test_any_number_of_classes_is_audited(class_names):
    count = 4 * len(class_names)
    catalog = catalog_of(count, label=list(class_names) * 4, age=list(range(len(class_names))) * 4)
    table, results = audit(catalog, Config(class_names=class_names))
    assert usable(table).all()
    warned = [found["name"] for found in results["shortcuts"] if found["warning"]]
    assert warned == ["age"]


def test_groups_join_copies_names_and_patients_transitively():
    paths = [*(f"{letter}.png" for letter in "abcde"), "x/f.png", "y/f_aug_1.png", "g.png"]
    patients = ["p1", "p1", "p2", "p2", "", None, "", None]
    catalog = catalog_of(8, path=paths, patient=patients)
    # a copy of an image of p1, registered as one of p2
    catalog.thumbnails[3] = catalog.thumbnails[0]
    table, results = audit(catalog, Config())
    groups = ["g00000"] * 4 + ["g00001", "g00002", "g00002", "g00003"]
    assert table["group"].tolist() == groups
    # a name binds the group and no more
    assert table["issues"].tolist() == ["", "", "", "copy", "", "", "", ""]
    assert [named["paths"] for named in results["named"]] == [["x/f.png", "y/f_aug_1.png"]]
    assert (results["groups"], results["patients"]) == (4, 2)


@pytest.fixture
def linked(monkeypatch):
    """A catalog of nine images in three clusters of copies, one of two labels, and one is empty."""
    pairs = links(
        (6, 7, "x", 1.0),
        (0, 1, "mirrored; resized", 0.98765),
        (1, 3, "same file", 1.0),
        (2, 4, "mirrored", 0.9),
    )
    monkeypatch.setattr(copies, "find_copies", lambda thumbnails, rows: pairs)
    return catalog_of(
        9,
        status=["ok"] * 4 + ["empty"] + ["ok"] * 4,
        width=[300, 224, 150, 200, 9, 200, 224, 224, 224],
        height=[200, 224, 200, 310, 9, 150, 224, 224, 224],
        bytes=[9, 99, 10, 9, 9, 11, 8, 8, 8],
        label=["Normal"] * 3 + ["Osteopenia"] + ["Normal"] * 5,
        format=["PNG", "JPEG"] + ["PNG"] * 7,
    )


def test_the_largest_copy_is_kept_then_the_largest_file_then_the_first(linked):
    _, results = audit(linked, Config())
    clusters = results["clusters"]
    assert [cluster["kept"] for cluster in clusters] == ["h.png", "d.png", "f.png"]
    assert clusters[1] == {
        "paths": ["a.png", "b.png", "d.png"],
        "labels": ["Normal", "Normal", "Osteopenia"],
        "kept": "d.png",
        "kinds": ["mirrored", "resized", "same file"],
        "confidence": 0.988,
        "conflict": True,
    }
    assert results["conflicts"] == clusters[1:2]


def test_copies_conflicts_and_defects_become_issues_and_groups(linked):
    table, results = audit(linked, Config())
    both = "conflict;copy"
    issues = [both, f"{both};extension", "copy", "conflict", "unreadable", "", "", "", "copy"]
    assert table["issues"].tolist() == issues
    numbers = [0, 0, 1, 0, None, 1, 2, 3, 3]
    assert table["group"].tolist() == ["" if n is None else f"g{n:05d}" for n in numbers]
    assert results["defects"] == {"extension": ["b.png"], "unreadable": ["e.png"]}
    expected = {"found": 9, "readable": 8, "unique": 4, "unconflicted": 3, "used": 3}
    assert results["counts"] == expected


def test_the_catalog_stays_as_it_is(linked):
    before = linked.table.copy()
    table, _ = audit(linked, Config())
    pd.testing.assert_frame_equal(linked.table, before)
    assert list(table) == [column for column in before if column != "coloured"]


def test_shortcuts_are_measured_on_the_images_that_are_used(monkeypatch):
    asked = {}

    def find_shortcuts(suspects, y, groups, class_names, seed):
        asked.update(suspects=suspects, y=y, groups=groups, class_names=class_names, seed=seed)
        return [{"name": "age", "warning": "Age predicts."}, {"name": "width", "warning": None}]

    monkeypatch.setattr(shortcuts, "find_shortcuts", find_shortcuts)
    statuses, labels = ["ok", "empty"] + ["ok"] * 8, ["Normal"] * 9 + ["Osteopenia"]
    catalog = catalog_of(10, status=statuses, label=labels, age=range(50, 60), given_split="1")
    # c.png is blank
    catalog.thumbnails[1] = 7
    table, results = audit(catalog, Config(seed=5))
    assert asked["suspects"]["age"].tolist() == [50, *range(53, 60)]
    assert asked["suspects"]["mean brightness"].iloc[1] == catalog.thumbnails[2].mean()
    assert "given_split" not in asked["suspects"] and "path" not in asked["suspects"]
    assert asked["y"].tolist() == [0] * 7 + [1] and asked["class_names"] == CLASSES[:2]
    assert asked["groups"].tolist() == table["group"][usable(table)].tolist()
    assert asked["seed"] == 5
    assert levels_and_texts(results) == [("alarm", "Age predicts.")]


def test_findings_have_levels_and_the_worst_come_first():
    columns = {"label": ["Normal", "Osteopenia"] * 6, "age": [30, 80] * 5 + [-4, 80]}
    catalog = catalog_of(12, **columns)
    # a.png and b.png are one image with two labels
    catalog.thumbnails[1] = catalog.thumbnails[0]
    catalog = dataclasses.replace(catalog, skipped=["notes.txt", "x"], unmatched=["table.csv: z"])
    _, results = audit(catalog, Config())
    found = levels_and_texts(results)
    assert [level for level, _ in found] == ["alarm", "warning", "warning", "note", "note"]
    named = ("Age", "2 images", "k.png", "notes.txt", "table.csv: z")
    assert all(name in text for name, (_, text) in zip(named, found, strict=True))
    assert results["metadata"]["unmatched"] == ["table.csv: z"]


def test_patients_that_only_the_file_names_show_are_suggested():
    paths = [f"{1234567 + i // 3}_{i % 3}.png" for i in range(12)]
    ((level, text),) = levels_and_texts(audit(catalog_of(12, path=paths), Config())[1])
    assert level == "warning" and "patient_regex" in text
    known = catalog_of(12, path=paths, patient="p1")
    assert audit(known, Config())[1]["findings"] == []


def test_a_search_that_was_left_out_is_a_warning(monkeypatch):
    monkeypatch.setattr(copies, "MAX_COMPARED", 12)
    ((level, text),) = levels_and_texts(audit(catalog_of(13), Config())[1])
    assert level == "warning" and "12" in text
    assert audit(catalog_of(12), Config())[1]["findings"] == []


def test_images_that_are_all_set_aside_are_reported_without_shortcuts():
    catalog = catalog_of(3)
    catalog.thumbnails[:] = 9
    _, results = audit(catalog, Config())
    assert results["counts"]["used"] == 0 and results["shortcuts"] == []
    assert results["defects"]["blank"] == ["a.png", "b.png", "c.png"]


def test_as_many_thumbnails_as_readable_rows_are_needed():
    catalog = catalog_of(3, status=["ok", "ok", "empty"])
    short = Catalog(catalog.table, catalog.thumbnails[:1], catalog.root, [], [])
    with pytest.raises((ValueError, IndexError)):
        audit(short, Config())


def test_real_spines_give_the_clusters_that_a_person_sees(audited, real):
    table, results = audited(real / "data" / "spine_dxa")
    expected = [
        ["Normal/26", "Normal/34"],
        ["Normal/30", "Normal/32"],
        ["Normal/42", "Normal/43"],
        ["Normal/44", "Normal/45", "Normal/46"],
        ["osteophenia/47", "osteophenia/48"],
        ["osteophenia/53", "osteophenia/54"],
        ["osteoporosis/12", "osteoporosis/13"],
        ["osteoporosis/40", "osteoporosis/41"],
    ]
    found = {tuple(sorted(cluster["paths"])): cluster["kinds"] for cluster in results["clusters"]}
    assert sorted(found) == [tuple(f"{name}.png" for name in names) for names in expected]
    identical = sorted(paths[0] for paths, kinds in found.items() if kinds == ["same file"])
    assert identical == ["osteophenia/53.png", "osteoporosis/12.png", "osteoporosis/40.png"]
    assert has_issue(table, "overlay").all()


def test_real_knees_have_no_copies_an_impossible_age_and_a_shortcut(audited, real):
    _, results = audited(real / "data" / "knee_xray")
    assert results["clusters"] == [] and results["defects"] == {}
    odd = [(odd["path"], odd["value"]) for odd in results["metadata"]["odd"]]
    assert odd == [("osteoporosis/OS27.jpg", 107)]
    assert [found["name"] for found in results["shortcuts"] if found["warning"]] == ["age"]

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bonelib import audit, catalog, sample
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
        "path": list("abcde"), "label": "Normal", "patient": ["p1", "p1", "p2", "p2", ""], "width": 224, "height": 224,
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
    assert sorted(sorted(c["paths"]) for c in findings["clusters"]) == sorted(sorted(f"{n}.png" for n in s) for s in seen)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_different_knees_are_not_joined(tmp_path):
    _, findings = run(SHARED / "data" / "knee_xray", tmp_path)
    assert findings["clusters"] == []

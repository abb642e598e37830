"""Decisions of a person about doubtful labels are applied to the images they were made for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bonelib import pipeline
from bonelib.audit.audit import audit
from bonelib.config import CLASSES, Config
from bonelib.data.catalog import has_issue, load_catalog, usable
from bonelib.messages import DataError
from bonelib.storage import write_csv
from tests.builders import image_folder

PATHS = [f"{name}/{i}.png" for name in CLASSES for i in range(2)]


@pytest.fixture
def cfg(tmp_path) -> Config:
    data = image_folder(tmp_path / "data", *PATHS)
    return Config(data=str(data), cache=str(tmp_path / "cache"), run=str(tmp_path / "run"))


def decide(cfg: Config, decisions: dict[str, str], **changes: str) -> None:
    """Write review.csv beside the images."""
    table = load_catalog(cfg).table.set_index("path")
    rows = table.loc[list(decisions), ["label", "sha256"]].reset_index()
    rows = rows.assign(reason="", decision=list(decisions.values()), **changes)
    write_csv(Path(cfg.data) / "review.csv", rows)


def test_classes_exclude_and_keep_are_applied_and_counted(cfg):
    decisions = {PATHS[0]: "Osteopenia", PATHS[2]: "exclude", PATHS[3]: "keep", PATHS[4]: ""}
    decide(cfg, decisions)
    catalog = load_catalog(cfg)
    table = catalog.table.set_index("path")
    assert table["label"][PATHS[0]] == "Osteopenia"
    assert (table["label"].drop(PATHS[0]) == [path.split("/")[0] for path in PATHS[1:]]).all()
    audited = audit(catalog, cfg)[0]
    assert audited["path"][~usable(audited)].tolist() == [PATHS[2]]
    assert audited["path"][has_issue(audited, "reviewed")].tolist() == [PATHS[3]]
    (finding,) = catalog.findings
    for name in ("Osteopenia 1", "exclude 1", "keep 1"):
        assert name in finding.text


@pytest.mark.parametrize(
    ("decision", "changes", "named"),
    [
        ("wrong", {}, "row 2.*'wrong'.*keep, exclude, Normal"),
        ("keep", {"sha256": "0"}, f"row 2.*{PATHS[0]}.*changed"),
        ("keep", {"path": "gone.png"}, "row 2.*gone.png"),
    ],
)
def test_decision_that_is_unknown_or_of_another_image_is_an_error(cfg, decision, changes, named):
    decide(cfg, {PATHS[0]: decision}, **changes)
    with pytest.raises(DataError, match=named):
        load_catalog(cfg)


def test_image_that_is_decided_twice_and_a_missing_column_are_errors(cfg):
    decide(cfg, {PATHS[0]: "keep", PATHS[1]: "keep"}, path=PATHS[0])
    with pytest.raises(DataError, match=r"row 3.*each image once"):
        load_catalog(cfg)
    pd.DataFrame({"path": PATHS[:1]}).to_csv(f"{cfg.data}/review.csv", index=False)
    with pytest.raises(DataError, match="no column sha256"):
        load_catalog(cfg)


def test_excluded_copy_leaves_no_conflict(tmp_path):
    data = image_folder(tmp_path / "data", *PATHS)
    copy = data / "Osteoporosis" / "copy.png"
    copy.write_bytes((data / PATHS[0]).read_bytes())
    cfg = Config(data=str(data), cache=str(tmp_path / "cache"), run=str(tmp_path / "run"))
    table, results = audit(load_catalog(cfg), cfg)
    assert len(results["conflicts"]) == 1 and not usable(table)[table["path"] == PATHS[0]].any()
    decide(cfg, {"Osteoporosis/copy.png": "exclude"})
    table, results = audit(load_catalog(cfg), cfg)
    assert results["conflicts"] == [] and usable(table)[table["path"] == PATHS[0]].all()
    assert results["clusters"][0]["kept"] == PATHS[0]


def test_new_decision_makes_the_audit_of_the_run_again(cfg):
    assert usable(pipeline.audited(cfg).table).all()
    decide(cfg, {PATHS[1]: "exclude"})
    assert not usable(pipeline.audited(cfg).table).all()
    decide(cfg, {PATHS[1]: "keep"})
    assert usable(pipeline.audited(cfg).table).all()

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import evaluation, metrics, report, verdict
from bonelib.config import CLASSES
from tests.test_metrics import predictions

EVIL = 'Normal/<script>alert("x")</script>|`.png'


def baseline(table, skill, name="intensity", seed=5):
    """Test rows of a baseline whose probabilities lean to the truth by `skill`."""
    test = table[(table["split"] == "test") & (table["tta"] == "plain")]
    y = test["label"].map(CLASSES.index).to_numpy()
    probs = np.random.default_rng(seed).dirichlet([1, 1, 1], len(y)) + skill * np.eye(3)[y]
    named = dict(zip(metrics.PROBS, (probs / probs.sum(1, keepdims=True)).T, strict=True))
    return test[["path", "label", "group"]].assign(baseline=name, **named)


@pytest.fixture
def run(tmp_path):
    """A run folder with everything but an audit and explanations, one file name hostile."""
    table = predictions()
    table.loc[table["path"] == table.loc[table["split"] == "test", "path"].iloc[0], "path"] = EVIL
    table.loc[table["path"] == EVIL, metrics.PROBS] = [0.01, 0.01, 0.98]
    table.loc[table["path"] == EVIL, "label"] = "Normal"
    splits = table.loc[table["tta"] == "plain", ["path", "label", "group", "split"]].assign(fold=0, draws=1)
    catalog = splits[["path", "label", "group"]].assign(status="ok", sha256=[f"{i:064x}" for i in range(len(splits))])
    m = evaluation.evaluate(table, baseline(table, 0.2), resamples=60)
    for name, rows in (("predictions", table), ("splits", splits), ("catalog", catalog)):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "metrics.json").write_text(json.dumps(m | {"test_reads": 3}, allow_nan=False))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"backbone": "efficientnet_b3", "seed": 4}))
    (tmp_path / "figures").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "figures" / "confusion.png")
    return tmp_path


def test_report_stands_alone_in_one_file(run):
    page = report.write(run).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "width=device-width" in page
    assert "@media print" in page


def test_report_shows_every_figure_with_its_interval(run):
    page = report.write(run).read_text(encoding="utf-8")
    m = json.loads((run / "metrics.json").read_text())
    for name in metrics.SCALARS:
        first, _, rest = verdict.span(m["test"]["plain"][name]).partition(" (")
        assert f"<td>{first}<small>{rest.rstrip(')')}</small></td>" in page, name
    assert "Test split read 3 times" in page
    for sentence in m["verdict"]:
        assert sentence.split(" (")[0] in page


def test_file_names_cannot_break_the_page_or_the_card(run):
    page = report.write(run).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page  # the most confident error is shown
    audit = {"clusters": [{"paths": [EVIL]}], EVIL: {EVIL: EVIL}}
    (run / "audit.json").write_text(json.dumps(audit))
    (run / "model" / "config.json").write_text(json.dumps({EVIL: EVIL}))
    assert "<script" not in report.write(run).read_text(encoding="utf-8")
    assert "<script" not in (run / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_absent_artifacts_are_named_and_nothing_is_invented(tmp_path):
    page = report.write(tmp_path).read_text(encoding="utf-8")
    for name in ("catalog.csv", "audit.json", "metrics.json", "predictions.csv", "history.csv", "model/config.json"):
        assert name in page
    assert "better than" not in page
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "No metrics in this run" in card


def test_checklist_says_what_is_not_answered(run):
    page = report.write(run).read_text(encoding="utf-8")
    assert re.search(r"External validation</td><td>not answered", page)
    assert re.search(r"Performance with intervals</td><td>section", page)
    assert re.search(r"Explainability and its validation</td><td>not answered", page)


@pytest.mark.parametrize("key", ["group", "sha256", "patient", "picture"])
def test_copies_across_the_split_are_called_a_leak(run, key):
    clean = report.write(run).read_text(encoding="utf-8")
    assert "Leak:" not in clean
    assert "stands on two sides" in clean
    catalog, splits = (pd.read_csv(run / f"{n}.csv") for n in ("catalog", "splits"))
    ends = [splits.index[splits["split"] == part][0] for part in ("train", "test")]
    catalog["patient"] = ""
    catalog.loc[ends, key] = "the same"
    catalog.to_csv(run / "catalog.csv", index=False)
    page = report.write(run).read_text(encoding="utf-8")
    assert 'class="alarm">Leak: 1 ' in page
    assert "stands on two sides" not in page
    assert "Leak: 1 " in (run / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_cluster_of_the_audit_on_two_sides_is_a_leak_whatever_the_groups_say(run):
    splits = pd.read_csv(run / "splits.csv")
    train, test = (splits.loc[splits["split"] == part, "path"].tolist() for part in ("train", "test"))
    clusters = [{"paths": train[:2]}, {"paths": [train[3], test[0]]}, {"paths": test[1:3]}]
    (run / "audit.json").write_text(json.dumps({"clusters": clusters}))
    assert 'class="alarm">Leak: 1 clusters of copies' in report.write(run).read_text(encoding="utf-8")


def test_shortcuts_of_the_audit_are_called_out(run):
    found = [{"name": "file format", "warning": "the format tells the class"}, {"name": "width", "warning": None}]
    (run / "audit.json").write_text(json.dumps({"flow": {"found": 3}, "shortcuts": found}))
    page = report.write(run).read_text(encoding="utf-8")
    assert 'class="alarm">Shortcut: the format tells the class' in page
    assert page.count("Shortcut:") == 1


@pytest.mark.parametrize(
    ("skill", "other", "sizes", "words"),
    [
        (3.0, 0.0, (9, 60, 150), "The model is better than the intensity baseline"),
        (0.0, 2.0, (9, 60, 150), "The model is worse than the intensity baseline"),
        (1.5, None, (9, 60, 150), "not distinguishable from the intensity baseline"),
        (9.0, 0.0, (9, 30, 11), "The model against the intensity baseline: too few test images to tell"),
        (2.0, 0.6, (9, 30, 22), "The model against the intensity baseline: too few test images to tell"),
        (0.0, 0.0, (9, 60, 150), "The model has learnt nothing"),
    ],
)  # fmt: skip
def test_verdict_follows_the_paired_interval(skill, other, sizes, words):
    table = predictions(seed=2, sizes=sizes, skill=skill)
    rows = table[(table["split"] == "test") & (table["tta"] == "tta")].assign(baseline="intensity")
    other = rows if other is None else baseline(table, other)
    said = evaluation.evaluate(table, other, resamples=200)["verdict"]
    assert any(words in s for s in said), said


def test_a_small_split_and_a_suspicious_score_are_said():
    table = predictions(seed=3, sizes=(9, 20, 20), skill=9.0)
    said = " ".join(evaluation.evaluate(table, resamples=60)["verdict"])
    assert "The test split is small" in said
    assert "suspect a leak" in said
    assert "No metadata" in said

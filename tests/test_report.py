import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib import card, evaluation, explain, metrics, page, report, verdict
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
    html = report.write(run).read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "width=device-width" in html
    assert "@media print" in html


def test_report_shows_every_figure_with_its_interval(run):
    html = report.write(run).read_text(encoding="utf-8")
    m = json.loads((run / "metrics.json").read_text())
    for name in metrics.SCALARS:
        first, _, rest = verdict.span(m["test"]["plain"][name]).partition(" (")
        assert f"<td>{first}<small>{rest.rstrip(')')}</small></td>" in html, name
    assert "Test split read 3 times" in html
    for sentence in m["verdict"]:
        assert sentence.split(" (")[0] in html


def test_file_names_cannot_break_the_page_or_the_card(run):
    html = report.write(run).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html  # the most confident error is shown
    audit = {"clusters": [{"paths": [EVIL]}], EVIL: {EVIL: EVIL}}
    (run / "audit.json").write_text(json.dumps(audit))
    (run / "model" / "config.json").write_text(json.dumps({EVIL: EVIL}))
    assert "<script" not in report.write(run).read_text(encoding="utf-8")
    assert "<script" not in (run / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_absent_artifacts_are_named_and_nothing_is_invented(tmp_path):
    html = report.write(tmp_path).read_text(encoding="utf-8")
    for name in ("catalog.csv", "audit.json", "metrics.json", "predictions.csv", "history.csv", "model/config.json"):
        assert name in html
    assert "better than" not in html
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "No metrics in this run" in card


def test_checklist_says_what_is_not_answered(run):
    html = report.write(run).read_text(encoding="utf-8")
    assert re.search(r"33</td><td></td><td>Testing on external data</td><td>not answered", html)
    assert re.search(r"Performance on internal data, with intervals</td><td>«Figures on the test split»", html)
    assert re.search(r"Explanations, and how they were validated</td><td>not answered", html)
    (run / "metrics.json").unlink()
    assert re.search(
        r"Performance on internal data, with intervals</td><td>not answered", report.write(run).read_text()
    )


def test_every_item_of_both_checklists_stands_in_the_table_and_every_section_named_exists():
    claim, tripod = ({x for row in card.ITEMS if row[k] for x in row[k].split(", ")} for k in (0, 1))
    assert claim == {str(n) for n in range(1, 45)}
    parts = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}  # items with parts, a to c say
    assert tripod == {f"{n}{letter}" for n in range(1, 28) for letter in ("abcdefg"[: parts.get(n, 0)] or [""])}
    assert {row[3] for row in card.ITEMS} - {""} <= set(report.SECTIONS) == set(card.TITLES)


@pytest.mark.parametrize("key", ["group", "sha256", "patient", "_picture"])
def test_copies_across_the_split_are_called_a_leak(run, key):
    clean = report.write(run).read_text(encoding="utf-8")
    assert "Leak:" not in clean
    assert "stands on two sides" in clean
    catalog, splits = (pd.read_csv(run / f"{n}.csv") for n in ("catalog", "splits"))
    ends = [splits.index[splits["split"] == part][0] for part in ("train", "test")]
    catalog["patient"] = ""
    catalog.loc[ends, key] = "the same"
    catalog.to_csv(run / "catalog.csv", index=False)
    html = report.write(run).read_text(encoding="utf-8")
    assert 'class="alarm">Leak: 1 ' in html
    assert "stands on two sides" not in html
    assert "Leak: 1 " in (run / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_metadata_of_any_name_is_no_leak(run):
    catalog = pd.read_csv(run / "catalog.csv")
    catalog.assign(picture=1, cluster=2, split_group=3).to_csv(run / "catalog.csv", index=False)
    assert "Leak:" not in report.write(run).read_text(encoding="utf-8")


def test_a_cluster_of_the_audit_on_two_sides_is_a_leak_whatever_the_groups_say(run):
    splits = pd.read_csv(run / "splits.csv")
    train, test = (splits.loc[splits["split"] == part, "path"].tolist() for part in ("train", "test"))
    clusters = [{"paths": train[:2]}, {"paths": [train[3], test[0]]}, {"paths": test[1:3]}]
    (run / "audit.json").write_text(json.dumps({"clusters": clusters}))
    assert 'class="alarm">Leak: 1 clusters of copies' in report.write(run).read_text(encoding="utf-8")


def test_shortcuts_of_the_audit_are_called_out(run):
    found = [{"name": "file format", "warning": "the format tells the class"}, {"name": "width", "warning": None}]
    (run / "audit.json").write_text(json.dumps({"flow": {"found": 3}, "shortcuts": found}))
    html = report.write(run).read_text(encoding="utf-8")
    assert 'class="alarm">Shortcut: the format tells the class' in html
    assert html.count("Shortcut:") == 1


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


def test_settings_of_any_shape_are_shown_in_short():
    held = {
        "priors": [[1 / 3, 0.25], [1.0]],
        "args": {"pad": "same", "p": 0.123456},
        "views": [],
        "long": ["x" * 9] * 30,
    }
    shown = page.tree(held)
    assert "<td>priors</td><td>0.333, 0.25, 1</td>" in shown
    assert "<td>p</td><td>0.123</td>" in shown
    assert "<td>views</td><td>none</td>" in shown
    assert "…" in shown and "<th>" not in shown


def test_images_left_after_every_exclusion_stand_in_report_and_card(run):
    catalog = pd.read_csv(run / "catalog.csv")
    catalog.loc[:2, "status"] = "empty"
    catalog.to_csv(run / "catalog.csv", index=False)
    n = len(catalog)
    html, card_ = report.write(run).read_text("utf-8"), (run / "MODEL_CARD.md").read_text("utf-8")
    for step, left in (("found", n), ("readable", n - 3), ("used", len(pd.read_csv(run / "splits.csv")))):
        assert f"<td>{step}</td><td>{left}</td>" in html and f"| {step} | {left} |" in card_
    (run / "audit.json").write_text(json.dumps({"flow": {"found": 7, "unique": 6}}))
    assert "<td>unique</td><td>6</td>" in report.write(run).read_text("utf-8")


def test_subgroups_prevalence_and_what_is_odd_are_shown(run):
    table = pd.read_csv(run / "predictions.csv")
    paths = table["path"].unique()
    site = pd.DataFrame({"path": paths, "site": np.where(np.arange(len(paths)) % 2, "north & south", "east")})
    m = evaluation.evaluate(table, metadata=site, prevalence=[0.5, 0.3, 0.2], resamples=60)
    m["calibration"]["plain"]["temperature"] = 20.0
    m["calibration"]["plain"]["after"]["log_loss"] = 9.0
    (run / "metrics.json").write_text(json.dumps(m))
    auroc = {"value": 0.5, "low": 0.4, "high": 0.6}
    found = {"corners_only": {"auroc": auroc}, "no_heat": "no map"}
    (run / "explain.json").write_text(json.dumps(found | {"verdict": explain.sentences(found)}))
    Image.new("L", (8, 8)).save(run / "figures" / "mine.png")
    html = report.write(run).read_text("utf-8")
    assert "<td>north &amp; south</td>" in html and "Where the prevalence is Normal 50%, Osteopenia 30%" in html
    assert "It lies at the end of its range" in html and "it made the probabilities worse" in html
    assert (
        "No heat maps: no map." in html and "Shown the corners alone, without the bone, the model is at a loss" in html
    )
    assert "whether an image model was needed is unknown" in html
    assert '<h2>More figures</h2><img alt="mine"' in html


def test_an_object_that_is_no_table_is_shown_as_text():
    assert page.tree([1, 2, 3]) == "<p>1, 2, 3</p>"
    assert "and 5 more" in page.tree([{"a": i} for i in range(25)])


def test_the_spread_over_folds_and_seeds_is_shown(run):
    m = json.loads((run / "metrics.json").read_text())
    m["spread"] = {"plain": {"auroc": {"mean": 0.7, "over_folds": 0.05, "over_seeds": None}}}
    (run / "metrics.json").write_text(json.dumps(m))
    assert "<td>AUROC</td><td>0.7</td><td>0.05</td><td>not defined</td>" in report.write(run).read_text("utf-8")


def test_alarms_stand_before_all_else(run):
    m = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(
        json.dumps(m | {"verdict": ["fine", "Shortcut: x", "good"], "leaks": ["Leak: y"]})
    )
    said = re.findall(r'<p class="(?:alarm|verdict)">(.*?)</p>', report.write(run).read_text(encoding="utf-8"))
    assert said == ["Leak: y", "Shortcut: x", "fine", "good"]
    assert "- Leak: y\n- Shortcut: x\n- fine" in (run / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_a_small_split_and_a_suspicious_score_are_said():
    table = predictions(seed=3, sizes=(9, 20, 20), skill=9.0)
    said = " ".join(evaluation.evaluate(table, resamples=60)["verdict"])
    assert "The test split is small" in said
    assert "suspect a leak" in said
    assert "No metadata" in said

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bonelib.config import CLASSES
from bonelib.evaluation.evaluate import failures
from bonelib.evaluation.findings import format_interval
from bonelib.plots.style import new_figure, save_figure
from bonelib.report import report
from bonelib.report.report import read_run, write_report
from bonelib.storage import read_json, write_csv, write_json
from bonelib.training.model import model_digest
from tests.builders import evaluate, finished_run, predictions_table

SECTIONS = (
    "data",
    "metrics",
    "baselines",
    "calibration",
    "abstain",
    "subgroups",
    "failures",
    "explanations",
    "training",
    "use",
    "settings",
    "checklist",
)
HOSTILE = 'Normal/<script>alert("x")</script>|`[a](b).png'
CHECKLIST = Path(report.__file__).with_name("checklist.csv")


@pytest.fixture
def run(tmp_path):
    return finished_run(tmp_path)


def written(run):
    """The HTML of the report and the Markdown of the card."""
    assert write_report(run) == run / "report.html"
    return [(run / name).read_text(encoding="utf-8") for name in ("report.html", "MODEL_CARD.md")]


def section(html, name):
    """The HTML of one section of the report."""
    return html.split(f'<h2 id="{name}">')[1].split("<h2 ")[0]


def cells(html):
    """The rows of all tables, each a list of texts."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row, re.S) for row in rows]


def amend(path, **values):
    write_json(path, read_json(path) | values)


def test_report_is_one_stand_alone_file_with_its_sections_in_order(run):
    figure, _ = new_figure("metrics")
    save_figure(figure, run / "figures" / "confusion.png")
    html, _ = written(run)
    assert html.startswith("<!doctype html>")
    assert html.count("data:image/png;base64,") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "width=device-width" in html and "@media print" in html
    assert re.findall(r'<h2 id="(.*?)">', html) == list(SECTIONS)
    assert re.findall(r'<a href="#(.*?)">', html) == list(SECTIONS)


def test_every_metric_is_shown_with_its_interval(run):
    html, card = written(run)
    test = read_json(run / "metrics.json")["test"]["plain"]
    for name, leaf in test.items():
        if "value" in leaf:
            text = format_interval(leaf)
            value, _, interval = text.rstrip(")").partition(" (")
            assert f"{value}<small>{interval}</small>" in section(html, "metrics"), name
            assert f"| {text} |" in card


def test_every_artifact_has_its_place_in_the_report(run):
    html, _ = written(run)
    assert ["used", "5"] in cells(section(html, "data"))
    assert ["patient groups", "5"] in cells(section(html, "data"))
    train = pd.read_csv(run / "splits.csv").query("split == 'train'")
    rows = {row[0]: row[1] for row in cells(section(html, "data")) if len(row) == 4}
    counts = {name: str((train["label"] == name).sum()) for name in CLASSES}
    assert rows == {"": "training", **counts, "patient groups": str(train["group"].nunique())}
    assert ["epochs", "3"] in cells(section(html, "settings"))
    assert ["backbone", "efficientnet_b3"] in cells(section(html, "settings"))
    corners = ["AUROC from the image corners alone", "0.50<small>0.40 to 0.60</small>"]
    assert corners in cells(section(html, "explanations"))
    assert "Epoch 2 was kept" in section(html, "training")
    errors = failures(pd.read_csv(run / "predictions.csv"), CLASSES)["most confident errors"]
    shown = [row[:3] for row in cells(section(html, "failures"))]
    assert errors[["path", "label", "prediction"]].to_numpy().tolist() == shown[1 : 1 + len(errors)]


@pytest.mark.parametrize("names", [("healthy", "ill"), ("a", "b", "c", "d"), tuple("01234")])
def test_run_of_any_number_of_classes_is_reported(tmp_path, names):
    html, card = written(finished_run(tmp_path, names))
    assert [row[0] for row in cells(section(html, "data")) if len(row) == 4][1:-1] == list(names)
    assert ["", *names] in cells(section(html, "metrics"))
    assert f"| split | {' | '.join(names)} | groups |" in card
    kappa = next(row for row in cells(html) if row and row[0] == "quadratic kappa")
    assert (set(kappa[1:]) == {"not defined"}) == (len(names) == 2)


def test_texts_of_the_data_cannot_break_the_page_or_the_card(run):
    for name in ("predictions", "splits", "catalog"):
        table = pd.read_csv(run / f"{name}.csv")
        write_csv(run / f"{name}.csv", table.assign(path=HOSTILE + table["path"]))
    audit = {"counts": {HOSTILE: 1}, "defects": {HOSTILE: [HOSTILE]}, "clusters": []}
    audit["conflicts"] = [{"kinds": [HOSTILE], "paths": [HOSTILE]}]
    finding = {"level": "note", "text": HOSTILE}
    write_json(run / "audit.json", audit | {"findings": [finding], "shortcuts": []})
    write_json(run / "config.json", {HOSTILE: HOSTILE})
    amend(run / "model" / "config.json", **{HOSTILE: [HOSTILE]})
    site = pd.read_csv(run / "predictions.csv")[["path"]].drop_duplicates()
    site[HOSTILE] = np.where(np.arange(len(site)) % 2, HOSTILE, "other")
    metrics = evaluate(pd.read_csv(run / "predictions.csv"), CLASSES, None, site, resamples=30)
    amend(run / "metrics.json", **metrics)
    (run / "figures").mkdir()
    Image.new("L", (8, 8)).save(run / "figures" / '"onload="alert(1).png')
    html, card = written(run)
    for text in (html, card):
        assert "<script" not in text and "&lt;script&gt;" in text
    assert '"onload' not in html and html.count(" onload=") == 0
    rows = [line for line in card.splitlines() if "script" in line and line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert not re.search(r"(?<!\\)[`\[]", card)


def test_missing_artifacts_are_named_and_nothing_is_invented(tmp_path):
    html, card = written(tmp_path)
    for name in ("audit.json", "metrics.json", "history.csv", "config.json"):
        assert name in html
    for name in ("splits.csv", "model/config.json", "explain.json"):
        assert name in html
    assert list(re.findall(r'<h2 id="(.*?)">', html)) == list(SECTIONS)
    assert "<img" not in html and 'class="finding' not in html
    assert "Not evaluated" in card and "audit.json" in card and "splits.csv" in card


@pytest.mark.parametrize("name", ["audit.json", "metrics.json", "splits.csv", "predictions.csv"])
def test_report_without_one_artifact_still_has_every_section(run, name):
    (run / name).unlink()
    html, _ = written(run)
    assert re.findall(r'<h2 id="(.*?)">', html) == list(SECTIONS)
    assert f"Not in this run: {name}" in html


def test_alarms_come_first_and_each_finding_is_shown_once(run):
    findings = [("note", "fine"), ("alarm", "x"), ("warning", "w"), ("note", "fine")]
    found = [{"level": level, "text": text} for level, text in findings]
    amend(run / "metrics.json", findings=found)
    amend(run / "explain.json", findings=[{"level": "alarm", "text": "corners"}])
    amend(run / "audit.json", findings=[{"level": "warning", "text": "odd"}])
    html, card = written(run)
    shown = re.findall(r'class="finding (\w+)"><b>\w+\.</b>(.*?)</p>', html)
    assert shown == [
        ("alarm", "x"),
        ("alarm", "corners"),
        ("warning", "odd"),
        ("warning", "w"),
        ("note", "fine"),
    ]
    assert html.index('class="finding') < html.index("<h2")
    assert re.findall(r"- \*\*(\w+):\*\* (\w+)", card) == [(a.capitalize(), b) for a, b in shown]


@pytest.mark.parametrize("column", ["group", "sha256", "patient"])
def test_copies_across_the_split_are_an_alarm(run, column):
    assert not [f for f in read_run(run)["findings"] if f.text.startswith("Leak")]
    catalog = pd.read_csv(run / "catalog.csv", dtype={"patient": str})
    splits = pd.read_csv(run / "splits.csv")
    ends = [splits.index[splits["split"] == name][0] for name in ("train", "test")]
    catalog.loc[ends, column] = "the same"
    write_csv(run / "catalog.csv", catalog)
    first = read_run(run)["findings"][0]
    assert first.level == "alarm" and first.text.startswith("Leak: 1 ")
    html, card = written(run)
    assert first.text in html and first.text in card


def split_in_folds(run):
    """The run as one of a cross-validation with two models, evaluated together."""
    folders = [run / f"repeat-0-fold-{number}" for number in range(2)]
    for folder in folders:
        shutil.copytree(run / "model", folder / "model")
        shutil.copy(run / "history.csv", folder)
    (folders[1] / "model" / "model.safetensors").write_bytes(b"weights of the second fold")
    shutil.rmtree(run / "model")
    (run / "history.csv").unlink()
    digest = model_digest(*(folder / "model" for folder in folders))
    amend(run / "metrics.json", model_digest=digest)
    return folders[1]


@pytest.mark.parametrize("case", ["one model", "a fold", "a further fold", "no digest"])
def test_results_of_another_model_are_not_shown(run, case):
    for name in ("metrics", "data"):
        save_figure(new_figure(name)[0], run / "figures" / f"{name}.png")
    last = split_in_folds(run) if "fold" in case else run
    html, card = written(run)
    assert not read_run(run)["changed"] and "the model has changed" not in html + card
    assert "| accuracy |" in card
    if case == "a further fold":
        shutil.copytree(last, run / "repeat-0-fold-2")
    elif case == "no digest":
        amend(run / "metrics.json", model_digest=None)
    else:
        (last / "model" / "model.safetensors").write_bytes(b"other weights")
    html, card = written(run)
    assert read_run(run)["changed"]
    for name in ("metrics", "baselines", "calibration", "abstain", "subgroups", "failures"):
        assert "the model has changed since 04_evaluate" in section(html, name)
        assert "<table" not in section(html, name) and "<img" not in section(html, name)
    assert "the model has changed since 04_evaluate" in card and "| accuracy |" not in card
    assert "<img" in section(html, "data")


def test_figures_are_shown_in_the_section_that_they_name(run):
    for name in ("data", "training", "failures"):
        save_figure(new_figure(name)[0], run / "figures" / f"about {name}.png")
    Image.new("L", (8, 8)).save(run / "figures" / "mine.png")
    save_figure(new_figure("a later section")[0], run / "figures" / "later.png")
    save_figure(new_figure("training")[0], run / "figures" / "history.png")
    save_figure(new_figure("data")[0], run / "figures" / "z first.png")
    os.utime(run / "figures" / "z first.png", (0, 0))
    html, _ = written(run)
    figures = {name: re.findall(r'<img alt="(.*?)"', section(html, name)) for name in SECTIONS}
    assert figures["data"] == ["z first", "about data"]
    assert figures["training"] == ["history", "about training"]
    assert figures["failures"] == ["about failures"]
    more = html.split("<summary>More figures</summary>", 1)[1]
    assert set(re.findall(r'<img alt="(.*?)"', more)) == {"mine", "later"}


def test_checklist_names_the_section_that_answers_or_says_not_answered(run):
    def answers():
        html, card = written(run)
        found = {row[2]: row[3] for row in cells(section(html, "checklist"))}
        titles = dict(re.findall(r'<h2 id="(.*?)">(.*?)</h2>', html))
        lines = [line.split(" | ") for line in card.splitlines() if line.endswith(" |")]
        answered = {row[2]: row[3].strip("#| ") for row in lines if row[-1].startswith("#")}
        assert {topic: titles[name] for topic, name in answered.items()} == {
            topic: answer for topic, answer in found.items() if answer in titles.values()
        }
        return found

    found = answers()
    assert found["Testing on external data"] == "not answered"
    assert found["Performance on internal data, with intervals"] == "Metrics on the test set"
    assert found["Performance in subgroups"] == "not answered"
    assert found["Handling of images unlike the training images"] == "When to abstain"
    assert found["Limitations"] == "Intended use and limits"
    (run / "metrics.json").unlink()
    amend(run / "model" / "config.json", gauge={})
    changed = {topic for topic, answer in answers().items() if answer != found[topic]}
    assert "Performance on internal data, with intervals" in changed
    assert "Handling of images unlike the training images" in changed
    assert "Images left after each exclusion" not in changed


def test_checklist_has_every_item_of_both_guidelines_and_known_sections():
    with CHECKLIST.open(encoding="utf-8", newline="") as file:
        items = list(csv.DictReader(file))
    claim, tripod = (
        {number for item in items for number in item[name].split(", ") if number}
        for name in ("claim", "tripod")
    )
    assert claim == {str(number) for number in range(1, 45)}
    # items with parts
    parts = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
    letters = {number: "abcdefg"[: parts.get(number, 0)] or [""] for number in range(1, 28)}
    assert tripod == {f"{number}{letter}" for number in letters for letter in letters[number]}
    assert {item["section"] for item in items} - {""} <= set(SECTIONS)
    assert all(item["section"] for item in items if item["needs"])


def test_subgroups_prevalence_and_odd_calibration_are_shown(run):
    table = predictions_table()
    paths = table["path"].unique()
    sites = np.where(np.arange(len(paths)) % 2, "north & south", "east")
    metadata = pd.DataFrame({"path": paths, "site": sites})
    metrics = evaluate(table, CLASSES, None, metadata, prevalence=[0.5, 0.3, 0.2], resamples=30)
    metrics["calibration"]["plain"]["temperature"] = 20.0
    metrics["calibration"]["plain"]["after"]["log_loss"] = 9.0
    amend(run / "metrics.json", **metrics)
    html, _ = written(run)
    assert "north &amp; south" in [row[0] for row in cells(section(html, "subgroups")) if row]
    assert "Normal 0.5, Osteopenia 0.3, Osteoporosis 0.2" in section(html, "metrics")
    assert "end of its range" in section(html, "calibration")
    assert "the probabilities worse" in section(html, "calibration")
    assert "No baseline" in section(html, "baselines")


def test_results_by_patient_and_by_t_score_are_shown_if_they_are_there(run):
    html = section(written(run)[0], "metrics")
    assert "by patient" not in html and "T-score" not in html
    leaf, shown = {"value": 0.7, "low": 0.5, "high": 0.9}, "0.70<small>0.50 to 0.90</small>"
    amend(run / "metrics.json", patients={"accuracy": leaf, "auroc": leaf, "patients": 12})
    row = {"distance": "below 0.5 & more", "images": 12, "groups": 9, "accuracy": leaf}
    amend(run / "metrics.json", t_score=[row])
    rows = cells(section(written(run)[0], "metrics"))
    start = rows.index(["", "by image", "by patient"])
    assert [row[0] for row in rows[start + 1 : start + 3]] == ["accuracy", "AUROC"]
    assert {row[2] for row in rows[start + 1 : start + 3]} == {shown}
    assert ["below 0.5 &amp; more", "12", shown] in rows


@pytest.mark.parametrize(("setting", "word"), [("use", ", used<"), ("ignore", ", not used<")])
def test_given_split_is_shown_with_what_it_leaks(run, setting, word):
    amend(run / "audit.json", given_split={"setting": setting, "counts": {}, "leaking": []})
    assert "came with" not in section(written(run)[0], "data")
    given = {"setting": setting, "counts": {"train": 60, "test": 20}, "leaking": ["a", "b"]}
    amend(run / "audit.json", given_split=given)
    html = section(written(run)[0], "data")
    assert ["training", "60"] in cells(html) and ["test", "20"] in cells(html)
    assert word in html and "2 of its test images" in html


def test_backbone_without_a_feature_map_has_a_reason_in_place_of_its_figures(run):
    save_figure(new_figure("explanations")[0], run / "figures" / "heatmaps.png")
    assert "<img" in section(written(run)[0], "explanations")
    amend(run / "explain.json", no_map="a map (N, C, h, w) is needed, the backbone has (1, 65, 64)")
    html = section(written(run)[0], "explanations")
    assert "No heat maps: a map (N, C, h, w) is needed" in html and "<img" not in html
    assert "AUROC from the image corners alone" in html


@pytest.mark.parametrize(("threshold", "words"), [(None, "refer all images"), (0.6, "0.60")])
def test_threshold_for_abstaining_is_named(run, threshold, words):
    selective = read_json(run / "metrics.json")["selective"]
    accuracy = {"value": 0.9, "low": 0.8, "high": 1.0}
    selective["plain"] |= {"threshold": threshold, "coverage": 0.5, "accuracy": accuracy}
    amend(run / "metrics.json", selective=selective)
    assert words in section(written(run)[0], "abstain")


def test_cross_validation_shows_its_spread_and_its_first_training(run):
    split_in_folds(run)
    spread = {"auroc": {"mean": 0.7, "over_folds": 0.05, "over_seeds": None}}
    amend(run / "metrics.json", spread={"plain": spread})
    html, _ = written(run)
    assert ["AUROC", "0.7", "0.05", "not defined"] in cells(section(html, "metrics"))
    assert ["backbone", "efficientnet_b3"] in cells(section(html, "settings"))
    assert "Epoch 2 was kept" in section(html, "training")


def test_classes_with_numbers_as_names_are_reported(tmp_path):
    html, _ = written(finished_run(tmp_path, ("0", "1", "2")))
    train = pd.read_csv(tmp_path / "splits.csv").query("split == 'train'")
    counts = {str(number): str((train["label"] == number).sum()) for number in range(3)}
    rows = {row[0]: row[1] for row in cells(section(html, "data")) if len(row) == 4}
    assert counts.items() <= rows.items()


def test_number_of_models_that_read_the_test_set_is_shown(run):
    assert "3 models evaluated on this test set" in written(run)[0]


def test_settings_of_any_shape_are_shown_on_one_line(run):
    values = {"shares": [[1 / 3, 0.25], [1.0]], "args": {"pad": "same", "p": 0.123456}}
    write_json(run / "config.json", values | {"views": [], "none": None, "long": ["x" * 9] * 90})
    shown = dict(row for row in cells(section(written(run)[0], "settings")) if len(row) == 2)
    assert shown["shares"] == "0.333, 0.25, 1"
    assert shown["args"] == "pad same, p 0.123"
    assert shown["views"] == "none" and shown["none"] == "not defined"
    assert len(shown["long"]) <= 210


def test_figures_beyond_the_first_two_are_folded(run):
    for number in range(4):
        save_figure(new_figure("data")[0], run / "figures" / f"{number}.png")
        os.utime(run / "figures" / f"{number}.png", (number, number))
    shown, folded = section(written(run)[0], "data").split("<summary>2 more figures</summary>")
    assert re.findall(r'<img alt="(.*?)"', shown) == ["0", "1"]
    assert re.findall(r'<img alt="(.*?)"', folded.split("</details>")[0]) == ["2", "3"]


def test_baseline_of_any_name_is_compared_under_its_own_name(run):
    metrics = read_json(run / "metrics.json")
    leaf = metrics["baselines"]["intensity"]
    metrics["baselines"]["two points"] = leaf
    metrics["differences"]["model_minus_two points"] = leaf
    amend(run / "metrics.json", **metrics)
    names = [row[0] for row in cells(section(written(run)[0], "baselines")) if row]
    assert names.count("two points") == 2 and names.count("intensity baseline") == 2

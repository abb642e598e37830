"""Every benchmark runs, at toy size, so that none stops working unnoticed."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from bonelib.config import Config
from bonelib.storage import write_json

HERE = Path(__file__).parents[1] / "benchmarks"
# Slow even at toy size.
SLOW = ("loading", "epoch", "step", "tta", "memory", "archive", "whole", "run")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The benchmarks can be imported, and generate their images in a temporary folder."""
    monkeypatch.syspath_prepend(str(HERE))
    images = importlib.import_module("images")
    monkeypatch.setattr(images, "ROOT", tmp_path_factory.getbasetemp() / "benchmarks")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["training", *(pytest.param(name, marks=pytest.mark.soak) for name in SLOW)]
)
def test_benchmark_measures_every_question(name: str) -> None:
    bench = importlib.import_module(f"bench_{name}")
    measured = bench.measure("toy")
    assert set(measured) == set(bench.QUESTIONS)
    for title, question in bench.QUESTIONS.items():
        results = measured[title]
        assert "bonelib" in results and all(math.isfinite(value) for value in results.values())
        # a difference of memory may be slightly below zero
        assert question.unit == "MB" or min(results.values()) >= 0
        assert "plain" in results or "plain" not in question.at_least


def test_ratio_above_one_means_that_bonelib_is_better_whatever_the_unit() -> None:
    from side_by_side import Question, summary, verdicts

    rounds = [
        {"a": {"bonelib": value, "plain": 2.0, "x": 5.0}, "b": {"bonelib": value, "plain": 2.0}}
        for value in (4.0, 8.0, 6.0)
    ]
    rate, seconds = Question("images/s", {"plain": 3, "best peer": 2}), Question("s", at_most=5)
    results = summary(rounds, {"a": rate, "b": seconds})
    assert results["a"]["ratios"]["plain"] == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert results["b"]["ratios"]["plain"]["median"] == pytest.approx(1 / 3)
    expected = {"at least 3 times plain": "met", "at least 2 times best peer": "NOT met"}
    assert dict(verdicts(results["a"])) == expected
    assert dict(verdicts(results["b"])) == {"at most 5 s": "NOT met"}


def test_peer_that_is_not_installed_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_loading

    loaders = {"missing package": None, **bench_loading.LOADERS}
    monkeypatch.setattr(bench_loading, "LOADERS", loaders)
    monkeypatch.setattr(bench_loading, "process", lambda name: pytest.fail(f"{name} was run"))
    monkeypatch.setattr(bench_loading.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench_loading, "ALWAYS_INSTALLED", ())
    bench_loading.measure("toy")
    assert "missing package: not installed" in capsys.readouterr().out


@pytest.mark.parametrize("any_angle", [False, True])
def test_planted_copies_are_found(any_angle: bool) -> None:
    import bench_copies

    seconds, recall, precision = bench_copies.measure(40, 224, any_angle)
    assert seconds > 0 and recall > 0.8 and precision > 0.8


def set_environment(monkeypatch: pytest.MonkeyPatch, cfg: Config, **settings: str) -> None:
    for name in ("data", "run", "cache", "backbone"):
        monkeypatch.setenv(f"BONELIB_{name.upper()}", getattr(cfg, name))
    for name, value in settings.items():
        monkeypatch.setenv(f"BONELIB_{name.upper()}", value)


@pytest.mark.soak
def test_peers_are_compared_on_the_same_folds(cfg, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_peers

    set_environment(monkeypatch, cfg, smoke="1", folds="3", epochs="1")
    monkeypatch.setattr(bench_peers, "NOTEBOOK_EPOCHS", 1)
    table = bench_peers.main(["bonelib", "frozen", "notebook"])
    names = [name.split(",")[0] for name in table["setting"]]
    assert names == ["bonelib", "bonelib", "frozen", "notebook", "notebook"]
    # the row that all are compared with
    assert table["change of auroc"][1] == "0.00 (0.00 to 0.00)"

    monkeypatch.setattr(bench_peers, "trained_model", lambda fold: pytest.fail("trained again"))
    assert bench_peers.main(["bonelib"])["setting"].tolist() == table["setting"].tolist()[:2]


@pytest.mark.soak
def test_recipes_resume_from_the_predictions_of_each_fold(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_recipes

    set_environment(monkeypatch, cfg, smoke="1", folds="3", epochs="1")
    arguments = ['no flip={"augment": ["rotate"]}']
    first = bench_recipes.main(arguments)
    rows = ["defaults", *bench_recipes.BASELINES, "defaults, test-time views averaged", "no flip"]
    assert first["setting"].tolist() == rows
    assert (first["change of auroc"] != "").tolist() == [False, True, True, True, True]

    monkeypatch.setattr(bench_recipes, "trained_model", lambda fold: pytest.fail("trained again"))
    monkeypatch.setattr(bench_recipes, "image_features", lambda fold: pytest.fail("made again"))
    pd.testing.assert_frame_equal(bench_recipes.main(arguments), first)


def test_leakage_is_measured_with_both_classifiers(cfg: Config) -> None:
    import bench_leakage

    table = bench_leakage.measure(cfg, repeats=2)
    assert [name.split()[-1] for name in table.index] == ["image", "image", "group"]
    assert table.columns.tolist() == ["1-nearest neighbour", "logistic regression"]


def test_splitting_copies_by_image_pretends_a_result_that_splitting_by_group_does_not() -> None:
    import bench_leakage

    rng = np.random.default_rng(0)
    # two copies of each of 60 images without any trace of the class
    features = np.repeat(rng.normal(size=(60, 8)), 2, 0)
    y = np.repeat(rng.integers(0, 2, 60), 2)
    groups, nearest = np.repeat(np.arange(60), 2), KNeighborsClassifier(1)
    scores = bench_leakage.compare_protocols(features, y, groups, 4, 3, nearest)
    oversampled, by_image, by_group = scores.mean()
    assert len(scores) == 4 and oversampled > by_image - 0.1 > 0.65 > by_group


def test_table_and_chart_are_made_of_the_results_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import run
    from side_by_side import Question, summary

    questions = {
        "rate": Question("images/s", {"plain": 2, "timm": 1, "fastai": 1}),
        "memory": Question("MB", at_most=5),
    }
    rate = {"bonelib": 6.0, "plain": 2.0, "timm": 4.0}
    results = summary([{"rate": rate, "memory": {"bonelib": 9.0}}], questions)
    content = {"machine": {"cpu": "x", "cores": 2, "gpu": ""}, "results": results}
    write_json(tmp_path / "results" / "cpu" / "loading.json", content)
    monkeypatch.setattr(run, "HERE", tmp_path)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.markdown().split("\n")]
    assert [row[2:] for row in rows[2:6]] == [
        ["plain", "3 (3 to 3)", "≥ 2"],
        ["timm", "1.5 (1.5 to 1.5)", "≥ 1"],
        ["fastai", "not measured", "≥ 1"],
        ["", "NOT met", "≤ 5"],
    ]
    run.draw_chart(tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 0

"""An external test uses images that the models do not know, and leaves the run as it is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pandas as pd
import pytest

from bonelib import pipeline, scoring
from bonelib.data.cache import cached_images
from bonelib.data.catalog import usable
from bonelib.data.sample import make_sample
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import logits, softmax_mean
from bonelib.external import evaluate_external
from bonelib.split import label_indices
from bonelib.storage import read_json, write_json


@pytest.fixture(scope="module")
def outcome(trained, tmp_path_factory):
    """The run, its fold, what `external` gave, and the metrics before."""
    run, folder = (tmp_path_factory.mktemp(name) for name in ("runs", "external"))
    shutil.copytree(trained.root, run / "run")
    cfg = replace(trained, run=str(run / "run"))
    # as 03_train leaves the model
    meta = read_json(cfg.root / "model" / "config.json")
    for name in ("threshold", "class_shares", "gauge", "train_images", "fitted_on"):
        del meta[name]
    write_json(cfg.root / "model" / "config.json", meta)
    data, folds = pipeline.audited(cfg), list(pipeline.folds(cfg))
    models = [pipeline.trained_model(fold) for fold in folds]
    predictions = scoring.predict_folds(cfg, models, folds)
    baselines = scoring.baseline_predictions(cfg, data, folds)
    before = scoring.evaluate_run(cfg, data, models, folds, predictions, baselines)
    place = make_sample(folder / "other", seed=5, images=60)
    for split in ("train", "val", "test"):
        path = Path(folds[0].splits["path"][folds[0].rows(split)[0]])
        image = cv2.imread(str(Path(cfg.data) / path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(place / path.parent / f"{split}.png"), image[:, ::-1])
    cfg = replace(cfg, external=str(place))
    block = evaluate_external(cfg, data, folds, predictions)
    return cfg, folds[0], models, block, before


def test_copies_of_images_that_the_model_knows_are_set_aside(outcome):
    *_, block, _ = outcome
    assert sorted(Path(path).stem for path in block["copies"]) == ["train", "val"]
    text = block["findings"][0]
    assert text["level"] == "warning" and "2 images are copies" in text["text"]


def test_metrics_are_those_of_the_models_on_the_other_images(outcome):
    cfg, fold, models, block, before = outcome
    theirs = replace(cfg, data=cfg.external, run=cfg.run + "-theirs")
    table = pipeline.audited(theirs).table
    rows = table[usable(table) & ~table["path"].isin(block["copies"])]
    images, _ = cached_images(cfg.external, rows["path"].tolist(), cfg.image_size, cfg.cache)
    plain, names = softmax_mean(logits(models[0].net, images)), fold.class_names
    expected = compute_metrics(label_indices(rows["label"], names), plain, names)
    assert block["images"] == len(rows) > 50
    found = {name: block["test"][name]["value"] for name in ("accuracy", "auroc", "log_loss")}
    assert found == pytest.approx({name: expected[name] for name in found}, abs=0.02)
    change = block["external_minus_internal"]["auroc"]
    internal = before["test"]["plain"]["auroc"]["value"]
    assert change["value"] == pytest.approx(block["test"]["auroc"]["value"] - internal)
    assert change["low"] < change["value"] < change["high"]
    assert 0 <= block["rejected"] <= block["images"] and "ece" in block["calibration"]


def test_other_results_of_the_run_stay_and_the_block_is_written(outcome):
    cfg, *_, block, before = outcome
    written = read_json(cfg.root / "metrics.json")
    assert written.pop("external") == block
    assert written == before
    table = pd.read_csv(cfg.root / "predictions.csv")
    assert not table["path"].str.contains("train.png|val.png").any()


def test_external_set_of_copies_only_leaves_nothing_to_test_on(outcome, tmp_path):
    cfg, fold, models, _, _ = outcome
    for path in fold.splits["path"].iloc[fold.rows("train")]:
        target = tmp_path / "copies" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(cfg.data) / path, target)
    # the run's use of a given split is none of the external set
    cfg = replace(cfg, external=str(tmp_path / "copies"))
    data = pipeline.audited(cfg)
    predictions = scoring.predict_folds(cfg, models, [fold])
    block = evaluate_external(replace(cfg, given_split="use"), data, [fold], predictions)
    assert block["images"] == 0 and "test" not in block
    assert [finding["level"] for finding in block["findings"]] == ["warning", "alarm"]

"""Predictions are calibrated, averaged over folds, and withheld with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bonelib import pipeline
from bonelib.config import CLASSES
from bonelib.data.quality import fit_gauge
from bonelib.evaluation.calibration import apply_temperature, calibrate, undo_class_shares
from bonelib.evaluation.evaluate import fit_on_validation
from bonelib.evaluation.predict import logits, predict_splits, probability_columns, softmax_mean
from bonelib.messages import RunError
from bonelib.prediction.answers import (
    REFER,
    UNSURE,
    answer_images,
    combine_patients,
    load_models,
    models_digest,
)
from bonelib.training import device
from bonelib.training.model import model_folders
from tests.builders import calibrated_run

IMAGES = np.random.default_rng(0).integers(0, 255, (11, 48, 48), dtype=np.uint8)
ACCEPTED = [(image, "") for image in IMAGES]
COLUMNS = probability_columns(CLASSES)


def answers_with(run: Path, **facts: Any) -> pd.DataFrame:
    return answer_images(calibrated_run(run, **facts), ACCEPTED)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_probabilities_undo_the_class_shares_of_training_then_apply_the_temperature(
    tmp_path, count
):
    names = [f"Grade {number}" for number in range(count)]
    models = calibrated_run(tmp_path, names)
    drawn, held = models[0].meta["class_shares"]
    plain = softmax_mean(logits(models[0].net, IMAGES))
    expected = apply_temperature(undo_class_shares(plain, drawn, held), 2.0)
    table = answer_images(models, ACCEPTED, batch_size=4)
    assert list(table.columns) == [*probability_columns(names), "prediction", "reason"]
    assert np.allclose(table[probability_columns(names)], expected, atol=1e-6)
    assert table["prediction"].tolist() == [names[i] for i in expected.argmax(1)]
    assert (table["reason"] == "").all()


def test_run_predicts_its_test_images_as_the_evaluation_calibrates_them(trained):
    fold = next(pipeline.folds(trained))
    (model,) = load_models(trained.root)
    shares = fold.class_shares
    validation = predict_splits(model, fold, ["val"], ["plain"])
    learnt = fit_on_validation(validation, fold.class_names, shares, trained.target)
    assert {name: model.meta[name] for name in learnt} == pytest.approx(learnt)
    images = [(image, "") for image in fold.images[fold.rows("test")]]
    table = answer_images([model], images, precision=device.precision(trained, device.device()))
    stored = predict_splits(model, fold, ["test"], ["plain"])[COLUMNS]
    expected = calibrate(stored, learnt["temperature"], shares)
    assert np.allclose(table[COLUMNS], expected, atol=1e-3)


def test_images_below_the_threshold_are_referred_as_unsure(tmp_path):
    top = answers_with(tmp_path)[COLUMNS].max(axis=1)
    threshold = float(top.median())
    table = answers_with(tmp_path, threshold=threshold)
    referred = table["prediction"] == REFER
    assert referred.tolist() == (top < threshold).tolist() and referred.any() and not referred.all()
    assert table["reason"][referred].str.startswith(UNSURE).all()
    assert (table["reason"][~referred] == "").all()


def test_without_a_threshold_every_image_is_referred(tmp_path):
    table = answers_with(tmp_path, threshold=None)
    assert (table["prediction"] == REFER).all()
    assert table["reason"].str.startswith(UNSURE).all()


def test_unreadable_and_rejected_images_are_referred_and_the_others_predicted(tmp_path):
    models = calibrated_run(tmp_path)
    blank = np.full_like(IMAGES[0], 90)
    images = [(None, "unreadable: empty"), ACCEPTED[0], (IMAGES[1], "a colour photo"), (blank, "")]
    table = answer_images(models, images)
    assert (table["prediction"] == REFER).tolist() == [True, False, True, True]
    reasons = table["reason"].str.split(":").str[0].tolist()
    assert reasons == ["unreadable", "", "a colour photo", "blank"]
    assert table[COLUMNS].isna().all(axis=1).tolist() == [True, False, False, False]
    alone = answer_images(models, ACCEPTED[:1])
    assert np.allclose(table.loc[1, COLUMNS].astype(float), alone.loc[0, COLUMNS].astype(float))


def test_only_unreadable_images_give_a_table_too(tmp_path):
    table = answer_images(calibrated_run(tmp_path), [(None, "unreadable: empty")])
    assert table["prediction"].tolist() == [REFER] and table[COLUMNS].isna().all(axis=None)


def test_models_of_folds_are_averaged(tmp_path):
    (first,) = calibrated_run(tmp_path / "a")
    (second,) = calibrated_run(tmp_path / "b", seed=1, temperature=1.0)
    a, b, both = (
        answer_images(models, ACCEPTED)[COLUMNS].to_numpy()
        for models in ([first], [second], [first, second])
    )
    assert np.allclose((a + b) / 2, both) and not np.allclose(a, b)


def test_models_of_folds_reject_an_image_only_together(tmp_path):
    lines = np.stack([np.eye(48, dtype=np.uint8) * level for level in range(200, 220)])
    (rejecting,) = calibrated_run(tmp_path / "a", gauge=fit_gauge(lines))
    (accepting,) = calibrated_run(tmp_path / "b", seed=1)
    assert (answer_images([rejecting], ACCEPTED)["prediction"] == REFER).all()
    assert (answer_images([rejecting, accepting], ACCEPTED)["reason"] == "").all()


def test_models_of_all_folds_are_loaded_in_order(tmp_path):
    assert model_folders(tmp_path) == []
    folders = [tmp_path / f"repeat-0-fold-{number}" for number in (1, 0, 2)]
    alone = [calibrated_run(folder, seed=i)[0] for i, folder in enumerate(folders)]
    models = load_models(tmp_path)
    assert [model.folder.parent for model in models] == sorted(folders)
    digests = [models_digest([model]) for model in alone]
    assert len({*digests, models_digest(models), models_digest(models[:2])}) == 5


def test_model_without_calibration_is_rejected(tmp_path):
    calibrated_run(tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"threshold"', '"other"'))
    with pytest.raises(RunError, match="04_evaluate"):
        load_models(tmp_path)


def test_run_without_a_model_is_rejected(tmp_path):
    with pytest.raises(RunError, match="03_train"):
        load_models(tmp_path)


def test_patients_are_answered_by_the_mean_of_their_accepted_images(tmp_path):
    models = calibrated_run(tmp_path, threshold=0.6)
    rows = [
        # sure, then unsure of the same class: together sure enough
        ("a", [0.8, 0.1, 0.1], CLASSES[0], ""),
        ("a", [0.5, 0.3, 0.2], REFER, f"{UNSURE}: 0.500 is below"),
        ("b", [0.4, 0.3, 0.3], REFER, f"{UNSURE}: 0.400 is below"),
        ("c", [0.9, 0.1, 0.0], REFER, "not like the training images (distance 9)"),
        ("c", [None, None, None], REFER, "unreadable: empty"),
        ("", [0.9, 0.1, 0.0], CLASSES[0], ""),
    ]
    table = pd.DataFrame([p for _, p, _, _ in rows], columns=COLUMNS)
    table = table.assign(prediction=[row[2] for row in rows], reason=[row[3] for row in rows])
    found = combine_patients(table, pd.Series([row[0] for row in rows]), models)
    assert found["patient"].tolist() == ["a", "b", "c"]
    assert found["images"].tolist() == [2, 1, 2] and found["accepted"].tolist() == [2, 1, 0]
    assert found.loc[0, COLUMNS].tolist() == pytest.approx([0.65, 0.2, 0.15])
    assert found["prediction"].tolist() == [CLASSES[0], REFER, REFER]
    reasons = [reason.split(":")[0] for reason in found["reason"]]
    assert reasons == ["", UNSURE, "no image was accepted"]

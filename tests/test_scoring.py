"""Predictions, metrics and calibration of a run's models belong together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bonelib import pipeline, scoring
from bonelib.config import Config
from bonelib.messages import DataError
from bonelib.prediction.answers import load_models, models_digest
from bonelib.prediction.archive import answer_archive
from bonelib.split import label_indices
from bonelib.storage import read_json, write_json
from tests.builders import calibrated_run, dicom_file, finished_run, image_folder


@pytest.fixture(scope="module")
def evaluated(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An evaluated copy of the trained run: cfg, data, models, folds, predictions, metrics."""
    run = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(trained.root, run)
    cfg = replace(trained, run=str(run))
    made: dict[str, Any] = {"cfg": cfg, "data": pipeline.audited(cfg)}
    made["models"], made["folds"] = load_models(run), list(pipeline.folds(cfg))
    predictions = scoring.predict_folds(cfg, made["models"], made["folds"])
    return made | {"predictions": predictions, "metrics": evaluate(made, predictions)}


def evaluate(made: dict[str, Any], predictions: pd.DataFrame) -> dict[str, Any]:
    baselines = scoring.baseline_predictions(made["cfg"], made["data"], made["folds"])
    return scoring.evaluate_run(
        made["cfg"], made["data"], made["models"], made["folds"], predictions, baselines
    )


def test_predictions_and_metrics_are_kept_and_name_the_model(evaluated):
    run, predictions = evaluated["cfg"].root, evaluated["predictions"]
    pd.testing.assert_frame_equal(pd.read_csv(run / "predictions.csv"), predictions)
    assert set(predictions["split"]) == {"val", "test"} and "seed" not in predictions
    metrics = read_json(run / "metrics.json")
    assert metrics == evaluated["metrics"]
    assert metrics["model_digest"] == models_digest(evaluated["models"])
    test = (predictions["split"] == "test") & (predictions["tta"] == "plain")
    assert metrics["counts"]["images"] == test.sum()
    assert {"majority", "metadata", "intensity"} <= set(metrics["baselines"])


def test_model_gets_the_calibration_that_the_metrics_report(evaluated):
    meta, metrics = load_models(evaluated["cfg"].root)[0].meta, evaluated["metrics"]
    assert meta["temperature"] == metrics["calibration"]["plain"]["temperature"]
    assert meta["threshold"] == metrics["selective"]["plain"]["threshold"]
    assert meta["train_images"] == len(evaluated["folds"][0].rows("train"))
    assert np.allclose(np.sum(meta["class_shares"], axis=1), 1) and "gauge" in meta


def test_prediction_without_an_evaluation_is_calibrated_the_same(evaluated, trained):
    before, after = (load_models(cfg.root)[0].meta for cfg in (trained, evaluated["cfg"]))
    assert before == after


def test_model_that_reads_the_test_set_again_is_counted_once(evaluated):
    ledger = evaluated["cfg"].root.parent / "test_reads.json"
    before = ledger.read_bytes()
    assert evaluated["metrics"]["test_reads"] == 1
    assert evaluate(evaluated, evaluated["predictions"])["test_reads"] == 1
    assert ledger.read_bytes() == before


def test_run_that_is_split_by_group_has_no_leak(evaluated):
    assert scoring.find_leaks(evaluated["data"], evaluated["folds"]) == []


def test_mirrored_copy_that_the_audit_missed_is_a_leak(evaluated):
    data, (fold,) = evaluated["data"], evaluated["folds"]
    source, copy = (fold.splits["path"][fold.rows(name)[0]] for name in ("train", "test"))
    known = list(data.readable["path"])
    thumbnails, table = np.array(data.thumbnails), data.table.set_index("path")
    thumbnails[known.index(copy)] = thumbnails[known.index(source)][:, ::-1]
    # the thumbnail's black border follows from the size of its file
    sizes = ["width", "height"]
    table.loc[copy, sizes] = table.loc[source, sizes]
    spoilt = replace(data, thumbnails=thumbnails, table=table.reset_index())
    leaks = scoring.find_leaks(spoilt, [fold])
    assert leaks and {leak.level for leak in leaks} == {"alarm"}


def test_leaks_come_first_in_the_metrics(evaluated, monkeypatch):
    leak = scoring.Finding("alarm", "a leak")
    monkeypatch.setattr(scoring, "find_leaks", lambda data, folds: [leak])
    metrics = evaluate(evaluated, evaluated["predictions"])
    assert metrics["findings"][0] == {"level": "alarm", "text": "a leak"}
    monkeypatch.undo()
    evaluate(evaluated, evaluated["predictions"])


def test_calibrated_models_are_loaded_without_the_data(evaluated, monkeypatch):
    monkeypatch.setattr(scoring, "folds", None)
    models = scoring.calibrated_models(replace(evaluated["cfg"], data="/absent"))
    assert [model.folder for model in models] == [evaluated["cfg"].root / "model"]


def test_cross_validation_is_predicted_pooled_and_calibrated_as_one(trained, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("catalog.csv", "audit.json"):
        shutil.copy(trained.root / name, tmp_path / "run")
    cfg = replace(trained, run=str(tmp_path / "run"), folds=3, repeats=2, epochs=1)
    models = scoring.calibrated_models(cfg)
    assert len(models) == 6 and len({model.meta["temperature"] for model in models}) == 1
    folds = list(pipeline.folds(cfg))
    made = {"cfg": cfg, "data": pipeline.audited(cfg), "models": models, "folds": folds}
    predictions = scoring.predict_folds(cfg, models, folds)
    test = predictions[(predictions["split"] == "test") & (predictions["tta"] == "plain")]
    assert (test.groupby(["path", "seed"]).size() == 1).all()
    assert len(test) == 2 * len(folds[0].splits)
    metrics = evaluate(made, predictions)
    assert metrics["counts"]["images"] == len(folds[0].splits)
    accuracies = []
    for _, rows in test.groupby(["seed", "fold"]):
        predicted = rows.filter(like="p_").to_numpy().argmax(axis=1)
        accuracies.append((predicted == label_indices(rows["label"], folds[0].class_names)).mean())
    spread = metrics["spread"]["plain"]["accuracy"]
    assert len(accuracies) == 6 and spread["mean"] == pytest.approx(np.mean(accuracies))
    assert spread["over_folds"] >= 0 and spread["over_seeds"] is not None
    temperatures = {model.meta["temperature"] for model in scoring.calibrated_models(cfg)}
    assert temperatures == {metrics["calibration"]["plain"]["temperature"]}


def test_runs_are_compared_by_the_settings_that_differ(tmp_path):
    for name, given in {"a": {"epochs": 3, "lr": 0.1}, "b": {"epochs": 3, "seed": 1}}.items():
        finished_run(tmp_path / name)
        write_json(tmp_path / name / "config.json", given)
    (tmp_path / "not evaluated").mkdir()
    table = scoring.compare_runs(tmp_path)
    assert list(table.index) == ["a", "b"]
    assert set(table.columns) == {"lr", "seed", *scoring.COMPARED_RUNS}
    assert list(table["lr"]) == [0.1, "default"] and list(table["seed"]) == ["default", 1]
    accuracy = read_json(tmp_path / "a" / "metrics.json")["test"]["tta"]["accuracy"]["value"]
    assert table.loc["a", "accuracy"].startswith(f"{accuracy:.2f} (")


def test_results_of_a_model_that_was_trained_again_since_are_not_compared(tmp_path):
    for name in ("current", "retrained", "without its model"):
        finished_run(tmp_path / name)
    (tmp_path / "retrained" / "model" / "model.safetensors").write_bytes(b"more epochs")
    shutil.rmtree(tmp_path / "without its model" / "model")
    table = scoring.compare_runs(tmp_path)
    stale = (table == "not evaluated").all(axis=1)
    assert stale.to_dict() == {"current": False, "retrained": True, "without its model": False}


def test_model_that_was_trained_again_is_calibrated_again(evaluated, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(evaluated["cfg"].root, run)
    before = read_json(run / "model" / "config.json")
    kept = {name: value for name, value in before.items() if name != "threshold"}
    write_json(run / "model" / "config.json", kept | {"temperature": 1.0})
    (model,) = scoring.calibrated_models(replace(evaluated["cfg"], run=str(run)))
    assert model.meta == before


def test_runs_with_other_classes_are_marked(tmp_path):
    finished_run(tmp_path / "three")
    finished_run(tmp_path / "two", ("Normal", "Osteoporosis"))
    table = scoring.compare_runs(tmp_path)
    assert table.loc["two", "labels"] == "Normal, Osteoporosis"
    assert table.loc["three", "labels"] == "Normal, Osteopenia, Osteoporosis"


def test_one_run_is_shown_and_none_is_an_empty_table(tmp_path):
    assert len(scoring.compare_runs(tmp_path)) == 0
    finished_run(tmp_path / "a")
    assert list(scoring.compare_runs(tmp_path).columns) == list(scoring.COMPARED_RUNS)


def patient_images(folder):
    """Three images of two patients by their names, one of unknown, and DICOM with and without."""
    image_folder(folder, "7_left.png", "7_right.png", "8_left.png", "notes.png")
    for number, patient in enumerate(("someone", "ANONYMOUS", "ANONYMOUS")):
        (folder / f"{number}.dcm").write_bytes(dicom_file(PatientID=patient))
    return folder


@pytest.mark.parametrize(
    ("regex", "counts"), [(r"^(\d+)_", [1, 1, 2]), ("none", [1]), (r"^x(\d+)_", None)]
)
def test_patients_of_new_images_are_answered_beside_their_images(tmp_path, regex, counts):
    models = calibrated_run(tmp_path / "run")
    images = patient_images(tmp_path / "new")
    cfg = Config(
        run=str(tmp_path / "run"), images=str(images), cache=str(tmp_path), patient_regex=regex
    )
    path = answer_archive(cfg, models, *pipeline.new_images(cfg))
    if counts is None:
        with pytest.raises(DataError, match="patient_regex"):
            scoring.answer_patients(cfg, models, images, path)
        return
    found = scoring.answer_patients(cfg, models, images, path)
    assert sorted(found["images"]) == counts
    written = pd.read_csv(path.with_name("answers_by_patient.csv"))
    assert written["patient"].tolist() == found["patient"].tolist()
    assert not written["patient"].str.contains("someone").any()


def test_patients_of_the_test_set_are_those_of_the_data(evaluated):
    cfg, models = evaluated["cfg"], evaluated["models"]
    root, paths = pipeline.new_images(cfg)
    found = scoring.answer_patients(cfg, models, root, answer_archive(cfg, models, root, paths))
    known = evaluated["data"].table.set_index("path")["patient"][paths]
    assert found["patient"].tolist() == sorted(set(known)) and found["images"].sum() == len(paths)


def test_new_images_of_unknown_patients_have_no_table(tmp_path):
    models = calibrated_run(tmp_path / "run")
    images = image_folder(tmp_path / "new", "a.png", "b.png")
    cfg = Config(run=str(tmp_path / "run"), images=str(images), cache=str(tmp_path))
    path = answer_archive(cfg, models, *pipeline.new_images(cfg))
    assert scoring.answer_patients(cfg, models, images, path).empty
    assert not path.with_name("answers_by_patient.csv").exists()

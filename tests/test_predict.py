"""Views are averaged as probabilities, in the order of the rows; answers are calibrated, and withheld where they should be."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from bonelib import augment, calibrate, evaluation, inputs, model, predict, series, split
from bonelib.config import CLASSES, VIEWS, Config

PIXELS = np.random.default_rng(0).integers(0, 255, (11, 48, 48), dtype=np.uint8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    out = model.build(Config(backbone="test_efficientnet", pretrained=False))
    torch.nn.init.normal_(out.backbone.classifier.weight)
    return out.eval()


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_each_view_of_each_row_is_what_the_model_says_of_it_alone(net, batch_size):
    rows = np.array([3, 10, 0, 7, 1])
    out = predict.logits(net, PIXELS, rows, VIEWS, batch_size)
    assert out.shape == (len(VIEWS), 5, 3)
    for v, name in enumerate(VIEWS):
        for n, row in enumerate(rows):
            seen = augment.views(torch.from_numpy(PIXELS[row])[None, None], [name])[0]
            with torch.inference_mode():
                assert np.allclose(out[v, n], net(seen)[0].numpy(), atol=1e-4)


def test_probabilities_are_averaged_not_logits():
    logits = np.array([[[9.0, 0, 0]], [[0, 3.0, 0]]], np.float32)
    expected = (torch.tensor(logits[0]).softmax(1) + torch.tensor(logits[1]).softmax(1)) / 2
    assert np.allclose(predict.probabilities(logits), expected.numpy(), atol=1e-6)


def test_temperature_cools_and_large_logits_do_not_overflow():
    logits = np.array([[[2000.0, 0, -2000.0]]], np.float32)
    assert predict.probabilities(logits)[0].tolist() == [1, 0, 0]
    warm, hot = (predict.probabilities(np.array([[[2.0, 1, 0]]], np.float32), t)[0, 0] for t in (1, 4))
    assert 1 / 3 < hot < warm


def test_table_has_the_columns_of_the_contract():
    rows = pd.DataFrame({"path": ["a"], "label": [CLASSES[0]], "group": ["g"], "split": ["test"], "fold": 0}, index=[7])
    out = predict.table(rows, np.array([[0.2, 0.3, 0.5]]), "tta")
    assert list(out.columns) == ["path", "label", "group", "split", "tta", "p_normal", "p_osteopenia", "p_osteoporosis"]
    assert out.iloc[0].tolist() == ["a", "Normal", "g", "test", "tta", 0.2, 0.3, 0.5]


GAUGE = {}  # refuses blank pictures only
META = {"temperature": 2.0, "priors": [[1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]], "threshold": 0.0, "inputs": GAUGE}
SEEN = [(p, "") for p in PIXELS]


def test_answers_undo_the_priors_of_training_then_apply_the_temperature(net):
    plain = predict.probabilities(predict.logits(net, PIXELS, np.arange(len(PIXELS))))
    shifted = plain * (np.array(META["priors"][1]) / META["priors"][0])
    wanted = (shifted / shifted.sum(1, keepdims=True)) ** (1 / 2.0)
    out = predict.answers([(net, META)], SEEN)
    assert np.allclose(out[predict.PROBS], wanted / wanted.sum(1, keepdims=True))
    assert out["call"].tolist() == [CLASSES[c] for c in wanted.argmax(1)] and (out["reason"] == "").all()


def test_unsure_pictures_are_referred_with_the_reason(net):
    top = predict.answers([(net, META)], SEEN)[predict.PROBS].max(axis=1)
    threshold = float(top.median())
    out = predict.answers([(net, META | {"threshold": threshold})], SEEN)
    assert (out["call"] == "refer").tolist() == (top < threshold).tolist()
    assert out["reason"][out["call"] == "refer"].str.startswith("unsure: ").all()
    never = predict.answers([(net, META | {"threshold": None})], SEEN)
    assert (never["call"] == "refer").all() and never["reason"].str.contains("at no confidence").all()


def test_unreadable_and_refused_pictures_are_referred_and_the_others_answered(net):
    blank = np.full_like(PIXELS[0], 90)
    out = predict.answers(
        [(net, META)], [(None, "unreadable: empty"), SEEN[0], (PIXELS[1], "a colour photo"), (blank, "")]
    )
    assert [c == "refer" for c in out["call"]] == [True, False, True, True]
    assert out["reason"].str.split(":").str[0].tolist() == ["unreadable", "", "a colour photo", "blank"]
    assert out[predict.PROBS].isna().all(axis=1).tolist() == [True, False, False, False]
    nothing = predict.answers([(net, META)], [(None, "unreadable: empty")])
    assert nothing["call"].tolist() == ["refer"]


def test_models_of_folds_are_averaged_and_refuse_together_only(net):
    torch.manual_seed(1)
    other = model.build(Config(backbone="test_efficientnet", pretrained=False))
    torch.nn.init.normal_(other.backbone.classifier.weight)
    models = [(net, META), (other.eval(), META | {"temperature": 1.0})]
    one, two, both = (predict.answers(m, SEEN)[predict.PROBS] for m in ([models[0]], [models[1]], models))
    assert np.allclose((one + two) / 2, both)
    strange = inputs.fit(np.stack([np.eye(48, dtype=np.uint8) * level for level in range(200, 220)]))
    refusing = (net, META | {"inputs": strange})
    assert predict.answers([refusing], SEEN)["reason"].str.startswith("not like").all()
    assert (predict.answers([refusing, models[1]], SEEN)["reason"] == "").all()


def test_run_is_calibrated_for_prediction_as_the_evaluation_calibrates_it(trained):
    one, splits, pixels = next(series.trainings(trained))
    (net, meta), *rest = predict.load(trained.root)
    predictions = predict.held_out(net, splits, pixels, one)
    metrics = evaluation.evaluate(predictions, priors=split.priors(splits), target=trained.target, resamples=20)
    assert not rest and meta["temperature"] == pytest.approx(metrics["calibration"]["plain"]["temperature"])
    assert meta["threshold"] == pytest.approx(metrics["selective"]["plain"]["threshold"])
    rows = np.flatnonzero(splits["split"] == "test")
    out = predict.answers([(net, meta)], [(p, "") for p in pixels[rows]], kind=model.precision(one, model.device()))
    stored = predictions[(predictions["split"] == "test") & (predictions["tta"] == "plain")][predict.PROBS]
    wanted = calibrate.calibrated(stored, meta["temperature"], split.priors(splits))
    assert np.allclose(out[predict.PROBS], wanted, atol=1e-3)


def test_models_of_all_folds_are_loaded_and_an_uncalibrated_one_is_refused(trained, tmp_path):
    cfg = dataclasses.replace(trained, run=str(tmp_path), folds=3, epochs=1)
    models = series.calibrated(cfg)
    assert len(models) == 3 and len({meta["threshold"] for _, meta in models}) == 1
    first = predict.folders(tmp_path)[0]
    config = (first / "config.json").read_text()
    (first / "config.json").write_text(config.replace('"threshold"', '"other"'))
    with pytest.raises(ValueError, match="04_evaluate"):
        predict.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="03_train"):
        predict.load(tmp_path / "none")

"""Views are averaged as probabilities, in the order of the rows, then calibrated."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bonelib import augment
from bonelib.config import CLASSES, VIEWS, Config
from bonelib.evaluation import predict
from bonelib.evaluation.calibration import calibrate
from bonelib.messages import DataError
from bonelib.training.model import TrainedModel, build
from tests.builders import fold_of, predictions_table

IMAGES = np.random.default_rng(0).integers(0, 255, (11, 48, 48), dtype=np.uint8)


def model(class_count=3):
    torch.manual_seed(0)
    net = build(Config(backbone="test_efficientnet", pretrained=False), class_count)
    torch.nn.init.normal_(net.backbone.classifier.weight)
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return model()


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_logits_of_each_view_of_each_row_are_those_of_it_alone(net, batch_size):
    rows = np.array([3, 10, 0, 7, 1])
    out = predict.logits(net, IMAGES, rows, VIEWS, batch_size)
    assert (out.shape, out.dtype) == ((len(VIEWS), 5, 3), np.float32)
    for v, name in enumerate(VIEWS):
        for n, row in enumerate(rows):
            viewed = augment.views(torch.from_numpy(IMAGES[row])[None, None], [name])[0]
            with torch.inference_mode():
                assert np.allclose(out[v, n], net(viewed)[0].numpy(), atol=1e-4)


def test_without_rows_all_images_are_predicted_with_dropout_off():
    net = model(class_count=5).train()
    out = predict.logits(net, IMAGES)
    assert out.shape == (1, 11, 5)
    assert np.array_equal(out, predict.logits(net, IMAGES, np.arange(11)))


def test_probabilities_are_averaged_not_logits():
    logits = np.array([[[9.0, 0, 0]], [[0, 3.0, 0]]], np.float32)
    expected = torch.tensor(logits).softmax(2).mean(0)
    assert np.allclose(predict.softmax_mean(logits), expected.numpy(), atol=1e-6)


def test_large_logits_do_not_overflow():
    assert predict.softmax_mean(np.array([[[2000.0, 0, -2000.0]]]))[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis")])
def test_predictions_csv_has_the_rows_of_the_splits_plain_and_tta(names):
    y = np.arange(11) % len(names)
    fold = fold_of(IMAGES, y, names, tta=VIEWS[:4], batch_size=2, precision="no")
    fold.splits.loc[[1, 4], "split"] = "val"
    trained = TrainedModel(model(len(names)), {"class_names": names}, Path("unused"))
    table = predict.predict_splits(trained, fold)
    columns = ["path", "label", "group", "split", "tta", *predict.probability_columns(names)]
    assert list(table.columns) == columns
    rows = fold.rows("val", "test")
    expected = fold.splits.iloc[rows]
    for kind, views in (("plain", ["identity"]), ("tta", VIEWS[:4])):
        part = table[table["tta"] == kind].reset_index(drop=True)
        known = ["path", "label", "group", "split"]
        assert part[known].equals(expected[known].reset_index(drop=True))
        wanted = predict.softmax_mean(predict.logits(trained.net, IMAGES, rows, views))
        assert np.allclose(part[columns[5:]], wanted, atol=1e-5)
    val = predict.predict_splits(trained, fold, ["val"], ["plain"])
    assert len(val) == 2 and set(val["tta"]) == {"plain"}


def test_calibration_of_a_model_undoes_class_shares_then_applies_the_temperature():
    shares = [[1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]]
    logits = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    found = predict.calibrated_probabilities(logits, {"temperature": 2.0, "class_shares": shares})
    assert np.allclose(found, calibrate(predict.softmax_mean(logits), 2.0, tuple(shares)))


def test_rows_are_selected_in_the_order_of_path_and_seed_and_are_never_twice():
    table = predictions_table()
    shuffled = table.sample(frac=1, random_state=0)
    rows = predict.select_rows(shuffled, "tta", "val")
    assert rows["path"].is_monotonic_increasing and set(rows["split"]) == {"val"}
    assert rows.equals(predict.select_rows(table, "tta", "val"))
    with pytest.raises(DataError, match=rows["path"].iloc[2]):
        predict.select_rows(pd.concat([table, rows.iloc[[2]]]), "tta", "val")
    seeds = pd.concat([table.assign(seed=seed) for seed in (1, 0)])
    assert predict.select_rows(seeds, "tta", "val")["seed"].tolist()[:4] == [0, 1, 0, 1]


def test_arrays_of_rows_follow_the_order_of_the_classes():
    table = predictions_table()
    rows = predict.select_rows(table, "plain", "test")
    y, probabilities, groups = predict.to_arrays(rows, CLASSES)
    assert [CLASSES[c] for c in y] == rows["label"].tolist()
    assert np.array_equal(probabilities[:, 2], rows["p_osteoporosis"])
    assert groups.tolist() == rows["group"].tolist()

"""Views are averaged as probabilities, in the order of the rows."""

import numpy as np
import pandas as pd
import pytest
import torch

from bonelib import augment, model, predict
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
